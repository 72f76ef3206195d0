"""Layers and models, under torch.nn's names."""

from minidl.nn import functional, init, utils
from minidl.nn.activations import (
    GELU,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from minidl.nn.alibi import ALiBi
from minidl.nn.alpha_dropout import AlphaDropout, Dropout1d, Dropout3d, FeatureAlphaDropout, RReLU
from minidl.nn.attention import MultiheadAttention, TransformerEncoder, TransformerEncoderLayer
from minidl.nn.causal import CausalSelfAttention, KVCache
from minidl.nn.class_margin_losses import MultiLabelMarginLoss, MultiLabelSoftMarginLoss, MultiMarginLoss
from minidl.nn.containers import ModuleDict, ModuleList, ParameterList, Sequential
from minidl.nn.conv import Conv1d, Conv2d, ConvTranspose2d
from minidl.nn.density_losses import GaussianNLLLoss, PoissonNLLLoss, TripletMarginWithDistanceLoss
from minidl.nn.distances import CosineSimilarity, Fold, PairwiseDistance, Unfold
from minidl.nn.dropout import Dropout, Dropout2d
from minidl.nn.embeddings import Embedding, EmbeddingBag
from minidl.nn.global_pool import GlobalAvgPool, GlobalMaxPool
from minidl.nn.image_layers import Softmax2d, UpsamplingBilinear2d, UpsamplingNearest2d
from minidl.nn.instance_norm import InstanceNorm1d, InstanceNorm2d
from minidl.nn.linear import Bilinear, Flatten, Identity, Linear, Unflatten
from minidl.nn.losses import (
    BCELoss,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    MSELoss,
    NLLLoss,
    SmoothL1Loss,
)
from minidl.nn.margin_losses import (
    CosineEmbeddingLoss,
    HingeEmbeddingLoss,
    MarginRankingLoss,
    SoftMarginLoss,
    TripletMarginLoss,
)
from minidl.nn.module import Module
from minidl.nn.norm import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, RMSNorm
from minidl.nn.overlap_losses import DiceLoss, FocalLoss
from minidl.nn.paddings import (
    CircularPad1d,
    CircularPad2d,
    CircularPad3d,
    ConstantPad1d,
    ConstantPad2d,
    ConstantPad3d,
    ReflectionPad1d,
    ReflectionPad2d,
    ReflectionPad3d,
    ReplicationPad1d,
    ReplicationPad2d,
    ReplicationPad3d,
    ZeroPad1d,
    ZeroPad2d,
    ZeroPad3d,
)
from minidl.nn.parameter import Buffer, Parameter
from minidl.nn.parameter_dict import ParameterDict
from minidl.nn.penalties import elastic_penalty, l1_penalty, l2_penalty
from minidl.nn.pool import AdaptiveAvgPool1d, AdaptiveAvgPool2d, AvgPool1d, AvgPool2d, MaxPool1d, MaxPool2d
from minidl.nn.positions import LearnedPositions, RotaryPositions, SinusoidalPositions
from minidl.nn.power_pool import LocalResponseNorm, LPPool1d, LPPool2d
from minidl.nn.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNBase, RNNCell, RNNCellBase
from minidl.nn.resampling import (
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    ChannelShuffle,
    ConvTranspose1d,
    PixelShuffle,
    PixelUnshuffle,
    Upsample,
)
from minidl.nn.reshaping import Reshape
from minidl.nn.separable import SeparableConv1d, SeparableConv2d
from minidl.nn.soft_hard_attention import (
    AdditiveAttention,
    ArgmaxAttention,
    BahdanauAttention,
    DotProductAttention,
    GumbelAttention,
    ScaledDotProductAttention,
    StochasticAttention,
    TopKAttention,
)
from minidl.nn.stochastic_depth import DropPath, GaussianNoise, StochasticDepth
from minidl.nn.summaries import summary
from minidl.nn.swiglu import SwiGLU
from minidl.nn.transformer import Transformer, TransformerDecoder, TransformerDecoderLayer
from minidl.nn.units import (
    CELU,
    ELU,
    GLU,
    SELU,
    Hardshrink,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LogSigmoid,
    Mish,
    PReLU,
    Softmin,
    Softshrink,
    Softsign,
    Tanhshrink,
    Threshold,
)
from minidl.nn.unpool import MaxUnpool1d, MaxUnpool2d

__all__ = [
    # the base
    "Module", "Parameter", "Buffer", "functional", "init", "utils", "summary",
    # containers
    "Sequential", "ModuleList", "ModuleDict", "ParameterList",
    # products and shapes
    "Linear", "Bilinear", "Conv1d", "Conv2d", "ConvTranspose2d", "Embedding", "EmbeddingBag", "Identity",
    "Flatten", "Unflatten",
    # attention
    "MultiheadAttention", "TransformerEncoderLayer", "TransformerEncoder",
    "TransformerDecoderLayer", "TransformerDecoder", "Transformer", "CausalSelfAttention", "KVCache",
    "SinusoidalPositions", "LearnedPositions", "RotaryPositions",
    "DotProductAttention", "ScaledDotProductAttention", "AdditiveAttention", "BahdanauAttention",
    "StochasticAttention", "GumbelAttention", "ArgmaxAttention", "TopKAttention",
    # recurrence
    "RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell", "RNNBase", "RNNCellBase",
    # pooling, normalisation, dropout
    "MaxPool1d", "MaxPool2d", "AvgPool1d", "AvgPool2d", "AdaptiveAvgPool1d", "AdaptiveAvgPool2d",
    "BatchNorm1d", "BatchNorm2d", "LayerNorm", "RMSNorm", "GroupNorm", "Dropout", "Dropout2d",
    # activations
    "ReLU", "ReLU6", "LeakyReLU", "GELU", "SiLU", "Sigmoid", "Tanh", "Softplus", "Softmax", "LogSoftmax",
    # losses
    "CrossEntropyLoss", "NLLLoss", "MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "BCELoss", "BCEWithLogitsLoss",
    "KLDivLoss",
    "HingeEmbeddingLoss", "SoftMarginLoss", "MarginRankingLoss", "CosineEmbeddingLoss", "TripletMarginLoss",
    # more activations, resampling, normalisation
    "ELU", "CELU", "SELU", "Mish", "Hardswish", "Hardsigmoid", "Hardtanh", "Hardshrink", "Softshrink", "Threshold",
    "PReLU", "LogSigmoid", "Softsign", "Tanhshrink", "Softmin", "GLU", "Upsample", "PixelShuffle", "PixelUnshuffle",
    "ChannelShuffle", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "ConvTranspose1d", "InstanceNorm1d", "InstanceNorm2d",
    # dropout of paths and channels, noise
    "DropPath", "StochasticDepth", "GaussianNoise", "AlphaDropout", "FeatureAlphaDropout", "Dropout1d", "Dropout3d",
    "RReLU",
    # borders, windows, shapes
    "ZeroPad1d", "ZeroPad2d", "ZeroPad3d", "ConstantPad1d", "ConstantPad2d", "ConstantPad3d", "ReflectionPad1d",
    "ReflectionPad2d", "ReflectionPad3d", "ReplicationPad1d", "ReplicationPad2d", "ReplicationPad3d", "CircularPad1d",
    "CircularPad2d", "CircularPad3d", "Fold", "Unfold", "Reshape", "GlobalAvgPool", "GlobalMaxPool",
    "UpsamplingNearest2d", "UpsamplingBilinear2d",
    # and others
    "SeparableConv1d", "SeparableConv2d", "ALiBi", "SwiGLU", "Softmax2d", "ParameterDict",
    "PairwiseDistance", "CosineSimilarity", "GaussianNLLLoss", "PoissonNLLLoss", "TripletMarginWithDistanceLoss",
    "FocalLoss", "DiceLoss", "l1_penalty", "l2_penalty", "elastic_penalty",
    "MultiMarginLoss", "MultiLabelMarginLoss", "MultiLabelSoftMarginLoss", "LPPool1d", "LPPool2d", "LocalResponseNorm",
    "MaxUnpool1d", "MaxUnpool2d",
]  # fmt: skip

_VOLUMES = "minidl goes up to images (N, C, H, W)"
_LAZY = "sizes are said when a layer is made; summary(model, shape) tells them"


def __getattr__(name: str) -> object:
    hint = ""
    if name.startswith("Lazy"):
        hint = f": {_LAZY}"
    elif name.endswith("3d"):
        hint = f": {_VOLUMES}"
    elif name == "CTCLoss":
        hint = ": speech and handwriting in lines are not among what minidl is for, so far"
    elif name in ("DataParallel", "SyncBatchNorm"):
        hint = ": minidl runs in one process on one device; the module itself will do"
    raise AttributeError(f"module 'minidl.nn' has no attribute {name!r}{hint}")
