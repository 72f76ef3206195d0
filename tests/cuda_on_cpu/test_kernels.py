"""Every CUDA variant against the reference, in the emulator (checked, threads in random order) or on a real GPU."""

import inspect

import cuda_cases
import cuda_runs
import pytest

import minidl_kernels as mk
from minidl_kernels import registry

VARIANTS = cuda_runs.variants()


def dtype_for(variant):
    return "float16" if variant == "f16" else "float32"


RUNS = [
    pytest.param(op, variant, case, id=f"{op}-{variant}-{i}")
    for op, variant in VARIANTS
    for i, case in enumerate(cuda_cases.CASES.get(op, ()))
    if cuda_runs.accepted(op, variant, case(dtype_for(variant)))
]


@pytest.mark.parametrize(("op", "variant", "case"), RUNS)
def test_variants_are_as_good_as_the_reference(xp, op, variant, case):
    cuda_runs.check(xp, op, variant, case(dtype_for(variant)))


@pytest.mark.parametrize(
    "op", ["cross_entropy", "cross_entropy_backward", "gather_plane", "scatter_plane", "scatter_rows", "csr_linear"]
)
def test_indices_that_do_not_exist_touch_no_memory(xp, op):
    cuda_runs.check_indices(xp, op)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["forward", "reverse"])
@pytest.mark.parametrize(("op", "variant"), VARIANTS)
def test_variants_in_the_fast_build_and_in_float64(xp, op, variant, order):
    if hasattr(xp, "mode"):
        xp.mode.checked, xp.mode.order = False, order
    for case in cuda_cases.CASES[op]:
        args = case("float16" if variant == "f16" else "float64" if order == "forward" else "float32")
        if cuda_runs.accepted(op, variant, args):
            cuda_runs.check(xp, op, variant, args)


@pytest.mark.parametrize(("op", "variant"), VARIANTS)
def test_every_variant_has_cases_and_the_signature_of_its_function(op, variant):
    assert sum(cuda_runs.accepted(op, variant, case(dtype_for(variant))) for case in cuda_cases.CASES[op]) > 1
    (row,) = [v for v in registry.ops()[op].variants if (v.name, v.device) == (variant, "cuda")]
    assert list(inspect.signature(row.kernel()).parameters) == list(inspect.signature(getattr(mk, op)).parameters)
    assert row.note
