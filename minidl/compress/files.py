"""Compressed models as files: zeros take one bit, int8 weights one byte, and a round trip gives the same bits.

A file is a `state_dict` as `minidl.io.save` writes it, under the same keys. A plain tensor is there as it is, so the
file of a dense model is an ordinary safetensors file. A pruned or quantized one is a small dict, and the file's
metadata (JSON) says which:

    {"kind": "float", "data": ...}                                  as it is, when only the mask is to be kept
    {"kind": "float", "shape": ..., "bits": ..., "values": ...}     bits (uint8, 8 weights each, first weight lowest): 1
                                                                    where a weight is kept; values: the kept ones
    {"kind": "int8", "scale": ..., "x_scale": ..., and data or shape, bits, values as above, of int8}
    {"kind": "csr", ...}                                            as float, to become sparse rows again
    {"kind": "codes", "int4" or "codebook", "storage": packed storage, and bits if masked}      1 to 8 bits a weight
    {"kind": "nm", "storage": n of every m, and bits if masked elsewhere than at its places}
    "masked": true says that the bits are the parameter's mask

Only a -0.0 in the place of a pruned weight, which an optimizer's product with the mask may leave, comes back as 0.0.

Nothing in a file is trusted: sizes, the number of bits set, scales and codes are checked before a model sees them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.devices import move
from minidl.io import CheckpointError, load, save
from minidl.io.npz import MAX_BYTES
from minidl.storage import CSR, NM, Codebook, Codes, Int4, Int8, Packed, Scaled
from minidl.tensors import Tensor, wrap

__all__ = ["load_model", "load_state", "save_model", "stored_bytes"]

Path = str | os.PathLike[str]


def save_model(model: Any, path: Path) -> int:
    """Write a model's parameters and buffers, masks and packed storage included, whole or not at all.

    `path` ends in .safetensors (or .npz). The model is left as it is. Returns the size of the file in bytes. Raises
    OSError if the file cannot be written, ValueError for another suffix.

    >>> import tempfile
    >>> from minidl import nn
    >>> from minidl.compress import prune_
    >>> path = os.path.join(tempfile.mkdtemp(), "net.safetensors")
    >>> net = prune_(nn.Linear(1000, 10), 0.9)
    >>> save_model(net, path) < 7000  # 40,000 bytes of weights: 1,000 are kept, and a bit for each
    True
    >>> again = load_model(nn.Linear(1000, 10), path)
    >>> bool((again.weight == net.weight).all())
    True
    """
    made: dict[int, Any] = {}  # a parameter that has two names is one object in the file
    state = {}
    for name, t in model.state_dict(keep_vars=True).items():
        if id(t) not in made:
            made[id(t)] = encode(t)
        state[name] = made[id(t)]
    save(state, path)
    return os.path.getsize(path)


def load_model(model: Any, path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """Put what `save_model` wrote into a model of the same shape, and return the model.

    Parameters become packed, pruned or plain as the file has them; keys and shapes must match. `model` may also be a
    function that makes one, such as a class. Raises CheckpointError, naming the file and the reason, for a file that is
    missing, truncated, inconsistent or made for another model; the model is then as it was.
    """
    if not hasattr(model, "load_state_dict") or isinstance(model, type):
        model = model()
    state = load_state(path, max_bytes=max_bytes)
    params = list(model.parameters())
    before = [p.mask for p in params]
    for p in params:  # load_state_dict would keep the masks that are there
        p.mask = None
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        for p, mask in zip(params, before):
            p.mask = mask
        raise CheckpointError(f"{path}: does not fit the model. {error}") from error
    return model


def load_state(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The `state_dict` in a file of `save_model`: Tensors, with ``.mask`` where pruned, and packed storage.

    Raises CheckpointError.
    """
    content = load(path, max_bytes=max_bytes)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a model's state")
    made: dict[tuple, Any] = {}

    def once(name: Any, value: Any) -> Any:
        if isinstance(value, (Tensor, np.ndarray)):
            return value
        if not isinstance(name, str) or not isinstance(value, dict):
            raise CheckpointError(f"{path}: {name!r} is a {type(value).__name__}, not a tensor of a model's state")
        held = [next(iter(v.arrays().values())) if isinstance(v, Packed) else v for v in value.values()]
        key = tuple(id(v) for v in held if isinstance(v, np.ndarray))
        if key not in made:
            made[key] = decode(value, lambda reason: CheckpointError(f"{path}: {name!r} {reason}"), max_bytes)
        return made[key]

    return {name: once(name, value) for name, value in content.items()}


def stored_bytes(t: Tensor) -> int:
    """How many bytes of arrays a parameter or buffer takes in a file of `save_model`."""
    value = encode(t)
    arrays = value.values() if isinstance(value, dict) else [value.array]
    return sum(a.nbytes for a in arrays if hasattr(a, "nbytes"))


def encode(t: Tensor) -> Any:
    """What stands for a tensor in the file: the tensor, or the dict described at the top of this page."""
    array, mask = t.array, getattr(t, "mask", None)
    record: dict[str, Any] = {"kind": "float", "masked": mask is not None}
    if isinstance(array, (Codes, Int4, Codebook, NM, Scaled)):
        told = mask is None or (isinstance(array, NM) and bool((mask == array.places()).all()))
        places = {} if told else {"bits": _pack(_cpu(mask))}
        storage = type(array).from_arrays(array.arrays())  # without the mask, which is written once
        return {"kind": array.kind, "masked": mask is not None, "storage": storage} | places
    if isinstance(array, CSR):
        record["kind"], array = "csr", array.dequantize()
    elif isinstance(array, Packed):
        if not isinstance(array, Int8):
            raise TypeError(f"cannot save a parameter packed as {array.kind}")
        record |= {"kind": "int8", "scale": _cpu(array.scale), "x_scale": array.x_scale}
        array = array.q
    data = _cpu(array)
    if mask is not None:
        bits = _cpu(mask)
        fits = not data[~bits].any()
    else:
        bits = data != 0
        if data.dtype.kind == "f":
            bits |= np.signbit(data)  # -0.0 is to come back as it was
        kept = int(np.count_nonzero(bits))
        fits = data.ndim > 1 and data.size // 8 + kept * data.itemsize < data.nbytes // 2
    if not fits and mask is None:
        return wrap(array) if record["kind"] == "float" else record | {"data": data}
    if not fits:
        return record | {"data": data, "bits": _pack(bits)}
    return record | {"shape": list(data.shape), "bits": _pack(bits), "values": data[bits]}


def decode(record: dict[str, Any], error: Callable[[str], Exception], max_bytes: int = MAX_BYTES) -> Any:
    """The Tensor or packed storage that a record stands for; raises error(reason) for whatever is wrong with it."""
    kind = record.get("kind")
    whole = {cls.kind: cls for cls in (Codes, Int4, Codebook, NM, Scaled)}
    if not isinstance(kind, str):
        raise error(f"is of kind {kind!r}")
    if kind in whole:
        storage, masked = record.get("storage"), record.get("masked")
        told = not masked or (kind == "nm" and "bits" not in record)  # the mask is what is stored
        known = {"kind", "masked", "storage"} | (set() if told else {"bits"})
        if set(record) != known or not isinstance(storage, whole[kind]) or not isinstance(masked, bool):
            raise error("is stored in a way that this version does not know")
        if told:
            storage.mask = storage.places() if masked else None
        else:
            storage.mask = _unpack(_array(record, "bits", error), storage.shape, error)
        return storage
    known = {"kind", "masked", "data", "shape", "bits", "values", *(("scale", "x_scale") if kind == "int8" else ())}
    if kind not in ("float", "int8", "csr") or set(record) - known or not isinstance(record.get("masked"), bool):
        raise error("is stored in a way that this version does not know")
    mask = None
    if "data" in record:
        data = _array(record, "data", error)
        if "bits" in record:
            mask = _unpack(_array(record, "bits", error), data.shape, error)
    else:
        values, bits = _array(record, "values", error), _array(record, "bits", error)
        shape = record.get("shape")
        if not isinstance(shape, list) or any(type(n) is not int or n < 0 for n in shape):
            raise error(f"has shape {shape!r}")
        if math.prod(shape) * values.itemsize > max_bytes:
            raise error(f"unpacks to shape {shape}, more than the limit of {max_bytes} bytes")
        mask = _unpack(bits, tuple(shape), error)
        if values.ndim != 1 or np.count_nonzero(mask) != values.size:
            raise error(f"has {np.count_nonzero(mask)} bits set, but values of shape {values.shape}")
        data = np.zeros(shape, values.dtype)
        data[mask] = values
    if not record["masked"]:
        mask = None
    elif mask is None:
        raise error("is said to be masked, but has no bits")
    if kind == "int8":
        x_scale = record.get("x_scale")
        if not (x_scale is None or isinstance(x_scale, float)):
            raise error(f"has x_scale {x_scale!r}")
        scale = _array(record, "scale", error)
        if data.ndim == 0 or scale.dtype != np.float32:
            raise error(f"has int8 codes of shape {data.shape} and scales of {scale.dtype}")
        try:
            return Int8(data, scale, x_scale, mask)
        except ValueError as problem:
            raise error(f"is not valid int8 storage: {problem}") from problem
    if data.dtype.kind != "f":
        raise error(f"holds {data.dtype} values, not floats")
    if kind == "csr":
        if data.dtype != np.float32 or data.ndim != 2:
            raise error(f"has sparse rows of {data.dtype} and shape {data.shape}, not of a float32 matrix")
        return CSR.from_dense(data, mask)
    t = wrap(data)
    if mask is not None:
        t.mask = mask
    return t


def _array(record: dict[str, Any], key: str, error: Callable[[str], Exception]) -> np.ndarray:
    value = record.get(key)
    if not isinstance(value, np.ndarray):
        raise error(f"has no array {key!r}")
    return value


def _pack(bits: np.ndarray) -> np.ndarray:
    return np.packbits(bits.reshape(-1), bitorder="little")


def _unpack(packed: np.ndarray, shape: tuple[int, ...], error: Callable[[str], Exception]) -> np.ndarray:
    n = math.prod(shape)
    if packed.dtype != np.uint8 or packed.shape != (-(-n // 8),):
        raise error(
            f"of shape {tuple(shape)} has {packed.dtype} bits of shape {packed.shape}, not ({-(-n // 8)},) of uint8"
        )
    if n % 8 and packed[-1] >> (n % 8):
        raise error(f"of shape {tuple(shape)} has bits set behind its last element")
    return np.unpackbits(packed, count=n, bitorder="little").astype(bool).reshape(shape)


def _cpu(array: Any) -> np.ndarray:
    return move(array, "cpu")
