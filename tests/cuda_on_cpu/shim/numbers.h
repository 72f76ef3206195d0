// Arithmetic: functions that C has not, and rounding that may not be fused.
#pragma once
// CUDA C++ Programming Guide, "SIMD intrinsics": four products of signed bytes, added to c.
static inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 32; i += 8) c += (int)(int8_t)(a >> i) * (int)(int8_t)(b >> i);
  return c;
}
template <class T>
static inline T __ldg(const T* p) { return *p; }

#define EMU_MINMAX(T)                                           \
  static inline T max(T a, T b) { return a > b ? a : b; }       \
  static inline T min(T a, T b) { return a < b ? a : b; }
EMU_MINMAX(int)
EMU_MINMAX(unsigned)
EMU_MINMAX(long)
EMU_MINMAX(long long)
EMU_MINMAX(unsigned long long)
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline float min(float a, float b) { return fminf(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }

static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
#define __expf expf  // exact here; on a chip within 2 + 1.16 |x| units in the last place
#define __logf logf
static inline float __fdividef(float a, float b) { return a / b; }

// Rounded by themselves: volatile keeps g++ from fusing them.
#define EMU_ROUNDED(PREFIX, T)                                                                        \
  static inline T __##PREFIX##mul_rn(T a, T b) { volatile T r = a * b; return r; }                    \
  static inline T __##PREFIX##add_rn(T a, T b) { volatile T r = a + b; return r; }                    \
  static inline T __##PREFIX##sub_rn(T a, T b) { volatile T r = a - b; return r; }                    \
  static inline T __##PREFIX##div_rn(T a, T b) { volatile T r = a / b; return r; }                    \
  static inline T __##PREFIX##sqrt_rn(T a) { volatile T r = sqrt(a); return r; }
EMU_ROUNDED(f, float)
EMU_ROUNDED(d, double)
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }

static inline int __float_as_int(float x) { int i; memcpy(&i, &x, 4); return i; }
static inline float __int_as_float(int x) { float f; memcpy(&f, &x, 4); return f; }
static inline unsigned __float_as_uint(float x) { return (unsigned)__float_as_int(x); }
static inline float __uint_as_float(unsigned x) { return __int_as_float((int)x); }
static inline long long __double_as_longlong(double x) { long long i; memcpy(&i, &x, 8); return i; }
static inline double __longlong_as_double(long long x) { double d; memcpy(&d, &x, 8); return d; }
// PTX ISA, "cvt": to the nearest even, NaN to 0, out of range to the end of the range.
static inline int __float2int_rn(float x) {
  return x != x ? 0 : x >= 2147483648.f ? INT_MAX : x <= -2147483648.f ? INT_MIN : (int)lrintf(x);
}
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
