"""assert_close decides as torch's does, and says where."""

import numpy as np
import pytest
import torch

import minidl
from minidl.testing import assert_close

NAN, INF = float("nan"), float("inf")


def verdict(compare, a, b, options):
    try:
        compare(a, b, **options)
    except (AssertionError, TypeError, ValueError) as error:
        return type(error), str(error)
    return None, ""


def made(lib, value, dtype):
    return lib.tensor(value, dtype=getattr(lib, dtype))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "bool"])
@pytest.mark.parametrize("options", [{}, {"rtol": 0, "atol": 0}, {"rtol": 0.1, "atol": 0.5}, {"equal_nan": True}])
def test_verdicts_on_tensors_are_torchs(dtype, options):
    values = [[1, 2, 3], [1, 2, 3], [1, 2, 4], [0, 2, 3]]
    if "float" in dtype:
        eps = {"float16": 1e-3, "float32": 1.3e-6, "float64": 1e-7}[dtype]
        values += [[1 + k * eps, 2, 3] for k in (0.5, 1.5, 20)] + [[NAN, 1, INF], [NAN, 1, -INF], [INF, INF, INF]]
    seen = set()
    for x in values:
        for y in values:
            ours = verdict(assert_close, made(minidl, x, dtype), made(minidl, y, dtype), options)
            theirs = verdict(torch.testing.assert_close, made(torch, x, dtype), made(torch, y, dtype), options)
            assert ours[0] == theirs[0], (x, y)
            assert ours[1].split("\n")[:3] == theirs[1].split("\n")[:3]
            seen.add(ours[0])
    assert seen == {None, AssertionError}


PAIRS = [
    (lambda lib: ([lib.ones(2)], [lib.ones(2), lib.ones(2)]), {}),
    (lambda lib: ([lib.ones(2), {"a": (lib.zeros(2),)}], [lib.ones(2), {"a": (lib.ones(2),)}]), {}),
    (lambda lib: ({"a": 1.0}, {"b": 1.0}), {}),
    (lambda lib: (lib.ones(2), lib.ones(3)), {}),
    (lambda lib: (lib.ones(2), lib.ones(2, dtype=lib.float64)), {}),
    (lambda lib: (lib.ones(2), lib.ones(2, dtype=lib.float64)), {"check_dtype": False}),
    (lambda lib: (lib.ones(2, 2), lib.ones(2, 2).t()), {"check_stride": True}),
    (lambda lib: (lib.ones(2, 3), lib.ones(3, 2).t()), {"check_stride": True}),
    (lambda lib: (lib.ones(2, 3), lib.ones(3, 2).t()), {}),
    (lambda lib: (1, 1.0), {}),
    (lambda lib: (1, 1.0), {"check_dtype": False}),
    (lambda lib: (1.0, 1.0 + 2e-7), {}),
    (lambda lib: (1.0, 1.0 + 2.5e-7), {}),
    (lambda lib: (3, 4), {}),
    (lambda lib: (True, True), {}),
    (lambda lib: (None, None), {}),
    (lambda lib: (None, 1.0), {}),
    (lambda lib: (NAN, NAN), {}),
    (lambda lib: (NAN, NAN), {"equal_nan": True}),
    (lambda lib: (lib.ones(2), np.ones(2, np.float32)), {}),
    (lambda lib: (np.ones(2), np.ones(2)), {}),
    (lambda lib: (np.ones(2), np.zeros(2)), {}),
    (lambda lib: (lib.ones(1), 1.0), {}),
    (lambda lib: ([lib.ones(1)], lib.ones(1)), {}),
    (lambda lib: (lib.ones(2), lib.ones(2)), {"rtol": 0.1}),
    (lambda lib: (lib.ones(0), lib.ones(0)), {}),
    (lambda lib: (lib.nn.Parameter(lib.ones(2)), lib.ones(2)), {}),
    (lambda lib: (lib.nn.Parameter(lib.ones(2)), lib.ones(2)), {"allow_subclasses": False}),
]


@pytest.mark.parametrize("i", range(len(PAIRS)))
def test_verdicts_on_everything_else_are_torchs(i):
    make, options = PAIRS[i]
    ours = verdict(assert_close, *make(minidl), options)
    theirs = verdict(torch.testing.assert_close, *make(torch), options)
    assert ours[0] == theirs[0], theirs
    if ours[0] is AssertionError:
        place = lambda text: [line for line in text.split("\n") if line.startswith("The failure occurred")]
        assert place(ours[1]) == place(theirs[1])
        assert ours[1].split(":")[0].split("\n")[0] == theirs[1].split(":")[0].split("\n")[0] or "None" in ours[1]


def test_messages():
    expected = r"Mismatched elements: 1 / 4 \(25\.0%\)\nGreatest absolute difference: 0\.5 at index \(1, 0\) "
    with pytest.raises(AssertionError, match=expected + r"\(up to 1e-05 allowed\)\nGreatest relative"):
        assert_close(minidl.tensor([[1.0, 2.0], [3.5, 4.0]]), minidl.tensor([[1.0, 2.0], [3.0, 4.0]]))
    with pytest.raises(AssertionError, match="^mine$"):
        assert_close(1.0, 2.0, msg="mine")
    with pytest.raises(AssertionError, match="^before: Scalars"):
        assert_close(1.0, 2.0, msg=lambda text: f"before: {text}")
    with pytest.raises(AssertionError, match="^mine$"):
        assert_close([1.0], [], msg="mine")
    assert_close(minidl.ones(2, requires_grad=True) * 2, minidl.ones(2) * 2)
    big = minidl.tensor([2**62 + 1])  # float64 would not see the difference
    with pytest.raises(AssertionError, match="not equal"):
        assert_close(big, big - 1)
