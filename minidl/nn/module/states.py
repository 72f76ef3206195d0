"""state_dict: a module's parameters and buffers by path, and taking such values over."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from minidl import devices
from minidl.nn.module.tree import Tree
from minidl.nn.parameter import Parameter
from minidl.storage import Packed
from minidl.tensors import Shape, Tensor


class IncompatibleKeys(NamedTuple):
    """What load_state_dict(strict=False) left alone."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"_IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


class States(Tree):
    """State: the part of :class:`Module` that is saved and loaded."""

    def state_dict(
        self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> OrderedDict[str, Any]:
        """Path -> tensor, for every parameter and persistent buffer; the tensors share the model's memory.

        A packed parameter is there as its packed storage (:class:`minidl.storage.Packed`); the tensor of a pruned one
        carries its mask as ``.mask``, and so does packed storage. With `keep_vars` the Parameters themselves.
        """
        out: OrderedDict[str, Any] = OrderedDict() if destination is None else destination
        for path, module in self.named_modules(remove_duplicate=False):
            for kind in ("_parameters", "_buffers"):
                for name, t in module.__dict__[kind].items():
                    if t is None or (kind == "_buffers" and name in module._non_persistent):
                        continue
                    value = t if keep_vars else t.array if isinstance(t.array, Packed) else t.detach()
                    if isinstance(value, Tensor) and not keep_vars and getattr(t, "mask", None) is not None:
                        value.__dict__["mask"] = t.mask
                    out[prefix + (f"{path}.{name}" if path else name)] = value
        return out

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy values into parameters and buffers; on an error nothing has changed.

        A value is a Tensor, an array or packed storage. A packed value makes the parameter packed, a float one for a
        packed parameter makes it float again, and trainable. A value's ``mask`` becomes the parameter's; a pruned
        parameter keeps its own mask otherwise, and its pruned weights stay 0.

        Args:
            strict: raise when keys are missing or unexpected. Otherwise they are returned.
            assign: hold the given arrays themselves, their dtype included, instead of copying.

        Raises TypeError for what is not a mapping; RuntimeError naming every missing and unexpected key and every pair
        of shapes that differ.
        """
        if not isinstance(state_dict, Mapping):
            given = ": pass its state_dict()" if hasattr(state_dict, "state_dict") else ""
            given = ": read the file first, minidl.load(path)" if isinstance(state_dict, str) else given
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}{given}.")
        own = self.state_dict(keep_vars=True)
        missing = [key for key in own if key not in state_dict]
        unexpected = [key for key in state_dict if key not in own]
        errors, changes = [], []
        if strict and missing:
            errors.append("Missing key(s) in state_dict: {}. ".format(", ".join(f'"{k}"' for k in missing)))
        if strict and unexpected:
            errors.append("Unexpected key(s) in state_dict: {}. ".format(", ".join(f'"{k}"' for k in unexpected)))
        for key, t in own.items():
            if key not in state_dict:
                continue
            value = state_dict[key]
            array = value.array if isinstance(value, Tensor) else value
            known = isinstance(array, (np.ndarray, np.generic)) and array.dtype.kind in "fiub"
            if not (known or isinstance(array, Packed) or devices.is_cuda_array(array)):
                errors.append(
                    f'While copying the parameter named "{key}", expected a Tensor, an array or packed storage from '
                    f"checkpoint but received {type(value)}"
                )
                continue
            array = np.asarray(array) if isinstance(array, np.generic) else array
            if t.ndim == 0 and tuple(array.shape) == (1,):
                array = array.reshape(())
            if tuple(array.shape) != tuple(t.shape):
                errors.append(
                    f"size mismatch for {key}: copying a param with shape {Shape(array.shape)} from checkpoint, "
                    f"the shape in current model is {t.shape}."
                )
            elif isinstance(array, Packed) and not isinstance(t, Parameter):
                errors.append(f"{key} is a buffer and cannot hold packed storage ({array.kind}).")
            else:
                changes.append((t, array, getattr(value, "mask", None)))
        if errors:
            error = RuntimeError(
                "Error(s) in loading state_dict for {}:\n\t{}".format(type(self).__name__, "\n\t".join(errors))
            )
            for hint in _what_keys_say(own, state_dict):
                error.add_note(hint)
            raise error
        for t, array, mask in changes:
            _store(t, array, mask, assign)
        return IncompatibleKeys(missing, unexpected)

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k != "_path_cache"}


def _what_keys_say(own: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """The usual reasons for keys and shapes that do not fit."""
    hints = []
    keys = [k for k in given if isinstance(k, str)]
    for prefix, why in (("module.", "saved from torch's DataParallel"), ("_orig_mod.", "saved after torch.compile")):
        if any(k.startswith(prefix) for k in keys):
            hints.append(
                f'likely fix: the keys begin with "{prefix}", as {why}: load '
                f'{{k.removeprefix("{prefix}"): v for k, v in state_dict.items()}}'
            )
            return hints
    inside = [k for k in keys if isinstance(given[k], Mapping) and any(name in given[k] for name in own)]
    if inside:
        return [
            f'likely fix: this is a whole checkpoint, its weights are under "{inside[0]}": load '
            f'state_dict["{inside[0]}"]'
        ]
    ours, theirs = set(own), set(keys)
    for shorter, longer, fix in (
        (ours, theirs, 'the model is a part of the saved one: load {{k.removeprefix("{0}"): v for k, v in '
                       'state_dict.items() if k.startswith("{0}")}}'),
        (theirs, ours, 'the saved model is a part of this one: call load_state_dict on model.{1}'),
    ):  # fmt: skip
        some = min(shorter, default="")
        for k in longer:
            prefix = k.removesuffix(some)
            if some and k.endswith("." + some) and all(prefix + s in longer for s in shorter):
                return [f"likely fix: {fix.format(prefix, prefix.rstrip('.'))}"]
    shapes = {k: (tuple(given[k].shape), tuple(own[k].shape)) for k in ours & theirs if hasattr(given[k], "shape")}
    turned = [k for k, (a, b) in shapes.items() if len(a) == 2 and a == b[::-1] != b]
    if turned:
        hints.append(f'"{turned[0]}" is transposed: weights are (out_features, in_features), load weight.T')
    if any(a != b for a, b in shapes.values()) and not turned:
        hints.append(
            "likely fix: build the model with the sizes it was saved with; or, to train those layers anew, delete "
            "their keys and pass strict=False"
        )
    elif ours - theirs or theirs - ours:
        hints.append("strict=False loads what fits and returns the other keys, if that is meant")
    return hints


def _store(t: Tensor, array: Any, mask: Any, assign: bool) -> None:
    """Give parameter or buffer `t` the values of `array`, in the same memory where that is possible."""
    was_packed = isinstance(t.array, Packed)
    if isinstance(array, Packed):
        t.array, t._requires_grad, t._grad = (array if assign else array.copy()), False, None
    elif assign:
        t.array = array
    elif was_packed:
        t.array = np.array(array)
    else:
        t.array[...] = devices.move(array, devices.device_of(t.array))
    if was_packed and not isinstance(array, Packed):
        t.requires_grad_()
    t.bump()
    if isinstance(t, Parameter):
        if mask is not None or isinstance(array, Packed):
            t.mask = None if mask is None else mask.copy()
        t.apply_mask_()
