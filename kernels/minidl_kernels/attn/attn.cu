// Attention in the manner of Dao et al. 2022 (arXiv:2205.14135): blocks of keys stream past queries through shared
// memory, scores are never stored. A warp owns a query (or, for dk and dv, a key), lanes are the keys of a block of 32
// while scores are made and features (lane, lane + 32, ...) while values are added up.
//   q, dq (B, H, T, D)  k, dk (B, Hkv, S, D)  v, dv (B, Hkv, S, E)  out, dout (B, H, T, E)  lse, delta (B, H, T)
// A mask is read at mask[b * mb + h * mh + t * mt + s * ms]: bytes (may attend) or numbers (added). Keys that may not be
// attended to take no part, whatever they hold.
enum { WARPS = 8, KEYS = 32, FEATURES = 8 };  // D and E up to 32 * FEATURES

struct Problem {
  int H, G, Tn, S, D, E;  // G: query heads to a key head
  const unsigned char* allowed;
  const T* added;
  long long mb, mh, mt, ms;
  bool causal;
  T scale;
  // The score of a pair from q k^T; whether it takes part.
  __device__ __forceinline__ bool score(int head, int t, int s, T dot, T& y) const {
    if (t >= Tn || s >= S || (causal && s > t)) return false;
    long long at = (long long)(head / H) * mb + (long long)(head % H) * mh + t * mt + s * ms;
    if (allowed && !allowed[at]) return false;
    y = dot * scale;
    if (added) {
      if (added[at] == -(T)1 / (T)0) return false;
      y += added[at];
    }
    return true;
  }
};
#define PROBLEM                                                                                                          \
  Problem pr = {H, G, Tn, S, D, E, allowed, added, mb, mh, mt, ms, causal, scale};                                        \
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, wide_d = D + 1, wide_e = E + 1;                             \
  const int blocks = (Tn + WARPS - 1) / WARPS, block = blockIdx.x % blocks; /* of a head, heads one after the other */ \
  const size_t head = blockIdx.x / blocks, key_head = head / G;
#define INFINITE ((T)1 / (T)0)

__device__ __forceinline__ T warp_sum(T v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}
__device__ __forceinline__ T warp_max(T v) {  // a NaN wins
#pragma unroll
  for (int o = 16; o; o >>= 1) {
    T u = __shfl_xor_sync(0xffffffffu, v, o);
    v = u > v || u != u ? u : v;
  }
  return v;
}

// 32 rows of a matrix into shared memory, rows of `pitch`, zeros below the last row.
__device__ __forceinline__ void stage(T* to, const T* from, int first, int rows, int columns, int pitch) {
  for (int i = threadIdx.x; i < KEYS * columns; i += WARPS * 32) {
    int row = i / columns, column = i % columns;
    to[row * pitch + column] = first + row < rows ? from[(size_t)(first + row) * columns + column] : (T)0;
  }
}
__device__ __forceinline__ T dot(const T* a, const T* b, int n) {
  T s = 0;
  for (int i = 0; i < n; i++) s += a[i] * b[i];
  return s;
}

extern "C" __global__ void __launch_bounds__(256, 1) attention(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const unsigned char* __restrict__ allowed,
                                             const T* __restrict__ added, T* __restrict__ out, T* __restrict__ lse, int H, int G, int Tn, int S,
                                             int D, int E, long long mb, long long mh, long long mt, long long ms, bool causal, T scale) {
  extern __shared__ __align__(16) unsigned char shared[];
  PROBLEM
  T* ks = (T*)shared;                // KEYS x D
  T* vs = ks + KEYS * wide_d;        // KEYS x E
  T* qs = vs + KEYS * wide_e;        // WARPS x D
  T* ps = qs + WARPS * D;            // WARPS x KEYS
  int t = block * WARPS + warp, last = causal ? min(S, (block + 1) * WARPS) : S;
  for (int d = lane; d < D; d += 32) qs[warp * D + d] = t < Tn ? q[(head * Tn + t) * D + d] : (T)0;
  T sum[FEATURES] = {}, m = -INFINITE, total = 0;
  for (int s0 = 0; s0 < last; s0 += KEYS) {
    stage(ks, k + key_head * S * D, s0, S, D, wide_d);
    stage(vs, v + key_head * S * E, s0, S, E, wide_e);
    __syncthreads();
    T y = -INFINITE;
    bool here = pr.score(head, t, s0 + lane, dot(qs + warp * D, ks + lane * wide_d, D), y);
    unsigned lanes = __ballot_sync(0xffffffffu, here);
    if (lanes) {
      T greatest = warp_max(here ? y : -INFINITE);
      greatest = m > greatest ? m : greatest;
      T base = greatest == -INFINITE ? (T)0 : greatest, old = m == -INFINITE ? (T)0 : exp(m - base), p = here ? exp(y - base) : (T)0;
      m = greatest;
      total = total * old + warp_sum(p);
      ps[warp * KEYS + lane] = p;
      __syncwarp();
#pragma unroll
      for (int i = 0; i < FEATURES; i++) {
        int e = lane + 32 * i;
        if (e >= E) break;
        sum[i] *= old;
        for (int j = 0; j < KEYS; j++)
          if (lanes >> j & 1) sum[i] += ps[warp * KEYS + j] * vs[j * wide_e + e];
      }
    }
    __syncthreads();
  }
  if (t >= Tn) return;
#pragma unroll
  for (int i = 0; i < FEATURES; i++) {
    int e = lane + 32 * i;
    if (e < E) out[(head * Tn + t) * E + e] = sum[i] / (total == 0 ? (T)1 : total);
  }
  if (lane == 0) lse[head * Tn + t] = m + log(total);
}

// delta = sum of dout out along each row; a warp for each.
extern "C" __global__ void __launch_bounds__(256) row_products(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ y, long long rows, int n) {
  long long row = (long long)blockIdx.x * WARPS + threadIdx.x / 32;
  if (row >= rows) return;
  T s = 0;
  for (int i = threadIdx.x % 32; i < n; i += 32) s += a[row * n + i] * b[row * n + i];
  s = warp_sum(s);
  if (threadIdx.x % 32 == 0) y[row] = s;
}

// dq = sum_s ds k, ds = p (dout v^T - delta) scale, p = e^(score - lse)
extern "C" __global__ void __launch_bounds__(256, 1) attention_dq(const T* __restrict__ dout, const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v,
                                                const T* __restrict__ lse, const T* __restrict__ delta, const unsigned char* __restrict__ allowed,
                                                const T* __restrict__ added, T* __restrict__ dq, int H, int G, int Tn, int S, int D, int E,
                                                long long mb, long long mh, long long mt, long long ms, bool causal, T scale) {
  extern __shared__ __align__(16) unsigned char shared[];
  PROBLEM
  T* ks = (T*)shared;
  T* vs = ks + KEYS * wide_d;
  T* qs = vs + KEYS * wide_e;         // WARPS x D
  T* os = qs + WARPS * D;             // WARPS x E, rows of dout
  T* ps = os + WARPS * E;             // WARPS x KEYS
  int t = block * WARPS + warp, last = causal ? min(S, (block + 1) * WARPS) : S;
  for (int d = lane; d < D; d += 32) qs[warp * D + d] = t < Tn ? q[(head * Tn + t) * D + d] : (T)0;
  for (int e = lane; e < E; e += 32) os[warp * E + e] = t < Tn ? dout[(head * Tn + t) * E + e] : (T)0;
  T sum[FEATURES] = {}, l = t < Tn ? lse[head * Tn + t] : (T)0, dl = t < Tn ? delta[head * Tn + t] : (T)0;
  for (int s0 = 0; s0 < last; s0 += KEYS) {
    stage(ks, k + key_head * S * D, s0, S, D, wide_d);
    stage(vs, v + key_head * S * E, s0, S, E, wide_e);
    __syncthreads();
    T y = 0;
    bool here = pr.score(head, t, s0 + lane, dot(qs + warp * D, ks + lane * wide_d, D), y);
    T p = here && l != -INFINITE ? exp(y - l) : (T)0;
    ps[warp * KEYS + lane] = here ? p * (dot(os + warp * E, vs + lane * wide_e, E) - dl) * scale : (T)0;
    unsigned lanes = __ballot_sync(0xffffffffu, here);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < FEATURES; i++) {
      int d = lane + 32 * i;
      if (d >= D) break;
      for (int j = 0; j < KEYS; j++)
        if (lanes >> j & 1) sum[i] += ps[warp * KEYS + j] * ks[j * wide_d + d];
    }
    __syncthreads();
  }
  if (t < Tn)
#pragma unroll
    for (int i = 0; i < FEATURES; i++) {
      int d = lane + 32 * i;
      if (d < D) dq[(head * Tn + t) * D + d] = sum[i];
    }
}

// dk = sum_t ds q and dv = sum_t p dout: a warp owns a key, queries of all G heads stream past. Blocks are counted along
// the keys of a key head, key heads one after the other.
extern "C" __global__ void __launch_bounds__(256, 1) attention_dkv(const T* __restrict__ dout, const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v,
                                                 const T* __restrict__ lse, const T* __restrict__ delta, const unsigned char* __restrict__ allowed,
                                                 const T* __restrict__ added, T* __restrict__ dk, T* __restrict__ dv, int H, int G, int Tn, int S,
                                                 int D, int E, long long mb, long long mh, long long mt, long long ms, bool causal, T scale) {
  extern __shared__ __align__(16) unsigned char shared[];
  Problem pr = {H, G, Tn, S, D, E, allowed, added, mb, mh, mt, ms, causal, scale};
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, wide_d = D + 1, wide_e = E + 1;
  const int blocks = (S + WARPS - 1) / WARPS, block = blockIdx.x % blocks;
  const size_t key_head = blockIdx.x / blocks;
  T* qs = (T*)shared;                 // 32 queries x D
  T* os = qs + KEYS * wide_d;         // 32 queries x E, rows of dout
  T* ks = os + KEYS * wide_e;         // WARPS x D
  T* vs = ks + WARPS * D;             // WARPS x E
  T* ps = vs + WARPS * E;             // WARPS x 32
  T* ds = ps + WARPS * KEYS;          // WARPS x 32
  int s = block * WARPS + warp, first = causal ? block * WARPS / KEYS * KEYS : 0;
  for (int d = lane; d < D; d += 32) ks[warp * D + d] = s < S ? k[(key_head * S + s) * D + d] : (T)0;
  for (int e = lane; e < E; e += 32) vs[warp * E + e] = s < S ? v[(key_head * S + s) * E + e] : (T)0;
  T sum_k[FEATURES] = {}, sum_v[FEATURES] = {};
  for (int group = 0; group < G; group++) {
    const size_t head = key_head * G + group;
    for (int t0 = first; t0 < Tn; t0 += KEYS) {
      stage(qs, q + head * Tn * D, t0, Tn, D, wide_d);
      stage(os, dout + head * Tn * E, t0, Tn, E, wide_e);
      __syncthreads();
      int t = t0 + lane;
      T y = 0, l = t < Tn ? lse[head * Tn + t] : (T)0, dl = t < Tn ? delta[head * Tn + t] : (T)0;
      bool here = pr.score(head, t, s, dot(ks + warp * D, qs + lane * wide_d, D), y);
      T p = here && l != -INFINITE ? exp(y - l) : (T)0;
      ps[warp * KEYS + lane] = p;
      ds[warp * KEYS + lane] = here ? p * (dot(vs + warp * E, os + lane * wide_e, E) - dl) * scale : (T)0;
      unsigned lanes = __ballot_sync(0xffffffffu, here);
      __syncwarp();
#pragma unroll
      for (int i = 0; i < FEATURES; i++) {
        int d = lane + 32 * i;
        for (int j = 0; j < KEYS; j++)
          if (lanes >> j & 1) {
            if (d < D) sum_k[i] += ds[warp * KEYS + j] * qs[j * wide_d + d];
            if (d < E) sum_v[i] += ps[warp * KEYS + j] * os[j * wide_e + d];
          }
      }
      __syncthreads();
    }
  }
  if (s < S)
#pragma unroll
    for (int i = 0; i < FEATURES; i++) {
      int d = lane + 32 * i;
      if (d < D) dk[(key_head * S + s) * D + d] = sum_k[i];
      if (d < E) dv[(key_head * S + s) * E + d] = sum_v[i];
    }
}
