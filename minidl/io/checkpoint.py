"""Checkpoints: nested dicts and lists of Tensors, arrays and plain values, in one file that holds data and no code.

`.safetensors`: every array under a readable name (its path in the structure, joined by dots), so that a `state_dict` is
the very file that torch's and other readers expect; the structure itself, the order of keys and the plain values lie as
JSON in the file's metadata. `.npz`: the same arrays and the same JSON as members of a NumPy archive.

>>> import numpy as np, pathlib, tempfile
>>> path = pathlib.Path(tempfile.mkdtemp(), "run.safetensors")
>>> save({"step": 3, "weights": [np.float32([1, 2])]}, path)
>>> load(path)
{'step': 3, 'weights': [array([1., 2.], dtype=float32)]}
"""

from __future__ import annotations

import json
import math
import os
import struct
from typing import Any

import numpy as np

from minidl.devices import Device, move
from minidl.io.atomic import atomic_write
from minidl.io.npz import MAX_BYTES, array_from_bytes, open_regular, read_npz, write_npz

__all__ = ["CheckpointError", "load", "save"]

_JSON = "minidl"  # key of the structure in the metadata of a safetensors file
_MEMBER = "__minidl__"  # and the member that holds it in an npz archive
_NAME_LIMIT = 1000
_DTYPES = {
    "BOOL": "?",
    "U8": "<u1", "I8": "<i1",
    "U16": "<u2", "I16": "<i2", "F16": "<f2",
    "U32": "<u4", "I32": "<i4", "F32": "<f4",
    "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip
_SAVED = {np.dtype(code) for code in _DTYPES.values()}
_TENSOR_DTYPES = {np.dtype(code) for name, code in _DTYPES.items() if name not in ("U16", "U32", "U64")}

Path = str | os.PathLike[str]


class CheckpointError(ValueError):
    """A checkpoint that cannot be read: the message names the file and the reason."""


def save(obj: Any, path: Path, sparse: bool = False) -> None:
    """Write `obj` to a `.safetensors` or `.npz` file, whole or not at all (see `atomic_write`).

    `obj` may be a Tensor, an array or NumPy number (bool, integer, float16/32/64), int, float, str, bool, None, or
    dicts (keys str or int), lists and tuples of those, nested. Values come back bit for bit. A Tensor or array object
    that occurs twice is stored once and comes back as one object. Arrays on a GPU are copied; gradients and the graph
    are not saved. A pruned parameter keeps its mask (one bit an element), packed storage such as int8 stays packed.

    With `sparse`, an array with many zeros is stored as its nonzero elements and one bit for each place, if that takes
    less; also bit for bit. Other programs then cannot read those arrays.

    Raises TypeError for anything else, naming where in `obj` it stands; ValueError for another suffix or a structure
    that contains itself; OSError if the file cannot be written. The old file, if any, then stays.
    """
    suffix = _suffix(path, ValueError)
    packer = _Packer(sparse)
    try:
        tree = packer.pack(obj, ())
    except RecursionError:
        raise ValueError("cannot save: the structure is nested too deeply or contains itself") from None
    text = json.dumps({"version": 1, "tree": tree, "sparse": packer.sparse}, allow_nan=False, separators=(",", ":"))
    with atomic_write(path) as file:
        if suffix == ".npz":
            write_npz(file, {_MEMBER: np.frombuffer(text.encode(), np.uint8), **packer.arrays})
        else:
            from safetensors.numpy import save as to_bytes

            file.write(to_bytes(packer.arrays, {_JSON: text}))


def load(path: Path, map_location: Any = None, *, weights_only: bool | None = None, max_bytes: int = MAX_BYTES) -> Any:
    """Read what `save` wrote; of a file written by others, a flat dict of its arrays as Tensors in the file's order.

    `.pt` and `.pth` files of torch.save are read, too: see `minidl.io.torch_files.load_torch`.

    bfloat16, which NumPy lacks, is widened to float32, exactly. Unsigned integers above 8 bits, which Tensors do not
    hold, come as arrays. Nothing in the file is executed and no declared size is trusted; so `weights_only`, of
    torch.load, changes nothing. Tensors are moved to the device `map_location`, else they are on the CPU.

    Raises CheckpointError, naming file and reason, for a file that is missing, truncated, damaged, inconsistent, larger
    than `max_bytes`, or of another format.
    """
    if map_location is not None:
        return _moved(load(path, max_bytes=max_bytes), Device(map_location))
    if os.path.splitext(path)[1].lower() in (".pt", ".pth"):
        from minidl.io.torch_files import load_torch

        return load_torch(path, max_bytes)
    try:
        if _suffix(path, CheckpointError, (".pt", ".pth")) == ".npz":
            arrays = read_npz(path, CheckpointError, max_bytes=max_bytes)
            member = arrays.pop(_MEMBER, None)
            text = None if member is None else member.tobytes().decode()
        else:
            arrays, text = _read_safetensors(path, max_bytes)
        if text is None:
            return {name: _tensor(array) if array.dtype in _TENSOR_DTYPES else array for name, array in arrays.items()}
        content = json.loads(text)
        if content["version"] != 1:
            raise CheckpointError(f"{path}: written by a newer minidl (version {content['version']!r} of the format)")
        for name, [shape, places] in content.get("sparse", {}).items():
            arrays[name] = _dense(arrays[name], arrays.pop(places), tuple(shape), max_bytes)
        return _Unpacker(arrays).unpack(content["tree"])
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error, RecursionError) as problem:
        raise CheckpointError(f"{path}: its description of the contents is damaged ({problem!r})") from problem


def _moved(tree: Any, device: Device) -> Any:
    """The same structure with its Tensors on a device."""
    if isinstance(tree, dict):
        return {key: _moved(value, device) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)([_moved(value, device) for value in tree])
    from minidl.tensors import Tensor

    if isinstance(tree, Tensor) and tree.device != device:
        tree.array = move(tree.array, device)
    return tree


def _suffix(path: Path, error: type[ValueError], others: tuple[str, ...] = ()) -> str:
    """The kind of file that a name asks for; `others` may be read, but are handled elsewhere."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in (".safetensors", ".npz"):
        known = ".safetensors or .npz" if not others else f".safetensors, .npz, {' or '.join(others)}"
        hint = ""
        if suffix in (".pt", ".pth"):
            hint = (
                f"; torch's own files are read, but not written, as they need pickle. Write {os.path.splitext(path)[0]}"
            )
            hint += ".safetensors: minidl.load reads it back, and torch programs read a state_dict in it"
        raise error(f"{path}: a checkpoint's name ends in {known}{hint}")
    return suffix


# -- structure <-> JSON --------------------------------------------------------------------------------------
#
# null, true, 1, 1.5, "text" stand for themselves, and so does a JSON list. Everything else is an object of one key:
# {"dict": [[key, value], ...]}, {"tuple": [...]}, {"float": hex} for NaN and the infinities, and by the name of the
# stored array {"tensor": name}, {"array": name}, {"scalar": name}, {"pruned": [name, name of the mask's bits]},
# {"packed": [kind, {part: name, ...}, name of the mask's bits or null]}. Beside the structure, "sparse" lists arrays
# that are stored as their nonzero elements: {name: [shape, name of the bits that tell the places]}.


class _Packer:
    """Turns a structure into JSON values and gathers its arrays under unique names."""

    def __init__(self, sparse: bool) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.sparse: dict[str, list] = {}
        self._make_sparse = sparse
        self._names: dict[int, str] = {}
        self._alive: list[Any] = []  # ids are unique among living objects only

    def pack(self, x: Any, at: tuple[str, ...]) -> Any:
        from minidl.storage import Packed
        from minidl.tensors import Tensor

        if x is None or isinstance(x, bool):
            return x
        if isinstance(x, Tensor) and isinstance(x.array, Packed):
            return self.pack(x.array, at)
        if isinstance(x, Packed):
            parts = {part: self._store(a, (*at, part)) for part, a in x.arrays().items()}
            return {"packed": [x.kind, parts, self._store_mask(x.mask, at)]}
        if isinstance(x, Tensor):
            name, mask = self._store(x.array, at), self._store_mask(getattr(x, "mask", None), at)
            return {"tensor": name} if mask is None else {"pruned": [name, mask]}
        if isinstance(x, np.generic):
            return {"scalar": self._store(np.asarray(x), at)}
        if isinstance(x, str):
            return str(x)
        if isinstance(x, int):
            return int(x)
        if isinstance(x, float):
            return float(x) if math.isfinite(x) else {"float": struct.pack(">d", x).hex()}
        if isinstance(x, dict):
            pairs = []
            for key, value in x.items():
                if isinstance(key, bool) or not isinstance(key, (str, int)):
                    raise TypeError(f"cannot save {self._where(at)}: dict keys must be str or int, got {key!r}")
                pairs.append([key, self.pack(value, (*at, str(key)))])
            return {"dict": pairs}
        if isinstance(x, (list, tuple)):
            values = [self.pack(value, (*at, str(i))) for i, value in enumerate(x)]
            return values if isinstance(x, list) else {"tuple": values}
        if hasattr(x, "dtype") and hasattr(x, "shape"):
            return {"array": self._store(x, at)}
        raise TypeError(f"cannot save {self._where(at)}: a {type(x).__name__} is neither data nor a container of data")

    def _store(self, array: Any, at: tuple[str, ...]) -> str:
        known = self._names.get(id(array))
        if known is not None:
            return known
        data = move(array, "cpu")
        if not isinstance(data, np.ndarray) or data.dtype.newbyteorder("<") not in _SAVED:
            raise TypeError(
                f"cannot save {self._where(at)}: arrays of {getattr(data, 'dtype', type(data))} are not supported"
            )
        readable = "".join(c if c.isprintable() else "?" for c in ".".join(at)[:_NAME_LIMIT])  # zip ends a name at NUL
        name = self._free(readable or "value")
        data = np.asarray(data, dtype=data.dtype.newbyteorder("<"), order="C")
        self.arrays[name] = data
        self._names[id(array)] = name
        self._alive.append(array)
        if self._make_sparse:
            bits = data.reshape(-1).view(f"u{data.itemsize}") != 0  # by bits: -0.0 and NaN are kept
            places = np.packbits(bits)
            if np.count_nonzero(bits) * data.itemsize + places.nbytes < data.nbytes:
                self.arrays[name] = data.reshape(-1)[bits]
                places_name = self._free(f"{name}.nonzero")
                self.arrays[places_name] = places
                self.sparse[name] = [list(data.shape), places_name]
        return name

    def _store_mask(self, mask: Any, at: tuple[str, ...]) -> str | None:
        return None if mask is None else self._store(np.packbits(move(mask, "cpu")), (*at, "mask"))

    def _free(self, base: str) -> str:
        """`base`, or the first of base#2, base#3, ... that no array is called."""
        name, n = base, 2
        while name in self.arrays or name in ("__metadata__", _MEMBER):
            name, n = f"{base}#{n}", n + 1
        return name

    @staticmethod
    def _where(at: tuple[str, ...]) -> str:
        return "".join(f"[{key!r}]" for key in at) or "this"


class _Unpacker:
    """Builds the structure again; a name that occurs twice gives one object."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self._arrays = arrays
        self._made: dict[str, Any] = {}

    def unpack(self, x: Any) -> Any:
        if isinstance(x, list):
            return [self.unpack(v) for v in x]
        if not isinstance(x, dict):
            return x
        [(kind, value)] = x.items()
        if kind == "dict":
            result = {}
            for key, v in value:
                if isinstance(key, bool) or not isinstance(key, (str, int)) or key in result:
                    raise ValueError(f"bad key {key!r}")
                result[key] = self.unpack(v)
            return result
        if kind == "tuple":
            return tuple(self.unpack(v) for v in value)
        if kind == "float":
            return struct.unpack(">d", bytes.fromhex(value))[0]
        if kind == "scalar":
            return self._arrays[value][()]
        if kind == "array":
            return self._arrays[value]
        if kind == "tensor":
            return self._tensor(value)
        if kind == "pruned":
            name, mask = value
            t = self._tensor(name)
            t.__dict__["mask"] = _bits(self._arrays[mask], t.array.size).reshape(t.array.shape)
            return t
        if kind == "packed":
            name, parts, mask = value
            storage = _packed_class(name).from_arrays({part: self._arrays[n] for part, n in parts.items()})
            if mask is not None:
                storage.mask = _bits(self._arrays[mask], storage.size).reshape(storage.shape)
            return storage
        raise ValueError(f"unknown kind of value {kind!r}")

    def _tensor(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _tensor(self._arrays[name])
        return self._made[name]


def _packed_class(kind: str) -> Any:
    from minidl.storage import kinds

    for storage in kinds():
        if storage.kind == kind:
            return storage
    raise ValueError(f"unknown kind of packed storage {kind!r}")


def _bits(packed: np.ndarray, n: int) -> np.ndarray:
    """n booleans from ceil(n / 8) bytes. Raises ValueError unless it is those, with the rest of the last byte 0."""
    if packed.dtype != np.uint8 or packed.shape != (-(-n // 8),):
        raise ValueError(f"{n} bits cannot lie in {packed.dtype} of shape {packed.shape}")
    bits = np.unpackbits(packed)
    if bits[n:].any():
        raise ValueError("bits beyond the last element")
    return bits[:n].astype(bool)


def _dense(values: np.ndarray, places: np.ndarray, shape: tuple[int, ...], max_bytes: int) -> np.ndarray:
    """The array of which these are the nonzero elements. Raises ValueError if the parts do not fit."""
    n = math.prod(shape)
    if min(shape, default=0) < 0 or n * values.itemsize > max_bytes or values.ndim != 1:
        raise ValueError(f"sparse array of shape {shape} with values of shape {values.shape}")
    bits = _bits(places, n)
    if np.count_nonzero(bits) != values.size:
        raise ValueError(f"{values.size} nonzero values for {np.count_nonzero(bits)} places")
    out = np.zeros(n, values.dtype)
    out[bits] = values
    return out.reshape(shape)


def _tensor(array: np.ndarray) -> Any:
    from minidl.tensors import wrap

    return wrap(array)


# -- safetensors ---------------------------------------------------------------------------------------------


def _read_safetensors(path: Path, max_bytes: int) -> tuple[dict[str, np.ndarray], str | None]:
    """Arrays in the order of the file's header, and minidl's structure if it holds one."""
    from safetensors import SafetensorError, deserialize

    with open_regular(path, CheckpointError) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise CheckpointError(f"{path}: {size} bytes, more than the limit of {max_bytes}")
        raw = file.read()
    try:
        entries = dict(deserialize(raw))  # checks header, sizes and offsets
    except SafetensorError as problem:
        raise CheckpointError(f"{path}: not a whole safetensors file ({problem})") from problem
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    metadata = header.pop("__metadata__", None) or {}
    arrays = {name: _decode(entries[name], f"{path}: tensor {name!r}") for name in header}
    return arrays, metadata.get(_JSON)


def _decode(entry: dict[str, Any], where: str) -> np.ndarray:
    kind, shape, data = entry["dtype"], tuple(entry["shape"]), bytearray(entry["data"])

    def error(reason: str) -> CheckpointError:
        return CheckpointError(f"{where} {reason}")

    if kind == "BF16":  # the upper half of a float32
        bits = array_from_bytes(data, np.dtype("<u2"), shape, False, error)
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if kind not in _DTYPES:
        raise error(f"has dtype {kind}, which is not supported")
    return array_from_bytes(data, np.dtype(_DTYPES[kind]), shape, False, error)
