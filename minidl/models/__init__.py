"""The networks of the tour, each on one page."""

from minidl.models.dcgan import Discriminator, Generator
from minidl.models.diffusion import CosineSchedule, Diffusion, LinearSchedule
from minidl.models.digits_cnn import DigitsCNN, mnist_cnn
from minidl.models.efficientnet_lite0 import EfficientNetLite0, efficientnet_lite0, efficientnet_lite0_images
from minidl.models.gpt import GPT, GPTBlock, sample
from minidl.models.mobilenet import MobileNetV1, MobileNetV2
from minidl.models.recurrent import Forecaster, RecurrentClassifier
from minidl.models.resnet import (
    BasicBlock,
    Bottleneck,
    ResNet,
    SqueezeExcitation,
    resnet18,
    resnet34,
    resnet50,
    resnet_cifar,
)
from minidl.models.shufflenet import ShuffleNetV2, shufflenet_v2_x0_5, shufflenet_v2_x1_0
from minidl.models.transformer import TextClassifier, Translator
from minidl.models.unet import UNet
from minidl.models.vit import VisionTransformer, vit_tiny

__all__ = [
    # images -> classes
    "DigitsCNN", "mnist_cnn",
    "ResNet", "BasicBlock", "Bottleneck", "SqueezeExcitation", "resnet18", "resnet34", "resnet50", "resnet_cifar",
    "MobileNetV1", "MobileNetV2",
    "ShuffleNetV2", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0",
    "EfficientNetLite0", "efficientnet_lite0", "efficientnet_lite0_images",
    "VisionTransformer", "vit_tiny",
    # sequences -> classes, the next value
    "RecurrentClassifier", "Forecaster", "TextClassifier",
    # text -> text
    "Translator", "GPT", "GPTBlock", "sample",
    # noise -> images
    "Generator", "Discriminator", "UNet", "Diffusion", "LinearSchedule", "CosineSchedule",
]  # fmt: skip
