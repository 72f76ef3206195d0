"""Two small convolutional networks for handwritten digits.

`DigitsCNN` is what `minidl demo` trains: it adapts to the size of the images and the number of classes. `mnist_cnn` is
the classic of the Keras examples, two convolutions without padding and a wide dense layer: 1,199,882 parameters for
28x28 images, 98 % of them in that layer, and so a good subject for pruning.
"""

from __future__ import annotations

from typing import Any

from minidl import nn

__all__ = ["DigitsCNN", "mnist_cnn"]

LARGEST = 512  # pixels along an edge


class DigitsCNN(nn.Module):
    """conv 3x3 - conv 3x3 - pool - dense - dense; images (N, C, H, W) -> logits (N, classes).

    Large images are pooled once more after the first convolution, and the last pool is as wide as it takes to leave at
    most 8 x 8 places, so the dense layer stays small whatever the images.

    Args:
        image: (C, H, W) of one image, H and W in 2 ... 512.
        classes: number of classes.
        width: channels of the first convolution; the second has twice as many.
        hidden: width of the first dense layer.

    Raises ValueError for sizes that it cannot take.

    >>> import numpy as np, minidl
    >>> model = DigitsCNN()
    >>> model(minidl.zeros(5, 1, 8, 8)).shape
    minidl.Size([5, 10])
    >>> sum(p.numel() for p in model.parameters())
    38282
    """

    def __init__(
        self, image: tuple[int, int, int] = (1, 8, 8), classes: int = 10, width: int = 16, hidden: int = 64
    ) -> None:
        super().__init__()
        channels, height, columns = image
        if min(height, columns) < 2 or max(height, columns) > LARGEST or channels < 1:
            raise ValueError(
                f"DigitsCNN takes images of 2 x 2 to {LARGEST} x {LARGEST} pixels, got {height} x {columns}"
            )
        if classes < 1:
            raise ValueError(f"DigitsCNN needs at least one class, got {classes}")
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.first = nn.MaxPool2d(2) if min(height, columns) >= 16 else nn.Identity()
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        if min(height, columns) >= 16:
            height, columns = height // 2, columns // 2
        window = tuple(max(2, -(-n // 8)) for n in (height, columns))
        self.pool = nn.MaxPool2d(window)
        self.drop = nn.Dropout(0.25)
        self.fc1 = nn.Linear(2 * width * (height // window[0]) * (columns // window[1]), hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: Any) -> Any:  # N, C, H, W
        x = self.first(self.conv1(x).relu())
        x = self.pool(self.conv2(x).relu())  # N, 2 width, <= 8, <= 8
        x = self.drop(x.flatten(1))
        x = self.fc1(x).relu()
        return self.fc2(x)  # N, classes


def mnist_cnn(classes: int = 10, image: tuple[int, int, int] = (1, 28, 28)) -> nn.Sequential:
    """Conv 32 - conv 64 - pool - dense 128 - dense; images (N, C, H, W) -> logits (N, classes).

    1,199,882 parameters with ten classes of 28 x 28. Raises ValueError for images that the convolutions, which have no
    padding, leave nothing of: less than 6 x 6.

    >>> sum(p.numel() for p in mnist_cnn().parameters())
    1199882
    """
    channels, height, width = image
    if min(height, width) < 6:
        raise ValueError(f"mnist_cnn takes images of at least 6 x 6 pixels, got {height} x {width}")
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3), nn.ReLU(),  # N, 32, H - 2, W - 2
        nn.Conv2d(32, 64, 3), nn.ReLU(),  # N, 64, H - 4, W - 4
        nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), 128), nn.ReLU(),
        nn.Linear(128, classes),
    )  # fmt: skip
