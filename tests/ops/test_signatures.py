"""Every public function has a docstring, a test, and torch's signature: names, order and defaults of its arguments.

What differs is in DELIBERATE, with the reason. A parameter may bear a formula's name (x, w, b) where torch's name is
taken for it as a keyword; see `minidl.autograd.contract`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pathlib
import re
from typing import Any

import pytest
from torch.testing._internal.common_modules import module_db
from torch_signatures import EMPTY, UNKNOWN, Parameter, inspected, overloads

import minidl
from minidl.autograd.contract import _TORCH_NAMES, OpType

ROOMS = (
    "", "Tensor", "nn.functional", "nn.init", "linalg", "special", "func", "optim", "optim.lr_scheduler",
    "optim.swa_utils", "nn", "nn.utils", "nn.utils.rnn", "nn.utils.parametrize", "nn.utils.parametrizations",
    "autograd", "autograd.functional", "utils.data", "utils.checkpoint", "distributions", "testing", "data",
)  # fmt: skip
TESTS = pathlib.Path(__file__).resolve().parent.parent


def room_of(library: Any, room: str) -> Any:
    if library is minidl and room and room not in ("Tensor", "autograd.functional"):
        return importlib.import_module(f"minidl.{room}")
    for part in filter(None, room.split(".")):
        library = getattr(library, part)
    return library


@functools.cache
def names() -> list[tuple[str, str]]:
    """(room, name) of every public function, class and method."""
    found = []
    for room in ROOMS:
        owner = room_of(minidl, room)
        listed = getattr(owner, "__all__", None) or dir(owner)
        for name in listed:
            value = getattr(owner, name)
            if name.startswith("_") or inspect.ismodule(value) or not callable(value):
                continue
            if room or not isinstance(value, minidl.dtype):
                found.append((room, name))
    return found


def ours(room: str, name: str) -> list[Parameter]:
    """The parameters of minidl's own; a method's without the tensor."""
    f = getattr(room_of(minidl, room), name)
    method = room == "Tensor"
    if (
        method
        and name.endswith("_")
        and hasattr(minidl.Tensor, name[:-1])
        and [p.name for p in inspected(f)] == ["args"]
    ):
        return ours(room, name[:-1])
    if hasattr(f, "__wrapped__") and method:
        return inspected(f)[1:]
    op = getattr(f, "op", f) if method else f
    if isinstance(op, OpType):
        found = inspected(op.forward)[1 + method :]
        from minidl.autograd.out import TAKING

        return [*found, Parameter("out", None, True)] if op in TAKING and not method else found
    return inspected(op)[1:] if op is not f else inspected(f)


def known_as(parameter: str) -> set[str]:
    """The keywords under which a formula's letter is taken."""
    return {parameter} | {torch_name for torch_name, letters in _TORCH_NAMES.items() if parameter in letters}


def differences(room: str, name: str) -> list[str]:
    """What a call under torch's signature would not find in minidl."""
    try:
        theirs = overloads(room, name)
    except AttributeError:
        return []  # minidl's own
    try:
        mine = ours(room, name)
    except (TypeError, ValueError):
        return ["no signature"]
    found = []
    for overload in theirs:
        if room == "" and overload and overload[0].name == "self" and "input" not in name and len(overload) > 1:
            continue  # an order of arguments that torch itself calls deprecated
        found += [d for d in compare(mine, overload) if d not in found]
    return found


def compare(mine: list[Parameter], theirs: list[Parameter]) -> list[str]:
    found: list[str] = []
    positional = [p for p in mine if not p.keyword]
    for i, p in enumerate(theirs):
        if p.name in EVERYWHERE or p.name.startswith("_"):
            continue
        q = positional[i] if i < len(positional) and not p.keyword else None
        if positional and positional[-1].several and i >= len(positional) - 1 and not p.keyword:
            q = positional[-1]
            if p.name not in known_as(q.name):
                found.append(f"{p.name} is no keyword")
            continue
        if p.keyword or q is None or p.name not in known_as(q.name):
            at = next((m for m in mine if p.name in known_as(m.name)), None)
            if at is None:
                found.append(f"no {p.name}")
                continue
            if not p.keyword:
                found.append(f"{p.name} stands elsewhere")
            q = at
        if p.default is EMPTY:
            continue
        if q.default is EMPTY:
            found.append(f"{q.name} has no default, torch's {p.name} has {p.default!r}")
        elif p.default is not UNKNOWN and not (q.default == p.default or (q.default in UNSET and p.default in UNSET)):
            found.append(f"default of {p.name}: {q.default!r} for {p.default!r}")
    return found


UNSET: tuple = (None, ())  # all dimensions, in two spellings
# Keywords that mean nothing here, wherever torch has them.
EVERYWHERE = {
    "layout": "there is one layout, strided",
    "pin_memory": "there is no pinned memory",
    "memory_format": "there is one memory format, row-major",
    "foreach": "whether to do all parameters at once is not the caller's to say here",
}


ORDER = "torch's older order of arguments, deprecated there"
OVERLOAD = "the place is taken by meaning: max(x, other), randint(high, size), arange(end)"
PICKLE = "files are npz and safetensors, nothing is pickled"
# name -> (differences, reason)
DELIBERATE: dict[str, tuple[str, str]] = {
    ".addmm": ("no out_dtype; no self; elsewhere", ORDER + "; out_dtype is for CUDA"),
    ".addmv": ("no self; elsewhere", ORDER),
    ".baddbmm": ("no out_dtype; no self; elsewhere", ORDER + "; out_dtype is for CUDA"),
    ".bmm": ("no out_dtype", "for CUDA"),
    ".mm": ("no out_dtype", "for CUDA"),
    ".rsub": ("elsewhere", ORDER),
    ".subtract": ("elsewhere", ORDER),
    ".arange": ("elsewhere", OVERLOAD),
    ".max": ("elsewhere", OVERLOAD),
    ".min": ("elsewhere", OVERLOAD),
    ".randint": ("elsewhere", OVERLOAD),
    ".scatter": ("elsewhere", OVERLOAD),
    ".repeat_interleave": ("elsewhere", "repeat_interleave(repeats) is spelt with an input"),
    ".std": ("unbiased", "None is True: correction= is what torch recommends"),
    ".var": ("unbiased", "None is True: correction= is what torch recommends"),
    ".bernoulli": ("no p", "bernoulli(input, p), undocumented in torch; Tensor.bernoulli_(p) is there"),
    ".conv1d": ("'valid'", "0 and 'valid' are the same padding"),
    ".conv2d": ("'valid'", "0 and 'valid' are the same padding"),
    ".dropout": ("no train", "as nn.functional.dropout, which torch documents; torch.dropout it does not"),
    ".from_dlpack": ("no ext_tensor; no device; no copy", "one array, taken as it is"),
    ".gather": ("no sparse_grad", "there are no sparse tensors"),
    ".linspace": ("steps", "how many must be said; torch deprecates its 100"),
    ".load": ("no f; no pickle_module; no mmap", PICKLE),
    ".save": ("no f; no pickle_module; no pickle_protocol", PICKLE),
    ".norm": ("elsewhere", "out and dtype are keywords only"),
    ".tensordot": ("elsewhere", "out is a keyword only"),
    ".randperm": ("no requires_grad", "integers have no gradient"),
    ".result_type": ("is no keyword", "any number of tensors, numbers and dtypes"),
    ".set_num_threads": ("no num", "the kernels' own function"),
    ".set_rng_state": ("no new_state", "minidl.random.set_state, which takes an array"),
    ".tensor": ("elsewhere", "keywords only, as torch documents it"),
    "Tensor.add": ("no out", "torch's documentation has no out for methods"),
    "Tensor.sub": ("no out", "torch's documentation has no out for methods"),
    "Tensor.mul": ("no out", "torch's documentation has no out for methods"),
    "Tensor.floor_divide": ("no out", "torch's documentation has no out for methods"),
    "Tensor.copy_": ("no other", "src, as torch documents it"),
    "Tensor.cuda": ("no non_blocking", "copies block"),
    "Tensor.type": ("no non_blocking", "copies block"),
    "Tensor.expand": ("no implicit", "private"),
    "Tensor.requires_grad_": ("no mode", "requires_grad, as torch documents it"),
    "Tensor.to": ("is no keyword", "dtype, device, copy are keywords, or stand in torch's orders"),
    "Tensor.view": ("is no keyword", "view(2, 3), view((2, 3)) or view(dtype)"),
    "nn.functional.hardshrink": ("no out", "undocumented in torch"),
    "nn.functional.normalize": ("elsewhere", "out is a keyword only"),
    "nn.functional.one_hot": ("no tensor", "input, as elsewhere"),
    "nn.functional.softmax": ("dim; dtype", "which dimension must be said; torch deprecates its guess"),
    "nn.functional.log_softmax": ("dim; dtype", "which dimension must be said; torch deprecates its guess"),
    "linalg.norm": ("no input", "A, as torch documents it"),
    "linalg.svd": ("no driver; no out", "NumPy has one driver; three results, written where they are wanted"),
    "linalg.svdvals": ("no A; no driver; no out", "NumPy has one driver"),
    "func.jvp": ("no strict", "what the output does not depend on has a derivative of zeros"),
    "func.jacrev": ("no chunk_size", "one row at a time"),
    "func.jacfwd": ("no randomness", "nothing is batched, so nothing is drawn twice"),
}  # fmt: skip
for _name in ("max", "min", "scatter", "std", "var", "gather"):
    DELIBERATE[f"Tensor.{_name}"] = DELIBERATE[f".{_name}"]
DELIBERATE["Tensor.subtract"] = DELIBERATE["Tensor.subtract_"] = DELIBERATE[".subtract"]
DELIBERATE["Tensor.scatter_"] = DELIBERATE[".scatter"]
for _name in ("conv1d", "conv2d"):
    DELIBERATE[f"nn.functional.{_name}"] = DELIBERATE[f".{_name}"]

DELIBERATE[".compile"] = (
    "; ".join(
        f"no {p}"
        for p in ("fullgraph", "dynamic", "backend", "mode", "options", "name", "disable", "recompile_limit",
                  "isolate_recompiles", "shapes_spec")
    ),
    "nothing is compiled: any keyword is taken, none has an effect",
)  # fmt: skip
for _name in ("addbmm", "addr"):
    DELIBERATE[f".{_name}"] = ("no self; elsewhere", ORDER)
DOCUMENTED = "the one name that torch documents"
for _name in ("hsplit", "vsplit", "dsplit"):
    DELIBERATE[f".{_name}"] = DELIBERATE[f"Tensor.{_name}"] = ("no sections; no indices", DOCUMENTED)
DELIBERATE[".tensor_split"] = DELIBERATE["Tensor.tensor_split"] = ("elsewhere; no tensor_indices", DOCUMENTED)
DELIBERATE[".isin"] = ("no element; no test_element", "numbers go by elements and test_elements")
DELIBERATE[".logspace"] = ("steps", "how many must be said; torch deprecates its 100")
DELIBERATE[".searchsorted"] = ("no self", "numbers go by input")
DELIBERATE["nn.utils.parametrize.register_parametrization"] = ("no unsafe", "what a parametrization gives is checked")
DELIBERATE["autograd.backward"] = (
    "no grad_variables; inputs stands elsewhere",
    "torch's oldest name, deprecated there",
)
DELIBERATE["utils.data.random_split"] = ("generator", "None is the default generator, in both")
DELIBERATE["utils.checkpoint.checkpoint"] = (
    "no context_fn; no determinism_check; no debug; no early_stop",
    "what is computed again is computed in the same way, and to its end",
)
DELIBERATE["linalg.vander"] = ("elsewhere", "N is a keyword only, as torch documents it")
DELIBERATE[".threshold"] = ("no out", "undocumented in torch")
for _name in ("std_mean", "var_mean"):
    DELIBERATE[f".{_name}"] = DELIBERATE[".std"]
DELIBERATE[".numel"] = ("no self", "as torch's page has it, input")
DELIBERATE[".randint_like"] = ("high stands elsewhere", "one number alone is high, as in randint")
DELIBERATE["Tensor.random_"] = ("to stands elsewhere", "one number alone is the end, as in torch")
for _name in ("tril_indices", "triu_indices"):
    DELIBERATE[f".{_name}"] = ("no requires_grad", "integers have no gradient")
DELIBERATE["Tensor.resize_"] = ("is no keyword", "resize_(2, 3) or resize_((2, 3))")
DELIBERATE["Tensor.new_ones"] = ("is no keyword", "they are: *size stands before them")


@pytest.mark.parametrize("room", ROOMS)
def test_signatures_are_torchs(room: str) -> None:
    wrong, stale = [], []
    for _, name in [n for n in names() if n[0] == room]:
        full = f"{room}.{name}"
        found = differences(room, name)
        known = DELIBERATE.get(full, ("", ""))[0].split("; ") if full in DELIBERATE else []
        wrong += [f"{full}: {d}" for d in found if not any(k in d for k in known)]
        stale += [f"{full}: {k}" for k in known if not any(k in d for d in found)]
    assert not wrong, "\n".join(wrong)
    assert not stale, "these agree with torch now, or have gone: " + ", ".join(stale)


def test_every_row_of_the_table_is_of_a_public_name() -> None:
    assert set(DELIBERATE) <= {f"{room}.{name}" for room, name in names()}


def test_every_public_name_has_a_docstring() -> None:
    bare = [
        f"{room}.{name}" for room, name in names() if not (getattr(room_of(minidl, room), name).__doc__ or "").strip()
    ]
    assert not bare


@functools.cache
def words() -> set[str]:
    """Every word of the tests, this page and the example data left out."""
    found: set[str] = set()
    for page in TESTS.rglob("*.py"):
        if page.name != pathlib.Path(__file__).name:
            found |= set(re.findall(r"\w+", page.read_text()))
    return found


def test_every_public_name_is_tested() -> None:
    """Its name stands in a test or in the example of its own docstring, which is run, or torch's sample inputs or
    modules come to it by name.
    """
    from opinfo import ALIASES, IN_PLACE, OFFERED

    sampled = {o.name.rpartition(".")[2] for o in OFFERED.values()} | set(ALIASES) | set(IN_PLACE)
    assert {"lgamma", "lgamma_", "negative"} <= sampled
    known = words() | sampled | {info.module_cls.__name__ for info in module_db}  # see tests/test_torch_modules.py
    stem = lambda name: re.sub("[123]d$", "", name)  # tests put together ZeroPad1d, 2d and 3d
    example = lambda room, name: re.search(rf">>> .*\b{name}\(", getattr(room_of(minidl, room), name).__doc__)
    untested = [f"{r}.{name}" for r, name in names() if not {name, stem(name)} & known and not example(r, name)]
    assert not untested
