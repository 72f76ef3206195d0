"""Packed storage that a Parameter can hold in place of a float array: shape, dtype, nbytes, dequantize().

A packed array is smaller, and the ops that know it (linear, convolutions, embedding, recurrent scans) run kernels made
for it. Any other op that meets one raises with advice, so nothing is unpacked behind the user's back.

    Int8    a scale per output; activations become int8, too, and the product is one of integers
    Int4    a scale per group of inputs; weights become floats in registers, on the way to the multiplication
    Codes   2 to 8 bits, symmetric or affine, scales per tensor, output or group: the smallest file
    CSR     only what is not zero, with its column: sparse products
    NM      n of every m in a row, with their places in a few bits: sparse products, too
    Scaled  one of the first three, its inputs scaled on the way in
    Codebook  a table of up to 256 values, and for each weight the number of its value
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from minidl.storage.base import Packed, PackedError

if TYPE_CHECKING:
    from minidl.storage.codebook import Codebook
    from minidl.storage.codes import Codes, pack_bits, unpack_bits
    from minidl.storage.csr import CSR
    from minidl.storage.int4 import Int4
    from minidl.storage.int8 import Int8
    from minidl.storage.nm import NM
    from minidl.storage.scaled import Scaled

__all__ = [
    "CSR",
    "NM",
    "Codebook",
    "Codes",
    "Int4",
    "Int8",
    "Packed",
    "PackedError",
    "Scaled",
    "pack_bits",
    "kinds",
    "unpack_bits",
]

# The kinds are read when first asked for.
_KINDS = {
    "CSR": "csr", "NM": "nm", "Codebook": "codebook", "Codes": "codes", "Int4": "int4", "Int8": "int8",
    "Scaled": "scaled",
}  # fmt: skip
_PAGES = {**_KINDS, "pack_bits": "codes", "unpack_bits": "codes"}


def __getattr__(name: str) -> Any:
    if name in _PAGES:
        return getattr(import_module(f"minidl.storage.{_PAGES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def kinds() -> list[type[Packed]]:
    """Every kind of storage, the user's own included."""
    for name in _KINDS:
        __getattr__(name)
    return Packed.__subclasses__()
