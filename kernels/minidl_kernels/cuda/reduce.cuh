// Reductions over a block whose size is a multiple of a warp: every thread gets the result, and it is put together in an
// order that depends on the size of the block alone, so its bits do not change from run to run.
struct Add {
  template <class V>
  static __device__ __forceinline__ V join(V a, V b) { return a + b; }
};
struct Greater {  // of numbers; a NaN loses
  template <class V>
  static __device__ __forceinline__ V join(V a, V b) { return a > b || b != b ? a : b; }
};

template <class Join, class V>
__device__ __forceinline__ V warp_reduce(V v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v = Join::join(v, __shfl_xor_sync(0xffffffffu, v, o));
  return v;
}

template <class Join, class V>
__device__ __forceinline__ V block_reduce(V v) {
  __shared__ V part[32];
  v = warp_reduce<Join>(v);
  __syncthreads();  // the reduction before this one has been read
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  v = part[0];
  for (int w = 1; w < blockDim.x / 32; w++) v = Join::join(v, part[w]);
  return v;
}
