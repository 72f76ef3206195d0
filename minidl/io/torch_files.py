"""Files of torch.save (`.pt`, `.pth`), read without torch and without running anything.

Such a file is a zip archive: `NAME/data.pkl` holds the structure as a pickle, `NAME/data/0`, `1`, ... the elements of
the tensors (https://docs.pytorch.org/docs/stable/notes/serialization.html). A pickle is a program for a small stack
machine, which may call anything that can be imported. The machine here knows only the instructions that build plain
data, and of names only those in `_NAMES`, each of which stands for one function of this page; nothing is imported.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minidl import dtypes
from minidl.io.checkpoint import CheckpointError
from minidl.io.npz import MAX_BYTES, array_from_bytes, open_regular, read_up_to
from minidl.tensors import Tensor, wrap

__all__ = ["load_torch"]

Path = str | os.PathLike[str]

_STORAGES = {
    "FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "BFloat16Storage": "bfloat16",
    "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "?",
}  # fmt: skip
_DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
_MAX_PICKLE = 64 * 2**20  # of the structure alone; that of a model with thousands of tensors takes about a megabyte


class _Kind(NamedTuple):
    """The element type that a storage's name stands for."""

    code: str


class _Storage(NamedTuple):
    """The elements of one storage; tensors are strided windows on it."""

    array: np.ndarray


def load_torch(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """What torch.save wrote: numbers, text, dicts, lists and tuples of Tensors; ``minidl.load`` calls it by suffix.

    Tensors share memory as they did, and require gradients if they did; those of a GPU come to the CPU. bfloat16, which
    NumPy lacks, is widened to float32, exactly. torch.Size comes as a tuple, torch.device as its name, OrderedDict as a
    dict. Nothing in the file is executed and no declared size is trusted.

    Raises CheckpointError, naming file and reason: for a whole pickled model or anything else of a name that is not
    listed here (the message says which; save ``model.state_dict()`` instead), for files of torch before 1.6, and for
    files that are missing, truncated, damaged or larger than `max_bytes`.
    """
    try:
        with open_regular(path, CheckpointError) as file:
            start = file.read(4)
            file.seek(0)
            if start[:2] != b"PK":
                raise CheckpointError(
                    f"{path}: not a zip archive, as torch writes since 1.6; load it in torch and save it again"
                )
            with zipfile.ZipFile(file) as archive:
                return _Archive(archive, path, max_bytes).load()
    except CheckpointError:
        raise
    except zipfile.BadZipFile as problem:
        raise CheckpointError(f"{path}: not a whole zip archive ({problem})") from problem
    except Exception as problem:  # whatever a damaged archive or pickle provokes
        raise CheckpointError(f"{path}: damaged ({type(problem).__name__}: {problem})") from problem


class _Archive:
    """One open file: its members, and the storages read so far."""

    def __init__(self, archive: zipfile.ZipFile, path: Path, max_bytes: int):
        self.archive, self.path, self.left = archive, path, max_bytes
        self.max_bytes = max_bytes
        names = [info.filename for info in archive.infolist()]
        if len(set(names)) < len(names):
            raise self.error("two members have the same name")
        found = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(found) != 1:
            raise self.error(f"holds {len(found)} members data.pkl, a file of torch.save one")
        self.members = {info.filename: info for info in archive.infolist()}
        self.top = found[0].removesuffix("data.pkl")
        order = self.top + "byteorder"
        self.order = ">" if order in self.members and self.read(order, 16) == b"big" else "<"
        self.storages: dict[str, tuple[str, _Storage]] = {}

    def error(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {reason}")

    def read(self, name: str, limit: int) -> bytearray:
        with self.archive.open(self.members[name]) as file:
            data = read_up_to(file, limit + 1)
        if len(data) > limit:
            raise self.error(f"member {name!r} is larger than the limit of {limit} bytes")
        return data

    def load(self) -> Any:
        return _run(bytes(self.read(self.top + "data.pkl", min(_MAX_PICKLE, self.max_bytes))), self)

    # -- what a pickle may ask for ----------------------------------------------------------------------------------

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
        """The storage of a persistent id: ("storage", kind, key, place, number of elements)."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], _Kind)):
            raise self.error("refers to something that is no storage of a known type")
        _, kind, key, _, count = pid
        if not isinstance(key, str) or not _size(count):
            raise self.error("describes a storage by what is no name and no size")
        known = self.storages.get(key)
        if known is None:
            name = f"{self.top}data/{key}"
            if name not in self.members:
                raise self.error(f"member {name!r}, the elements of a tensor, is missing")
            wide = kind.code == "bfloat16"
            dtype = np.dtype(self.order + "u2") if wide else np.dtype(kind.code).newbyteorder(self.order)
            need = count * dtype.itemsize
            if need > self.left:
                raise self.error(f"holds more than the limit of {self.max_bytes} bytes")
            self.left -= need
            data = self.read(name, need)
            if len(data) != need:
                raise self.error(f"member {name!r} holds {len(data)} bytes, {need} are declared")
            flat = array_from_bytes(
                data, dtype, (count,), False, lambda reason: self.error(f"member {name!r} {reason}")
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
    ("collections", "OrderedDict"): _Archive.mapping,
    ("torch._utils", "_rebuild_tensor_v2"): _Archive.tensor,
    ("torch._utils", "_rebuild_parameter"): _Archive.parameter,
    ("torch", "Size"): _Archive.shape,
    ("torch", "device"): _Archive.device,
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


def _run(program: bytes, archive: _Archive) -> Any:
    """The value that a pickle builds. Raises CheckpointError for instructions and names that are not data."""
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
            _expect(stack[-1], list, archive).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = since_mark() if name == "SETITEMS" else [stack.pop() for _ in range(2)][::-1]
            target = _expect(stack[-1], dict, archive)
            for key, value in zip(values[::2], values[1::2], strict=True):
                target[key] = value
        elif name == "GLOBAL":
            module, _, attribute = arg.partition(" ")
            stack.append(archive.name(module, attribute))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(archive.name(module, attribute))
        elif name == "BINPERSID":
            stack.append(archive.storage(stack.pop()))
        elif name == "REDUCE":
            given = _expect(stack.pop(), tuple, archive)
            function = stack.pop()
            if not any(function is allowed for allowed in _NAMES.values()):
                raise archive.error("calls what is no function that builds data")
            stack.append(function(archive, *given))
        elif name == "BUILD":  # the version notes that torch hangs on a state_dict
            stack.pop()
            _expect(stack[-1], dict, archive)
        elif name == "STOP":
            break
        elif name not in ("PROTO", "FRAME"):
            raise archive.error(f"holds the pickle instruction {name}, which plain data does not need")
    [value] = stack
    _check_data(value, archive)
    return value


_DATA = (bool, int, float, str, bytes, Tensor, dtypes.DType, type(None))


def _check_data(value: Any, archive: _Archive) -> None:
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
            raise archive.error("holds a function or a storage where data should be")


def _expect(value: Any, kind: type, archive: _Archive) -> Any:
    if type(value) is not kind:
        raise archive.error(f"builds a {kind.__name__} out of a {type(value).__name__}")
    return value
