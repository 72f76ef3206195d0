"""One threshold for layers of different shape.

tau = lambda ||w||_2 / fan_in = lambda rms(w) sqrt(outputs / inputs): the same lambda cuts a layer that widens deeper
than one that narrows, whatever their weights are worth. Here both hold the same kind of noise; one loses fourteen times
as much.

Right: a threshold in units of the weights themselves (`rms_mask`) cuts alike; where a sparsity is wanted, say it.
"""

import minidl
from minidl.compress import fan_in_mask, magnitude_mask, rms_mask

SHAPES = ((1024, 64), (64, 1024))  # outputs, inputs


def pruned(rule):
    """The share of weights that go, in a layer that widens and in one that narrows."""
    minidl.manual_seed(0)
    return [round(1 - float(rule(minidl.randn(*shape).array).mean()), 3) for shape in SHAPES]


def broken():
    return pruned(lambda w: fan_in_mask(w, 0.2))


def fixed():
    return pruned(lambda w: rms_mask(w, 0.2)), pruned(lambda w: magnitude_mask(w, 0.8))


def check(broken, fixed):
    assert broken[0] > 9 * broken[1]
    by_rms, by_share = fixed
    assert abs(by_rms[0] - by_rms[1]) < 0.01
    assert by_share == [0.8, 0.8]


if __name__ == "__main__":
    from clinic import show

    show(globals())
