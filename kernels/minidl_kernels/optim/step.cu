// Steps of optimizers, a thread for every few elements of one parameter. Every operation is rounded by itself, in the
// order of reference.py: the names below keep the compiler from fusing a product with a sum.
template <class V> struct Rounded;
template <> struct Rounded<float> {
  static __device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }
  static __device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }
  static __device__ __forceinline__ float div(float a, float b) { return __fdiv_rn(a, b); }
  static __device__ __forceinline__ float root(float a) { return __fsqrt_rn(a); }
};
template <> struct Rounded<double> {
  static __device__ __forceinline__ double mul(double a, double b) { return __dmul_rn(a, b); }
  static __device__ __forceinline__ double add(double a, double b) { return __dadd_rn(a, b); }
  static __device__ __forceinline__ double div(double a, double b) { return __ddiv_rn(a, b); }
  static __device__ __forceinline__ double root(double a) { return __dsqrt_rn(a); }
};
using R = Rounded<T>;

#define EACH(i, n)                                                                              \
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x)

// m null: no momentum.
extern "C" __global__ void __launch_bounds__(256) sgd(T* __restrict__ w, const T* __restrict__ g, T* __restrict__ m, long long n, T lr, T momentum,
                                      T fresh, T decay, bool nesterov, bool maximize) {
  EACH(i, n) {
    T d = maximize ? -g[i] : g[i];
    if (decay != 0) d = R::add(d, R::mul(w[i], decay));
    if (m) {
      T v = R::add(R::mul(m[i], momentum), R::mul(d, fresh));
      m[i] = v;
      d = nesterov ? R::add(d, R::mul(v, momentum)) : v;
    }
    w[i] = R::add(w[i], -R::mul(d, lr));
  }
}

// greatest null: no AMSGrad. `kept` is 1 - lr decay where the decay is decoupled.
extern "C" __global__ void __launch_bounds__(256) adam(T* __restrict__ w, const T* __restrict__ g, T* __restrict__ m, T* __restrict__ v,
                                       T* __restrict__ greatest, long long n, T step, T fresh1, T beta2, T fresh2, T root2, T eps,
                                       T decay, T kept, bool decoupled, bool maximize) {
  EACH(i, n) {
    T p = w[i], d = maximize ? -g[i] : g[i];
    if (decoupled) p = R::mul(p, kept);
    else if (decay != 0) d = R::add(d, R::mul(p, decay));
    T square = R::add(R::mul(v[i], beta2), R::mul(R::mul(d, d), fresh2));
    T mean = R::add(m[i], R::mul(R::add(d, -m[i]), fresh1));
    v[i] = square, m[i] = mean;
    T u = square;
    if (greatest) {
      u = greatest[i] > u || greatest[i] != greatest[i] ? greatest[i] : u;
      greatest[i] = u;
    }
    w[i] = R::add(p, -R::mul(R::div(mean, R::add(R::div(R::root(u), root2), eps)), step));
  }
}
