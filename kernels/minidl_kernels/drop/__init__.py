"""Dropout, its random numbers made where they are used, and its gradient.

    dropout     x -> y, mask, both shaped as x: mask where u >= p, y = x / (1 - p) there and 0 elsewhere
    mask_scale  x, mask -> x scale where mask, 0 elsewhere: dropout's gradient, and that one's

u is the upper 24 bits of a random word, times 2^-24, and p is rounded to float32. The words are those of Philox4x32-10
(Salmon, Moraes, Dror, Shaw 2011, doi 10.1145/2063384.2063405) under the key `seed`: element i has word i % 4 of the
block whose counter is (block + i // 4, stream), the low halves first. p below 1.
"""

from __future__ import annotations

from .. import checks
from ..registry import REFERENCE, Op, Variant

OPS = tuple(
    Op(
        name,
        check=getattr(checks, name),
        variants=(
            Variant("reference", load=f"minidl_kernels.drop.reference:{name}", cost=REFERENCE, note="the formula"),
            Variant("vectors", load=f"minidl_kernels.drop.cpu:{name}", note=idea),
            Variant(
                "elements",
                load=f"minidl_kernels.drop.cuda:{name}",
                device="cuda",
                note="a thread for four elements, one block of the generator",
            ),
        ),
    )
    for name, idea in (
        ("dropout", "eight blocks of the generator at a time, compared and used in registers"),
        ("mask_scale", "one pass, blocks shared among the threads"),
    )
)
