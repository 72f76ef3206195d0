// Floats to 8-bit codes and back; the formulas are in __init__.py. Every operation is rounded by itself. Element i has
// the scale of i / inner % c; where scales (or zeros) is null, `scale` (or `zero`) is everybody's. Codes travel as bytes;
// of dequantize's, `is_signed` says what they mean.
#define EACH(i, n)                                                                              \
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x)

__device__ __forceinline__ int whole(unsigned char code, bool is_signed) { return is_signed ? (int)(signed char)code : (int)code; }

extern "C" __global__ void __launch_bounds__(256) quantize(const T* __restrict__ x, signed char* __restrict__ q, long long n, const float* __restrict__ scales,
                                           const unsigned char* __restrict__ zeros, float scale, int zero, long long inner, long long c,
                                           int low, int high) {
  EACH(i, n) {
    long long k = scales ? i / inner % c : 0;
    int z = zeros ? whole(zeros[k], true) : zero;
    float v = rintf(__fdiv_rn((float)x[i], scales ? scales[k] : scale));
    v = v != v ? 0.f : v;
    q[i] = (signed char)((int)fminf(fmaxf(v, (float)(low - z)), (float)(high - z)) + z);
  }
}

extern "C" __global__ void __launch_bounds__(256) dequantize(const unsigned char* __restrict__ q, bool is_signed, float* __restrict__ x, long long n,
                                             const float* __restrict__ scales, const unsigned char* __restrict__ zeros, float scale,
                                             int zero, long long inner, long long c) {
  EACH(i, n) {
    long long k = scales ? i / inner % c : 0;
    int z = zeros ? whole(zeros[k], is_signed) : zero;
    x[i] = __fmul_rn((float)(whole(q[i], is_signed) - z), scales ? scales[k] : scale);
  }
}
