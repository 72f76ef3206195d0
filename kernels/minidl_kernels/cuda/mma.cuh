// Tensor cores by PTX: 64 x 64 sums by a block of four warps, 32 x 32 each, as 2 x 4 products of 16 x 8. An operand is
// packed into 32-bit words along k: one tf32, two float16 or bfloat16, or four int8; 16 words of k at a time.
// Lane 4 g + t of a warp holds words of the rows g and g + 8 of A, of column g of B ("Matrix Fragments for mma" in the
// PTX ISA); with rows of 20 words in shared memory no two lanes of a read meet in a bank.
#include "cuda/blocks.cuh"
enum { SIDE = 64, WORDS = 16, PITCH = WORDS + 4 };

struct Tf32 {
  using Sum = float;
  enum { PER_WORD = 1 };
  static __device__ __forceinline__ unsigned rounded(float x) {
    unsigned y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
  }
  static __device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
};
struct F16 {
  using Sum = float;
  enum { PER_WORD = 2 };
  static __device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
};
struct Bf16 {
  using Sum = float;
  enum { PER_WORD = 2 };
  static __device__ __forceinline__ unsigned packed(float low, float high) {
    unsigned y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
  }
  static __device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
};
struct S8 {
  using Sum = int;
  enum { PER_WORD = 4 };
  static __device__ __forceinline__ void multiply(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
};

// Up to four bytes, `step` apart, as a word of S8; zeros where fewer are left. Read at once where they lie so.
__device__ __forceinline__ unsigned four(const signed char* p, long long step, int left) {
  if (step == 1 && left >= 4 && (size_t)p % 4 == 0) return *(const unsigned*)p;
  unsigned word = 0;
#pragma unroll
  for (int i = 0; i < 4; i++)
    if (i < left) word |= (unsigned)(unsigned char)p[i * step] << (8 * i);
  return word;
}

// The sums of one warp, gone through as store(m, n, sum) for those inside of the M x N results.
template <class Sum>
struct Sums {
  Sum d[2][4][4];
  __device__ __forceinline__ void add(const Sums& other) {
#pragma unroll
    for (int i = 0; i < 32; i++) d[i / 16][i / 4 % 4][i % 4] += other.d[i / 16][i / 4 % 4][i % 4];
  }
  template <class Store>
  __device__ __forceinline__ void each(int M, int N, Store store) const {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, m0 = first_row(N, SIDE), n0 = first_column(N, SIDE);
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int r = 0; r < 4; r++) {
          int m = m0 + warp / 2 * 32 + i * 16 + (r >> 1) * 8 + lane / 4, n = n0 + warp % 2 * 32 + j * 8 + lane % 4 * 2 + (r & 1);
          if (m < M && n < N) store(m, n, d[i][j][r]);
        }
  }
};

// One step of 8 words of k, from shared memory.
template <class Kind>
__device__ __forceinline__ void step(Sums<typename Kind::Sum>& sums, const unsigned (*a)[PITCH], const unsigned (*b)[PITCH], int word) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4 + word;
  unsigned av[2][4], bv[4][2];
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int r = 0; r < 4; r++) av[i][r] = a[warp / 2 * 32 + i * 16 + (r & 1) * 8 + g][t + (r >> 1) * 4];
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int r = 0; r < 2; r++) bv[j][r] = b[warp % 2 * 32 + j * 8 + g][t + r * 4];
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) Kind::multiply(sums.d[i][j], av[i], bv[j]);
}

// Words of an operand into shared memory: word(row, k) packs PER_WORD elements from k on and is called for k < K and
// row < rows only.
template <class Kind, class Word>
__device__ __forceinline__ void fill(unsigned (*s)[PITCH], int first, int rows, int k0, int K, bool by_k, Word word) {
#pragma unroll
  for (int j = 0; j < SIDE * WORDS / 128; j++) {
    int i = threadIdx.x + 128 * j, w = by_k ? i % WORDS : i / SIDE, row = by_k ? i / WORDS : i % SIDE;
    int k = k0 + w * Kind::PER_WORD;
    s[row][w] = first + row < rows && k < K ? word(first + row, k) : 0u;
  }
}

// The whole product: word_a(m, k), word_b(n, k).
template <class Kind, class WordA, class WordB>
__device__ __forceinline__ Sums<typename Kind::Sum> product(int M, int N, int K, bool a_by_k, bool b_by_k, WordA word_a, WordB word_b) {
  __shared__ unsigned as[SIDE][PITCH], bs[SIDE][PITCH];
  Sums<typename Kind::Sum> sums = {};
  for (int k = 0; k < K; k += WORDS * Kind::PER_WORD) {
    fill<Kind>(as, first_row(N, SIDE), M, k, K, a_by_k, word_a);
    fill<Kind>(bs, first_column(N, SIDE), N, k, K, b_by_k, word_b);
    __syncthreads();
#pragma unroll
    for (int word = 0; word < WORDS; word += 8) step<Kind>(sums, as, bs, word);
    __syncthreads();
  }
  return sums;
}
