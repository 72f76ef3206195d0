"""`minidl bench --device cuda`: its logic on the stand-in, whose events are moments of the host."""

import json

import numpy as np
import pytest

import minidl_kernels as mk
from minidl.bench import on_gpu
from minidl.cli import main
from minidl_kernels.cuda import launch

SHAPES = """
[[matmul]]
m = 33
k = 20
n = 17
[[rows]]
m = 5
n = 40
[[int8_matmul]]
m = 16
k = 32
n = 8
"""


@pytest.fixture
def bench(xp, tmp_path, capsys, monkeypatch):
    """bench(*arguments) -> exit code, what was printed, the figures."""
    if hasattr(xp, "mode"):
        xp.mode.checked = False
        monkeypatch.setattr(on_gpu, "BLOCK", 1e-4)
    shapes, figures = tmp_path / "shapes.toml", tmp_path / "figures.json"
    shapes.write_text(SHAPES)

    def run(*arguments, quick="--quick"):
        how = [quick, "--device", "cuda", "--shapes", str(shapes), "--json", str(figures)]
        code = main(["bench", *arguments, *filter(None, how)])
        said = capsys.readouterr()
        return code, said.out + said.err, json.loads(figures.read_text()) if figures.exists() else None

    return run


def test_kernels_are_verified_timed_and_set_beside_peers_and_ceilings(bench, xp):
    code, said, figures = bench("matmul", "softmax", "int8_matmul", "csr_linear")
    assert code == 0, said
    assert "3 rows, no faults of minidl's" in said
    assert {r["kernel"] for r in figures["rows"]} == {"matmul", "softmax", "int8_matmul"}
    for row in figures["rows"]:
        ours = row["contestants"]["minidl"]
        assert len(ours["blocks"]) >= on_gpu.ROUNDS
        assert min(ours["seconds"], ours["cold_seconds"], ours["host_seconds"]) > 0
        assert ours["variant"] in mk.variants(row["kernel"], "cuda")
        floor = max(
            row["work"]["operations"] / figures["ceilings"]["int8" if "int8" in row["kernel"] else "f32"],
            row["work"]["bytes"] / figures["ceilings"]["copy"],
        )
        assert ours["share_of_peak"] == pytest.approx(floor / ours["seconds"])
    matmul = figures["rows"][0]["contestants"]
    assert matmul["cupy"]["ratio"][1] <= matmul["cupy"]["ratio"][0] <= matmul["cupy"]["ratio"][2]
    assert set(figures["ceilings"]) == {"f32", "tf32", "int8", "copy"}
    assert min(figures["ceilings"].values()) > 0


@pytest.mark.slow
def test_the_ladder_times_every_variant_that_can_run(bench):
    code, said, figures = bench("matmul", "--ladder")
    assert code == 0, said
    want = set(mk.variants("matmul", "cuda")) - {"f16"}
    assert set(figures["rows"][0]["contestants"]) == want


def test_a_kernel_that_is_wrong_is_not_timed(bench, monkeypatch):
    from minidl_kernels.prob import cuda

    right = cuda.softmax
    cases = [(lambda x: right(x) * 1.01, "returns a result off by"), (lambda x: _spoil(x, right), "wrote into its")]
    for wrong, message in cases:
        monkeypatch.setattr(cuda, "softmax", wrong)
        mk.registry._op("softmax").cache.clear()
        code, said, figures = bench("softmax", "--peers", "none")
        assert code == 1
        assert f"minidl: FAULT: {message}" in said
        assert figures["rows"][0]["contestants"] == {}
    mk.registry._op("softmax").cache.clear()


def _spoil(x, right):
    y = right(x)
    x[0, 0] = 7
    return y


def test_cold_calls_find_the_second_level_cache_written_over(bench, xp):
    watch = on_gpu.Stopwatch(xp)
    assert watch.flushes.nbytes >= 2 * xp.cuda.runtime.deviceGetAttribute(38, 0)
    seen = []

    def call():
        seen.append(float(watch.flushes[0]))
        watch.flushes[...] = 1

    watch.cold(call, samples=3)
    assert seen == [0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--threads", "2"), "--device cuda takes no --threads"),
        (("--models",), "are different jobs"),
        (("--peers", "onnxruntime"), "on a GPU there are torch and cupy, not 'onnxruntime'"),
        (("nothing",), "there is no kernel 'nothing'"),
    ],
)
def test_what_cannot_be_measured_is_refused(bench, arguments, message):
    code, said, _ = bench(*arguments)
    assert code == 2
    assert message in said


def test_without_a_gpu_the_command_says_what_is_missing(bench, xp, monkeypatch):
    if not hasattr(xp, "gpus"):
        pytest.skip("there is one here")
    monkeypatch.setattr(xp.gpus, "count", 0)
    code, said, figures = bench("softmax")
    assert (code, figures) == (2, None)
    assert "--device cuda: there is no GPU to measure: CuPy counts no GPU" in said


def test_the_loops_behind_the_ceilings_do_what_they_are_counted_for(xp):
    y, z, s = (xp.empty(256, np.float32), xp.empty(128, np.float32), xp.empty(128, np.int32))
    launch.kernel("cuda/peak.cu", "multiply_adds")(1, 256, y, 0.5, 1.0, 3)
    x = np.arange(256)[:, None] % 7 + np.arange(8.0)
    for _ in range(3):
        x = x * 0.5 + 1
    assert xp.asnumpy(y).tolist() == x.sum(1).tolist()
    one = np.float32(1).view(np.uint32).item()
    launch.kernel("cuda/peak.cu", "tensor_tf32")(1, 128, z, one, 3)
    assert set(xp.asnumpy(z).tolist()) == {16 * 8.0 * 3}  # 16 sums a lane, of 8 products a step
    launch.kernel("cuda/peak.cu", "tensor_s8")(1, 128, s, 0x01010101, 3)
    assert set(xp.asnumpy(s).tolist()) == {16 * 32 * 3}
