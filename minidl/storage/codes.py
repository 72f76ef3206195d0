"""Two to eight bits a weight, one after another without a gap: the smallest form; floats when it is used."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl.storage.base import Packed


def pack_bits(codes: np.ndarray, bits: int) -> np.ndarray:
    """Whole numbers 0 ... 2**bits - 1 as a stream of bits, lowest first: uint8 (ceil(size * bits / 8),).

    >>> pack_bits(np.uint8([1, 2, 3, 0, 1]), 2).tolist()  # 0b00111001, 0b01
    [57, 1]
    """
    each = np.unpackbits(codes.reshape(-1, 1).astype(np.uint8), axis=1, bitorder="little")[:, :bits]
    return np.packbits(each.reshape(-1), bitorder="little")


def unpack_bits(stream: np.ndarray, bits: int, size: int) -> np.ndarray:
    """The numbers again, uint8 (size,). Raises ValueError unless the stream has just their bits.

    >>> unpack_bits(np.uint8([57, 1]), 2, 5).tolist()
    [1, 2, 3, 0, 1]
    """
    if stream.dtype != np.uint8 or stream.shape != (-(-size * bits // 8),):
        raise ValueError(f"{size} numbers of {bits} bits cannot lie in {stream.dtype} of shape {stream.shape}")
    each = np.unpackbits(stream, bitorder="little")
    if each[size * bits :].any():
        raise ValueError("bits beyond the last number")
    return np.packbits(each[: size * bits].reshape(size, bits), axis=1, bitorder="little")[:, 0]


class Codes(Packed):
    """w = (u - zero) * scale with u in 0 ... 2**bits - 1; rows are the first axis, groups cut the rest into equal runs.

    Args:
        stream: uint8, from :func:`pack_bits`.
        bits: 2 ... 8.
        shape: of the weight (N, ...).
        scale: float32 (1, 1) for the whole tensor, (N, 1) per output, (N, G) for G groups in each; positive.
        zero: uint8 of scale's shape; None: 2**(bits - 1) everywhere, the symmetric form.
        mask: which weights are kept, as `Parameter.mask`, for packed storage that travels without its parameter.

    Raises ValueError for what does not fit.
    """

    kind = "codes"

    def __init__(
        self, stream: np.ndarray, bits: int, shape: tuple[int, ...], scale: np.ndarray, zero: np.ndarray | None = None,
        mask: Any = None,
    ):  # fmt: skip
        if not 2 <= bits <= 8:
            raise ValueError(f"Codes takes 2 ... 8 bits, got {bits}")
        scale = np.ascontiguousarray(scale, np.float32)
        rest = math.prod(shape[1:])
        whole = scale.shape == (1, 1)
        fits = len(shape) and scale.ndim == 2 and (whole or len(scale) == shape[0])
        if not fits or not scale.shape[1] or rest % scale.shape[1]:
            raise ValueError(f"Codes of shape {tuple(shape)} cannot have scales of shape {scale.shape}")
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError("Codes' scales must be positive and finite")
        if zero is not None and (zero.dtype != np.uint8 or zero.shape != scale.shape or zero.max(initial=0) >> bits):
            raise ValueError(f"Codes' zero is uint8 {scale.shape} below 2**{bits}, got {zero.dtype} {zero.shape}")
        unpack_bits(stream, bits, math.prod(shape))  # raises for a stream of another size
        self.stream, self.bits, self.shape = stream, int(bits), tuple(int(n) for n in shape)
        self.scale, self.zero, self.mask = scale, zero, mask

    def arrays(self) -> dict[str, np.ndarray]:
        """stream and scale, zero if affine, and what the shape is of: bits, then sizes."""
        layout = np.array([self.bits, *self.shape], np.int32)
        return {"stream": self.stream, "scale": self.scale, "layout": layout} | (
            {} if self.zero is None else {"zero": self.zero}
        )

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Codes:
        """The inverse of `arrays`."""
        layout = arrays["layout"]
        if layout.dtype != np.int32 or layout.ndim != 1 or layout.size < 2 or (layout < 0).any():
            raise ValueError(f"Codes' layout is int32 (bits, *shape), got {layout.dtype} {layout.shape}")
        bits, *shape = layout.tolist()
        return cls(arrays["stream"], bits, tuple(shape), arrays["scale"], arrays.get("zero"))

    def copy(self) -> Codes:
        """A copy in memory of its own."""
        zero, mask = (None if a is None else a.copy() for a in (self.zero, self.mask))
        return Codes(self.stream.copy(), self.bits, self.shape, self.scale.copy(), zero, mask)

    def codes(self) -> np.ndarray:
        """u, uint8 of the weight's shape."""
        return unpack_bits(self.stream, self.bits, self.size).reshape(self.shape)

    def dequantize(self) -> np.ndarray:
        """(u - zero) * scale, float32."""
        return self._floats(self.codes(), self.scale, self.zero)

    def _floats(self, u: np.ndarray, scale: np.ndarray, zero: np.ndarray | None) -> np.ndarray:
        """u (..., K) in as many equal runs as there are scales; zero None: the middle."""
        middle = 1 << (self.bits - 1) if zero is None else zero.reshape(-1)
        runs = u.reshape(scale.size, u.size // max(scale.size, 1))
        return kernels.dequantize(runs, scale.reshape(-1), middle, axis=0).reshape(u.shape)

    def linear(self, x: Any, b: Any) -> Any:
        """On the float kernel."""
        return kernels.linear(x, self.dequantize().astype(x.dtype, copy=False), b)

    def conv2d(self, x: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        """On the float kernel."""
        w = self.dequantize().astype(x.dtype, copy=False)
        return kernels.conv2d(x, w, b, stride, padding, dilation, groups)

    def _as_images(self, shape: tuple[int, ...]) -> Codes:
        return Codes(self.stream, self.bits, shape, self.scale, self.zero)

    def embedding(self, x: Any) -> Any:
        """The rows that x names."""
        at = np.zeros_like(x) if len(self.scale) == 1 else x
        return self._floats(self.codes()[x], self.scale[at], None if self.zero is None else self.zero[at])

    def rows(self, start: int, stop: int) -> Codes:
        """Outputs start ... stop - 1."""
        some = slice(None) if len(self.scale) == 1 else slice(start, stop)
        zero, mask = (None if a is None else a[s] for a, s in ((self.zero, some), (self.mask, slice(start, stop))))
        shape = (stop - start, *self.shape[1:])
        return Codes(pack_bits(self.codes()[start:stop], self.bits), self.bits, shape, self.scale[some], zero, mask)

    def __repr__(self) -> str:
        scales = "per tensor" if self.scale.size == 1 else "per output"
        if self.scale.shape[1] > 1:
            scales = f"group {self.size // self.scale.size}"
        form = "symmetric" if self.zero is None else "affine"
        return f"Codes(shape={self.shape}, {self.bits} bits, {form}, {scales}, {self.nbytes} bytes)"
