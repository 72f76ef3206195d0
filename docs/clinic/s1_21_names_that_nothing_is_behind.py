"""S1-21: names that nothing is behind.

The training step reads `BATCH_SIZE` and `noise_dim`, which are set further down, and loops over a `dataset` that is
made nowhere. Run from the top it ends in a NameError, and the reader has to guess what was meant.

Right: what a step needs is handed to it.
"""

import minidl
from minidl import nn
from minidl.data import DataLoader, TensorDataset, load_images


def critic(images, generator, noise_dim):
    """The critic's loss on real images and on as many made ones."""
    judge = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    made = generator(minidl.randn(len(images), noise_dim)).detach()
    logits = minidl.cat([judge(images), judge(made)])
    truth = minidl.cat([minidl.ones(len(images), 1), minidl.zeros(len(made), 1)])
    return nn.functional.binary_cross_entropy_with_logits(logits, truth).item()


def broken():
    return critic(next(iter(dataset)), generator, noise_dim)  # noqa: F821


def fixed():
    minidl.manual_seed(0)
    noise_dim = 16
    generator = nn.Sequential(nn.Linear(noise_dim, 64), nn.Tanh())
    dataset = TensorDataset(minidl.tensor(load_images(seed=0).scaled().x_train))
    (images,) = next(iter(DataLoader(dataset, batch_size=64, shuffle=True)))
    return critic(images, generator, noise_dim)


def check(broken, fixed):
    assert isinstance(broken, NameError)
    assert "dataset" in str(broken)
    assert 0.3 < fixed < 1.5  # about ln 2: it knows nothing yet


if __name__ == "__main__":
    from clinic import show

    show(globals())
