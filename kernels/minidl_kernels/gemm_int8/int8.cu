// 8-bit integers: exact products, by dp4a and by tensor cores, and the float stages around them, rounded one operation at
// a time as quantize.py says.
#include "cuda/mma.cuh"
#include "cuda/reduce.cuh"

// --- stage 1: rows of floats to int8, a block for each row ---

// fixed > 0 is the scale of all rows; 0: each row's own, max|x| / 127, 1 where that is 0. A NaN counts as 0 where the
// scale is fixed; otherwise the scale is NaN, and with it the row's results.
extern "C" __global__ void __launch_bounds__(256) quantize(const T* __restrict__ x, signed char* __restrict__ q, float* __restrict__ scale, long long k, float fixed) {
  x += blockIdx.x * k, q += blockIdx.x * k;
  float s = fixed;
  if (fixed == 0) {
    float most = 0, odd = 0;
    for (long long i = threadIdx.x; i < k; i += blockDim.x) {
      float v = fabsf((float)x[i]);
      most = Greater::join(most, v), odd += v != v ? 1.f : 0.f;
    }
    most = block_reduce<Greater>(most), odd = block_reduce<Add>(odd);
    s = odd > 0 ? 0.f / 0.f : __fdiv_rn(most, 127.f);
    if (s == 0) s = 1;
  }
  for (long long i = threadIdx.x; i < k; i += blockDim.x) {
    float v = rintf(__fdiv_rn((float)x[i], s));
    q[i] = (signed char)(v != v ? 0.f : fminf(fmaxf(v, -127.f), 127.f));
  }
  if (threadIdx.x == 0) scale[blockIdx.x] = s;
}

// --- stage 3: what becomes of a sum ---

struct Raw {  // int32 as it is
  int* y;
  int N;
  __device__ __forceinline__ void operator()(int m, int n, int sum) const { y[(size_t)m * N + n] = sum; }
};
struct Rescaled {  // float32(sum) (x_scale w_scale) + b, then T
  T* y;
  const float *x_scale, *w_scale, *b;
  int N;
  __device__ __forceinline__ void operator()(int m, int n, int sum) const {
    float v = __fmul_rn((float)sum, __fmul_rn(x_scale[m], w_scale[n]));
    y[(size_t)m * N + n] = (T)(b ? __fadd_rn(v, b[n]) : v);
  }
};

// --- stage 2: a (M, K) row by row, b at b[k * b_row + n * b_column] ---

// 16 x 16 results by a block of 16 x 16 threads, 64 of k at a time as words of four.
template <class Store>
__device__ __forceinline__ void by_dp4a(const signed char* a, const signed char* b, int M, int N, int K, long long b_row, long long b_column, Store store) {
  __shared__ int as[16][17], bs[16][17];
  int x = threadIdx.x, y = threadIdx.y, m = first_row(N, 16) + y, n = first_column(N, 16) + x, other = first_column(N, 16) + y, sum = 0;
  for (int k0 = 0; k0 < K; k0 += 64) {
    int k = k0 + 4 * x;
    as[y][x] = m < M && k < K ? (int)four(a + (size_t)m * K + k, 1, K - k) : 0;
    bs[y][x] = other < N && k < K ? (int)four(b + k * b_row + other * b_column, b_row, K - k) : 0;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 16; i++) sum = __dp4a(as[y][i], bs[x][i], sum);
    __syncthreads();
  }
  if (m < M && n < N) store(m, n, sum);
}

template <class Store>
__device__ __forceinline__ void by_mma(const signed char* a, const signed char* b, int M, int N, int K, long long b_row, long long b_column, Store store) {
  auto sums = product<S8>(
      M, N, K, true, b_row == 1, [&](int m, int k) { return four(a + (size_t)m * K + k, 1, K - k); },
      [&](int n, int k) { return four(b + k * b_row + n * b_column, b_row, K - k); });
  sums.each(M, N, store);
}

extern "C" __global__ void __launch_bounds__(256) dp4a(const signed char* __restrict__ a, const signed char* __restrict__ b, int* __restrict__ y, int M, int N, int K,
                                       long long b_row, long long b_column) {
  by_dp4a(a, b, M, N, K, b_row, b_column, Raw{y, N});
}
extern "C" __global__ void __launch_bounds__(128) mma(const signed char* __restrict__ a, const signed char* __restrict__ b, int* __restrict__ y, int M, int N, int K,
                                      long long b_row, long long b_column) {
  by_mma(a, b, M, N, K, b_row, b_column, Raw{y, N});
}
extern "C" __global__ void __launch_bounds__(256) dp4a_linear(const signed char* __restrict__ a, const signed char* __restrict__ b, T* __restrict__ y,
                                              const float* __restrict__ x_scale, const float* __restrict__ w_scale,
                                              const float* __restrict__ bias, int M, int N, int K, long long b_row, long long b_column) {
  by_dp4a(a, b, M, N, K, b_row, b_column, Rescaled{y, x_scale, w_scale, bias, N});
}
extern "C" __global__ void __launch_bounds__(128) mma_linear(const signed char* __restrict__ a, const signed char* __restrict__ b, T* __restrict__ y,
                                             const float* __restrict__ x_scale, const float* __restrict__ w_scale,
                                             const float* __restrict__ bias, int M, int N, int K, long long b_row, long long b_column) {
  by_mma(a, b, M, N, K, b_row, b_column, Rescaled{y, x_scale, w_scale, bias, N});
}

// Convolution as an implicit product: filters (M = K / groups) times windows (N = n P Q), K = C / groups R S. Words of
// windows are gathered from the image; zeros outside.
extern "C" __global__ void __launch_bounds__(128) mma_conv2d(const signed char* __restrict__ x, const signed char* __restrict__ w, T* __restrict__ y,
                                             const float* __restrict__ x_scale, const float* __restrict__ w_scale,
                                             const float* __restrict__ bias, int images, int C, int H, int W, int filters, int P, int Q,
                                             int groups, int R, int S, int stride_h, int stride_w, int pad_h, int pad_w,
                                             int dilation_h, int dilation_w) {
  int group = blockIdx.z, M = filters / groups, channels = C / groups, K = channels * R * S, N = images * P * Q;
  w += (size_t)group * M * K;
  auto sums = product<S8>(
      M, N, K, true, false, [&](int m, int k) { return four(w + (size_t)m * K + k, 1, K - k); },
      [&](int n, int k) {
        int image = n / (P * Q), p = n / Q % P, q = n % Q;
        unsigned word = 0;
        for (int i = 0; i < 4 && k + i < K; i++) {
          int c = (k + i) / (R * S), h = p * stride_h - pad_h + (k + i) / S % R * dilation_h, v = q * stride_w - pad_w + (k + i) % S * dilation_w;
          if (h >= 0 && h < H && v >= 0 && v < W)
            word |= (unsigned)(unsigned char)x[(((size_t)image * C + group * channels + c) * H + h) * W + v] << (8 * i);
        }
        return word;
      });
  sums.each(M, N, [&](int m, int n, int sum) {
    int image = n / (P * Q), k = group * M + m;
    float v = __fmul_rn((float)sum, __fmul_rn(x_scale[image], w_scale[k]));
    y[((size_t)image * filters + k) * P * Q + n % (P * Q)] = (T)(bias ? __fadd_rn(v, bias[k]) : v);
  });
}
