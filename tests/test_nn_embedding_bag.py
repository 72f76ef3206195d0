"""Embedding and EmbeddingBag against torch's, with every option: outputs, gradients, the table after max_norm, errors.

Tolerance: sums of at most ten products of size 3 in float64, 1e-12; in float32, 40 roundings of numbers up to 30.
"""

import numpy as np
import pytest
import torch

import minidl
import minidl.nn.functional as F
from minidl import nn

RNG = np.random.default_rng(4)
TOLERANCE = {"float32": 40 * 6e-8 * 30, "float64": 1e-12}
WORDS, STARTS = np.array([3, 1, 1, 0, 6, 1, 2, 5, 5]), np.array([0, 2, 2, 6])


def close(ours, theirs, dtype="float64"):
    a, b = ours.detach().numpy(), theirs.detach().numpy()
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE[dtype])


def pair(name, *args, dtype="float64", **options):
    """The layer of either library, on one random table whose rows are of length 1 to 4."""
    made = [
        getattr(n, name)(*args, **options, dtype=getattr(lib, dtype)) for n, lib in ((nn, minidl), (torch.nn, torch))
    ]
    ours, theirs = made
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    if options.get("padding_idx") is not None:
        assert not ours.weight[options["padding_idx"]].numpy(force=True).any()
    table = RNG.standard_normal(ours.weight.shape).astype(dtype) * 2
    ours.load_state_dict({"weight": table})
    theirs.load_state_dict({"weight": torch.tensor(table)})
    return ours, theirs


def run(ours, theirs, dtype, *inputs):
    m = [None if a is None else minidl.tensor(a, requires_grad=a.dtype.kind == "f") for a in inputs]
    t = [None if a is None else torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in inputs]
    y, u = ours(*m), theirs(*t)
    close(y, u, dtype)
    dy = RNG.standard_normal(tuple(u.shape)).astype(dtype)
    y.backward(minidl.tensor(dy)), u.backward(torch.tensor(dy))
    close(ours.weight.grad, theirs.weight.grad, dtype)
    close(ours.weight, theirs.weight, dtype)
    for a, b in zip(m, t, strict=True):
        if b is not None and b.grad is not None:
            close(a.grad, b.grad, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("options", [
    {}, {"padding_idx": 1}, {"padding_idx": -7}, {"max_norm": 1.5}, {"max_norm": 2.0, "norm_type": 1.0},
    {"scale_grad_by_freq": True}, {"max_norm": 1.0, "norm_type": float("inf"), "padding_idx": 0},
])  # fmt: skip
def test_embedding_is_torchs(options, dtype):
    for shape in ((9,), (3, 3), (1, 3, 3), (1, 9)):
        run(*pair("Embedding", 7, 3, dtype=dtype, **options), dtype, WORDS.reshape(shape))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("options", [
    {}, {"padding_idx": 1}, {"padding_idx": -2}, {"max_norm": 1.5}, {"max_norm": 2.0, "norm_type": 1.0},
    {"include_last_offset": True},
])  # fmt: skip
def test_embedding_bag_is_torchs(options, mode, dtype):
    ours, theirs = pair("EmbeddingBag", 7, 3, mode=mode, dtype=dtype, **options)
    ends = (
        "include_last_offset" in options
    )  # the last is the end: torch's gradient of indices after it is uninitialised
    run(ours, theirs, dtype, WORDS, np.array([0, 2, 2, 9]) if ends else STARTS)
    ours.zero_grad(), theirs.zero_grad()
    run(ours, theirs, dtype, WORDS.reshape(3, 3))
    ours.zero_grad(), theirs.zero_grad()
    run(ours, theirs, dtype, WORDS.astype(np.int32), np.array([0, 0, 3, 9 if ends else 3], np.int32))
    if mode == "sum":
        ours.zero_grad(), theirs.zero_grad()
        run(ours, theirs, dtype, WORDS, np.array([0, 2, 2, 9]), RNG.standard_normal(9).astype(dtype))


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_a_bags_gradient_by_frequency(mode):
    """The plain gradient over the counts. torch 2.13 divides by counts of other indices: it looks them up by the rank
    of an index among those that occur, not by its place.
    """
    grads = []
    for by_freq in (False, True):
        w = minidl.tensor(np.ones((7, 2)), requires_grad=True)
        y = F.embedding_bag(minidl.tensor(WORDS), w, minidl.tensor(STARTS), mode=mode, scale_grad_by_freq=by_freq)
        (y * minidl.tensor(np.arange(8.0).reshape(4, 2))).sum().backward()
        grads.append(w.grad.numpy())
    np.testing.assert_allclose(grads[1], grads[0] / np.maximum(np.bincount(WORDS), 1)[:, None], rtol=1e-15)
    for n, lib in ((nn, minidl), (torch.nn, torch)):
        with pytest.raises(ValueError, match="max mode does not support scaling"):
            n.EmbeddingBag(7, 3, mode="max", scale_grad_by_freq=True)(lib.tensor([[1]]))


def test_the_maximum_of_equals_sends_its_gradient_to_the_first():
    for n, lib in ((nn, minidl), (torch.nn, torch)):
        bag = n.EmbeddingBag.from_pretrained(lib.tensor([[1.0, 2.0], [1.0, 0.0], [1.0, 2.0]]), False, mode="max")
        bag(lib.tensor([[2, 1, 0]])).sum().backward()
        assert bag.weight.grad.tolist() == [[0, 0], [0, 0], [1, 1]]


def test_tables_from_elsewhere():
    table = minidl.randn(5, 3)
    for layer in (nn.Embedding, nn.EmbeddingBag):
        frozen, free = layer.from_pretrained(table), layer.from_pretrained(table, freeze=False, padding_idx=1)
        assert frozen.weight.array is table.array
        assert (frozen.weight.requires_grad, free.weight.requires_grad) == (False, True)
        assert free.padding_idx == 1
        for make in (lambda: layer.from_pretrained(minidl.ones(3)), lambda: layer(3, 2, _weight=minidl.ones(2, 3)),
                     lambda: layer(3, 2, padding_idx=3), lambda: layer(3, 2, padding_idx=-4)):  # fmt: skip
            with pytest.raises(AssertionError):
                make()
        with pytest.raises(NotImplementedError, match="sparse=True needs sparse gradients"):
            layer(3, 2, sparse=True)


def test_indices_after_the_last_end_are_left_out():
    w, ends = minidl.tensor(np.eye(4), requires_grad=True), minidl.tensor([0, 1, 3])
    weights = minidl.tensor(np.arange(5.0), requires_grad=True)
    y = F.embedding_bag(
        minidl.tensor([0, 1, 2, 3, 3]), w, ends, mode="sum", include_last_offset=True, per_sample_weights=weights
    )
    assert y.tolist() == [[0, 0, 0, 0], [0, 1, 2, 0]]
    y.sum().backward()
    assert w.grad.tolist() == [[i] * 4 for i in (0, 1, 2, 0)]
    assert weights.grad.tolist() == [1, 1, 1, 0, 0]


def test_max_norm_is_seen_by_those_who_saved_the_table():
    w = minidl.tensor(np.full((2, 2), 3.0), requires_grad=True)
    loss = (w * w).sum()
    F.embedding(minidl.tensor([1]), w, max_norm=1.0)
    with pytest.raises(RuntimeError, match="changed by an in-place operation"):
        loss.backward()


@pytest.mark.parametrize(("error", "message", "args", "options"), [
    (ValueError, "offsets has to be a 1D Tensor but got None", ([1, 2],), {}),
    (ValueError, "offsets has to be a 1D Tensor", ([1, 2], [[0]]), {}),
    (ValueError, "if input is 2D, then offsets has to be None", ([[1, 2]], [0]), {}),
    (ValueError, "input has to be 1D or 2D Tensor, but got Tensor of dimension 3", ([[[1, 2]]],), {}),
    (ValueError, "mode has to be one of sum, mean or max", ([[1, 2]],), {"mode": "min"}),
    (RuntimeError, r"offsets\[0\] has to be 0", ([1, 2], [1]), {}),
    (RuntimeError, r"offsets\[-1\] can not be greater than input's length", ([1, 2], [0, 3]), {}),
    (RuntimeError, "number of offset should be at least 1", ([1, 2], np.zeros(0, int)), {"include_last_offset": True}),
    (RuntimeError, ".", ([[1.0, 2.0]],), {}),
    (NotImplementedError, "only supported for mode='sum'", ([[1, 2]],), {"weights": (1, 2)}),
    (ValueError, "must have the same shape as the input", ([[1, 2]],), {"weights": (2,), "mode": "sum"}),
])  # fmt: skip
def test_what_does_not_fit_is_refused_as_by_torch(error, message, args, options):
    for n, lib in ((F, minidl), (torch.nn.functional, torch)):
        w = lib.ones(4, 3)
        rest = {k: v for k, v in options.items() if k != "weights"}
        if "weights" in options:
            rest["per_sample_weights"] = lib.ones(*options["weights"])
        with pytest.raises(error, match=message):
            n.embedding_bag(lib.tensor(args[0]), w, *[lib.tensor(a) for a in args[1:]], **rest)
    with pytest.raises(RuntimeError):  # ends that fall: torch raises on some runs, and on others reads what it finds
        F.embedding_bag(minidl.tensor([1, 2, 1]), minidl.ones(4, 3), minidl.tensor([0, 2, 1]))
    with pytest.raises(IndexError, match="index 4 is out of range for a table of 4 rows"):
        F.embedding_bag(minidl.tensor([[4]]), minidl.ones(4, 3))
    with pytest.raises(RuntimeError, match="same dtype"):
        F.embedding_bag(
            minidl.tensor([[3]]), minidl.ones(4, 3), mode="sum", per_sample_weights=minidl.ones(1, 1).double()
        )
    with pytest.raises(NotImplementedError, match="sparse"):
        F.embedding_bag(minidl.tensor([[3]]), minidl.ones(4, 3), sparse=True)
