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

// y[index[i]] += x[i] in order of i. First every place of a row gets the list of its entries, from heads[place] over
// next[i] to -1: the order in a list is that of chance.
extern "C" __global__ void __launch_bounds__(256) link_plane(const long long* __restrict__ index, int* __restrict__ heads, int* __restrict__ next, long long n, int length, int width) {
  EACH(i, n) {
    long long place = index[i];
    if (place >= 0 && place < width) next[i] = atomicExch(heads + i / length * width + place, (int)(i % length));
  }
}

// Then a thread for each place goes through its list, the least entry first, or through the row where the list is long. So
// neither the sums nor their order depend on chance.
enum { LONG = 16 };
extern "C" __global__ void __launch_bounds__(256) scatter_plane(const T* __restrict__ x, const long long* __restrict__ index, const int* __restrict__ heads,
                                                const int* __restrict__ next, T* __restrict__ y, long long n, int length, int width) {
  EACH(j, n) {
    long long row = j / width;
    const T* from = x + row * length;
    const long long* to = index + row * length;
    const int* list = next + row * length;
    int head = heads[j], entries = 0, done = -1;
    for (int i = head; i >= 0 && entries < LONG; i = list[i]) entries++;
    T sum = 0;
    if (entries == LONG) {
      for (int i = 0; i < length; i++)
        if (to[i] == j % width) sum += from[i];
    } else {
      for (int k = 0; k < entries; k++) {
        int least = length;
        for (int i = head; i >= 0; i = list[i])
          if (i > done && i < least) least = i;
        sum += from[least];
        done = least;
      }
    }
    y[j] = sum;
  }
}

// NaN for an index outside.
extern "C" __global__ void __launch_bounds__(256) gather_plane(const T* __restrict__ x, const long long* __restrict__ index, T* __restrict__ y, long long n, int length, int width) {
  EACH(i, n) {
    long long k = index[i];
    y[i] = k >= 0 && k < width ? x[i / length * width + k] : (T)0 / (T)0;
  }
}
