"""Sequences of several lengths to one batch, and a mask that tells what is real in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.tensors import Tensor, wrap

__all__ = ["pad_sequences"]


def pad_sequences(
    sequences: Sequence[Any], maxlen: int | None = None, padding: str = "post", truncating: str = "post",
    value: float = 0, dtype: Any = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Sequences of several lengths as one Tensor, and a mask: True where an element is real.    N, T, ...; N, T

    Args:
        sequences: lists, arrays or Tensors of shapes (T_i, ...).
        maxlen: T (default: the longest); what is longer is cut.
        padding, truncating: "post" fills and cuts at the end, "pre" at the start (Keras's default).
        value: what fills.
        dtype: default: that of the sequences, int64 for lists of integers, float32 for lists of floats.

    The mask keeps the padding out: attention is given what to hide, ``key_padding_mask=~mask``; a recurrent layer the
    lengths, ``pack_padded_sequence(x, mask.sum(1), batch_first=True, enforce_sorted=False)``, which wants "post".

    Raises ValueError for no sequences at all, trailing shapes that differ, and other words than those.

    >>> ids, mask = pad_sequences([[1, 2, 3], [4]])
    >>> ids.tolist(), mask.tolist()
    ([[1, 2, 3], [4, 0, 0]], [[True, True, True], [True, False, False]])
    """
    for name, word in (("padding", padding), ("truncating", truncating)):
        if word not in ("pre", "post"):
            raise ValueError(f"pad_sequences: {name} must be 'pre' or 'post', got {word!r}")
    if not len(sequences):
        raise ValueError("pad_sequences: no sequences")
    arrays = [_array(s) for s in sequences]
    full = [a for a in arrays if a.size] or arrays
    shapes = {a.shape[1:] for a in full}
    if len(shapes) > 1:
        raise ValueError(f"pad_sequences: elements of different shapes, {sorted(shapes)}")
    length = max(len(a) for a in arrays) if maxlen is None else maxlen
    if length < 0:
        raise ValueError(f"pad_sequences: maxlen must not be negative, got {maxlen}")
    kind = np.result_type(*full) if dtype is None else np.dtype(dtype)
    out = np.full((len(arrays), length, *shapes.pop()), value, kind)
    mask = np.zeros((len(arrays), length), bool)
    for i, a in enumerate(arrays):
        a = a[:length] if truncating == "post" else a[max(len(a) - length, 0) :]
        if len(a):
            at = slice(0, len(a)) if padding == "post" else slice(length - len(a), length)
            out[i, at], mask[i, at] = a, True
    return wrap(out), wrap(mask)


def _array(sequence: Any) -> np.ndarray:
    if isinstance(sequence, Tensor):
        return sequence.detach().numpy()
    if isinstance(sequence, np.ndarray):
        return sequence
    a = np.asarray(sequence)
    return a.astype(np.int64 if not a.size or a.dtype.kind in "iu" else np.float32 if a.dtype.kind == "f" else a.dtype)
