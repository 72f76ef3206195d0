// What a GPU can do at most, for the benchmark: multiply-adds on registers, and tensor cores fed from registers.
#include "cuda/mma.cuh"

enum { CHAINS = 8 };  // independent, so that none waits for its own last result

// y = x a + b, `steps` times over, in every chain of every thread.
extern "C" __global__ void __launch_bounds__(256) multiply_adds(T* __restrict__ y, T a, T b, int steps) {
  size_t at = (size_t)blockIdx.x * 256 + threadIdx.x;
  T x[CHAINS];
#pragma unroll
  for (int i = 0; i < CHAINS; i++) x[i] = (T)(int)(at % 7 + i);
  for (int k = 0; k < steps; k++)
#pragma unroll
    for (int i = 0; i < CHAINS; i++) x[i] = x[i] * a + b;
  T sum = 0;
#pragma unroll
  for (int i = 0; i < CHAINS; i++) sum += x[i];
  y[at] = sum;
}

// Every warp multiplies the same fragments, filled with one word, into four sums, `steps` times over.
template <class Kind>
__device__ __forceinline__ void tensor(typename Kind::Sum* y, unsigned word, int steps) {
  typename Kind::Sum sums[4][4] = {};
  unsigned a[4] = {word, word, word, word}, b[2] = {word, word};
  for (int k = 0; k < steps; k++)
#pragma unroll
    for (int i = 0; i < 4; i++) Kind::multiply(sums[i], a, b);
  typename Kind::Sum sum = 0;
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) sum += sums[i][j];
  y[(size_t)blockIdx.x * 128 + threadIdx.x] = sum;
}
extern "C" __global__ void __launch_bounds__(128) tensor_tf32(float* __restrict__ y, unsigned word, int steps) { tensor<Tf32>(y, word, steps); }
extern "C" __global__ void __launch_bounds__(128) tensor_s8(int* __restrict__ y, unsigned word, int steps) { tensor<S8>(y, word, steps); }
