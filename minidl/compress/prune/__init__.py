"""Pruning: choose weights to be zero, and keep them zero.

A mask maker is a pure function: weights in, a bool array out, True where a weight stays. `prune_` ands such masks into
``Parameter.mask`` and zeroes the weights in place. The module tree, the names, the `Parameter` objects and the
optimizer's state for them stay; optimizers apply the mask after each update, so pruned weights stay zero in retraining.

Which rule to take: `magnitude_mask` hits a sparsity exactly. `rms_mask` and `fan_in_mask` cut at a threshold, so their
sparsity depends on the weights' distribution and lambda has to be swept; `fan_in_mask` also depends on the layer's
shape (its page says why). Rules that look at data give scores to `prune_`: `snip`, `taylor` and `Movement` at
gradients, `wanda` at activations. `nm_mask` and `block_mask` drop in patterns that kernels can use, `channel_mask` and
`head_mask` whole outputs. `random_mask` is the baseline that a rule has to beat.
"""

from minidl.compress.prune.chance import random_mask
from minidl.compress.prune.channels import prune_channels_
from minidl.compress.prune.gradients import Movement, snip, taylor
from minidl.compress.prune.lottery import rewind_
from minidl.compress.prune.magnitude import magnitude_mask, magnitude_masks
from minidl.compress.prune.models import masks, prunable, prune_, remove_masks_, sparsity
from minidl.compress.prune.outputs import channel_mask, head_mask, output_norms
from minidl.compress.prune.patterns import block_mask, nm_mask
from minidl.compress.prune.schedule import Pruner, cubic, rounds
from minidl.compress.prune.thresholds import fan_in_mask, rms_mask
from minidl.compress.prune.wanda import wanda

__all__ = [
    # models
    "prune_",
    "prune_channels_",
    "prunable",
    "masks",
    "remove_masks_",
    "sparsity",
    # rules on arrays
    "magnitude_mask",
    "magnitude_masks",
    "fan_in_mask",
    "rms_mask",
    "random_mask",
    "nm_mask",
    "block_mask",
    "channel_mask",
    "head_mask",
    "output_norms",
    # scores that data give
    "snip",
    "taylor",
    "Movement",
    "wanda",
    # over the steps of a training
    "Pruner",
    "cubic",
    "rounds",
    "rewind_",
]
