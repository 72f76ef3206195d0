"""Recurrent layers against torch, by copying weights: outputs, states, gradients, packed sequences, errors.

Tolerance. In float64 both engines round some hundred sums of at most 20 terms of size 1: 1e-10 is far above the
500 * 20 * eps = 2e-12 that this can add up to, and far below a mistake. In float32, where eps is 1.2e-7, the same count
gives 1.2e-3 at worst; the rounding errors are independent, so their sum is sqrt(10000) eps = 1.2e-5 of the largest
element, and 1e-4 leaves room for the bigger gradients.
"""

import itertools
import warnings

import numpy as np
import pytest
import torch

import minidl
from minidl import nn
from minidl.ops.recurrent import gru_scan, lstm_scan, rnn_scan

TOLERANCE = {"float64": 1e-10, "float32": 1e-4}
RNG = np.random.default_rng(5)


def close(ours, theirs, dtype="float64"):
    a, t = ours.detach().numpy(), theirs.detach().numpy()
    assert a.shape == t.shape
    assert a.dtype == t.dtype
    bound = TOLERANCE[dtype] * max(1.0, np.abs(t).max(initial=0))
    assert (np.abs(a - t) <= bound).all(), np.abs(a - t).max()


def twins(kind, dtype, *args, **kwargs):
    """The same layer with the same weights in torch and in minidl."""
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # dropout in a single layer, tested below
        theirs, ours = (getattr(n, kind)(*args, **kwargs) for n in (torch.nn, nn))
    theirs.to(getattr(torch, dtype))
    ours.to(getattr(minidl, dtype))
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict({k: v.numpy() for k, v in state.items()})
    return theirs, ours


def pair(*shape, dtype="float64"):
    a = RNG.standard_normal(shape).astype(dtype)
    return torch.tensor(a, requires_grad=True), minidl.tensor(a, requires_grad=True)


def flat(y):
    if isinstance(y, (tuple, list)):
        return [t for part in y for t in flat(part)]
    return [y] if y is not None and y.dtype in (torch.float32, torch.float64, minidl.float32, minidl.float64) else []


def compare(theirs, ours, t_out, m_out, leaves, dtype):
    """Outputs, then the gradients of a random sum of them in the inputs and the parameters."""
    t_out, m_out = flat(t_out), flat(m_out)
    assert len(t_out) == len(m_out) > 0
    for t, m in zip(t_out, m_out):
        close(m, t, dtype)
    seeds = [RNG.standard_normal(tuple(t.shape)).astype(dtype) for t in t_out]
    sum((t * torch.tensor(s)).sum() for t, s in zip(t_out, seeds)).backward()
    sum((m * minidl.tensor(s)).sum() for m, s in zip(m_out, seeds)).backward()
    for t, m in leaves:
        close(m.grad, t.grad, dtype)
    for (name, t), m in zip(theirs.named_parameters(), ours.parameters()):
        if t.grad is None:
            assert m.grad is None, name
        else:
            close(m.grad, t.grad, dtype)


KINDS = [("RNN", {}), ("RNN", {"nonlinearity": "relu"}), ("LSTM", {}), ("GRU", {})]
OPTIONS = [
    {},
    {"num_layers": 2, "batch_first": True},
    {"bidirectional": True, "bias": False},
    {"num_layers": 3, "bidirectional": True},
]


def initial(kind, *shape, dtype):
    h = pair(*shape, dtype=dtype)
    if kind != "LSTM":
        return h[0], h[1], [h]
    c = pair(*shape, dtype=dtype)
    return (h[0], c[0]), (h[1], c[1]), [h, c]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("kind", "extra"), KINDS)
def test_layer_equals_torch(kind, extra, options, given, dtype):
    theirs, ours = twins(kind, dtype, 3, 4, **extra, **options)
    x = pair(5, 6, 3, dtype=dtype)
    batch = 5 if options.get("batch_first") else 6
    layers = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    leaves = [x]
    args = ([x[0]], [x[1]])
    if given:
        t, m, more = initial(kind, layers, batch, 4, dtype=dtype)
        args[0].append(t), args[1].append(m)
        leaves += more
    compare(theirs, ours, theirs(*args[0]), ours(*args[1]), leaves, dtype)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_without_a_batch(kind, batch_first, given):
    theirs, ours = twins(kind, "float64", 3, 4, 2, bidirectional=True, batch_first=batch_first)
    x = pair(5, 3)
    t, m, leaves = initial(kind, 4, 4, dtype="float64")
    args = ((x[0], t), (x[1], m)) if given else ((x[0],), (x[1],))
    compare(theirs, ours, theirs(*args[0]), ours(*args[1]), [x, *leaves] if given else [x], "float64")


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize(("p", "training"), [(1.0, True), (0.5, False)])
def test_dropout_between_layers(kind, p, training):
    """Probability 1 leaves nothing to chance: the second layer sees zeros. In evaluation dropout does nothing."""
    theirs, ours = (m.train(training) for m in twins(kind, "float64", 3, 4, 2, dropout=p))
    x = pair(5, 2, 3)
    compare(theirs, ours, theirs(x[0]), ours(x[1]), [], "float64")


def test_dropout_keeps_the_share_it_should():
    """8000 outputs of layer 0, each kept with probability 0.75 and then scaled: within 5 standard deviations."""
    layer = nn.RNN(1, 8, 2, dropout=0.25)
    with minidl.no_grad():
        layer.weight_ih_l1.zero_(), layer.bias_ih_l1.zero_(), layer.weight_hh_l1.zero_(), layer.bias_hh_l1.zero_()
        layer.weight_ih_l1[0, 0] = 1.0
        layer.weight_hh_l0.zero_(), layer.weight_ih_l0.zero_(), layer.bias_hh_l0.zero_()
        layer.bias_ih_l0.fill_(0.5)
    y, _ = layer(minidl.zeros(1000, 8, 1))
    seen = y[..., 0].detach().numpy()
    kept = seen != 0
    assert abs(kept.mean() - 0.75) < 5 * np.sqrt(0.75 * 0.25 / kept.size)
    np.testing.assert_allclose(seen[kept], np.tanh(np.tanh(0.5) / 0.75), rtol=1e-5)


LENGTHS = [4, 1, 5, 2, 4]


def packed_pair(dtype="float64", sort=False, batch_first=False):
    lengths = sorted(LENGTHS, reverse=True) if sort else LENGTHS
    x = pair(5, 5, 3, dtype=dtype)
    t = torch.nn.utils.rnn.pack_padded_sequence(x[0], torch.tensor(lengths), batch_first, enforce_sorted=sort)
    m = nn.utils.rnn.pack_padded_sequence(x[1], lengths, batch_first, enforce_sorted=sort)
    return x, t, m


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("sort", [False, True])
@pytest.mark.parametrize(("kind", "extra"), KINDS)
def test_packed_equals_torch(kind, extra, sort, given, dtype):
    theirs, ours = twins(kind, dtype, 3, 4, 2, bidirectional=True, **extra)
    x, t, m = packed_pair(dtype, sort)
    args = ([t], [m])
    leaves = [x]
    if given:
        t, m, more = initial(kind, 4, 5, 4, dtype=dtype)
        args[0].append(t), args[1].append(m)
        leaves += more
    (t_y, t_h), (m_y, m_h) = theirs(*args[0]), ours(*args[1])
    assert isinstance(m_y, nn.utils.rnn.PackedSequence)
    t_y, t_n = torch.nn.utils.rnn.pad_packed_sequence(t_y)
    m_y, m_n = nn.utils.rnn.pad_packed_sequence(m_y)
    assert m_n.tolist() == t_n.tolist()
    compare(theirs, ours, [t_y, t_h], [m_y, m_h], leaves, dtype)


@pytest.mark.parametrize(("kind", "extra"), KINDS)
def test_packed_equals_one_by_one(kind, extra):
    """Padding changes nothing: each sequence alone gives the rows that it gives in the packed batch."""
    _, ours = twins(kind, "float64", 3, 4, 2, bidirectional=True, **extra)
    (_, x), _, packed = packed_pair()
    y, h = ours(packed)
    rows = nn.utils.rnn.unpack_sequence(y)
    for b, n in enumerate(LENGTHS):
        alone, h_alone = ours(x[:n, b])
        np.testing.assert_allclose(rows[b].detach().numpy(), alone.detach().numpy(), rtol=0, atol=1e-13)
        for state, state_alone in zip(flat([h]), flat([h_alone])):
            np.testing.assert_allclose(state.detach().numpy()[:, b], state_alone.detach().numpy(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("sort", [False, True])
def test_packing_and_padding_equal_torch(batch_first, sort):
    x, t, m = packed_pair("float64", sort, batch_first)
    np.testing.assert_array_equal(m.data.detach().numpy(), t.data.detach().numpy())
    assert m.batch_sizes.tolist() == t.batch_sizes.tolist()
    for ours, theirs in ((m.sorted_indices, t.sorted_indices), (m.unsorted_indices, t.unsorted_indices)):
        assert (ours is None) == (theirs is None)
        assert ours is None or ours.tolist() == theirs.tolist()
    for kwargs in ({}, {"batch_first": True, "padding_value": 2.5}, {"total_length": 7}):
        t_y, t_n = torch.nn.utils.rnn.pad_packed_sequence(t, **kwargs)
        m_y, m_n = nn.utils.rnn.pad_packed_sequence(m, **kwargs)
        np.testing.assert_array_equal(m_y.detach().numpy(), t_y.detach().numpy())
        assert m_n.tolist() == t_n.tolist()
    (t_y**2).sum().backward()
    (m_y**2).sum().backward()
    close(x[1].grad, x[0].grad)


def test_pad_pack_unpack_sequences():
    pairs = [pair(n, 2) for n in (2, 4, 1)]
    theirs, ours = [p[0] for p in pairs], [p[1] for p in pairs]
    for kwargs in ({}, {"batch_first": True}, {"padding_value": -1.0}, {"padding_side": "left", "batch_first": True}):
        t = torch.nn.utils.rnn.pad_sequence(theirs, **kwargs)
        m = nn.utils.rnn.pad_sequence(ours, **kwargs)
        close(m, t)
    packed = nn.utils.rnn.pack_sequence(ours, enforce_sorted=False)
    close(packed.data, torch.nn.utils.rnn.pack_sequence(theirs, enforce_sorted=False).data)
    for back, x in zip(nn.utils.rnn.unpack_sequence(packed), ours):
        np.testing.assert_array_equal(back.detach().numpy(), x.detach().numpy())
    integers = nn.utils.rnn.pad_sequence([minidl.tensor([1, 2]), minidl.tensor([3])], padding_value=9)
    assert integers.tolist() == [[1, 3], [2, 9]]
    assert integers.dtype == minidl.int64
    assert packed.float().data.dtype == minidl.float32
    assert packed.float().double().data.dtype == packed.to(minidl.float64).data.dtype == minidl.float64
    time_first = nn.utils.rnn.unpad_sequence(nn.utils.rnn.pad_sequence(ours), minidl.tensor([2, 4, 1]))
    assert [tuple(s.shape) for s in time_first] == [(2, 2), (4, 2), (1, 2)]
    assert nn.utils.rnn.invert_permutation(minidl.tensor([2, 0, 1])).tolist() == [1, 2, 0]
    assert nn.utils.rnn.invert_permutation(None) is None


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize(("kind", "extra"), KINDS)
def test_cell_equals_torch(kind, extra, given, batched, bias, dtype):
    theirs, ours = twins(kind + "Cell", dtype, 3, 4, bias=bias, **extra)
    lead = (5,) if batched else ()
    x = pair(*lead, 3, dtype=dtype)
    t, m, leaves = initial(kind, *lead, 4, dtype=dtype)
    args = ((x[0], t), (x[1], m)) if given else ((x[0],), (x[1],))
    compare(theirs, ours, theirs(*args[0]), ours(*args[1]), [x, *leaves] if given else [x], dtype)
    assert repr(ours) == repr(theirs)


def test_a_layer_is_its_cell_step_by_step():
    layer, cell = nn.LSTM(3, 4), nn.LSTMCell(3, 4)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    x = minidl.randn(6, 2, 3)
    y, (h, c) = layer(x)
    state = None
    for t in range(6):
        state = cell(x[t], state)
        np.testing.assert_allclose(state[0].detach().numpy(), y[t].detach().numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(state[1].detach().numpy(), c[0].detach().numpy(), rtol=0, atol=1e-6)


def test_initial_values():
    """Uniform on +-1/sqrt(H): 4900 draws have mean 0 and variance 1/(3 H) within 5 standard deviations."""
    layer = nn.LSTM(20, 25, bidirectional=True)
    w = np.concatenate([p.detach().numpy().ravel() for p in layer.parameters()])
    assert np.abs(w).max() <= 0.2
    assert np.abs(w).max() > 0.199
    assert abs(w.mean()) < 5 * 0.2 / np.sqrt(3 * w.size)
    assert abs((w**2).mean() - 0.04 / 3) < 5 * 0.04 * np.sqrt(4 / 45 / w.size)
    assert len(layer.all_weights) == 2
    assert [len(ws) for ws in layer.all_weights] == [4, 4]
    layer.flatten_parameters()


SCANS = [
    ("rnn", rnn_scan, 1, 1, {}),
    ("rnn-relu", rnn_scan, 1, 1, {"nonlinearity": "relu"}),
    ("lstm", lstm_scan, 4, 2, {}),
    ("gru", gru_scan, 3, 1, {}),
]
SIZES = [[3, 2, 2, 1], [2], [1, 1, 1]]


def arguments(name, gates, states, sizes, h=2):
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal((sum(sizes), gates * h))]
    arrays += [rng.standard_normal((sizes[0], h)) for _ in range(states)]
    arrays += [rng.standard_normal((gates * h, h))] + ([rng.standard_normal(gates * h)] if name == "gru" else [])
    return [minidl.tensor(a, requires_grad=True) for a in arrays]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("name", "scan", "gates", "states", "kwargs"), SCANS)
def test_scan_is_differentiated_rightly(name, scan, gates, states, kwargs, sizes, reverse):
    """First order by the loop written by hand, second order by the definition; both against finite differences."""
    args = arguments(name, gates, states, sizes)

    def f(*inputs):
        return scan(*inputs, sizes, reverse, **kwargs)

    assert minidl.gradcheck(f, args)
    assert minidl.gradgradcheck(f, args)
    for y, exact in zip(f(*args), scan.definition(*args, sizes, reverse, **kwargs)):
        np.testing.assert_allclose(y.detach().numpy(), exact.detach().numpy(), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("name", "scan", "gates", "states", "kwargs"), SCANS)
def test_scan_on_arrays_leaves_its_inputs_alone(name, scan, gates, states, kwargs):
    arrays = [t.detach().numpy() for t in arguments(name, gates, states, [3, 2])]
    before = [a.copy() for a in arrays]
    ys = scan(*arrays, [3, 2], **kwargs)
    assert all(type(y) is np.ndarray for y in ys)
    for a, b in zip(arrays, before):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize(("scan", "gates", "states"), [(rnn_scan, 1, 1), (lstm_scan, 4, 2), (gru_scan, 3, 1)])
def test_inputs_changed_since_are_told(scan, gates, states, create_graph):
    shapes = [(4, gates * 2), *[(2, 2)] * states, (gates * 2, 2), *([(6,)] if scan is gru_scan else [])]
    for changed in range(len(shapes)):
        leaves = [minidl.randn(*shape, requires_grad=True) for shape in shapes]
        args = [leaf * 1 for leaf in leaves]
        y = scan(*args, [2, 2])[0]
        with minidl.no_grad():
            args[changed].add_(1)
        with pytest.raises(RuntimeError, match="changed by an in-place"):
            minidl.autograd.grad(y.sum(), leaves, create_graph=create_graph)


@pytest.mark.parametrize(("name", "scan", "gates", "states", "kwargs"), SCANS)
def test_scan_in_half_precision(name, scan, gates, states, kwargs):
    """Computed in float32 and rounded once: within one unit in the last place of float16 of the float64 result."""
    args = [minidl.tensor(t.detach().numpy().astype(np.float16), requires_grad=True)
            for t in arguments(name, gates, states, [3, 2])]  # fmt: skip
    ys = scan(*args, [3, 2], **kwargs)
    exact = scan(*[t.detach().numpy().astype(np.float64) for t in args], [3, 2], **kwargs)
    for y, e in zip(ys, exact):
        assert y.dtype == minidl.float16
        np.testing.assert_allclose(y.detach().numpy().astype(np.float64), e, rtol=2**-10, atol=2**-14)
    sum(y.sum() for y in ys).backward()
    assert all(t.grad.dtype == minidl.float16 and np.isfinite(t.grad.numpy()).all() for t in args)


def test_gates_far_from_zero_saturate_without_warnings():
    for kind in ("LSTM", "GRU"):
        layer = getattr(nn, kind)(1, 2)
        x = minidl.tensor([[[3e4]], [[-3e4]]], requires_grad=True)
        y, _ = layer(x)
        y.sum().backward()
        assert np.isfinite(y.detach().numpy()).all()
        assert np.isfinite(x.grad.numpy()).all()


def test_changed_weights_are_noticed():
    layer = nn.GRU(2, 3)
    y, _ = layer(minidl.zeros(2, 1, 2))
    with minidl.no_grad():
        layer.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="in-place"):
        y.sum().backward()


def test_an_lstm_learns_to_add():
    """Two of six numbers are marked; their sum is asked for. The mean alone leaves 1/6 of squared error."""
    model, head = nn.LSTM(2, 16), nn.Linear(16, 1)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = minidl.optim.Adam(parameters, lr=0.01)
    rng = np.random.default_rng(0)
    for _ in range(300):
        x = rng.random((6, 64, 2)).astype(np.float32)
        marks = np.argsort(rng.random((6, 64)), 0) < 2
        x[..., 1] = marks
        target = minidl.tensor((x[..., 0] * marks).sum(0))
        loss = nn.functional.mse_loss(head(model(minidl.tensor(x))[0][-1])[:, 0], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.03


def test_errors():
    x = minidl.zeros(5, 2, 3)
    lstm, gru = nn.LSTM(3, 4), nn.GRU(3, 4)
    for error, match, call in [
        (ValueError, "proj_size has to be smaller than hidden_size", lambda: nn.LSTM(3, 4, proj_size=4)),
        (ValueError, "proj_size should be a positive integer", lambda: nn.LSTM(3, 4, proj_size=-1)),
        (ValueError, "only supported for LSTM", lambda: nn.RNNBase("GRU", 3, 4, proj_size=2)),
        (ValueError, "nonlinearity", lambda: nn.RNN(3, 4, nonlinearity="elu")),
        (ValueError, "nonlinearity", lambda: nn.RNNCell(3, 4, nonlinearity="elu")),
        (ValueError, "dropout", lambda: nn.GRU(3, 4, 2, dropout=1.5)),
        (ValueError, "hidden_size", lambda: nn.GRU(3, 0)),
        (ValueError, "num_layers", lambda: nn.GRU(3, 4, 0)),
        (TypeError, "hidden_size should be of type int", lambda: nn.GRU(3, 4.0)),
        (ValueError, "Unrecognized RNN mode", lambda: nn.RNNBase("lstm", 3, 4)),
        (ValueError, "2D or 3D, got 1D", lambda: gru(x[0, 0])),
        (RuntimeError, "Expected 3, got 2", lambda: gru(minidl.zeros(5, 2, 2))),
        (ValueError, "does not match weight dtype", lambda: gru(x.double())),
        (RuntimeError, "larger than 0", lambda: gru(x[:0])),
        (RuntimeError, r"Expected hidden size \(1, 2, 4\), got \[1, 3, 4\]", lambda: gru(x, minidl.zeros(1, 3, 4))),
        (RuntimeError, "Expected cell size", lambda: lstm(x, (minidl.zeros(1, 2, 4), minidl.zeros(1, 2, 3)))),
        (RuntimeError, "should also be 3-D", lambda: gru(x, minidl.zeros(2, 4))),
        (RuntimeError, "should also be 2-D", lambda: gru(x[:, 0], minidl.zeros(1, 1, 4))),
        (RuntimeError, "must have one dtype", lambda: gru(x, minidl.zeros(1, 2, 4).double())),
        (TypeError, r"pair \(h, c\)", lambda: lstm(x, minidl.zeros(1, 2, 4))),
        (TypeError, r"pair \(h, c\)", lambda: nn.LSTMCell(3, 4)(x[0], minidl.zeros(2, 4))),
        (ValueError, "1D or 2D, got 3D", lambda: nn.GRUCell(3, 4)(x)),
        (ValueError, "hidden to be 1D or 2D", lambda: nn.GRUCell(3, 4)(x[0], minidl.zeros(1, 2, 4))),
        (RuntimeError, "input_size is 2", lambda: nn.GRUCell(2, 4)(x[0])),
        (RuntimeError, r"\(3, 4\), expected \(2, 4\)", lambda: nn.GRUCell(3, 4)(x[0], minidl.zeros(3, 4))),
        (RuntimeError, "batch_sizes add up", lambda: rnn_scan(np.zeros((4, 2)), np.zeros((2, 2)), np.eye(2), [2])),
        (RuntimeError, "must not grow", lambda: rnn_scan(np.zeros((4, 2)), np.zeros((1, 2)), np.eye(2), [1, 3])),
        (RuntimeError, r"\(L, 1 H\)", lambda: rnn_scan(np.zeros((4, 3)), np.zeros((1, 2)), np.eye(2), [4])),
    ]:  # fmt: skip
        with pytest.raises(error, match=match):
            call()
    pack, unpack = nn.utils.rnn.pack_padded_sequence, nn.utils.rnn.pad_packed_sequence
    for error, match, call in [
        (RuntimeError, "sorted in decreasing order", lambda: pack(x, [3, 5])),
        (RuntimeError, "greater than 0", lambda: pack(x, [3, 0])),
        (RuntimeError, "more than the 5 steps", lambda: pack(x, [6, 1])),
        (RuntimeError, "batch_size 2", lambda: pack(x, [5])),
        (RuntimeError, "padded batch", lambda: pack(x[0, 0], [5])),
        (RuntimeError, "Cannot pack empty", lambda: pack(x[:, :0], [])),
        (ValueError, "total_length", lambda: unpack(pack(x, [5, 3]), total_length=4)),
        (RuntimeError, "iterable", lambda: nn.utils.rnn.pad_sequence(3)),
        (RuntimeError, "empty list", lambda: nn.utils.rnn.pad_sequence([])),
        (RuntimeError, "left or right", lambda: nn.utils.rnn.pad_sequence([x], padding_side="top")),
    ]:
        with pytest.raises(error, match=match):
            call()
    with pytest.warns(UserWarning, match="num_layers greater than 1"):
        nn.RNN(3, 4, dropout=0.5)


def test_torch_raises_where_minidl_does():
    """The same mistakes, the same kinds of error."""
    for kind, given in itertools.product(("RNN", "LSTM", "GRU"), ((5, 2, 2), (5,), (0, 2, 3))):
        raised = []
        for n, zeros in ((torch.nn, torch.zeros), (nn, minidl.zeros)):
            with pytest.raises((RuntimeError, ValueError)) as info:
                getattr(n, kind)(3, 4)(zeros(*given))
            raised.append(info.value)
        assert isinstance(raised[1], type(raised[0])), raised


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_int8_weights_run_the_integer_kernel_at_every_step(kind):
    """Both weights packed: the same as the recurrence written with linear() on the packed weights, and its gradient.

    The integer products are equal bit for bit unless a state lies on the edge between two roundings to int8, which
    moves a gate by less than 1/127 of a weight: with three steps of this seed none does, and floats leave some 1e-6.
    """
    from minidl.storage import Int8

    layer = getattr(nn, kind)(4, 8)
    packed = {}
    for name in ("weight_ih_l0", "weight_hh_l0"):
        w = getattr(layer, name).detach().numpy()
        scale = (np.abs(w).max(1) / 127).astype(np.float32)
        packed[name] = Int8(np.rint(w / scale[:, None]).astype(np.int8), scale)
        setattr(layer, name, nn.Parameter(packed[name]))
    a = RNG.standard_normal((3, 2, 4)).astype(np.float32)
    x, twin = (minidl.tensor(a, requires_grad=True) for _ in range(2))
    y, _ = layer(x)
    b_ih, b_hh = layer.bias_ih_l0, layer.bias_hh_l0
    scan = {"RNN": rnn_scan, "LSTM": lstm_scan, "GRU": gru_scan}[kind]
    gx = nn.functional.linear(twin.reshape(6, 4), layer.weight_ih_l0, b_ih if kind == "GRU" else b_ih + b_hh)
    states = [minidl.zeros(2, 8) for _ in range(2 if kind == "LSTM" else 1)]
    exact, *_ = scan.definition(gx, *states, layer.weight_hh_l0, *([b_hh] if kind == "GRU" else []), [2, 2, 2])
    close(y.reshape(6, 8), exact, "float32")
    y.sum().backward(), exact.sum().backward()
    close(x.grad, twin.grad, "float32")
