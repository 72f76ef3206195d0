"""onnxruntime: each kernel as a graph of one or a few nodes; weights are constants of the graph, as in its models."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

Call = Callable[[], Any]
Pair = int | tuple[int, int]

OPSET, IR = 21, 10
_TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int8): TensorProto.INT8}
_nthreads = 1


@contextlib.contextmanager
def start(nthreads: int) -> Any:
    """Sessions built inside get this many threads."""
    global _nthreads
    before, _nthreads = _nthreads, nthreads
    try:
        yield
    finally:
        _nthreads = before


def _call(nodes: Sequence[Any], inputs: dict[str, np.ndarray], constants: dict[str, np.ndarray]) -> Call:
    """A session whose last node gives `y`, as a call. Nothing is copied in; the result is onnxruntime's own memory."""
    described = [helper.make_tensor_value_info(name, _TYPES[a.dtype], a.shape) for name, a in inputs.items()]
    y = helper.make_empty_tensor_value_info("y")
    held = [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in constants.items()]
    graph = helper.make_graph(list(nodes), "bench", described, [y], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = _nthreads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    call = lambda: session.run(None, inputs)[0]
    call.keeps = bool(constants)  # type: ignore[attr-defined]
    return call


def _plain(*arrays: np.ndarray) -> bool:
    """onnxruntime takes contiguous memory only; anything else it would copy on every call."""
    return all(a.flags.c_contiguous for a in arrays)


def matmul(a: np.ndarray, b: np.ndarray) -> Call | None:
    if not _plain(a, b):
        return None
    return _call([helper.make_node("MatMul", ["a", "b"], ["y"])], {"a": a, "b": b}, {})


def linear(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> Call:
    constants = {"w": w} if b is None else {"w": w, "b": b}
    node = helper.make_node("Gemm", ["x", *constants], ["y"], transB=1)
    return _call([node], {"x": x}, constants)


def _geometry(w: np.ndarray, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> dict[str, Any]:
    pair = lambda v: [v, v] if isinstance(v, int) else list(v)
    return {
        "strides": pair(stride), "pads": pair(padding) * 2, "dilations": pair(dilation),
        "group": groups, "kernel_shape": w.shape[2:],
    }  # fmt: skip


def conv2d(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Call:
    constants = {"w": w} if b is None else {"w": w, "b": b}
    node = helper.make_node("Conv", ["x", *constants], ["y"], **_geometry(w, stride, padding, dilation, groups))
    return _call([node], {"x": x}, constants)


def quantize(x: np.ndarray, scale: Any, zero: Any, low: int, high: int, axis: int | None) -> Call | None:
    """QuantizeLinear, with constant scales."""
    if (low, high) != (-128, 127) or x.dtype != np.float32:
        return None
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], **({} if axis is None else {"axis": axis}))
    return _call([node], {"x": x}, {"s": np.asarray(scale, np.float32), "z": np.asarray(zero, np.int8)})


def dequantize(q: np.ndarray, scale: Any, zero: Any, axis: int | None) -> Call | None:
    """DequantizeLinear, with constant scales."""
    if q.dtype != np.int8:
        return None
    node = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **({} if axis is None else {"axis": axis}))
    return _call([node], {"q": q}, {"s": np.asarray(scale, np.float32), "z": np.asarray(zero, np.int8)})


def int8_matmul(a: np.ndarray, b: np.ndarray) -> Call | None:
    """MatMulInteger on signed bytes; its result is int32."""
    return _call([helper.make_node("MatMulInteger", ["a", "b"], ["y"])], {"a": a}, {"b": b})


def int8_linear(
    x: np.ndarray, w_q: np.ndarray, w_scale: np.ndarray, b: np.ndarray | None, x_scale: float | None
) -> Call | None:
    """DynamicQuantizeLinear (one scale for the whole of x), MatMulInteger, rescale, bias: what its quantizer emits and
    its optimizer fuses.
    """
    if x_scale is not None:
        return None
    make = helper.make_node
    nodes = [
        make("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        make("MatMulInteger", ["q", "w", "z"], ["acc"]),
        make("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
        make("Mul", ["s", "ws"], ["scale"]),
        make("Mul", ["f", "scale"], ["y" if b is None else "scaled"]),
    ]
    constants = {"w": w_q.T, "ws": w_scale}
    if b is not None:
        nodes.append(make("Add", ["scaled", "b"], ["y"]))
        constants["b"] = b
    return _call(nodes, {"x": x}, constants)


def int8_conv2d(
    x: np.ndarray, w_q: np.ndarray, w_scale: np.ndarray, b: np.ndarray | None,
    stride: Pair, padding: Pair, dilation: Pair, groups: int, x_scale: float | None,
) -> Call:  # fmt: skip
    """DynamicQuantizeLinear, ConvInteger, rescale, bias; with a static scale QuantizeLinear, QLinearConv (whose result
    is 8 bits, with a scale found from one run) and DequantizeLinear.

    The latter is its fast way, with unsigned x and signed weights as its documentation advises for x86: measured on
    Zen 4, 14 times faster than with signed x, and ten times faster than ConvInteger.
    """
    make, k = helper.make_node, w_q.shape[0]
    how = _geometry(w_q, stride, padding, dilation, groups)
    if x_scale is not None:
        y = int8_conv2d(x, w_q, w_scale, b, stride, padding, dilation, groups, None)()
        sums = np.zeros(k, np.int32) if b is None else np.rint(b / (x_scale * w_scale)).astype(np.int32)
        scales = {"s": x_scale, "ys": float(np.abs(y).max()) / 127 or 1.0}
        nodes = [
            make("QuantizeLinear", ["x", "s", "z"], ["q"]),
            make("QLinearConv", ["q", "s", "z", "w", "ws", "wz", "ys", "z", "b"], ["r"], **how),
            make("DequantizeLinear", ["r", "ys", "z"], ["y"]),
        ]
        constants: dict[str, np.ndarray] = {name: np.array(value, np.float32) for name, value in scales.items()}
        constants |= {"z": np.array(128, np.uint8), "w": w_q, "ws": w_scale, "wz": np.zeros(k, np.int8), "b": sums}
        return _call(nodes, {"x": x}, constants)
    nodes = [
        make("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        make("ConvInteger", ["q", "w", "z"], ["acc"], **how),
        make("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
        make("Mul", ["s", "ws"], ["scale"]),
        make("Mul", ["f", "scale"], ["y" if b is None else "scaled"]),
    ]
    constants = {"w": w_q, "ws": w_scale.reshape(1, k, 1, 1)}
    if b is not None:
        nodes.append(make("Add", ["scaled", "b"], ["y"]))
        constants["b"] = b.reshape(1, k, 1, 1)
    return _call(nodes, {"x": x}, constants)
