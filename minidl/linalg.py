"""torch.linalg's names: norms, singular values, and the product of matrices."""

from minidl.ops.distances import linalg_norm as norm
from minidl.ops.distances import matrix_norm, svd, vector_norm
from minidl.ops.distances import singular_values as svdvals
from minidl.ops.linalg import matmul

__all__ = ["matmul", "matrix_norm", "norm", "svd", "svdvals", "vector_norm"]
