"""By chance: the baseline that a rule has to beat."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import random
from minidl.compress.prune.choice import keep_largest

Array = Any


def random_mask(
    shape: tuple[int, ...] | int,
    sparsity: float,
    generator: random.Generator | None = None,
    mask: Array | None = None,
) -> np.ndarray:
    """Drop exactly round(sparsity * size) weights by chance, those of an earlier `mask` first.

    >>> int(random_mask((4, 5), 0.8).sum())
    4
    """
    generator = random.default_generator if generator is None else generator
    return keep_largest([generator.uniform(shape)], sparsity, [mask])[0]
