"""Of whole numbers: common divisors and multiples, shifted bits; mantissa and exponent of floats."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.autograd import OpType, op
from minidl.ops.common import Binary, meet, need_arrays, of_tensors
from minidl.ops.reduce import named
from minidl.ops.signs_of_floats import mantissa_and_exponent

_Parts = named("frexp", "mantissa", "exponent")


def _whole(name: str, doc: str, function: Any, numbers: bool, operator: str | None = None) -> Any:
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        if not numbers:
            need_arrays(name, a, b)
        if not (hasattr(a, "dtype") or hasattr(b, "dtype")):
            raise TypeError(f"{name}(): one of the arguments must be a Tensor")
        if any((x.dtype.kind if hasattr(x, "dtype") else "b" if x is True else "i") not in "iu" for x in (a, b)):
            raise NotImplementedError(f"{name} is for integers")
        return function(a, b)

    doc = f"""{doc}

    Why: whole numbers jump: they have no slope.
    Try: {name}(randint(0, 30, (4,)), randint(1, 9, (4,)))
    """
    body = {
        "forward": forward,
        "promote": staticmethod(meet if numbers else of_tensors(meet, name)),
        "differentiable": False,
        "__doc__": doc,
        "__module__": __name__,
    }
    return op(method=name, inplace=True, operator=operator)(OpType(name, (Binary,), body))


gcd = _whole("gcd", "The greatest common divisor of a and b, not negative", np.gcd, False)
lcm = _whole("lcm", "The least common multiple of a and b, not negative", np.lcm, False)
bitwise_left_shift = _whole(
    "bitwise_left_shift",
    "y = a << b, a's bits moved up by b; 0 where b is negative or too large",
    np.left_shift,
    True,
    "lshift",
)
bitwise_right_shift = _whole(
    "bitwise_right_shift", "y = a >> b, a's bits moved down by b, filled with the sign", np.right_shift, True, "rshift"
)


@op(method="frexp")
def frexp(input: Any) -> Any:
    """(mantissa, exponent): input = mantissa 2^exponent, 0.5 <= |mantissa| < 1, exponent int32.

    Try: frexp(randn(3))
    """
    return _Parts(*mantissa_and_exponent(input))
