// Activations and their gradients, element by element. `kind` is the place of the name in cuda.py's list; all threads
// take the same branch. The formulas are in __init__.py.
enum { RELU, EXP, TANH, SIGMOID, SILU, GELU, GELU_TANH, RELU6 };

__device__ __forceinline__ T logistic(T x) {  // no overflow on either side
  T e = exp(-fabs(x));
  return (x >= 0 ? (T)1 : e) / (1 + e);
}
__device__ __forceinline__ T normal(T x) { return (T)0.5 * erfc(-x * (T)0.70710678118654752440); }
__device__ __forceinline__ T density(T x) { return exp((T)-0.5 * x * x) * (T)0.39894228040143267794; }
#define TWICE_ROOT (T)1.59576912160573071176  // 2 sqrt(2 / pi)
__device__ __forceinline__ T smooth(T x) { return logistic(TWICE_ROOT * (x + (T)0.044715 * x * x * x)); }


#define EACH(i, n)                                                                              \
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x)

extern "C" __global__ void __launch_bounds__(256, 1) activation(const T* __restrict__ x, T* __restrict__ y, long long n, int kind) {
  EACH(i, n) {
    T v = x[i];
    switch (kind) {
      case RELU: v = v < 0 ? (T)0 : v; break;
      case EXP: v = exp(v); break;
      case TANH: v = tanh(v); break;
      case SIGMOID: v = logistic(v); break;
      case SILU: v *= logistic(v); break;
      case GELU: v *= normal(v); break;
      case RELU6: v = v < 0 ? (T)0 : v > 6 ? (T)6 : v; break;
      default: v *= smooth(v);
    }
    y[i] = v;
  }
}

extern "C" __global__ void __launch_bounds__(256) activation_backward(const T* __restrict__ dy, const T* __restrict__ saved, T* __restrict__ dx, long long n, int kind) {
  EACH(i, n) {
    T v = saved[i], d = dy[i], s;
    switch (kind) {
      case RELU: d = v <= 0 ? (T)0 : d; break;
      case EXP: d *= v; break;
      case TANH: d *= 1 - v * v; break;
      case SIGMOID: d *= v * (1 - v); break;
      case SILU: s = logistic(v), d *= s * (1 + v * (1 - s)); break;
      case GELU: d *= normal(v) + v * density(v); break;
      case RELU6: d = v <= 0 || v >= 6 ? (T)0 : d; break;
      default: s = smooth(v), d *= s + v * (s * (1 - s)) * (TWICE_ROOT * (1 + (T)0.134145 * v * v));
    }
    dx[i] = d;
  }
}
