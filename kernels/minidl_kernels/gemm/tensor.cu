// C (M, N) = A (M, K) B (K, N) + bias (N,) by tensor cores; arguments as in gemm.cu.
#include "cuda/mma.cuh"

#define LARGEST 3.40282347e38f  // of float32

// Both operands rounded to tf32: 11 bits of mantissa.
extern "C" __global__ void __launch_bounds__(128) tf32(const float* __restrict__ a, const float* __restrict__ b, const float* __restrict__ bias, float* __restrict__ c,
                                        int M, int N, int K, long long a_batch, long long a_row, long long a_column,
                                        long long b_batch, long long b_row, long long b_column) {
  a += blockIdx.z * a_batch, b += blockIdx.z * b_batch, c += (size_t)blockIdx.z * M * N;
  auto sums = product<Tf32>(
      M, N, K, a_column == 1, b_row == 1, [&](int m, int k) { return Tf32::rounded(a[m * a_row + k * a_column]); },
      [&](int n, int k) { return Tf32::rounded(b[k * b_row + n * b_column]); });
  sums.each(M, N, [&](int m, int n, float sum) { c[(size_t)m * N + n] = bias ? sum + bias[n] : sum; });
}

// Both operands rounded to bfloat16: 8 bits of mantissa.
extern "C" __global__ void __launch_bounds__(128) bf16(const float* __restrict__ a, const float* __restrict__ b, const float* __restrict__ bias, float* __restrict__ c,
                                        int M, int N, int K, long long a_batch, long long a_row, long long a_column,
                                        long long b_batch, long long b_row, long long b_column) {
  a += blockIdx.z * a_batch, b += blockIdx.z * b_batch, c += (size_t)blockIdx.z * M * N;
  auto sums = product<Bf16>(
      M, N, K, a_column == 1, b_row == 1,
      [&](int m, int k) {
        const float* p = a + m * a_row + k * a_column;
        return Bf16::packed(p[0], k + 1 < K ? p[a_column] : 0.f);
      },
      [&](int n, int k) {
        const float* p = b + k * b_row + n * b_column;
        return Bf16::packed(p[0], k + 1 < K ? p[b_row] : 0.f);
      });
  sums.each(M, N, [&](int m, int n, float sum) { c[(size_t)m * N + n] = bias ? sum + bias[n] : sum; });
}

// float16 as it is stored (16 bits, without cuda_fp16.h), summed in float32, rounded once.
extern "C" __global__ void __launch_bounds__(128) f16(const unsigned short* __restrict__ a, const unsigned short* __restrict__ b, const unsigned short* __restrict__ bias,
                                        unsigned short* __restrict__ c, int M, int N, int K, long long a_batch, long long a_row,
                                        long long a_column, long long b_batch, long long b_row, long long b_column) {
  a += blockIdx.z * a_batch, b += blockIdx.z * b_batch, c += (size_t)blockIdx.z * M * N;
  auto sums = product<F16>(
      M, N, K, a_column == 1, b_row == 1,
      [&](int m, int k) {
        const unsigned short* p = a + m * a_row + k * a_column;
        return p[0] | (k + 1 < K ? (unsigned)p[a_column] << 16 : 0u);
      },
      [&](int n, int k) {
        const unsigned short* p = b + k * b_row + n * b_column;
        return p[0] | (k + 1 < K ? (unsigned)p[b_row] << 16 : 0u);
      });
  sums.each(M, N, [&](int m, int n, float sum) {
    unsigned y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(0.f), "f"(sum));
    c[(size_t)m * N + n] = (unsigned short)y;
  });
}

// float32 from three tf32 products: x = high + low, high low' + low high' + high high'; low low' is below float32's
// last bit. Tensor cores cut their sums off instead of rounding them, so they add up 8 of k at a time only, and these are
// put together outside (Ootomo and Yokota 2022, arXiv:2203.03341). Where that is not finite (Inf has no low part, and the largest numbers round to Inf) the sum is made again,
// one product at a time.
extern "C" __global__ void __launch_bounds__(128) tf32x3(const float* __restrict__ a, const float* __restrict__ b, const float* __restrict__ bias, float* __restrict__ c,
                                        int M, int N, int K, long long a_batch, long long a_row, long long a_column,
                                        long long b_batch, long long b_row, long long b_column) {
  __shared__ unsigned as[2][SIDE][PITCH], bs[2][SIDE][PITCH];
  a += blockIdx.z * a_batch, b += blockIdx.z * b_batch, c += (size_t)blockIdx.z * M * N;
  auto low = [](float x) {
    float high = __uint_as_float(Tf32::rounded(x));
    return fabsf(high) <= LARGEST ? Tf32::rounded(x - high) : 0u;
  };
  Sums<float> sums = {};
  for (int k = 0; k < K; k += WORDS) {
    for (int part = 0; part < 2; part++) {
      fill<Tf32>(as[part], first_row(N, SIDE), M, k, K, a_column == 1, [&](int m, int k) {
        float x = a[m * a_row + k * a_column];
        return part ? low(x) : Tf32::rounded(x);
      });
      fill<Tf32>(bs[part], first_column(N, SIDE), N, k, K, b_row == 1, [&](int n, int k) {
        float x = b[k * b_row + n * b_column];
        return part ? low(x) : Tf32::rounded(x);
      });
    }
    __syncthreads();
#pragma unroll
    for (int word = 0; word < WORDS; word += 8) {
      Sums<float> some = {};
      step<Tf32>(some, as[1], bs[0], word);
      step<Tf32>(some, as[0], bs[1], word);
      step<Tf32>(some, as[0], bs[0], word);
      sums.add(some);
    }
    __syncthreads();
  }
  sums.each(M, N, [&](int m, int n, float sum) {
    if (!(fabsf(sum) <= LARGEST)) {
      sum = 0;
      for (int k = 0; k < K; k++) sum += a[m * a_row + k * a_column] * b[k * b_row + n * b_column];
    }
    c[(size_t)m * N + n] = bias ? sum + bias[n] : sum; });
}
