// Steps of optimizers. Every operation is rounded by itself, in the
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

// All parameters in one launch. A table has a line for each: how many elements it has, the number of its first piece,
// then addresses, 0 for what is not there. A block takes one piece of CHUNK elements and looks its parameter up.
enum { CHUNK = 2048 };
struct Piece {
  const unsigned long long* line;
  long long first, last;  // of its elements
};
__device__ __forceinline__ Piece piece(const unsigned long long* table, int count, int words) {
  int low = 0, high = count;
  while (high - low > 1) {
    int middle = (low + high) / 2;
    if (table[(size_t)middle * words + 1] <= blockIdx.x) low = middle;
    else high = middle;
  }
  const unsigned long long* line = table + (size_t)low * words;
  long long first = (long long)(blockIdx.x - line[1]) * CHUNK, size = (long long)line[0];
  return {line, first, first + CHUNK < size ? first + CHUNK : size};
}
// A pruned weight is 0, and no weight is -0.
__device__ __forceinline__ T kept(T w, const bool* mask, long long i) { return !mask ? w : mask[i] ? R::add(w, 0) : (T)0; }

// w, g, m, mask
extern "C" __global__ void __launch_bounds__(256) sgd(const unsigned long long* __restrict__ table, int count, T lr, T momentum, T fresh, T decay,
                                      bool nesterov, bool maximize) {
  Piece p = piece(table, count, 6);
  T *w = (T*)p.line[2], *m = (T*)p.line[4];
  const T* g = (const T*)p.line[3];
  const bool* mask = (const bool*)p.line[5];
  for (long long i = p.first + threadIdx.x; i < p.last; i += 256) {
    T d = maximize ? -g[i] : g[i];
    if (decay != 0) d = R::add(d, R::mul(w[i], decay));
    if (m) {
      T v = R::add(R::mul(m[i], momentum), R::mul(d, fresh));
      m[i] = v;
      d = nesterov ? R::add(d, R::mul(v, momentum)) : v;
    }
    w[i] = kept(R::add(w[i], -R::mul(d, lr)), mask, i);
  }
}

// w, g, m, v, greatest (0: no AMSGrad), mask, and as doubles what the parameter's number of steps makes of the rate and
// of the root. `stays` is 1 - lr decay where the decay is decoupled.
extern "C" __global__ void __launch_bounds__(256) adam(const unsigned long long* __restrict__ table, int count, T fresh1, T beta2, T fresh2, T eps,
                                       T decay, T stays, bool decoupled, bool maximize) {
  Piece p = piece(table, count, 10);
  T *w = (T*)p.line[2], *m = (T*)p.line[4], *v = (T*)p.line[5], *greatest = (T*)p.line[6];
  const T* g = (const T*)p.line[3];
  const bool* mask = (const bool*)p.line[7];
  T step = (T)__longlong_as_double((long long)p.line[8]), root2 = (T)__longlong_as_double((long long)p.line[9]);
  for (long long i = p.first + threadIdx.x; i < p.last; i += 256) {
    T x = w[i], d = maximize ? -g[i] : g[i];
    if (decoupled) x = R::mul(x, stays);
    else if (decay != 0) d = R::add(d, R::mul(x, decay));
    T square = R::add(R::mul(v[i], beta2), R::mul(R::mul(d, d), fresh2));
    T mean = R::add(m[i], R::mul(R::add(d, -m[i]), fresh1));
    v[i] = square, m[i] = mean;
    T u = square;
    if (greatest) {
      u = greatest[i] > u || greatest[i] != greatest[i] ? greatest[i] : u;
      greatest[i] = u;
    }
    w[i] = kept(R::add(x, -R::mul(R::div(mean, R::add(R::div(R::root(u), root2), eps)), step)), mask, i);
  }
}
