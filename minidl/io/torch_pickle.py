"""The pickles inside files of torch.save, run by a machine that can build plain data and nothing else.

A pickle is a program for a small stack machine, which may call anything that can be imported. The machine here knows
only the instructions that build plain data, and of names only those in `_NAMES`, each of which stands for one function
of this page; nothing is imported.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minidl import dtypes
from minidl.io.checkpoint import CheckpointError
from minidl.io.npz import array_from_bytes
from minidl.tensors import Tensor, wrap

__all__ = ["Source", "run"]

_STORAGES = {
    "FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "BFloat16Storage": "bfloat16",
    "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "?",
}  # fmt: skip
_DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")


class _Kind(NamedTuple):
    """The element type that a storage's name stands for."""

    code: str


class _Storage(NamedTuple):
    """The elements of one storage; tensors are strided windows on it."""

    array: np.ndarray


class Source:
    """What a pickle may ask for; a subclass knows where the file has the elements of a storage.

    Args:
        path: the file, for messages.
        max_bytes: how much the storages may take together.
    """

    order = "<"  # of the bytes of an element
    id_length = 5  # parts of a storage's persistent id

    def __init__(self, path: Any, max_bytes: int):
        self.path, self.max_bytes, self.left = path, max_bytes, max_bytes
        self.storages: dict[str, tuple[str, _Storage]] = {}

    def elements(self, key: str, count: int, width: int) -> bytearray:
        """The `count` elements of `width` bytes of storage `key`; raises CheckpointError where they are not there."""
        raise NotImplementedError

    def error(self, reason: str) -> CheckpointError:
        """The error to raise: file and reason."""
        return CheckpointError(f"{self.path}: {reason}")

    def name(self, module: str, name: str) -> Any:
        """What a global name stands for here."""
        if module == "torch" and name in _STORAGES:
            return _Kind(_STORAGES[name])
        if module == "torch" and name in _DTYPES:
            return getattr(dtypes, name)
        found = _NAMES.get((module, name))
        if found is None:
            raise self.error(
                f"asks for {module}.{name}, which is not loaded: only tensors and plain data are, never code or "
                "objects. In torch, save model.state_dict() and plain numbers instead"
            )
        return found

    def storage(self, pid: Any) -> _Storage:
        """The storage of a persistent id: ("storage", kind, key, place, number of elements); before 1.6 also a None."""
        fits = isinstance(pid, tuple) and len(pid) == self.id_length and pid[5:] in ((), (None,))
        if not (fits and pid[0] == "storage" and isinstance(pid[1], _Kind)):
            raise self.error("refers to something that is no storage of a known type")
        _, kind, key, _, count, *_ = pid
        if not isinstance(key, str) or not _size(count):
            raise self.error("describes a storage by what is no name and no size")
        known = self.storages.get(key)
        if known is None:
            wide = kind.code == "bfloat16"
            dtype = np.dtype(self.order + "u2") if wide else np.dtype(kind.code).newbyteorder(self.order)
            need = count * dtype.itemsize
            if need > self.left:
                raise self.error(f"holds more than the limit of {self.max_bytes} bytes")
            self.left -= need
            data = self.elements(key, count, dtype.itemsize)
            flat = array_from_bytes(
                data, dtype, (count,), False, lambda reason: self.error(f"storage {key!r} {reason}")
            )
            if wide:  # the upper half of a float32
                flat = (flat.astype(np.uint32) << np.uint32(16)).view(np.float32)
            known = self.storages[key] = (kind.code, _Storage(flat))
        if known[0] != kind.code:
            raise self.error(f"describes storage {key!r} as {known[0]} and as {kind.code}")
        return known[1]

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, *ignored: Any) -> Tensor:
        """torch._utils._rebuild_tensor_v2: a strided window on a storage. Hooks and metadata are not taken over."""
        fits = (
            isinstance(storage, _Storage) and _size(offset) and isinstance(size, tuple) and isinstance(stride, tuple)
            and len(size) == len(stride) <= 32 and all(map(_size, (*size, *stride)))
        )  # fmt: skip
        if not fits:
            raise self.error("describes a tensor by what are no sizes and strides")
        flat = storage.array
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if math.prod(size) * flat.itemsize > self.max_bytes or (math.prod(size) and last >= flat.size):
            raise self.error(f"a tensor of shape {size}, strides {stride} does not fit its {flat.size} elements")
        if not math.prod(size):
            return wrap(np.empty(size, flat.dtype))
        steps = [s * flat.itemsize for s in stride]
        t = wrap(np.lib.stride_tricks.as_strided(flat[offset:], size, steps))
        return t.requires_grad_() if requires_grad is True and t.is_floating_point() else t

    def parameter(self, data: Any, requires_grad: Any, *ignored: Any) -> Tensor:
        """torch._utils._rebuild_parameter: a Tensor, as load gives of minidl's own files."""
        if not isinstance(data, Tensor):
            raise self.error("describes a parameter by what is no tensor")
        t = data.detach()
        return t.requires_grad_() if requires_grad is True else t

    def mapping(self, *pairs: Any) -> dict:
        """collections.OrderedDict, empty or of a list of pairs."""
        return dict(*pairs)

    def shape(self, sizes: Any) -> tuple:
        """torch.Size"""
        return tuple(sizes)

    def device(self, *parts: Any) -> str:
        """torch.device"""
        return ":".join(str(part) for part in parts)


_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): Source.mapping,
    ("torch._utils", "_rebuild_tensor_v2"): Source.tensor,
    ("torch._utils", "_rebuild_parameter"): Source.parameter,
    ("torch", "Size"): Source.shape,
    ("torch", "device"): Source.device,
}


def _size(n: Any) -> bool:
    return type(n) is int and 0 <= n < 2**48


# -- the machine -------------------------------------------------------------------------------------------------------

_MARK = object()
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip


def run(program: io.BytesIO, source: Source) -> Any:
    """The value that the pickle at the stream's place builds; the stream is left behind it.

    Raises CheckpointError for instructions and names that are not data.
    """
    import pickletools

    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list:
        at = max(i for i, x in enumerate(stack) if x is _MARK)
        found = stack[at + 1 :]
        del stack[at:]
        return found

    arg: Any
    for op, arg, _ in pickletools.genops(program):
        name = op.name
        if name in _LITERALS:
            stack.append(arg)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if arg is None else arg] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[arg])
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            n = int(name[-1])
            stack[-n:] = [tuple(stack[-n:])]
        elif name in ("APPEND", "APPENDS"):
            values = since_mark() if name == "APPENDS" else [stack.pop()]
            _expect(stack[-1], list, source).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = since_mark() if name == "SETITEMS" else [stack.pop() for _ in range(2)][::-1]
            target = _expect(stack[-1], dict, source)
            for key, value in zip(values[::2], values[1::2], strict=True):
                target[key] = value
        elif name == "GLOBAL":
            module, _, attribute = arg.partition(" ")
            stack.append(source.name(module, attribute))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(source.name(module, attribute))
        elif name == "BINPERSID":
            stack.append(source.storage(stack.pop()))
        elif name == "REDUCE":
            given = _expect(stack.pop(), tuple, source)
            function = stack.pop()
            if not any(function is allowed for allowed in _NAMES.values()):
                raise source.error("calls what is no function that builds data")
            stack.append(function(source, *given))
        elif name == "BUILD":  # the version notes that torch hangs on a state_dict
            stack.pop()
            _expect(stack[-1], dict, source)
        elif name == "STOP":
            break
        elif name not in ("PROTO", "FRAME"):
            raise source.error(f"holds the pickle instruction {name}, which plain data does not need")
    [value] = stack
    _check_data(value, source)
    return value


_DATA = (bool, int, float, str, bytes, Tensor, dtypes.DType, type(None))


def _check_data(value: Any, source: Source) -> None:
    """Nothing of the machine itself, such as a function or a storage, is left in what it built."""
    todo, seen = [value], set()
    while todo:
        x = todo.pop()
        if isinstance(x, _DATA) or id(x) in seen:
            continue
        seen.add(id(x))
        if type(x) is dict:
            todo += [*x.keys(), *x.values()]
        elif type(x) in (list, tuple):
            todo += x
        else:
            raise source.error("holds a function or a storage where data should be")


def _expect(value: Any, kind: type, source: Source) -> Any:
    if type(value) is not kind:
        raise source.error(f"builds a {kind.__name__} out of a {type(value).__name__}")
    return value
