"""Can the tests of kernels fail? Each .cu file is bent in one place after the other, and a case must object."""

import re

import cuda_cases
import cuda_runs
import pytest

from minidl_kernels import registry
from minidl_kernels.cuda import launch

SOURCES = sorted(str(p.relative_to(launch.ROOT)) for p in launch.ROOT.rglob("*.cu"))

# pattern, what it becomes: barriers away, bounds one too wide, reductions one step short, one element too far
BENDS = (
    (r"__sync(threads|warp)\(\);", ""),
    (r"(?<=[^<]) < (M|N|K|S|D|E|n|c|k1|rows|length|width|some|depth|Tn|limit|left)\b(?! *\?)", r" <= \1"),
    (r"int o = 16", "int o = 8"),
    (r"\* 4\b", "* 3"),
    (r"& 1\)", "& 3)"),
)
EACH = 6  # mutants of a kind in a file, spread over it

# Bends that change nothing which could be told: a reason for each.
SURVIVORS = {}


def mutants(source):
    """(what was bent, the text of the bent file), spread over the file."""
    text = launch.source(source)
    code = re.sub(r"//.*", lambda m: " " * len(m[0]), text)
    for pattern, becomes in BENDS:
        places = list(re.finditer(pattern, code))
        for match in places[:: max(1, -(-len(places) // EACH))]:
            bent = match.expand(becomes) if becomes else ""
            line = text.count("\n", 0, match.start()) + 1
            near = text.splitlines()[line - 1].strip()
            yield f"{match[0].strip()} -> {bent.strip()} in: {near}", text[: match.start()] + bent + text[match.end() :]


def runs(source):
    """The variants whose kernels a file holds."""
    module = f"minidl_kernels.{source.partition('/')[0]}.cuda:"
    for op in registry.ops().values():
        for v in op.variants:
            if v.device == "cuda" and v.load.startswith(module) and v.name != "library":
                yield op.name, v.name


def killed(xp, source, bent, monkeypatch):
    """Whether some case fails with the bent text in the file's place."""
    real = launch.source
    monkeypatch.setattr(launch, "source", lambda path: bent if path == source else real(path))
    launch._kernel.cache_clear()
    try:
        for op, variant in runs(source):
            for case in cuda_cases.CASES[op]:
                cuda_runs.check(xp, op, variant, case("float16" if variant == "f16" else "float32"))
    except Exception:  # a finding, wrong numbers, or no longer CUDA
        return True
    finally:
        monkeypatch.setattr(launch, "source", real)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_bent_kernels_are_caught(xp, source, monkeypatch):
    if not hasattr(xp, "mode"):
        pytest.skip("a fault that a GPU would run is no fault that a GPU should run")
    found = list(mutants(source))
    alive = {what for what, bent in found if not killed(xp, source, bent, monkeypatch)}
    assert alive == SURVIVORS.get(source, set()), f"{len(found) - len(alive)} of {len(found)} caught"
