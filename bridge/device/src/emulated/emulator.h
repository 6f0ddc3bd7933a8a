// CUDA's execution model for g++: what stands before kernels.cu when it is compiled for the processor.
//
// The threads of a block are fibres of one thread of the processor. A fibre runs until it waits, at __syncthreads or in a
// function of its warp, or ends; which one runs next is the launch's order, so that a result that depends on it differs between
// orders. Blocks run one after the other, in that order too. Shared memory is filled with NaN before every block and has a guard
// behind its end. Waiting at different lines, or for a thread that has ended, is reported.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define __global__
#define __device__
#define __shared__

namespace emulator {

struct Index {
    unsigned x, y, z;
};

constexpr int THREADS = 1024, WARP = 32;
constexpr int STACK = 1 << 16;
// A signalling NaN: arithmetic changes its bits.
constexpr unsigned POISON = 0x7fa1deadu;
constexpr int SHARED_WORDS = 12288, GUARD_WORDS = 1024;

enum State { READY, AT_BARRIER, AT_WARP, ENDED };

struct Fibre {
    void *stack_pointer;
    State state;
    int line;
};

struct Warp {
    int arrived, live, line;
    unsigned generation;
    unsigned long long slots[2][WARP];
    unsigned lanes[2];
};

static Fibre fibres[THREADS];
static Warp warp_states[THREADS / WARP];
static unsigned ready[THREADS / WARP];
static char *stacks;
static void *scheduler;
static int running, thread_count;
static void (*entry)(void **);
static void **entry_arguments;
static int order;
static unsigned long long random_state;
static char *report;
static int failed;

static void fail(const char *what, int a, int b) {
    if (!failed) snprintf(report, 256, what, a, b);
    failed = 1;
}

static unsigned random_below(unsigned bound) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)((random_state >> 32) * bound >> 32);
}

} // namespace emulator

static emulator::Index threadIdx, blockIdx, blockDim, gridDim;
alignas(16) float shared[emulator::SHARED_WORDS + emulator::GUARD_WORDS];

namespace emulator {

static void body();

#if defined(__x86_64__) && !defined(RTO_UCONTEXT)
// Saves what a call preserves on the own stack, leaves its address in `from`, and goes on from the stack `to`.
extern "C" void rto_switch(void **from, void *to);
asm(R"(
.text
.type rto_switch, @function
rto_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size rto_switch, .-rto_switch
)");

static void prepare(int i) {
    // Six registers, the address that rto_switch returns to, and a word that keeps the stack aligned as after a call.
    void **top = (void **)(stacks + (size_t)(i + 1) * STACK) - 8;
    memset(top, 0, 8 * sizeof(void *));
    top[6] = (void *)body;
    fibres[i].stack_pointer = top;
}

static void resume(int i) { rto_switch(&scheduler, fibres[i].stack_pointer); }
static void wait() { rto_switch(&fibres[running].stack_pointer, scheduler); }
#else
} // namespace emulator
#include <ucontext.h>
namespace emulator {
static ucontext_t contexts[THREADS], scheduler_context;

static void prepare(int i) {
    getcontext(&contexts[i]);
    contexts[i].uc_stack.ss_sp = stacks + (size_t)i * STACK;
    contexts[i].uc_stack.ss_size = STACK;
    contexts[i].uc_link = &scheduler_context;
    makecontext(&contexts[i], body, 0);
}

static void resume(int i) { swapcontext(&scheduler_context, &contexts[i]); }
static void wait() { swapcontext(&contexts[running], &scheduler_context); }
#endif

static void body() {
    entry(entry_arguments);
    fibres[running].state = ENDED;
    wait();
    abort();
}

static void make_ready(int i) {
    fibres[i].state = READY;
    ready[i / WARP] |= 1u << (i % WARP);
}

// The next fibre: the first that can run (order 0), the last (1), or any (2); -1 where none can.
static int next() {
    int words = (thread_count + WARP - 1) / WARP;
    if (order == 0) {
        for (int w = 0; w < words; w++)
            if (ready[w]) return w * WARP + __builtin_ctz(ready[w]);
        return -1;
    }
    if (order == 1) {
        for (int w = words - 1; w >= 0; w--)
            if (ready[w]) return w * WARP + 31 - __builtin_clz(ready[w]);
        return -1;
    }
    unsigned start = random_below(words), turn = random_below(WARP);
    for (int k = 0; k < words; k++) {
        int w = (start + k) % words;
        if (!ready[w]) continue;
        unsigned turned = turn ? ready[w] >> turn | ready[w] << (WARP - turn) : ready[w];
        return w * WARP + (__builtin_ctz(turned) + turn) % WARP;
    }
    return -1;
}

static int thread_count_of(int warp) {
    int left = thread_count - warp * WARP;
    return left < WARP ? left : WARP;
}

// Nothing can run: either every thread waits at one barrier, or the kernel is wrong.
static int release() {
    int ended = 0, waiting = 0, line = 0;
    for (int i = 0; i < thread_count; i++) {
        if (fibres[i].state == ENDED) ended++;
        if (fibres[i].state == AT_WARP) {
            fail("line %d: a function of the whole warp, which thread %d's warp does not reach together", fibres[i].line, i);
            return 0;
        }
        if (fibres[i].state != AT_BARRIER) continue;
        if (waiting++ == 0) line = fibres[i].line;
        else if (fibres[i].line != line) {
            fail("threads of a block wait at different barriers, lines %d and %d", line, fibres[i].line);
            return 0;
        }
    }
    if (waiting == 0) return 0;
    if (ended > 0) {
        fail("line %d: a barrier that %d threads of the block have passed by and ended", line, ended);
        return 0;
    }
    for (int i = 0; i < thread_count; i++) make_ready(i);
    return 1;
}

static void run_block(int shared_bytes) {
    int words = (shared_bytes + 3) / 4;
    for (int i = 0; i < words + GUARD_WORDS; i++) memcpy(&shared[i], &POISON, 4);
    for (int w = 0; w < (thread_count + WARP - 1) / WARP; w++) {
        warp_states[w].arrived = 0;
        warp_states[w].generation = 0;
    }
    for (int i = 0; i < thread_count; i++) {
        prepare(i);
        make_ready(i);
    }
    do {
        int i;
        while ((i = next()) >= 0) {
            ready[i / WARP] &= ~(1u << (i % WARP));
            running = i;
            threadIdx.x = i;
            resume(i);
        }
    } while (release());
    for (int i = words; i < words + GUARD_WORDS; i++)
        if (memcmp(&shared[i], &POISON, 4) != 0) fail("shared memory was written at word %d, %d words were asked for", i, words);
}

static void barrier(int line) {
    fibres[running].state = AT_BARRIER;
    fibres[running].line = line;
    wait();
}

// Leaves a value for the other lanes and waits for theirs; returns the slots, which stand until the warp has met once more.
static const unsigned long long *meet(unsigned mask, unsigned long long value, int line, unsigned *lanes) {
    int me = running;
    Warp &w = warp_states[me / WARP];
    unsigned turn = w.generation & 1;
    if (mask != 0xffffffffu) fail("line %d: the mask %x of a warp is not whole", line, (int)mask);
    if (w.arrived == 0) {
        w.line = line;
        w.lanes[turn] = 0;
        // A lane that brings nothing is read as poison.
        for (int lane = 0; lane < WARP; lane++) w.slots[turn][lane] = POISON * 0x100000001ull;
    } else if (w.line != line) {
        fail("lanes of a warp meet at different lines, %d and %d", w.line, line);
    }
    w.slots[turn][me % WARP] = value;
    w.lanes[turn] |= 1u << (me % WARP);
    if (++w.arrived == thread_count_of(me / WARP)) {
        w.arrived = 0;
        w.generation++;
        for (int i = me / WARP * WARP; i < me / WARP * WARP + thread_count_of(me / WARP); i++)
            if (i != me) make_ready(i);
    } else {
        fibres[me].state = AT_WARP;
        fibres[me].line = line;
        wait();
    }
    if (lanes) *lanes = w.lanes[turn];
    return w.slots[turn];
}

template <typename T> T exchange(unsigned mask, T value, int from, int line) {
    static_assert(sizeof(T) <= 8, "eight bytes a lane");
    unsigned long long raw = 0;
    memcpy(&raw, &value, sizeof(T));
    raw = meet(mask, raw, line, nullptr)[from];
    memcpy(&value, &raw, sizeof(T));
    return value;
}

static unsigned ballot(unsigned mask, bool vote, int line) {
    const unsigned long long *slots = meet(mask, vote, line, nullptr);
    unsigned out = 0;
    for (int lane = 0; lane < WARP; lane++) out |= (unsigned)(slots[lane] & 1) << lane;
    return out;
}

static int lane() { return threadIdx.x % WARP; }

} // namespace emulator

#define __syncthreads() emulator::barrier(__LINE__)
#define __syncwarp() emulator::meet(0xffffffffu, 0, __LINE__, nullptr)
#define __shfl_sync(mask, value, from) emulator::exchange(mask, value, (from) % 32, __LINE__)
#define __shfl_xor_sync(mask, value, bits) emulator::exchange(mask, value, emulator::lane() ^ (bits), __LINE__)
#define __shfl_up_sync(mask, value, by) emulator::exchange(mask, value, emulator::lane() < (int)(by) ? emulator::lane() : emulator::lane() - (int)(by), __LINE__)
#define __shfl_down_sync(mask, value, by) emulator::exchange(mask, value, emulator::lane() + (int)(by) > 31 ? emulator::lane() : emulator::lane() + (int)(by), __LINE__)
#define __ballot_sync(mask, vote) emulator::ballot(mask, vote, __LINE__)

static inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(unsigned x) { return x ? __builtin_clz(x) : 32; }
static inline int __ffs(unsigned x) { return x ? __builtin_ctz(x) + 1 : 0; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }

// Runs every block of a launch. Returns 0, or 1 with the reason in `report` (256 bytes).
extern "C" int rto_launch(void (*thunk)(void **), void **arguments, const unsigned *grid, unsigned threads, unsigned shared_bytes, int thread_order,
                          unsigned long long seed, char *report) {
    using namespace emulator;
    emulator::report = report;
    failed = 0;
    entry = thunk;
    entry_arguments = arguments;
    order = thread_order;
    random_state = seed * 0x9E3779B97F4A7C15ull + 0x2545F4914F6CDD1Dull;
    if (!stacks) stacks = (char *)malloc((size_t)THREADS * STACK);
    if (!stacks) {
        fail("no memory for %d stacks of %d bytes", THREADS, STACK);
        return 1;
    }
    thread_count = threads;
    blockDim = {threads, 1, 1};
    gridDim = {grid[0], grid[1], 1};
    unsigned long long blocks = (unsigned long long)grid[0] * grid[1];
    unsigned long long start = order == 2 && blocks > 1 ? random_below((unsigned)blocks) : 0;
    // A step without a common divisor with the number of blocks visits each once.
    unsigned long long stride = 1;
    if (order == 2)
        for (stride = blocks / 3 + 1;; stride++) {
            unsigned long long a = stride, b = blocks;
            while (b) {
                unsigned long long rest = a % b;
                a = b;
                b = rest;
            }
            if (a == 1) break;
        }
    for (unsigned long long k = 0; k < blocks && !failed; k++) {
        unsigned long long block = order == 0 ? k : order == 1 ? blocks - 1 - k : (start + k * stride) % blocks;
        blockIdx = {(unsigned)(block % grid[0]), (unsigned)(block / grid[0]), 0};
        run_block(shared_bytes);
    }
    return failed;
}
