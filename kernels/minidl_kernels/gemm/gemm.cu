// C (M, N) = A (M, K) B (K, N) + bias (N,), a batch of them along blockIdx.z: a ladder of four.
// A is read at a[batch * a_batch + m * a_row + k * a_column], B alike; C is dense. bias may be null.
#include "cuda/tile.cuh"

// A thread for each result; all it needs comes from global memory.
extern "C" __global__ void __launch_bounds__(256) naive(const T* __restrict__ a, const T* __restrict__ b, const T* __restrict__ bias, T* __restrict__ c,
                                        int M, int N, int K, long long a_batch, long long a_row, long long a_column,
                                        long long b_batch, long long b_row, long long b_column) {
  int n = first_column(N, 16) + threadIdx.x, m = first_row(N, 16) + threadIdx.y;
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
  int x = threadIdx.x, y = threadIdx.y, n = first_column(N, 16) + x, m = first_row(N, 16) + y;
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

// The same tile in two places of shared memory: cp.async brings the next 16 steps of k into one, past the registers,
// while the sums take the other; a copy of zero bytes fills with zeros.
__device__ __forceinline__ void copy(T* to, const T* from, bool inside) {
  unsigned place = (unsigned)__cvta_generic_to_shared(to), bytes = inside ? sizeof(T) : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(place), "l"(from), "n"(sizeof(T)), "r"(bytes));
}
extern "C" __global__ void __launch_bounds__(256) async_tiles(const T* __restrict__ a, const T* __restrict__ b, const T* __restrict__ bias, T* __restrict__ c,
                                        int M, int N, int K, long long a_batch, long long a_row, long long a_column,
                                        long long b_batch, long long b_row, long long b_column) {
  __shared__ T as[2][DEPTH][TILE + 4], bs[2][DEPTH][TILE + 4];
  const int t = threadIdx.x, column = t % 16 * 4, row = t / 16 * 4, m0 = first_row(N, TILE), n0 = first_column(N, TILE);
  a += blockIdx.z * a_batch, b += blockIdx.z * b_batch, c += (size_t)blockIdx.z * M * N;
  auto fetch = [&](int k0) {
    int half = k0 / DEPTH % 2;
#pragma unroll
    for (int j = 0; j < TILE * DEPTH / 256; j++) {
      int i = t + 256 * j, k = a_column == 1 ? i % DEPTH : i / TILE, m = a_column == 1 ? i / DEPTH : i % TILE;
      bool inside = m0 + m < M && k0 + k < K;
      copy(&as[half][k][m], inside ? a + (m0 + m) * a_row + (k0 + k) * a_column : a, inside);
      int kb = b_row == 1 ? i % DEPTH : i / TILE, n = b_row == 1 ? i / DEPTH : i % TILE;
      inside = n0 + n < N && k0 + kb < K;
      copy(&bs[half][kb][n], inside ? b + (k0 + kb) * b_row + (n0 + n) * b_column : b, inside);
    }
    asm volatile("cp.async.commit_group;");
  };
  T sum[4][4] = {};
  if (K > 0) fetch(0);
  for (int k0 = 0; k0 < K; k0 += DEPTH) {
    if (k0 + DEPTH < K) fetch(k0 + DEPTH);
    else asm volatile("cp.async.commit_group;");  // an empty group: the wait below is for all but the newest
    asm volatile("cp.async.wait_group 1;");
    __syncthreads();
    int half = k0 / DEPTH % 2;
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
      T av[4], bv[4];
#pragma unroll
      for (int i = 0; i < 4; i++) av[i] = as[half][k][row + i], bv[i] = bs[half][k][column + i];
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) sum[i][j] += av[i] * bv[j];
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      int m = m0 + row + i, n = n0 + column + j;
      if (m < M && n < N) c[(size_t)m * N + n] = bias ? sum[i][j] + bias[n] : sum[i][j];
    }
}
