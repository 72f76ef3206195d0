"""Layers and models, under torch.nn's names."""

from minidl.nn import functional, init
from minidl.nn.activations import (
    GELU,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from minidl.nn.containers import ModuleDict, ModuleList, ParameterList, Sequential
from minidl.nn.conv import Conv1d, Conv2d, ConvTranspose2d
from minidl.nn.linear import Bilinear, Flatten, Identity, Linear, Unflatten
from minidl.nn.module import Module
from minidl.nn.parameter import Buffer, Parameter

__all__ = [
    # the base
    "Module", "Parameter", "Buffer", "functional", "init",
    # containers
    "Sequential", "ModuleList", "ModuleDict", "ParameterList",
    # products and shapes
    "Linear", "Bilinear", "Identity", "Flatten", "Unflatten", "Conv1d", "Conv2d", "ConvTranspose2d",
    # activations
    "ReLU", "ReLU6", "LeakyReLU", "GELU", "SiLU", "Sigmoid", "Tanh", "Softplus", "Softmax", "LogSoftmax",
]  # fmt: skip
