// The register tile: 64 x 64 sums by a block of 256 threads, 4 x 4 in the registers of each, 16 steps of k at a time
// through shared memory. Matrix product and convolution are this tile with different ways to read a and b.
//   a(m, k), b(k, n)   one element; called for every m < M, k in [k0, k1), n < N
//   store(m, n, sum)   takes each result once
//   A_BY_K, B_BY_K     whether neighbouring threads read along k: where memory runs along it
#include "cuda/blocks.cuh"
enum { TILE = 64, DEPTH = 16 };

template <class V, class A, class B, class Store>
__device__ __forceinline__ void tile(int M, int N, int k0, int k1, bool a_by_k, bool b_by_k, A a, B b, Store store) {
  __shared__ V as[DEPTH][TILE + 4], bs[DEPTH][TILE + 4];
  const int t = threadIdx.x, column = t % 16 * 4, row = t / 16 * 4;
  const int m0 = first_row(N, TILE), n0 = first_column(N, TILE);
  V sum[4][4] = {};
  for (; k0 < k1; k0 += DEPTH) {
#pragma unroll
    for (int j = 0; j < TILE * DEPTH / 256; j++) {
      int i = t + 256 * j, k = a_by_k ? i % DEPTH : i / TILE, m = a_by_k ? i / DEPTH : i % TILE;
      as[k][m] = m0 + m < M && k0 + k < k1 ? a(m0 + m, k0 + k) : (V)0;
      int kb = b_by_k ? i % DEPTH : i / TILE, n = b_by_k ? i / DEPTH : i % TILE;
      bs[kb][n] = n0 + n < N && k0 + kb < k1 ? b(k0 + kb, n0 + n) : (V)0;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
      V av[4], bv[4];
#pragma unroll
      for (int i = 0; i < 4; i++) av[i] = as[k][row + i], bv[i] = bs[k][column + i];
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
    for (int j = 0; j < 4; j++)
      if (m0 + row + i < M && n0 + column + j < N) store(m0 + row + i, n0 + column + j, sum[i][j]);
}
