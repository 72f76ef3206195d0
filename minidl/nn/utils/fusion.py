"""Batch normalisation folded into the layer before it, for inference: one layer in place of two."""

from __future__ import annotations

import copy
from typing import Any

from minidl.nn.module import Module
from minidl.nn.parameter import Parameter
from minidl.ops.shapes import reshape

__all__ = ["fuse_conv_bn_eval", "fuse_conv_bn_weights", "fuse_linear_bn_eval", "fuse_linear_bn_weights"]


def fuse_conv_bn_weights(
    conv_w: Any, conv_b: Any, bn_rm: Any, bn_rv: Any, bn_eps: float, bn_w: Any, bn_b: Any, transpose: bool = False
) -> tuple[Parameter, Parameter]:
    """w s and (b - mean) s + shift, with s = scale / sqrt(var + eps) for each output channel.

    Any of the biases and the scale may be None. With `transpose` outputs are dimension 1 of the weight.
    """
    scale = (bn_rv.detach() + bn_eps).rsqrt()
    scale = scale if bn_w is None else scale * bn_w.detach()
    shape = [1] * conv_w.ndim
    shape[1 if transpose else 0] = -1
    w = conv_w.detach() * reshape(scale, tuple(shape))
    b = (-bn_rm.detach() if conv_b is None else conv_b.detach() - bn_rm.detach()) * scale
    b = b if bn_b is None else b + bn_b.detach()
    wanted = conv_w.requires_grad if conv_b is None else conv_b.requires_grad
    return Parameter(w.to(conv_w.dtype), conv_w.requires_grad), Parameter(b.to(conv_w.dtype), wanted)


def _fused(layer: Module, bn: Module, transpose: bool) -> Any:
    if layer.training or bn.training:
        raise AssertionError("Fusion only for eval!")
    if bn.running_mean is None or bn.running_var is None:
        raise AssertionError("Fusion needs running statistics: the batch normalisation has none")
    fused = copy.deepcopy(layer)
    fused.weight, fused.bias = fuse_conv_bn_weights(
        layer.weight, layer.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias, transpose
    )
    return fused


def fuse_conv_bn_eval(conv: Module, bn: Module, transpose: bool = False) -> Any:
    """A new convolution that gives bn(conv(x)). Both must be in evaluation (AssertionError)."""
    return _fused(conv, bn, transpose)


def fuse_linear_bn_weights(
    linear_w: Any, linear_b: Any, bn_rm: Any, bn_rv: Any, bn_eps: float, bn_w: Any, bn_b: Any
) -> tuple[Parameter, Parameter]:
    """As :func:`fuse_conv_bn_weights`, for the weight (out_features, in_features) of a Linear."""
    return fuse_conv_bn_weights(linear_w, linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b)


def fuse_linear_bn_eval(linear: Module, bn: Module) -> Any:
    """A new Linear that gives bn(linear(x)). Both must be in evaluation and have as many features (AssertionError)."""
    if linear.out_features != bn.num_features and bn.num_features != 1:
        raise AssertionError("To fuse, linear.out_features == bn.num_features or bn.num_features == 1")
    return _fused(linear, bn, False)
