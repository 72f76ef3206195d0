"""Every module of torch's own test database: what torch tests its layers with, minidl's of the same name must pass.

The database (``torch.testing._internal.common_modules.module_db``) says for each class how it is made and called, and
which calls must fail. For each of these minidl's module gets torch's weights; compared are state_dict keys and repr,
outputs, gradients of inputs and parameters, second derivatives, buffers after the call, the same with inputs whose
memory is strided and by copies made with deepcopy and pickle, and the class of errors.

Tolerance. Both engines run in the same precision on the same numbers; the truth is torch in float64 on those numbers.
In float32 minidl may be off by twice what torch's own float32 is off (largest error of the tensor) plus 32 eps of its
largest element, for cases where torch happens to round luckily. In float64 the truth is torch itself, and both round:
sums here have fewer than 1,000 terms of the size of the result, so 1e-12 of the largest element is above
2 * 1000 * eps = 4.4e-13, and below any mistake; second derivatives go through three times as many sums: 1e-11.
Elements that cancel to 0 are held against the largest number that went in, so sizes are at least 1.
"""

import copy
import pickle
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

import minidl
import minidl.nn.functional as F
from minidl import nn

EPS32 = float(np.finfo(np.float32).eps)
DTYPES = {"float32": torch.float32, "float64": torch.float64}
MANY = 8  # entries of a class that the quick tests take; the slow ones take all
INFOS = {info.module_cls.__name__: info for info in module_db}

# Classes of the database that minidl does not offer, and why.
VOLUMES = "layers on volumes (N, C, D, H, W): minidl goes up to images"
LAZY = "layers that learn their sizes from the first input: minidl's parameters have shapes when they are made"
NOT_OFFERED = {
    **dict.fromkeys(("AdaptiveAvgPool3d", "AdaptiveMaxPool3d", "AvgPool3d", "MaxPool3d", "LPPool3d"), VOLUMES),
    **dict.fromkeys(("Conv3d", "ConvTranspose3d", "BatchNorm3d", "InstanceNorm3d", "FractionalMaxPool3d"), VOLUMES),
    **dict.fromkeys((f"LazyConv{n}d" for n in (1, 2, 3)), LAZY),
    **dict.fromkeys((f"LazyConvTranspose{n}d" for n in (1, 2, 3)), LAZY),
    "FractionalMaxPool2d": "it draws its regions at random in torch's own order",
    "LinearCrossEntropyLoss": "new and still changing in torch 2.13; Linear and CrossEntropyLoss give its numbers",
    "CTCLoss": "speech and handwriting in lines: not among what minidl is for, so far",
}
OFFERED = [name for name in INFOS if name not in NOT_OFFERED]
every_module = pytest.mark.parametrize("name", OFFERED)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)

# How far off torch itself is, where it is: {class: what of it, relative error, why}.
TORCH_IS_OFF = {
    "BCELoss": ("second", 1e-9, "its second derivative adds 1e-12 to p and 1 - p, of the order of 0.01 here, squared"),
}


def test_the_list_of_what_is_not_offered_is_true():
    assert set(NOT_OFFERED) <= set(INFOS)
    assert [name for name in OFFERED if not hasattr(nn, name)] == []
    assert [name for name in NOT_OFFERED if hasattr(nn, name)] == []


# -- from torch to minidl ---------------------------------------------------------------------------------------------


def to_minidl(value):
    """The same value for minidl: tensors, dtypes, functions and modules in lists, tuples and dicts."""
    if isinstance(value, torch.dtype):
        return getattr(minidl, str(value).removeprefix("torch."))
    if isinstance(value, torch.nn.TransformerEncoderLayer):
        return nn.TransformerEncoderLayer(
            value.self_attn.embed_dim, value.self_attn.num_heads, value.linear1.out_features, value.dropout.p,
            value.activation.__name__, value.norm1.eps, value.self_attn.batch_first, value.norm_first,
            value.linear1.bias is not None, dtype=to_minidl(value.linear1.weight.dtype),
        )  # fmt: skip
    if callable(value) and not isinstance(value, torch.Tensor):
        return getattr(F, value.__name__)
    return value


def packed(t):
    return minidl.tensor(t.detach().numpy().copy()).requires_grad_(t.requires_grad)


def strided(t):
    """The same numbers, each with an empty place after it in memory."""
    array = t.detach().numpy()
    wide = np.zeros((*array.shape, 2), array.dtype)
    wide[..., 0] = array
    return minidl.from_numpy(wide[..., 0]).requires_grad_(t.requires_grad)


def doubled(t):
    return (t.detach().double() if t.is_floating_point() else t.detach().clone()).requires_grad_(t.requires_grad)


def each(value, fn, done=None):
    """The same structure with fn of each tensor, and what is not torch's; a tensor given twice is one afterwards."""
    done = {} if done is None else done
    if isinstance(value, (list, tuple)):
        return type(value)(each(v, fn, done) for v in value)
    if isinstance(value, dict):
        return {k: each(v, fn, done) for k, v in value.items()}
    if isinstance(value, torch.Tensor):
        if id(value) not in done:
            done[id(value)] = fn(value)
        return done[id(value)]
    return value if fn is doubled else to_minidl(value)


def tensors(value, kind):
    """The tensors in nested lists, tuples and dicts, in order."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from tensors(v, kind)
    elif isinstance(value, dict):
        for v in value.values():
            yield from tensors(v, kind)


def samples(info, training, dtype):
    torch.manual_seed(3)
    return info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training)


def build(cls, args, kwargs, training, dtype):
    """A module as torch's tests make it. Dropout is off: the two engines draw different numbers."""
    module = cls(*args, **kwargs).to(dtype)
    module.train(training)
    for m in module.modules():
        if type(m).__name__ == "Dropout":
            m.p = 0.0
        elif type(m).__name__ == "MultiheadAttention":
            m.dropout = 0.0
    return module


# -- what a module does -----------------------------------------------------------------------------------------------


def run(module, call, lib, second):
    """{what: array} of outputs, gradients, second derivatives if asked for, and buffers after one call and backward."""
    args, kwargs = call
    rng = np.random.default_rng(5)
    dot_with = lambda t: lib.tensor(rng.standard_normal(tuple(t.shape)).astype(str(t.dtype).split(".")[-1]))
    grad = torch.autograd.grad if lib is torch else minidl.autograd.grad
    outputs = list(tensors(module(*args, **kwargs), lib.Tensor))
    found = {f"output {i}": y for i, y in enumerate(outputs)}
    wanted = {f"gradient of input {i}": t for i, t in enumerate(tensors(call, lib.Tensor)) if t.requires_grad}
    wanted |= {f"gradient of {name}": p for name, p in module.named_parameters()}
    curved = [y for y in outputs if y.requires_grad]
    if curved and wanted:
        grads = grad(
            curved, list(wanted.values()), [dot_with(y) for y in curved], create_graph=second, allow_unused=True
        )
        found |= {what: g for what, g in zip(wanted, grads, strict=True) if g is not None}
        curved = [g for g in grads if g is not None and g.requires_grad]
        if second and curved:
            grads = grad(curved, list(wanted.values()), [dot_with(g) for g in curved], allow_unused=True)
            found |= {f"second {what}": g for what, g in zip(wanted, grads, strict=True) if g is not None}
    found |= {f"buffer {name}": b for name, b in module.named_buffers()}
    force = {"force": True} if lib is torch else {}  # torch has zeros that are not in memory
    return {what: t.detach().numpy(**force).copy() for what, t in found.items()}


def outcome(fn):
    """(what it gave, None) or (None, the error)."""
    # torch has its second derivative of attention in the plain path alone; of its warnings, those on a layer's use
    with warnings.catch_warnings(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        warnings.simplefilter("ignore")
        try:
            return fn(), None
        except Exception as error:
            return None, error


def off_by(name, what):
    """The relative error allowed in float64: see the top."""
    part, error, _ = TORCH_IS_OFF.get(name, ("none", 0.0, ""))
    return max(1e-11 if what.startswith("second") else 1e-12, error if what.startswith(part) else 0.0)


def compare(name, ours, theirs, truth, dtype):
    """What is wrong with minidl's results: a list of sentences."""
    faults = []
    for what in {**theirs, **ours}:
        if what not in ours or what not in theirs:
            # the gradient of what was not used may be None or zeros
            if np.any(theirs.get(what, 0) != ours.get(what, 0)):
                faults.append(f"{what}: only {'torch' if what in theirs else 'minidl'} has it")
            continue
        a, t, exact = ours[what], theirs[what], truth.get(what, theirs[what])
        if a.shape != t.shape or a.dtype != t.dtype:
            faults.append(f"{what}: {a.dtype} {a.shape}, torch's {t.dtype} {t.shape}")
            continue
        finite = np.isfinite(exact)
        if a.dtype.kind != "f" or not np.array_equal(a[~finite], t[~finite], equal_nan=True):
            faults += [] if np.array_equal(a, t, equal_nan=True) else [f"{what}: {a}, torch's {t}"]
        elif finite.any():
            a, t, exact = a[finite], t[finite], exact[finite]
            size = max(1.0, np.abs(exact).max())
            if dtype == "float64":
                allowed = off_by(name, what) * size
            else:
                allowed = 2 * np.abs(t - exact).max() + 32 * EPS32 * size
            error = np.abs(a - exact).max()
            if not error <= allowed:
                faults.append(f"{what}: error {error:.3g}, allowed {allowed:.3g}")
    return faults


def check(name, sample, training, dtype):
    """All faults of minidl's module for one entry of the database."""
    second = dtype == "float64" and INFOS[name].supports_gradgrad
    args, kwargs = sample.constructor_input.args, sample.constructor_input.kwargs
    theirs, error = outcome(lambda: build(INFOS[name].module_cls, args, kwargs, training, DTYPES[dtype]))
    assert error is None, error
    ours, error = outcome(
        lambda: build(getattr(nn, name), *each((args, kwargs), packed), training, getattr(minidl, dtype))
    )
    if error is not None:
        return [f"cannot be made: {error!r}"]
    state = {k: v.numpy() for k, v in theirs.state_dict().items()}
    have = {k: v.numpy() for k, v in ours.state_dict().items()}
    what = lambda arrays: [(k, a.dtype, a.shape) for k, a in arrays.items()]
    if what(have) != what(state):
        return [f"state_dict {what(have)}, torch's {what(state)}"]
    faults = []
    if repr(ours) != repr(theirs).replace("NonDynamicallyQuantizableLinear", "Linear"):  # a class of torch's quantizer
        faults.append(f"repr {ours!r}, torch's {theirs!r}")
    ours.load_state_dict(state)
    if sample.forward_input is None:
        return faults
    copied, unpickled = copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))
    exact = copy.deepcopy(theirs).double()
    given = sample.forward_input.args, sample.forward_input.kwargs
    call, apart = each(given, packed), each(given, strided)
    a, error = outcome(lambda: run(theirs, given, torch, second))
    if error is not None and "derivative for" in str(error):  # torch has no second one
        second = False
        a, error = outcome(lambda: run(theirs, given, torch, second))
    b, our_error = outcome(lambda: run(ours, call, minidl, second))
    if error is not None or our_error is not None:
        if type(error) is type(our_error):
            return faults
        return [*faults, f"torch: {error!r}, minidl: {our_error!r}"]
    before = [t.detach().numpy() for t in tensors(given, torch.Tensor)]
    after = [t.detach().numpy() for t in tensors(call, minidl.Tensor)]
    if not all(np.array_equal(x, y, equal_nan=True) for x, y in zip(before, after, strict=True)):
        faults.append("an input was changed")
    truth = a if dtype == "float64" else outcome(lambda: run(exact, each(given, doubled), torch, False))[0]
    faults += compare(name, b, a, truth, dtype)
    c, error = outcome(lambda: run(copied, apart, minidl, second))
    faults += [f"strided inputs, copied: {f}" for f in ([repr(error)] if error else compare(name, c, a, truth, dtype))]
    d, error = outcome(lambda: run(unpickled, call, minidl, second))
    faults += [
        f"unpickled: {k}"
        for k in ([repr(error)] if error else b)
        if error or not np.array_equal(d[k], b[k], equal_nan=True)
    ]
    if not repr(ours) == repr(copied) == repr(unpickled):
        faults.append(f"copies: {copied!r} {unpickled!r}")
    return faults


def check_all(name, dtype, most=None):
    info, faults = INFOS[name], []
    for training in (True, False) if info.train_and_eval_differ else (True,):
        entries = samples(info, training, DTYPES[dtype])
        for i in range(0, len(entries), 1 if most is None else -(-len(entries) // most)):
            s = entries[i]
            made = f"{name}{s.constructor_input.args}{s.constructor_input.kwargs} ({s.desc}), training={training}"
            faults += [f"{i} {made}: {fault}" for fault in check(name, s, training, dtype)]
    assert not faults, "\n".join(faults)


@every_module
@every_dtype
def test_module_is_torchs(name, dtype):
    check_all(name, dtype, MANY)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [n for n in OFFERED if len(samples(INFOS[n], True, torch.float32)) > MANY])
@every_dtype
def test_module_is_torchs_in_every_entry(name, dtype):
    check_all(name, dtype)


# -- a checkpoint of torch's -------------------------------------------------------------------------------------------


@every_module
def test_a_file_of_torchs_loads_strictly(name, tmp_path):
    """As safetensors and as .pth, with numbers that no module starts with: the same outputs and gradients.

    Of each class the first entry that is called and has something to load, if any has.
    """
    for sample in samples(INFOS[name], False, torch.float32):
        made, given = sample.constructor_input, sample.forward_input
        theirs, _ = outcome(lambda: build(INFOS[name].module_cls, made.args, made.kwargs, False, torch.float32))
        state = theirs.state_dict()
        if state and given is not None:
            break
    else:
        assert not nn.Module.state_dict(getattr(nn, name)(*each(made.args, packed), **each(made.kwargs, packed)))
        return
    with torch.no_grad():
        for t in state.values():
            if t.is_floating_point():
                t.add_(0.125)
    torch.save(state, tmp_path / "layer.pth")
    safetensors.torch.save_file({k: v.contiguous().clone() for k, v in state.items()}, tmp_path / "layer.safetensors")
    call = given.args, given.kwargs
    want, _ = outcome(lambda: run(theirs, call, torch, False))
    truth, _ = outcome(lambda: run(copy.deepcopy(theirs).double(), each(call, doubled), torch, False))
    for file in ("layer.pth", "layer.safetensors"):
        ours = build(getattr(nn, name), *each((made.args, made.kwargs), packed), False, minidl.float32)
        result = ours.load_state_dict(minidl.load(tmp_path / file), strict=True)
        assert (list(result.missing_keys), list(result.unexpected_keys)) == ([], [])
        assert [k for k, v in state.items() if not np.array_equal(ours.state_dict()[k].numpy(), v.numpy())] == []
        assert compare(name, run(ours, each(call, packed), minidl, False), want, truth, "float32") == []


# -- what a module refuses, and how it is called ----------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in OFFERED if INFOS[name].module_error_inputs_func])
def test_module_refuses_what_torchs_refuses(name):
    info, faults = INFOS[name], []
    torch.manual_seed(3)
    options = {"device": "cpu", "dtype": torch.float64, "requires_grad": False, "training": True}
    cases = info.module_error_inputs_func(info, **options)
    assert cases
    for case in cases:
        made, given = case.module_error_input.constructor_input, case.module_error_input.forward_input
        module, error = outcome(lambda: getattr(nn, name)(*each(made.args, packed), **each(made.kwargs, packed)))
        if case.error_on is ModuleErrorEnum.FORWARD_ERROR and error is None:
            _, error = outcome(lambda: module(*each(given.args, packed), **each(given.kwargs, packed)))
        if not isinstance(error, case.error_type):
            faults.append(
                f"{made.args} {made.kwargs}: {error!r}, torch's {case.error_type.__name__}: {case.error_regex}"
            )
    assert not faults, "\n".join(faults)
