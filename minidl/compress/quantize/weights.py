"""Weights as packed storage: which scales they share, symmetric or affine, and the clipping that loses least."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl.compress.quantize.arrays import absmax_scale, minmax_scale, quantize_array
from minidl.devices import move
from minidl.storage import Codes, Int4, Int8, pack_bits

__all__ = ["groups_of", "pack_int8", "pack_weight"]


def groups_of(shape: tuple[int, ...], per: str = "channel", group: int | None = None) -> tuple[int, int]:
    """(rows, groups in a row) that have a scale each, of a weight (N, ...).

    `per` is "tensor", "channel" (each output, the first axis) or "group" (`group` neighbouring inputs of an output).
    Raises ValueError for another word, and for groups that do not divide the inputs.
    """
    rest = math.prod(shape[1:])
    if (per == "group") != (group is not None):
        raise ValueError(f'per="group" goes with a group size, got per={per!r}, group={group!r}')
    if group is not None:
        if isinstance(group, bool) or not isinstance(group, int) or group < 1 or rest % group:
            raise ValueError(f"groups of {group!r} do not divide the {rest} inputs of a weight {tuple(shape)}")
        return shape[0], rest // group
    if per not in ("tensor", "channel"):
        raise ValueError(f'per must be "tensor", "channel" or "group", got {per!r}')
    return (1, 1) if per == "tensor" else (shape[0], 1)


def pack_int8(w: Any, x_scale: float | None = None, mask: Any = None, per: str = "channel") -> Int8:
    """A weight (N, ...) float32 as symmetric int8 for the integer kernels. Raises as `pack_weight`.

    >>> pack_int8(np.float32([[127, 1], [0, 0]])).q.tolist()
    [[127, 1], [0, 0]]
    """
    w = _floats(w)
    groups_of(w.shape, per)
    scale = absmax_scale(w) if per == "channel" else np.full(len(w), absmax_scale(w, axis=None), np.float32)
    return Int8(quantize_array(w, scale), scale, x_scale, mask)


def pack_weight(
    w: Any, bits: int = 8, symmetric: bool = True, per: str = "channel", group: int | None = None, mask: Any = None
) -> Codes | Int4:
    """A weight (N, ...) float32 in 2 ... 8 bits, to be used as floats.

    A matrix of 4 bits in groups that are multiples of 32 comes as Int4, which has a kernel of its own, all else as
    Codes: ceil(size * bits / 8) bytes, and scales. Raises ValueError for bits outside 2 ... 8, for NaN or infinity and
    for groups that do not fit, TypeError for weights that are not float32.

    >>> packed = pack_weight(np.float32([[3, -1, 0]]), bits=3)
    >>> packed.stream.nbytes, packed.dequantize().tolist()
    (2, [[3.0, -1.0, 0.0]])
    """
    w = _floats(w)
    rows, groups = groups_of(w.shape, per, group)
    flat = w.reshape(rows * groups, -1)
    middle = 2 ** (bits - 1) if isinstance(bits, int) and not isinstance(bits, bool) else 0
    if symmetric:
        scale, zero = absmax_scale(flat, bits), None
        codes = quantize_array(flat, scale, bits=bits)
    else:
        scale, z = minmax_scale(flat, bits)
        codes = quantize_array(flat, scale, z, bits)
        zero = (z + middle).astype(np.uint8).reshape(rows, groups)
    return stored(codes, scale.reshape(rows, groups), zero, bits, w.shape, mask)


def stored(
    codes: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, bits: int, shape: tuple[int, ...], mask: Any = None,
    floats: bool = True,
) -> Codes | Int4:  # fmt: skip
    """Signed codes of any arrangement as the storage for them; `scale` and `zero` (rows, groups), zero unsigned.
    Without `floats` they are not meant for Int4's kernel, which multiplies floats."""
    u = (codes.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    if (
        floats
        and bits == 4
        and len(shape) == 2
        and len(scale) == shape[0]
        and shape[1] // scale.shape[1] % 32 == 0
        and shape[1]
    ):
        return Int4(kernels.pack_int4(u.reshape(shape)), scale, zero, mask)
    return Codes(pack_bits(u, bits), bits, shape, scale, zero, mask)


def _floats(w: Any) -> np.ndarray:
    w = move(w, "cpu")
    if w.dtype != np.float32:
        raise TypeError(f"a weight of {w.dtype} cannot be quantized, only float32 can")
    if not w.ndim:
        raise ValueError("a single number cannot be quantized: a weight is (outputs, ...)")
    return w
