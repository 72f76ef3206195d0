"""Quantization: the formula on arrays, and models that really run in integers."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minidl_kernels as kernels
from minidl import nn, random
from minidl.autograd import no_grad
from minidl.compress import (
    absmax_scale,
    dequantize_,
    dequantize_array,
    masks,
    prune_,
    quantize_,
    quantize_array,
)
from minidl.data import DataLoader, TensorDataset
from minidl.storage import Int8
from minidl.tensors import wrap

EPS = float(np.finfo(np.float32).eps)
weights = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=5),
    elements=st.floats(-(2.0**40), 2.0**40, width=32, allow_subnormal=False),
)


def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def images(n=6):
    return wrap(random.normal((n, 1, 4, 4)))


def run(model, x):
    with no_grad():
        return model.eval()(x).array


# -- arrays -----------------------------------------------------------------------------------------------------------


@given(weights, st.integers(2, 8))
def test_symmetric_error_is_at_most_half_a_step(w, bits):
    scale = absmax_scale(w, bits)
    high = 2 ** (bits - 1) - 1
    q = quantize_array(w, scale, bits=bits)
    assert q.dtype == np.int8
    assert abs(q.astype(int)).max() <= high
    back = dequantize_array(q, scale).astype(np.float64)
    s = scale.reshape(-1, *(1,) * (w.ndim - 1)).astype(np.float64)
    # Beside s/2: the float32 quotient w/s may round across a half, and q*s is rounded; each by at most |w| eps.
    # Where a channel is below float32's normal range its scale is 1 and all of it rounds to 0.
    assert (abs(back - w) <= s / 2 + 2 * EPS * abs(w.astype(np.float64))).all()
    tops = abs(w).reshape(len(w), -1).max(1)
    used = scale != 1
    assert (abs(q.astype(int)).reshape(len(w), -1).max(1)[used] == high).all()
    assert (scale[tops == 0] == 1).all()


@given(
    hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-300, 300, width=32)),
    st.floats(2**-6, 4, width=32),
    st.integers(-100, 100),
    st.integers(2, 8),
)
def test_affine_form_clamps_and_comes_back(x, scale, zero_point, bits):
    high = 2 ** (bits - 1) - 1
    low = -high if zero_point == 0 else -high - 1
    if not low <= zero_point <= high:
        with pytest.raises(ValueError, match="zero_point must lie in"):
            quantize_array(x, scale, zero_point, bits, axis=None)
        return
    codes = quantize_array(x, scale, zero_point, bits, axis=None)
    back, q = dequantize_array(codes, scale, zero_point, axis=None).astype(np.float64), codes.astype(int)
    assert (q >= low).all()
    assert (q <= high).all()
    inside = (x / scale + zero_point > low) & (x / scale + zero_point < high)
    assert (abs(back - x)[inside] <= scale / 2 + 2 * EPS * abs(x[inside])).all()
    assert (q[x / np.float32(scale) + zero_point >= high] == high).all()
    assert (q[x / np.float32(scale) + zero_point <= low] == low).all()


def test_rounding_is_half_to_even_and_axes_are_told_apart():
    assert quantize_array(np.float32([0.5, 1.5, 2.5, -0.5]), 1.0, axis=None).tolist() == [0, 2, 2, 0]
    w = np.float32([[127, 2], [254, 4]])
    assert absmax_scale(w).tolist() == [1, 2]
    assert absmax_scale(w, axis=1).tolist() == absmax_scale(w, axis=-1).tolist() == [2, np.float32(4 / 127)]
    assert absmax_scale(w, axis=None).tolist() == 2
    assert quantize_array(w, [1, 2]).tolist() == [[127, 2], [127, 2]]
    assert quantize_array(w, [2, 4], axis=1).tolist() == [[64, 0], [127, 1]]


def test_zero_channels_and_numbers_too_small_to_divide_by():
    w = np.float32([[0, 0], [1e-44, 0], [3e38, -3e38]])
    scale = absmax_scale(w)
    assert scale[:2].tolist() == [1, 1]
    q = quantize_array(w, scale)
    assert q.tolist() == [[0, 0], [0, 0], [127, -127]]
    assert np.isfinite(dequantize_array(q, scale)).all()


def test_bad_arguments():
    w = np.ones((2, 2), np.float32)
    for bits in (1, 9, 8.0, True, None):
        with pytest.raises(ValueError, match="bits must be an integer in 2"):
            absmax_scale(w, bits)
    for scale in (0.0, -1.0, np.nan, np.inf, [1.0, 0.0]):
        with pytest.raises(ValueError, match="positive and finite"):
            quantize_array(w, scale)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="NaN or infinity"):
            absmax_scale(np.float32([[1, bad]]))


# -- models -----------------------------------------------------------------------------------------------------------


def test_quantize_changes_storage_and_nothing_else():
    model = net()
    before = dict(model.named_parameters())
    floats = {name: p.array.copy() for name, p in before.items()}
    assert quantize_(model) is model
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    for name, p in after.items():
        if name.endswith("bias"):
            assert (p.array == floats[name]).all()
            assert p.requires_grad
            continue
        assert isinstance(p.array, Int8)
        assert not p.requires_grad
        assert p.array.x_scale is None
        assert (p.array.scale == absmax_scale(floats[name])).all()
        assert (p.array.q == quantize_array(floats[name], absmax_scale(floats[name]))).all()
    assert "int8" in repr(model)
    assert "Int8(shape=(8, 16)" in repr(model[3].weight)


def test_the_model_runs_on_the_integer_kernels(monkeypatch):
    """Every layer's product is asked of int8_linear or int8_conv2d with int8 weights, and no float product is left."""
    model, x = quantize_(net()), images()
    layer = model[3].weight.array
    assert kernels.which("int8_linear", np.zeros((6, 16), np.float32), layer.q, layer.scale) != "reference"
    calls = []

    def spy(name, real):
        def call(x, w, *args, **kw):
            calls.append((name, w.dtype))
            return real(x, w, *args, **kw)

        return call

    for name in ("int8_linear", "int8_conv2d", "linear", "conv2d", "matmul"):
        monkeypatch.setattr(kernels, name, spy(name, getattr(kernels, name)))
    run(model, x)
    assert calls == [("int8_conv2d", np.int8), ("int8_linear", np.int8), ("int8_linear", np.int8)]


def test_the_model_is_the_reference_bit_for_bit():
    model, x = quantize_(prune_(net(), 0.6), calibration=images()), images()
    fast = run(model, x)
    with kernels.use(int8_linear="reference", int8_conv2d="reference"):
        assert (run(model, x) == fast).all()


@pytest.mark.parametrize("static", [False, True])
def test_logits_stay_close(static):
    model, x = net(), images(64)
    exact = run(model, x)
    quantize_(model, calibration=x if static else None)
    error = run(model, x) - exact
    # Each of three layers adds a relative error of a few times 1/254 (weights, activations); they compound to < 10 %.
    assert np.sqrt((error**2).mean()) < 0.1 * np.sqrt((exact**2).mean())
    assert error.any()


def test_calibration_records_each_layers_input():
    model, x = net().train(), images(10)
    seen = {}
    handles = [
        layer.register_forward_pre_hook(lambda m, args, i=i: seen.__setitem__(i, abs(args[0].array).max()))
        for i, layer in enumerate(model)
        if i in (0, 3, 5)
    ]
    run(model, x)
    for handle in handles:
        handle.remove()
    model.train()
    for data in (
        x,
        x.array,
        [x.array[:4], x.array[4:]],
        DataLoader(TensorDataset(x, wrap(np.zeros(10, np.int64))), batch_size=3),
    ):
        quantized = quantize_(copy.deepcopy(model), calibration=data)
        assert quantized.training
        for i, top in seen.items():
            # the deep copy and batches of another size may sum in another order
            assert quantized[i].weight.array.x_scale == pytest.approx(top / 127, rel=1e-5)
        assert not any(m._forward_pre_hooks for m in quantized.modules())


def test_masks_stay_and_dequantize_brings_floats_back():
    model = prune_(net(), 0.7)
    floats = {name: p.array.copy() for name, p in model.named_parameters()}
    kept = {name: m.copy() for name, m in masks(model).items()}
    quantize_(model)
    assert {name: m.tolist() for name, m in masks(model).items()} == {name: m.tolist() for name, m in kept.items()}
    assert all(not model.get_parameter(name).array.q[~m].any() for name, m in kept.items())
    assert dequantize_(model) is model
    for name, p in model.named_parameters():
        assert p.array.dtype == np.float32
        assert p.requires_grad
        if name in kept:
            s = absmax_scale(floats[name]).reshape(-1, *(1,) * (p.ndim - 1))
            assert (abs(p.array - floats[name]) <= s / 2 * (1 + 4 * EPS)).all()
            assert not p.array[~kept[name]].any()
            assert (p.mask == kept[name]).all()


def test_skipping_twice_and_copies():
    model = quantize_(net(), skip="0")
    assert model[0].weight.array.dtype == np.float32
    first = model[3].weight.array
    quantize_(model)  # what is left
    assert model[3].weight.array is first
    assert isinstance(model[0].weight.array, Int8)
    with pytest.raises(ValueError, match="no Linear, Conv2d.*with a float weight left"):
        quantize_(model)
    x = images()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert (run(twin, x) == run(model, x)).all()
        assert twin[3].weight.array.q is not first.q


def test_state_dict_carries_int8_and_masks():
    model, x = quantize_(prune_(net(), 0.5)), images()
    other = net()
    other.load_state_dict(model.state_dict())
    assert (run(other, x) == run(model, x)).all()
    assert {n: m.tolist() for n, m in masks(other).items()} == {n: m.tolist() for n, m in masks(model).items()}
    float_again = net()
    model.load_state_dict(float_again.state_dict())
    assert model[3].weight.array.dtype == np.float32
    assert model[3].weight.requires_grad


class Tied(nn.Module):
    """One weight that embeds tokens and scores them."""

    def __init__(self, max_norm=None):
        super().__init__()
        self.embed = nn.Embedding(5, 4, max_norm=max_norm)
        self.inner = nn.Linear(4, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.inner(self.embed(x)))


def test_a_weight_that_an_embedding_shares_stays_one_object():
    model, x = quantize_(Tied()), wrap(np.array([[0, 4], [2, 2]]))
    w = model.embed.weight.array
    assert model.head.weight is model.embed.weight
    assert isinstance(w, Int8)
    with no_grad():
        y = model(x).array
        assert (model.embed(x).array == w.dequantize()[x.array]).all()
    assert y.shape == (2, 2, 5)
    for name in ("embed", "head.weight"):  # one object under two names: either skips it
        model = quantize_(Tied(), skip=name)
        assert isinstance(model.inner.weight.array, Int8)
        assert model.head.weight.array.dtype == np.float32
    with pytest.raises(ValueError, match=r"embed\.weight is shared with embed, which cannot read packed.*skip="):
        quantize_(Tied(max_norm=1.0))


def test_errors_leave_the_model_as_it_was():
    model = net()
    nan = images()
    nan.array[0, 0, 0, 0] = np.nan
    bad = [
        (dict(bits=1), ValueError, r"bits must be an integer in 2 \.\.\. 8"),
        (dict(bits=9), ValueError, r"bits must be an integer in 2 \.\.\. 8"),
        (dict(bits="8"), ValueError, r"bits must be an integer in 2 \.\.\. 8"),
        (dict(symmetric=False), ValueError, "pass weight_only=True"),
        (dict(per="group", group=4), ValueError, "pass weight_only=True"),
        (dict(bits=4, per="group", group=5), ValueError, "0.weight: groups of 5 do not divide the 9 inputs"),
        (dict(bits=4, per="group"), ValueError, "goes with a group size"),
        (dict(bits=4, per="row"), ValueError, "per must be"),
        (dict(bits=4, calibration=images()), ValueError, "no calibration"),
        (dict(skip="nope"), ValueError, "nothing is called 'nope'"),
        (dict(calibration=[]), ValueError, "calibration data are empty"),
        (dict(calibration=nan), ValueError, "NaN or infinity in the activations, at the input of 0"),
    ]
    for arguments, error, message in bad:
        with pytest.raises(error, match=message):
            quantize_(model, **arguments)
        assert not any(p.packed for p in model.parameters())
    model[5].weight.array[1, 1] = np.inf
    with pytest.raises(ValueError, match=r"5\.weight.*NaN or infinity"):
        quantize_(model)
    with pytest.raises(TypeError, match=r"0\.weight: a weight of float64"):
        quantize_(net().double())
    with pytest.raises(ValueError, match="no Linear, Conv2d"):
        quantize_(nn.Sequential(nn.ReLU()))
    assert not any(p.packed for p in model.parameters())
