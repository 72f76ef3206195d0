"""S1-28: a denoiser that is not told how noisy its input is.

The sample's network gets the noisy image alone: no time, and there is no schedule that says how much noise a time
means. One network has to undo a little noise and nearly nothing but noise, and cannot tell which it looks at.

Right: a schedule of noise, and the time as an input. Here both are fitted in closed form: numbers x0 from a normal
distribution, x = sqrt(a) x0 + sqrt(1 - a) noise, a from the linear schedule of Ho et al. 2020 (arXiv:2006.11239). The
best guess of the noise is a multiple of x, the same for all times, or one for each.
"""

import numpy as np

TIMES, EXAMPLES = 1000, 200


def errors():
    """The mean squared error of the noise that is left: (one factor for all times, a factor for each)"""
    rng = np.random.default_rng(0)
    a = np.cumprod(1 - np.linspace(1e-4, 0.02, TIMES))[:, None]
    x0, noise = rng.normal(size=(2, TIMES, EXAMPLES))
    x = np.sqrt(a) * x0 + np.sqrt(1 - a) * noise
    one = (noise * x).sum() / (x * x).sum()
    each = (noise * x).sum(1, keepdims=True) / (x * x).sum(1, keepdims=True)
    return [float(np.square(noise - factor * x).mean()) for factor in (one, each)]


def broken():
    return errors()[0]


def fixed():
    return errors()[1]


def check(broken, fixed):
    assert fixed < 0.9 * broken


if __name__ == "__main__":
    from clinic import show

    show(globals())
