// One small kernel for each primitive of the shim; test_primitives.py knows what each must give.
extern "C" __global__ void indices(int* out) {
  int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * (blockDim.x * blockDim.y * blockDim.z) + thread] = block * 1000 + thread;
}

extern "C" __global__ void reverse(float* x) {  // through static and dynamic shared memory
  __shared__ float s[256];
  extern __shared__ float d[];
  int t = threadIdx.x, n = blockDim.x;
  s[t] = x[t];
  __syncthreads();
  d[t] = s[n - 1 - t];
  __syncthreads();
  x[n - 1 - t] = 2.f * d[n - 1 - t];
}

extern "C" __global__ void barrier_votes(int* out, int limit) {
  int t = threadIdx.x;
  int any = __syncthreads_or(t == limit), all = __syncthreads_and(t < limit), count = __syncthreads_count(t < limit);
  out[t] = any * 10000 + all * 1000 + count;
}

extern "C" __global__ void shuffles(int* out, int operand, int width) {
  int lane = threadIdx.x, v = 100 + lane;
  out[lane] = __shfl_sync(0xffffffffu, v, operand, width);
  out[32 + lane] = __shfl_up_sync(0xffffffffu, v, operand, width);
  out[64 + lane] = __shfl_down_sync(0xffffffffu, v, operand, width);
  out[96 + lane] = __shfl_xor_sync(0xffffffffu, v, operand, width);
}

extern "C" __global__ void half_a_warp(double* x) {  // lanes that have left are left out
  int lane = threadIdx.x;
  if (lane >= 16) return;
  double v = x[lane];
  for (int o = 8; o; o >>= 1) v += __shfl_xor_sync(0xffffu, v, o);
  x[lane] = v;
}

extern "C" __global__ void votes(unsigned* out) {
  int lane = threadIdx.x;
  out[lane * 3] = __ballot_sync(0xffffffffu, lane % 3 == 0);
  out[lane * 3 + 1] = __any_sync(0xffffffffu, lane == 7);
  out[lane * 3 + 2] = __all_sync(0xffffffffu, lane < 31) * 2 + __all_sync(0xffffffffu, lane < 32);
}

extern "C" __global__ void atomics(int* x, float* sum) {
  int t = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(&x[0], t);
  atomicMax(&x[1], t);
  atomicMin(&x[2], -t);
  atomicOr(&x[3], 1 << (t % 8));
  atomicAdd(sum, 0.5f);
}

extern "C" __global__ void once(int* lock, int* winner) {  // exactly one thread swaps 0 for 1
  if (atomicCAS(lock, 0, 1) == 0) atomicExch(winner, (int)threadIdx.x + 1);
}

extern "C" __global__ void dot_products(const int* a, const int* b, int* c) {
  int t = threadIdx.x;
  c[t] = __dp4a(a[t], b[t], c[t]);
}

extern "C" __global__ void high_products(const unsigned* a, const unsigned* b, unsigned* c) {
  c[threadIdx.x] = __umulhi(a[threadIdx.x], b[threadIdx.x]);
}

extern "C" __global__ void bits(const unsigned* x, int* out) {
  int t = threadIdx.x;
  out[3 * t] = __popc(x[t]);
  out[3 * t + 1] = __clz((int)x[t]);
  out[3 * t + 2] = __ffs((int)x[t]);
}

extern "C" __global__ void to_integers(const float* x, int* out) { out[threadIdx.x] = __float2int_rn(x[threadIdx.x]); }

extern "C" __global__ void unfused(const float* a, const float* b, const float* c, float* out) {
  int t = threadIdx.x;
  out[2 * t] = __fadd_rn(__fmul_rn(a[t], b[t]), c[t]);
  out[2 * t + 1] = __fmaf_rn(a[t], b[t], c[t]);
}

extern "C" __global__ void to_half(const float* x, __half* h, __nv_bfloat16* b) {
  int t = threadIdx.x;
  h[t] = __float2half_rn(x[t]);
  b[t] = __float2bfloat16_rn(x[t]);
}

extern "C" __global__ void from_half(const __half* h, const __nv_bfloat16* b, float* out) {
  int t = threadIdx.x;
  out[2 * t] = __half2float(h[t]);
  out[2 * t + 1] = __bfloat162float(b[t]);
}

extern "C" __global__ void conversions(const float* x, unsigned* tf32, unsigned* f16, unsigned* bf16) {
  int t = threadIdx.x;
  unsigned a, h, b;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(a) : "f"(x[2 * t]));
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(h) : "f"(x[2 * t + 1]), "f"(x[2 * t]));
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(b) : "f"(x[2 * t + 1]), "f"(x[2 * t]));
  tf32[t] = a;
  f16[t] = h;
  bf16[t] = b;
}

// Tensor cores: lane l brings the words a[4 l ..], b[2 l ..], c[4 l ..].
extern "C" __global__ void tensor_f16(const unsigned* a, const unsigned* b, const float* c, float* out) {
  int l = threadIdx.x;
  float d[4] = {c[4 * l], c[4 * l + 1], c[4 * l + 2], c[4 * l + 3]};
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[4 * l]), "r"(a[4 * l + 1]), "r"(a[4 * l + 2]), "r"(a[4 * l + 3]), "r"(b[2 * l]), "r"(b[2 * l + 1]));
  for (int i = 0; i < 4; i++) out[4 * l + i] = d[i];
}

extern "C" __global__ void tensor_bf16(const unsigned* a, const unsigned* b, const float* c, float* out) {
  int l = threadIdx.x;
  float d[4] = {c[4 * l], c[4 * l + 1], c[4 * l + 2], c[4 * l + 3]};
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[4 * l]), "r"(a[4 * l + 1]), "r"(a[4 * l + 2]), "r"(a[4 * l + 3]), "r"(b[2 * l]), "r"(b[2 * l + 1]));
  for (int i = 0; i < 4; i++) out[4 * l + i] = d[i];
}

extern "C" __global__ void tensor_tf32(const unsigned* a, const unsigned* b, const float* c, float* out) {
  int l = threadIdx.x;
  float d[4] = {c[4 * l], c[4 * l + 1], c[4 * l + 2], c[4 * l + 3]};
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[4 * l]), "r"(a[4 * l + 1]), "r"(a[4 * l + 2]), "r"(a[4 * l + 3]), "r"(b[2 * l]), "r"(b[2 * l + 1]));
  for (int i = 0; i < 4; i++) out[4 * l + i] = d[i];
}

extern "C" __global__ void tensor_s8(const unsigned* a, const unsigned* b, const int* c, int* out) {
  int l = threadIdx.x;
  int d[4] = {c[4 * l], c[4 * l + 1], c[4 * l + 2], c[4 * l + 3]};
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[4 * l]), "r"(a[4 * l + 1]), "r"(a[4 * l + 2]), "r"(a[4 * l + 3]), "r"(b[2 * l]), "r"(b[2 * l + 1]));
  for (int i = 0; i < 4; i++) out[4 * l + i] = d[i];
}

extern "C" __global__ void copies(const float* x, float* y, int n) {  // 4 floats a thread, the last filled with zeros
  __shared__ __align__(16) float s[128];
  int t = threadIdx.x, here = n - 4 * t;
  unsigned to = (unsigned)__cvta_generic_to_shared(&s[4 * t]);
  int bytes = here >= 4 ? 16 : here > 0 ? 4 * here : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" : : "r"(to), "l"(x + 4 * t), "r"(bytes));
  asm volatile("cp.async.commit_group;" : :);
  asm volatile("cp.async.wait_group 0;" : :);
  __syncthreads();
  for (int i = t; i < 128; i += 32) y[i] = s[127 - i];
}

__constant__ int primes[4] = {2, 3, 5, 7};
extern "C" __global__ void constants(int* out) { out[threadIdx.x] = primes[threadIdx.x % 4]; }
