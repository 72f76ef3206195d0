// One step of a recurrence for the rows of a batch that still run: the product with the state is made before (or, going
// back, after); here are the functions of the gates. A thread for each unit of each row.
__device__ __forceinline__ T logistic(T x) {
  T e = exp(-fabs(x));
  return (x >= 0 ? (T)1 : e) / (1 + e);
}
#define UNIT                                                                                  \
  int i = blockIdx.x * 256 + threadIdx.x, row = i / H, j = i % H;                             \
  if (i >= rows * H) return;

// h' = tanh(gx + p), or relu.
extern "C" __global__ void __launch_bounds__(256) rnn_cell(const T* __restrict__ gx, const T* __restrict__ p, T* __restrict__ h, T* __restrict__ y, int rows, int H, bool relu) {
  UNIT
  T a = gx[i] + p[i];
  a = relu ? (a < 0 ? (T)0 : a) : tanh(a);
  y[i] = h[i] = a;
}

extern "C" __global__ void __launch_bounds__(256) rnn_cell_backward(const T* __restrict__ dy, const T* __restrict__ dh, const T* __restrict__ y, T* __restrict__ da, int rows, int H, bool relu) {
  UNIT
  T d = dy[i] + dh[i];
  da[i] = relu ? (y[i] <= 0 ? (T)0 : d) : d * (1 - y[i] * y[i]);
}

// Gates i, f, g, o of gx + p; gates and cells are kept where they are given.
extern "C" __global__ void __launch_bounds__(256) lstm_cell(const T* __restrict__ gx, const T* __restrict__ p, T* __restrict__ h, T* __restrict__ c, T* __restrict__ y,
                                             T* __restrict__ gates, T* __restrict__ cells, int rows, int H) {
  UNIT
  size_t at = (size_t)row * 4 * H + j;
  T in = logistic(gx[at] + p[at]), forget = logistic(gx[at + H] + p[at + H]);
  T g = tanh(gx[at + 2 * H] + p[at + 2 * H]), out = logistic(gx[at + 3 * H] + p[at + 3 * H]);
  T cell = forget * c[i] + in * g;
  c[i] = cell;
  y[i] = h[i] = out * tanh(cell);
  if (gates) {
    gates[at] = in, gates[at + H] = forget, gates[at + 2 * H] = g, gates[at + 3 * H] = out;
    cells[i] = cell;
  }
}

// before: c of the step before. dc goes on to it.
extern "C" __global__ void __launch_bounds__(256) lstm_cell_backward(const T* __restrict__ dy, const T* __restrict__ dh, T* __restrict__ dc, const T* __restrict__ gates,
                                                      const T* __restrict__ cells, const T* __restrict__ before, T* __restrict__ da,
                                                      int rows, int H) {
  UNIT
  size_t at = (size_t)row * 4 * H + j;
  T in = gates[at], forget = gates[at + H], g = gates[at + 2 * H], out = gates[at + 3 * H];
  T d = dy[i] + dh[i], u = tanh(cells[i]), e = dc[i] + d * out * (1 - u * u);
  da[at] = e * g * in * (1 - in);
  da[at + H] = e * before[i] * forget * (1 - forget);
  da[at + 2 * H] = e * in * (1 - g * g);
  da[at + 3 * H] = d * u * out * (1 - out);
  dc[i] = e * forget;
}

// p = W h + b (b may be null); r, z = s(gx + p), n = tanh(gx_n + r p_n), h' = (h - n) z + n.
extern "C" __global__ void __launch_bounds__(256) gru_cell(const T* __restrict__ gx, const T* __restrict__ p, T* __restrict__ h, T* __restrict__ y,
                                            T* __restrict__ gates, T* __restrict__ inner, int rows, int H) {
  UNIT
  size_t at = (size_t)row * 3 * H + j;
  T r = logistic(gx[at] + p[at]), z = logistic(gx[at + H] + p[at + H]), pn = p[at + 2 * H];
  T n = tanh(gx[at + 2 * H] + r * pn);
  y[i] = h[i] = (h[i] - n) * z + n;
  if (gates) {
    gates[at] = r, gates[at + H] = z, gates[at + 2 * H] = n;
    inner[i] = pn;
  }
}

// dh becomes the part of the gradient that goes past W: dh z.
extern "C" __global__ void __launch_bounds__(256) gru_cell_backward(const T* __restrict__ dy, T* __restrict__ dh, const T* __restrict__ gates, const T* __restrict__ inner,
                                                     const T* __restrict__ before, T* __restrict__ da, T* __restrict__ dp, int rows, int H) {
  UNIT
  size_t at = (size_t)row * 3 * H + j;
  T r = gates[at], z = gates[at + H], n = gates[at + 2 * H], d = dy[i] + dh[i];
  T dn = d * (1 - z) * (1 - n * n), dr = dn * inner[i] * r * (1 - r), dz = d * (before[i] - n) * z * (1 - z);
  da[at] = dp[at] = dr;
  da[at + H] = dp[at + H] = dz;
  da[at + 2 * H] = dn;
  dp[at + 2 * H] = dn * r;
  dh[i] = d * z;
}
