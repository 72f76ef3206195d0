"""Cases of the table of ops: resampling, shuffles, windows, adaptive max pooling, transposed convolution in 1-d."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cases import TABLE, Const, Index, S, big, case, distinct, ints, method, normal

# -- resampling -------------------------------------------------------------------------------------------------------

MIX = np.array([[0, 2, 2, 1], [1, 2, 0, 1]])
PART = np.array([[0.25, 1.0, 0.5, 0.75], [0.75, 0.0, 0.5, 0.25]])


def _matrix(like: Any, n: int) -> torch.Tensor:
    """resample's index and weight as one (P, N) matrix."""
    m = torch.zeros(4, n, dtype=like.dtype)
    for at, w in zip(MIX, PART):
        m[torch.arange(4), torch.tensor(at)] += torch.tensor(w).to(like.dtype)
    return m


case(
    "resample",
    S(normal(2, 3), 1, Index(MIX), Index(PART)),
    S(normal(3, 2), 0, Index(MIX), Index(PART)),
    ours=lambda x, dim, i, w: TABLE["resample"](x, dim, i.index, w.index),
    theirs=lambda x, dim, i, w: torch.tensordot(x, _matrix(x, 3), ([dim], [1])).movedim(-1, dim),
)
case(
    "spread",
    S(normal(2, 4), 1, Index(MIX), Index(PART), 3),
    ours=lambda x, dim, i, w, n: TABLE["spread"](x, dim, i.index, w.index, n),
    theirs=lambda x, dim, i, w, n: torch.tensordot(x, _matrix(x, n), ([dim], [0])).movedim(-1, dim),
)
case(
    "interpolate",
    S(normal(1, 2, 4), 6),
    S(normal(1, 2, 4), scale_factor=2.5),
    S(normal(1, 1, 3, 4), (5, 2)),
    S(normal(1, 1, 3, 4), scale_factor=(2, 0.7), mode="nearest-exact"),
    S(normal(1, 2, 4), 7, mode="linear"),
    S(normal(1, 1, 3, 4), (5, 7), mode="bilinear"),
    S(normal(1, 1, 3, 4), (5, 7), mode="bilinear", align_corners=True),
    S(normal(1, 1, 3, 4), scale_factor=1.7, mode="bilinear"),
    S(normal(1, 1, 3, 4), scale_factor=1.7, mode="bilinear", recompute_scale_factor=True),
    S(normal(1, 1, 3, 4), (1, 2), None, "bilinear", True),
    S(normal(1, 1, 3, 4), (5, 2), mode="bicubic"),
    S(normal(1, 1, 3, 4), scale_factor=2, mode="bicubic", align_corners=True),
    S(normal(1, 1, 2, 3, 2), scale_factor=2, mode="trilinear"),
    S(normal(1, 1, 2, 3, 2), 3),
    S(normal(1, 1, 5, 4), (3, 2), mode="area"),
    S(normal(1, 2, 5), 3, mode="area"),
    S(normal(1, 1, 3, 2, 4), (2, 3, 2), mode="area"),
    S(normal(0, 2, 4), 6),
    S(ints(0, 255, 1, 1, 3, 4, dtype=np.uint8), (5, 2)),
    S(normal(1, 1, 7, 6), (3, 4), mode="bilinear", antialias=True),
    S(normal(1, 1, 3, 4), (5, 2), mode="bicubic", antialias=True),
    S(normal(1, 1, 5, 4), scale_factor=0.6, mode="bilinear", antialias=True, align_corners=True),
    big(normal(2, 3, 17, 23), (31, 11), mode="bilinear"),
    big(normal(2, 3, 17, 23), scale_factor=0.37, mode="bicubic"),
    theirs=F.interpolate,
)


def outdated(name: str) -> Any:
    """torch's own, without its warning that there is a newer name."""

    def f(*args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return getattr(F, name)(*args, **kwargs)

    return f


for name in ("upsample", "upsample_nearest", "upsample_bilinear"):
    case(name, S(normal(1, 1, 3, 4), 5), S(normal(1, 1, 3, 4), scale_factor=2), theirs=outdated(name))

# -- shuffles, windows ------------------------------------------------------------------------------------------------

case(
    "pixel_shuffle",
    S(normal(1, 8, 2, 3), 2),
    S(normal(9, 1, 2), 3),
    S(normal(2, 2, 4, 1, 1), 2),
    S(Const(normal(0, 4, 2, 2)), 2),
)
case("pixel_unshuffle", S(normal(1, 2, 4, 6), 2), S(normal(1, 3, 6), 3))
case("channel_shuffle", S(normal(1, 6, 2), 3), S(normal(2, 4, 1, 2), 2), S(normal(1, 3, 2), 1))
WINDOWS = [
    ((1, 2, 4, 3), (2,), {}),
    ((2, 1, 4, 5), ((2, 3),), {"padding": (1, 0), "stride": 2}),
    ((1, 1, 5, 5), (2, 2, 1), {"stride": (1, 2)}),
    ((2, 4, 3), ((3, 1),), {}),
]
case("unfold", *[S(normal(*x), *a, **k) for x, a, k in WINDOWS], S(normal(0, 1, 3, 3), 2), theirs=F.unfold)
case(
    "fold",
    S(normal(1, 8, 6), (4, 3), 2),
    S(normal(2, 6, 6), (4, 5), (2, 3), padding=(1, 0), stride=2),
    S(normal(4, 4), 3, (2, 2)),
    S(normal(1, 4, 4), (4, 4), 2, 2, 0, 1),
    theirs=F.fold,
)
HOW = ((2, 1), (1, 2), (1, 0), (2, 1))
case("im2col", S(normal(1, 2, 4, 3), *HOW), theirs=F.unfold)
case("col2im", S(normal(1, 4, 9), (4, 3), *HOW), theirs=F.fold)
case(
    "tensor_unfold",
    S(normal(7), 0, 3, 2),
    S(normal(2, 5), 1, 2, 1),
    S(normal(4, 3), -2, 4, 1),
    S(normal(), 0, 1, 1),
    ours=method("unfold"),
    theirs=method("unfold"),
)
case("sliding", S(normal(7), 0, 3, 2), S(normal(2, 5), 1, 2, 1), theirs=method("unfold"))


def _torch_unsliding(x: Any, shape: Any, *how: Any) -> Any:
    y = torch.zeros(shape, dtype=x.dtype, requires_grad=True)
    return torch.autograd.grad(y.unfold(*how), y, x, create_graph=True)[0]


case("unsliding", S(normal(3, 3), (7,), 0, 3, 2), S(normal(2, 4, 2), (2, 5), 1, 2, 1), theirs=_torch_unsliding)

# -- pooling and convolution ------------------------------------------------------------------------------------------

case(
    "adaptive_max_pool2d",
    S(distinct(1, 2, 4, 4), 2),
    S(distinct(1, 1, 5, 7), (3, 2)),
    S(distinct(2, 3, 4), (None, 1)),
    S(distinct(1, 1, 2, 2), 3),
    S(distinct(1, 1, 5, 4), (2, 3), True),
    S(distinct(2, 4, 4), 2, return_indices=True),
    S(distinct(0, 2, 5, 4), 3),
    big(np.array([[[[1.0, 2.0, 2.0], [np.nan, 0.0, 2.0], [1.0, 1.0, 1.0]]]]), 2),
    theirs=F.adaptive_max_pool2d,
)
case(
    "adaptive_max_pool1d",
    S(distinct(1, 2, 4), 2),
    S(distinct(2, 5), 3),
    S(distinct(1, 1, 5), 3, return_indices=True),
    theirs=F.adaptive_max_pool1d,
)
case(
    "conv_transpose1d",
    S(normal(2, 2, 3), normal(2, 3, 2), normal(3)),
    S(normal(1, 2, 3), normal(2, 2, 3), stride=2, padding=1, output_padding=1),
    S(normal(4, 2), normal(4, 1, 2), groups=2, dilation=(2,)),
    S(normal(1, 1, 3), normal(1, 1, 2), None, (2,), (1,)),
    theirs=F.conv_transpose1d,
)
