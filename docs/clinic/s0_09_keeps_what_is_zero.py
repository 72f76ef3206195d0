"""A pruning formula that does nothing.

It reads theta - delta * I(theta = 0): the indicator picks the weights that are 0 already, so nothing is removed (and
with delta other than 0 those few become -delta).

Right: theta * I(|theta| >= tau). What is small goes, the rest stays as it is.
"""

import numpy as np

from minidl.compress import magnitude_mask

WEIGHTS = np.float32([[0.9, -0.02, 0.4], [0.0, -0.7, 0.01]])


def broken(delta=0.5):
    pruned = WEIGHTS - delta * (WEIGHTS == 0)
    return pruned.tolist()


def fixed():
    return (WEIGHTS * magnitude_mask(WEIGHTS, 0.5)).tolist()


def check(broken, fixed):
    assert np.count_nonzero(broken) == 6  # one more than before
    assert np.count_nonzero(fixed) == 3
    assert np.abs(np.array(fixed)).max() == np.abs(WEIGHTS).max()


if __name__ == "__main__":
    from clinic import show

    show(globals())
