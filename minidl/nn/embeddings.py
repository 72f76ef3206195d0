"""Embedding and EmbeddingBag: a table of vectors looked up by index."""

from __future__ import annotations

from typing import Any

from minidl.nn import init
from minidl.nn.module import Module
from minidl.nn.parameter import Parameter
from minidl.ops.create import empty
from minidl.ops.embeddings import TableError, embedding, embedding_bag, padding_row

__all__ = ["Embedding", "EmbeddingBag"]


class _Table(Module):
    """What both share: weight (num_embeddings, embedding_dim) and how its rows are read."""

    weight: Any
    padding_idx: int | None
    sparse: bool

    def _build(self, rows: int, size: int, weight: Any, freeze: bool, device: Any, dtype: Any) -> None:
        if self.sparse:
            raise NotImplementedError(
                f"{type(self).__name__}: sparse=True needs sparse gradients, which minidl has not; use sparse=False"
            )
        self.padding_idx = padding_row(self.padding_idx, rows)
        if weight is None:
            self.weight = Parameter(empty(rows, size, device=device, dtype=dtype), requires_grad=not freeze)
            self.reset_parameters()
        else:
            if tuple(weight.shape) != (rows, size):
                raise TableError(
                    "Shape of weight does not match num_embeddings and embedding_dim: "
                    f"{tuple(weight.shape)} is not {(rows, size)}"
                )
            self.weight = Parameter(weight, requires_grad=not freeze)

    def reset_parameters(self) -> None:
        """Draw initial values again: standard normal, zeros at padding_idx."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            self.weight.array[self.padding_idx] = 0

    def extra_repr(self) -> str:
        s = f"{self.num_embeddings}, {self.embedding_dim}"
        for name, default in self.shown:
            value = getattr(self, name)
            s += "" if value == default else f", {name}={value!r}"
        return s

    shown: tuple[tuple[str, Any], ...] = ()


def _matrix(embeddings: Any) -> tuple[int, int]:
    if embeddings.ndim != 2:
        raise TableError(f"Embeddings parameter is expected to be 2-dimensional, got {tuple(embeddings.shape)}")
    return tuple(embeddings.shape)


class Embedding(_Table):
    """y[...] = weight[x[...]].    x (...) integer -> y (..., embedding_dim); weight (num_embeddings, embedding_dim)

    Args:
        padding_idx: the row of this index starts as zeros and gets no gradient.
        max_norm: rows that are read and longer than this, in the norm `norm_type`, are shortened to it, in place.
        scale_grad_by_freq: a row's gradient is divided by the number of times it was read.
        sparse: NotImplementedError: minidl has no sparse gradients.

    Raises AssertionError (a ValueError, too) for a padding_idx outside the table, IndexError for an index outside it.

    >>> import minidl
    >>> tuple(Embedding(10, 3)(minidl.tensor([[1, 2], [4, 9]])).shape)
    (2, 2, 3)

    Try: Embedding(5, 3)(randint(0, 5, (2, 4)))
    """

    shown = (("padding_idx", None), ("max_norm", None), ("norm_type", 2), ("scale_grad_by_freq", False))

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, max_norm: float | None = None,
        norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False, _weight: Any = None,
        _freeze: bool = False, device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.max_norm, self.norm_type = max_norm, norm_type
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, sparse
        self._build(num_embeddings, embedding_dim, _weight, _freeze, device, dtype)

    @classmethod
    def from_pretrained(
        cls, embeddings: Any, freeze: bool = True, padding_idx: int | None = None, max_norm: float | None = None,
        norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
    ) -> Embedding:  # fmt: skip
        """An Embedding on a given table (V, D), shared; frozen unless ``freeze=False``.

        Raises AssertionError for a table that has not two dimensions.
        """
        return cls(
            *_matrix(embeddings), padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, embeddings, freeze
        )

    def forward(self, input: Any) -> Any:
        """(...) -> (..., embedding_dim)"""
        return embedding(
            input, self.weight, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse
        )


class EmbeddingBag(_Table):
    """The sum, mean or maximum of the rows of each bag of indices, without keeping the rows apart.

    Args:
        mode: "sum", "mean" or "max".
        include_last_offset: the last of the offsets is the end of the last bag, not the start of another.
        padding_idx: indices of this value are left out of their bags; their row starts as zeros.
        max_norm, norm_type, scale_grad_by_freq, sparse: as Embedding's.

    Raises AssertionError (a ValueError, too) for a padding_idx outside the table.

    >>> import minidl
    >>> bags = EmbeddingBag(10, 3, mode="sum")
    >>> tuple(bags(minidl.tensor([1, 2, 4, 9]), minidl.tensor([0, 3])).shape)
    (2, 3)

    Try: EmbeddingBag(5, 3)(randint(0, 5, (2, 4)))
    """

    shown = (("max_norm", None), ("norm_type", 2), ("scale_grad_by_freq", False), ("mode", None), ("padding_idx", None))

    def __init__(
        self, num_embeddings: int, embedding_dim: int, max_norm: float | None = None, norm_type: float = 2.0,
        scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False, _weight: Any = None,
        include_last_offset: bool = False, padding_idx: int | None = None, device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.max_norm, self.norm_type = max_norm, norm_type
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, sparse
        self.mode, self.include_last_offset = mode, include_last_offset
        self._build(num_embeddings, embedding_dim, _weight, False, device, dtype)

    @classmethod
    def from_pretrained(
        cls, embeddings: Any, freeze: bool = True, max_norm: float | None = None, norm_type: float = 2.0,
        scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False, include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> EmbeddingBag:  # fmt: skip
        """An EmbeddingBag on a given table (V, D), shared; frozen unless ``freeze=False``.

        Raises AssertionError for a table that has not two dimensions.
        """
        bags = cls(
            *_matrix(embeddings), max_norm, norm_type, scale_grad_by_freq, mode, sparse, embeddings,
            include_last_offset, padding_idx,
        )  # fmt: skip
        bags.weight.requires_grad_(not freeze)
        return bags

    def forward(self, input: Any, offsets: Any = None, per_sample_weights: Any = None) -> Any:
        """(B, N) -> (B, embedding_dim); or (L,) and `offsets` (B,), see :func:`minidl.nn.functional.embedding_bag`."""
        return embedding_bag(
            input, self.weight, offsets, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.mode,
            self.sparse, per_sample_weights, self.include_last_offset, self.padding_idx,
        )  # fmt: skip
