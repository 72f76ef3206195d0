"""DataLoader's workers: the same bits for any number, errors with their item, no thread left, exact resuming."""

import copy
import gc
import json
import os
import subprocess
import sys
import threading
import time
import types
from collections import Counter, OrderedDict, UserDict, UserList, namedtuple

import numpy as np
import pytest
import torch
import torch.utils.data as td
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl
import minidl.random
from minidl.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    NextTokenDataset,
    RandomSampler,
    Sampler,
    StackDataset,
    Subset,
    WeightedRandomSampler,
    default_collate,
    default_convert,
    get_worker_info,
    random_split,
)
from minidl.random import Generator
from minidl.tensors import Tensor, wrap


def values(x):
    """Batches of either library in one form: Tensors as (shape, dtype, list), tuples of text as lists."""
    if isinstance(x, Tensor):
        return ("tensor", tuple(x.shape), x.dtype.name, x.tolist())
    if isinstance(x, torch.Tensor):
        return ("tensor", tuple(x.shape), str(x.dtype).removeprefix("torch."), x.tolist())
    if isinstance(x, (dict, UserDict)):
        return (type(x).__name__, {k: values(v) for k, v in x.items()})
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return (type(x).__name__, [values(v) for v in x])
    if isinstance(x, (list, tuple)):
        return [values(v) for v in x]
    if isinstance(x, UserList):
        return (type(x).__name__, [values(v) for v in x])
    return x


def loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("minidl-loader")]


@pytest.fixture(autouse=True)
def _no_thread_stays():
    assert loader_threads() == []
    yield
    if loader_threads():
        gc.collect()  # an exception's traceback may hold a loop's iterator
    deadline = time.monotonic() + 5
    while loader_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert loader_threads() == []


class Noisy(Dataset):
    """Items that draw random numbers, through functions and through the generator itself, and take a while."""

    def __init__(self, n, seconds=0.0):
        self.n, self.seconds = n, seconds

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if not 0 <= i < self.n:
            raise IndexError(i)
        if self.seconds:
            time.sleep(self.seconds * (i * 7 % 3))
        x = minidl.randn(2) + i
        order = minidl.random.default_generator.fork().permutation(3)
        return x, np.float32(minidl.random.uniform(())), order, i


class Stream(IterableDataset):
    """Numbers, drawn when the stream starts and as it goes."""

    def __init__(self, n, length=True):
        self.n = n
        if length:
            self.__class__ = SizedStream

    def __iter__(self):
        offset = int(minidl.random.integers(0, 1000))
        for i in range(self.n):
            yield np.array([i, offset]), minidl.rand(1)


class SizedStream(Stream):
    def __len__(self):
        return self.n


def bits(batches):
    return [values(b) for b in batches]


OPTIONS = {
    "in order": dict(batch_size=3),
    "shuffled": dict(batch_size=4, shuffle=True),
    "drop last": dict(batch_size=4, shuffle=True, drop_last=True),
    "own generator": dict(batch_size=2, shuffle=True, generator=lambda: Generator(5)),
    "weighted": dict(batch_size=3, sampler=lambda: WeightedRandomSampler([1.0, 2, 3, 4] * 4, 10)),
    "one by one": dict(batch_size=None, shuffle=True),
    "batch sampler": dict(batch_sampler=lambda: BatchSampler(RandomSampler(range(17)), 5, False)),
    "drawing sampler": dict(batch_size=3, sampler=lambda: Drawing()),
    "sampler that draws at once": dict(batch_size=None, sampler=lambda: DrawingAtOnce()),
}


class Drawing(Sampler):
    """Draws as it goes, from minidl's default generator."""

    def __iter__(self):
        for _ in range(11):
            yield int(minidl.random.integers(0, 17))

    def __len__(self):
        return 11


class DrawingAtOnce(Sampler):
    """As torch's own samplers are often written."""

    def __iter__(self):
        return iter(minidl.randperm(17).tolist())

    def __len__(self):
        return 17


def build(name, dataset=None, **more):
    options = {k: v() if callable(v) else v for k, v in OPTIONS[name].items()}
    return DataLoader(Noisy(17) if dataset is None else dataset, **options, **more)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_same_bits_for_any_number_of_workers(name):
    found = []
    for workers in (0, 1, 2, 5):
        minidl.manual_seed(11)
        loader = build(name, Noisy(17, 0.002 if workers else 0), num_workers=workers)
        epochs = []
        for _ in range(2):
            epochs += [(values(b), float(minidl.random.uniform(()))) for b in loader]  # the training draws, too
        found.append((epochs, minidl.random.get_state().tolist()))
    assert all(f == found[0] for f in found)
    assert len({str(e) for e in found[0][0]}) == len(found[0][0])  # nothing repeats: the items do draw


@pytest.mark.parametrize("stream", [Stream(13), Stream(13, length=False), ChainDataset([Stream(4), Stream(9)])])
@pytest.mark.parametrize("options", [dict(batch_size=3), dict(batch_size=4, drop_last=True), dict(batch_size=None)])
def test_streams_are_the_same_for_any_number_of_workers(stream, options):
    found = []
    for workers in (0, 1, 3):
        minidl.manual_seed(2)
        loader = DataLoader(stream, num_workers=workers, **options)
        found.append([[(values(b), float(minidl.random.uniform(()))) for b in loader] for _ in range(2)])
    assert found[0] == found[1] == found[2]
    assert found[0][0] != found[0][1]
    size = options["batch_size"]
    assert len(found[0][0]) == (13 if size is None else 13 // size if "drop_last" in options else -(-13 // size))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", [*OPTIONS, "stream"])
def test_resuming_after_any_batch_with_workers(name, workers):
    def make():
        if name == "stream":
            return DataLoader(Stream(17, False), 3, num_workers=workers)
        return build(name, num_workers=workers)

    minidl.manual_seed(4)
    whole = []
    loader = make()
    for _ in range(2):
        whole += [(values(b), float(minidl.random.uniform(()))) for b in loader]
    for stop in range(0, len(whole) + 1, 2 if workers else 1):
        minidl.manual_seed(4)
        loader, seen, taken = make(), 0, None
        if stop == 0:
            taken = loader.state_dict(), minidl.random.get_state()
        for _ in range(2):
            for _batch in loader:
                minidl.random.uniform(())
                seen += 1
                if seen == stop:
                    taken = json.loads(json.dumps(loader.state_dict())), minidl.random.get_state()
        minidl.manual_seed(77)
        fresh = make()
        fresh.load_state_dict(taken[0])
        minidl.random.set_state(taken[1])
        rest = []
        for _ in range(3):
            rest += [(values(b), float(minidl.random.uniform(()))) for b in fresh]
        assert rest[: len(whole) - stop] == whole[stop:], stop


def test_a_state_of_one_number_of_workers_serves_another():
    minidl.manual_seed(1)
    loader = build("shuffled", num_workers=4)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    assert state["batches"] == 1
    rest = bits(batches)
    fresh = build("shuffled")
    fresh.load_state_dict(state)
    assert bits(fresh) == rest


# -- threads: ahead, and gone ----------------------------------------------------------------------------------


def test_workers_load_ahead_but_not_further():
    class Counting(Dataset):
        asked = 0

        def __len__(self):
            return 100

        def __getitem__(self, i):
            Counting.asked = max(Counting.asked, i + 1)
            return i

    batches = iter(DataLoader(Counting(), 2, num_workers=2, prefetch_factor=3))
    next(batches)
    deadline = time.monotonic() + 10
    while Counting.asked < 12 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert Counting.asked == 12  # 2 workers with 3 batches of 2 each
    next(batches)
    batches.close()
    assert Counting.asked <= 14


def test_breaking_off_cancels_what_was_ahead():
    class Slow(Dataset):
        asked = 0

        def __len__(self):
            return 100

        def __getitem__(self, i):
            Slow.asked += 1
            time.sleep(0.05)
            return i

    batches = iter(DataLoader(Slow(), 1, num_workers=1, prefetch_factor=40))
    next(batches)
    batches.close()
    assert Slow.asked < 20  # what was under way, and on a slow machine a few more, but not all 40


def test_items_are_made_at_once():
    """Both workers must be inside the dataset together, or the barrier would break."""
    barrier = threading.Barrier(2, timeout=20)

    class Meeting(Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, i):
            barrier.wait()
            return i

    assert [b.tolist() for b in DataLoader(Meeting(), 1, num_workers=2)] == [[0], [1]]


@pytest.mark.parametrize("persistent", [False, True])
def test_breaking_off_leaves_no_thread_behind(persistent):
    loader = DataLoader(Noisy(50, 0.001), 2, num_workers=3, persistent_workers=persistent)
    for _ in loader:
        assert len(loader_threads()) == 3
        break
    assert len(loader_threads()) == (3 if persistent else 0)
    batches = iter(loader)
    next(batches)
    del batches
    assert len(loader_threads()) == (3 if persistent else 0)
    assert len(list(loader)) == 25
    assert len(loader_threads()) == (3 if persistent else 0)
    del loader
    assert loader_threads() == []


def test_persistent_workers_start_once():
    started = []

    def init(worker_id):
        started.append(worker_id)

    loader = DataLoader(Noisy(8), 2, num_workers=2, persistent_workers=True, worker_init_fn=init)
    minidl.manual_seed(3)
    epochs = [bits(loader) for _ in range(3)]
    assert sorted(started) == [0, 1]
    minidl.manual_seed(3)
    plain = DataLoader(Noisy(8), 2)
    assert [bits(plain) for _ in range(3)] == epochs
    twin = copy.deepcopy(loader)  # has threads of its own
    minidl.manual_seed(3)
    assert bits(twin) == epochs[0]
    assert len(started) == 4
    assert len([0 for _ in zip(loader, loader)]) == 4  # two loops share the threads
    assert len(started) == 4


def test_two_loops_at_once():
    loader = DataLoader(list(range(6)), 2, num_workers=2)
    assert [(a.tolist(), b.tolist()) for a in loader for b in loader][3] == ([2, 3], [0, 1])


def test_worker_info():
    seen = {}

    class Asking(Dataset):
        def __len__(self):
            return 40

        def __getitem__(self, i):
            info = get_worker_info()
            time.sleep(0.001)
            return info.id

    def init(worker_id):
        info = get_worker_info()
        seen[worker_id] = (info.num_workers, info.seed, minidl.initial_seed(), info.dataset)

    data = Asking()
    ids = {i for b in DataLoader(data, 1, num_workers=3, worker_init_fn=init) for i in b.tolist()}
    assert ids <= {0, 1, 2}
    assert len(ids) > 1
    assert sorted(seen) == [0, 1, 2]
    for i, (n, seed, initial, dataset) in seen.items():
        assert (n, seed, initial) == (3, seen[0][1] + i, seed)
        assert dataset is data
    assert get_worker_info() is None


def test_a_stream_that_shards_by_worker_gives_each_item_once():
    class Sharded(IterableDataset):
        def __iter__(self):
            info = get_worker_info()
            return iter(range(20)) if info is None else iter(range(info.id, 20, info.num_workers))

    for workers in (0, 1, 4):
        loader = DataLoader(Sharded(), 3, num_workers=workers)
        assert [i for b in loader for i in b.tolist()] == list(range(20))


# -- errors ----------------------------------------------------------------------------------------------------


class Failing(Dataset):
    def __init__(self, error, at=5):
        self.error, self.at = error, at

    def __len__(self):
        return 12

    def __getitem__(self, i):
        if i == self.at:
            raise self.error
        return i


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("kind", [ValueError, KeyError, TimeoutError, ZeroDivisionError])
def test_errors_come_in_their_turn_with_the_item(kind, workers):
    loader = DataLoader(Failing(kind("broken")), 2, num_workers=workers)
    seen = []
    with pytest.raises(kind, match="broken") as caught:
        for batch in loader:
            seen.append(batch.tolist())
    assert seen == [[0, 1], [2, 3]]
    notes = " ".join(caught.value.__notes__)
    assert "item 5 of the dataset" in notes
    assert "batch 2" in notes
    assert ("in worker" in notes) == (workers > 0)
    assert loader.state_dict()["batches"] == 2  # the one that failed is next
    assert "__getitem__" in [frame.name for frame in caught.traceback]


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_other_parts(workers):
    def bad(items):
        raise ArithmeticError("cannot collate")

    with pytest.raises(ArithmeticError) as caught:
        list(DataLoader(list(range(9)), 2, num_workers=workers, collate_fn=bad))
    assert "collating the items 0, 1" in caught.value.__notes__[0]
    with pytest.raises(RuntimeError, match=r"StopIteration, in batch 2"):  # or the data would seem to end
        list(DataLoader(Failing(StopIteration()), 2, num_workers=workers))
    with pytest.raises(RuntimeError, match="different shapes"):
        list(DataLoader([np.zeros(1), np.zeros(2)], 2, num_workers=workers))
    with pytest.raises(IndexError) as caught:
        list(DataLoader(list(range(5)), sampler=[1, 9], num_workers=workers))
    assert "item 9" in caught.value.__notes__[0]

    class Breaking(IterableDataset):
        def __iter__(self):
            yield from (1, 2, 3)
            raise OSError("the line is dead")

    seen = []
    with pytest.raises(OSError, match="dead") as caught:
        for batch in DataLoader(Breaking(), 2, num_workers=workers):
            seen.append(batch.tolist())
    assert seen == [[1, 2]]
    assert "batch 1" in caught.value.__notes__[0]

    class Short(Dataset):
        def __len__(self):
            return 4

        def __getitems__(self, indices):
            return [0]

    with pytest.raises(ValueError, match="gave 1 items for 2"):
        list(DataLoader(Short(), 2, num_workers=workers))


def test_an_init_that_fails():
    def init(worker_id):
        if worker_id == 1:
            raise PermissionError("not you")

    with pytest.raises(PermissionError, match="not you"):
        next(iter(DataLoader(list(range(4)), num_workers=3, worker_init_fn=init)))


def test_a_worker_that_hangs():
    release = threading.Event()

    class Hanging(Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            if i == 2:
                release.wait(60)
            return i

    for persistent in (False, True):
        release.clear()
        loader = DataLoader(Hanging(), 1, num_workers=1, timeout=0.2, persistent_workers=persistent)
        seen = []
        with pytest.raises(RuntimeError, match=r"timed out after 0\.2 seconds"):
            for batch in loader:
                seen.append(batch.tolist())
        assert seen == [[0], [1]]
        release.set()
        assert [b.tolist() for b in loader] == [[0], [1], [2], [3]]


PROGRAM = """
import os, sys, threading
import numpy as np
from minidl.data import DataLoader, Dataset
class Items(Dataset):
    def __len__(self): return 40
    def __getitem__(self, i):
        if HANG and i == 3: threading.Event().wait()
        return np.full(1000, i)
loader = DataLoader(Items(), 4, num_workers=2, persistent_workers=PERSISTENT)
batches = iter(loader)
if not HANG: next(batches)
print("end", flush=True)
"""


@pytest.mark.parametrize("hang", [False, True])
@pytest.mark.parametrize("persistent", [False, True])
def test_a_program_ends_amid_an_epoch(hang, persistent):
    code = PROGRAM.replace("HANG", str(hang)).replace("PERSISTENT", str(persistent))
    if hang:
        code += "threading.Thread(target=lambda: next(batches), daemon=True).start()\nimport time; time.sleep(0.3)\n"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr, run.returncode) == ("end\n", "", 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("persistent", [False, True])
def test_a_forked_process_goes_on(persistent, tmp_path):
    """In an interpreter of its own: the child finishes the epoch that its parent began, and both see the same bits."""
    code = f"""
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python's warning of threads and fork
import numpy as np, minidl
from minidl.data import DataLoader, TensorDataset, Dataset
class Items(Dataset):
    def __len__(self): return 30
    def __getitem__(self, i): return minidl.rand(1), i
minidl.manual_seed(1)
loader = DataLoader(Items(), 4, True, num_workers=2, persistent_workers={persistent})
batches = iter(loader)
first = next(batches)
child = os.fork()
rest = [(a.tolist(), b.tolist()) for a, b in batches]
again = [(a.tolist(), b.tolist()) for a, b in loader]
with open(sys.argv[1] + ("/parent" if child else "/child"), "w") as f:
    print(rest, again, file=f)
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    assert (tmp_path / "parent").read_text() == (tmp_path / "child").read_text()
    assert len((tmp_path / "child").read_text()) > 500


def test_a_stream_does_not_go_on_in_a_forked_process():
    code = """
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from minidl.data import DataLoader, IterableDataset
class Numbers(IterableDataset):
    def __iter__(self): return iter(range(30))
batches = iter(DataLoader(Numbers(), 4, num_workers=2))
next(batches)
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
    assert len(list(batches)) == 7
else:
    try:
        next(batches)
    except RuntimeError as error:
        os._exit(0 if "forked" in str(error) else 1)
    os._exit(2)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")


# -- side by side with torch -------------------------------------------------------------------------------------

Point = namedtuple("Point", "x y")


class Both(Dataset):
    """The same items for either library."""

    def __init__(self, n, kind):
        self.n, self.kind = n, kind

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        x = np.arange(3, dtype=np.float32) + i
        return {
            "array": x, "pair": (x, i), "dict": {"x": x, "y": i, "t": str(i)}, "point": Point(x, float(i)),
            "text": f"item {i}", "number": i * 0.5, "bool": i % 2 == 0, "nested": [{"a": (i, [x, "t"])}],
        }[self.kind]  # fmt: skip


class BothStream(IterableDataset, td.IterableDataset):
    def __init__(self, n, kind):
        self.items = [Both(n, kind)[i] for i in range(n)]

    def __iter__(self):
        return iter(self.items)


kinds = st.sampled_from(["array", "pair", "dict", "point", "text", "number", "bool", "nested"])


@settings(max_examples=80)
@given(st.integers(0, 13), kinds, st.integers(1, 5) | st.none(), st.booleans(), st.integers(0, 3), st.data())
def test_epochs_are_torchs(n, kind, size, drop, workers, data):
    options = dict(batch_size=size) if size is None else dict(batch_size=size, drop_last=drop)
    stream = data.draw(st.booleans())
    order = None
    if not stream and data.draw(st.booleans()):
        order = data.draw(st.lists(st.integers(0, max(n - 1, 0)), max_size=9 if n else 0))
        options["sampler"] = order
    dataset = BothStream(n, kind) if stream else Both(n, kind)
    ours, theirs = DataLoader(dataset, num_workers=workers, **options), td.DataLoader(dataset, **options)
    assert bits(ours) == [values(b) for b in theirs]
    if not stream:
        assert len(ours) == len(theirs)
        assert type(ours.sampler).__name__ == type(theirs.sampler).__name__
        assert (ours.batch_size, ours.drop_last) == (theirs.batch_size, theirs.drop_last)


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=6), st.integers(0, 2))
def test_batch_samplers_are_torchs(batches, workers):
    batches = [b for b in batches if b]
    ours = DataLoader(list(range(10)), batch_sampler=batches, num_workers=workers)
    theirs = td.DataLoader(list(range(10)), batch_sampler=batches)
    assert bits(ours) == [values(b) for b in theirs]
    assert len(ours) == len(theirs)
    assert ours.batch_size is theirs.batch_size is None


@given(st.integers(0, 40), st.integers(1, 9), st.booleans())
def test_batch_sampler_is_torchs(n, size, drop):
    for source in (range(n), iter(range(n))):
        twin = range(n)
        ours = BatchSampler(source, size, drop)
        theirs = td.BatchSampler(twin, size, drop)
        assert list(ours) == list(theirs)
    assert len(BatchSampler(range(n), size, drop)) == len(theirs)


@given(st.integers(1, 30), st.booleans(), st.integers(1, 70) | st.none())
def test_random_sampler_is_like_torchs(n, replacement, num_samples):
    """Not torch's numbers, but its lengths and its way of filling up: each full round has every item once."""
    ours = RandomSampler(range(n), replacement, num_samples)
    theirs = td.RandomSampler(range(n), replacement, num_samples)
    a, b = list(ours), list(theirs)
    assert len(ours) == len(theirs) == len(a) == len(b)
    assert set(a) <= set(range(n))
    if not replacement:
        for start in range(0, len(a), n):
            for drawn in (a[start : start + n], b[start : start + n]):
                assert len(set(drawn)) == len(drawn)


BAD_CALLS = [
    ("RandomSampler", (range(3),), dict(num_samples=0)),
    ("RandomSampler", (range(3),), dict(num_samples=1.5)),
    ("RandomSampler", (range(3),), dict(replacement=1)),
    ("WeightedRandomSampler", ([1.0], 0), {}),
    ("WeightedRandomSampler", ([1.0], True), {}),
    ("WeightedRandomSampler", ([1.0], 1, 3), {}),
    ("WeightedRandomSampler", ([[1.0]], 1), {}),
    ("BatchSampler", (range(3), 0, False), {}),
    ("BatchSampler", (range(3), True, False), {}),
    ("BatchSampler", (range(3), 2, 1), {}),
    ("StackDataset", (), {}),
    ("StackDataset", ([1], [1, 2]), {}),
    ("StackDataset", ([1],), dict(x=[2])),
    ("DataLoader", ([1, 2],), dict(batch_size=0)),
    ("DataLoader", ([1, 2],), dict(sampler=[0], shuffle=True)),
    ("DataLoader", ([1, 2],), dict(batch_sampler=[[0]], batch_size=3)),
    ("DataLoader", ([1, 2],), dict(batch_size=None, drop_last=True)),
    ("DataLoader", ([1, 2],), dict(num_workers=-1)),
    ("DataLoader", ([1, 2],), dict(timeout=-1)),
    ("DataLoader", ([1, 2],), dict(prefetch_factor=2)),
    ("DataLoader", ([1, 2],), dict(num_workers=2, prefetch_factor=-1)),
    ("DataLoader", ([1, 2],), dict(persistent_workers=True)),
    ("DataLoader", (BothStream(3, "array"),), dict(shuffle=True)),
    ("DataLoader", (BothStream(3, "array"),), dict(sampler=[1])),
    ("DataLoader", (BothStream(3, "array"),), dict(batch_sampler=[[1]])),
    ("random_split", (range(3), [1, 1]), {}),
    ("random_split", (range(3), [0.5, 0.6]), {}),
    ("random_split", (range(3), [1.5, -0.5]), {}),
    ("default_collate", ([None, None],), {}),
    ("default_collate", ([object()],), {}),
    ("default_collate", ([np.array(["a"]), np.array(["b"])],), {}),
    ("default_collate", ([(1, 2), (1,)],), {}),
    ("default_collate", ([{"a": 1}, {"b": 1}],), {}),
    ("default_collate", ([1, "a"],), {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args", "options"), BAD_CALLS, ids=range(len(BAD_CALLS)))
def test_what_torch_refuses_is_refused_with_its_error(name, args, options):
    import minidl.data

    with pytest.raises(Exception) as theirs:
        getattr(td, name)(*args, **options)
    with pytest.raises(Exception) as ours:
        getattr(minidl.data, name)(*args, **options)
    assert isinstance(ours.value, theirs.type)


def test_streams_refuse_what_is_no_stream():
    for call, error in [
        (lambda: ChainDataset([Both(3, "array")]), TypeError),
        (lambda: ConcatDataset([Stream(3)]), TypeError),
        (lambda: len(DataLoader(Stream(3, False), 2)), TypeError),
        (lambda: iter(IterableDataset()), NotImplementedError),
        (lambda: iter(Sampler()), NotImplementedError),
    ]:
        with pytest.raises(error):
            call()
    assert len(DataLoader(Stream(7), 2)) == 4
    assert len(DataLoader(Stream(7), 2, drop_last=True)) == 3
    assert len(DataLoader(Stream(7), None)) == 7


@st.composite
def collatable(draw, depth=2):
    """A function of (library, number of the item) that gives items of one structure."""
    kind = draw(
        st.sampled_from(["scalar", "array", "list", "tuple", "dict", "ordered", "point", "user"][: 8 if depth else 2])
    )
    if kind == "scalar":
        like = draw(st.sampled_from([bool, int, float, str, bytes, np.float32, np.int16]))
        return lambda lib, i: bytes([i]) if like is bytes else like(i)
    if kind == "array":
        shape, dtype = (
            draw(st.sampled_from([(), (2,), (2, 0), (1, 3)])),
            draw(st.sampled_from(["f4", "f8", "i8", "u1", "?"])),
        )
        wrapped = draw(st.booleans())
        make = {"torch": torch.from_numpy, "minidl": wrap}

        def array(lib, i):
            a = np.full(shape, i, dtype)
            return make[lib](a) if wrapped else a

        return array
    inner = [draw(collatable(depth - 1)) for _ in range(2 if kind == "point" else draw(st.integers(1, 3)))]
    build = {
        "list": list, "tuple": tuple, "point": lambda xs: Point(*xs), "user": UserList,
        "dict": lambda xs: dict(enumerate(xs)), "ordered": lambda xs: OrderedDict(enumerate(xs)),
    }[kind]  # fmt: skip
    return lambda lib, i: build([f(lib, i) for f in inner])


@settings(max_examples=150)
@given(collatable(), st.integers(1, 4))
def test_collating_any_structure_is_torchs(make, n):
    ours = default_collate([make("minidl", i) for i in range(n)])
    theirs = td.default_collate([make("torch", i) for i in range(n)])
    assert values(ours) == values(theirs)
    from torch.utils.data._utils.collate import default_convert as torch_convert

    assert values(default_convert(make("minidl", 1))) == values(torch_convert(make("torch", 1)))


def test_collating_mixed_numbers_and_mappings():
    for batch in ([1, 2.5], [True, 2], [True, 2.5], [1.5, 2], [np.float64(2), np.float64(3)]):
        assert values(default_collate(batch)) == values(td.default_collate(batch))
    for batch in ([UserDict(a=1), UserDict(a=2)], [types.MappingProxyType({"a": 1})] * 2, [Counter("aab")] * 2):
        ours, theirs = default_collate(batch), td.default_collate(batch)
        assert type(ours) is type(theirs)
        assert values(ours["a"]) == values(theirs["a"])
    for batch, message in [
        ([{"x": [1, None]}] * 2, r"at \['x'\]\[1\] of the item"),
        ([{"x": 1}, {}], r"item 1 of the batch has no 'x'"),
        ([1, None], "None among the items"),
        ([], "no items"),
        ([np.zeros(1), 3], "a int among tensors"),
        ([3, "x"], "a str among numbers"),
    ]:
        with pytest.raises((TypeError, KeyError, ValueError), match=message):
            default_collate(batch)
    with pytest.raises(OverflowError):
        default_collate([2**70])


@given(st.integers(1, 6), st.booleans(), st.integers(1, 7))
def test_stack_dataset_is_torchs(n, named, size):
    class Many(Dataset):
        def __len__(self):
            return n

        def __getitem__(self, i):
            return i * 10

    parts = [list(range(n)), Many(), Both(n, "dict")]
    args = ((), dict(zip("abc", parts))) if named else (parts, {})
    ours, theirs = StackDataset(*args[0], **args[1]), td.StackDataset(*args[0], **args[1])
    assert len(ours) == len(theirs) == n
    assert str([ours[i] for i in range(n)]) == str([theirs[i] for i in range(n)])
    assert bits(DataLoader(ours, size)) == [values(b) for b in td.DataLoader(theirs, size)]


def test_getitems_is_asked_for_whole_batches():
    class Many(Dataset):
        asked = []

        def __len__(self):
            return 7

        def __getitem__(self, i):
            raise AssertionError("one by one")

        def __getitems__(self, indices):
            self.asked.append(list(indices))
            return [i * i for i in indices]

    assert [b.tolist() for b in DataLoader(Many(), 3)] == [[0, 1, 4], [9, 16, 25], [36]]
    assert Many.asked == [[0, 1, 2], [3, 4, 5], [6]]
    assert [b.tolist() for b in DataLoader(Subset(Many(), [6, 0, 3]), 2)] == [[36, 0], [9]]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.integers(1, 60))
@pytest.mark.filterwarnings("ignore:.*Length of split:UserWarning", "ignore:random_split. part:UserWarning")
def test_splits_by_fractions_are_torchs(weights, n):
    total = sum(weights)
    fractions = [w / total for w in weights] if total > 1e-6 else [1.0]
    try:
        theirs = [len(p) for p in td.random_split(range(n), fractions)]
    except ValueError:  # torch takes sums just above 1 for counts; ours are fractions still
        assert sum(fractions) > 1
        return
    assert [len(p) for p in random_split(range(n), fractions)] == theirs


def test_empty_parts_are_warned_of():
    with pytest.warns(UserWarning, match="part 1 of 3 items has none"):
        parts = random_split(range(3), [0.9, 0.1])
    assert [len(p) for p in parts] == [3, 0]
    with pytest.warns(UserWarning, match="part 1"):
        assert [len(p) for p in random_split(range(10), [1, 0])] == [10, 0]


def test_the_signature_is_torchs():
    import inspect

    ours, theirs = (list(inspect.signature(c.__init__).parameters.values())[1:] for c in (DataLoader, td.DataLoader))
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]
    for name in (
        "Subset", "ConcatDataset", "StackDataset", "ChainDataset", "RandomSampler", "SubsetRandomSampler",
        "WeightedRandomSampler", "BatchSampler", "SequentialSampler",
    ):  # fmt: skip
        ours, theirs = (inspect.signature(getattr(m, name).__init__) for m in (minidl.data, td))
        assert [(p.name, p.default) for p in ours.parameters.values()] == [
            (p.name, p.default) for p in theirs.parameters.values()
        ]


# -- in a training ---------------------------------------------------------------------------------------------


class Examples(Dataset):
    """Noisy points on a line, drawn anew each time."""

    def __len__(self):
        return 24

    def __getitem__(self, i):
        x = minidl.randn(2)
        return x, x.sum().reshape(1) + i


class ExampleStream(IterableDataset):
    def __iter__(self):
        return (Examples()[i] for i in range(24))


def trained(data, **options):
    minidl.manual_seed(6)
    model = minidl.nn.Sequential(minidl.nn.Linear(2, 4), minidl.nn.Dropout(0.5), minidl.nn.Linear(4, 1))
    sgd = minidl.optim.SGD(model.parameters(), lr=0.01)
    history = minidl.fit(model, data, loss=minidl.nn.functional.mse_loss, optimizer=sgd, progress=False, **options)
    assert np.isfinite(history["loss"]).all()
    return [p.detach().numpy().tobytes() for p in model.parameters()]


def test_trainings_do_not_depend_on_workers():
    for data, shuffle in ((Examples(), True), (ExampleStream(), None)):
        weights = [trained(DataLoader(data, 5, shuffle, num_workers=n), epochs=2) for n in (0, 1, 3)]
        assert weights[0] == weights[1] == weights[2]
    assert trained(ExampleStream(), epochs=2, batch_size=5) == weights[0]


def test_a_loader_that_was_put_amid_an_epoch_trains_on_the_rest():
    seen = []

    class Watched(Examples):
        def __getitem__(self, i):
            seen.append(i)
            return super().__getitem__(i)

    loader = DataLoader(Watched(), 4)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    seen.clear()
    fresh = DataLoader(Watched(), 4)
    fresh.load_state_dict(state)
    trained(fresh)
    assert seen == list(range(4, 24))


# -- next tokens -----------------------------------------------------------------------------------------------


@given(st.integers(2, 40), st.integers(1, 9), st.integers(1, 9))
def test_windows_of_tokens(n, length, stride):
    ids = np.arange(n) * 3
    if n <= length:
        with pytest.raises(ValueError, match="too few"):
            NextTokenDataset(ids, length, stride)
        return
    data = NextTokenDataset(ids, length, stride)
    starts = [s for s in range(0, n, stride) if s + length < n]
    assert len(data) == len(starts)
    for item, start in zip(data, starts, strict=True):
        assert item[0].tolist() == ids[start : start + length].tolist()
        assert item[1].tolist() == ids[start + 1 : start + length + 1].tolist()
    slow = DataLoader(data, 3, collate_fn=lambda items: default_collate(items))
    assert bits(DataLoader(data, 3)) == bits(slow)


def test_windows_of_what_is_no_sequence():
    for ids in ([[1, 2], [3, 4]], [0.5, 1.5, 2.5], "text"):
        with pytest.raises(ValueError, match="must be integers"):
            NextTokenDataset(ids, 1)
    with pytest.raises(ValueError, match="positive"):
        NextTokenDataset([1, 2, 3], 1, 0)
