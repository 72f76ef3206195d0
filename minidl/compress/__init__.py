"""Compression: fewer weights and smaller ones, in the same model, with what it gained and cost measured.

`prune_` and `quantize_` change parameters in place; the module tree, its names and its state_dict keys stay. `report`
says what a model holds and how it does, `save_model` writes it as small as it is.
"""

from minidl.compress.anatomy import Structure, structure
from minidl.compress.budget import Budget, Step, meet_budget_
from minidl.compress.distillation import Distillation, distillation_loss
from minidl.compress.files import load_model, load_state, save_model, stored_bytes
from minidl.compress.low_rank import factors, low_rank, rank_of
from minidl.compress.nets import load_net, save_net
from minidl.compress.packing import Choice, Packing, pack_, packing
from minidl.compress.prune import (
    Movement,
    Pruner,
    block_mask,
    channel_mask,
    cubic,
    fan_in_mask,
    head_mask,
    magnitude_mask,
    magnitude_masks,
    masks,
    nm_mask,
    output_norms,
    prune_,
    prune_channels_,
    random_mask,
    remove_masks_,
    rewind_,
    rms_mask,
    rounds,
    snip,
    sparsity,
    taylor,
    wanda,
)
from minidl.compress.quantize import (
    KL,
    MSE,
    IntegerNet,
    MinMax,
    MovingAverage,
    Observer,
    Percentile,
    absmax_scale,
    awq,
    awq_,
    dequantize_,
    dequantize_array,
    fold,
    gptq,
    gptq_,
    minmax_scale,
    nearest_scale,
    pack_int8,
    pack_weight,
    quantize_,
    quantize_array,
    quantize_static,
    smoothquant,
    smoothquant_,
)
from minidl.compress.record import Recorded, record
from minidl.compress.reports import Report, Row, latencies, report
from minidl.compress.sharing import kmeans_codebook, share_weights_
from minidl.compress.slimming import SlimError, slim
from minidl.compress.transfer import freeze_, groups_by_depth, new_head_, swap_, unfreeze_

__all__ = [
    # pruning: models, then mask makers, scores that data give, and pruning over time
    "prune_",
    "prune_channels_",
    "masks",
    "remove_masks_",
    "sparsity",
    "magnitude_mask",
    "magnitude_masks",
    "random_mask",
    "fan_in_mask",
    "rms_mask",
    "nm_mask",
    "block_mask",
    "channel_mask",
    "head_mask",
    "output_norms",
    "snip",
    "taylor",
    "Movement",
    "wanda",
    "Pruner",
    "cubic",
    "rounds",
    "rewind_",
    # removing what is masked
    "slim",
    "pack_",
    "packing",
    "Packing",
    "Choice",
    "SlimError",
    "structure",
    "Structure",
    # quantization: models, then arrays
    "quantize_",
    "dequantize_",
    "absmax_scale",
    "minmax_scale",
    "nearest_scale",
    "pack_weight",
    "pack_int8",
    "quantize_array",
    "dequantize_array",
    # by what the data need
    "gptq_",
    "gptq",
    "awq_",
    "awq",
    "smoothquant_",
    "smoothquant",
    # whole networks: recorded, folded, in integers from end to end
    "record",
    "Recorded",
    "fold",
    "quantize_static",
    "IntegerNet",
    # what range activations have
    "Observer",
    "MinMax",
    "MovingAverage",
    "Percentile",
    "MSE",
    "KL",
    # other ways to a smaller model
    "low_rank",
    "rank_of",
    "factors",
    "share_weights_",
    "kmeans_codebook",
    "distillation_loss",
    "Distillation",
    # from one task to the next
    "freeze_",
    "unfreeze_",
    "swap_",
    "new_head_",
    "groups_by_depth",
    # files
    "save_model",
    "load_model",
    "load_state",
    "stored_bytes",
    "save_net",
    "load_net",
    # what it gained and cost, and how much it may
    "meet_budget_",
    "Budget",
    "Step",
    "report",
    "Report",
    "Row",
    "latencies",
]
