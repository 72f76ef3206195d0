"""torch's own sample inputs, and the inputs it refuses, through everything that minidl has under torch's names.

What differs is in DELIBERATE, with the reason; everything else must agree: values, dtypes, shapes, gradients, which
outputs require them, and the class of the error.
"""

from __future__ import annotations

import warnings

import opinfo
import pytest
import torch
from opinfo import ALIASES, IN_PLACE, OFFERED, deviations, refusals

import minidl

# name -> (how the message of the difference starts or what it holds, why it is so)
NO_SPARSE = ("sparse=True needs sparse gradients", "minidl has no sparse tensors; refused rather than wrong")
NUMBER_FIRST = (
    "accepted: {}() received an invalid combination of arguments - got (int, Tensor)",
    "a number may stand on either side of a comparison: NumPy's np.less(2, x) arrives so",
)
NUMBERS = (
    "for a tensor",
    "two Python numbers give a number: an op on anything but Tensors answers in kind",
)
SELF = ("accepted: descriptor", "a Python method does not check the class of self")
NAN_SLOPE = (
    "gradient: values",
    "the slope at NaN: torch's own depends on the element's place in a vector",
)
NUMBERS_ROUNDED = ("one of the arguments must be a Tensor", "rounding division of two Python numbers is Python's own")
ROUNDED = ("div.trunc_rounding", "div.floor_rounding", "floor_divide")
TRIGAMMA = "torch's trigamma is right to 1e-9, its digamma near a pole to 1e-10: see test_gamma.py for ours"
POLES = "trigamma at -1, -2 ...: torch's sine of pi leaves some 1e27 to 1e32 of it, ours is infinite"
ENDS = "the fourth polygamma at Inf is its limit, 0, at -Inf it has none: torch's zeta gives NaN and -Inf"
DELIBERATE: dict[str, list[tuple[str, str]]] = {
    **{name: [(NUMBER_FIRST[0].format(name), NUMBER_FIRST[1])] for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{name: [SELF] for name in ("__radd__", "__rmul__", "__rand__", "__ror__", "__rxor__")},
    **{name: [NUMBERS] for name in ("mul", "div.no_rounding_mode", "true_divide")},
    **{name: [NUMBERS_ROUNDED] for name in ROUNDED},
    "as_strided": [("elements lie in rows", "torch counts in memory that its samples' copies do not have")],
    "cat": [
        (
            "accepted: Trying to resize storage",
            "an array is replaced, not resized, whosoever memory it was",
        ),
        ("accepted: cat(): argument 'tensors'", "any iterable of tensors will do, a Tensor's rows included"),
    ],
    "matrix_exp": [("RuntimeError: matrix_exp: float32 or float64", "there are no decompositions in float16")],
    "cholesky_solve": [("gradient: values", "torch gives one to the triangle that is not looked at, too")],
    "gather": [("accepted: unsupported operation", "as cat's: out does not grow into its neighbour's memory")],
    "take": [("accepted: unsupported operation", "as gather's")],
    "linalg.pinv.hermitian": [("gradient: values", "torch's is that of a matrix that need not be symmetric")],
    "digamma": [("values", TRIGAMMA), ("gradient: infinities", POLES)],
    "lgamma": [("gradient: values", TRIGAMMA)],
    **{f"mvlgamma.mvlgamma_p_{p}": [("gradient: values", TRIGAMMA)] for p in (1, 3, 5)},
    "polygamma.polygamma_n_0": [("values", TRIGAMMA)],
    **{f"polygamma.polygamma_n_{n}": [("values", TRIGAMMA), ("infinities", ENDS)] for n in range(1, 5)},
    "nn.functional.grid_sample": [("images (N, C, H, W) only", "minidl goes up to images")],
    "nn.functional.hardsigmoid": [("gradient: values", "torch multiplies by a sixth rounded to float32")],
    "nn.functional.celu": [("gradient: values", "torch divides by alpha rounded to float32")],
    "nn.functional.elu": [NAN_SLOPE],
    "nn.functional.selu": [NAN_SLOPE],
    "nn.functional.hardshrink": [NAN_SLOPE],
    "nn.functional.softshrink": [NAN_SLOPE],
    "nn.functional.hardtanh": [NAN_SLOPE],
    "nn.functional.relu6": [NAN_SLOPE],
    "nn.functional.soft_margin_loss": [("infinities", "torch's e^-xy overflows in float16, ours does not")],
    "nn.functional.embedding": [NO_SPARSE],
    "nn.functional.embedding_bag": [NO_SPARSE],
}

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own remarks on its samples


def unexplained(name: str, found: list[tuple[str, str]]) -> list[str]:
    """The differences that the table does not have."""
    known = [start for start, _ in DELIBERATE.get(name, [])]
    return [f"{what[:300]}\n    at {where}" for what, where in found if not any(k in what for k in known)]


def check(name: str, dtypes: tuple[str, ...], how: str, most: int | None) -> int:
    total = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for dtype in dtypes:
            count, found = deviations(name, dtype, how, most)
            total += count
            wrong = unexplained(name, found)
            assert not wrong, f"{name}: {len(wrong)} of {count}\n" + "\n".join(wrong[:5])
    return total


@pytest.mark.parametrize("name", OFFERED)
def test_samples(name: str) -> None:
    """Values and gradients of torch's sample inputs, of more than 12 in one dtype every n-th; strided ones too."""
    assert check(name, ("float64", "int64", "bool"), "sample", 12) or check(name, ("float32",), "sample", 12)
    check(name, ("float64",), "noncontiguous", 6)


@pytest.mark.parametrize("name", [n for n, o in OFFERED.items() if o.error_inputs_func is not None])
def test_what_torch_refuses_is_refused(name: str) -> None:
    """By the same class of error, or one derived from it."""
    count, found = refusals(name)
    wrong = unexplained(name, found)
    assert not wrong, f"{name}: {len(wrong)} of {count}\n" + "\n".join(wrong[:5])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", OFFERED)
def test_all_samples_in_every_dtype(name: str) -> None:
    """Of more than 400 in one dtype, as pooling has them, every n-th."""
    check(name, tuple(sorted(opinfo.DTYPES)), "sample", 400)
    check(name, ("float64",), "noncontiguous", 100)


REFERENCE = [n for n in OFFERED if n not in ("__rmod__",)]  # torch itself cannot differentiate its samples


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", REFERENCE)
def test_reference_inputs(name: str) -> None:
    """The larger set: extremal values, many shapes, large and strided tensors."""
    check(name, ("float64", "float32", "int64"), "reference", 40)


@pytest.mark.parametrize("name", ALIASES)
def test_other_names_of_a_function(name: str) -> None:
    """As function and as method, against torch's of the same name."""
    count = 0
    for s in opinfo.samples(OFFERED[ALIASES[name]], "float64", "sample", 3):
        x, *args = opinfo.ours([s.input, *s.args], [])
        kwargs = opinfo.ours(s.kwargs, [])
        want = getattr(torch, name)(s.input, *s.args, **s.kwargs)
        callers = [getattr(minidl, name)]
        if isinstance(x, minidl.Tensor) and hasattr(torch.Tensor, name):
            callers.append(getattr(minidl.Tensor, name))
        for f in callers:
            for a, t in zip(opinfo.outputs(f(x, *args, **kwargs)), opinfo.outputs(want), strict=True):
                assert opinfo.difference(a, t, 10.0) is None
                count += 1
    assert count


@pytest.mark.parametrize("name", IN_PLACE)
def test_methods_that_write_into_their_tensor(name: str) -> None:
    count = 0
    with minidl.no_grad(), torch.no_grad():
        info = OFFERED[IN_PLACE[name]]
        for s in opinfo.samples(info, "float64" if torch.float64 in info.dtypes else "int64", "sample", 6):
            x, *args = opinfo.ours([s.input, *s.args], [])
            kwargs = opinfo.ours(s.kwargs, [])
            theirs = s.input.clone()
            try:
                getattr(theirs, name)(*s.args, **s.kwargs)
                if theirs.numel() != s.input.numel():  # torch's addbmm_ makes room for a larger result
                    raise RuntimeError
            except (RuntimeError, IndexError):  # the result has another shape
                with pytest.raises((RuntimeError, IndexError)):
                    getattr(x, name)(*args, **kwargs)
                continue
            assert getattr(x, name)(*args, **kwargs) is x
            assert opinfo.difference(x, theirs, 10.0) is None
            count += 1
    assert count


@pytest.mark.exhaustive
def test_every_deliberate_difference_is_there() -> None:
    """Whoever removes a difference removes its row."""
    stale = []
    for name, rows in DELIBERATE.items():
        found: list[str] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if OFFERED[name].error_inputs_func is not None:
                found += [what for what, _ in refusals(name)[1]]
            for how, dtype in [("sample", d) for d in ("float64", "float16", "int64", "uint8")] + [
                ("noncontiguous", "float64"), ("reference", "float64"), ("reference", "float32")
            ]:  # fmt: skip
                if all(any(start in what for what in found) for start, _ in rows):
                    break
                found += [what for what, _ in deviations(name, dtype, how, 60 if how == "sample" else None)[1]]
        stale += [(name, start) for start, _ in rows if not any(start in what for what in found)]
    assert not stale
