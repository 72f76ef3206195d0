// y (M, N) = x (M, K) W^T + b with weights of 4 bits: W[n, k] = (q - zero) scale in float32, 8 where zero is null, two q
// in a byte as gemm_int4/__init__.py says. Weights become floats on their way to the multiplication.
#include "cuda/reduce.cuh"
#include "cuda/tile.cuh"

__device__ __forceinline__ float weight(int q, float zero, float scale) { return __fmul_rn((float)q - zero, scale); }

// A warp for each output n, up to MOST rows of x at a time: a lane takes 4 bytes, 8 weights, which serve all of the rows.
enum { MOST = 4 };
extern "C" __global__ void __launch_bounds__(256, 1) int4_warps(const T* __restrict__ x, const unsigned* __restrict__ w, const float* __restrict__ scale,
                                           const unsigned char* __restrict__ zero, const T* __restrict__ b, T* __restrict__ y, int M, int N,
                                           int K, int group) {
  int lane = threadIdx.x % 32, columns = (N + 7) / 8, n = blockIdx.x % columns * 8 + threadIdx.x / 32, m0 = blockIdx.x / columns * MOST, groups = K / group;
  if (n >= N) return;
  w += (size_t)n * (K / 8), x += (size_t)m0 * K;
  T sum[MOST] = {};
  for (int i = lane; i < K / 8; i += 32) {  // word i: 4 bytes of run i / 4, its numbers k .. k + 3 and k + 16 .. k + 19
    int k = i / 4 * 32 + i % 4 * 4;
    size_t g = (size_t)n * groups + k / group;
    float s = scale[g], z = zero ? zero[g] : 8.f;
    unsigned word = w[i];
#pragma unroll
    for (int j = 0; j < 4; j++) {
      T low = weight(word >> (8 * j) & 15, z, s), high = weight(word >> (8 * j + 4) & 15, z, s);
#pragma unroll
      for (int m = 0; m < MOST; m++)
        if (m0 + m < M) sum[m] += low * x[(size_t)m * K + k + j] + high * x[(size_t)m * K + k + j + 16];
    }
  }
#pragma unroll
  for (int m = 0; m < MOST; m++) {
    T v = warp_reduce<Add>(sum[m]);
    if (lane == 0 && m0 + m < M) y[(size_t)(m0 + m) * N + n] = b ? v + b[n] : v;
  }
}

// Register tiles, for many rows of x: a weight is made once for 64 of them.
extern "C" __global__ void __launch_bounds__(256) int4_tiles(const T* __restrict__ x, const unsigned char* __restrict__ w, const float* __restrict__ scale,
                                           const unsigned char* __restrict__ zero, const T* __restrict__ b, T* __restrict__ y, int M, int N,
                                           int K, int group) {
  int groups = K / group;
  tile<T>(
      M, N, 0, K, true, true, [&](int m, int k) { return x[(size_t)m * K + k]; },
      [&](int k, int n) {
        size_t g = (size_t)n * groups + k / group;
        int pair = w[(size_t)n * (K / 2) + k / 32 * 16 + k % 16];
        return (T)weight(k % 32 < 16 ? pair & 15 : pair >> 4, zero ? zero[g] : 8.f, scale[g]);
      },
      [&](int m, int n, T sum) { y[(size_t)m * N + n] = b ? sum + b[n] : sum; });
}
