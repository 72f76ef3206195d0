// y (rows, D): row r of it is the sum of the rows order[starts[r]] .. order[starts[r + 1] - 1] of x, added one after the
// other. Eight rows to a block, a warp for each, 32 columns along blockIdx.y.
extern "C" __global__ void __launch_bounds__(256) scatter_rows(const T* __restrict__ x, const long long* __restrict__ order, const long long* __restrict__ starts,
                                               T* __restrict__ y, int rows, int D) {
  int row = blockIdx.x * 8 + threadIdx.y, column = blockIdx.y * 32 + threadIdx.x;
  if (row >= rows || column >= D) return;
  T sum = 0;
  for (long long i = starts[row], last = starts[row + 1]; i < last; i++) sum += x[(size_t)order[i] * D + column];
  y[(size_t)row * D + column] = sum;
}
