// Kernels with one fault each, and clean twins; test_planted.py says what the checker must call it.
#define T (int)threadIdx.x

extern "C" __global__ void no_barrier(float* x) {
  __shared__ float s[64];
  s[T] = x[T];
  x[T] = s[63 - T];
}
extern "C" __global__ void no_second_barrier(float* x) {
  __shared__ float s[64];
  for (int i = 0; i < 2; i++) {
    s[T] = x[T];
    __syncthreads();
    x[T] = s[63 - T];
  }
}
extern "C" __global__ void no_warp_barrier(float* x) {
  __shared__ float s[32];
  s[T] = x[T];
  x[T] = s[31 - T];
}
extern "C" __global__ void warp_barrier(float* x) {
  __shared__ float s[32];
  s[T] = x[T];
  __syncwarp();
  x[T] = s[31 - T];
}
extern "C" __global__ void write_beyond(float* x, int n) { x[T + n] = 1; }
extern "C" __global__ void read_beyond(float* x, int n) { x[T] = x[T + n] > 0 ? 1 : 2; }
extern "C" __global__ void read_far(float* x) { x[T] = *(float*)((char*)x + (1ll << 40)); }
extern "C" __global__ void beyond_shared(float* x, int n) {
  __shared__ float s[64];
  s[T + n] = 1;
  x[T] = s[T];
}
extern "C" __global__ void inner_index(float* x, int n) {  // lands in the next row: no address is wrong
  __shared__ float s[8][8];
  s[T / 8][T % 8 + n] = 1;
  x[T] = 0;
}
extern "C" __global__ void beyond_dynamic(float* x, int n) {
  extern __shared__ float s[];
  s[T + n] = 1;
  x[T] = 0;
}
extern "C" __global__ void vector(float* x) { x[0] = ((float4*)x)->y; }
extern "C" __global__ void misaligned(float* x) { x[0] = ((float4*)(x + 1))->x; }
extern "C" __global__ void divergent_barrier(float* x) {
  if (T < 32) __syncthreads();
  else
    __syncthreads();
  x[T] = 0;
}
extern "C" __global__ void deadlock(float* x) {
  if (T < 16) __syncwarp();
  else
    __syncthreads();
  x[T] = 0;
}
extern "C" __global__ void divergent_collective(float* x) {
  if (T < 16) x[T] = __shfl_xor_sync(0xffffffffu, 1.f, 1);
  else
    x[T] = __shfl_xor_sync(0xffffffffu, 2.f, 1);
}
extern "C" __global__ void absent_lane(float* x) {
  float v = x[T];
  if (T % 2) return;
  x[T] = __shfl_xor_sync(0xffffffffu, v, 1);
}
extern "C" __global__ void outside_the_mask(float* x) { x[T] = __shfl_xor_sync(0xffffu, x[T], 1); }
extern "C" __global__ void uninitialised(float* x) {
  __shared__ float s[64];
  if (T < 63) s[T] = 1;
  __syncthreads();
  x[T] = s[T];
}
extern "C" __global__ void from_the_block_before(float* x) {
  __shared__ float s[64];
  if (blockIdx.x == 0) s[T] = 1;
  __syncthreads();
  x[blockIdx.x * 64 + T] = s[T];
}
extern "C" __global__ void race_of_blocks(float* x) { x[0] += 1; }
extern "C" __global__ void atomic_and_plain(float* x) {
  if (T) atomicAdd(&x[0], 1.f);
  else
    x[0] = 2;
}
extern "C" __global__ void only_atomic(float* x) {
  atomicAdd(&x[0], 1.f);
  __syncthreads();
  if (T == 0) x[1] = x[0];
}
extern "C" __global__ void overflow(float* x, int n) {
  int i = n * n;
  if (i == 7) x[0] = 1;
}
extern "C" __global__ void shift(float* x, int n) { x[0] = (float)(1 << n); }
extern "C" __global__ void division(float* x, int n) { x[0] = (float)(7 / n); }
extern "C" __global__ void no_wait(const float* x, float* y) {
  __shared__ __align__(16) float s[128];
  unsigned to = (unsigned)__cvta_generic_to_shared(&s[4 * T]);
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" : : "r"(to), "l"(x + 4 * T));
  asm volatile("cp.async.commit_group;" : :);
  __syncthreads();
  y[T] = s[T];
}
extern "C" __global__ void wait_after_the_barrier(const float* x, float* y) {
  __shared__ __align__(16) float s[128];
  unsigned to = (unsigned)__cvta_generic_to_shared(&s[4 * T]);
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" : : "r"(to), "l"(x + 4 * T));
  asm volatile("cp.async.commit_group;" : :);
  __syncthreads();
  asm volatile("cp.async.wait_group 0;" : :);
  y[T] = s[127 - T];
}
extern "C" __global__ void half_a_tensor_core(float* x) {
  float d[4] = {0, 0, 0, 0};
  unsigned one = 0x3f800000;
  if (T < 16) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%4,%4,%4}, {%4,%4}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(one));
    x[T] = d[0];
  }
}
__constant__ float table[2] = {1, 2};
extern "C" __global__ void writes_a_constant(float* x) { table[T] = x[T]; }
extern "C" __global__ void scalar(float* x, float a) { x[0] = a; }
extern "C" __global__ void clean(float* x, int n) {
  __shared__ float s[64];
  s[T] = x[T];
  __syncthreads();
  x[T] = s[63 - T] + n;
}
