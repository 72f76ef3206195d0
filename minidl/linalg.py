"""torch.linalg's names: norms, singular values, inverses, factors, and the product of matrices."""

from minidl.ops.distances import linalg_norm as norm
from minidl.ops.distances import matrix_norm, svd, vector_norm
from minidl.ops.distances import singular_values as svdvals
from minidl.ops.factorizations import LinAlgError as LinAlgError
from minidl.ops.factorizations import eigh, eigvalsh, inv, pinv, solve, solve_triangular
from minidl.ops.factorizations import linalg_cholesky as cholesky
from minidl.ops.factorizations import linalg_det as det
from minidl.ops.factorizations import linalg_matrix_exp as matrix_exp
from minidl.ops.factorizations import linalg_matrix_power as matrix_power
from minidl.ops.factorizations import linalg_qr as qr
from minidl.ops.factorizations import linalg_slogdet as slogdet
from minidl.ops.linalg import matmul
from minidl.ops.lu import cholesky_ex, inv_ex, lu, lu_factor, lu_factor_ex, lu_solve, solve_ex
from minidl.ops.more_products import multi_dot, vecdot
from minidl.ops.solving import cond, lstsq, matrix_rank, tensorinv, tensorsolve
from minidl.ops.solving import linalg_diagonal as diagonal
from minidl.ops.solving import linalg_vander as vander
from minidl.ops.vectors import linalg_cross as cross

__all__ = [
    "cholesky", "cholesky_ex", "cond", "cross", "det", "diagonal", "eigh", "eigvalsh", "inv", "inv_ex", "lstsq",
    "lu", "lu_factor", "lu_factor_ex", "lu_solve", "matmul", "matrix_exp", "matrix_norm", "matrix_power", "matrix_rank",
    "multi_dot", "norm", "pinv", "qr", "slogdet", "solve", "solve_ex", "solve_triangular", "svd", "svdvals",
    "tensorinv", "tensorsolve", "vander", "vecdot", "vector_norm",
]  # fmt: skip
