"""The networks of the tour, each on one page."""

from minidl.models.digits_cnn import DigitsCNN, mnist_cnn

__all__ = ["DigitsCNN", "mnist_cnn"]
