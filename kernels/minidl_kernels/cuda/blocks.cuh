// Blocks that make squares of a matrix with N columns are counted along x, one row of squares after the other
// (launch.squares): along y there is room for no more than 65535.
__device__ __forceinline__ int first_row(int N, int side) { return blockIdx.x / ((N + side - 1) / side) * side; }
__device__ __forceinline__ int first_column(int N, int side) { return blockIdx.x % ((N + side - 1) / side) * side; }
