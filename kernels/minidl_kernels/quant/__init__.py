"""From floats to 8-bit codes and back, by scales known beforehand.

    quantize     x float -> q int8:     clip(rint(x / s) + z, low, high), half to even; a NaN becomes z
    dequantize   q int8 or uint8 -> x:  float32(q - z) * s

A scale s and a zero point z for the whole array (axis None: two numbers), or one for each index of `axis` (arrays
(C,), z of the codes' dtype; one number z serves all). Fewer bits are narrower bounds: -7 ... 7 is symmetric in 4 bits.
float64 is rounded to float32 first; the division, the product and nothing else are rounded, each once. The bounds are
whole numbers, so it is the same to clip first. Codes are inside the bounds whatever x is.

Jacob et al. 2018 (arXiv:1712.05877), equation 1; docs/quantization.md has the arithmetic of the layers around it.
"""

from __future__ import annotations

from .. import checks
from ..registry import REFERENCE, Op, Variant

OPS = tuple(
    Op(
        name,
        check=check,
        variants=(
            Variant("reference", load=f"minidl_kernels.quant.reference:{name}", cost=REFERENCE, note="the formula"),
            Variant("vectors", load=f"minidl_kernels.quant.cpu:{name}", note="one pass in vectors, shared by threads"),
            Variant(
                "elements",
                load=f"minidl_kernels.quant.cuda:{name}",
                device="cuda",
                note="a thread steps over elements",
            ),
        ),
    )
    for name, check in (("quantize", checks.quantize), ("dequantize", checks.dequantize))
)
