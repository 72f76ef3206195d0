"""Calls put together at random, in both libraries: ops x shapes (0-d and empty ones, broadcasting) x dtypes x layouts.

What one gives the other must: values, dtypes, shapes, whether the result shares the input's memory, gradients, and
whether there is an error at all. Hypothesis draws the calls and makes the shortest failing one of what fails.

Values are small whole numbers and quarters, on which most ops are exact, and there is no NaN: its gradients are in
torch a matter of the element's place. Floats may differ by 64 ulp of the greatest number around.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl

DTYPES = ("float32", "float64", "float16", "int64", "int32", "int8", "int16", "uint8", "bool")
FLOATS = ("float32", "float64")
LAYOUTS = ("rows", "columns", "every second", "expanded")
NUMBERS = st.sampled_from([0, 1, 2, -1, 3, 0.5, -1.5, True, False, 200, -200, 7])


@dataclass
class Input:
    """A tensor to be made in either library, in a layout; a leaf of it keeps the gradient."""

    values: np.ndarray
    layout: str
    grad: bool

    def make(self, library: Any) -> tuple[Any, Any]:
        a, n = self.values, self.values.ndim
        base = {
            "columns": lambda: a.T.copy(),
            "every second": lambda: np.repeat(a, 2, -1) if n else a.copy(),
            "expanded": lambda: a[:1].copy(),
        }.get(self.layout, a.copy)()
        leaf = library.tensor(base)
        leaf = leaf.requires_grad_() if self.grad else leaf
        if self.layout == "columns":
            return leaf, leaf.permute(tuple(range(n))[::-1])
        if self.layout == "every second" and n:
            return leaf, leaf[..., ::2]
        return leaf, leaf.expand(a.shape) if self.layout == "expanded" else leaf


@st.composite
def inputs(draw: Any, shape: Any = None, dtype: Any = None, grad: Any = None) -> Input:
    shape = draw(shapes()) if shape is None else shape
    dtype = draw(st.sampled_from(DTYPES)) if dtype is None else dtype
    layout = draw(st.sampled_from(LAYOUTS))
    kind, rng = np.dtype(dtype).kind, np.random.default_rng(draw(st.integers(0, 99)))
    low = 0 if kind in "ub" else -6
    a = rng.integers(low, 2 if kind == "b" else 7, shape)
    a = np.asarray(a / 4 if kind == "f" and draw(st.booleans()) else a).astype(dtype)
    if layout == "expanded":
        a = np.broadcast_to(a[:1], a.shape) if a.ndim and a.shape[0] else a
        layout = layout if a.ndim and a.shape[0] else "rows"
    wants = kind == "f" and (draw(st.booleans()) if grad is None else grad)
    return Input(a, layout, wants)


def shapes(least: int = 0, most: int = 3) -> Any:
    return st.lists(st.integers(0, 4), min_size=least, max_size=most).map(tuple)


@st.composite
def partners(draw: Any, shape: tuple) -> tuple:
    """Shapes that broadcast with one, mostly."""
    drawn = tuple(draw(st.sampled_from([n, 1])) for n in shape)
    drawn = drawn[draw(st.integers(0, len(shape))) :] if draw(st.booleans()) else drawn
    return (draw(st.integers(1, 2)), *drawn) if draw(st.integers(0, 5)) == 0 else drawn


def dims(x: Input, beyond: int = 0) -> Any:
    n = max(x.values.ndim, 1) + beyond
    return st.integers(-n, n - 1)


def options(draw: Any, **strategies: Any) -> dict:
    return {k: draw(s) for k, s in strategies.items() if draw(st.booleans())}


def words(text: str) -> list[str]:
    return text.split()


# -- families of calls: each draws (name, args, kwargs); a name that starts with "." is a method -----------------------

ONE = words("""abs acos asin asinh atan ceil cos cosh erf erfc exp exp2 expm1 floor frac log1p neg positive reciprocal
round rsqrt sgn sigmoid sign signbit sin sinh sqrt square tan tanh trunc isnan isinf isfinite logical_not bitwise_not
nan_to_num relu""")
TWO = words("""add sub mul div floor_divide remainder fmod maximum minimum fmax fmin atan2 hypot eq ne lt le gt ge
logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor copysign heaviside gcd lcm rsub xlogy __add__
__radd__ __rsub__ __mul__ __truediv__ __floordiv__ __mod__ __rmod__ __and__ __xor__""")


@st.composite
def elementwise(draw: Any) -> tuple:
    x = draw(inputs())
    if draw(st.booleans()):
        return draw(st.sampled_from(ONE)), [x], {}
    name = draw(st.sampled_from(TWO))
    dtype = draw(st.one_of(st.just(x.values.dtype.name), st.sampled_from(DTYPES)))
    other = draw(st.one_of(NUMBERS, inputs(draw(partners(x.values.shape)), dtype)))
    if name.startswith("__r"):
        other = draw(NUMBERS)
    kwargs = {"rounding_mode": draw(st.sampled_from([None, "floor", "trunc"]))} if name == "div" else {}
    if name in ("add", "sub"):
        kwargs = options(draw, alpha=st.sampled_from([2, -1, 0.5, True]))
    return ("." + name if name[0] == "_" else name), [x, other], kwargs


@st.composite
def in_place(draw: Any) -> tuple:
    x = draw(inputs(grad=False))
    name = draw(
        st.sampled_from(words("add_ sub_ mul_ div_ remainder_ pow_ copy_ clamp_min_ fill_ masked_fill_ __iadd__"))
    )
    if name == "masked_fill_":
        return "." + name, [x, draw(inputs(draw(partners(x.values.shape)), "bool")), draw(NUMBERS)], {}
    if name in ("fill_", "clamp_min_", "pow_"):
        return "." + name, [x, draw(NUMBERS)], {}
    return "." + name, [x, draw(st.one_of(NUMBERS, inputs(draw(partners(x.values.shape)))))], {}


@st.composite
def reductions(draw: Any) -> tuple:
    x = draw(inputs())
    name = draw(
        st.sampled_from(
            words("""sum mean prod amax amin all any logsumexp var std argmax max min cumsum cumprod
        softmax sort median count_nonzero cummax aminmax nansum""")
        )
    )
    n = x.values.ndim
    several = st.lists(st.sampled_from(range(n)), unique=True, min_size=1).map(tuple) if n else st.just(())
    one = name in words("prod argmax max min cumsum cumprod softmax sort median cummax aminmax")
    dim = draw(dims(x)) if one else draw(st.one_of(dims(x), several))
    kwargs: dict = {"dim": dim}
    if name not in words("count_nonzero cumsum cumprod softmax sort cummax"):
        kwargs |= options(draw, keepdim=st.booleans())
    if name == "median" and x.layout == "expanded":
        x.layout = "rows"  # torch 2.13 reads beyond the memory of an expanded tensor
    if name == "sort":
        kwargs |= {"stable": True, "descending": draw(st.booleans())}
    if name in ("sum", "prod", "cumsum"):
        kwargs |= options(draw, dtype=st.sampled_from([("dtype", d) for d in DTYPES]))
    if name in ("var", "std"):
        kwargs |= options(draw, correction=st.sampled_from([0, 1, 2]))
    return name, [x], kwargs


@st.composite
def movements(draw: Any) -> tuple:
    x = draw(inputs())
    shape, n = x.values.shape, x.values.ndim
    to = st.sampled_from([(-1,), shape[::-1], (1, *shape), (2, -1), (x.values.size,), (-1, 1)])
    new = st.tuples(*[st.sampled_from([k, -1] if k != 1 else [1, 3]) for k in shape])
    few, pieces = st.integers(-2, 3), st.sampled_from([1, 2, [1, 2], [2, 1, 1]])
    table: dict[str, Any] = {
        "reshape": [to],
        ".view": [to],
        ".expand": [new],
        "broadcast_to": [new],
        "squeeze": [dims(x)],
        "unsqueeze": [dims(x, 1)],
        "transpose": [dims(x), dims(x)],
        "flip": [st.lists(dims(x), max_size=1).map(tuple)],
        "permute": [st.permutations(range(n)).map(tuple)],
        "narrow": [dims(x), few, st.integers(0, 2)],
        "select": [dims(x), few],
        "split": [pieces, dims(x)],
        "chunk": [st.integers(1, 3), dims(x)],
        "roll": [few, dims(x)],
        "tril": [few],
        "diag_embed": [few],
        "unbind": [dims(x)],
        "flatten": [dims(x), dims(x)],
        ".repeat": [st.tuples(*[st.integers(0, 2)] * n)],
        "movedim": [dims(x), dims(x)],
        "fliplr": [],
        "ravel": [],
        "repeat_interleave": [st.integers(0, 2), dims(x)],
        "diff": [],
        "diagonal": [few],
        "t": [],
        "clone": [],
        "tensor_split": [st.integers(1, 3), dims(x)],
        ".unfold": [dims(x), st.integers(0, 2), st.integers(0, 2)],
    }
    name = draw(st.sampled_from(sorted(table)))
    return name, [x, *(draw(s) for s in table[name])], {}


@st.composite
def indexings(draw: Any) -> tuple:
    x = draw(inputs(draw(shapes(1))))
    shape, dim = x.values.shape, draw(dims(x))
    n = shape[dim]
    at = Input(np.asarray(draw(st.lists(st.integers(0, max(n - 1, 0)), max_size=3)), np.int64), "rows", False)
    name = draw(
        st.sampled_from(
            words("index_select index_fill index_add index_copy gather masked_fill where take clamp get set topk")
        )
    )
    part = list(shape)
    part[dim] = at.values.size
    if name in ("index_add", "index_copy"):
        return name, [x, dim, at, draw(inputs(tuple(part), x.values.dtype.name))], {}
    if name == "index_fill":
        return name, [x, dim, at, draw(NUMBERS)], {}
    if name == "gather":
        at = Input(np.random.default_rng(0).integers(0, max(n, 1), part), "rows", False)
        return name, [x, dim, at], {}
    if name in ("masked_fill", "where"):
        mask = draw(inputs(draw(partners(shape)), "bool"))
        return name, [x, mask, draw(NUMBERS)] if name == "masked_fill" else [mask, x, draw(NUMBERS)], {}
    if name == "clamp":
        return name, [x, *draw(st.sampled_from([(0,), (None, 1.5), (-1, 200), (2, 1)]))], {}
    if name == "topk":
        return name, [x, draw(st.integers(0, n)), dim], {}
    if name == "take":
        return name, [x, at], {}
    if name == "index_select":
        return name, [x, dim, at], {}
    key: list = []
    for _, k in zip(range(draw(st.integers(1, len(shape)))), shape):
        key.append(
            draw(
                st.one_of(
                    st.integers(-k, max(k - 1, 0)),
                    st.just(slice(None)),
                    st.just(slice(1, None, 2)),
                    st.sampled_from([None, Ellipsis]) if Ellipsis not in key else st.just(0),
                    st.lists(st.integers(-k, max(k - 1, 0)), min_size=1, max_size=2),
                )
            )
        )
    if name == "get":
        return "get", [x, tuple(key)], {}
    x.grad = False
    return "set", [x, tuple(key), draw(st.one_of(NUMBERS, inputs((), x.values.dtype.name)))], {}


@st.composite
def joins_and_products(draw: Any) -> tuple:
    dtype = draw(st.sampled_from(DTYPES))
    m, k, n = (draw(st.integers(0, 3)) for _ in range(3))
    name = draw(st.sampled_from(words("cat stack matmul outer kron addmm baddbmm inner linear hstack")))
    x = lambda *shape: draw(inputs(shape, dtype))
    if name == "matmul":
        a, b = draw(
            st.sampled_from(
                [
                    ((m, k), (k, n)),
                    ((k,), (k, n)),
                    ((m, k), (k,)),
                    ((k,), (k,)),
                    ((2, m, k), (k, n)),
                    ((2, 1, m, k), (3, k, n)),
                    ((m, k), (k + 1, n)),
                ]
            )
        )
        return name, [x(*a), x(*b)], {}
    if name in ("cat", "stack", "hstack"):
        xs = [
            draw(inputs((draw(st.integers(0, 2)) if name == "cat" else m, k), draw(st.sampled_from([dtype, "int64"]))))
            for _ in range(draw(st.integers(1, 3)))
        ]
        return name, [xs], {}
    scales = options(draw, beta=st.sampled_from([2, 3]), alpha=st.sampled_from([-1, 2]))
    return {
        "outer": (name, [x(m), x(n)], {}),
        "kron": (name, [x(m, k), x(n, 2)], {}),
        "inner": (name, [x(m, k), x(n, k)], {}),
        "addmm": (name, [x(n), x(m, k), x(k, n)], scales),
        "baddbmm": (name, [x(m, n), x(2, m, k), x(2, k, n)], scales),
        "linear": ("nn.functional.linear", [x(m, k), x(n, k), *([x(n)] if draw(st.booleans()) else [])], {}),
    }[name]


@st.composite
def networks(draw: Any) -> tuple:
    """Convolutions, pools, losses, activations with their options."""
    dtype = draw(st.sampled_from(FLOATS))
    x = lambda *shape: draw(inputs(shape, dtype))
    n, g = draw(st.integers(1, 2)), draw(st.sampled_from([1, 2]))
    h, w, r = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(1, 3))
    stride, pad, d = (st.integers(1, 3), st.integers(0, 2), st.integers(1, 2))
    image = lambda: x(n, g * 2, h, w)
    reduction = {"reduction": draw(st.sampled_from(["mean", "sum", "none"]))}
    table: dict[str, Callable] = {
        "conv2d": lambda: (
            [image(), x(g * 3, 2, r, r)],
            {"groups": g, **options(draw, stride=stride, padding=pad, dilation=d)},
        ),
        "conv_transpose2d": lambda: (
            [image(), x(g * 2, 3, r, r)],
            {"groups": g, **options(draw, stride=stride, padding=pad)},
        ),
        "max_pool2d": lambda: (
            [image(), r],
            options(draw, stride=stride, padding=st.integers(0, 1), ceil_mode=st.booleans()),
        ),
        "avg_pool2d": lambda: (
            [image(), r],
            options(
                draw, stride=stride, padding=st.integers(0, 1), ceil_mode=st.booleans(), count_include_pad=st.booleans()
            ),
        ),
        "adaptive_avg_pool2d": lambda: ([image(), draw(st.integers(1, 3))], {}),
        "layer_norm": lambda: ([image(), (w,)], {}),
        "group_norm": lambda: ([image(), g], {}),
        "pad": lambda: (
            [image(), draw(st.tuples(*[st.integers(-1, 2)] * 4))],
            {"mode": draw(st.sampled_from(["constant", "reflect", "replicate", "circular"]))},
        ),
        "cross_entropy": lambda: (
            [x(n, 3), Input(np.arange(n) % 3, "rows", False)],
            {**reduction, **options(draw, label_smoothing=st.just(0.25), ignore_index=st.just(1))},
        ),
        "mse_loss": lambda: ([x(n, h), x(n, h)], reduction),
        "huber_loss": lambda: ([x(n, h), x(n, h)], {**reduction, **options(draw, delta=st.just(0.5))}),
        "multi_margin_loss": lambda: (
            [x(n, 3), Input(np.arange(n) % 3, "rows", False)],
            {**reduction, **options(draw, p=st.just(2))},
        ),
        "gelu": lambda: ([x(h)], options(draw, approximate=st.just("tanh"))),
        "softplus": lambda: ([x(h)], options(draw, beta=st.just(2.0))),
        "threshold": lambda: ([draw(inputs()), 0.5, draw(st.sampled_from([-1.5, 2]))], {}),
        "glu": lambda: ([x(n, h)], {}),
    }
    name = draw(st.sampled_from(sorted(table)))
    return (f"nn.functional.{name}", *table[name]())


# -- both libraries ----------------------------------------------------------------------------------------------------


def call(library: Any, name: str, args: list, kwargs: dict) -> tuple[Any, list]:
    """The result, and (input, its leaf, the tensor in its layout) of every input."""
    made: list = []

    def given(v: Any) -> Any:
        if isinstance(v, Input):
            leaf, t = v.make(library)
            made.append((v, leaf, t))
            return t
        if isinstance(v, list):
            return [given(u) for u in v]
        if isinstance(v, tuple) and v[:1] == ("dtype",):
            return getattr(library, v[1])
        return v

    xs, keywords = [given(a) for a in args], {k: given(v) for k, v in kwargs.items()}
    if name == "get":
        return xs[0][args[1]], made
    if name == "set":
        xs[0][args[1]] = xs[2]
        return xs[0], made
    if name[0] == ".":
        return getattr(xs[0], name[1:])(*xs[1:], **keywords), made
    f = library
    for part in name.split("."):
        f = getattr(f, part)
    return f(*xs, **keywords), made


def flat(y: Any) -> list:
    return [t for u in y for t in flat(u)] if isinstance(y, (tuple, list)) else [y]


def same(ours: Any, theirs: Any, scale: float) -> None:
    assert ours.dtype.name == str(theirs.dtype).removeprefix("torch.")
    assert tuple(ours.shape) == tuple(theirs.shape)
    a, t = ours.detach().numpy(), theirs.detach().numpy(force=True)
    if a.dtype.kind != "f":
        np.testing.assert_array_equal(a, t)
        return
    a, t, eps = a.astype(np.float64), t.astype(np.float64), np.finfo(a.dtype).eps
    size = max(scale, np.abs(t[np.isfinite(t)]).max(initial=0))
    np.testing.assert_allclose(a, t, rtol=0, atol=64 * eps * size)


# What torch's samples show, too: see DELIBERATE in test_opinfo.py. Here it is what may be refused or taken.
ALSO_TAKEN = (
    "must be tuple of ints, not int",
    "boolean alpha only",
    "does not support bool",
    "view size is not compatible",
    "for Number type",
    "not implemented for",
    "not supported for",
    "dtype mismatch",
    "doesn't match the broadcast",
    "invalid combination",
    "does not support",
    "Unsupported",
    "Expected a floating point",
    "should be Long",
    "[-1, 0], but got 1",
)
REFUSED = (
    "not defined for bool",
    "same dtype",
    "softmax needs floating point",
    "do not all touch axis",
    "of size 0",
    "several elements of this expanded tensor",
    "must be smaller than stride",
    "must be float32 or float64",
    "the output would have no elements",  # conv_transpose2d: torch takes it in some layouts of float32 alone
)


def check(name: str, args: list, kwargs: dict) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes = []
        for library in (torch, minidl):
            try:
                outcomes.append((call(library, name, args, kwargs), None))
            except Exception as error:
                outcomes.append((None, error))
        (theirs, their_error), (ours, our_error) = outcomes
        if their_error is not None:
            assert our_error is not None or any(s in str(their_error) for s in ALSO_TAKEN), f"torch: {their_error}"
            return
        if our_error is not None:
            assert any(s in str(our_error) for s in REFUSED), f"{type(our_error).__name__}: {our_error}"
            return
        (y, made), (u, t_made) = ours, theirs
        ys, us = flat(y), flat(u)
        assert len(ys) == len(us)
        scale = max([1.0, *(float(np.abs(v.values.astype(np.float64)).max(initial=0)) for v, _, _ in made)])
        for a, t in zip(ys, us, strict=True):
            same(a, t, scale)
            if t.numel():
                for (_, leaf, _), (_, t_leaf, _) in zip(made, t_made, strict=True):
                    shares = t.untyped_storage().data_ptr() == t_leaf.untyped_storage().data_ptr()
                    assert np.shares_memory(a.array, leaf.array) == shares, f"torch {'shares' if shares else 'copies'}"
        for (_, leaf, _), (_, t_leaf, _) in zip(made, t_made, strict=True):
            same(leaf, t_leaf, 1.0)  # what an op that is not in place left of its inputs
        roots = [(a, t) for a, t in zip(ys, us, strict=True) if t.requires_grad]
        assert [a.requires_grad for a in ys] == [t.requires_grad for t in us]
        leaves = [(leaf, t_leaf) for (v, leaf, _), (_, t_leaf, _) in zip(made, t_made, strict=True) if v.grad]
        if not roots:
            return
        seeds = [np.cos(np.arange(t.numel())).reshape(tuple(t.shape)).astype(str(t.dtype)[6:]) for _, t in roots]
        try:
            want = torch.autograd.grad(
                [t for _, t in roots], [t for _, t in leaves], [torch.tensor(s) for s in seeds], allow_unused=True
            )
        except RuntimeError:  # torch has no derivative of it
            with pytest.raises((RuntimeError, NotImplementedError)):
                sum((a.sum() for a, _ in roots), minidl.tensor(0.0)).backward()
            return
        got = minidl.autograd.grad(
            [a for a, _ in roots], [a for a, _ in leaves], [minidl.tensor(s) for s in seeds], allow_unused=True
        )
        for (leaf, _), a, t in zip(leaves, got, want, strict=True):
            zeros = torch.zeros(tuple(leaf.shape), dtype=getattr(torch, leaf.dtype.name))
            same(minidl.zeros_like(leaf) if a is None else a, zeros if t is None else t, 4 * scale * scale)


FAMILIES = (elementwise, in_place, reductions, movements, indexings, joins_and_products, networks)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_random_calls(family: Any) -> None:
    run(family, 40)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_many_random_calls(family: Any) -> None:
    run(family, 150)


def run(family: Any, count: int) -> None:
    @settings(max_examples=count)
    @given(family())
    def checked(drawn: tuple) -> None:
        check(*drawn)

    checked()
