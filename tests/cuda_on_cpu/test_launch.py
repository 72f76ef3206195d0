"""The launcher: what it checks that CuPy does not, and what it says is missing."""

import subprocess
import sys

import fakecupy
import numpy as np
import pytest
from emulator import Module

import minidl
from minidl_kernels.cuda import launch

SOURCE = "prob/prob.cu"


def softmax(xp, *args, grid=2, block=32):
    launch.kernel(SOURCE, "softmax")(grid, block, *args)


def test_what_is_wrong_with_an_argument_is_said(xp):
    x, y = xp.ones((2, 5), np.float32), xp.empty((2, 5), np.float32)
    softmax(xp, x, y, 5)
    assert xp.asnumpy(y).tolist() == [[np.float32(0.2)] * 5] * 2
    for error, message, args in [
        (TypeError, "x must be float32, got float64", (xp.ones((2, 5)), y, 5)),
        (TypeError, "takes 3 arguments, got 2", (x, y)),
        (TypeError, "x must be a CuPy array, got ndarray", (np.ones((2, 5), np.float32), y, 5)),
        (ValueError, "y must be C-contiguous", (x, xp.empty((5, 2), np.float32).T, 5)),
        (ValueError, "n = 2147483648 does not fit int32", (x, y, 1 << 31)),
    ]:
        with pytest.raises(error, match=message):
            softmax(xp, *args)


def test_launches_that_cannot_be(xp):
    x = xp.ones((2, 5), np.float32)
    with pytest.raises(ValueError, match="65536 blocks along y are more than the 65535"):
        softmax(xp, x, x, 5, grid=(1, 65536))
    with pytest.raises(ValueError, match="bytes of shared memory are more than"):
        launch.kernel(SOURCE, "softmax")(1, 32, x, x, 5, shared=1 << 20)
    with pytest.raises(ValueError, match="has no kernel 'nothing'; it has: softmax"):
        launch.kernel(SOURCE, "nothing")


MANY = 65535 * 64 + 1


def tall(xp, k, dtype=np.float32):
    return xp.ones((MANY, k), dtype)


@pytest.mark.parametrize(
    "call",
    [
        lambda xp, mk: mk.matmul(tall(xp, 1), xp.ones((1, 1), np.float32)),
        lambda xp, mk: mk.int8_matmul(tall(xp, 1, np.int8), xp.ones((1, 1), np.int8)),
        lambda xp, mk: mk.nm_linear(tall(xp, 8), *map(xp.asarray, mk.pack_nm(np.eye(1, 8, dtype=np.float32), 2, 4)), 4),
        lambda xp, mk: mk.csr_linear(tall(xp, 1), *map(xp.asarray, mk.pack_csr(np.ones((1, 1), np.float32)))),
        lambda xp, mk: mk.attention(*[xp.ones((MANY // 60, 1, 1, 1), np.float32)] * 3)[0],
    ],
    ids=["matmul", "int8_matmul", "nm_linear", "csr_linear", "attention"],
)
def test_more_rows_than_there_is_room_along_y(xp, monkeypatch, call):
    """The emulator would take minutes for the blocks of a billion threads: there only the launch is looked at."""
    import minidl_kernels as mk

    grids = []
    if hasattr(xp, "mode"):
        run = lambda self, grid, block, args, *, shared_mem=0, stream=None: grids.append(grid)
        monkeypatch.setattr(fakecupy._Function, "__call__", run)
    y = call(xp, mk)
    if grids:
        assert max(grid[0] for grid in grids) > 65535
    else:
        assert (xp.asnumpy(y) == 1).all()


def test_what_32_bits_cannot_count_is_said(xp):
    assert launch.squares("conv2d", 65, 128, 64) == 4
    assert launch.counted("conv2d", (1 << 31) - 1025) == (1 << 31) - 1025
    for m, n in ((1 << 31, 1), (1, (1 << 31) - 64)):
        with pytest.raises(ValueError, match="conv2d: .* places are more than the .* split the batch"):
            launch.squares("conv2d", m, n, 64)
    x = xp.ones((2, 5), np.float32)
    with pytest.raises(ValueError, match="does not fit int32"):  # a thread beyond the end must not wrap around
        softmax(xp, x, x, (1 << 31) - 1)


def test_an_empty_grid_launches_nothing(xp):
    x = xp.ones((0, 5), np.float32)
    softmax(xp, x, x, 5, grid=0)
    softmax(xp, x, x, 5, grid=(3, 0))


def test_a_kernel_is_compiled_once(xp, monkeypatch):
    made = []
    real = xp.RawModule
    monkeypatch.setattr(xp, "RawModule", lambda **how: made.append(how) or real(**how))
    x = xp.ones((2, 5), np.float32)
    launch._kernel.cache_clear()
    for _ in range(3):
        softmax(xp, x, xp.empty_like(x), 5)
    assert len(made) == 1
    assert made[0]["code"].startswith("#define T float\n#line 1\n")


def test_more_shared_memory_than_the_usual_is_asked_for(xp):
    import minidl_kernels as mk

    q = xp.ones((1, 1, 2, 256), np.float32)
    out, _ = mk.attention(q, q, q)
    np.testing.assert_allclose(xp.asnumpy(out), 1, rtol=1e-6)
    run = launch.kernel("attn/attn.cu", "attention")
    (function,) = run._functions.values()
    assert function.max_dynamic_shared_size_bytes > launch.STATIC_SHARED


@pytest.mark.parametrize("source", sorted(str(p.relative_to(launch.ROOT)) for p in launch.ROOT.rglob("*.cu")))
def test_parameters_read_from_the_text_are_those_that_the_compiler_sees(source):
    module = Module(launch.code(source, "float32"), checked=True)
    assert module.names == launch.entries(source)
    for entry in module.names:
        ours = [
            ("P", 8) if p.array else (p.dtype.kind, p.dtype.itemsize)
            for p in launch.parameters(source, entry, "float32")
        ]
        theirs = [(kind, size) for kind, size in module.signature(entry)]
        assert [({"u": "i", "b": "i"}.get(kind, kind), size) for kind, size in ours] == theirs, entry


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient"),
            "NVIDIA driver",
        ),
        (RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected"), "the NVIDIA driver finds no GPU"),
        (RuntimeError("Failure finding libnvrtc.so.13"), "does not find NVRTC"),
        (RuntimeError("Failed to find CUDA headers"), "does not find CUDA's headers"),
        (
            RuntimeError("nvrtc: error: invalid value for --gpu-architecture (-arch)"),
            "this NVRTC is older than the GPU",
        ),
    ],
)
def test_what_is_missing_is_named(error, said):
    assert said in launch.explained(error)
    assert launch.explained(ValueError("something else")) is None


def test_a_compiler_that_is_missing_is_named_at_the_launch(xp, monkeypatch):
    def missing(**how):
        raise RuntimeError("DynamicLibNotFoundError: Failure finding libnvrtc.so")

    monkeypatch.setattr(xp, "RawModule", missing)
    launch._kernel.cache_clear()
    x = xp.ones((2, 5), np.float32)
    with pytest.raises(RuntimeError, match=r"softmax could not be compiled: CuPy does not find NVRTC.*pip install"):
        softmax(xp, x, x, 5)


def test_without_a_gpu_everything_says_so_at_first_use():
    """In a process of its own: the real CuPy, on a machine that may have no GPU."""
    code = (
        "import minidl, sys\n"
        "assert 'cupy' not in sys.modules\n"
        "if minidl.cuda.is_available(): print('GPU')\n"
        "else:\n"
        "    for f in (lambda: minidl.ones(2).to('cuda'), lambda: minidl.nn.Linear(2, 2).to('cuda'),\n"
        "              lambda: minidl.cuda.get_device_name()):\n"
        "        try: f()\n"
        "        except RuntimeError as error: print(error)\n"
        "    print(minidl.ones(2).sum().item(), minidl.cuda.device_count())\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if done.stdout.strip() != "GPU":
        *messages, last = done.stdout.strip().splitlines()
        assert last == "2.0 0"
        assert len(messages) == 3
        assert all("finds no GPU" in m and ("driver" in m or "CUDA" in m) for m in messages)


def test_cupy_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RuntimeError, match=r"not installed: pip install 'minidl\[cuda\]'"):
        minidl.ones(2).to("cuda")
    with pytest.raises(RuntimeError, match=r"not installed: pip install 'minidl\[cuda\]'"):
        launch.cupy()
    assert not minidl.cuda.is_available()


def test_info_lists_every_cuda_variant(capsys):
    from minidl import info
    from minidl_kernels import registry

    facts = info.gather()
    wanted = {row["op"] for row in registry.table() if row["device"] == "cuda"}
    assert set(facts["cuda"]) == wanted
    assert len(wanted) > 30
    text = info.as_text(facts)
    assert "register_tiles" in text
    assert all(op in text for op in wanted)
