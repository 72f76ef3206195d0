// Qualifiers, vector types, indices, barriers.
#pragma once
#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ static  // emulator.py finds these statics in the object file
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __CUDA_ARCH__ 900

// The shim's own accesses are none of the kernel's.
#define EMU_OWN __attribute__((no_sanitize("thread"), no_sanitize("undefined"), noinline))
#define EMU_LINE int line = __builtin_LINE()

struct dim3 {
  unsigned x, y, z;
};
#define EMU_VECTORS(T, NAME, BYTES)                                                                             \
  struct alignas(2 * BYTES) NAME##2 { T x, y; };                                                                \
  struct alignas(4 * BYTES > 16 ? 16 : 4 * BYTES) NAME##4 { T x, y, z, w; };                                    \
  static inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                                             \
  static inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VECTORS(float, float, 4)
EMU_VECTORS(double, double, 8)
EMU_VECTORS(int, int, 4)
EMU_VECTORS(unsigned, uint, 4)
EMU_VECTORS(signed char, char, 1)
EMU_VECTORS(unsigned char, uchar, 1)

extern "C" {
dim3 emu_thread() __attribute__((const));  // constant in one fiber, so g++ may keep them
dim3 emu_block() __attribute__((const));
dim3 emu_block_size() __attribute__((const));
dim3 emu_grid_size() __attribute__((const));
int emu_barrier(int op, int vote, int line);
void emu_collective(unsigned mask, void (*run)(void**, unsigned), void* payload, bool fences, int line);
void emu_access(const void* p, int n, int access);  // 0 read, 1 write, 2 atomic
void emu_fail(const char* what, int line);
void* emu_dynamic_shared(int align);
unsigned emu_shared_address(const void* p);
void emu_copy_start(unsigned to, const void* from, int bytes, int filled);
void emu_copy_commit();
void emu_copy_wait(int pending);
}
#define threadIdx emu_thread()
#define blockIdx emu_block()
#define blockDim emu_block_size()
#define gridDim emu_grid_size()
static constexpr int warpSize = 32;

static inline void __syncthreads(EMU_LINE) { emu_barrier(0, 0, line); }
static inline int __syncthreads_or(int p, EMU_LINE) { return emu_barrier(0, p, line); }
static inline int __syncthreads_and(int p, EMU_LINE) { return emu_barrier(1, p, line); }
static inline int __syncthreads_count(int p, EMU_LINE) { return emu_barrier(2, p, line); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
