// One level of soft value iteration on a token tree, for benches/peers/soft_vi.py; compiled for this machine, with the vector mathematics of the C library.
#include <math.h>
#include <stdint.h>

// States are taken in blocks whose scores fit the first cache, so that every loop over a block is one over contiguous numbers.
enum { BLOCK = 4096 };

static inline __attribute__((always_inline)) void rows(
    const int64_t actions, const double *restrict reward, const double *restrict log_reference, const double *restrict next,
    double *restrict value, double *restrict log_policy, int64_t states, double beta) {
  double score[BLOCK], weight[BLOCK], top[BLOCK], sum[BLOCK];
  const int64_t height = BLOCK / actions;
  for (int64_t from = 0; from < states; from += height) {
    const int64_t n = states - from < height ? states - from : height, at = from * actions;
    for (int64_t i = 0; i < n * actions; i++) score[i] = log_reference[at + i] + (reward[at + i] + next[at + i]) / beta;
    for (int64_t s = 0; s < n; s++) {
      double largest = score[s * actions];
      for (int64_t a = 1; a < actions; a++) largest = fmax(largest, score[s * actions + a]);
      top[s] = largest;
      for (int64_t a = 0; a < actions; a++) weight[s * actions + a] = score[s * actions + a] - largest;
    }
    for (int64_t i = 0; i < n * actions; i++) weight[i] = exp(weight[i]);
    for (int64_t s = 0; s < n; s++) {
      sum[s] = 0.0;
      for (int64_t a = 0; a < actions; a++) sum[s] += weight[s * actions + a];
    }
    for (int64_t s = 0; s < n; s++) sum[s] = top[s] + log(sum[s]);
    for (int64_t s = 0; s < n; s++) {
      for (int64_t a = 0; a < actions; a++) log_policy[at + s * actions + a] = score[s * actions + a] - sum[s];
      value[from + s] = beta * sum[s];
    }
  }
}

void level(int64_t actions, const double *reward, const double *log_reference, const double *next, double *value, double *log_policy,
           int64_t states, double beta) {
  switch (actions) {  // known to the compiler, the common widths unroll
    case 4: rows(4, reward, log_reference, next, value, log_policy, states, beta); break;
    case 16: rows(16, reward, log_reference, next, value, log_policy, states, beta); break;
    default: rows(actions, reward, log_reference, next, value, log_policy, states, beta);
  }
}
