"""Why topological order: a graph with two ways from x to y, walked back in a right and in a wrong order.

        x = 3
        |
        a = x * x  = 9          dy/da = d(b + c)/da = 2 a + 5 = 23
       / \\
 b = a*a  c = 5*a               a is used twice: its gradient is complete when both have answered
       \\ /
        y = b + c               dy/dx = 23 * 2 x = 138

Run it: ``python -m minidl.inside.diamonds``
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.inside.traces import Trace
from minidl.tensors import wrap

__all__ = ["diamond", "paths"]


def diamond() -> tuple[Any, Trace, dict[str, list]]:
    """The leaf x, the backward pass of the diamond above, and its nodes in three orders.

    "too early" visits a before c has answered: what c gives comes too late and is lost.

    >>> x, t, orders = diamond()
    >>> for name, order in orders.items():
    ...     print(f"{name:12}", " ".join(node.name() for node in order), t.in_order(order)[x])
    topological  add mul mul mul 138.0
    too early    add mul mul mul 108.0
    """
    x = wrap(np.array(3.0), True)
    a = x * x
    b, c = a * a, a * 5.0
    y = b + c
    t = Trace(y, None, {id(x): "x", **{id(v.node): name for name, v in zip("yabc", (y, a, b, c))}}, None)
    right, early = [y, b, c, a], [y, b, a, c]
    return x, t, {"topological": [v.node for v in right], "too early": [v.node for v in early]}


def paths(n: int) -> int:
    """How many calls a recursive backward without any order makes for n times ``y = y + y``: one for each path.

    Each call hands its gradient on at once, so the sum comes out right, after 2^n visits of the first node.

    >>> paths(3), paths(10)
    (15, 2047)
    """
    y = wrap(np.array(1.0), True) * 1.0
    for _ in range(n):
        y = y + y

    def visit(node: Any) -> int:
        return 1 + sum(visit(p) for p in node.parents if hasattr(p, "parents"))

    return visit(y.node)


def main() -> None:
    """Print the diamond walked in both orders, step by step, and the price of no order at all."""
    x, t, orders = diamond()
    print(__doc__.split("Run it")[0])
    print("In topological order, as the engine walks:\n")
    while t.position < len(t):
        t.step()
        print(t.text(t.steps[-1]), "\n")
    for name, order in orders.items():
        print(f"{name:12} {', '.join(t.names[id(node)] for node in order)}: dy/dx = {t.in_order(order)[x]:g}")
    print(
        "\nIn the second order a hands on its gradient before c has added to it: 5 of the 23 are lost.\n"
        f"A recursion that hands on along every path loses nothing, but needs {paths(16):,} calls for 16 times "
        "y = y + y, which is 17 nodes."
    )


if __name__ == "__main__":
    main()
