"""Networks as ONNX files, which other runtimes run and netron draws. Needs `pip install 'minidl[onnx]'`.

The network runs once on an example (`minidl.compress.record`), and each op that ran is written as operators of ONNX
(translations.py); what depends on parameters alone, such as the factors of a batch norm, is computed here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.compress.record import record
from minidl.io import atomic_write
from minidl.onnx.writer import OPSET, UnsupportedOperatorError, Writer
from minidl.tensors import Tensor, wrap

__all__ = ["OPSET", "UnsupportedOperatorError", "export"]


def export(model: Any, example: Any, path: str, *, input_name: str = "input", output_name: str = "output") -> None:
    """Write what `model` computes in evaluation on inputs like `example` (N, ...); any number of them later.

    Args:
        model: a Module with one input and one output.
        example: a Tensor or array, float32 or int64, that it takes.
        path: the file, ``.onnx``; written whole or not at all.
        input_name, output_name: what the file calls them.

    Parameters keep their names. The other sizes of the input are fixed. Raises UnsupportedOperatorError, which names
    the op and the module, for an op that has no translation; ValueError as :func:`minidl.compress.record` does, for
    packed weights (call `minidl.compress.dequantize_` first) and for another suffix; ImportError without the package.

    >>> import os, tempfile, minidl
    >>> from minidl import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "net.onnx")
    ...     export(model, minidl.randn(1, 4), path)
    ...     os.path.getsize(path) > 4 * 58
    True
    """
    if not path.endswith(".onnx"):
        raise ValueError(f"onnx.export: the name must end in .onnx, not {path!r}")
    x = example if isinstance(example, Tensor) else wrap(np.asarray(example))
    from minidl.onnx import translations

    try:
        net = record(model, x)
    except ValueError as error:  # an op that keeps what it found in this example: say which, if it is foreign anyway
        translations.check(model, x, error)
        raise
    writer = Writer(net, x, input_name, output_name)
    for step in net.steps:
        if step.outs[0] in writer.live:
            translations.translate(writer, step)
    file = writer.finished()
    with atomic_write(path) as out:
        out.write(file)
