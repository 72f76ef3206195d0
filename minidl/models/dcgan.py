"""A generator and a discriminator of convolutions: Radford et al. 2015 (arXiv:1511.06434), for digits.

The generator turns noise into images: a linear layer makes H/4 x W/4 places of 4 w channels, three transposed
convolutions widen them to H x W. The discriminator goes the other way. Its output is a logit, not a probability: the
loss (binary cross-entropy *with logits*, or WGAN's mean) takes it as it is.
"""

from __future__ import annotations

from typing import Any

from minidl import nn

__all__ = ["Discriminator", "Generator"]


def _quarter(name: str, image: tuple[int, int, int]) -> tuple[int, int]:
    _, height, width = image
    if height % 4 or width % 4 or min(height, width) < 4:
        raise ValueError(f"{name}: edges are halved twice and must be multiples of 4, got {height} x {width}")
    return height // 4, width // 4


class Generator(nn.Sequential):
    """Noise (N, noise) -> images (N, C, H, W) in -1 ... 1.

    2,330,944 parameters for 28x28 images with the running statistics of its norms, as Keras counts; 2,305,472 without.

    >>> import minidl
    >>> generator = Generator(100)
    >>> generator(minidl.zeros(2, 100)).shape
    minidl.Size([2, 1, 28, 28])
    >>> sum(t.numel() for t in generator.state_dict().values() if t.ndim)
    2330944
    """

    def __init__(self, noise: int = 100, image: tuple[int, int, int] = (1, 28, 28), width: int = 64) -> None:
        (h, w), c = _quarter("Generator", image), width
        up = lambda a, b, **how: nn.ConvTranspose2d(a, b, 5, padding=2, bias=False, **how)
        super().__init__(
            nn.Linear(noise, 4 * c * h * w, bias=False), nn.BatchNorm1d(4 * c * h * w), nn.ReLU(),
            nn.Unflatten(1, (4 * c, h, w)),  # N, 4 c, H/4, W/4
            up(4 * c, 2 * c), nn.BatchNorm2d(2 * c), nn.ReLU(),  # N, 2 c, H/4, W/4
            up(2 * c, c, stride=2, output_padding=1), nn.BatchNorm2d(c), nn.ReLU(),  # N, c, H/2, W/2
            up(c, image[0], stride=2, output_padding=1), nn.Tanh(),  # N, C, H, W
        )  # fmt: skip
        self.noise = noise


class Discriminator(nn.Sequential):
    """Images (N, C, H, W) -> logits (N, 1): large for real ones. 212,865 parameters for 28x28 images.

    Without norms: they would tie the images of a batch to each other, which WGAN-GP's penalty, a gradient for each
    image by itself, does not allow.

    >>> sum(p.numel() for p in Discriminator().parameters())
    212865
    """

    def __init__(self, image: tuple[int, int, int] = (1, 28, 28), width: int = 64, dropout: float = 0.3) -> None:
        (h, w), c = _quarter("Discriminator", image), width
        down: Any = lambda a, b: (
            nn.Conv2d(a, b, 5, stride=2, padding=2), nn.LeakyReLU(0.2), nn.Dropout(dropout)
        )  # fmt: skip
        super().__init__(*down(image[0], c), *down(c, 2 * c), nn.Flatten(), nn.Linear(2 * c * h * w, 1))
