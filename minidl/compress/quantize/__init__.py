"""Quantization: numbers in few bits, on arrays, on weights, on whole networks.

arrays.py     the formula: scales, codes, and back
weights.py    weights as packed storage: 2 to 8 bits, symmetric or affine, scales per tensor, output or group
observers.py  what range of an activation its codes should cover
models.py     `quantize_`: a model's weights become packed, in place
gptq.py       roundings paid back by the weights that are left; awq.py, smooth.py: scales between inputs and weights
fold.py       batch norm taken into the layer before it
steps.py      what runs on codes: layers, sums, pools; with gradients, for training
static.py     `quantize_static`: a network that stays in integers from end to end
"""

from minidl.compress.quantize.arrays import absmax_scale, dequantize_array, minmax_scale, nearest_scale, quantize_array
from minidl.compress.quantize.awq import awq, awq_
from minidl.compress.quantize.fold import fold
from minidl.compress.quantize.gptq import gptq, gptq_
from minidl.compress.quantize.models import dequantize_, quantize_
from minidl.compress.quantize.observers import KL, MSE, MinMax, MovingAverage, Observer, Percentile
from minidl.compress.quantize.smooth import smoothquant, smoothquant_
from minidl.compress.quantize.static import IntegerNet, quantize_static
from minidl.compress.quantize.weights import pack_int8, pack_weight

__all__ = [
    "KL", "MSE", "IntegerNet", "MinMax", "MovingAverage", "Observer", "Percentile", "absmax_scale", "awq", "awq_",
    "dequantize_", "dequantize_array", "fold", "gptq", "gptq_", "minmax_scale", "nearest_scale", "pack_int8",
    "pack_weight", "quantize_",    "quantize_array", "quantize_static", "smoothquant", "smoothquant_",
]  # fmt: skip
