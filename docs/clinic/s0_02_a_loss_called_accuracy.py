"""A loss that is called accuracy.

"Accuracy is usually measured by the loss on the test set; the smaller the loss, the higher the accuracy." They are two
things. A model that is nearly always sure of the right answer, and wrong now and then, has the smaller loss; one that
is always right by a hair has the larger.

Right: report both, in two columns, and choose by the one that counts for the task.
"""

import minidl
from minidl.nn import functional as F

TRUTH = minidl.zeros(10, dtype=minidl.int64)


def logits(margins):
    """Two classes; class 0, which is right, is ahead by these margins."""
    ahead = minidl.tensor(margins)
    return minidl.stack([ahead, minidl.zeros(10)], 1)


MODELS = {"sure, and wrong once": logits([5.0] * 9 + [-0.5]), "always right by a hair": logits([0.1] * 10)}


def scores():
    """{model: (loss, accuracy)}"""
    return {
        name: (F.cross_entropy(y, TRUTH).item(), (y.argmax(1) == TRUTH).float().mean().item())
        for name, y in MODELS.items()
    }


def broken():
    found = scores()
    best = min(found, key=lambda name: found[name][0])
    return best, found[best]


def fixed():
    found = scores()
    best = max(found, key=lambda name: found[name][1])
    return best, found[best]


def check(broken, fixed):
    assert broken[1][0] < fixed[1][0]
    assert broken[1][1] < fixed[1][1] == 1.0


if __name__ == "__main__":
    from clinic import show

    show(globals())
