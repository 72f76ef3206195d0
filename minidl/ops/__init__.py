"""Every op of the engine, one page each, grouped by what it does. The table of all of them is minidl.autograd.TABLE."""

from minidl.ops import (
    arithmetic,
    attention,
    common,
    conv,
    create,
    dropout,
    indexing,
    linalg,
    loss,
    movement,
    norm,
    pointwise,
    pool,
    reduce,
    softmax,
)

__all__ = [
    "arithmetic", "attention", "common", "conv", "create", "dropout", "indexing", "linalg", "loss", "movement", "norm",
    "pointwise", "pool", "reduce", "softmax",
]  # fmt: skip
