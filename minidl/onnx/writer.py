"""A graph of ONNX operators under construction: names for values, constants, nodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.autograd import no_grad
from minidl.compress.record import Const, Recorded, State, Step, Value
from minidl.storage import Packed
from minidl.tensors import Tensor

__all__ = ["OPSET", "UnsupportedOperatorError", "Writer"]

OPSET = 20  # the first with Gelu
IR = 9  # the format of the file that came with it


class UnsupportedOperatorError(RuntimeError):
    """An op that ONNX has no counterpart for, or that nobody has translated yet."""


class Writer:
    """Collects nodes. `live`: the results that depend on the input; all others are constants."""

    def __init__(self, net: Recorded, x: Tensor, input_name: str, output_name: str):
        try:
            import onnx
        except ImportError as error:
            raise ImportError("onnx.export needs the package onnx: pip install 'minidl[onnx]'") from error
        self.onnx = onnx
        self.live = net.live()
        self.values: dict[int, np.ndarray] = {0: x.array}  # what the results were for the example
        with no_grad():
            net.run(x.detach(), lambda index, y: self.values.__setitem__(index, y.array))
        self.state = dict(net.named_state())
        self.output = net.output.index
        self.input_name, self.output_name = input_name, output_name
        self.names: dict[int, str] = {0: input_name}
        self.taken = {input_name, output_name, *self.state}
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.scope = ""

    # -- values -------------------------------------------------------------------------------------------------------

    def array(self, ref: Any) -> np.ndarray:
        """What an argument was for the example."""
        if isinstance(ref, Value):
            return self.values[ref.index]
        if isinstance(ref, (State, Const)):
            a = self.state[ref.name].array
            if isinstance(a, Packed):
                raise ValueError(f"onnx.export: {ref.name} is packed; call minidl.compress.dequantize_(model) first")
            return np.asarray(a)
        return np.asarray(ref)

    def is_constant(self, ref: Any) -> bool:
        """Whether it is the same for all inputs."""
        return not (isinstance(ref, Value) and ref.index in self.live)

    def name(self, ref: Any, like: Any = None) -> str:
        """What the file calls an argument; plain numbers take the dtype of the argument `like`."""
        if ref == Value(-1):
            raise ValueError("onnx.export: the network reads the number of its inputs, which has no translation")
        if not self.is_constant(ref):
            return self.names[ref.index]
        a = self.array(ref)
        if isinstance(ref, (State, Const)):
            self.constants[ref.name] = a
            return ref.name
        if like is not None and not isinstance(ref, Value):
            a = a.astype(self.array(like).dtype)
        return self.constant(a)

    def constant(self, a: Any, dtype: Any = None) -> str:
        """The name of a constant; equal ones share it."""
        a = np.asarray(a, dtype)
        for name, other in self.constants.items():
            if other.dtype == a.dtype and other.shape == a.shape and other.tobytes() == a.tobytes():
                return name
        name = self._fresh("constant")
        self.constants[name] = a
        return name

    def sizes(self, *numbers: int) -> str:
        """A constant list of whole numbers: axes, a shape."""
        return self.constant(list(numbers), np.int64)

    def _fresh(self, stem: str) -> str:
        stem = f"{self.scope}/{stem}" if self.scope else stem
        name, n = stem, 1
        while name in self.taken:
            name, n = f"{stem}_{n}", n + 1
        self.taken.add(name)
        return name

    # -- nodes --------------------------------------------------------------------------------------------------------

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output; returns the output's name."""
        name = self._fresh(operator)
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def give(self, step: Step, name: str) -> None:
        """Say under which name the step's first result is known."""
        self.names[step.outs[0]] = name

    def finished(self) -> bytes:
        """The file."""
        helper, numpy_helper = self.onnx.helper, self.onnx.numpy_helper
        self.nodes.append(helper.make_node("Identity", [self.name(Value(self.output))], [self.output_name]))
        x, y = self.values[0], self.values[self.output]

        def described(name: str, a: np.ndarray) -> Any:
            kind = helper.np_dtype_to_tensor_dtype(a.dtype)
            batch = "N" if a.ndim and len(a) == len(x) else None  # rows of all inputs may be one after another
            return helper.make_tensor_value_info(name, kind, [batch, *a.shape[1:]] if a.ndim else [])

        graph = helper.make_graph(
            self.nodes,
            "minidl",
            [described(self.input_name, x)],
            [described(self.output_name, y)],
            [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in self.constants.items()],
        )
        model = helper.make_model(
            graph, producer_name="minidl", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR
        )
        self.onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()
