"""Activations, element by element, and their gradients in one pass.

    activation           x -> y = f(x), of one shape
    activation_backward  dy, and x or y -> dx = dy f'(x)

    name         y                              the gradient is computed from
    relu         max(x, 0)                      y: dy where y > 0 or y is NaN, else 0
    exp          e^x                            y: dy y
    tanh         tanh x                         y: dy (1 - y^2)
    sigmoid      s(x) = 1 / (1 + e^-x)          y: dy y (1 - y)
    silu         x s(x)                         x: dy s (1 + x (1 - s))
    gelu         x Phi(x)                       x: dy (Phi(x) + x phi(x))
    gelu_tanh    x s(2 u)                       x: dy (s + x s (1 - s) 2 u'),  u = sqrt(2 / pi) (x + 0.044715 x^3)
    relu6        min(max(x, 0), 6)              y: 0 where y <= 0 or y >= 6, else dy

Phi and phi are the normal distribution's function and density; s(2 u) = (1 + tanh u) / 2.
"""

from __future__ import annotations

from .. import checks
from ..registry import REFERENCE, Op, Variant

OPS = tuple(
    Op(
        name,
        check=check,
        variants=(
            Variant("reference", load=f"minidl_kernels.pointwise.reference:{name}", cost=REFERENCE, note="the formula"),
            Variant(
                "vectors",
                load=f"minidl_kernels.pointwise.cpu:{name}",
                note="one pass in vectors, polynomials for the exponentials, blocks shared among the threads",
            ),
            Variant(
                "elements",
                load=f"minidl_kernels.pointwise.cuda:{name}",
                device="cuda",
                note="a thread steps over elements",
            ),
        ),
    )
    for name, check in (("activation", checks.activation), ("activation_backward", checks.activation_backward))
)
