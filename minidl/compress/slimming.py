"""Slim models: masked channels and neurons are removed, and what is left computes the same with smaller arrays."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np

from minidl import nn
from minidl.autograd import no_grad
from minidl.compress.anatomy import Structure, structure
from minidl.compress.heads import fewer, with_heads
from minidl.devices import array_module
from minidl.nn.conv import _Conv
from minidl.nn.recurrent import RNNBase, RNNCellBase
from minidl.ops.heads import Heads
from minidl.tensors import Tensor, wrap

__all__ = ["SlimError", "slim"]


class SlimError(ValueError):
    """No channel could be removed, or the model did not compute the same without them; the message says why."""


def slim(model: Any, *inputs: Any) -> Any:
    """A copy of a model without the channels, neurons and hidden units that contribute nothing.

    What belongs to a channel is found by watching a forward pass on the example `inputs` (see `structure`), so it
    works on modules of your own, through batch norm, residual sums, concatenation, grouped and depthwise
    convolutions, flatten before a dense layer, recurrent layers. Heads of attention go from `nn.MultiheadAttention`
    and from code of your own that splits into heads: attributes that hold their number are changed, and sizes that
    the code has in it are taken for those of the heads that are left while it runs (`minidl.ops.heads`). A channel
    goes if all that reads it would read zeros, or multiplies it by zeros: `prune_channels_` makes such channels; a
    mask that happens to empty a row does, too. At least one of each layer stays. The rest is computed as before,
    which is verified on `inputs` (up to the rounding of sums of fewer terms).

    Masks are cut like the weights, and dropped where nothing is left for them to hold. Names and the module tree stay;
    the shapes are new, so a file of it is loaded into a slimmed model, and a new optimizer is needed. Raises SlimError,
    with the reasons layer by layer, when nothing can be removed or the model's own code has sizes written into it;
    TypeError for packed parameters. `model` is as it was.

    >>> import minidl
    >>> from minidl.compress import prune_channels_
    >>> x = minidl.randn(1, 3, 8, 8)
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> slim(prune_channels_(net, 0.5, x), x)
    Sequential(
      (0): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
      (1): BatchNorm2d(4, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
      (2): ReLU()
      (3): Conv2d(4, 4, kernel_size=(3, 3), stride=(1, 1))
    )
    """
    found = structure(model, *inputs)
    gone = _going(found)
    if not gone:
        raise SlimError(f"slim: there is nothing to remove.\n{_reasons(found)}")
    small = copy.deepcopy(model)
    tensors = dict([*small.named_parameters(), *small.named_buffers()])
    for name, axes in found.units.items():
        _cut(tensors[name], [None if u is None else np.flatnonzero(~np.isin(u, list(gone))) for u in axes])
    owners = {id(t): (m, k) for m in small.modules() for k, t in [*m._parameters.items(), *m._buffers.items()]}
    for name in found.units:
        module, key = owners[id(tensors[name])]
        _sizes(module, key, found.groups.get(name))
    return _fitting(model, small, inputs, fewer(small, found.heads, gone))


def _fitting(model: Any, small: Any, inputs: tuple, cut: dict[Any, Heads]) -> Any:
    """With attention in code of one's own: the numbers that this code reads, and the sizes that it has written down.

    Which attributes it reads is not known. So its kinds of modules are tried in turn with their attributes changed and
    as they are, until the model computes what it did.
    """
    kinds = list(dict.fromkeys(type(m) for m in cut))
    for choice in itertools.product(("heads", "sizes", ""), repeat=len(kinds)):
        renamed = dict(zip(kinds, choice))
        undo = [(m, dict(m.__dict__), type(m)) for m in cut]
        for m, heads in cut.items():
            with_heads(m, heads, renamed[type(m)])
        try:
            _verify(model, small, inputs)
            return small
        except SlimError:
            if not any(choice):
                raise
            for m, attributes, kind in undo:
                m.__dict__.clear()
                m.__dict__.update(attributes)
                m.__class__ = kind
    raise AssertionError("the last choice returns or raises")


def _going(found: Structure) -> set[int]:
    """The units to remove: all that are free, but for one where an axis would be left with none."""
    gone = set(found.free)
    for axes in found.units.values():
        for units in axes:
            if units is not None and len(units) and set(units.tolist()) <= gone:
                gone.discard(int(units[0]))
    return gone


def _cut(t: Any, keep: list[Any]) -> None:
    """Keep these indices of each axis, in arrays of its own; None keeps all."""
    a, mask = t.array, getattr(t, "mask", None)
    if all(k is None or len(k) == n for k, n in zip(keep, a.shape)):
        return
    for axis, k in enumerate(keep):
        if k is not None:
            a = a.take(k, axis)
            mask = None if mask is None else mask.take(k, axis)
    if hasattr(t, "mask"):
        t.mask = None
    t.array = array_module(a).ascontiguousarray(a)
    t.grad = None
    t.bump()
    if mask is not None and not mask.all():
        t.mask = mask


def _sizes(module: Any, key: str, groups: int | None) -> None:
    """Bring the sizes that a layer remembers in line with its parameters."""
    if isinstance(module, _Conv) and key == "weight":
        first, second = module.weight.shape[:2]
        if module.transposed:
            module.in_channels, module.out_channels = first, second * module.groups
            return
        if module.groups > 1 and second == 1 and module.in_channels == module.groups:  # depthwise
            module.groups = first * module.groups // module.out_channels
        module.in_channels, module.out_channels = second * module.groups, first
    elif isinstance(module, nn.Linear) and key == "weight":
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.MultiheadAttention) and key in ("in_proj_weight", "q_proj_weight"):
        rows = getattr(module, key).shape[0]
        module.num_heads = rows // module.head_dim // (3 if key == "in_proj_weight" else 1)
    elif isinstance(module, RNNBase):
        module.hidden_size = module.weight_hh_l0.shape[1]
        module.input_size = module.weight_ih_l0.shape[1]
    elif isinstance(module, RNNCellBase):
        module.hidden_size, module.input_size = module.weight_hh.shape[1], module.weight_ih.shape[1]
    elif hasattr(module, "num_features"):
        module.num_features = getattr(module, key).shape[0]
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = module.weight.shape[1]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.shape[0]
    elif groups is not None and groups > 1 and getattr(module, "groups", None) == groups:
        weight = getattr(module, key)
        module.groups = weight.shape[0] if weight.shape[1] == 1 else groups


def _verify(model: Any, small: Any, inputs: tuple) -> None:
    given = [x if isinstance(x, Tensor) else wrap(np.asarray(x)) for x in inputs]
    try:
        before, after = _run(model, given), _run(small, given)
    except (RuntimeError, ValueError, IndexError) as error:
        raise SlimError(
            f"slim: the model does not run without the channels; is a size written into its code? {error}"
        ) from error
    for a, b in zip(before, after):
        # float32 sums in another order, layer after layer; a wrong channel would be off by the size of the output
        scale = float(abs(a).max(initial=0))
        if a.shape != b.shape or not np.allclose(a, b, rtol=0, atol=1e-4 * scale, equal_nan=True):
            raise SlimError("slim: without the channels the model does not compute the same; nothing was removed")


def _run(model: Any, inputs: list) -> list:
    from minidl.compress.anatomy.watch import tensors

    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        with no_grad():
            return [t.array.copy() for t in tensors(model(*inputs))]
    finally:
        for m, mode in modes:
            m.training = mode


def _reasons(found: Structure) -> str:
    return "\n".join(f"  {line}" for line in str(found).splitlines())
