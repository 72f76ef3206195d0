// Dropout with the engine's random numbers: Philox4x32-10 (Salmon et al. 2011), a thread for each block of four words.
__device__ __forceinline__ void philox(unsigned (&c)[4], unsigned k0, unsigned k1) {
#pragma unroll
  for (int round = 0; round < 10; round++) {
    unsigned p = 0xD2511F53u * c[0], p_high = __umulhi(0xD2511F53u, c[0]);
    unsigned q = 0xCD9E8D57u * c[2], q_high = __umulhi(0xCD9E8D57u, c[2]);
    c[0] = q_high ^ c[1] ^ k0, c[1] = q, c[2] = p_high ^ c[3] ^ k1, c[3] = p;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;  // golden ratio, sqrt(3) - 1
  }
}

extern "C" __global__ void __launch_bounds__(256) dropout(const T* __restrict__ x, T* __restrict__ y, bool* __restrict__ mask, long long n,
                                           unsigned long long seed, unsigned long long stream, unsigned long long first,
                                           float p, T scale) {
  long long blocks = (n + 3) / 4;
  for (long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x; j < blocks; j += (long long)gridDim.x * blockDim.x) {
    unsigned long long count = first + j;
    unsigned c[4] = {(unsigned)count, (unsigned)(count >> 32), (unsigned)stream, (unsigned)(stream >> 32)};
    philox(c, (unsigned)seed, (unsigned)(seed >> 32));
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (4 * j + i < n) {
        bool keep = (c[i] >> 8) * 5.9604644775390625e-08f >= p;  // 2^-24
        mask[4 * j + i] = keep;
        y[4 * j + i] = keep ? x[4 * j + i] * scale : (T)0;
      }
  }
}

extern "C" __global__ void __launch_bounds__(256) mask_scale(const T* __restrict__ x, const bool* __restrict__ mask, T* __restrict__ y, long long n, T scale) {
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x)
    y[i] = mask[i] ? x[i] * scale : (T)0;
}
