"""torch.nn.functional's names, collected from the pages of minidl.ops."""

import functools
from typing import Any

from minidl.ops.activations import (
    celu,
    elu,
    gelu,
    glu,
    logsigmoid,
    mish,
    selu,
    softmin,
    softplus,
    softsign,
    tanhshrink,
)
from minidl.ops.activations import silu_or_write as silu
from minidl.ops.adaptive_pool import adaptive_max_pool1d, adaptive_max_pool2d
from minidl.ops.alpha_dropout import alpha_dropout, dropout1d, dropout3d, feature_alpha_dropout, rrelu
from minidl.ops.attention import scaled_dot_product_attention
from minidl.ops.bilinear import bilinear
from minidl.ops.class_margin_losses import multi_margin_loss, multilabel_margin_loss, multilabel_soft_margin_loss
from minidl.ops.conv import conv1d, conv2d, conv_transpose1d, conv_transpose2d
from minidl.ops.density_losses import gaussian_nll_loss, poisson_nll_loss
from minidl.ops.distances import cosine_similarity, normalize, pairwise_distance
from minidl.ops.dropout import dropout, dropout2d
from minidl.ops.embeddings import embedding, embedding_bag
from minidl.ops.exponentials import sigmoid
from minidl.ops.grid_sampling import affine_grid, grid_sample
from minidl.ops.group_norm import group_norm, instance_norm
from minidl.ops.gumbel import gumbel_softmax
from minidl.ops.hard_activations import (
    hardshrink,
    hardsigmoid,
    hardswish,
    hardtanh,
    prelu,
    relu6,
    softshrink,
    threshold,
)
from minidl.ops.hard_activations import leaky_relu_or_write as leaky_relu
from minidl.ops.hard_activations import relu_or_write as relu
from minidl.ops.linalg import linear
from minidl.ops.loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from minidl.ops.margin_losses import (
    cosine_embedding_loss,
    hinge_embedding_loss,
    margin_ranking_loss,
    soft_margin_loss,
    triplet_margin_loss,
    triplet_margin_with_distance_loss,
)
from minidl.ops.norm import batch_norm, layer_norm, rms_norm
from minidl.ops.one_hot import one_hot
from minidl.ops.overlap_losses import dice_loss, sigmoid_focal_loss
from minidl.ops.padding import pad
from minidl.ops.pool import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    avg_pool1d,
    avg_pool2d,
    max_pool1d,
    max_pool2d,
)
from minidl.ops.power_pool import local_response_norm, lp_pool1d, lp_pool2d
from minidl.ops.resample import interpolate, upsample, upsample_bilinear, upsample_nearest
from minidl.ops.shuffles import channel_shuffle, pixel_shuffle, pixel_unshuffle
from minidl.ops.softmax import log_softmax, softmax
from minidl.ops.statistics import pdist
from minidl.ops.stochastic_depth import gaussian_noise, stochastic_depth
from minidl.ops.swiglu import swiglu
from minidl.ops.trigonometry import tanh
from minidl.ops.unpool import max_unpool1d, max_unpool2d
from minidl.ops.windows import fold, unfold


def _in_place(function: Any) -> Any:
    """torch's name with an underscore: the function with inplace=True."""

    @functools.wraps(function)
    def write(input: Any, *args: Any, **kwargs: Any) -> Any:
        return function(input, *args, **kwargs, inplace=True)

    write.__name__ = f"{function.__name__}_"
    write.__doc__ = f"As {function.__name__}, written into the input."
    return write


relu_, leaky_relu_, elu_, celu_ = _in_place(relu), _in_place(leaky_relu), _in_place(elu), _in_place(celu)
selu_, hardtanh_, threshold_, rrelu_ = _in_place(selu), _in_place(hardtanh), _in_place(threshold), _in_place(rrelu)

_ABSENT = {
    "conv3d": "minidl goes up to images (N, C, H, W)",
    "conv_transpose3d": "minidl goes up to images (N, C, H, W)",
    "max_pool3d": "minidl goes up to images (N, C, H, W)",
    "avg_pool3d": "minidl goes up to images (N, C, H, W)",
    "adaptive_avg_pool3d": "minidl goes up to images (N, C, H, W)",
    "ctc_loss": "speech and handwriting in lines are not among what minidl is for, so far",
    "multi_head_attention_forward": "use minidl.nn.MultiheadAttention, or scaled_dot_product_attention",
}


def __getattr__(name: str) -> Any:
    hint = f": {_ABSENT[name]}" if name in _ABSENT else ""
    raise AttributeError(f"module 'minidl.nn.functional' has no attribute {name!r}{hint}")


__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "affine_grid",
    "alpha_dropout",
    "avg_pool1d",
    "avg_pool2d",
    "batch_norm",
    "bilinear",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "celu",
    "channel_shuffle",
    "conv1d",
    "conv2d",
    "conv_transpose1d",
    "conv_transpose2d",
    "cosine_embedding_loss",
    "cosine_similarity",
    "cross_entropy",
    "dice_loss",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "elu",
    "embedding",
    "embedding_bag",
    "feature_alpha_dropout",
    "fold",
    "gaussian_nll_loss",
    "gaussian_noise",
    "gelu",
    "glu",
    "grid_sample",
    "group_norm",
    "gumbel_softmax",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hinge_embedding_loss",
    "huber_loss",
    "instance_norm",
    "interpolate",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "local_response_norm",
    "log_softmax",
    "logsigmoid",
    "lp_pool1d",
    "lp_pool2d",
    "margin_ranking_loss",
    "max_pool1d",
    "max_pool2d",
    "max_unpool1d",
    "max_unpool2d",
    "mish",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "normalize",
    "one_hot",
    "pad",
    "pairwise_distance",
    "pdist",
    "pixel_shuffle",
    "pixel_unshuffle",
    "poisson_nll_loss",
    "prelu",
    "relu",
    "relu6",
    "rms_norm",
    "rrelu",
    "scaled_dot_product_attention",
    "selu",
    "sigmoid",
    "sigmoid_focal_loss",
    "silu",
    "smooth_l1_loss",
    "soft_margin_loss",
    "softmax",
    "softmin",
    "softplus",
    "softshrink",
    "softsign",
    "stochastic_depth",
    "swiglu",
    "tanh",
    "tanhshrink",
    "threshold",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
    "unfold",
    "upsample",
    "upsample_bilinear",
    "upsample_nearest",
]
