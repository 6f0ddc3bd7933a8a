// The kernels of training and generation on a device.
//
// Plain CUDA C++ without a header, so that NVRTC and, through emulator.h, g++ take the same text. It is compiled once for
// each type of weights and activations: `real` is float, or, with RTO_BF16, bfloat16 kept as its bits. Arithmetic is in float
// either way; a value is rounded where it is stored, to the nearest, ties to even.
//
// Every sum runs in an order that the shapes alone fix, and there are no atomics: two runs give the same bits. Products and
// additions are fused where fmaf says so and nowhere else (NVRTC: --fmad=false). A block has a multiple of 32 threads, at most
// 1,024. Matrices are row-major. A parameter that may be absent is a null pointer.
//
// Texts are packed: the rows of all texts one after the other, text i from starts[i] to starts[i + 1]. Attention works on
// padded copies, [text, head, time, head_dim], with zeros behind a text's end.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long wide;

#define KERNEL extern "C" __global__ void
#define ALL 0xffffffffu
#define INF __uint_as_float(0x7f800000u)

#ifdef RTO_BF16
typedef u16 real;
#else
typedef float real;
#endif

// The shared memory of a block; its size is the launch's.
extern __shared__ float shared[];

// ---- Numbers

__device__ inline float from_bf16(u16 x) { return __uint_as_float((u32)x << 16); }

__device__ inline u16 to_bf16(float x) {
    u32 bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (u16)((bits >> 16) | 0x40u);
    return (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#ifdef RTO_BF16
__device__ inline float get(real x) { return from_bf16(x); }
__device__ inline real put(float x) { return to_bf16(x); }
#else
__device__ inline float get(real x) { return x; }
__device__ inline real put(float x) { return x; }
#endif

// eˣ by multiplications and additions alone, the same bits everywhere: what draws are made of. As the bridge's sampler.
__device__ inline float portable_exp(float x) {
    float clamped = x < -87.0f ? -87.0f : x;
    clamped = clamped > 88.0f ? 88.0f : clamped;
    float shifted = clamped * 1.44269504f + 12582912.0f;
    float k = shifted - 12582912.0f;
    float r = (clamped - k * (355.0f / 512.0f)) - k * -2.1219444e-4f;
    float high = 0.041666213f + r * (0.008375353f + r * 0.0013948901f);
    float p = 1.0f + (r + r * r * (0.5f + r * (0.16666413f + r * high)));
    float scale = __uint_as_float((__float_as_uint(shifted) + 127u) << 23);
    return x < -87.0f ? 0.0f : p * scale;
}

// ---- Sums and maxima of a block, the same for every thread; `scratch` holds one value a warp, and may be used again at once

__device__ inline int lane_of() { return threadIdx.x & 31; }
__device__ inline int warp_of() { return threadIdx.x >> 5; }
__device__ inline int warps() { return blockDim.x >> 5; }

template <typename T> __device__ inline T warp_sum(T x) {
    for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(ALL, x, step);
    return x;
}

template <typename T> __device__ inline T block_sum(T x, T *scratch) {
    x = warp_sum(x);
    __syncthreads();
    if (lane_of() == 0) scratch[warp_of()] = x;
    __syncthreads();
    T total = 0;
    for (int w = 0; w < warps(); w++) total += scratch[w];
    return total;
}

__device__ inline float block_max(float x, float *scratch) {
    for (int step = 16; step > 0; step >>= 1) x = fmaxf(x, __shfl_xor_sync(ALL, x, step));
    __syncthreads();
    if (lane_of() == 0) scratch[warp_of()] = x;
    __syncthreads();
    float top = scratch[0];
    for (int w = 1; w < warps(); w++) top = fmaxf(top, scratch[w]);
    return top;
}

// ---- Elements

// y += x
KERNEL add(real *y, const real *x, wide count) {
    wide i = (wide)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = put(get(y[i]) + get(x[i]));
}

// y += bias, on every row; rows are `stride` apart.
KERNEL add_bias(real *y, const real *bias, wide count, int width, int stride) {
    wide i = (wide)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    wide at = i / width * stride + i % width;
    y[at] = put(get(y[at]) + get(bias[i % width]));
}

// y = x in the type of weights
KERNEL narrow(const float *x, real *y, wide count) {
    wide i = (wide)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = put(x[i]);
}

// x = 0
KERNEL clear(float *x, wide count) {
    wide i = (wide)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) x[i] = 0.0f;
}

// x = cap tanh(x / cap)
KERNEL cap_all(float *x, wide count, float cap) {
    wide i = (wide)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) x[i] = cap * tanhf(x[i] / cap);
}

// to [rows, width] = the rows of from that the index names; zeros where it is 4294967295. One row a block.
KERNEL gather_rows(const real *from, const u32 *index, real *to, int width) {
    u32 row = index[blockIdx.x];
    to += (wide)blockIdx.x * width;
    for (int j = threadIdx.x; j < width; j += blockDim.x) to[j] = row == 0xffffffffu ? put(0.0f) : from[(wide)row * width + j];
}

// Copies `heads` pieces of head_dim elements of every row; rows and pieces have their distances in either place.
KERNEL regroup(const real *from, real *to, wide count, int heads, int head_dim, int from_row, int from_step, int to_row, int to_step) {
    wide i = (wide)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    int d = i % head_dim, head = i / head_dim % heads;
    wide row = i / head_dim / heads;
    to[row * to_row + head * to_step + d] = from[row * from_row + head * from_step + d];
}

// ---- Norms over the last dimension: one row a block

// y = (x - mean) / sqrt(variance + epsilon) * gain + bias; stats [rows, 2] keeps the mean and the reciprocal of the root.
KERNEL layer_norm(const real *x, const real *gain, const real *bias, real *y, float *stats, int width, float epsilon) {
    wide row = blockIdx.x;
    x += row * width;
    y += row * width;
    float sum = 0.0f;
    for (int j = threadIdx.x; j < width; j += blockDim.x) sum += get(x[j]);
    float mean = block_sum(sum, shared) / width;
    float square = 0.0f;
    for (int j = threadIdx.x; j < width; j += blockDim.x) {
        float d = get(x[j]) - mean;
        square += d * d;
    }
    float scale = 1.0f / sqrtf(block_sum(square, shared) / width + epsilon);
    for (int j = threadIdx.x; j < width; j += blockDim.x)
        y[j] = put(fmaf((get(x[j]) - mean) * scale, get(gain[j]), get(bias[j])));
    if (threadIdx.x == 0) {
        stats[2 * row] = mean;
        stats[2 * row + 1] = scale;
    }
}

// dx = r (g - mean(g) - x̂ mean(g x̂)) with g = dy * gain and x̂ = (x - mean) r, added to dx where `more` is not 0.
KERNEL layer_norm_backward(const real *x, const float *stats, const real *gain, const real *dy, real *dx, int width, int more) {
    wide row = blockIdx.x;
    x += row * width;
    dy += row * width;
    dx += row * width;
    float mean = stats[2 * row], scale = stats[2 * row + 1];
    float g_sum = 0.0f, gx_sum = 0.0f;
    for (int j = threadIdx.x; j < width; j += blockDim.x) {
        float g = get(dy[j]) * get(gain[j]);
        g_sum += g;
        gx_sum += g * ((get(x[j]) - mean) * scale);
    }
    float g_mean = block_sum(g_sum, shared) / width;
    float gx_mean = block_sum(gx_sum, shared) / width;
    for (int j = threadIdx.x; j < width; j += blockDim.x) {
        float unit = (get(x[j]) - mean) * scale;
        float d = scale * (get(dy[j]) * get(gain[j]) - g_mean - unit * gx_mean);
        dx[j] = put(more ? get(dx[j]) + d : d);
    }
}

// y = x r (offset + gain) with r = 1 / sqrt(mean(x²) + epsilon), which stats [rows] keeps. Gemma's offset is 1.
KERNEL rms_norm(const real *x, const real *gain, real *y, float *stats, int width, float epsilon, float offset) {
    wide row = blockIdx.x;
    x += row * width;
    y += row * width;
    float square = 0.0f;
    for (int j = threadIdx.x; j < width; j += blockDim.x) square += get(x[j]) * get(x[j]);
    float scale = 1.0f / sqrtf(block_sum(square, shared) / width + epsilon);
    for (int j = threadIdx.x; j < width; j += blockDim.x) y[j] = put(get(x[j]) * scale * (offset + get(gain[j])));
    if (threadIdx.x == 0) stats[row] = scale;
}

// dx = r (g - x̂ mean(g x̂)) with g = dy (offset + gain) and x̂ = x r, added to dx where `more` is not 0.
KERNEL rms_norm_backward(const real *x, const float *stats, const real *gain, const real *dy, real *dx, int width, float offset, int more) {
    wide row = blockIdx.x;
    x += row * width;
    dy += row * width;
    dx += row * width;
    float scale = stats[row], sum = 0.0f;
    for (int j = threadIdx.x; j < width; j += blockDim.x)
        sum += get(dy[j]) * (offset + get(gain[j])) * (get(x[j]) * scale);
    float mean = block_sum(sum, shared) / width;
    for (int j = threadIdx.x; j < width; j += blockDim.x) {
        float d = scale * (get(dy[j]) * (offset + get(gain[j])) - get(x[j]) * scale * mean);
        dx[j] = put(more ? get(dx[j]) + d : d);
    }
}

// The sums of dy x̂ over `chunk` rows, a column a thread: gains [chunks, width]. Statistics are pairs (layer norm) where
// `centred` is not 0, else one number a row (RMS).
KERNEL norm_gain_partial(const real *x, const float *stats, const real *dy, float *gains, int rows, int width, int chunk, int centred) {
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= width) return;
    int from = blockIdx.y * chunk, to = min(from + chunk, rows);
    float sum = 0.0f;
    for (int i = from; i < to; i++) {
        float unit = centred ? (get(x[(wide)i * width + j]) - stats[2 * i]) * stats[2 * i + 1] : get(x[(wide)i * width + j]) * stats[i];
        sum += get(dy[(wide)i * width + j]) * unit;
    }
    gains[(wide)blockIdx.y * width + j] = sum;
}

// The sums of dy over `chunk` rows, which are `stride` apart: sums [chunks, width].
KERNEL column_sums_partial(const real *dy, float *sums, int rows, int width, int chunk, int stride) {
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= width) return;
    int from = blockIdx.y * chunk, to = min(from + chunk, rows);
    float sum = 0.0f;
    for (int i = from; i < to; i++) sum += get(dy[(wide)i * stride + j]);
    sums[(wide)blockIdx.y * width + j] = sum;
}

// total += the sums of all chunks, in their order.
KERNEL column_sums_finish(const float *sums, float *total, int chunks, int width) {
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= width) return;
    float sum = 0.0f;
    for (int c = 0; c < chunks; c++) sum += sums[(wide)c * width + j];
    total[j] += sum;
}

// ---- Heads: rotation, padding and packing

// Element d of a head after a turn by sign times its angles. Of `dims` turned dimensions, d and d + dims/2 are a pair, or, where
// `neighbours` is not 0, 2i and 2i + 1. The rows of cosines and sines are those of the position, dims/2 wide.
__device__ inline float turned(const real *head, int d, int dims, int neighbours, const float *cosine, const float *sine, float sign) {
    if (d >= dims) return get(head[d]);
    int half = dims / 2;
    int pair = neighbours ? d / 2 : d % half;
    int first = neighbours ? 2 * pair : pair;
    int second = neighbours ? first + 1 : pair + half;
    float c = cosine[pair], s = sign * sine[pair];
    float a = get(head[first]), b = get(head[second]);
    return d == first ? a * c - b * s : b * c + a * s;
}

// Rows qkv [tokens, row] to rotated q [text, heads, time, head_dim], rotated k and plain v [text, kv_heads, time, head_dim].
// Head h's query (key, value) begins at query_at (…) + h step. One block a time and text.
KERNEL heads_split(const real *qkv, const float *cosines, const float *sines, const u32 *starts, real *q, real *k, real *v, int time,
                   int row, int head_dim, int heads, int kv_heads, int step, int query_at, int key_at, int value_at, int dims, int neighbours) {
    int t = blockIdx.x, text = blockIdx.y;
    int inside = t < (int)(starts[text + 1] - starts[text]);
    const real *token = qkv + (wide)(starts[text] + t) * row;
    const float *cosine = cosines + (wide)t * (dims / 2), *sine = sines + (wide)t * (dims / 2);
    for (int i = threadIdx.x; i < (heads + 2 * kv_heads) * head_dim; i += blockDim.x) {
        int head = i / head_dim, d = i % head_dim;
        if (head < heads) {
            wide to = (((wide)text * heads + head) * time + t) * head_dim + d;
            q[to] = put(inside ? turned(token + query_at + head * step, d, dims, neighbours, cosine, sine, 1.0f) : 0.0f);
        } else if (head < heads + kv_heads) {
            head -= heads;
            wide to = (((wide)text * kv_heads + head) * time + t) * head_dim + d;
            k[to] = put(inside ? turned(token + key_at + head * step, d, dims, neighbours, cosine, sine, 1.0f) : 0.0f);
        } else {
            head -= heads + kv_heads;
            wide to = (((wide)text * kv_heads + head) * time + t) * head_dim + d;
            v[to] = inside ? token[value_at + head * step + d] : put(0.0f);
        }
    }
}

// The transpose of heads_split: dqkv [tokens, row] from dq, dk and dv, turned back. One block a time and text.
KERNEL heads_split_backward(const real *dq, const real *dk, const real *dv, const float *cosines, const float *sines, const u32 *starts, real *dqkv,
                            int time, int row, int head_dim, int heads, int kv_heads, int step, int query_at, int key_at, int value_at, int dims,
                            int neighbours) {
    int t = blockIdx.x, text = blockIdx.y;
    if (t >= (int)(starts[text + 1] - starts[text])) return;
    real *token = dqkv + (wide)(starts[text] + t) * row;
    const float *cosine = cosines + (wide)t * (dims / 2), *sine = sines + (wide)t * (dims / 2);
    for (int i = threadIdx.x; i < (heads + 2 * kv_heads) * head_dim; i += blockDim.x) {
        int head = i / head_dim, d = i % head_dim;
        if (head < heads) {
            const real *from = dq + (((wide)text * heads + head) * time + t) * head_dim;
            token[query_at + head * step + d] = put(turned(from, d, dims, neighbours, cosine, sine, -1.0f));
        } else if (head < heads + kv_heads) {
            head -= heads;
            const real *from = dk + (((wide)text * kv_heads + head) * time + t) * head_dim;
            token[key_at + head * step + d] = put(turned(from, d, dims, neighbours, cosine, sine, -1.0f));
        } else {
            head -= heads + kv_heads;
            token[value_at + head * step + d] = dv[(((wide)text * kv_heads + head) * time + t) * head_dim + d];
        }
    }
}

// Padded [text, heads, time, head_dim] to rows [tokens, heads head_dim].
KERNEL heads_pack(const real *padded, const u32 *starts, real *rows, int time, int head_dim, int heads) {
    int t = blockIdx.x, text = blockIdx.y;
    if (t >= (int)(starts[text + 1] - starts[text])) return;
    real *token = rows + (wide)(starts[text] + t) * heads * head_dim;
    for (int i = threadIdx.x; i < heads * head_dim; i += blockDim.x)
        token[i] = padded[(((wide)text * heads + i / head_dim) * time + t) * head_dim + i % head_dim];
}

// Rows [tokens, heads head_dim] to padded [text, heads, time, head_dim], zeros behind a text's end.
KERNEL heads_pad(const real *rows, const u32 *starts, real *padded, int time, int head_dim, int heads) {
    int t = blockIdx.x, text = blockIdx.y;
    int inside = t < (int)(starts[text + 1] - starts[text]);
    const real *token = rows + (wide)(starts[text] + t) * heads * head_dim;
    for (int i = threadIdx.x; i < heads * head_dim; i += blockDim.x)
        padded[(((wide)text * heads + i / head_dim) * time + t) * head_dim + i % head_dim] = inside ? token[i] : put(0.0f);
}

// ---- Causal softmax: one row of scores a block

// A score as attention uses it: scaled, then c tanh(s / c) where there is a cap.
__device__ inline float capped(float score, float scale, float cap) {
    float s = score * scale;
    return cap > 0.0f ? cap * tanhf(s / cap) : s;
}

// p = softmax of the scores q·k [text, heads, time, time] over the keys that query i sees: those from i + 1 - window (all where it
// is 0) to i. Rows and columns behind a text's end are zeros. log_sum [text, heads, time] keeps the logarithms of the denominators.
KERNEL softmax(const float *scores, const u32 *starts, real *p, float *log_sum, int heads, int time, float scale, float cap, int window) {
    int i = blockIdx.x;
    wide row = (wide)blockIdx.y * time + i;
    int text = blockIdx.y / heads;
    scores += row * time;
    p += row * time;
    if (i >= (int)(starts[text + 1] - starts[text])) {
        for (int j = threadIdx.x; j < time; j += blockDim.x) p[j] = put(0.0f);
        if (threadIdx.x == 0) log_sum[row] = 0.0f;
        return;
    }
    int from = window > 0 ? max(0, i + 1 - window) : 0;
    float top = -INF;
    for (int j = from + threadIdx.x; j <= i; j += blockDim.x) top = fmaxf(top, capped(scores[j], scale, cap));
    top = block_max(top, shared);
    float sum = 0.0f;
    for (int j = from + threadIdx.x; j <= i; j += blockDim.x) sum += expf(capped(scores[j], scale, cap) - top);
    sum = block_sum(sum, shared);
    float inverse = 1.0f / sum;
    for (int j = threadIdx.x; j < time; j += blockDim.x)
        p[j] = put(j >= from && j <= i ? expf(capped(scores[j], scale, cap) - top) * inverse : 0.0f);
    if (threadIdx.x == 0) log_sum[row] = top + logf(sum);
}

// With dp the gradient of p: p again, and ds = scale p (dp - Σ p dp), times 1 - tanh² under a cap, the gradient of q·k.
KERNEL softmax_backward(const float *scores, const float *dp, const float *log_sum, const u32 *starts, real *p, real *ds, int heads, int time,
                        float scale, float cap, int window) {
    int i = blockIdx.x;
    wide row = (wide)blockIdx.y * time + i;
    int text = blockIdx.y / heads;
    scores += row * time;
    dp += row * time;
    p += row * time;
    ds += row * time;
    int inside = i < (int)(starts[text + 1] - starts[text]);
    int from = window > 0 ? max(0, i + 1 - window) : 0;
    int to = inside ? i : -1;
    float sum = 0.0f;
    for (int j = from + threadIdx.x; j <= to; j += blockDim.x) sum += expf(capped(scores[j], scale, cap) - log_sum[row]) * dp[j];
    float mean = block_sum(sum, shared);
    for (int j = threadIdx.x; j < time; j += blockDim.x) {
        float weight = 0.0f, slope = 0.0f;
        if (j >= from && j <= to) {
            float s = capped(scores[j], scale, cap);
            weight = expf(s - log_sum[row]);
            slope = scale * weight * (dp[j] - mean);
            if (cap > 0.0f) slope *= 1.0f - (s / cap) * (s / cap);
        }
        p[j] = put(weight);
        ds[j] = put(slope);
    }
}

// ---- Activations: 0 is x Φ(x), 1 its tanh form, 2 is x / (1 + e^-x)

struct Pair {
    float value, slope;
};

__device__ inline Pair activated(float x, int kind) {
    Pair out;
    if (kind == 0) {
        float cdf = 0.5f * erfcf(x * -0.70710678f);
        out.value = x * cdf;
        out.slope = fmaf(x * 0.39894228f, expf(-0.5f * x * x), cdf);
    } else if (kind == 1) {
        float u = 0.7978846f * fmaf(0.044715f * x * x, x, x);
        float e = expf(-2.0f * fabsf(u));
        float small = e / (1.0f + e), large = 1.0f / (1.0f + e);
        float s = u < 0.0f ? small : large;
        float du = 0.7978846f * fmaf(0.134145f * x, x, 1.0f);
        out.value = x * s;
        out.slope = fmaf(x, 2.0f * small * large * du, s);
    } else {
        float e = expf(-fabsf(x));
        float s = (x < 0.0f ? e : 1.0f) / (1.0f + e);
        out.value = x * s;
        out.slope = s * (x * (1.0f - s) + 1.0f);
    }
    return out;
}

// y = act(x)
KERNEL activation(const real *x, real *y, wide count, int kind) {
    wide i = (wide)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = put(activated(get(x[i]), kind).value);
}

// dx = dy act'(x), and y = act(x) again
KERNEL activation_backward(const real *x, const real *dy, real *dx, real *y, wide count, int kind) {
    wide i = (wide)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    Pair a = activated(get(x[i]), kind);
    dx[i] = put(get(dy[i]) * a.slope);
    y[i] = put(a.value);
}

// y = act(gate) * up; rows of gate and up are `stride` apart, so that both may lie in one projection.
KERNEL gated(const real *gate, const real *up, real *y, wide count, int width, int stride, int kind) {
    wide i = (wide)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    wide at = i / width * stride + i % width;
    y[i] = put(activated(get(gate[at]), kind).value * get(up[at]));
}

// dgate = dy up act'(gate) and dup = dy act(gate), `stride` apart as gate and up are, and y again.
KERNEL gated_backward(const real *gate, const real *up, const real *dy, real *dgate, real *dup, real *y, wide count, int width, int stride, int kind) {
    wide i = (wide)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    wide at = i / width * stride + i % width;
    Pair a = activated(get(gate[at]), kind);
    float d = get(dy[i]), u = get(up[at]);
    dgate[at] = put(d * u * a.slope);
    dup[at] = put(d * a.value);
    y[i] = put(a.value * u);
}

// ---- Embeddings

// x = factor table[token] (+ places[position], where there are such): one token a block.
KERNEL embed(const u32 *tokens, const u32 *positions, const real *table, const real *places, real *x, int width, float factor) {
    wide token = tokens[blockIdx.x];
    x += (wide)blockIdx.x * width;
    for (int j = threadIdx.x; j < width; j += blockDim.x) {
        float value = factor * get(table[token * width + j]);
        if (places) value += get(places[(wide)positions[blockIdx.x] * width + j]);
        x[j] = put(value);
    }
}

// dtable[id] += factor Σ dx over the rows order[first]…, from firsts[i] to firsts[i + 1]: one id a block. Rows of one id stand in their
// order in `order`, which the host sorts, so that no two blocks meet and the sum has one order.
KERNEL embed_backward(const real *dx, const u32 *ids, const u32 *firsts, const u32 *order, float *dtable, int width, float factor) {
    float *to = dtable + (wide)ids[blockIdx.x] * width;
    u32 from = firsts[blockIdx.x], end = firsts[blockIdx.x + 1];
    for (int j = threadIdx.x; j < width; j += blockDim.x) {
        float sum = 0.0f;
        for (u32 i = from; i < end; i++) sum += get(dx[(wide)order[i] * width + j]);
        to[j] += factor * sum;
    }
}

// ---- Output head: log-probabilities by tiles of the vocabulary, without [tokens, vocabulary]

// What a raw logit becomes: c tanh(l / c) where there is a cap, over the temperature.
__device__ inline float bent(float logit, float cap, float temperature) {
    return (cap > 0.0f ? cap * tanhf(logit / cap) : logit) / temperature;
}

// Running sums of a row, eight numbers: with w = e^(z - top) the sums of w, w z and w (z - z'), with w' = e^(z' - top') of the other
// distribution those of w' and w' (z' - z), and the target's z.
#define TOP 0
#define SUM 1
#define MOMENT 2
#define GAP 3
#define OTHER_TOP 4
#define OTHER_SUM 5
#define OTHER_GAP 6
#define TARGET 7

// Takes the logits tile [rows, columns] of vocabulary entries from `first` on into running [rows, 8]; `begin` is not 0 for the first
// tile. `other` holds the other distribution's logits. One row a block.
KERNEL head_scan(const float *tile, const float *other, const u32 *targets, float *running, int columns, int first, float cap, float temperature,
                 float other_cap, float other_temperature, int begin) {
    wide row = blockIdx.x;
    tile += row * columns;
    running += row * 8;
    float top = -INF;
    for (int j = threadIdx.x; j < columns; j += blockDim.x) top = fmaxf(top, bent(tile[j], cap, temperature));
    top = block_max(top, shared);
    float old_top = begin ? -INF : running[TOP];
    float new_top = fmaxf(top, old_top);
    float sum = 0.0f, moment = 0.0f;
    for (int j = threadIdx.x; j < columns; j += blockDim.x) {
        float z = bent(tile[j], cap, temperature);
        float w = expf(z - new_top);
        sum += w;
        moment = fmaf(w, z, moment);
    }
    sum = block_sum(sum, shared);
    moment = block_sum(moment, shared);
    float gap = 0.0f, other_sum = 0.0f, other_gap = 0.0f, other_top = -INF, other_old = -INF;
    if (other) {
        other += row * columns;
        for (int j = threadIdx.x; j < columns; j += blockDim.x) other_top = fmaxf(other_top, bent(other[j], other_cap, other_temperature));
        other_old = begin ? -INF : running[OTHER_TOP];
        other_top = fmaxf(block_max(other_top, shared), other_old);
        for (int j = threadIdx.x; j < columns; j += blockDim.x) {
            float z = bent(tile[j], cap, temperature), r = bent(other[j], other_cap, other_temperature);
            gap = fmaf(expf(z - new_top), z - r, gap);
            float w = expf(r - other_top);
            other_sum += w;
            other_gap = fmaf(w, r - z, other_gap);
        }
        gap = block_sum(gap, shared);
        other_sum = block_sum(other_sum, shared);
        other_gap = block_sum(other_gap, shared);
    }
    if (threadIdx.x == 0) {
        float factor = begin ? 0.0f : expf(old_top - new_top);
        float other_factor = begin || !other ? 0.0f : expf(other_old - other_top);
        running[TOP] = new_top;
        running[SUM] = begin ? sum : fmaf(running[SUM], factor, sum);
        running[MOMENT] = begin ? moment : fmaf(running[MOMENT], factor, moment);
        running[GAP] = begin ? gap : fmaf(running[GAP], factor, gap);
        running[OTHER_TOP] = other_top;
        running[OTHER_SUM] = begin ? other_sum : fmaf(running[OTHER_SUM], other_factor, other_sum);
        running[OTHER_GAP] = begin ? other_gap : fmaf(running[OTHER_GAP], other_factor, other_gap);
        int target = (int)targets[row] - first;
        if (target >= 0 && target < columns) running[TARGET] = bent(tile[target], cap, temperature);
        else if (begin) running[TARGET] = -INF;
    }
}

// log p(target), -Σ p log p, Σ p log(p/q), Σ q log(q/p) and the logarithms of both sums, all [rows], from running [rows, 8].
KERNEL head_finish(const float *running, float *log_prob, float *entropy, float *kl, float *kl_from, float *log_sum, float *other_log_sum, int rows) {
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    running += (wide)row * 8;
    float whole = running[TOP] + logf(running[SUM]);
    log_sum[row] = whole;
    log_prob[row] = running[TARGET] - whole;
    entropy[row] = whole - running[MOMENT] / running[SUM];
    if (!kl) return;
    float other = running[OTHER_TOP] + logf(running[OTHER_SUM]);
    other_log_sum[row] = other;
    kl[row] = running[GAP] / running[SUM] - whole + other;
    kl_from[row] = running[OTHER_GAP] / running[OTHER_SUM] - other + whole;
}

// The gradient of a tile's logits: g (1[a = target] - p) - g_H p (log p + H) + g_K p (log(p/q) - K) + g_F (p - q), times the slope of
// what bends them. g_H, g_K and g_F may be absent, the last two with `other`. One block row a row.
KERNEL head_pull(const float *tile, const float *other, const u32 *targets, const float *log_sum, const float *other_log_sum, const float *entropy,
                 const float *kl, const float *g, const float *g_entropy, const float *g_kl, const float *g_kl_from, real *dtile, int columns,
                 int first, float cap, float temperature, float other_cap, float other_temperature) {
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    wide row = blockIdx.y;
    if (j >= columns) return;
    float z = bent(tile[row * columns + j], cap, temperature);
    float log_p = z - log_sum[row];
    float p = expf(log_p);
    float factor = -g[row];
    if (g_entropy) factor -= g_entropy[row] * (log_p + entropy[row]);
    float more = 0.0f;
    if (other) {
        float log_q = bent(other[row * columns + j], other_cap, other_temperature) - other_log_sum[row];
        if (g_kl) factor += g_kl[row] * (log_p - log_q - kl[row]);
        if (g_kl_from) more = g_kl_from[row] * (p - expf(log_q));
    }
    float d = p * factor + more;
    if (first + j == (int)targets[row]) d += g[row];
    float slope = 1.0f / temperature;
    if (cap > 0.0f) {
        float t = z * temperature / cap;
        slope *= 1.0f - t * t;
    }
    dtile[row * columns + j] = put(d * slope);
}

// ---- Length of a gradient, in two stages

// Σ g² of a block's `chunk` elements.
KERNEL squares_partial(const float *g, double *partial, wide count, int chunk) {
    wide from = (wide)blockIdx.x * chunk, to = from + chunk < count ? from + chunk : count;
    double sum = 0.0;
    for (wide i = from + threadIdx.x; i < to; i += blockDim.x) sum += (double)g[i] * (double)g[i];
    sum = block_sum(sum, (double *)shared);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// norm[0] is the length, norm[1] the factor min(1, longest / (length + 1e-6)) that clipping gives, 1 where longest is 0, and -1 where
// the length is not finite: no step is taken then. One block.
KERNEL gradient_norm(const double *partial, float *norm, int count, float longest) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
    sum = block_sum(sum, (double *)shared);
    if (threadIdx.x == 0) {
        double length = sqrt(sum);
        norm[0] = (float)length;
        double clip = longest > 0.0f ? (double)longest / (length + 1e-6) : 1.0;
        norm[1] = length <= 3.4028235e38 ? (float)(clip < 1.0 ? clip : 1.0) : -1.0f;
    }
}

// ---- AdamW; `keep` is 1 - ηλ, `rate` η / (1 - β₁ᵗ), `root` 1 / √(1 - β₂ᵗ)

__device__ inline float adamw_weight(float w, float *m, float *v, float g, float decay1, float decay2, float keep, float rate, float root,
                                     float epsilon) {
    *m = fmaf(decay1, *m, (1.0f - decay1) * g);
    *v = fmaf(decay2, *v, (1.0f - decay2) * (g * g));
    return w * keep - rate * *m / fmaf(sqrtf(*v), root, epsilon);
}

// A float as its nearest bfloat16 (half away from zero) and its own low 16 bits: the two say exactly which float it was.
__device__ inline float joined(u16 high, u16 low) { return __uint_as_float((((u32)high << 16) | low) - (low & 0x8000u ? 0x10000u : 0u)); }
__device__ inline u16 high_of(float x) { return (u16)((__float_as_uint(x) + 0x8000u) >> 16); }
__device__ inline u16 low_of(float x) { return (u16)__float_as_uint(x); }

KERNEL split(const float *x, u16 *high, u16 *low, wide count) {
    wide i = (wide)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    high[i] = high_of(x[i]);
    low[i] = low_of(x[i]);
}

KERNEL join(const u16 *high, const u16 *low, float *x, wide count) {
    wide i = (wide)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) x[i] = joined(high[i], low[i]);
}

KERNEL adamw(float *w, float *m, float *v, const float *g, const float *norm, wide count, float decay1, float decay2, float keep, float rate,
             float root, float epsilon) {
    wide i = (wide)blockIdx.x * blockDim.x + threadIdx.x;
    float clip = norm[1];
    if (i >= count || !(clip >= 0.0f)) return;
    w[i] = adamw_weight(w[i], m + i, v + i, g[i] * clip, decay1, decay2, keep, rate, root, epsilon);
}

// The same step on weights in bfloat16 that have their low 16 bits beside them.
KERNEL adamw_split(u16 *high, u16 *low, float *m, float *v, const float *g, const float *norm, wide count, float decay1, float decay2, float keep,
                   float rate, float root, float epsilon) {
    wide i = (wide)blockIdx.x * blockDim.x + threadIdx.x;
    float clip = norm[1];
    if (i >= count || !(clip >= 0.0f)) return;
    float w = adamw_weight(joined(high[i], low[i]), m + i, v + i, g[i] * clip, decay1, decay2, keep, rate, root, epsilon);
    high[i] = high_of(w);
    low[i] = low_of(w);
}

// Moments in 8 bits: blocks of 256 values with one scale, small floats with 3 bits of fraction, rounded up for a share of the steps.
// As the bridge's optimizer::eight_bit, bit for bit.
#define CODES 256

__device__ inline float power(int exponent) { return __uint_as_float((u32)(127 + exponent) << 23); }

__device__ inline float decoded(u32 code, int last) {
    return code < 8 ? (float)code * power(-last - 2) : __uint_as_float((code + ((u32)(127 - last) << 3)) << 20);
}

__device__ inline u32 encoded(float y, u32 dither, int last) {
    if (y < power(1 - last)) {
        float u = (float)dither * power(-20) - 0.5f;
        return __float_as_uint(fmaf(y, power(last + 2), u) + 12582912.0f) - __float_as_uint(12582912.0f);
    }
    return ((__float_as_uint(y) + dither) >> 20) - ((u32)(127 - last) << 3);
}

__device__ inline float scale_of(float largest) {
    float s = (largest > 3.4028235e38f ? 3.4028235e38f : largest) / 1.875f;
    return s > power(-110) ? s : power(-110);
}

struct Moments {
    float m, v;
};

// The moments of this thread's weight from their codes.
__device__ inline Moments decoded_moments(const u8 *m_codes, const float *m_scales, const u8 *v_codes, const float *v_scales, wide i) {
    Moments out;
    float size = decoded(m_codes[i] & 0x7fu, 15) * m_scales[blockIdx.x];
    out.m = m_codes[i] & 0x80u ? -size : size;
    out.v = decoded(v_codes[i], 31) * v_scales[blockIdx.x];
    return out;
}

// Writes a block's moments; those of threads behind the last weight are 0 and are not written.
__device__ inline void encode_moments(Moments x, u8 *m_codes, float *m_scales, u8 *v_codes, float *v_scales, wide i, wide count, u32 step) {
    float m_scale = scale_of(block_max(fabsf(x.m), shared));
    float v_scale = scale_of(block_max(x.v, shared));
    u32 dither = ((u32)i * 0xC13FA9A9u + step * 0x9E3779B9u) >> 12;
    if (i < count) {
        u32 m_code = encoded(fabsf(x.m) * (1.0f / m_scale), dither, 15);
        m_codes[i] = (u8)((m_code < 0x7fu ? m_code : 0x7fu) | ((__float_as_uint(x.m) >> 24) & 0x80u));
        u32 v_code = encoded(x.v * (1.0f / v_scale), dither ^ 0x80000u, 31);
        if (x.v > 0.0f && v_code == 0) v_code = 1;
        v_codes[i] = (u8)(v_code < 0xffu ? v_code : 0xffu);
    }
    if (threadIdx.x == 0) {
        m_scales[blockIdx.x] = m_scale;
        v_scales[blockIdx.x] = v_scale;
    }
}

// Blocks of 256 threads, one for each block of codes.
KERNEL adamw_eight_bit(float *w, u8 *m_codes, float *m_scales, u8 *v_codes, float *v_scales, const float *g, const float *norm, wide count,
                       float decay1, float decay2, float keep, float rate, float root, float epsilon, u32 step) {
    wide i = (wide)blockIdx.x * CODES + threadIdx.x;
    float clip = norm[1];
    if (!(clip >= 0.0f)) return;
    Moments x = {0.0f, 0.0f};
    if (i < count) {
        x = decoded_moments(m_codes, m_scales, v_codes, v_scales, i);
        w[i] = adamw_weight(w[i], &x.m, &x.v, g[i] * clip, decay1, decay2, keep, rate, root, epsilon);
    }
    encode_moments(x, m_codes, m_scales, v_codes, v_scales, i, count, step);
}

KERNEL adamw_eight_bit_split(u16 *high, u16 *low, u8 *m_codes, float *m_scales, u8 *v_codes, float *v_scales, const float *g, const float *norm,
                             wide count, float decay1, float decay2, float keep, float rate, float root, float epsilon, u32 step) {
    wide i = (wide)blockIdx.x * CODES + threadIdx.x;
    float clip = norm[1];
    if (!(clip >= 0.0f)) return;
    Moments x = {0.0f, 0.0f};
    if (i < count) {
        x = decoded_moments(m_codes, m_scales, v_codes, v_scales, i);
        float w = adamw_weight(joined(high[i], low[i]), &x.m, &x.v, g[i] * clip, decay1, decay2, keep, rate, root, epsilon);
        high[i] = high_of(w);
        low[i] = low_of(w);
    }
    encode_moments(x, m_codes, m_scales, v_codes, v_scales, i, count, step);
}

// ---- Generation: a row is one token of the text in its slot; the cache is [slot, kv_head, capacity, head_dim]

// Keys (turned) and values of rows qkv [rows, row] to their slots and positions. One row a block.
KERNEL cache_append(const real *qkv, const float *cosines, const float *sines, const u32 *slots, const u32 *positions, real *keys, real *values,
                    int row, int head_dim, int kv_heads, int step, int key_at, int value_at, int dims, int neighbours, int capacity) {
    const real *token = qkv + (wide)blockIdx.x * row;
    int position = positions[blockIdx.x];
    const float *cosine = cosines + (wide)position * (dims / 2), *sine = sines + (wide)position * (dims / 2);
    for (int i = threadIdx.x; i < kv_heads * head_dim; i += blockDim.x) {
        int head = i / head_dim, d = i % head_dim;
        wide to = (((wide)slots[blockIdx.x] * kv_heads + head) * capacity + position) * head_dim + d;
        keys[to] = put(turned(token + key_at + head * step, d, dims, neighbours, cosine, sine, 1.0f));
        values[to] = token[value_at + head * step + d];
    }
}

// Dimensions of a head that one lane of a warp holds, at most: heads have up to 256.
#define PARTS 8

// out [rows, heads head_dim] = Σ softmax(q·k) v over the keys that each row sees, its own among them; scores as in `softmax`. One
// block a head and row. Each warp takes every so-manieth key with a running maximum; the warps' sums meet in shared memory:
// head_dim numbers of the query, then head_dim + 2 a warp.
KERNEL decode_attention(const real *qkv, const float *cosines, const float *sines, const u32 *slots, const u32 *positions, const real *keys,
                        const real *values, real *out, int row, int head_dim, int heads, int kv_heads, int step, int query_at, int dims,
                        int neighbours, int capacity, float scale, float cap, int window) {
    int head = blockIdx.x, lane = lane_of(), warp = warp_of();
    wide r = blockIdx.y;
    int position = positions[r];
    const float *cosine = cosines + (wide)position * (dims / 2), *sine = sines + (wide)position * (dims / 2);
    const real *q = qkv + r * row + query_at + head * step;
    float *query = shared, *sums = shared + head_dim;
    for (int d = threadIdx.x; d < head_dim; d += blockDim.x) query[d] = get(put(turned(q, d, dims, neighbours, cosine, sine, 1.0f)));
    __syncthreads();
    wide first = ((wide)slots[r] * kv_heads + head / (heads / kv_heads)) * capacity * head_dim;
    keys += first;
    values += first;
    float top = -INF, sum = 0.0f, parts[PARTS];
    for (int i = 0; i < PARTS; i++) parts[i] = 0.0f;
    int from = window > 0 ? max(0, position + 1 - window) : 0;
    for (int j = from + warp; j <= position; j += warps()) {
        float s = 0.0f;
        for (int d = lane; d < head_dim; d += 32) s = fmaf(query[d], get(keys[(wide)j * head_dim + d]), s);
        s = capped(warp_sum(s), scale, cap);
        float higher = fmaxf(top, s);
        float factor = expf(top - higher), weight = expf(s - higher);
        top = higher;
        sum = fmaf(sum, factor, weight);
        // Unrolled, so that the parts stay in registers.
        #pragma unroll
        for (int i = 0; i < PARTS; i++) {
            int d = lane + 32 * i;
            if (d < head_dim) parts[i] = fmaf(parts[i], factor, weight * get(values[(wide)j * head_dim + d]));
        }
    }
    float *own = sums + warp * (head_dim + 2);
    #pragma unroll
    for (int i = 0; i < PARTS; i++)
        if (lane + 32 * i < head_dim) own[lane + 32 * i] = parts[i];
    if (lane == 0) {
        own[head_dim] = top;
        own[head_dim + 1] = sum;
    }
    __syncthreads();
    top = -INF;
    for (int w = 0; w < warps(); w++) top = fmaxf(top, sums[w * (head_dim + 2) + head_dim]);
    for (int d = threadIdx.x; d < head_dim; d += blockDim.x) {
        float whole = 0.0f, value = 0.0f;
        for (int w = 0; w < warps(); w++) {
            const float *part = sums + w * (head_dim + 2);
            float factor = expf(part[head_dim] - top);
            whole = fmaf(part[head_dim + 1], factor, whole);
            value = fmaf(part[d], factor, value);
        }
        out[(r * heads + head) * head_dim + d] = put(value / whole);
    }
}

// A float as an integer of the same order; both zeros are one.
__device__ inline u32 ordered(float x) {
    u32 bits = __float_as_uint(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Inverse distribution function of each row of logits [rows, vocabulary] at one uniform number in [0, 1) a row: the first token, in
// the vocabulary's order, at which the running sum of weights e^((l - highest) / T) passes its share of the whole. Kept are the tokens
// from the k-th highest logit on (all that tie with it; 0 keeps all), and of those the fewest, highest first and ties in their order,
// whose mass reaches top_p. log_probs are those of the kept distribution. Without uniforms: the first of the highest logits, and its
// log-probability. A row with NaN or without a finite highest logit gives token 4294967295. One row a block; the thresholds are found
// by bisection over the 32 bits of `ordered`.
KERNEL draw(const float *logits, const double *uniforms, u32 *tokens, float *log_probs, int vocabulary, float inverse_temperature, int top_k,
            double top_p) {
    wide row = blockIdx.x;
    logits += row * vocabulary;
    float *scratch = shared;
    double *wide_scratch = (double *)shared;
    u32 *count_scratch = (u32 *)shared;
    int lane = lane_of(), warp = warp_of();
    float highest = -INF;
    for (int i = threadIdx.x; i < vocabulary; i += blockDim.x) highest = fmaxf(highest, logits[i]);
    highest = block_max(highest, scratch);
    double mass = 0.0;
    for (int i = threadIdx.x; i < vocabulary; i += blockDim.x) mass += (double)portable_exp((logits[i] - highest) * inverse_temperature);
    double total = block_sum(mass, wide_scratch);
    if (!(highest < INF) || !(total > 0.0 && total < 1e300)) {
        if (threadIdx.x == 0) {
            tokens[row] = 0xffffffffu;
            log_probs[row] = __uint_as_float(0x7fc00000u);
        }
        return;
    }
    if (!uniforms) {
        u32 first = 0xffffffffu;
        for (int i = threadIdx.x; i < vocabulary; i += blockDim.x)
            if (logits[i] == highest && (u32)i < first) first = i;
        for (int step = 16; step > 0; step >>= 1) {
            u32 other = __shfl_xor_sync(ALL, first, step);
            first = other < first ? other : first;
        }
        __syncthreads();
        if (lane == 0) count_scratch[warp] = first;
        __syncthreads();
        if (threadIdx.x == 0) {
            for (int w = 1; w < warps(); w++) first = count_scratch[w] < first ? count_scratch[w] : first;
            tokens[row] = first;
            log_probs[row] = (float)-log(total);
        }
        return;
    }
    u32 edge = 0;
    if (top_k > 0 && top_k < vocabulary) {
        for (int bit = 31; bit >= 0; bit--) {
            u32 candidate = edge | (1u << bit), count = 0;
            for (int i = threadIdx.x; i < vocabulary; i += blockDim.x) count += ordered(logits[i]) >= candidate;
            if (block_sum(count, count_scratch) >= (u32)top_k) edge = candidate;
        }
    }
    u32 ties_kept = 0xffffffffu;
    float tie = 0.0f;
    if (top_p < 1.0) {
        u32 lowest = edge;
        mass = 0.0;
        for (int i = threadIdx.x; i < vocabulary; i += blockDim.x)
            if (ordered(logits[i]) >= lowest) mass += (double)portable_exp((logits[i] - highest) * inverse_temperature);
        double target = top_p * block_sum(mass, wide_scratch);
        edge = 0;
        for (int bit = 31; bit >= 0; bit--) {
            u32 candidate = edge | (1u << bit);
            u32 bound = candidate > lowest ? candidate : lowest;
            mass = 0.0;
            for (int i = threadIdx.x; i < vocabulary; i += blockDim.x)
                if (ordered(logits[i]) >= bound) mass += (double)portable_exp((logits[i] - highest) * inverse_temperature);
            if (block_sum(mass, wide_scratch) >= target) edge = candidate;
        }
        edge = edge > lowest ? edge : lowest;
        mass = 0.0;
        for (int i = threadIdx.x; i < vocabulary; i += blockDim.x)
            if (ordered(logits[i]) > edge) mass += (double)portable_exp((logits[i] - highest) * inverse_temperature);
        double above = block_sum(mass, wide_scratch);
        tie = portable_exp((__uint_as_float(edge & 0x80000000u ? edge & 0x7fffffffu : ~edge) - highest) * inverse_temperature);
        double need = tie > 0.0f ? ceil((target - above) / (double)tie) : 1.0;
        ties_kept = need < 1.0 ? 1u : need < 4e9 ? (u32)need : 0xffffffffu;
    }
    // Each warp owns one span of the vocabulary: its mass above the edge, and its ties.
    int span = (vocabulary + warps() - 1) / warps();
    int from = warp * span, to = min(from + span, vocabulary);
    u32 ties = 0;
    mass = 0.0;
    for (int i = from + lane; i < to; i += 32) {
        u32 order = ordered(logits[i]);
        if (order > edge || (order == edge && ties_kept == 0xffffffffu)) mass += (double)portable_exp((logits[i] - highest) * inverse_temperature);
        else ties += order == edge;
    }
    mass = warp_sum(mass);
    ties = warp_sum(ties);
    __syncthreads();
    if (lane == 0) {
        wide_scratch[warp] = mass;
        count_scratch[64 + warp] = ties;
    }
    __syncthreads();
    total = 0.0;
    u32 left = ties_kept;
    for (int w = 0; w < warps(); w++) {
        u32 here = count_scratch[64 + w] < left ? count_scratch[64 + w] : left;
        left -= here;
        total += wide_scratch[w] + here * (double)tie;
    }
    // The span in which the sum passes its share, and how many ties stand before it; rounding at the end falls on the last with a weight.
    double rest = uniforms[row] * total, rest_there = 0.0;
    int chosen = -1, found = 0;
    u32 left_there = 0;
    left = ties_kept;
    for (int w = 0; w < warps(); w++) {
        u32 here = count_scratch[64 + w] < left ? count_scratch[64 + w] : left;
        double there = wide_scratch[w] + here * (double)tie;
        if (!found && there > 0.0) {
            chosen = w;
            rest_there = rest;
            left_there = left;
            found = rest < there;
        }
        rest -= there;
        left -= here;
    }
    if (warp != chosen) return;
    int token = -1;
    double before = 0.0;
    for (int start = from; start < to; start += 32) {
        int i = start + lane;
        u32 order = i < to ? ordered(logits[i]) : 0;
        int level = i < to && order == edge && ties_kept != 0xffffffffu;
        u32 level_lanes = __ballot_sync(ALL, level);
        u32 earlier = __popc(level_lanes & ((1u << lane) - 1u));
        int kept = i < to && (order > edge || (order == edge && (!level || earlier < left_there)));
        double weight = kept ? (double)portable_exp((logits[i] - highest) * inverse_temperature) : 0.0;
        double running = weight;
        for (int step = 1; step < 32; step <<= 1) {
            double other = __shfl_up_sync(ALL, running, step);
            if (lane >= step) running += other;
        }
        u32 passed = __ballot_sync(ALL, weight > 0.0 && before + running > rest_there);
        u32 weighty = __ballot_sync(ALL, weight > 0.0);
        if (weighty) token = start + 31 - __clz(weighty);
        if (passed) {
            token = start + __ffs(passed) - 1;
            break;
        }
        before += __shfl_sync(ALL, running, 31);
        u32 level_count = __popc(level_lanes);
        left_there -= level_count < left_there ? level_count : left_there;
    }
    if (lane == 0) {
        tokens[row] = token;
        log_probs[row] = (float)((double)((logits[token] - highest) * inverse_temperature) - log(total));
    }
}
