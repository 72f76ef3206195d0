"""What a Sequential does in one pass where nobody can tell: batch norm in evaluation, and the relu behind it.

Without gradients nothing but the next layer sees what a layer gives. So a BatchNorm in evaluation and a ReLU or ReLU6
behind it run as one kernel, and where a convolution comes before them the result is written over its output: one
reading and one writing of memory in place of two of each, and no new pages. That holds for those very classes without
hooks, while nobody watches the ops run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from minidl.nn.activations import ReLU, ReLU6
from minidl.nn.conv import Conv1d, Conv2d
from minidl.nn.module import Module
from minidl.nn.norm import BatchNorm1d, BatchNorm2d
from minidl.ops.common import compiled
from minidl.ops.norm import EVALUATED, evaluated
from minidl.tensors import Tensor, wrap

NORMS = frozenset((BatchNorm1d, BatchNorm2d))
_FUNCTIONS: dict[type, str] = {ReLU: "relu", ReLU6: "relu6"}


def in_a_row(modules: Sequence[Module], x: Any) -> Any:
    """Each module's output is the next one's input; to be called where no gradient is recorded and nobody watches."""
    after = (*modules[1:], None)
    skip = own = False  # own: x is a convolution's output, which nobody else holds
    for module, follower in zip(modules, after):
        if skip:
            skip = False
            continue
        parts = _parts(module, x) if type(module) in NORMS and _plain(module) else None
        if parts is not None:
            f = _FUNCTIONS.get(type(follower), "") if follower is not None and _plain(follower) else ""
            skip = f != ""
            clock = module.__dict__.get("forward")
            work = partial(_evaluate, x.array, parts, module.eps, f, own)
            x = work() if clock is None else clock.around(work)
            own = False
        else:
            x = module(x)
            own = type(module) in (Conv1d, Conv2d) and _plain(module)
    return x


def _evaluate(a: Any, parts: list[Any], eps: float, f: str, own: bool) -> Tensor:
    return wrap(evaluated(a, parts, eps, f, a if own and a.flags.c_contiguous else None))


def _plain(module: Module) -> bool:
    """Whether calling it does no more than its class says, but for a clock that can go around any work."""
    held = module.__dict__
    hooks = held["_forward_hooks"] or held["_forward_pre_hooks"] or held["_backward_hooks"]
    changed = "forward" in held and not hasattr(held["forward"], "around")
    return not (hooks or held["_backward_pre_hooks"] or changed)


def _parts(norm: Any, x: Any) -> list[Any] | None:
    """The arrays of the norm, if batch_norm would take the kernel, too, and not refuse; else None."""
    buffers, parameters = norm.__dict__["_buffers"], norm.__dict__["_parameters"]
    mean = buffers["running_mean"]
    if norm.training or norm.eps <= 0 or type(x) is not Tensor or mean is None or x.ndim not in norm.ranks:
        return None
    tensors = (mean, buffers["running_var"], parameters["weight"], parameters["bias"])
    arrays = [None if t is None else t.array for t in tensors]
    shape = (x.shape[1],)
    fits = compiled(x.array, *arrays, least=EVALUATED) and all(a is None or a.shape == shape for a in arrays)
    return arrays if fits else None
