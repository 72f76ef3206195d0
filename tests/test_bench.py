"""`minidl bench`: the right results are found right, cheats are caught, noise is not called change. Nothing is timed to
be judged here: tests run on busy machines.
"""

import collections
import contextlib
import copy
import hashlib
import json
import math
import sys
import threading

import numpy as np
import pytest

import minidl_kernels as kernels
from minidl import nn
from minidl.bench import (
    ceilings,
    compare,
    firsts,
    footprint,
    models,
    peers,
    report,
    rows,
    selftest,
    shapes,
    timing,
    verify,
)
from minidl.bench import kernels as bench_kernels
from minidl.cli import main
from minidl_kernels import registry
from minidl_kernels.cpu import machine

TIER = machine.machine().tier
TINY = {
    "matmul": {"m": 33, "k": 40, "n": 50},
    "linear": {"m": 5, "k": 40, "n": 50},
    "conv2d": {"n": 2, "c": 4, "h": 9, "w": 8, "k": 6, "r": 3, "padding": 1, "stride": 2, "groups": 2},
    "attention": {"b": 2, "h": 4, "t": 20, "d": 8, "kv": 2, "causal": True},
    "int8_matmul": {"m": 33, "k": 40, "n": 50},
    "int8_linear": {"m": 33, "k": 400, "n": 50},
    "int8_conv2d": {"n": 2, "c": 8, "h": 9, "w": 8, "k": 6, "r": 3, "padding": 1},
    "int4_linear": {"m": 33, "k": 128, "n": 50},
    "sparse_linear": {"m": 33, "k": 40, "n": 50, "zeros": 80},
    "nm_linear": {"m": 33, "k": 40, "n": 50},
    "max_pool2d": {"n": 2, "c": 3, "h": 9, "w": 9, "window": 3, "stride": 2, "padding": 1},
    "rows": {"m": 9, "n": 37},
    "images": {"n": 3, "c": 5, "h": 4, "w": 7},
    "activation": {"size": 1000},
    "codes": {"m": 9, "n": 37},
}


def shape(section, **numbers):
    (found,) = shapes.parse({section: [{**TINY.get(section, {}), **numbers}]}, "test", "test")
    return found


@pytest.fixture
def quick_ceilings(monkeypatch):
    """The machine's limits, measured in a moment."""
    measure = ceilings.measure_ceilings
    monkeypatch.setattr(bench_kernels, "measure_ceilings", lambda n, tier: measure(n, tier, 0.02))
    monkeypatch.setattr(ceilings, "memory_size", lambda: 1 << 22)


@pytest.fixture
def tiny_file(tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps({"name": "tiny", **{section: [numbers] for section, numbers in TINY.items()}}))
    return path


def test_a_thread_that_still_works_is_waited_for():
    """A spinning thread of another library would take a core from the next contestant."""
    stop = threading.Event()

    def spin():
        while not stop.is_set():
            hashlib.sha256(bytes(1 << 22)).digest()  # without the GIL

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        assert not timing.settle(0.2)
    finally:
        stop.set()
        thread.join()
    assert timing.settle(5)


# -- shapes -----------------------------------------------------------------------------------------------------------


def test_the_packages_shapes_cover_the_networks_and_kinds():
    found = list(shapes.shipped())
    networks = {s.network for s in found}
    assert networks >= {
        "ResNet-18",
        "ResNet-50",
        "MobileNetV1",
        "VGG-16",
        "GPT-2 small",
        "BERT base",
        "MNIST CNN",
        "MLP",
    }
    by = collections.defaultdict(list)
    for s in found:
        by[s.section].append(s)
    assert set(by) == set(shapes.SECTIONS) == {r.section for r in rows.ROWS.values()}
    conv = by["conv2d"]
    assert any(s["r"] == 7 and s["stride"] == 2 for s in conv)
    assert any(s["r"] == 1 for s in conv)
    assert any(s["dilation"] > 1 for s in conv)
    assert any(s["groups"] == s["c"] > 1 for s in conv)
    assert any(1 < s["groups"] < s["c"] for s in conv)
    assert {s["transpose"] for s in by["matmul"]} >= {"", "a", "b"}
    assert {min(s["m"], s["n"]) for s in by["matmul"]} >= {1, 64, 2048}
    assert any(s["batch"] for s in by["matmul"])
    assert {s["mask"] for s in by["attention"]} == {"", "bool", "float"}
    assert {s["causal"] for s in by["attention"]} == {False, True}
    assert any(s["kv"] < s["h"] for s in by["attention"])
    assert {s["m"] for s in by["int8_linear"] + by["int8_matmul"]} >= {1, 16, 1024}
    labels = collections.Counter((s.section, s.label) for s in found)
    assert [label for label, count in labels.items() if count > 1] == []  # a file of results has one row for each


def test_shapes_from_toml_and_json_are_the_same(tmp_path):
    (tmp_path / "a.toml").write_text('name = "n"\n[[conv2d]]\nn = 1\nc = 2\nh = 5\nw = 6\nk = 3\nr = 3\ns = 1\n')
    numbers = {"n": 1, "c": 2, "h": 5, "w": 6, "k": 3, "r": 3, "s": 1}
    (tmp_path / "b.json").write_text(json.dumps({"name": "n", "conv2d": [numbers]}))
    (one,), (two,) = shapes.read_shapes(tmp_path / "a.toml"), shapes.read_shapes(tmp_path / "b.json")
    assert one == two
    assert one.label == "1x2x5x6 k3 3x1"
    assert shapes.array_shapes("conv2d", one.numbers)["y"] == (1, 3, 3, 6)


BAD_SHAPES = {
    "not JSON": (b"{", ["not JSON", "line 1"]),
    "not text": (b"\xff\xfe\x00", ["not JSON"]),
    "nested without end": (b"[" * 100_000, ["not JSON"]),
    "a list": ([1], ["a table of sections"]),
    "nothing": ({}, ["holds no shape"]),
    "unknown section": ({"matmull": []}, ["'matmull'", "did you mean 'matmul'"]),
    "no list": ({"matmul": {"m": 1}}, ["[[matmul]]"]),
    "no table": ({"matmul": [3]}, ["matmul entry 1", "3"]),
    "missing": ({"matmul": [{"m": 1, "k": 1}]}, ["matmul entry 1", "n is missing"]),
    "unknown number": ({"linear": [{"m": 1, "k": 1, "n": 1, "bais": True}]}, ["did you mean 'bias'"]),
    "text": ({"matmul": [{"m": "1", "k": 1, "n": 1}]}, ["m must be a whole number, not '1'"]),
    "a fraction": ({"matmul": [{"m": 1.5, "k": 1, "n": 1}]}, ["1.5"]),
    "a flag": ({"matmul": [{"m": True, "k": 1, "n": 1}]}, ["True"]),
    "zero": ({"matmul": [{"m": 0, "k": 1, "n": 1}]}, ["m = 0 is out of range"]),
    "negative": ({"conv2d": [{**TINY["conv2d"], "padding": -1}]}, ["padding = -1"]),
    "huge": ({"matmul": [{"m": 2**31, "k": 1, "n": 1}]}, ["out of range"]),
    "too large": ({"matmul": [{"m": 2**30, "k": 2**30, "n": 2**30}]}, ["GiB"]),
    "groups": ({"conv2d": [{**TINY["conv2d"], "groups": 3}]}, ["c = 4 is not a multiple of groups = 3"]),
    "window": ({"conv2d": [{**TINY["conv2d"], "r": 30}]}, ["window is 30 wide"]),
    "pool": ({"max_pool2d": [{**TINY["max_pool2d"], "padding": 2}]}, ["more than half"]),
    "heads": ({"attention": [{**TINY["attention"], "kv": 3}]}, ["h = 4 is not a multiple of kv = 3"]),
    "mask": ({"attention": [{**TINY["attention"], "mask": "int"}]}, ["mask must be one of", "'int'"]),
    "a flag that is none": ({"attention": [{**TINY["attention"], "causal": 1}]}, ["causal must be true or false"]),
    "name": ({"name": 3, "matmul": []}, ["name must be text"]),
    "entry's name": ({"matmul": [{**TINY["matmul"], "name": []}]}, ["name must be text"]),
}


@pytest.mark.parametrize("fault", BAD_SHAPES)
def test_bad_shapes(tmp_path, fault, capsys):
    content, words = BAD_SHAPES[fault]
    path = tmp_path / "shapes.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    refused(capsys, ["--shapes", str(path)], "--shapes: ", "shapes.json", *words)


# -- rows and peers ---------------------------------------------------------------------------------------------------


def small_shapes(section):
    yield shape(section)
    more = {
        "matmul": [{"transpose": "ab"}, {"batch": 3}, {"m": 1}],
        "linear": [{"bias": False}],
        "conv2d": [{"groups": 1, "dilation": 2, "s": 1}],
        "attention": [{"mask": "bool", "causal": False}, {"mask": "float", "causal": False, "s": 7}],
        "int8_linear": [{"static": True}],
        "activation": [{"f": f} for f in ("relu", "tanh", "sigmoid", "silu", "gelu_tanh")],
        "int8_conv2d": [{"static": True}],
        "codes": [{"per": "row"}, {"per": "column"}],
    }
    for numbers in more.get(section, []):
        yield shape(section, **numbers)


@pytest.mark.parametrize("kernel", rows.ROWS)
def test_a_row_and_its_peers_do_the_same_job(kernel):
    row = rows.ROWS[kernel]
    compared = set()
    for s in small_shapes(row.section):
        job = bench_kernels.Job(row, s)
        error = job.witness.examine("minidl", row.call(job.args)())
        for name in peers.NAMES:
            page = peers.load(name)
            with page.start(1):
                call = peers.find(page, kernel, job.args)
                if call is not None:
                    compared.add(name)
                    job.witness.examine(name, call(), row.slack.get(name), partial=True)
        job.witness.inputs_are_whole("somebody")
        # Far from the tolerance's edge: in integers exact, in floats some roundings.
        assert error <= job.tolerance / 5
    assert "torch" in compared or kernel == "int8_conv2d"
    if kernel in ("matmul", "int8_matmul", "int8_linear", "int8_conv2d", "conv2d"):
        assert "onnxruntime" in compared


@pytest.mark.parametrize("kernel", [k for k, r in rows.ROWS.items() if r.expect is not None])
def test_short_ways_to_the_right_result_are_the_reference(kernel):
    row = rows.ROWS[kernel]
    for s in small_shapes(row.section):
        args = row.make(np.random.default_rng(1), s.numbers)
        with kernels.use("reference"):
            want = getattr(kernels, kernel)(*args)
        assert np.array_equal(row.right(*args), want)


def test_operations_are_those_of_the_definition():
    count = lambda kernel, **n: rows.ROWS[kernel].operations(shape(rows.ROWS[kernel].section, **n).numbers)
    assert count("matmul", m=2, k=3, n=5, batch=7) == 2 * 2 * 3 * 5 * 7
    assert count("conv2d") == 2 * (2 * 6 * 5 * 4) * (4 // 2 * 9)
    triangle = 20 * 21 // 2
    assert count("attention") == 4 * 8 * (2 * 4 * triangle)  # causal: no work is claimed for what is masked
    assert count("attention", causal=False) == 4 * 8 * (2 * 4 * 400)


def test_peers_that_are_not_there(monkeypatch, capsys, tiny_file):
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(capsys, ["matmul", "--peers", "numpy,torch"], "--peers: torch", "pip install 'minidl[bench]'")
    refused(capsys, ["--models"], "--peers: torch", "pip install 'minidl[bench]'")


# -- verification -----------------------------------------------------------------------------------------------------


def test_errors_of_results():
    one, nan, inf = np.array([1.0, -4.0]), np.array([np.nan, -4.0]), np.array([np.inf, -4.0])
    assert verify.error_of(one, one) == 0
    assert verify.error_of(one + 0.5, one) == 0.125
    assert verify.error_of(nan, nan) == verify.error_of(inf, inf) == 0
    for got, want in (
        (nan, one),
        (one, nan),
        (inf, one),
        (one, inf),
        (-inf, inf),
        (one[:1], one),
        (one, one.astype(int)),
    ):
        assert verify.error_of(got, want) == math.inf
    assert verify.error_of(np.array([1, 2]), np.array([1, 3])) == math.inf
    assert verify.error_of(np.zeros(3), np.zeros(3)) == verify.error_of(np.zeros(0), np.zeros(0)) == 0


def test_inputs_are_compared_by_bits_and_put_back():
    a = np.array([0.0, np.nan, 1.0], np.float32)
    witness = verify.Witness([a, 3], lambda a, n: a * n, 1e-6, [a + 1, 3])
    witness.inputs_are_whole("it")
    a[0] = -0.0
    with pytest.raises(verify.Fault, match="it wrote into its argument 0") as caught:
        witness.inputs_are_whole("it")
    assert caught.value.kind == "mutates"
    assert not np.signbit(a[0])
    witness.renew(1)
    assert a.tolist()[::2] == [1.0, 2.0]
    witness.examine("it", a * 3)


def test_the_self_test_catches_every_cheat(quick_ceilings):
    said = []
    assert selftest.self_test(bench_kernels.Bench(TIER, {}, 0.01), said.append)
    assert len([line for line in said if "ok  " in line]) == 2 + len(selftest.CHEATS) + 1


@pytest.mark.parametrize(
    ("blind", "missed"),
    [
        ("audit", ["works on new values only"]),
        ("renew", ["keeps results"]),
        ("inputs_are_whole", ["writes into its argument"]),
        ("fresh", ["returns the same memory"]),
    ],
)
def test_each_kind_of_examination_is_needed(quick_ceilings, monkeypatch, blind, missed):
    """Without it the self-test says which cheats pass."""
    monkeypatch.setattr(verify.Witness, blind, lambda *args, **kw: None)
    cheats = {name: selftest.CHEATS[name] for name in missed}
    monkeypatch.setattr(selftest, "CHEATS", cheats)
    monkeypatch.setattr(timing, "ROUNDS", 12)
    said = []
    assert not selftest.self_test(bench_kernels.Bench(TIER, {}, 0.01), said.append)
    failed = [line.split("FAIL")[1].strip() for line in said if "FAIL" in line]
    assert failed[0].startswith(missed[0])


def test_too_fast_and_too_many_threads():
    assert verify.impossible(1.0, (1.05, 0.2)) is None
    assert "arithmetic" in verify.impossible(1.0, (1.2, 0.2))
    assert "memory" in verify.impossible(1.0, (0.1, 2.0))
    assert verify.too_many_cores(1.02, 1) is None
    assert verify.too_many_cores(1.9, 1) == "used 1.9 CPUs, 1 was allowed"


def test_a_peer_with_a_fault_is_out_and_the_rest_goes_on(quick_ceilings):
    class Page:
        start = staticmethod(lambda n: contextlib.nullcontext())
        matmul = staticmethod(lambda a, b: lambda: a @ b + 1)

    class Late(Page):
        @staticmethod
        def matmul(a, b):
            calls = iter([a @ b] * 5)
            return lambda: next(calls, np.zeros((a.shape[0], b.shape[1]), a.dtype)).copy()

    bench = bench_kernels.Bench(TIER, {"wrong": Page, "late": Late, "numpy": peers.load("numpy")}, 0.01)
    record = bench.time(bench_kernels.Job(rows.ROWS["matmul"], shape("matmul")), 1)
    assert {f["who"]: f["kind"] for f in record["faults"]} == {"wrong": "wrong", "late": "wrong"}
    assert set(record["contestants"]) == {"minidl", "numpy"}
    line = report.row_line(record)
    assert "FAULT: wrong: returns a result off by" in line


# -- timing -----------------------------------------------------------------------------------------------------------


def test_turns_are_taken_in_random_order_and_audited():
    order, audited = [], []
    rng = np.random.default_rng(3)

    @contextlib.contextmanager
    def within(name):
        order.append(name)
        yield

    calls = {name: (lambda: sum(range(200))) for name in "abc"}
    times = timing.take_turns(calls, 0.01, rng, lambda name, call, last: audited.append((name, last)), within)
    rounds = [tuple(order[i : i + 3]) for i in range(3, len(order), 3)]  # after one call of each to begin with
    assert len(rounds) == timing.ROUNDS
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len(set(rounds)) > 1
    assert {name: len(t.blocks) for name, t in times.items()} == dict.fromkeys("abc", timing.ROUNDS)
    assert collections.Counter(name for name, _ in audited) == dict.fromkeys("abc", timing.AUDITS)


def test_the_interval_of_a_ratio_holds_the_true_one():
    """Blocks of 10 % spread, true ratio 1.3: of 200 runs, 95 % intervals miss it about 10 times; a bootstrap of medians
    of 15 is a little narrow. 30 misses would be a chance of 1e-7 at 5 %, and 4e-3 at 8 %.
    """
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(200):
        ours, theirs = 1 + 0.1 * rng.standard_normal((2, 15))
        _, low, high = timing.ratio((1.3 * theirs).tolist(), ours.tolist())
        missed += not low <= 1.3 <= high
    assert missed < 30


def test_limits_hang_together(quick_ceilings):
    one = ceilings.measure_ceilings(1, TIER, 0.02)
    assert set(one.rates) == {"f32", "product", "int8"}
    assert one.rates["int8"] >= one.rates["f32"] > 1e8
    assert one.rates["product"] >= one.rates["f32"]
    for name in ceilings.STREAMS:
        rates = [rate for _, rate in one.streams[name]]
        assert rates == sorted(rates, reverse=True)
        assert rates[-1] > 1e8
    two = one.times(2)
    assert two.rates["f32"] == 2 * one.rates["f32"]
    assert one.best(two).rates == two.rates
    work = ceilings.Work(1e9, 3e6, 1e6)
    arithmetic, memory = one.floors(work)
    assert arithmetic == 1e9 / one.rates["f32"]
    # 1 MB in and out are copied, 2 MB only read.
    assert memory == pytest.approx(2e6 / one.speed("copy", 4e6) + 2e6 / one.speed("read", 4e6))


@pytest.mark.parametrize("tier", machine.tiers())
def test_every_tier_has_its_limit(tier):
    for kind in ("f32", ceilings.INT8[tier]):
        assert ceilings._rate(tier, kind, 1, 0.01) > 1e8


# -- comparing two runs -----------------------------------------------------------------------------------------------


def run_file(path, ours=1.0, theirs=1.0, spread=0.02, n=20, seed=0, peak=1e11):
    """A file as --json writes it: n rows of 10 blocks."""
    rng = np.random.default_rng(seed)
    blocks = lambda scale: (1e-3 * scale * (1 + spread * rng.standard_normal(10))).tolist()
    factors = ours if isinstance(ours, list) else [ours] * n
    found = [
        {
            "kernel": "matmul", "shape": f"{i}x1x1", "threads": 1, "tier": "avx2",
            "contestants": {"minidl": {"blocks": blocks(f)}, "torch": {"blocks": blocks(theirs)}},
        }
        for i, f in enumerate(factors)
    ]  # fmt: skip
    limits = [{"threads": 1, "tier": "avx2", "rates": {"f32": peak}}]
    path.write_text(json.dumps({"format": compare.FORMAT, "rows": found, "ceilings": limits}))
    return str(path)


def verdicts(a, b):
    return collections.Counter(r["verdict"] for r in compare.compare(compare.read(a), compare.read(b))["rows"])


def test_noise_is_no_change_and_change_is_no_noise(tmp_path):
    base = run_file(tmp_path / "a.json")
    again = run_file(tmp_path / "b.json", seed=1)
    assert verdicts(base, again) == {"same": 20}
    mixed = run_file(tmp_path / "c.json", ours=[1.3] * 5 + [0.7] * 5 + [1.0] * 10, seed=2)
    found = compare.compare(compare.read(base), compare.read(mixed))["rows"]
    assert [r["verdict"] for r in found] == ["slower"] * 5 + ["faster"] * 5 + ["same"] * 10
    wild = run_file(tmp_path / "d.json", ours=1.05, spread=0.3, seed=3)
    assert verdicts(base, wild) == {"same": 20}
    # The whole machine is 30 % slower, peers and peak too: nothing can be said of the kernels.
    slow = run_file(tmp_path / "e.json", ours=1.3, theirs=1.3, peak=0.77e11, seed=4)
    assert verdicts(base, slow) == {"same": 20}
    assert verdicts(base, run_file(tmp_path / "f.json", ours=1.3, seed=4)) == {"slower": 20}


def test_the_command_compares(tmp_path, capsys):
    a, b = run_file(tmp_path / "a.json"), run_file(tmp_path / "b.json", ours=1.5, n=19)
    assert main(["bench", "--compare", a, a]) == 0
    assert "0 faster, 0 slower, 20 the same" in capsys.readouterr().out
    assert main(["bench", "--compare", a, b, "--json", str(tmp_path / "out.json")]) == 1
    out = capsys.readouterr().out
    assert "0 faster, 19 slower" in out
    assert "1 rows are in one file only" in out
    assert len(json.loads((tmp_path / "out.json").read_text())["rows"]) == 19


def test_files_that_cannot_be_compared(tmp_path, capsys):
    good = run_file(tmp_path / "good.json")
    data = json.loads((tmp_path / "good.json").read_text())
    bad = {
        "missing": (None, ["No such file"]),
        "text": ("hello", ["not JSON"]),
        "list": ("[]", ["not a file of minidl bench"]),
        "demo": ('{"dense": {}}', ["not a file of minidl bench"]),
        "no rows": (json.dumps({**data, "rows": None}), ["damaged"]),
        "no blocks": (json.dumps({**data, "rows": [{**data["rows"][0], "contestants": {"minidl": {}}}]}), ["blocks"]),
        "odd blocks": (
            json.dumps({**data, "rows": [{**data["rows"][0], "contestants": {"minidl": {"blocks": [0]}}}]}),
            ["no times"],
        ),
        "other rows": (json.dumps({**data, "rows": [{**data["rows"][0], "threads": 9}]}), ["no row in common"]),
    }
    for name, (content, words) in bad.items():
        path = tmp_path / f"{name}.json"
        if content is not None:
            path.write_text(content)
        refused(capsys, ["--compare", good, str(path)], "--compare", *words)


# -- the command ------------------------------------------------------------------------------------------------------


def refused(capsys, arguments, *words):
    """Exit code 2, one line that says why, nothing printed before it."""
    capsys.readouterr()
    assert main(["bench", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    line, end, rest = err.partition("\n")
    assert (end, rest) == ("\n", "")
    assert line.startswith("minidl bench: error: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["matmull"], ["no kernel 'matmull'", "did you mean 'matmul'"]),
        (["zzz"], ["there are: matmul"]),
        (["--models", "mpl"], ["no model 'mpl'", "did you mean 'mlp'"]),
        (["--peers", "numpi"], ["no peer 'numpi'", "did you mean 'numpy'"]),
        (["--threads", "x"], ["--threads", "'x'"]),
        (["--threads", "1,0"], ["--threads", "0 is not in 1"]),
        (["--threads", "100000"], ["--threads", "100000 is not in"]),
        (["--tier", "avx1024"], ["--tier", "there is no tier 'avx1024'"]),
        (["--shapes", "no.toml"], ["--shapes", "no.toml", "No such file"]),
        (["--json", "no/a.json"], ["--json", "no folder"]),
        (["--plot", "a.doc"], ["--plot", "must end in"]),
        (["--plot", "/proc/a.png"], ["--plot", "cannot write in the folder /proc"]),
        (["--models", "--self-test"], ["different jobs"]),
        (["--models", "--ladder"], ["--models takes no --ladder"]),
        (["--self-test", "matmul"], ["--self-test takes no kernel"]),
        (["--compare", "a", "b", "--tier", "avx2"], ["--compare takes no --tier"]),
    ],
)
def test_what_is_refused_before_anything_is_timed(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    refused(capsys, arguments, *words)
    assert list(tmp_path.iterdir()) == []


def test_a_tier_that_this_machine_lacks(monkeypatch, capsys):
    monkeypatch.setattr(machine, "tiers", lambda: ("avx2", "generic"))
    refused(capsys, ["--tier", "amx"], "--tier", "cannot run 'amx'", "it can run: avx2, generic")


def test_shapes_that_the_kernel_does_not_take(tmp_path, capsys):
    (tmp_path / "a.toml").write_text("[[matmul]]\nm = 1\nk = 1\nn = 1\n")
    refused(capsys, ["conv2d", "--shapes", str(tmp_path / "a.toml")], "has no section conv2d")


@pytest.mark.parametrize("bad", ["0", "x", "nan", "61"])
def test_seconds(bad):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "--seconds", bad])
    assert stopped.value.code == 2


def test_what_is_printed_is_what_is_written(tmp_path, capsys, quick_ceilings, tiny_file, monkeypatch):
    monkeypatch.setattr(timing, "BLOCK", 0.01)
    arguments = [
        "--shapes",
        tiny_file,
        "--threads",
        "1",
        "--peers",
        "numpy,torch",
        "--quick",
        "--json",
        tmp_path / "a.json",
    ]
    assert main(["bench", *map(str, [*arguments, "--plot", tmp_path / "a.svg"])]) == 0
    out = capsys.readouterr().out
    data = json.loads((tmp_path / "a.json").read_text())
    assert data["format"] == compare.FORMAT
    assert {r["kernel"] for r in data["rows"]} == set(rows.ROWS)
    for row in data["rows"]:
        assert row["faults"] == []
        ours = row["contestants"]["minidl"]
        assert ours["variant"] in kernels.variants(row["kernel"])
        assert ours["seconds"] == pytest.approx(float(np.median(ours["blocks"])))
        assert 0 < report.share(row, ours["seconds"]) <= 1.1
        assert report.row_line(row) in out
        for name, peer in row["contestants"].items():
            if name != "minidl":
                middle, low, high = peer["ratio"]
                assert low <= middle <= high
                assert middle == pytest.approx(peer["seconds"] / ours["seconds"])
    assert {c["threads"] for c in data["ceilings"]} == {1}
    assert "int8_conv2d" in out
    assert "</svg>" in (tmp_path / "a.svg").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.svg", "tiny.json"]
    assert verdicts(tmp_path / "a.json", tmp_path / "a.json") == {"same": len(data["rows"])}


def test_the_ladder_has_every_rung(tmp_path, capsys, quick_ceilings, tiny_file):
    arguments = ["matmul", "--ladder", "--shapes", str(tiny_file), "--threads", "1", "--seconds", "0.01"]
    assert main(["bench", *arguments, "--json", str(tmp_path / "a.json")]) == 0
    (row,) = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert list(row["contestants"]) == list(kernels.variants("matmul", "cpu"))
    out = capsys.readouterr().out
    assert "naive" in out
    assert "times the rung before" in out


def test_a_wrong_kernel_is_an_error_of_the_command(capsys, quick_ceilings, tiny_file, monkeypatch):
    op = registry.ops()["matmul"]
    planted = registry.Variant("planted", load="test_bench:a_little_too_large", cost=-1.0)
    monkeypatch.setattr(op, "variants", (*op.variants, planted))
    op.cache.clear()
    arguments = ["matmul", "--shapes", str(tiny_file), "--threads", "1", "--quick", "--peers", "none"]
    assert main(["bench", *arguments]) == 1
    op.cache.clear()
    assert "FAULT, not timed: minidl: returns a result off by" in capsys.readouterr().out


def a_little_too_large(a, b):
    return a @ b * np.float32(1.001)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_peak_memory_is_that_of_what_is_touched():
    size, slack = 64 << 20, 4 << 20  # bytes; the interpreter's own
    assert footprint.rise(lambda: None) < slack
    # The kernel counts pages in bundles, so a little may be missing, too.
    assert abs(footprint.rise(lambda: np.ones(size, np.uint8)) - size) < slack
    assert footprint.rise(lambda: [np.ones(size, np.uint8) for _ in range(2)]) > 2 * size - slack
    with pytest.raises(RuntimeError, match="torch's no_such did not train"):
        footprint.peak("no_such", "torch", 1, TIER)
    weights = 4 * sum(p.numel() for p in models.MODELS["digits_cnn"].build(nn).parameters())
    # Gradients and two moments at least, and what the backward pass needs of 64 small images.
    assert 3 * weights < footprint.peak("digits_cnn", "minidl", 1, TIER) < 64 << 20


@pytest.mark.parametrize("name", models.MODELS)
def test_models_give_what_torch_gives(name):
    pair = models.Pair(models.MODELS[name], peers.load("torch").torch)
    assert pair.outputs_differ() is None
    if name in ("mlp", "digits_cnn", "encoder", "gpt"):  # the others take seconds for their steps
        assert pair.losses_differ() is None


def test_a_model_is_timed_in_int8_beside_float_and_a_wrong_one_is_not(monkeypatch):
    page = {"torch": peers.load("torch")}
    found = models.time_model("digits_cnn", 1, page, 0.01, TIER, np.random.default_rng(0))
    assert found["faults"] == []
    assert found["int8"]["ratio"][0] == pytest.approx(
        found["int8"]["float"]["seconds"] / found["int8"]["minidl"]["seconds"]
    )

    def wrong(model, x):
        net = copy.deepcopy(model)
        net[-1].weight.array *= -1
        return net

    monkeypatch.setattr("minidl.compress.quantize_static", wrong)
    found = models.time_model("digits_cnn", 1, page, 0.01, TIER, np.random.default_rng(0))
    assert "gives in int8 outputs at a cosine of" in found["faults"][0]["what"]
    assert "int8" not in found


def test_a_model_is_timed_and_a_wrong_one_is_not(tmp_path, capsys, monkeypatch):
    arguments = ["bench", "mlp", "--models", "--threads", "1", "--seconds", "0.01", "--json", str(tmp_path / "a.json")]
    assert main(arguments) == 0
    (record,) = json.loads((tmp_path / "a.json").read_text())["models"]
    assert record["faults"] == []
    for what in ("step", "inference"):
        assert record[what]["ratio"][0] == pytest.approx(
            record[what]["torch"]["seconds"] / record[what]["minidl"]["seconds"]
        )

    class Odd(models.Pair):
        def restart(self):
            super().restart()
            self.ours[0].bias.array[0] += 1

    monkeypatch.setattr(models, "Pair", Odd)
    assert main(arguments) == 1
    assert "FAULT: minidl gives other outputs than torch" in capsys.readouterr().out


@pytest.mark.slow
def test_first_calls_are_of_fresh_processes():
    found = firsts.first_calls("softmax", [shape("rows", m=512, n=512)], TIER)
    assert found["compiled"] > 0
    assert found["again"] == 0
    assert min(found["empty_cache"], found["filled_cache"]) > 0  # which is the longer is the machine's affair
    found = firsts.first_calls("matmul", [shape("matmul", m=4, k=4, n=4)], TIER)  # BLAS: nothing to compile
    assert found["compiled"] == 0


def test_a_first_call_that_fails_says_so():
    with pytest.raises(RuntimeError, match="(?s)first call of matmul failed: .*TypeError"):
        firsts._one("matmul", {"m": "no number", "k": 1, "n": 1, "batch": 0, "transpose": ""}, TIER, "/nonexistent")


def test_the_command_needs_no_peer(tmp_path, capsys, quick_ceilings, tiny_file, monkeypatch):
    for name in ("torch", "onnxruntime", "onnx"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(peers, "present", lambda: ["numpy"])
    assert main(["bench", "linear", "--shapes", str(tiny_file), "--threads", "1", "--quick"]) == 0
    assert "numpy" in capsys.readouterr().out
