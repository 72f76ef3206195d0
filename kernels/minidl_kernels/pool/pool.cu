// Max pooling, and moving values between planes and places in them.
#define EACH(i, n)                                                                              \
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x)

// A thread for each window, in the order of its taps: of equals the first wins, of NaN the last.
extern "C" __global__ void __launch_bounds__(256) max_pool2d(const T* __restrict__ x, T* __restrict__ y, long long* __restrict__ index, long long n, int H,
                                              int W, int P, int Q, int R, int S, int stride_h, int stride_w, int pad_h, int pad_w,
                                              int dilation_h, int dilation_w) {
  EACH(i, n) {
    int q = i % Q, p = i / Q % P;
    const T* plane = x + i / Q / P * H * W;
    long long best = -1;
    T greatest = 0;
    for (int r = 0; r < R; r++) {
      int h = p * stride_h - pad_h + r * dilation_h;
      if (h < 0 || h >= H) continue;
      for (int s = 0; s < S; s++) {
        int w = q * stride_w - pad_w + s * dilation_w;
        if (w < 0 || w >= W) continue;
        T v = plane[(long long)h * W + w];
        if (best < 0 || v > greatest || v != v) greatest = v, best = (long long)h * W + w;
      }
    }
    y[i] = greatest;
    index[i] = best;
  }
}

// y[index[i]] += x[i] in order of i: a thread for each place of a row, all of which look through the row's indices. No
// two threads write one place, so neither the sums nor their order depend on chance.
extern "C" __global__ void __launch_bounds__(256) scatter_plane(const T* __restrict__ x, const long long* __restrict__ index, T* __restrict__ y, int length, int width) {
  __shared__ long long at[256];
  __shared__ T values[256];
  int place = blockIdx.x * 256 + threadIdx.x;
  size_t row = blockIdx.y;
  T sum = 0;
  for (int first = 0; first < length; first += 256) {
    int some = min(256, length - first);
    __syncthreads();
    if (threadIdx.x < some) {
      at[threadIdx.x] = index[row * length + first + threadIdx.x];
      values[threadIdx.x] = x[row * length + first + threadIdx.x];
    }
    __syncthreads();
    for (int i = 0; i < some; i++)
      if (at[i] == place) sum += values[i];
  }
  if (place < width) y[row * width + place] = sum;
}

// NaN for an index outside.
extern "C" __global__ void __launch_bounds__(256) gather_plane(const T* __restrict__ x, const long long* __restrict__ index, T* __restrict__ y, long long n, int length, int width) {
  EACH(i, n) {
    long long k = index[i];
    y[i] = k >= 0 && k < width ? x[i / length * width + k] : (T)0 / (T)0;
  }
}
