"""MixUp and CutMix: every example of a batch is blended with another one, and so are their labels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import devices, random
from minidl.ops.one_hot import one_hot
from minidl.tensors import Tensor, wrap

__all__ = ["CutMix", "MixUp", "beta"]


def _log_gamma_variate(shape: float, g: random.Generator) -> float:
    """The logarithm of a number with density x^(shape - 1) e^-x / Gamma(shape); Marsaglia & Tsang 2000
    (doi 10.1145/358407.358414). For a shape below 1, G(shape) = G(shape + 1) U^(1 / shape).
    """
    boost = 0.0
    if shape < 1:
        boost, shape = math.log1p(-float(g.uniform((), dtype=np.float64))) / shape, shape + 1  # 1 - u is never 0
    d = shape - 1 / 3
    while True:
        z = float(g.normal((), dtype=np.float64))
        v = (1 + z / math.sqrt(9 * d)) ** 3
        if v > 0 and math.log1p(-float(g.uniform((), dtype=np.float64))) < z * z / 2 + d - d * v + d * math.log(v):
            return math.log(d * v) + boost


def beta(a: float, b: float, generator: Any = None) -> float:
    """A number in [0, 1] from the beta distribution: G(a) / (G(a) + G(b)) of two gamma variates."""
    g = random.default_generator if generator is None else generator
    gap = _log_gamma_variate(b, g) - _log_gamma_variate(a, g)
    return 1 / (1 + math.exp(gap)) if gap < 700 else 0.0


class _Mix:
    """What both share: the share lambda ~ Beta(alpha, alpha), the partner, and the labels."""

    def __init__(self, alpha: float = 1.0, num_classes: int | None = None, generator: Any = None):
        if not alpha > 0:
            raise ValueError(f"alpha should be positive, got {alpha}")
        self.alpha, self.num_classes, self.generator = float(alpha), num_classes, generator

    def _labels(self, y: Any, share: float, dtype: Any) -> Any:
        """share y + (1 - share) y of the partner, as probabilities (N, C)."""
        if np.dtype(y.dtype).kind != "f":
            if y.ndim != 1 or self.num_classes is None:
                raise ValueError(
                    f"{type(self).__name__}: labels must be class numbers (N,), with num_classes given, or "
                    f"probabilities (N, C); got {y.dtype} {tuple(y.shape)}, num_classes={self.num_classes}"
                )
            y = one_hot(y, self.num_classes).to(dtype)
        return share * y + (1 - share) * y.roll(1, 0)

    def _check(self, x: Any, y: Any, rank: int) -> None:
        if x.ndim < rank or np.dtype(x.dtype).kind != "f":
            raise ValueError(f"{type(self).__name__}: inputs must be a batch of floats, got {x.dtype} {tuple(x.shape)}")
        if len(y) != len(x):
            raise ValueError(f"{type(self).__name__}: {len(x)} inputs and {len(y)} labels")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(alpha={self.alpha}, num_classes={self.num_classes})"


class MixUp(_Mix):
    """x = l x + (1 - l) x', y = l y + (1 - l) y' with l ~ Beta(alpha, alpha) for the batch; Zhang et al. 2018
    (arXiv:1710.09412). The partner x' is the example before in the batch, which is shuffled anyhow.

    Called with a batch x (N, ...) of floats and y, class numbers (N,) or probabilities (N, C), it gives the blended x
    and y (N, C), for a cross entropy with probabilities. torchvision's name and arguments. Raises ValueError for an
    alpha that is not positive, and for labels of another kind.

    >>> import minidl
    >>> _ = minidl.random.manual_seed(0)
    >>> x, y = MixUp(num_classes=3)(minidl.eye(3), minidl.tensor([0, 1, 2]))
    >>> tuple(y.shape), bool((x == y).all())
    ((3, 3), True)
    """

    def __call__(self, x: Any, y: Any) -> tuple[Tensor, Tensor]:
        self._check(x, y, 1)
        share = beta(self.alpha, self.alpha, self.generator)
        return share * x + (1 - share) * x.roll(1, 0), self._labels(y, share, x.dtype)


class CutMix(_Mix):
    """A rectangle of the partner's image in place of one's own, and labels mixed by area; Yun et al. 2019
    (arXiv:1905.04899). The rectangle has sqrt(1 - l) of height and width, l ~ Beta(alpha, alpha), and its centre is
    anywhere, so that the border may cut it. x (N, C, H, W), or (N, H, W). Otherwise as MixUp.
    """

    def __call__(self, x: Any, y: Any) -> tuple[Tensor, Tensor]:
        self._check(x, y, 3)
        g = random.default_generator if self.generator is None else self.generator
        share = beta(self.alpha, self.alpha, g)
        h, w = x.shape[-2:]
        inside = []
        for n in (h, w):
            centre, half = int(g.integers(0, n, ())), int(0.5 * math.sqrt(1 - share) * n)
            at = np.arange(n)
            inside.append((at >= centre - half) & (at < centre + half))
        box = inside[0][:, None] & inside[1]  # H, W
        mask = wrap(devices.move(box, x.device))
        return x.roll(1, 0).where(mask, x), self._labels(y, 1 - float(box.mean()), x.dtype)
