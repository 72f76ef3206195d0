// Normalisations, a block for each stretch that is normalised together. x is (N, C, L).
//   groups > 0   stretch (n, g): the C / groups channels of a group, one after the other. Layer norm is the case L = 1,
//                groups = 1, and rms norm that without a mean
//   groups == 0  stretch c: a channel in all N examples (batch norm)
#include "cuda/reduce.cuh"

struct Stretch {  // where its elements are, and their channels
  int size, channels, first;
  long long start, jump;
  int run, inner;
  __device__ Stretch(int n, int c, int l, int groups) {
    int s = blockIdx.x;
    if (groups) {
      channels = c / groups, size = run = channels * l, first = s % groups * channels;
      start = (long long)s * size, jump = 0;
    } else {
      channels = 1, size = n * l, run = l, first = s;
      start = (long long)s * l, jump = (long long)c * l;
    }
    inner = l;
  }
  __device__ long long at(int i) const { return start + i / run * jump + i % run; }
  __device__ int channel(int i) const { return first + i % run / inner; }
};

#define EACH(i, n) for (int i = threadIdx.x; i < n; i += blockDim.x)

extern "C" __global__ void __launch_bounds__(512) normalise(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b,
                                            T* __restrict__ y, T* __restrict__ mean, T* __restrict__ var, int n, int c, int l,
                                            int groups, T eps) {
  Stretch s(n, c, l, groups);
  T m = 0, v = 0;
  if (mean) {  // none in rms norm
    EACH(i, s.size) m += x[s.at(i)];
    m = block_reduce<Add>(m) / s.size;
  }
  EACH(i, s.size) {
    T d = x[s.at(i)] - m;
    v += d * d;
  }
  v = block_reduce<Add>(v) / s.size;
  T root = sqrt(v + eps);
  EACH(i, s.size) {
    long long at = s.at(i);
    int k = s.channel(i);
    T z = (x[at] - m) / root;
    if (w) z *= w[k];
    if (b) z += b[k];
    y[at] = z;
  }
  if (threadIdx.x == 0) {
    if (mean) mean[blockIdx.x] = m;
    var[blockIdx.x] = v;
  }
}

// f(x scale + shift), a thread for every few elements; f: 1 relu, 2 relu6. y may be x.
extern "C" __global__ void __launch_bounds__(256) channel_affine(const T* x, const T* __restrict__ scale, const T* __restrict__ shift, T* y,
                                                 long long size, int c, int l, int f) {
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += (long long)gridDim.x * blockDim.x) {
    int k = i / l % c;
    T z = x[i] * scale[k] + shift[k];
    if (f && z < 0) z = 0;
    if (f == 2 && z > 6) z = 6;
    y[i] = z;
  }
}

// dx = r (g - h(g) - xhat h(g xhat)), h the mean over the stretch, without h(g) in rms norm. dw and db where a stretch is
// a channel (batch norm).
extern "C" __global__ void __launch_bounds__(512) normalise_backward(const T* __restrict__ dy, const T* __restrict__ x, const T* __restrict__ w,
                                                     const T* __restrict__ mean, const T* __restrict__ var, T* __restrict__ dx,
                                                     T* __restrict__ dw, T* __restrict__ db, int n, int c, int l, int groups, T eps) {
  Stretch s(n, c, l, groups);
  T m = mean ? mean[blockIdx.x] : (T)0, r = 1 / sqrt(var[blockIdx.x] + eps), sum = 0, dot = 0;
  EACH(i, s.size) {
    long long at = s.at(i);
    T g = dy[at] * (w && groups ? w[s.channel(i)] : (T)1);
    sum += g;
    dot += g * ((x[at] - m) * r);
  }
  sum = block_reduce<Add>(sum);
  dot = block_reduce<Add>(dot);
  if (!groups && threadIdx.x == 0) {
    dw[blockIdx.x] = dot;
    db[blockIdx.x] = sum;
  }
  T scale = w && !groups ? w[blockIdx.x] : (T)1, h = mean ? sum / s.size : (T)0, hx = dot / s.size;
  EACH(i, s.size) {
    long long at = s.at(i);
    T g = dy[at] * (w && groups ? w[s.channel(i)] : (T)1);
    dx[at] = r * scale * (g - h - (x[at] - m) * r * hx);
  }
}

// dw = sum dy xhat and db = sum dy of each channel where stretches are groups of one example.
// Rows of L = 1: block (32, 8) takes 32 channels of a share of the rows, grid (C / 32, shares); column_sums adds the shares.
extern "C" __global__ void __launch_bounds__(256) weight_gradients_of_rows(const T* __restrict__ dy, const T* __restrict__ x, const T* __restrict__ mean,
                                                    const T* __restrict__ var, T* __restrict__ dw, T* __restrict__ db, int n, int c,
                                                    int share, T eps) {
  __shared__ T part[2][8][33];
  int k = blockIdx.x * 32 + threadIdx.x, end = min(n, (int)(blockIdx.y + 1) * share);
  T sum = 0, dot = 0;
  if (k < c)
    for (int row = (int)blockIdx.y * share + threadIdx.y; row < end; row += 8) {
      T g = dy[(size_t)row * c + k], r = 1 / sqrt(var[row] + eps);
      sum += g;
      dot += g * ((x[(size_t)row * c + k] - (mean ? mean[row] : (T)0)) * r);
    }
  part[0][threadIdx.y][threadIdx.x] = sum;
  part[1][threadIdx.y][threadIdx.x] = dot;
  __syncthreads();
  if (threadIdx.y == 0 && k < c) {
    for (int i = 1; i < 8; i++) sum += part[0][i][threadIdx.x], dot += part[1][i][threadIdx.x];
    dw[(size_t)blockIdx.y * c + k] = dot;
    db[(size_t)blockIdx.y * c + k] = sum;
  }
}

// Column sums of a (rows, n) matrix: the last step where blocks left partial sums. Block (32, 8), grid (n / 32).
extern "C" __global__ void __launch_bounds__(256) column_sums(const T* __restrict__ x, T* __restrict__ y, int rows, int n) {
  __shared__ T part[8][33];
  int c = blockIdx.x * 32 + threadIdx.x;
  T sum = 0;
  if (c < n)
    for (int r = threadIdx.y; r < rows; r += 8) sum += x[(size_t)r * n + c];
  part[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && c < n) {
    for (int i = 1; i < 8; i++) sum += part[i][threadIdx.x];
    y[c] = sum;
  }
}

// Planes: a block for each channel.
extern "C" __global__ void __launch_bounds__(256) weight_gradients_of_planes(const T* __restrict__ dy, const T* __restrict__ x, const T* __restrict__ mean,
                                                      const T* __restrict__ var, T* __restrict__ dw, T* __restrict__ db, int n, int c, int l,
                                                      int groups, T eps) {
  int k = blockIdx.x, group = k / (c / groups);
  T sum = 0, dot = 0;
  EACH(i, n * l) {
    int example = i / l, stretch = example * groups + group;
    size_t at = ((size_t)example * c + k) * l + i % l;
    sum += dy[at];
    dot += dy[at] * ((x[at] - mean[stretch]) * (1 / sqrt(var[stretch] + eps)));
  }
  sum = block_reduce<Add>(sum);
  dot = block_reduce<Add>(dot);
  if (threadIdx.x == 0) dw[k] = dot, db[k] = sum;
}
