"""out=: which functions take it, and what is written, resized, warned of and refused, all as in torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from opinfo import OFFERED, function, ours, outputs, samples
from torch_signatures import overloads

import minidl
from minidl.autograd.out import NAMES

# torch's database says which of its functions take out=; those of minidl that do not, and why.
WITHOUT = {
    "empty": "its values are whatever was there",
    "equal": "a bool, no tensor",
    "linalg.lstsq": "four results, some of them empty: not offered",
    "linalg.pinv": "a variant of the database has an op of its own, without out",
    "linalg.svd": "three results whose signs are free: there is nothing to compare",
    "linalg.svdvals": "as svd",
    "nn.functional.avg_pool2d": "torch._C._nn's private spelling; torch.nn.functional's documentation has no out",
    "nn.functional.gelu": "as avg_pool2d",
    "nn.functional.huber_loss": "as avg_pool2d",
    "nn.functional.logsigmoid": "as avg_pool2d",
    "nn.functional.softplus": "as avg_pool2d",
    "nn.functional.softshrink": "as avg_pool2d",
    "nn.functional.hardshrink": "as avg_pool2d",
    "nn.functional.linear": "as avg_pool2d",
    "nn.functional.fold": "as avg_pool2d",
}
CASES = sorted(name for name, o in OFFERED.items() if o.supports_out and o.name not in WITHOUT and "random" not in name)


@pytest.mark.parametrize("name", CASES)
def test_the_result_is_written_into_out(name: str) -> None:
    """An empty out takes the result's shape; one of the right shape keeps its memory; the values are the result's."""
    info, f = OFFERED[name], function(OFFERED[name].name)
    assert f is not None
    seen = 0
    dtype = next(d for d in ("float32", "int64", "bool") if getattr(torch, d) in info.dtypes)
    for s in samples(info, dtype, "sample"):
        with minidl.no_grad():
            args, kwargs = ours([s.input, *s.args], []), ours(s.kwargs, [])
            minidl.manual_seed(0)
            want = f(*args, **kwargs)
            if not isinstance(want, (minidl.Tensor, tuple)) or not all(
                isinstance(v, minidl.Tensor) for v in outputs(want)
            ):
                continue
            for empty in (True, False):
                outs = [minidl.zeros(0 if empty else tuple(v.shape), dtype=v.dtype) for v in outputs(want)]
                memory = [o.array for o in outs]
                minidl.manual_seed(0)
                got = f(*args, **kwargs, out=outs[0] if isinstance(want, minidl.Tensor) else tuple(outs))
                for o, g, v, m in zip(outs, outputs(got), outputs(want), memory, strict=True):
                    assert g is o
                    np.testing.assert_array_equal(o.array, v.array)
                    assert o.array.dtype == v.array.dtype
                    if not empty:
                        assert o.array is m
        seen += 1
        if seen == 2:
            break
    assert seen


def test_the_list_is_torchs() -> None:
    for name in NAMES - {"linalg_norm", "normalize"}:
        assert any(p.name == "out" for ps in overloads("", name) for p in ps), name
    # undocumented in torch: its own functions of these names live in nn.functional, without out
    names = set(dir(torch)) & set(minidl.autograd.TABLE) - NAMES - {"hardshrink", "threshold"}
    names -= {"chain_matmul"}  # has an out of its own
    takers = {n for n in names if any(p.name == "out" for ps in overloads("", n) for p in ps)}
    assert not takers


def both(f: Any) -> tuple[Any, Any]:
    """What f(library) gives or raises, under minidl and torch."""

    def run(library: Any) -> Any:
        with pytest.MonkeyPatch.context():
            try:
                return f(library)
            except Exception as error:
                return error

    return run(minidl), run(torch)


@pytest.mark.parametrize("source", ["bool", "int64", "int32", "float32", "float64"])
@pytest.mark.parametrize("target", ["bool", "uint8", "int64", "float16", "float32", "float64"])
def test_which_dtypes_a_result_can_be_written_into(source: str, target: str) -> None:
    def add(library: Any) -> Any:
        x = library.ones(2, dtype=getattr(library, source))
        return library.add(x, x, out=library.empty(2, dtype=getattr(library, target)))

    ours_, theirs = both(add)
    if isinstance(theirs, Exception):
        assert isinstance(ours_, RuntimeError)
        assert "can't be cast" in str(ours_)
    else:
        np.testing.assert_array_equal(ours_.numpy(), theirs.numpy())
        assert ours_.array.dtype == theirs.numpy().dtype


def test_another_shape_is_resized_with_a_warning() -> None:
    for library in (minidl, torch):
        out = library.ones(5)
        with pytest.warns(UserWarning, match="was resized"):
            assert library.add(library.ones(2, 3), 1, out=out) is out
        assert tuple(out.shape) == (2, 3)
        assert out.sum().item() == 12


@pytest.mark.parametrize("which", ["input", "out"])
def test_gradients_and_out_exclude_each_other(which: str) -> None:
    for library in (minidl, torch):
        x = library.ones(3, requires_grad=which == "input")
        out = library.empty(3, requires_grad=which == "out")
        with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
            library.exp(x, out=out)
        with library.no_grad():
            assert library.exp(x, out=out) is out


def test_writing_over_the_input_and_over_parts_of_it() -> None:
    for library in (minidl, torch):
        x = library.arange(4.0)
        library.mul(x, 2, out=x)
        assert x.tolist() == [0, 2, 4, 6]
        with pytest.raises(RuntimeError, match="memory location"):
            library.mul(x[:-1], 2, out=x[1:])
        with pytest.raises(RuntimeError, match="memory location"):
            library.gather(x, 0, library.tensor([0, 1, 2, 3]), out=library.ones(1).expand(4))
        with pytest.raises(TypeError, match="out"):
            library.exp(x, out=[1.0])


def test_what_was_saved_before_out_overwrote_it_is_missed() -> None:
    x = minidl.ones(3, requires_grad=True)
    saved = minidl.ones(3)
    y = (x * saved).sum()
    minidl.exp(minidl.zeros(3), out=saved)
    with pytest.raises(RuntimeError, match="in-place"):
        y.backward()
