// y (M, N) = x (M, K) W^T + b where of every four weights in a row of W two at most are not zero: values (N, K / 2), and
// for each pair of them their places among the four, 2 bits each, two pairs to a byte of `where` (N, K / 8).
#include "cuda/reduce.cuh"
#include "cuda/tile.cuh"

// A warp for each output n, up to MOST rows of x at a time: a lane takes a byte of places, four weights.
enum { MOST = 4 };
extern "C" __global__ void __launch_bounds__(256, 4) nm_warps(const T* __restrict__ x, const T* __restrict__ values, const unsigned char* __restrict__ where,
                                           const T* __restrict__ b, T* __restrict__ y, int M, int N, int K) {
  int lane = threadIdx.x % 32, columns = (N + 7) / 8, n = blockIdx.x % columns * 8 + threadIdx.x / 32, m0 = blockIdx.x / columns * MOST;
  if (n >= N) return;
  values += (size_t)n * (K / 2), where += (size_t)n * (K / 8), x += (size_t)m0 * K;
  T sum[MOST] = {};
  for (int i = lane; i < K / 8; i += 32) {
    int places = where[i];
#pragma unroll
    for (int j = 0; j < 4; j++) {
      T v = values[4 * i + j];
      int k = 8 * i + j / 2 * 4 + (places >> (2 * j) & 3);
#pragma unroll
      for (int m = 0; m < MOST; m++)
        if (m0 + m < M) sum[m] += v * x[(size_t)m * K + k];
    }
  }
#pragma unroll
  for (int m = 0; m < MOST; m++) {
    T v = warp_reduce<Add>(sum[m]);
    if (lane == 0 && m0 + m < M) y[(size_t)(m0 + m) * N + n] = b ? v + b[n] : v;
  }
}

// Register tiles, for many rows of x: the zeros come back in shared memory, and half of the products are with them. Where
// one of them may have met an infinite x the sum is made again, of what is stored.
extern "C" __global__ void __launch_bounds__(256) nm_tiles(const T* __restrict__ x, const T* __restrict__ values, const unsigned char* __restrict__ where,
                                           const T* __restrict__ b, T* __restrict__ y, int M, int N, int K) {
  tile<T>(
      M, N, 0, K, true, true, [&](int m, int k) { return x[(size_t)m * K + k]; },
      [&](int k, int n) {
        int places = where[(size_t)n * (K / 8) + k / 8] >> (k / 4 % 2 * 4), at = k % 4;
        size_t pair = (size_t)n * (K / 2) + k / 4 * 2;
        return (places & 3) == at ? values[pair] : (places >> 2 & 3) == at ? values[pair + 1] : (T)0;
      },
      [&](int m, int n, T sum) {
        if (!(sum - sum == 0)) {
          sum = 0;
          for (int i = 0; i < K / 2; i++) {
            int place = where[(size_t)n * (K / 8) + i / 4] >> (i % 4 * 2) & 3;
            sum += values[(size_t)n * (K / 2) + i] * x[(size_t)m * K + i / 2 * 4 + place];
          }
        }
        y[(size_t)m * N + n] = b ? sum + b[n] : sum;
      });
}
