// y (R, N) = x (R, K) W^T + b, W (N, K) in compressed sparse rows: a warp for each result.
#include "cuda/reduce.cuh"

// Entries outside W take no part in an address: NaN for a column that does not exist, and rows end where values do.
extern "C" __global__ void __launch_bounds__(256) csr_linear(const T* __restrict__ x, const T* __restrict__ values, const int* __restrict__ columns,
                                              const long long* __restrict__ starts, const T* __restrict__ b, T* __restrict__ y,
                                              int N, int K, long long stored) {
  int blocks = (N + 7) / 8, n = blockIdx.x % blocks * 8 + threadIdx.x / 32;
  if (n >= N) return;
  size_t row = blockIdx.x / blocks;
  x += row * K;
  long long first = max(starts[n], 0ll), last = min(starts[n + 1], stored);
  T sum = 0;
  for (long long i = first + threadIdx.x % 32; i < last; i += 32) {
    int k = columns[i];
    sum += k >= 0 && k < K ? values[i] * x[k] : (T)0 / (T)0;
  }
  sum = warp_reduce<Add>(sum);
  if (threadIdx.x % 32 == 0) y[row * N + n] = b ? sum + b[n] : sum;
}
