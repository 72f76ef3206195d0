"""EfficientNet-Lite0 in float and in int8, ours beside onnxruntime's: how close to float, how many bytes, how fast.

    python -m benchmarks.int8_networks [--threads N] [--rounds N]

The photographs are those that come with scikit-image; the network is calibrated on flipped and brightened ones and
measured on the photographs as they are. onnxruntime gets the same folded network as ONNX and quantizes it statically
with the same calibration (QDQ, per channel). Every contestant's logits are compared with our float logits before it is
timed; times are medians of calls in turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from typing import Any

import numpy as np

import minidl
from minidl.autograd import no_grad
from minidl.compress import fold, quantize_, quantize_static, record, save_model, save_net
from minidl.compress.record import Const, State, Value
from minidl.models import efficientnet_lite0, efficientnet_lite0_images
from minidl.tensors import wrap


def photographs() -> list[np.ndarray]:
    """Photographs of the scikit-image package, uint8 (H, W, 3)."""
    import skimage.data

    names = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "retina", "immunohistochemistry")
    return [getattr(skimage.data, name)() for name in names]


def calibration(photos: list[np.ndarray]) -> np.ndarray:
    """Other images than those measured on: mirrored, darker and brighter."""
    made = []
    for i, photo in enumerate(photos):
        bright = photo.astype(np.float32) * (0.7, 1.0, 1.2)[i % 3]
        made.append(np.clip(bright, 0, 255).astype(np.uint8)[:, ::-1])
        made.append(photo[::-1].copy())
    return efficientnet_lite0_images(made).array


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The mean cosine between rows."""
    return float(((a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))).mean())


def to_onnx(net: Any, path: str) -> None:
    """A folded recording of the ops that EfficientNet-Lite0 has, as an ONNX file."""
    from onnx import TensorProto, helper, numpy_helper, save

    state, nodes, weights = dict(net.named_state()), [], []
    name = lambda ref: f"v{ref.index}" if isinstance(ref, Value) else ref.name
    for step in net.steps:
        a, out = step.args, f"v{step.outs[0]}"
        for ref in step.refs():
            if isinstance(ref, (State, Const)) and ref.name not in [w.name for w in weights]:
                weights.append(numpy_helper.from_array(state[ref.name].array, ref.name))
        if step.op == "pad_constant":
            sides = [side[0] for side in a[1]] + [side[1] for side in a[1]]
            weights.append(numpy_helper.from_array(np.array(sides, np.int64), out + "_pads"))
            nodes.append(helper.make_node("Pad", [name(a[0]), out + "_pads"], [out]))
        elif step.op == "conv2d":
            _, w, b, stride, padding, dilation, groups = a
            how = dict(strides=stride, pads=[*padding, *padding], dilations=dilation, group=groups)
            nodes.append(helper.make_node("Conv", [name(a[0]), w.name, b.name], [out], **how))
        elif step.op == "hard_range":
            ends = [f"{out}_{i}" for i in range(2)]
            weights += [numpy_helper.from_array(np.float32(v), e) for e, v in zip(ends, a[1:])]
            nodes.append(helper.make_node("Clip", [name(a[0]), *ends], [out]))
        elif step.op == "add":
            nodes.append(helper.make_node("Add", [name(a[0]), name(a[1])], [out]))
        elif step.op == "avg_pool2d":
            nodes.append(helper.make_node("GlobalAveragePool", [name(a[0])], [out]))
        elif step.op == "reshape":
            nodes.append(helper.make_node("Flatten", [name(a[0])], [out]))
        elif step.op == "linear":
            nodes.append(helper.make_node("Gemm", [name(a[0]), a[1].name, a[2].name], [out], transB=1))
        else:
            raise ValueError(f"to_onnx: no rule for {step.op}")
    x = helper.make_tensor_value_info("v0", TensorProto.FLOAT, ["N", *net.sample])
    y = helper.make_tensor_value_info(name(net.output), TensorProto.FLOAT, ["N", None])
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def with_onnxruntime(net: Any, data: np.ndarray, folder: str, threads: int) -> dict[str, Any]:
    """onnxruntime's sessions of the network in float and in int8: {name: (call, bytes of the file)}."""
    import logging

    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    logging.disable(logging.WARNING)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter(data)

        def get_next(self) -> Any:
            row = next(self.rows, None)
            return None if row is None else {"v0": row[None]}

    plain, small = os.path.join(folder, "float.onnx"), os.path.join(folder, "int8.onnx")
    to_onnx(net, plain)
    quantize_static(
        plain, small, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    found = {}
    for label, path in (("onnxruntime float", plain), ("onnxruntime int8", small)):
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        found[label] = (lambda x, s=session: s.run(None, {"v0": x})[0]), os.path.getsize(path)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15, help="calls of each contestant")
    args = parser.parse_args()
    minidl.set_num_threads(args.threads)
    photos = photographs()
    x, data = efficientnet_lite0_images(photos).array, calibration(photos)
    model = efficientnet_lite0()
    folded = fold(record(model, wrap(data[:2])))
    static = quantize_static(model, data)
    weights = quantize_(efficientnet_lite0(), 8, weight_only=True)
    dynamic = quantize_(efficientnet_lite0())
    ours = lambda net: lambda x: net(wrap(x)).array
    with tempfile.TemporaryDirectory() as folder, no_grad():
        path = os.path.join(folder, "net.safetensors")
        calls = {
            "float": (ours(model), save_model(model, path)),
            "float, folded": (ours(folded), save_net(folded, path)),
            "int8 weights only": (ours(weights), save_model(weights, path)),
            "int8 dynamic": (ours(dynamic), save_model(dynamic, path)),
            "int8 static": (ours(static), save_net(static, path)),
            **with_onnxruntime(folded, data, folder, args.threads),
        }
        exact = calls["float"][0](x)
        print(f"{len(x)} photographs, {args.threads} threads, medians of {args.rounds} calls in turns")
        print(f"{'':20} {'cosine':>8} {'same class':>10} {'MB':>6} {'ms, one':>9} {'ms, ' + str(len(x)):>9}")
        times: dict[tuple[str, int], list[float]] = {}
        for n in (1, len(x)):
            for _ in range(2):
                for call, _ in calls.values():
                    call(x[:n])
            for _ in range(args.rounds):
                for label, (call, _) in calls.items():
                    call(x[:n])
                    start = time.perf_counter()
                    call(x[:n])
                    times.setdefault((label, n), []).append(time.perf_counter() - start)
        for label, (call, size) in calls.items():
            y = call(x)
            one, all_ = (1000 * statistics.median(times[label, n]) for n in (1, len(x)))
            same = (y.argmax(1) == exact.argmax(1)).mean()
            print(f"{label:20} {cosine(y, exact):8.4f} {same:10.2f} {size / 1e6:6.2f} {one:9.2f} {all_:9.2f}")


if __name__ == "__main__":
    main()
