// C (M, N) = A (M, K) B (K, N) + bias (N,), a batch of them along blockIdx.z: a ladder of three.
// A is read at a[batch * a_batch + m * a_row + k * a_column], B alike; C is dense. bias may be null.
#include "cuda/tile.cuh"

// A thread for each result; all it needs comes from global memory.
extern "C" __global__ void __launch_bounds__(256) naive(const T* __restrict__ a, const T* __restrict__ b, const T* __restrict__ bias, T* __restrict__ c,
                                        int M, int N, int K, long long a_batch, long long a_row, long long a_column,
                                        long long b_batch, long long b_row, long long b_column) {
  int n = blockIdx.x * 16 + threadIdx.x, m = blockIdx.y * 16 + threadIdx.y;
  if (m >= M || n >= N) return;
  a += blockIdx.z * a_batch + m * a_row, b += blockIdx.z * b_batch + n * b_column;
  T sum = 0;
  for (int k = 0; k < K; k++) sum += a[k * a_column] * b[k * b_row];
  c[((size_t)blockIdx.z * M + m) * N + n] = bias ? sum + bias[n] : sum;
}

// Squares of 16 x 16 are read once by a block and used 16 times from shared memory.
extern "C" __global__ void __launch_bounds__(256) shared_tiles(const T* __restrict__ a, const T* __restrict__ b, const T* __restrict__ bias, T* __restrict__ c,
                                        int M, int N, int K, long long a_batch, long long a_row, long long a_column,
                                        long long b_batch, long long b_row, long long b_column) {
  __shared__ T as[16][17], bs[16][17];
  int x = threadIdx.x, y = threadIdx.y, n = blockIdx.x * 16 + x, m = blockIdx.y * 16 + y;
  a += blockIdx.z * a_batch, b += blockIdx.z * b_batch;
  T sum = 0;
  for (int k = 0; k < K; k += 16) {
    as[y][x] = m < M && k + x < K ? a[m * a_row + (k + x) * a_column] : (T)0;
    bs[y][x] = n < N && k + y < K ? b[(k + y) * b_row + n * b_column] : (T)0;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 16; i++) sum += as[y][i] * bs[i][x];
    __syncthreads();
  }
  if (m < M && n < N) c[((size_t)blockIdx.z * M + m) * N + n] = bias ? sum + bias[n] : sum;
}

// Each thread keeps 4 x 4 results in registers: 8 values read from shared memory feed 16 multiply-adds.
extern "C" __global__ void __launch_bounds__(256) register_tiles(const T* __restrict__ a, const T* __restrict__ b, const T* __restrict__ bias, T* __restrict__ c,
                                        int M, int N, int K, long long a_batch, long long a_row, long long a_column,
                                        long long b_batch, long long b_row, long long b_column) {
  a += blockIdx.z * a_batch, b += blockIdx.z * b_batch, c += (size_t)blockIdx.z * M * N;
  tile<T>(
      M, N, 0, K, a_column == 1, b_row == 1, [&](int m, int k) { return a[m * a_row + k * a_column]; },
      [&](int k, int n) { return b[k * b_row + n * b_column]; },
      [&](int m, int n, T sum) { c[(size_t)m * N + n] = bias ? sum + bias[n] : sum; });
}
