// Layers from int8 to int8: the exact sums of tensor cores, then the output pipeline, rounded one operation at a time as
// pipeline.py says. Images have their channels last.
#include "cuda/mma.cuh"

// clip(rint(float32(acc + bias) multiplier) + zero, low, high); the bounds are whole, so it is the same to clip first.
struct Codes {
  int zero, low, high;
  __device__ __forceinline__ signed char rounded(float v) const {
    return (signed char)((int)rintf(fminf(fmaxf(v, (float)(low - zero)), (float)(high - zero))) + zero);
  }
  __device__ __forceinline__ signed char operator()(int acc, int bias, float multiplier) const {
    return rounded(__fmul_rn((float)(int)((unsigned)acc + (unsigned)bias), multiplier));
  }
};
#define EACH(i, n)                                                                              \
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x)

extern "C" __global__ void __launch_bounds__(256) requantize(const int* __restrict__ acc, const int* __restrict__ bias, const float* __restrict__ multiplier,
                                             signed char* __restrict__ y, long long size, int n, int zero, int low, int high) {
  Codes codes = {zero, low, high};
  EACH(i, size) y[i] = codes(acc[i], bias[i % n], multiplier[i % n]);
}

extern "C" __global__ void __launch_bounds__(256) static_add(const signed char* __restrict__ a, const signed char* __restrict__ b, signed char* __restrict__ y,
                                             long long size, int a_zero, int b_zero, float a_ratio, float b_ratio, int zero, int low, int high) {
  Codes codes = {zero, low, high};
  EACH(i, size)
  y[i] = codes.rounded(__fadd_rn(__fmul_rn((float)(a[i] - a_zero), a_ratio), __fmul_rn((float)(b[i] - b_zero), b_ratio)));
}

// y (M, N) = x (M, K) w^T (K, N)
extern "C" __global__ void __launch_bounds__(128) static_linear(const signed char* __restrict__ x, const signed char* __restrict__ w, const int* __restrict__ bias,
                                                const float* __restrict__ multiplier, signed char* __restrict__ y, int M, int N, int K,
                                                int zero, int low, int high) {
  Codes codes = {zero, low, high};
  auto sums = product<S8>(
      M, N, K, true, true, [&](int m, int k) { return four(x + (size_t)m * K + k, 1, K - k); },
      [&](int n, int k) { return four(w + (size_t)n * K + k, 1, K - k); });
  sums.each(M, N, [&](int m, int n, int sum) { y[(size_t)m * N + n] = codes(sum, bias[n], multiplier[n]); });
}

struct Image {  // x (B, H, W, C) with the code `border` around it; outputs P x Q, windows R x S
  const signed char* x;
  int H, W, C, P, Q, S, stride_h, stride_w, top, left, dilation_h, dilation_w, border;
  __device__ __forceinline__ int at(int output, int tap, int c) const {
    int h = output / Q % P * stride_h - top + tap / S * dilation_h, v = output % Q * stride_w - left + tap % S * dilation_w;
    return h >= 0 && h < H && v >= 0 && v < W ? x[(((size_t)(output / (P * Q)) * H + h) * W + v) * C + c] : border;
  }
  __device__ __forceinline__ unsigned four_at(int output, int tap, int c) const {  // neighbouring channels, a word of S8
    int h = output / Q % P * stride_h - top + tap / S * dilation_h, v = output % Q * stride_w - left + tap % S * dilation_w;
    if (h < 0 || h >= H || v < 0 || v >= W) return (unsigned)(unsigned char)border * 0x01010101u;
    return four(x + (((size_t)(output / (P * Q)) * H + h) * W + v) * C + c, 1, 4);
  }
};

// y (B P Q, filters of a group) = windows (B P Q, R S C / groups) w^T: words of windows are gathered from the image.
extern "C" __global__ void __launch_bounds__(128, 1) static_conv2d(const signed char* __restrict__ x, const signed char* __restrict__ w, const int* __restrict__ bias,
                                                const float* __restrict__ multiplier, signed char* __restrict__ y, int images, int H, int W,
                                                int C, int filters, int P, int Q, int groups, int R, int S, int stride_h, int stride_w,
                                                int top, int left, int dilation_h, int dilation_w, int border, int zero, int low, int high) {
  int group = blockIdx.z, N = filters / groups, channels = C / groups, K = channels * R * S, M = images * P * Q;
  Image image = {x, H, W, C, P, Q, S, stride_h, stride_w, top, left, dilation_h, dilation_w, border};
  Codes codes = {zero, low, high};
  w += (size_t)group * N * K;
  auto sums = product<S8>(
      M, N, K, true, true,
      [&](int m, int k) {
        if (channels % 4 == 0) return image.four_at(m, k / channels, group * channels + k % channels);
        unsigned word = 0;
        for (int i = 0; i < 4 && k + i < K; i++)
          word |= (unsigned)(unsigned char)image.at(m, (k + i) / channels, group * channels + (k + i) % channels) << (8 * i);
        return word;
      },
      [&](int n, int k) { return four(w + (size_t)n * K + k, 1, K - k); });
  sums.each(M, N, [&](int m, int n, int sum) {
    int k = group * N + n;
    y[(size_t)m * filters + k] = codes(sum, bias[k], multiplier[k]);
  });
}

// One channel in each group: a thread for each output, neighbours along the filters, as they lie in memory.
extern "C" __global__ void __launch_bounds__(256) static_depthwise(const signed char* __restrict__ x, const signed char* __restrict__ w, const int* __restrict__ bias,
                                                   const float* __restrict__ multiplier, signed char* __restrict__ y, long long size, int H,
                                                   int W, int C, int filters, int P, int Q, int R, int S, int stride_h, int stride_w, int top,
                                                   int left, int dilation_h, int dilation_w, int border, int zero, int low, int high) {
  Image image = {x, H, W, C, P, Q, S, stride_h, stride_w, top, left, dilation_h, dilation_w, border};
  Codes codes = {zero, low, high};
  EACH(i, size) {
    int k = (int)(i % filters), c = k / (filters / C), output = (int)(i / filters), sum = 0;
    for (int tap = 0; tap < R * S; tap++) sum += image.at(output, tap, c) * w[(size_t)k * R * S + tap];
    y[i] = codes(sum, bias[k], multiplier[k]);
  }
}
