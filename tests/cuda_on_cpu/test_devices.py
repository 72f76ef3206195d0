"""Several GPUs, memory that runs out, what is missing: on the stand-in, which has as many GPUs as a test asks for."""

import numpy as np
import pytest

import minidl
import minidl.nn as nn
import minidl.nn.functional as F
import minidl_kernels as mk
from minidl import devices
from minidl_kernels.cuda import launch


@pytest.fixture
def two(xp, monkeypatch):
    """Two GPUs, the first one current."""
    if not hasattr(xp, "gpus"):
        if xp.cuda.runtime.getDeviceCount() < 2:
            pytest.skip("this machine has one GPU")
        yield xp
        return
    xp.mode.checked = False
    monkeypatch.setattr(devices, "several", False)
    xp.gpus.count = 2
    yield xp
    assert xp.gpus.current == 0
    xp.gpus.count = 1


def losses(device, steps=3):
    minidl.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(), nn.Linear(144, 3)
    ).to(device)
    optimizer = minidl.optim.AdamW(model.parameters(), lr=0.01)
    x, t = minidl.randn(7, 1, 8, 8, device=device), minidl.randint(0, 3, (7,), device=device)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), t)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        found.append(loss)
    assert {str(p.device) for p in model.parameters()} == {str(minidl.device(device))}
    assert {str(p.grad.device) for p in model.parameters()} == {str(minidl.device(device))}
    return [loss.item() for loss in found]


def test_a_model_trains_on_the_second_gpu_while_the_first_is_current(two):
    assert losses("cuda:1") == pytest.approx(losses("cpu"), rel=1e-4)  # float32 sums in other orders
    assert minidl.cuda.current_device() == 0


def test_tensors_move_from_gpu_to_gpu_and_gradients_back(two):
    x = minidl.tensor([[1.0, 2.0]], device="cuda:1", requires_grad=True)
    assert (str(x.device), x.get_device(), minidl.cuda.device_count()) == ("cuda:1", 1, 2)
    y = x.to("cuda:0")
    assert str(y.device) == "cuda:0"
    (y * y + x.to("cuda:0")).sum().backward()
    assert str(x.grad.device) == "cuda:1"
    assert x.grad.cpu().tolist() == [[3, 5]]
    assert x.to("cuda:1").array is x.array


def test_a_model_over_two_gpus_trains(two):
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 5).to("cuda:0"), nn.Linear(5, 2).to("cuda:1")

        def forward(self, x):
            return self.second(self.first(x.to("cuda:0")).relu().to("cuda:1"))

    minidl.manual_seed(0)
    model = Halves()
    optimizer = minidl.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, found = minidl.randn(6, 4), []
    for _ in range(3):
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[0] > found[1] > found[2]


def test_inputs_on_two_gpus_are_refused_and_both_named(two):
    a, b = minidl.ones(2, 3, device="cuda:0"), minidl.ones(3, device="cuda:1")
    message = r"add: the inputs are on two devices, \(2, 3\) on cuda:0 and \(3,\) on cuda:1: move .*x.to\('cuda:1'\)"
    with pytest.raises(RuntimeError, match=message):
        a + b
    with pytest.raises(RuntimeError, match=r"linear.*\(5, 3\) on cuda:0 .*on cuda:1"):
        nn.Linear(3, 2).to("cuda:1")(minidl.ones(5, 3, device="cuda:0"))
    with pytest.raises(RuntimeError, match=r"on cpu and \(3,\) on cuda:1"):
        minidl.ones(3) + b
    with pytest.raises(TypeError, match=r"one GPU, got \(2, 3\) on cuda:0, \(3, 1\) on cuda:1"):
        mk.matmul(a.array, b.reshape(3, 1).array)


def test_a_kernel_runs_on_the_gpu_of_its_arrays(two):
    with two.cuda.Device(1):
        x = two.asarray(np.float32([[1, 2], [3, 4]]))
    y = mk.matmul(x, x)
    assert y.device.id == 1
    assert two.asnumpy(y).tolist() == [[7, 10], [15, 22]]


def test_a_gpu_that_is_not_there_is_refused(two):
    with pytest.raises(RuntimeError, match=r"device 'cuda:2' was asked for, but there are cuda:0 ... cuda:1"):
        minidl.ones(2).to("cuda:2")


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def planted(xp):
    """The stand-in's memory, in which failures can be planted."""
    if not hasattr(xp, "memory"):
        pytest.skip("filling a real GPU would disturb whoever else uses it")
    launch.cupy()
    xp.memory.freed = 0
    yield xp.memory
    xp.memory.failures = 0


def test_memory_that_runs_out_is_freed_and_asked_for_again(planted):
    x = minidl.ones(3, 3, device="cuda")
    planted.failures = 1
    assert (x @ x).sum().item() == 27
    assert planted.freed == 1


def test_memory_that_stays_out_is_explained(planted):
    x = minidl.ones(300, 300, device="cuda")
    planted.failures = 2
    with pytest.raises(minidl.cuda.OutOfMemoryError) as raised:
        x + x
    said = str(raised.value)
    assert "cuda:0 is out of memory: 351.6 KiB were asked for, 256.0 MiB of its 4.0 GiB are free" in said
    assert "2.0 GiB are held by arrays of this process and 1.0 GiB kept for reuse" in said
    assert "smaller batches" in said
    assert isinstance(raised.value, (MemoryError, RuntimeError))
    assert "while running minidl op add" in "".join(raised.value.__notes__)
    assert planted.freed == 1
    assert (x + x).sum().item() == 180000  # nothing is broken


def test_the_allocator_is_wrapped_once(planted, xp):
    before = xp.cuda.get_allocator()
    launch.cupy(), devices.cupy()
    assert xp.cuda.get_allocator() is before


# -- what is missing: each of them in its own words --------------------------------------------------------------------


def words(xp, monkeypatch, error, driver=13020):
    def count():
        raise RuntimeError(error)

    monkeypatch.setattr(xp.cuda.runtime, "getDeviceCount", count)
    monkeypatch.setattr(xp.cuda.runtime, "driverGetVersion", lambda: driver)
    assert not minidl.cuda.is_available()
    assert minidl.cuda.device_count() == 0
    with pytest.raises(RuntimeError) as raised:
        minidl.ones(2).to("cuda")
    return str(raised.value)


def test_what_is_missing_is_said_in_words_of_its_own(xp, monkeypatch):
    if not hasattr(xp, "gpus"):
        pytest.skip("nothing is missing here")
    insufficient = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
    said = [
        words(xp, monkeypatch, insufficient, driver=0),
        words(xp, monkeypatch, insufficient, driver=12040),
        words(xp, monkeypatch, "cudaErrorNoDevice: no CUDA-capable device is detected"),
    ]
    for text, part in zip(
        said,
        [
            "there is no NVIDIA driver on this machine",
            r"the NVIDIA driver is too old: it is for CUDA 12.4, CuPy for CUDA 13.2",
            "the NVIDIA driver finds no GPU",
        ],
    ):
        assert part in text
        assert sum(part in other for other in said) == 1


def test_no_gpu_at_all_is_said_too(xp, monkeypatch):
    if not hasattr(xp, "gpus"):
        pytest.skip("there is one here")
    monkeypatch.setattr(xp.gpus, "count", 0)
    with pytest.raises(RuntimeError, match="CuPy counts no GPU; `nvidia-smi` lists those"):
        minidl.ones(2).to("cuda")
