"""A training that is killed, at any moment and again and again, ends bit for bit like one that was left alone.

Trainings run in processes of their own, forked from a server that has imported minidl and run nothing, and are killed
by SIGKILL: nothing can be caught or cleaned up.
"""

import functools
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest

import minidl
from minidl import io, metrics, nn, optim
from minidl.data import DataLoader, TensorDataset
from minidl.train import Callback, Checkpoint, Converged, EarlyStop, fit

EPOCHS = 4
STEPS = 20  # 40 samples in batches of 8
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["minidl.train", "minidl.nn", "minidl.optim", "minidl.data", "tqdm", "safetensors.numpy"])


class Scheduler:
    """Halves the learning rate every third epoch."""

    def __init__(self, optimizer):
        self.optimizer, self.count = optimizer, 0

    def step(self):
        self.count += 1
        if self.count % 3 == 0:
            for group in self.optimizer.param_groups:
                group["lr"] /= 2

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Counter(Callback):
    """A callback with state and with random numbers of its own from minidl's generator."""

    def __init__(self):
        self.total = 0.0

    def on_step(self, run):
        self.total += float(minidl.random.uniform(())) * run.step

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state["total"]


def parts():
    """Everything that has a state: dropout, batch normalization, a pruning mask, momentum, shuffling."""
    minidl.manual_seed(7)
    g = minidl.Generator(1)
    x, y = g.normal((40, 6)), g.integers(0, 3, 40)
    x_val, y_val = g.normal((13, 6)), g.integers(0, 3, 13)
    model = nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
    )
    model[4].weight.mask = g.uniform((16, 16)) > 0.5
    model[4].weight.apply_mask_()
    return model, (x, y), (x_val, y_val)


def train(folder, every, options, before_step=lambda run: None):
    """One training with a checkpoint in `folder`; what is left at the end goes to the file end.npz there."""

    class Before(Callback):
        def on_step(self, run):
            before_step(run)

    model, data, validation = parts()
    options = dict(options)
    if options.pop("own_generator", False):
        data = DataLoader(TensorDataset(*data), batch_size=8, shuffle=True, generator=minidl.Generator(99))
    elif options.pop("batches", False):  # shuffled by an iterable that knows nothing of resuming
        data = Shuffled(*data)
    if options.pop("adam", False):
        optimizer = optim.AdamW(model.parameters(), lr=0.01)
    else:
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    counter, early = Counter(), EarlyStop(patience=100)
    history = fit(
        model,
        data,
        loss=nn.functional.cross_entropy,
        optimizer=optimizer,
        epochs=EPOCHS,
        batch_size=8,
        validation=validation,
        metrics=["accuracy", functools.partial(metrics.recall, average="macro"), mean_of_output],
        scheduler=Scheduler(optimizer),
        early_stop=[early, Converged(1e-12)],
        callbacks=[counter, Before()],
        checkpoint=Checkpoint(os.path.join(folder, "run.safetensors"), every=every),
        resume="auto",
        seed=3,
        **options,
    )
    state = history.state_dict()
    del state["seconds"]
    end = {
        "model": model.state_dict(),
        "mask": model[4].weight.mask,
        "optimizer": optimizer.state_dict(),
        "history": state,
        "random": minidl.get_rng_state(),
        "counter": counter.total,
        "best": [early.best, early.best_epoch],
        "next": minidl.random.uniform(3),
    }
    io.save(end, os.path.join(folder, "end.npz"))


def mean_of_output(output, target):
    return output.mean()


class Shuffled:
    """Batches in an order drawn from minidl's generator, with random noise added to each as it is made."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __iter__(self):
        order = minidl.random.permutation(40)
        for i in range(0, 40, 8):
            at = order[i : i + 8]
            yield self.x[at], self.y[at]


# -- ways to die ---------------------------------------------------------------------------------------------


def die():
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # the signal comes


def die_at_step(folder, every, options, step):
    def check(run):
        if run.step >= step:
            die()

    train(folder, every, options, check)


def die_in_forward(folder, every, options, call):
    """Within a step, at the loss function's `call`-th use; validation uses it too."""
    original, count = nn.functional.cross_entropy, 0

    def loss(output, target):
        nonlocal count
        count += 1
        if count == call:
            die()
        return original(output, target)

    nn.functional.cross_entropy = loss
    train(folder, every, options)


def die_in_write(folder, every, options, save, place):
    """During the `save`-th write of this process: before the first byte, half-way, before or after the rename."""
    from minidl.io import atomic, checkpoint

    count, real, replace = 0, atomic.atomic_write, os.replace

    class Half:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            if place == "first byte":
                die()
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            die()

    def last(source, destination):
        if place == "before rename":
            die()
        replace(source, destination)
        die()

    class Write:
        def __init__(self, path):
            nonlocal count
            count += 1
            self.inner = real(path)

        def __enter__(self):
            file = self.inner.__enter__()
            if count != save:
                return file
            if place in ("first byte", "half"):
                return Half(file)
            os.replace = last
            return file

        def __exit__(self, *error):
            return self.inner.__exit__(*error)

    checkpoint.atomic_write = Write
    train(folder, every, options)


def die_after(folder, every, options, seconds):
    """At whatever the process does so many seconds after its start."""
    threading.Thread(target=lambda: (time.sleep(seconds), die()), daemon=True).start()
    train(folder, every, options)


def run(target, *args):
    """The exit code of `target(*args)` in a process of its own."""
    process = SERVER.Process(target=target, args=args)
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


# -- the tests -----------------------------------------------------------------------------------------------

OPTIONS = {
    "plain": {},
    "adam, clipped": {"adam": True, "clip_norm": 1.0},
    "accumulate": {"accumulate": 3, "scheduler_per": "step"},  # 3 does not divide the 5 batches
    "loader with a generator": {"own_generator": True},
    "an iterable": {"batches": True},
}


@functools.cache
def straight(name):
    """What a training without a break leaves, and how often it saved does not matter."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        assert run(train, folder, "epoch", OPTIONS[name]) == 0
        return io.load(os.path.join(folder, "end.npz"))


def assert_same(a, b, at="end"):
    """Equal bit for bit, types included."""
    assert type(a) is type(b), at
    if isinstance(a, dict):
        assert list(a) == list(b), at
        for key in a:
            assert_same(a[key], b[key], f"{at}[{key!r}]")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), at
        for i, pair in enumerate(zip(a, b)):
            assert_same(*pair, f"{at}[{i}]")
    elif hasattr(a, "shape"):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), at
    else:
        assert a == b, at


def finish(folder, every, name):
    """Resume until the end and compare with the training without a break."""
    assert run(train, str(folder), every, OPTIONS[name]) == 0
    assert_same(io.load(folder / "end.npz"), straight(name))
    # Nothing is left of broken writes of the checkpoint; a kill may also have struck the write of end.npz above.
    left = {name for name in os.listdir(folder) if not name.startswith(".end.npz.")}
    assert left == {"end.npz", "run.safetensors"}


def test_the_comparison_sees_one_bit_and_the_training_is_alive():
    end = straight("plain")
    assert len(end["history"]["steps"]["loss"]) == STEPS
    losses = end["history"]["epochs"]["loss"]
    assert losses[-1] < losses[0]
    mask = end["mask"]
    assert 0 < mask.mean() < 1
    assert not end["model"]["4.weight"].array[~mask].any()
    other = straight.__wrapped__("plain")
    assert_same(end, other)
    w = other["model"]["0.weight"].array
    w[0, 0] = np.nextafter(w[0, 0], np.float32(1))
    with pytest.raises(AssertionError, match="0.weight"):
        assert_same(end, other)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("every", ["epoch", 3])
def test_killed_between_steps(tmp_path, name, every):
    last = STEPS if name != "accumulate" else EPOCHS * 2
    for step in (1, last // 2 + 1, last):
        assert run(die_at_step, str(tmp_path), every, OPTIONS[name], step) == -signal.SIGKILL
    finish(tmp_path, every, name)


@pytest.mark.parametrize("call", [1, 6, 9, 23])  # the first batch, the first validation, within epochs 2 and 4
def test_killed_within_a_step(tmp_path, call):
    assert run(die_in_forward, str(tmp_path), 2, OPTIONS["plain"], call) == -signal.SIGKILL
    finish(tmp_path, 2, "plain")


@pytest.mark.parametrize("place", ["first byte", "half", "before rename", "after rename"])
def test_killed_while_writing(tmp_path, place):
    for save in (1, 2, 3):  # of each process; the first write of a resumed one is the proof that it can write
        assert run(die_in_write, str(tmp_path), 2, OPTIONS["plain"], save, place) == -signal.SIGKILL
    finish(tmp_path, 2, "plain")


def test_killed_at_random_moments(tmp_path):
    delays = minidl.Generator(11).uniform(8, 0.0, 0.3)  # a training takes about 0.3 s
    codes = [run(die_after, str(tmp_path), 1, OPTIONS["plain"], float(d)) for d in delays]
    assert set(codes) <= {-signal.SIGKILL, 0}
    finish(tmp_path, 1, "plain")
