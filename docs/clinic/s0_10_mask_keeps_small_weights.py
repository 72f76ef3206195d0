"""A mask the wrong way round.

The sample computes tau = lambda * ||w||_2 / fan_in and then multiplies by (|w| < tau). With lambda = 0.01 that keeps
the smallest 1 % of the weights and throws the network away. (As printed it does not get that far: the function that
should count the inputs is never imported, and the product is written into a leaf that wants gradients.)

Right: |w| >= tau, under no_grad. At lambda = 0.01 that keeps 99 %: lambda has to be swept to find a useful value.
"""

import minidl
from minidl import nn
from minidl.compress import fan_in_mask, prune_, sparsity


def layer():
    minidl.manual_seed(0)
    return nn.Linear(256, 64)


def broken(lam=0.01):
    w = layer().weight
    with minidl.no_grad():
        tau = lam * w.norm() / w.shape[1]
        w *= w.abs() < tau
    return 1 - float((w != 0).float().mean())


def fixed(lam=0.01):
    return [round(sparsity(prune_(layer(), rule=lambda w, lam=lam: fan_in_mask(w, lam))), 3) for lam in (lam, 0.5, 1.0)]


def check(broken, fixed):
    assert broken > 0.99
    assert fixed[0] < 0.02
    assert fixed == sorted(fixed)


if __name__ == "__main__":
    from clinic import show

    show(globals())
