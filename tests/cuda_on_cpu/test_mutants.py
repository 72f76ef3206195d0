"""Can the tests of kernels fail? Each .cu file is bent in one place after the other, and a case must object."""

import os
import re
import warnings

import cuda_cases
import cuda_runs
import pytest

from minidl_kernels import registry
from minidl_kernels.cuda import launch

SOURCES = sorted(str(p.relative_to(launch.ROOT)) for p in launch.ROOT.rglob("*.cu"))
SOURCES.remove("cuda/peak.cu")  # no variant's: test_bench_on_gpu.py has its numbers
HEADERS = {
    "cuda/blocks.cuh": ("gemm/gemm.cu",),
    "cuda/reduce.cuh": ("norm/norm.cu",),
    "cuda/tile.cuh": ("gemm/gemm.cu",),
    "cuda/mma.cuh": ("gemm/tensor.cu", "int8_static/static.cu"),
}

# pattern, what it becomes, how many: barriers away, bounds one too wide (not of steps through k or keys: one more step
# adds zeros; nor of a word's bytes, whose other factor is 0 there), reductions one step short, one element too far
BENDS = (
    (r"__sync(threads|warp)\(\);", "", 6),
    (
        r"(?<=[^<])(?<!k \+ i) < "
        r"((?:p\.)?last|M|N|K|S|D|E|n|c|h|wide|k1|rows|length|width|some|depth|Tn|limit|left)\b"
        r"(?! *\?|; (k0|k|t0|first) \+=)",
        r" <= \1",
        8,
    ),
    (r">= (N|rows \* H|rows|D|p|q|p \* q|h \* wide)(?=\)| \|\|)", r"> \1", 3),
    (r"<= blockIdx\.x", "< blockIdx.x", 1),
    (r"side - 1", "side", 2),
    (r"i > done && ", "", 1),
    (r"entries\+\+", "entries += 2", 1),
    (r"% c\b", "% (c + 1)", 2),
    (r"\b(low|high) - z", r"\1", 2),
    (r"\bv != v", "false", 1),
    (r"int o = 16", "int o = 8", 2),
    (r"\* 4\b", "* 3", 2),
    (r"& 1\)", "& 3)", 2),
)


def mutants(path):
    """(what was bent, the text of the bent file): at most so many of a kind, spread over the file."""
    text = launch.text(path)
    code = re.sub(r"//.*", lambda m: " " * len(m[0]), text)
    for pattern, becomes, most in BENDS:
        places = list(re.finditer(pattern, code))
        for match in places[:: max(1, -(-len(places) // most))]:
            bent = match.expand(becomes) if becomes else ""
            near = text.splitlines()[text.count("\n", 0, match.start())].strip()
            yield f"{match[0].strip()} -> {bent.strip()} in: {near}", text[: match.start()] + bent + text[match.end() :]


def runs(source):
    """The variants whose kernels a file holds."""
    own = source.replace("/", ".").replace(".cu", "_cuda")  # a page for one file, or cuda.py for those of the family
    page = own if (launch.ROOT / f"{own.replace('.', '/')}.py").exists() else f"{source.partition('/')[0]}.cuda"
    module = f"minidl_kernels.{page}:"
    for op in registry.ops().values():
        for v in op.variants:
            if v.device == "cuda" and v.load.startswith(module) and v.name != "library":
                yield op.name, v.name


def objects(xp, path, bent, monkeypatch):
    """Whether some case fails with the bent text in the file's place."""
    real = launch.text
    monkeypatch.setattr(launch, "text", lambda other: bent if other == path else real(other))
    launch.source.cache_clear()
    launch._kernel.cache_clear()
    try:
        for op, variant in [v for source in HEADERS.get(path, (path,)) for v in runs(source)]:
            for case in cuda_cases.CASES[op]:
                args = case("float16" if variant == "f16" else "float32")
                if cuda_runs.accepted(op, variant, args):
                    cuda_runs.check(xp, op, variant, args)
            cuda_runs.check_indices(xp, op)
    except Exception:  # a finding, wrong numbers, or no longer CUDA
        return True
    return False


SURVIVED = 7


def killed(*arguments):
    """The same in a process of its own: what a bent kernel reads beyond an array may be nobody's memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside other threads
        child = os.fork()
    if not child:
        found = True
        try:
            found = objects(*arguments)
        finally:
            os._exit(0 if found else SURVIVED)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != SURVIVED


@pytest.mark.slow
@pytest.mark.parametrize("path", [*HEADERS, *SOURCES])
def test_bent_kernels_are_caught(xp, path, monkeypatch):
    if not hasattr(xp, "mode"):
        pytest.skip("a fault is for the emulator, not for a GPU")
    found = list(mutants(path))
    assert found
    assert [what for what, bent in found if not killed(xp, path, bent, monkeypatch)] == []


@pytest.mark.slow
def test_a_kernel_as_it_is_survives(xp, monkeypatch):
    if not hasattr(xp, "mode"):
        pytest.skip("a fault is for the emulator, not for a GPU")
    path = "int8_static/static.cu"
    assert not killed(xp, path, launch.text(path), monkeypatch)
