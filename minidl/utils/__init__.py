"""Helpers around training, under torch.utils's names."""

from minidl.utils import checkpoint

__all__ = ["checkpoint"]
