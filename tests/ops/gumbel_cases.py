"""Choices for the table of ops."""

from __future__ import annotations

import numpy as np
from cases import S, case, normal

_HARD = np.eye(3)[[2, 0]]

# hard - soft.detach() + soft is torch's way to write it; not smooth: its gradient is not that of its values.
case("straight_through", S(normal(2, 3), _HARD), smooth=False, theirs=lambda soft, hard: hard + 0 * soft.detach())
case("gumbel_softmax", S(normal(2, 3)), S(normal(4, 2), 0.5, True, dim=0), theirs=None)
