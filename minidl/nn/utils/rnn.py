"""Sequences of different lengths, padded to one tensor or packed without padding; torch.nn.utils.rnn's names.

Packed, step t of the longest sequences comes first: the rows of all sequences that have a step 0, then of all that have
a step 1, and so on. Every function here is one gather: which row goes where is worked out in integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minidl import devices
from minidl.ops.indexing import getitem
from minidl.ops.joining import cat
from minidl.tensors import Tensor, wrap

__all__ = [
    "PackedSequence", "invert_permutation", "pack_padded_sequence", "pack_sequence", "pad_packed_sequence",
    "pad_sequence", "unpack_sequence", "unpad_sequence",
]  # fmt: skip


class _Fields(NamedTuple):
    data: Any
    batch_sizes: Any
    sorted_indices: Any
    unsorted_indices: Any


class PackedSequence(_Fields):
    """Sequences without padding: data (L, ...), batch_sizes (T,): how many sequences have a step t.

    sorted_indices (B,): which sequence of the batch comes first, second ...; None if they came in order, the longest
    first. unsorted_indices (B,): its inverse. Made by pack_padded_sequence and pack_sequence.
    """

    __slots__ = ()

    def __new__(
        cls, data: Any, batch_sizes: Any, sorted_indices: Any = None, unsorted_indices: Any = None
    ) -> PackedSequence:
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The same with ``data.to(...)``; the numbers that say what lies where stay on the CPU."""
        return PackedSequence(self.data.to(*args, **kwargs), *self[1:])

    def float(self) -> PackedSequence:
        """The same with float32 data."""
        return PackedSequence(self.data.float(), *self[1:])

    def double(self) -> PackedSequence:
        """The same with float64 data."""
        return PackedSequence(self.data.double(), *self[1:])


def _integers(t: Any) -> np.ndarray:
    return np.asarray(t.detach().cpu().array if isinstance(t, Tensor) else t, np.int64)


def invert_permutation(permutation: Any) -> Any:
    """p (N,) -> q with q[p[i]] = i; None for None."""
    if permutation is None:
        return None
    p = _integers(permutation)
    inverse = np.empty_like(p)
    inverse[p] = np.arange(len(p))
    return wrap(inverse)


def _pack(x: Any, lengths: np.ndarray, batch_first: bool, enforce_sorted: bool) -> PackedSequence:
    if x.ndim < 2:
        raise RuntimeError(f"expected a padded batch (T, B, ...), got shape {tuple(x.shape)}")
    time, batch = (x.shape[1], x.shape[0]) if batch_first else x.shape[:2]
    if lengths.shape != (batch,):
        raise RuntimeError(f"Expected `len(lengths)` to be equal to batch_size {batch}, but got {lengths.shape}")
    if batch == 0:
        raise RuntimeError("Cannot pack empty tensors.")
    if lengths.min() <= 0:
        raise RuntimeError(
            "Length of all samples has to be greater than 0, but found an element in 'lengths' that is <= 0"
        )
    if lengths.max() > time:
        raise RuntimeError(f"a length of {lengths.max()} is more than the {time} steps of the input {tuple(x.shape)}")
    order = None
    if not enforce_sorted:
        order = np.argsort(-lengths, kind="stable")
        lengths = lengths[order]
    elif (np.diff(lengths) > 0).any():
        raise RuntimeError(
            "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You can pass "
            "`enforce_sorted=False` to pack_padded_sequence to sidestep this requirement"
        )
    runs = np.arange(lengths[0])[:, None] < lengths  # (T, B)
    steps, rows = np.nonzero(runs)
    if order is not None:
        rows = order[rows]
    data = getitem(x, (rows, steps) if batch_first else (steps, rows))
    return PackedSequence(data, wrap(runs.sum(1)), None if order is None else wrap(order))


def pack_padded_sequence(
    input: Any, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Leave out the padding of input (T, B, ...), or (B, T, ...) with `batch_first`. lengths: B integers.

    The sequences must come with the longest first, unless ``enforce_sorted=False``, which sorts them; results of
    pad_packed_sequence and of the recurrent layers are then back in the given order. Raises RuntimeError for lengths
    out of order, not positive, longer than the input, or of another number.
    """
    return _pack(input, _integers(lengths), batch_first, enforce_sorted)


def _padded(rows: Any, at: np.ndarray, padding_value: float) -> Any:
    """rows (L, ...) at the places `at` says; those where it says L get the padding."""
    if not (at == rows.shape[0]).any():
        return getitem(rows, at)
    xp = devices.array_module(rows.array)
    padding = wrap(xp.full((1, *rows.shape[1:]), padding_value, rows.array.dtype))
    return getitem(cat([rows, padding], 0), at)


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Any, Any]:
    """(padded (T, B, ...), lengths (B,)): the inverse of pack_padded_sequence; (B, T, ...) with `batch_first`.

    T is the longest length, or total_length. Raises ValueError when that is less.
    """
    sizes = _integers(sequence.batch_sizes)
    time = len(sizes) if total_length is None else total_length
    if time < len(sizes):
        raise ValueError(
            "Expected total_length to be at least the length of the longest sequence in input, but got "
            f"total_length={total_length} and max sequence length being {len(sizes)}"
        )
    at = np.full((time, sizes[0]), sizes.sum())
    runs = np.arange(sizes[0]) < sizes[:, None]  # (T, B)
    at[: len(sizes)][runs] = np.arange(sizes.sum())
    lengths = runs.sum(0)
    if sequence.unsorted_indices is not None:
        back = _integers(sequence.unsorted_indices)
        at, lengths = at[:, back], lengths[back]
    return _padded(sequence.data, at.T if batch_first else at, padding_value), wrap(lengths)


def pad_sequence(
    sequences: Any, batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Any:
    """Sequences (L_b, ...) as one tensor (T, B, ...), or (B, T, ...) with `batch_first`; T is the longest.

    padding_side: "right", the end, or "left". Raises RuntimeError for no sequences or another side.
    """
    if not isinstance(sequences, Iterable):
        raise RuntimeError(f"pad_sequence: Expected iterable for input sequences, but got {type(sequences)}")
    sequences = list(sequences)
    if not sequences:
        raise RuntimeError("pad_sequence: received an empty list of sequences")
    if padding_side not in ("left", "right"):
        raise RuntimeError(f"Expected padding_side to be one of left or right, but got {padding_side}.")
    lengths = np.array([s.shape[0] for s in sequences])
    time, place = lengths.max(), np.arange(lengths.max())
    runs = place < lengths[:, None] if padding_side == "right" else place >= time - lengths[:, None]  # (B, T)
    at = np.full(runs.shape, lengths.sum())
    at[runs] = np.arange(lengths.sum())
    return _padded(cat(sequences, 0), at if batch_first else at.T, padding_value)


def unpad_sequence(padded_sequences: Any, lengths: Any, batch_first: bool = False) -> list:
    """The sequences (L_b, ...) of a padded batch (T, B, ...), or (B, T, ...) with `batch_first`."""
    sizes = _integers(lengths).tolist()
    if batch_first:
        return [padded_sequences[b, :n] for b, n in enumerate(sizes)]
    return [padded_sequences[:n, b] for b, n in enumerate(sizes)]


def pack_sequence(sequences: Sequence[Any], enforce_sorted: bool = True) -> PackedSequence:
    """Sequences (L_b, ...) packed; as pack_padded_sequence."""
    lengths = np.array([s.shape[0] for s in sequences])
    return _pack(pad_sequence(sequences), lengths, False, enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list:
    """The sequences (L_b, ...) of a packed batch, in the order in which they were given."""
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)
