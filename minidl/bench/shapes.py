"""The shapes to time: layers of real networks, as data.

The folder `networks/` has one TOML file per network, and `--shapes FILE` takes one more, as TOML or JSON:

    name = "GPT-2 small"                       # optional: the file's name otherwise
    source = "Radford et al. 2019"             # optional

    [[linear]]
    name = "mlp.c_fc"                          # optional
    m = 1024
    k = 768
    n = 3072

Each entry is a layer; its section says which numbers it has (SECTIONS below), and every row of the benchmark names the
section that it takes. Sizes are positive integers; what is left out has the default given here.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

__all__ = ["SECTIONS", "Shape", "ShapeError", "read_shapes", "shipped"]

NEEDED = object()
LIMIT = 1 << 31  # elements of one array
FLAG = (False, True)

_IMAGE = {"n": NEEDED, "c": NEEDED, "h": NEEDED, "w": NEEDED}
_CONV = {**_IMAGE, "k": NEEDED, "r": NEEDED, "s": 0, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_PRODUCT = {"m": NEEDED, "k": NEEDED, "n": NEEDED}

# section -> number -> its default. A default that is text or a flag says what the value must be.
SECTIONS: dict[str, dict[str, Any]] = {
    # a (batch, M, K) @ b (batch, K, N); transpose names the operands that lie transposed in memory: "a", "b", "ab"
    "matmul": {**_PRODUCT, "batch": 0, "transpose": ""},
    # x (M, K), w (N, K)
    "linear": {**_PRODUCT, "bias": True},
    # x (N, C, H, W), w (K, C / groups, R, S); s = 0 means s = r
    "conv2d": _CONV,
    # q (B, H, T, D), k and v (B, KV, S, D); kv = 0 means kv = h, s = 0 means s = t; mask: "", "bool", "float"
    "attention": {"b": NEEDED, "h": NEEDED, "t": NEEDED, "d": NEEDED, "kv": 0, "s": 0, "causal": False, "mask": ""},
    "int8_matmul": _PRODUCT,
    # static: the scale of x is given; otherwise it is found for each row (linear) or image (conv2d)
    "int8_linear": {**_PRODUCT, "static": False},
    "int8_conv2d": {**_CONV, "static": False},
    # as linear, with weights in groups of that many
    "int4_linear": {**_PRODUCT, "group": 64},
    # as linear, with so many per cent of w zero
    "sparse_linear": {**_PRODUCT, "zeros": 90},
    # as linear, with `keep` of every `of` neighbouring weights kept
    "nm_linear": {**_PRODUCT, "keep": 2, "of": 4},
    "max_pool2d": {**_IMAGE, "window": NEEDED, "stride": NEEDED, "padding": 0},
    # m rows of n numbers: softmax, cross-entropy (n classes), layer and RMS norm, dropout
    "rows": {"m": NEEDED, "n": NEEDED},
    # x (N, C, H, W): batch norm
    "images": _IMAGE,
    # floats (M, N) to codes and back, by one scale or one for each row or column
    "codes": {"m": NEEDED, "n": NEEDED, "per": ""},
    # that many numbers, f of each
    "activation": {"size": NEEDED, "f": "gelu"},
}
ZERO_IS_LEGAL = {"padding", "batch", "s", "kv"}
TEXTS = {
    "transpose": ("", "a", "b", "ab"),
    "mask": ("", "bool", "float"),
    "per": ("", "row", "column"),
    "f": ("relu", "tanh", "sigmoid", "silu", "gelu", "gelu_tanh", "relu6"),
}


class ShapeError(ValueError):
    """Shapes that cannot be used; the message says where and why."""


@dataclass(frozen=True)
class Shape:
    """One layer: the section that it stands in, its network and name, and its numbers, defaults filled in."""

    section: str
    network: str
    name: str
    numbers: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.numbers[key]

    @property
    def label(self) -> str:
        """The numbers as people write them.

        >>> Shape("matmul", "", "", {"m": 2, "k": 3, "n": 4, "batch": 0, "transpose": "b"}).label
        '2x3x4 bT'
        """
        g = self.numbers
        if self.section in ("rows", "images"):
            return "x".join(str(n) for n in g.values())
        if self.section == "activation":
            return f"{g['size']} {g['f']}"
        if self.section == "codes":
            return f"{g['m']}x{g['n']}" + (f" per {g['per']}" if g["per"] else "")
        if self.section in ("conv2d", "int8_conv2d", "max_pool2d"):
            text = "x".join(str(g[k]) for k in "nchw")
            text += f" k{g['k']} {g['r']}x{g['s']}" if "k" in g else f" {g['window']}x{g['window']}"
            text += f"/{g['stride']}" if g["stride"] != 1 else ""
            text += f" d{g['dilation']}" if g.get("dilation", 1) != 1 else ""
            text += f" g{g['groups']}" if g.get("groups", 1) != 1 else ""
        elif self.section == "attention":
            text = f"{g['b']}x{g['h']}x{g['t']}x{g['d']}"
            text += f" s{g['s']}" if g["s"] != g["t"] else ""
            text += f" kv{g['kv']}" if g["kv"] != g["h"] else ""
            text += " causal" if g["causal"] else ""
            text += f" {g['mask']} mask" if g["mask"] else ""
        else:
            text = "x".join(str(g[k]) for k in "mkn")
            text = f"{g['batch']}x {text}" if g.get("batch") else text
            text += "".join(f" {side}T" for side in g.get("transpose", ""))
        text += f" {g['zeros']}% zeros" if "zeros" in g else ""
        text += f" {g['keep']}:{g['of']}" if "keep" in g else ""
        return text + (" static" if g.get("static") else "")


def shipped() -> Iterator[Shape]:
    """The layers of the networks in the package, network by network."""
    folder = resources.files("minidl.bench") / "networks"
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".toml"):
            yield from parse(tomllib.loads(file.read_text("utf-8")), file.name.removesuffix(".toml"), file.name)


def read_shapes(path: str | os.PathLike[str]) -> list[Shape]:
    """The layers in a TOML or JSON file. Raises ShapeError, which names the file and the entry, or OSError."""
    path = os.fspath(path)
    with open(path, "rb") as file:
        raw = file.read(1 << 20)
        if file.read(1):
            raise ShapeError(f"{path}: larger than 1 MiB, which is no list of shapes")
    try:
        text = raw.decode("utf-8")
        data = json.loads(text) if path.lower().endswith(".json") else tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError, JSONDecodeError, TOMLDecodeError
        kind = "JSON" if path.lower().endswith(".json") else "TOML"
        raise ShapeError(f"{path}: not {kind}: {error}") from error
    found = list(parse(data, os.path.splitext(os.path.basename(path))[0], path))
    if not found:
        raise ShapeError(f"{path}: holds no shape; sections: {', '.join(SECTIONS)}")
    return found


def parse(data: Any, network: str, where: str) -> Iterator[Shape]:
    """The entries of a file as Shapes. Raises ShapeError."""
    if not isinstance(data, dict):
        raise ShapeError(f"{where}: a table of sections is wanted, not {_kind(data)}")
    network = data.get("name", network)
    for key in ("name", "source"):
        if not isinstance(data.get(key, ""), str):
            raise ShapeError(f"{where}: {key} must be text, not {_kind(data[key])}")
    for section, entries in data.items():
        if section in ("name", "source"):
            continue
        if section not in SECTIONS:
            raise ShapeError(f"{where}: there is no section {section!r}{_meant(section, SECTIONS)}")
        if not isinstance(entries, list):
            raise ShapeError(f"{where}: {section} must be a list of entries ([[{section}]] in TOML)")
        for i, entry in enumerate(entries):
            yield _shape(section, entry, network, f"{where}: {section} entry {i + 1}")


def _shape(section: str, entry: Any, network: str, where: str) -> Shape:
    fields = SECTIONS[section]
    if not isinstance(entry, dict):
        raise ShapeError(f"{where}: a table of numbers is wanted, not {_kind(entry)}")
    name = entry.get("name", "")
    if not isinstance(name, str):
        raise ShapeError(f"{where}: name must be text, not {_kind(name)}")
    for key in entry:
        if key != "name" and key not in fields:
            raise ShapeError(f"{where}: there is no number {key!r}{_meant(key, fields)}")
    numbers = {}
    for key, default in fields.items():
        value = entry.get(key, default)
        if value is NEEDED:
            raise ShapeError(
                f"{where}: {key} is missing; it needs {', '.join(k for k in fields if fields[k] is NEEDED)}"
            )
        if key in TEXTS:
            if value not in TEXTS[key]:
                raise ShapeError(f"{where}: {key} must be one of {', '.join(map(repr, TEXTS[key]))}, not {value!r}")
        elif default in FLAG and isinstance(default, bool):
            if not isinstance(value, bool):
                raise ShapeError(f"{where}: {key} must be true or false, not {value!r}")
        elif isinstance(value, bool) or not isinstance(value, int):
            raise ShapeError(f"{where}: {key} must be a whole number, not {value!r}")
        elif value < (0 if key in ZERO_IS_LEGAL else 1) or value >= LIMIT:
            raise ShapeError(f"{where}: {key} = {value} is out of range")
        numbers[key] = value
    _fit(section, numbers, where)
    return Shape(section, network, name, numbers)


def _fit(section: str, g: dict[str, Any], where: str) -> None:
    """Fill in what depends on other numbers; raise ShapeError where they contradict each other or are too large."""
    if section in ("conv2d", "int8_conv2d"):
        g["s"] = g["s"] or g["r"]
        for what in "ck":
            if g[what] % g["groups"]:
                raise ShapeError(f"{where}: {what} = {g[what]} is not a multiple of groups = {g['groups']}")
        windows = {"h": g["dilation"] * (g["r"] - 1) + 1, "w": g["dilation"] * (g["s"] - 1) + 1}
    elif section == "max_pool2d":
        windows = {"h": g["window"], "w": g["window"]}
        if 2 * g["padding"] > g["window"]:
            raise ShapeError(f"{where}: padding = {g['padding']} is more than half of window = {g['window']}")
    else:
        windows = {}
    for side, window in windows.items():
        if g[side] + 2 * g["padding"] < window:
            raise ShapeError(
                f"{where}: the window is {window} wide, more than {side} = {g[side]} with padding {g['padding']}"
            )
    if section == "attention":
        g["s"], g["kv"] = g["s"] or g["t"], g["kv"] or g["h"]
        if g["h"] % g["kv"]:
            raise ShapeError(f"{where}: h = {g['h']} is not a multiple of kv = {g['kv']}")
    bytes_needed = 4 * sum(math.prod(s) for s in array_shapes(section, g).values())
    # Two sets of inputs, the right results in float64, and what the reference needs on its way.
    if 12 * bytes_needed > memory():
        raise ShapeError(
            f"{where}: needs arrays of {bytes_needed / 2**30:.1f} GiB, too large to be verified in "
            f"{memory() / 2**30:.0f} GiB of memory"
        )


def array_shapes(section: str, g: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of all operands and results of a layer."""
    if section in ("conv2d", "int8_conv2d"):
        p, q = (
            (g[side] + 2 * g["padding"] - g["dilation"] * (g[tap] - 1) - 1) // g["stride"] + 1
            for side, tap in (("h", "r"), ("w", "s"))
        )
        return {
            "x": (g["n"], g["c"], g["h"], g["w"]),
            "w": (g["k"], g["c"] // g["groups"], g["r"], g["s"]),
            "y": (g["n"], g["k"], p, q),
        }
    if section == "max_pool2d":
        p, q = ((g[side] + 2 * g["padding"] - g["window"]) // g["stride"] + 1 for side in "hw")
        return {"x": (g["n"], g["c"], g["h"], g["w"]), "y": (g["n"], g["c"], p, q)}
    if section in ("rows", "codes"):
        return {"x": (g["m"], g["n"]), "y": (g["m"], g["n"])}
    if section == "images":
        return {"x": (g["n"], g["c"], g["h"], g["w"]), "y": (g["n"], g["c"], g["h"], g["w"])}
    if section == "activation":
        return {"x": (g["size"],), "y": (g["size"],)}
    if section == "attention":
        q, k = (g["b"], g["h"], g["t"], g["d"]), (g["b"], g["kv"], g["s"], g["d"])
        return {"q": q, "k": k, "v": k, "scores": (g["b"], g["h"], g["t"], g["s"])}
    m, k, n = g["m"], g["k"], g["n"]
    if section == "matmul":
        lead = (g["batch"],) if g["batch"] else ()
        return {"a": (*lead, m, k), "b": (*lead, k, n), "c": (*lead, m, n)}
    if section == "int8_matmul":
        return {"a": (m, k), "b": (k, n), "c": (m, n)}
    return {"x": (m, k), "w": (n, k), "y": (m, n)}


@functools.cache
def memory() -> int:
    """Bytes of this machine's memory, or a modest guess."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 << 30


def _meant(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(known)}"


def _kind(value: Any) -> str:
    return {dict: "a table", list: "a list", str: "text", type(None): "nothing"}.get(type(value), repr(value))
