"""The networks of the tour, each on one page."""

from minidl.models.digits_cnn import DigitsCNN, mnist_cnn
from minidl.models.efficientnet_lite0 import EfficientNetLite0, efficientnet_lite0, efficientnet_lite0_images

__all__ = ["DigitsCNN", "EfficientNetLite0", "efficientnet_lite0", "efficientnet_lite0_images", "mnist_cnn"]
