"""Transforms of images, under torchvision's names.

A transform takes one image (C, H, W) or (H, W), or a batch (N, C, H, W), as Tensor or array, and gives the same kind;
of a picture of Pillow's it gives a Tensor. Pixels are integers (uint8 as a rule, in 0 ... 255) or floats (in 0 ... 1),
and stay so. What is random is drawn for each image by itself, from `generator` or minidl's default one.
"""

from minidl.data.transforms.base import Compose, Lambda, RandomApply
from minidl.data.transforms.color import ColorJitter, Grayscale, RandomErasing
from minidl.data.transforms.convert import Normalize, ToFloat, ToTensor
from minidl.data.transforms.geometry import (
    CenterCrop,
    Pad,
    RandomCrop,
    RandomHorizontalFlip,
    RandomShift,
    RandomVerticalFlip,
)
from minidl.data.transforms.resample import RandomAffine, RandomRotation, Resize

__all__ = [
    # put together
    "Compose",
    "Lambda",
    "RandomApply",
    # numbers
    "ToTensor",
    "ToFloat",
    "Normalize",
    # places
    "Resize",
    "Pad",
    "CenterCrop",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomVerticalFlip",
    "RandomShift",
    "RandomRotation",
    "RandomAffine",
    # colours
    "Grayscale",
    "ColorJitter",
    "RandomErasing",
]
