// Convolution with one channel in each group, and its gradients: a thread for each output of a plane, its window read
// where it is. There is no sum over channels, so nothing of a matrix product would be used twice.
#include "cuda/reduce.cuh"

// y (N, K, P, Q): plane `plane` = image * k + filter, `each` = k / channels filters to a channel.
extern "C" __global__ void __launch_bounds__(256) depthwise(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b, T* __restrict__ y,
                                          int k, int each, int h, int wide, int r, int s, int p, int q, int stride_h, int stride_w,
                                          int pad_h, int pad_w, int dilation_h, int dilation_w) {
  int at = blockIdx.x * 256 + threadIdx.x;
  if (at >= p * q) return;
  int plane = blockIdx.y, filter = plane % k, top = at / q * stride_h - pad_h, left = at % q * stride_w - pad_w;
  x += (size_t)(plane / each) * h * wide, w += (size_t)filter * r * s;
  T sum = 0;
  for (int i = 0; i < r; i++)
    for (int j = 0; j < s; j++) {
      int u = top + i * dilation_h, v = left + j * dilation_w;
      bool inside = u >= 0 && u < h && v >= 0 && v < wide;
      sum += (inside ? x[(size_t)u * wide + v] : (T)0) * w[i * s + j];
    }
  y[(size_t)plane * p * q + at] = b ? sum + b[filter] : sum;
}

// dx (N, C, H, W): the windows that touched the pixel, of each of the channel's filters.
extern "C" __global__ void __launch_bounds__(256, 1) depthwise_dx(const T* __restrict__ dy, const T* __restrict__ w, T* __restrict__ dx,
                                             int k, int each, int h, int wide, int r, int s, int p, int q, int stride_h, int stride_w,
                                             int pad_h, int pad_w, int dilation_h, int dilation_w) {
  int at = blockIdx.x * 256 + threadIdx.x;
  if (at >= h * wide) return;
  int plane = blockIdx.y, channels = k / each, image = plane / channels, channel = plane % channels;
  T sum = 0;
  for (int f = channel * each; f < channel * each + each; f++) {
    const T* from = dy + ((size_t)image * k + f) * p * q;
    for (int i = 0; i < r; i++)
      for (int j = 0; j < s; j++) {
        int u = at / wide + pad_h - i * dilation_h, v = at % wide + pad_w - j * dilation_w;
        if (u < 0 || v < 0 || u % stride_h || v % stride_w || u / stride_h >= p || v / stride_w >= q) continue;
        sum += from[(size_t)(u / stride_h) * q + v / stride_w] * w[((size_t)f * r + i) * s + j];
      }
  }
  dx[(size_t)plane * h * wide + at] = sum;
}

// dw (K, 1, R, S): a block for each tap of a filter, over the outputs of all images.
extern "C" __global__ void __launch_bounds__(256) depthwise_dw(const T* __restrict__ dy, const T* __restrict__ x, T* __restrict__ dw,
                                             int n, int k, int each, int h, int wide, int r, int s, int p, int q, int stride_h,
                                             int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w) {
  int filter = blockIdx.x / (r * s), i = blockIdx.x / s % r * dilation_h - pad_h, j = blockIdx.x % s * dilation_w - pad_w;
  int channels = k / each, channel = filter / each;
  T sum = 0;
  for (int image = 0; image < n; image++) {
    const T* from = x + ((size_t)image * channels + channel) * h * wide;
    const T* d = dy + ((size_t)image * k + filter) * p * q;
    for (int at = threadIdx.x; at < p * q; at += 256) {
      int u = at / q * stride_h + i, v = at % q * stride_w + j;
      if (u >= 0 && u < h && v >= 0 && v < wide) sum += d[at] * from[(size_t)u * wide + v];
    }
  }
  sum = block_reduce<Add>(sum);
  if (threadIdx.x == 0) dw[blockIdx.x] = sum;
}
