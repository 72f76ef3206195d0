"""Steps of optimizers over many arrays at once, in place: the one family that writes into what it is given.

    sgd_step   params, grads, buffers -> None: params and buffers, the running sums of gradients, move on
    adam_step  params, grads, means, squares, greatest, steps -> None: params and all three kinds of state move on

All are lists, entry i of each for parameter i, of one shape and dtype there. What is written must be C-contiguous,
aligned and writeable; grads may have any layout and are only read. An array that shares memory with another is updated
as often as it is listed, in the order of the list.

With d = g, or -g to maximize, and t the parameter's own number of steps, this one counted, from 1:

    sgd   d = d + weight_decay w
          m = momentum m + (1 - dampening) d,    d = m, or d + momentum m for nesterov    (where there are buffers)
          w = w - lr d
    adam  d = d + weight_decay w, or, decoupled, w = (1 - lr weight_decay) w
          v = beta2 v + (1 - beta2) d^2,    m = m + (1 - beta1) (d - m)
          u = v, or max(greatest, v), which `greatest` becomes, where it is given
          w = w - lr / (1 - beta1^t) m / (sqrt(u) / sqrt(1 - beta2^t) + eps)

and, where `masks` has a bool array for the parameter, w = 0 where it is False (and -0 becomes 0), whatever the step
made of it: momentum and decay bring no pruned weight back.

Every operation is rounded by itself, in the order of the reference, so all variants agree to the last bit.
"""

from __future__ import annotations

from .. import checks
from ..registry import REFERENCE, Op, Variant

OPS = tuple(
    Op(
        name,
        check=getattr(checks, name),
        variants=(
            Variant("reference", load=f"minidl_kernels.optim.reference:{name}", cost=REFERENCE, note="the formula"),
            Variant(
                "vectors",
                load=f"minidl_kernels.optim.cpu:{name}",
                note="one pass over all parameters in one call, pieces of them shared among the threads",
            ),
            Variant(
                "elements",
                load=f"minidl_kernels.optim.cuda:{name}",
                device="cuda",
                note="one launch for all parameters, masks included",
            ),
        ),
    )
    for name in ("sgd_step", "adam_step")
)
