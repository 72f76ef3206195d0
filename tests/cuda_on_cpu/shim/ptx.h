// Inline PTX: translate.py turns  asm("op ..." : outs : ins)  into  emu_ptx_op(operands in the order of the text).
#pragma once
namespace emu {
template <class U>
static inline unsigned word(U v) {
  static_assert(sizeof(U) == 4, "a 32-bit register");
  unsigned u;
  memcpy(&u, &v, 4);
  return u;
}

struct Tf32 {};  // a float whose low 13 bits the tensor core ignores
template <class T>
struct Element {
  static constexpr int bytes = sizeof(T);
  static float read(unsigned word, int i) {
    T t;
    memcpy(&t, (char*)&word + i * sizeof(T), sizeof(T));
    return (float)t;
  }
};
template <>
struct Element<Tf32> {
  static constexpr int bytes = 4;
  static float read(unsigned word, int) {
    word &= ~0x1fffu;
    float f;
    memcpy(&f, &word, 4);
    return f;
  }
};

// Tensor cores cut a sum of floats off where its last bit is, instead of rounding it: Fasi, Higham, Mikaitis and Pranesh
// 2021, "Numerical behavior of NVIDIA tensor cores", PeerJ CS 7:e330.
static inline float cut(double s) {
  float f = (float)s;
  return __builtin_isfinite(f) && __builtin_fabs((double)f) > __builtin_fabs(s) ? __builtin_nextafterf(f, 0.f) : f;
}
static inline int cut(int s) { return s; }

struct Tiles {
  unsigned a[4], b[2], c[4];
  unsigned* d[4];
};

// D (16, 8) = A (16, K) B (K, 8) + C, K = 8 words of a row. Lane = 4 g + t holds of A the rows g and g + 8, of B and
// of C and D what "Matrix Fragments for mma.m16n8k8 / k16 / k32" of the PTX ISA shows. tests/test_primitives.py
// compares these maps with those of CuTe.
template <class T, class Sum>
EMU_OWN void multiply(void** lanes, unsigned here) {
  constexpr int E = 4 / Element<T>::bytes, K = 8 * E;
  if (here != ~0u) return emu_fail("mma.sync needs all 32 lanes", 0);
  float A[16][K], B[K][8];
  for (int lane = 0; lane < 32; lane++) {
    auto* x = (Tiles*)lanes[lane];
    int g = lane >> 2, t = lane & 3;
    for (int i = 0; i < E; i++) {
      for (int r = 0; r < 4; r++) A[g + (r & 1) * 8][t * E + i + (r >> 1) * (K / 2)] = Element<T>::read(x->a[r], i);
      for (int r = 0; r < 2; r++) B[t * E + i + r * (K / 2)][g] = Element<T>::read(x->b[r], i);
    }
  }
  for (int lane = 0; lane < 32; lane++) {
    auto* x = (Tiles*)lanes[lane];
    for (int r = 0; r < 4; r++) {
      int row = (lane >> 2) + (r >> 1) * 8, column = (lane & 3) * 2 + (r & 1);
      Sum c;
      memcpy(&c, &x->c[r], 4);
      std::conditional_t<std::is_same_v<Sum, int>, int, double> s = c;
      for (int k = 0; k < K; k++) s += (decltype(s))A[row][k] * (decltype(s))B[k][column];
      c = cut(s);
      memcpy(x->d[r], &c, 4);
    }
  }
}
}  // namespace emu

#define EMU_MMA(NAME, T, SUM)                                                                                        \
  template <class D, class A, class B, class C>                                                                      \
  EMU_OWN void NAME(D& d0, D& d1, D& d2, D& d3, A a0, A a1, A a2, A a3, B b0, B b1, C c0, C c1, C c2, C c3, EMU_LINE) { \
    using emu::word;                                                                                                 \
    emu::Tiles x{{word(a0), word(a1), word(a2), word(a3)}, {word(b0), word(b1)},                                     \
                 {word(c0), word(c1), word(c2), word(c3)},                                                           \
                 {(unsigned*)&d0, (unsigned*)&d1, (unsigned*)&d2, (unsigned*)&d3}};                                  \
    emu_collective(~0u, emu::multiply<T, SUM>, &x, false, line);                                                     \
  }
EMU_MMA(emu_ptx_mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32, __half, float)
EMU_MMA(emu_ptx_mma_sync_aligned_m16n8k16_row_col_f32_bf16_bf16_f32, __nv_bfloat16, float)
EMU_MMA(emu_ptx_mma_sync_aligned_m16n8k8_row_col_f32_tf32_tf32_f32, emu::Tf32, float)
EMU_MMA(emu_ptx_mma_sync_aligned_m16n8k32_row_col_s32_s8_s8_s32, int8_t, int)

// PTX ISA, "cvt.rna": to the nearest, ties away from zero; the 13 low bits become 0.
template <class D, class S>
EMU_OWN void emu_ptx_cvt_rna_tf32_f32(D& to, S from) {
  unsigned u = emu::word(from);
  if ((u & 0x7f800000u) != 0x7f800000u) u += 0x1000u;
  u &= ~0x1fffu;
  memcpy(&to, &u, 4);
}
// PTX ISA, "cvt" with two sources: the first goes to the upper half.
template <class T, class D>
EMU_OWN void emu_pack(D& to, float high, float low) {
  T h(high), l(low);
  memcpy((char*)&to + 2, &h, 2);
  memcpy(&to, &l, 2);
}
template <class D>
EMU_OWN void emu_ptx_cvt_rn_f16x2_f32(D& to, float high, float low) { emu_pack<__half>(to, high, low); }
template <class D>
EMU_OWN void emu_ptx_cvt_rn_bf16x2_f32(D& to, float high, float low) { emu_pack<__nv_bfloat16>(to, high, low); }

// cp.async: the copy becomes visible at the wait, so a missing wait shows; in random order some are over at once, so that a
// place that is written again too early shows, too.
static inline size_t __cvta_generic_to_shared(const void* p) { return emu_shared_address(p); }
static inline void emu_ptx_cp_async_ca_shared_global(unsigned to, const void* from, int bytes) {
  emu_copy_start(to, from, bytes, bytes);
}
static inline void emu_ptx_cp_async_ca_shared_global(unsigned to, const void* from, int bytes, int filled) {
  emu_copy_start(to, from, bytes, filled);
}
static inline void emu_ptx_cp_async_commit_group() { emu_copy_commit(); }
static inline void emu_ptx_cp_async_wait_group(int pending) { emu_copy_wait(pending); }
static inline void emu_ptx_cp_async_wait_all() { emu_copy_commit(); emu_copy_wait(0); }
