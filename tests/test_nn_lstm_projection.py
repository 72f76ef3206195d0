"""LSTM(proj_size=...) against torch's: layouts, outputs, states, gradients, packed sequences.

Tolerances as in test_nn_recurrent.py: some hundred sums of at most 20 terms of size 1.
"""

import numpy as np
import pytest
import torch

import minidl
from minidl import nn

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")  # torch's speed
TOLERANCE = {"float64": 1e-10, "float32": 1e-4}
RNG = np.random.default_rng(5)

OPTIONS = [
    {}, {"num_layers": 2}, {"bidirectional": True}, {"num_layers": 3, "bidirectional": True}, {"bias": False},
    {"batch_first": True, "num_layers": 2},
]  # fmt: skip


def close(ours, theirs, dtype):
    a, t = ours.detach().numpy(), theirs.detach().numpy()
    assert (a.shape, a.dtype) == (t.shape, t.dtype)
    np.testing.assert_allclose(a, t, rtol=0, atol=TOLERANCE[dtype] * max(1, np.abs(t).max()))


def twins(dtype, **options):
    theirs, ours = (n.LSTM(3, 5, proj_size=2, **options) for n in (torch.nn, nn))
    theirs.to(getattr(torch, dtype)), ours.to(getattr(minidl, dtype))
    assert repr(ours) == repr(theirs)
    assert [(k, tuple(v.shape)) for k, v in ours.state_dict().items()] == [
        (k, tuple(v.shape)) for k, v in theirs.state_dict().items()
    ]
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    assert [len(w) for w in ours.all_weights] == [len(w) for w in theirs.all_weights]
    return ours, theirs


def both(dtype, *shape):
    a = RNG.standard_normal(shape).astype(dtype)
    return minidl.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)


def compare(ours, theirs, outputs, t_outputs, leaves, dtype):
    for a, t in zip(outputs, t_outputs, strict=True):
        close(a, t, dtype)
    seeds = [RNG.standard_normal(tuple(t.shape)).astype(dtype) for t in t_outputs]
    sum((a * minidl.tensor(s)).sum() for a, s in zip(outputs, seeds)).backward()
    sum((t * torch.tensor(s)).sum() for t, s in zip(t_outputs, seeds)).backward()
    for a, t in [*leaves, *zip(ours.parameters(), theirs.parameters(), strict=True)]:
        close(a.grad, t.grad, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("given", [False, True])
def test_layer_is_torchs(options, given, dtype):
    ours, theirs = twins(dtype, **options)
    count = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    x, t = both(dtype, 4, 6, 3)
    states = [both(dtype, count, 4 if options.get("batch_first") else 6, n) for n in (2, 5)]
    m_hx, t_hx = ([s[i] for s in states] for i in (0, 1))
    y, (h, c) = ours(x, tuple(m_hx) if given else None)
    u, (th, tc) = theirs(t, tuple(t_hx) if given else None)
    compare(ours, theirs, (y, h, c), (u, th, tc), [(x, t), *(states if given else [])], dtype)


def test_packed_and_unbatched():
    ours, theirs = twins("float64", num_layers=2, bidirectional=True)
    x, t = both("float64", 5, 3, 3)
    pack, t_pack = nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pack_padded_sequence
    y, (h, c) = ours(pack(x, [2, 5, 3], enforce_sorted=False))
    u, (th, tc) = theirs(t_pack(t, [2, 5, 3], enforce_sorted=False))
    compare(ours, theirs, (y.data, h, c), (u.data, th, tc), [(x, t)], "float64")
    x, t = both("float64", 5, 3)
    ours.zero_grad(), theirs.zero_grad()
    (y, (h, c)), (u, (th, tc)) = ours(x), theirs(t)
    compare(ours, theirs, (y, h, c), (u, th, tc), [(x, t)], "float64")


def test_states_of_other_sizes_are_refused():
    for n, lib in ((nn, minidl), (torch.nn, torch)):
        layer = n.LSTM(3, 5, proj_size=2)
        for h, c, message in ((5, 5, r"\[1, 1, 5\]"), (2, 2, r"\[1, 1, 2\]")):
            with pytest.raises(RuntimeError, match=message):
                layer(lib.ones(4, 1, 3), (lib.ones(1, 1, h), lib.ones(1, 1, c)))
    with pytest.raises(RuntimeError, match=r"w_hr \(P, H\)"):
        minidl.autograd.TABLE["projected_lstm_scan"](*(minidl.ones(1, 1) for _ in range(5)), [1])
