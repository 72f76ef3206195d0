// Convolution and its gradients as matrix products whose operands are read where they are (implicit GEMM), one group
// along blockIdx.z: the register tile of cuda/tile.cuh with three ways to read.
#include "cuda/tile.cuh"

struct Geometry {  // as conv/geometry.py; M = filters and C = channels of one group
  int n, c, h, w, k, r, s, p, q, groups, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
};
struct Image {  // x with zeros around it
  const T* x;
  Geometry g;
  int first, channels;
  __device__ __forceinline__ T at(int image, int tap, int p, int q) const {  // tap: channel, row and column of the window
    int u = p * g.stride_h - g.pad_h + tap / g.s % g.r * g.dilation_h, v = q * g.stride_w - g.pad_w + tap % g.s * g.dilation_w;
    if (u < 0 || u >= g.h || v < 0 || v >= g.w) return 0;
    return x[(((size_t)image * g.c + first + tap / (g.s * g.r)) * g.h + u) * g.w + v];
  }
};

// y (K, N P Q) = w (K, C R S) windows (C R S, N P Q)
extern "C" __global__ void __launch_bounds__(256, 1) conv2d(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b, T* __restrict__ y,
                                          int n, int c, int h, int wide, int k, int r, int s, int p, int q, int groups,
                                          int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w) {
  Geometry g = {n, c, h, wide, k, r, s, p, q, groups, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w};
  int filters = k / groups, channels = c / groups, depth = channels * r * s, first = blockIdx.z * filters, pixels = p * q;
  Image image = {x, g, (int)blockIdx.z * channels, channels};
  w += (size_t)first * depth;
  tile<T>(
      filters, n * pixels, 0, depth, true, false, [&](int m, int i) { return w[(size_t)m * depth + i]; },
      [&](int i, int j) { return image.at(j / pixels, i, j / q % p, j % q); },
      [&](int m, int j, T sum) {
        y[((size_t)(j / pixels) * k + first + m) * pixels + j % pixels] = b ? sum + b[first + m] : sum;
      });
}

// dw (K, C R S) = dy (K, N P Q) windows^T (N P Q, C R S). The sum over N P Q is shared by `shares` blocks, whose results
// stand one after the other: add_shares puts them together.
extern "C" __global__ void __launch_bounds__(256, 1) conv2d_dw(const T* __restrict__ dy, const T* __restrict__ x, T* __restrict__ dw, int shares, int share,
                                             int n, int c, int h, int wide, int k, int r, int s, int p, int q, int groups,
                                             int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w) {
  Geometry g = {n, c, h, wide, k, r, s, p, q, groups, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w};
  int group = blockIdx.z / shares, filters = k / groups, channels = c / groups, depth = channels * r * s, pixels = p * q;
  int first = group * filters, from = blockIdx.z % shares * share, total = n * pixels;
  Image image = {x, g, group * channels, channels};
  dw += ((size_t)(blockIdx.z % shares) * k + first) * depth;
  tile<T>(
      filters, depth, from, total - from < share ? total : from + share, true, true,
      [&](int m, int i) { return dy[((size_t)(i / pixels) * k + first + m) * pixels + i % pixels]; },
      [&](int i, int j) { return image.at(i / pixels, j, i / q % p, i % q); },
      [&](int m, int j, T sum) { dw[(size_t)m * depth + j] = sum; });
}

extern "C" __global__ void __launch_bounds__(256) add_shares(const T* __restrict__ parts, T* __restrict__ y, int shares, long long n) {
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x) {
    T sum = 0;
    for (int j = 0; j < shares; j++) sum += parts[j * n + i];
    y[i] = sum;
  }
}

// dx (C, N H W) = w^T (C, K R S) dy at the windows that touched the pixel (K R S, N H W). Only such taps take part: an
// infinite weight that never met the pixel must not make 0 * Inf, so where one of the weights is not finite (`odd`) a
// tap that misses is left out of the sum instead of added as zero.
extern "C" __global__ void __launch_bounds__(256) find_odd(const T* __restrict__ w, int* __restrict__ odd, long long n) {
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x)
    if (!(w[i] - w[i] == 0)) atomicOr(odd, 1);
}

extern "C" __global__ void __launch_bounds__(256, 1) conv2d_dx(const T* __restrict__ dy, const T* __restrict__ w, const int* __restrict__ odd, T* __restrict__ dx,
                                             int n, int c, int h, int wide, int k, int r, int s, int p, int q, int groups,
                                             int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w) {
  int filters = k / groups, channels = c / groups, depth = filters * r * s, first = blockIdx.z * filters, pixels = h * wide;
  w += (size_t)first * channels * r * s;
  auto weight = [&](int m, int i) { return w[((size_t)(i / (r * s)) * channels + m) * r * s + i % (r * s)]; };
  auto place = [&](int i, int j) {  // of dy, or -1
    int u = j / wide % h + pad_h - i / s % r * dilation_h, v = j % wide + pad_w - i % s * dilation_w;
    if (u < 0 || v < 0 || u % stride_h || v % stride_w || u / stride_h >= p || v / stride_w >= q) return -1ll;
    return (((long long)(j / pixels) * k + first + i / (r * s)) * p + u / stride_h) * q + v / stride_w;
  };
  auto store = [&](int m, int j, T sum) { dx[((size_t)(j / pixels) * c + blockIdx.z * channels + m) * pixels + j % pixels] = sum; };
  if (*odd) {
    int j0 = first_column(n * pixels, TILE), m0 = first_row(n * pixels, TILE);
    for (int i = threadIdx.x; i < TILE * TILE; i += 256) {
      int m = m0 + i / TILE, j = j0 + i % TILE;
      if (m >= channels || j >= n * pixels) continue;
      T sum = 0;
      for (int tap = 0; tap < depth; tap++) {
        long long at = place(tap, j);
        if (at >= 0) sum += weight(m, tap) * dy[at];
      }
      store(m, j, sum);
    }
    return;
  }
  tile<T>(
      channels, n * pixels, 0, depth, false, false, weight,
      [&](int i, int j) {
        long long at = place(i, j);
        return at >= 0 ? dy[at] : (T)0;
      },
      store);
}
