// Softmax and cross-entropy, a block for each row. The formulas are in __init__.py.
#include "cuda/reduce.cuh"

#define EACH(i, n) for (int i = threadIdx.x; i < n; i += blockDim.x)

__device__ __forceinline__ T lowest() { return -(T)1 / (T)0; }

__device__ __forceinline__ T greatest(const T* x, int n) {
  T m = lowest();
  EACH(i, n) m = Greater::join(m, x[i]);
  return block_reduce<Greater>(m);
}

__device__ __forceinline__ T sum_of_exponentials(const T* x, T m, int n) {
  T s = 0;
  EACH(i, n) s += exp(x[i] - m);
  return block_reduce<Add>(s);
}

extern "C" __global__ void __launch_bounds__(256) softmax(const T* __restrict__ x, T* __restrict__ y, int n) {
  x += (size_t)blockIdx.x * n, y += (size_t)blockIdx.x * n;
  T m = greatest(x, n), s = sum_of_exponentials(x, m, n);
  EACH(i, n) y[i] = exp(x[i] - m) / s;
}

extern "C" __global__ void __launch_bounds__(256) log_softmax(const T* __restrict__ x, T* __restrict__ y, int n) {
  x += (size_t)blockIdx.x * n, y += (size_t)blockIdx.x * n;
  T m = greatest(x, n), l = log(sum_of_exponentials(x, m, n));
  EACH(i, n) y[i] = x[i] - m - l;
}

extern "C" __global__ void __launch_bounds__(256) softmax_backward(const T* __restrict__ dy, const T* __restrict__ y, T* __restrict__ dx, int n) {
  size_t row = (size_t)blockIdx.x * n;
  dy += row, y += row, dx += row;
  T s = 0;
  EACH(i, n) s += dy[i] * y[i];
  s = block_reduce<Add>(s);
  EACH(i, n) dx[i] = dy[i] * y[i] - y[i] * s;
}

extern "C" __global__ void __launch_bounds__(256) log_softmax_backward(const T* __restrict__ dy, const T* __restrict__ y, T* __restrict__ dx, int n) {
  size_t row = (size_t)blockIdx.x * n;
  dy += row, y += row, dx += row;
  T s = 0;
  EACH(i, n) s += dy[i];
  s = block_reduce<Add>(s);
  EACH(i, n) dx[i] = dy[i] - exp(y[i]) * s;
}

// A class outside 0 .. n - 1 gives NaN: no memory is read there, and the host need not wait to find out.
extern "C" __global__ void __launch_bounds__(256) cross_entropy(const T* __restrict__ x, const long long* __restrict__ t, const T* __restrict__ w,
                                         T* __restrict__ loss, T* __restrict__ lse, int n, long long ignore, T hit, T each) {
  x += (size_t)blockIdx.x * n;
  T m = greatest(x, n), l = m + log(sum_of_exponentials(x, m, n)), rest = 0;
  if (each != 0) {
    EACH(i, n) rest += (w ? w[i] : (T)1) * (x[i] - l);
    rest = block_reduce<Add>(rest);
  }
  if (threadIdx.x == 0) {
    long long k = t[blockIdx.x];
    T y = (T)0 / (T)0;
    if (k == ignore) y = 0;
    else if (k >= 0 && k < n) y = -hit * (w ? w[k] : (T)1) * (x[k] - l) - (each != 0 ? each * rest : (T)0);
    loss[blockIdx.x] = y;
    lse[blockIdx.x] = l;
  }
}

extern "C" __global__ void __launch_bounds__(256) cross_entropy_backward(const T* __restrict__ dy, const T* __restrict__ x, const long long* __restrict__ t,
                                                  const T* __restrict__ lse, const T* __restrict__ w, T* __restrict__ dx,
                                                  int n, long long ignore, T hit, T each) {
  size_t row = (size_t)blockIdx.x * n;
  x += row, dx += row;
  long long k = t[blockIdx.x];
  bool bad = k != ignore && (k < 0 || k >= n);
  T l = lse[blockIdx.x], g = bad ? (T)0 / (T)0 : dy[blockIdx.x], all = 0;
  if (each != 0) {
    if (w) {
      EACH(i, n) all += w[i];
      all = block_reduce<Add>(all);
    } else {
      all = n;
    }
  }
  T own = hit * (k == ignore || bad ? (T)0 : w ? w[k] : (T)1);
  EACH(i, n) {
    T d = exp(x[i] - l) * (own + each * all) - each * (w ? w[i] : (T)1) - (i == k ? own : (T)0);
    dx[i] = k == ignore ? (T)0 : d * g;
  }
}
