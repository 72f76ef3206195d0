"""Module, Parameter and the containers: the tree, its names and state, modes, hooks, errors; as torch's."""

import copy
import gc
import pickle
import threading
import weakref
from collections import OrderedDict

import numpy as np
import pytest
import torch

import minidl
from minidl import nn
from minidl.storage import Int8


def net(lib):
    """A model with every kind of member, made the same way in torch and minidl."""

    class Block(lib.Module):
        def __init__(self, n):
            super().__init__()
            self.conv = lib.Conv2d(n, n, 3, padding=1)
            self.norm = lib.BatchNorm2d(n)

        def forward(self, x):
            return x + self.norm(self.conv(x)).relu()

    class Net(lib.Module):
        def __init__(self):
            super().__init__()
            self.stem = lib.Conv2d(1, 2, 3)
            self.blocks = lib.ModuleList([Block(2), Block(2)])
            self.heads = lib.ModuleDict({"a": lib.Linear(2, 3), "b": lib.Linear(2, 3, bias=False)})
            self.scale = lib.Parameter((torch if lib is torch.nn else minidl).ones(1))
            self.register_buffer("offset", (torch if lib is torch.nn else minidl).zeros(2))
            self.register_buffer("cache", (torch if lib is torch.nn else minidl).zeros(2), persistent=False)
            self.nothing = None
            self.last = lib.Sequential(OrderedDict(act=lib.ReLU(), drop=lib.Dropout(0.1)))

        def forward(self, x, head="a"):
            x = self.stem(x)
            for block in self.blocks:
                x = block(x)
            x = x.mean((2, 3)) + self.offset
            return self.last(self.heads[head](x)) * self.scale

    return Net()


def loaded_pair():
    theirs, ours = net(torch.nn), net(nn)
    ours.load_state_dict({k: v.numpy().copy() for k, v in theirs.state_dict().items()})
    return theirs, ours


# -- the tree ---------------------------------------------------------------------------------------------------------


def test_names_orders_and_text_are_torchs():
    theirs, ours = net(torch.nn), net(nn)
    for name in ("named_parameters", "named_buffers", "named_modules", "named_children"):
        assert [k for k, _ in getattr(ours, name)()] == [k for k, _ in getattr(theirs, name)()], name
        plain = getattr(ours, name.removeprefix("named_"))()
        assert all(a is b for a, (_, b) in zip(plain, getattr(ours, name)(), strict=True))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert repr(ours) == repr(theirs)
    assert [k for k, _ in ours.named_parameters("p", recurse=False)] == ["p.scale"]
    assert "stem" in dir(ours)
    assert "scale" in dir(ours)


def test_forward_and_gradients_of_the_whole_model():
    theirs, ours = loaded_pair()
    x = np.random.default_rng(0).standard_normal((4, 1, 6, 6)).astype(np.float32)
    theirs.eval(), ours.eval()
    for head in "ab":
        y, oy = theirs(torch.tensor(x), head), ours(minidl.tensor(x), head)
        # float32, sums of at most 36 terms through 6 layers
        np.testing.assert_allclose(oy.detach().numpy(), y.detach().numpy(), rtol=1e-5, atol=1e-5)
    y.sum().backward()
    oy.sum().backward()
    for (name, p), o in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        assert (p.grad is None) == (o.grad is None), name
        if p.grad is not None:
            np.testing.assert_allclose(o.grad.numpy(), p.grad.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)


def test_shared_modules_and_parameters_count_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.out = nn.Linear(3, 5, bias=False)
            self.out.weight = self.embed.weight
            self.again = self.out

    tied = Tied()
    assert [k for k, _ in tied.named_parameters()] == ["embed.weight"]
    assert [k for k, _ in tied.named_parameters(remove_duplicate=False)] == [
        "embed.weight",
        "out.weight",
        "again.weight",
    ]
    assert [k for k, _ in tied.named_modules()] == ["", "embed", "out"]
    assert [k for k, _ in tied.named_modules(remove_duplicate=False)] == ["", "embed", "out", "again"]
    assert [k for k, _ in tied.named_children()] == ["embed", "out"]
    assert list(tied.state_dict()) == ["embed.weight", "out.weight", "again.weight"]
    twin = copy.deepcopy(tied)
    assert twin.out.weight is twin.embed.weight is not tied.embed.weight
    assert twin.again is twin.out
    back = pickle.loads(pickle.dumps(nn.Sequential(tied.out, tied.out)))
    assert back[0] is back[1]
    tied.out.weight.grad = minidl.ones(5, 3)
    optimizer = minidl.optim.SGD(tied.parameters(), 1.0)
    before = tied.embed.weight.detach().numpy().copy()
    optimizer.step()
    np.testing.assert_array_equal(tied.embed.weight.detach().numpy(), before - 1)


def test_assignment_registers_replaces_and_forgets():
    m = nn.Module()
    m.a = 3
    m.a = nn.Parameter(minidl.ones(2))
    assert "a" not in m.__dict__
    assert dict(m.named_parameters()).keys() == {"a"}
    m.a = nn.Linear(1, 1)
    assert list(m._parameters) == []
    assert m.a.in_features == 1
    m.a = None
    assert dict(m.named_children()) == {}
    assert m.a is None
    with pytest.raises(
        TypeError, match=r"cannot assign 'int' as child module 'a' \(minidl.nn.Module or None expected\)"
    ):
        m.a = 4
    m.b = nn.Parameter(minidl.ones(2))
    with pytest.raises(TypeError, match=r"cannot assign 'minidl.tensors.Tensor' as parameter 'b'"):
        m.b = minidl.ones(2)
    m.b = None
    assert m.b is None
    m.register_buffer("c", minidl.ones(2))
    m.c = minidl.zeros(2)
    assert not m._buffers["c"].numpy().any()
    with pytest.raises(TypeError, match="cannot assign 'float' as buffer 'c'"):
        m.c = 1.0
    m.d = nn.Buffer(minidl.ones(3), persistent=False)
    assert [k for k, _ in m.named_buffers()] == ["c", "d"]
    assert list(m.state_dict()) == ["c"]
    m.d = nn.Parameter(minidl.ones(3))
    assert list(m.state_dict()) == ["d", "c"]
    del m.d, m.c
    assert list(m.state_dict()) == []
    m.plain = 1
    del m.plain
    for name in ("d", "plain"):
        with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
            getattr(m, name)
        with pytest.raises(AttributeError):
            delattr(m, name)


def test_registering_checks_names_and_types():
    m = nn.Linear(2, 2)
    for register, value in ((m.register_parameter, nn.Parameter(minidl.ones(1))), (m.register_buffer, minidl.ones(1)),
                            (m.add_module, nn.ReLU())):  # fmt: skip
        with pytest.raises(KeyError, match="already exists"):
            register("forward", value)
        with pytest.raises(KeyError, match="can.+t contain"):
            register("a.b", value)
        with pytest.raises(KeyError, match="be empty string"):
            register("", value)
        with pytest.raises(TypeError, match="should be a string"):
            register(3, value)
    with pytest.raises(KeyError, match="already exists"):
        m.register_buffer("weight", minidl.ones(1))
    with pytest.raises(TypeError, match="Parameter or None required"):
        m.register_parameter("p", minidl.ones(1))
    with pytest.raises(TypeError, match="Tensor or None required"):
        m.register_buffer("p", np.ones(1))
    with pytest.raises(TypeError, match="not a Module subclass"):
        m.add_module("p", "layer")
    m.register_module("child", nn.ReLU())
    assert "child" in m._modules


@pytest.mark.parametrize(("value", "what"), [
    (lambda: nn.Parameter(minidl.ones(1)), "parameters"), (nn.ReLU, "module"),
    (lambda: nn.Buffer(minidl.ones(1)), "buffer"),
])  # fmt: skip
def test_forgotten_super_init(value, what):
    class Forgot(nn.Module):
        def __init__(self):
            self.member = value()

    with pytest.raises(AttributeError, match=f"cannot assign {what} before Module.__init__\\(\\) call"):
        Forgot()

    class Empty(nn.Module):
        def __init__(self):
            self.size = 3

        def forward(self, x):
            return x

    with pytest.raises(AttributeError, match="super"):
        Empty()(1)


def test_looking_up_by_path():
    m = net(nn)
    assert m.get_submodule("") is m
    assert m.get_submodule("blocks.1.conv") is m.blocks[1].conv
    assert m.get_parameter("heads.a.weight") is m.heads["a"].weight
    assert m.get_buffer("blocks.0.norm.running_mean") is m.blocks[0].norm.running_mean
    with pytest.raises(AttributeError, match="has no attribute `2`"):
        m.get_submodule("blocks.2")
    with pytest.raises(AttributeError, match=r"`weight` is not an nn.Module"):
        m.get_submodule("stem.weight")
    with pytest.raises(AttributeError, match=r"`forward` is not an nn.Parameter"):
        m.get_parameter("stem.forward")
    with pytest.raises(AttributeError, match="has no attribute `gone`"):
        m.get_buffer("stem.gone")


def test_apply_goes_from_the_leaves_up():
    seen = []
    m = nn.Sequential(nn.Sequential(nn.ReLU()), nn.Tanh())
    assert m.apply(lambda x: seen.append(type(x).__name__)) is m
    assert seen == ["ReLU", "Sequential", "Tanh", "Sequential"]


def test_missing_forward_says_so():
    class Half(nn.Module):
        pass

    with pytest.raises(NotImplementedError, match=r'Module \[Half\] is missing the required "forward" function'):
        Half()(1)


# -- containers -------------------------------------------------------------------------------------------------------


def test_sequential_is_a_row():
    a, b, c = nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)
    s = nn.Sequential(a, b, c)
    assert (len(s), s[0], s[-1], list(s)) == (3, a, c, [a, b, c])
    assert not nn.Sequential()
    assert isinstance(s[1:], nn.Sequential)
    assert list(s[1:]._modules) == ["1", "2"]
    assert s.append(nn.Tanh()) is s
    assert s.pop() is not c
    s.insert(0, nn.Flatten())
    assert list(s._modules) == ["0", "1", "2", "3"]
    assert s[1] is a
    del s[0]
    s[1] = nn.Tanh()
    assert [type(m).__name__ for m in s] == ["Linear", "Tanh", "Linear"]
    s.extend([nn.ReLU(), nn.ReLU()])
    del s[3:]
    assert len(s + nn.Sequential(b)) == 4
    s += nn.Sequential(b)
    assert s[3] is b
    with pytest.raises(IndexError, match="index 4 is out of range"):
        s[4]
    with pytest.raises(TypeError, match="not a Module subclass"):
        s.append(minidl.relu)
    with pytest.raises(TypeError, match="not a Module subclass"):
        nn.Sequential(nn.ReLU(), None, lambda x: x)
    with pytest.raises(TypeError, match="not a Module subclass"):
        s.insert(0, 3)
    with pytest.raises(TypeError, match="iterable"):
        s.extend(3)
    for other in (3, nn.ReLU()):
        with pytest.raises(ValueError, match="only objects of Sequential"):
            s + other
    with pytest.raises(ValueError, match="only objects of Sequential"):
        s += 3


def test_named_sequential_keeps_its_names():
    s = nn.Sequential(OrderedDict(first=nn.Linear(1, 1), second=nn.ReLU(), third=nn.Tanh()))
    del s[1]
    assert list(s._modules) == ["first", "third"]
    assert s.first is s[0]
    assert list(s[:1]._modules) == ["first"]


def test_module_list_and_dict():
    layers = nn.ModuleList([nn.ReLU(), nn.ReLU()])
    layers += [nn.Tanh()]
    assert len(layers + [nn.Tanh()]) == 4
    assert isinstance(layers[:2], nn.ModuleList)
    assert repr(layers) == "ModuleList(\n  (0-1): 2 x ReLU()\n  (2): Tanh()\n)"
    assert "0" not in dir(layers)
    with pytest.raises(NotImplementedError, match="ModuleList"):
        layers(1)
    choices = nn.ModuleDict([("a", nn.ReLU())])
    choices["b"] = nn.Tanh()
    choices.update({"c": nn.Linear(1, 1)})
    assert (list(choices), len(choices), "b" in choices) == (["a", "b", "c"], 3, True)
    assert [k for k, _ in choices.items()] == list(choices.keys())
    assert next(iter(choices.values())) is choices["a"]
    choices["a"] = nn.Tanh()
    assert list(choices) == ["a", "b", "c"]
    assert isinstance(choices.pop("a"), nn.Tanh)
    del choices["b"]
    assert [k for k, _ in choices.named_parameters()] == ["c.weight", "c.bias"]
    choices.clear()
    assert len(choices) == 0
    with pytest.raises(KeyError, match="already exists"):
        choices["keys"] = nn.ReLU()
    with pytest.raises(TypeError, match="iterable"):
        choices.update(3)
    with pytest.raises(ValueError, match="element #0"):
        choices.update([("a",)])


def test_parameter_list():
    ps = nn.ParameterList([nn.Parameter(minidl.ones(2)), minidl.zeros(3)])
    ps += [minidl.ones(1)]
    assert [k for k, _ in ps.named_parameters()] == ["0", "1", "2"]
    assert all(p.requires_grad for p in ps)
    ps[-1] = minidl.zeros(4)
    assert (len(ps), ps[2].shape, len(ps[1:])) == (3, (4,), 2)
    assert "(1): Parameter of minidl.float32, (3,)" in repr(ps)
    with pytest.raises(IndexError):
        ps[3]
    with pytest.raises(TypeError, match="holds Tensors"):
        ps.append(3.0)
    with pytest.raises(TypeError, match="iterable"):
        ps.extend(minidl.ones(2))


# -- parameters -------------------------------------------------------------------------------------------------------


def test_parameter_shares_its_data_and_shows_as_torchs():
    t = minidl.ones(2, 2)
    p = nn.Parameter(t)
    assert p.array is t.array
    assert p.is_leaf
    assert p.requires_grad
    assert repr(p) == repr(torch.nn.Parameter(torch.ones(2, 2)))
    assert not nn.Parameter(t, requires_grad=False).requires_grad
    assert nn.Parameter(p * 2).is_leaf
    assert type(p * 2) is minidl.Tensor
    assert isinstance(p, minidl.Tensor)
    assert nn.Parameter(np.float64([1])).dtype == minidl.float64
    assert nn.Parameter().shape == (0,)
    assert nn.Parameter(np.float32(2.0)).shape == ()
    with pytest.raises(RuntimeError, match="floating point"):
        nn.Parameter(minidl.tensor([1]))
    with pytest.raises(TypeError, match="not list"):
        nn.Parameter([1.0])


def test_parameter_copies_keep_the_mask_and_drop_the_gradient():
    p = nn.Parameter(minidl.ones(3))
    p.mask = np.array([1, 0, 1])
    p.grad = minidl.ones(3)
    assert p.mask.dtype == bool
    for twin in (copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        assert type(twin) is nn.Parameter
        assert twin.requires_grad
        assert twin.grad is None
        np.testing.assert_array_equal(twin.mask, [True, False, True])
        assert twin.mask is not p.mask
        assert twin.array is not p.array
    p.apply_mask_()
    np.testing.assert_array_equal(p.detach().numpy(), [1, 0, 1])
    p.mask = minidl.tensor([True, True, False])
    p.mask = None
    assert p.mask is None
    with pytest.raises(ValueError, match=r"mask has shape \(2,\)"):
        p.mask = np.ones(2)
    with pytest.raises(ValueError, match="only 0"):
        p.mask = np.float32([0, 0.5, 1])


def test_applying_a_mask_drops_nan_and_is_seen_by_saved_tensors():
    p = nn.Parameter(np.float32([np.nan, 2.0, np.inf, -np.inf, -3.0]))
    p.mask = np.array([False, True, False, False, False])
    y = (p * p).sum()
    p.apply_mask_()
    np.testing.assert_array_equal(p.detach().numpy(), [0, 2, 0, 0, 0])
    assert not np.signbit(p.detach().numpy()).any()
    half = nn.Parameter(np.full(3, 60000, np.float16))  # whose sum overflows
    half.mask = np.array([True, True, False])
    half.apply_mask_()
    np.testing.assert_array_equal(half.detach().numpy(), np.float16([60000, 60000, 0]))
    with pytest.raises(RuntimeError, match="changed by an in-place"):
        y.backward()


def packed(p):
    """A weight as int8, one scale an output."""
    w = p.detach().numpy().reshape(len(p.array), -1)
    scale = np.maximum(np.abs(w).max(1), 1e-12) / 127
    return Int8(np.rint(w / scale[:, None]).astype(np.int8).reshape(p.shape), scale.astype(np.float32))


def test_packed_weights_in_a_module():
    m = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
    dense = copy.deepcopy(m)
    w = m[0].weight
    w.mask = np.arange(32).reshape(4, 8) % 4 != 0
    w.apply_mask_()
    assert repr(m[0]) == "Linear(in_features=8, out_features=4, bias=True, weight 25.0% pruned)"
    w.array, w._requires_grad = packed(w), False
    assert w.packed
    assert repr(m[0]) == "Linear(in_features=8, out_features=4, bias=True, weight=int8, weight 25.0% pruned)"
    assert "Int8" in repr(w)
    with pytest.raises(RuntimeError, match="packed as int8 cannot require gradients"):
        w.requires_grad_()
    m.unfreeze()
    assert not w.requires_grad
    assert m[0].bias.requires_grad
    x = minidl.randn(3, 8)
    for twin in (copy.deepcopy(m), pickle.loads(pickle.dumps(m))):
        np.testing.assert_array_equal(twin(x).detach().numpy(), m(x).detach().numpy())
    state = m.state_dict()
    assert list(state) == ["0.weight", "0.bias"]
    assert isinstance(state["0.weight"], Int8)
    dense.load_state_dict(state)
    assert dense[0].weight.packed
    assert not dense[0].weight.requires_grad
    assert dense[0].weight.array is not state["0.weight"]
    np.testing.assert_array_equal(dense(x).detach().numpy(), m(x).detach().numpy())
    assert not nn.Parameter(packed(nn.Linear(3, 2).weight)).requires_grad
    m.double()
    assert m[0].bias.dtype == minidl.float64
    # and back to float
    fresh = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
    dense.load_state_dict(fresh.state_dict())
    assert dense[0].weight.requires_grad
    np.testing.assert_array_equal(dense(x).detach().numpy(), fresh(x).detach().numpy())
    norm = nn.BatchNorm1d(4)
    with pytest.raises(RuntimeError, match="running_mean is a buffer"):
        norm.load_state_dict({"running_mean": Int8(np.ones(4, np.int8), np.ones(4))}, strict=False)


# -- state ------------------------------------------------------------------------------------------------------------


def test_state_dict_shares_memory_and_goes_both_ways_with_torch():
    theirs, ours = loaded_pair()
    state = ours.state_dict()
    assert not any(t.requires_grad for t in state.values())
    state["scale"].array[...] = 5
    assert ours.scale.item() == 5
    assert ours.state_dict(keep_vars=True)["scale"] is ours.scale
    assert next(iter(ours.state_dict(prefix="net."))) == "net.scale"
    result = theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in state.items()})
    assert str(result) == str(ours.load_state_dict(state)) == "<All keys matched successfully>"
    assert theirs.scale.item() == 5


def test_load_state_dict_copies_into_the_same_memory_and_dtype():
    m = nn.Linear(2, 1)
    array, parameter = m.weight.array, m.weight
    y = m(minidl.ones(1, 2)) * m.weight.sum()
    m.load_state_dict({"weight": np.float64([[1, 2]]), "bias": minidl.tensor([3.0])})
    assert m.weight is parameter
    assert m.weight.array is array
    np.testing.assert_array_equal(array, [[1, 2]])
    assert array.dtype == np.float32
    with pytest.raises(RuntimeError, match="changed by an in-place"):
        y.sum().backward()
    given = minidl.ones(1, 2, dtype=minidl.float64)
    m.load_state_dict({"weight": given, "bias": np.float32([0])}, assign=True)
    assert m.weight.array is given.array
    assert m.weight is parameter
    m.register_buffer("count", minidl.tensor(0))
    m.load_state_dict({**m.state_dict(), "count": np.array([7])})
    assert m.count.item() == 7
    m.load_state_dict({**m.state_dict(), "count": np.int64(8)})
    assert m.count.item() == 8


def test_load_state_dict_names_everything_that_is_wrong_as_torch_does_and_changes_nothing():
    theirs, ours = loaded_pair()
    state = {k: v.numpy().copy() + 1 for k, v in ours.state_dict().items()}
    del state["stem.weight"], state["offset"]
    state.update(extra=np.ones(2), **{"heads.c": np.ones(1)})
    state["heads.a.weight"], state["heads.b.weight"] = np.ones((9, 2)), np.ones(3)
    before = {k: v.numpy().copy() for k, v in ours.state_dict().items()}
    with pytest.raises(RuntimeError) as ours_error:
        ours.load_state_dict(state)
    with pytest.raises(RuntimeError) as theirs_error:
        theirs.load_state_dict({k: torch.tensor(v) for k, v in state.items()})
    lines = sorted(str(theirs_error.value).replace("torch.Size", "minidl.Size").split("\n\t"))
    assert sorted(str(ours_error.value).split("\n\t")) == lines
    for k, v in ours.state_dict().items():
        np.testing.assert_array_equal(v.numpy(), before[k])
    # shapes that differ are an error without strict, too
    with pytest.raises(RuntimeError, match="size mismatch for heads.a.weight"):
        ours.load_state_dict(state, strict=False)
    del state["heads.a.weight"], state["heads.b.weight"]
    result = ours.load_state_dict(state, strict=False)
    assert result.missing_keys == ["offset", "stem.weight", "heads.a.weight", "heads.b.weight"]
    assert result.unexpected_keys == ["extra", "heads.c"]
    assert "missing_keys=['offset'" in repr(result)
    with pytest.raises(TypeError, match="dict-like"):
        ours.load_state_dict([1])
    for nonsense in (3, "text", np.array(["a", "b"])):
        with pytest.raises(RuntimeError, match='parameter named "offset"'):
            ours.load_state_dict({**ours.state_dict(), "offset": nonsense})


def test_masks_travel_with_the_state_and_hold_against_dense_values():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    a.weight.mask = np.array([[True, False], [True, True]])
    a.weight.apply_mask_()
    b.load_state_dict(a.state_dict())
    np.testing.assert_array_equal(b.weight.mask, a.weight.mask)
    assert b.weight.mask is not a.weight.mask
    assert b.bias.mask is None
    b.load_state_dict({"weight": np.ones((2, 2)), "bias": np.ones(2)})
    np.testing.assert_array_equal(b.weight.detach().numpy(), [[1, 0], [1, 1]])


# -- modes, types -----------------------------------------------------------------------------------------------------


def test_modes_and_gradients():
    m = net(nn)
    assert m.eval() is m
    assert not any(x.training for x in m.modules())
    m.blocks.train()
    assert m.blocks[0].norm.training
    assert not m.training
    with pytest.raises(ValueError, match="boolean"):
        m.train("yes")
    assert m.freeze() is m
    assert not any(p.requires_grad for p in m.parameters())
    assert m(minidl.randn(2, 1, 6, 6)).grad_fn is None
    m.unfreeze()
    m.stem.requires_grad_(False)
    assert sum(not p.requires_grad for p in m.parameters()) == 2
    m(minidl.randn(2, 1, 6, 6)).sum().backward()
    kept = m.scale.grad
    m.zero_grad(set_to_none=False)
    assert m.scale.grad.array is kept.array
    assert m.scale.grad.item() == 0
    m.zero_grad()
    assert all(p.grad is None for p in m.parameters())


def test_types_and_devices():
    m = net(nn)
    weight = m.stem.weight
    m(minidl.randn(2, 1, 6, 6)).sum().backward()
    assert m.double() is m
    assert m.stem.weight is weight
    assert weight.dtype == weight.grad.dtype == minidl.float64
    assert m.blocks[0].norm.running_mean.dtype == minidl.float64
    assert m.blocks[0].norm.num_batches_tracked.dtype == minidl.int64
    assert m(minidl.randn(2, 1, 6, 6, dtype=minidl.float64)).dtype == minidl.float64
    assert m.half().stem.weight.dtype == minidl.float16
    assert m.float().stem.weight.dtype == minidl.float32
    assert m.to(minidl.float64).to("cpu").cpu().stem.weight.dtype == minidl.float64
    assert m.to(minidl.ones(1)).stem.weight.dtype == minidl.float32
    with pytest.raises(TypeError, match="floating point dtypes"):
        m.to(minidl.int64)
    with pytest.raises(ValueError, match="unknown device"):
        m.to(device="tpu")
    made = nn.Linear(2, 2, dtype=minidl.float64, device="cpu")
    assert made.weight.dtype == made.bias.dtype == minidl.float64
    if not minidl.devices.cuda_is_available():
        for move in (m.cuda, lambda: m.to("cuda:0"), lambda: m.cuda(0)):
            with pytest.raises(RuntimeError, match="CuPy"):
                move()


def test_a_copy_is_apart_and_pickles():
    m = net(nn)
    m(minidl.randn(2, 1, 6, 6))
    for twin in (copy.deepcopy(m), pickle.loads(pickle.dumps(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))))):
        assert "_path_cache" not in twin.__dict__
        assert all(p.is_leaf and p.requires_grad for p in twin.parameters())
    twin = copy.deepcopy(m)
    twin.scale.array[...] = 9
    assert m.scale.item() == 1
    assert list(twin.state_dict()) == list(m.state_dict())
    assert repr(twin) == repr(m)


def test_modules_are_freed_without_the_collector():
    gc.collect()
    gc.disable()
    try:
        m = net(nn)
        y = m(minidl.randn(2, 1, 6, 6))
        y.sum().backward()
        ref = weakref.ref(m)
        del m, y
        assert ref() is None
    finally:
        gc.enable()


# -- where an op ran --------------------------------------------------------------------------------------------------


def test_errors_and_nodes_name_the_module():
    m = net(nn)
    with pytest.raises(RuntimeError, match=r"conv2d in module Net.stem"):
        m(minidl.randn(2, 3, 6, 6))
    assert minidl.autograd.state.scope == ""
    with pytest.raises(KeyError):
        m(minidl.randn(2, 1, 6, 6), head="c")
    assert minidl.autograd.state.scope == ""
    y = m.eval()(minidl.randn(2, 1, 6, 6))
    scopes, stack, seen = set(), [y.grad_fn], set()
    while stack:
        node = stack.pop()
        if isinstance(node, minidl.Op) and id(node) not in seen:
            seen.add(id(node))
            scopes.add(node.scope)
            stack += node.parents
    assert {"Net", "Net.stem", "Net.blocks.1", "Net.blocks.0.conv", "Net.heads.a", "Net.last.act"} <= scopes
    outside = (minidl.ones(2, requires_grad=True) * 2).grad_fn
    assert outside.scope == ""


def test_module_paths_follow_changes_and_strangers():
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(minidl.autograd.state.scope)
            return x

    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.row = nn.Sequential(Spy())
            self.hidden = [Spy()]  # in a plain list, which no tree knows

        def forward(self, x):
            return self.hidden[0](self.row(x))

    root = Root()
    root(1)
    root.row.insert(0, nn.Identity())
    root(1)
    root.later = root.row.pop(1)
    root.row.append(root.later)
    root.row[1](1)
    del root.row[0]
    root(1)
    assert seen == ["Root.row.0", "Root.<Spy>", "Root.row.1", "Root.<Spy>", "Spy", "Root.row.0", "Root.<Spy>"]


def test_paths_are_each_threads_own():
    results = {}

    def work(name):
        class Spy(nn.Module):
            def forward(self, x):
                barrier.wait()
                results.setdefault(name, set()).add(minidl.autograd.state.scope)
                return x

        model = nn.Sequential(OrderedDict([(name, Spy())]))
        for _ in range(20):
            model(1)

    barrier = threading.Barrier(2)
    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == {"a": {"Sequential.a"}, "b": {"Sequential.b"}}


def test_anomaly_mode_names_the_module():
    class Log(nn.Module):
        def forward(self, x):
            return minidl.log(x)

    model = nn.Sequential(nn.Flatten(), Log())
    with minidl.autograd.detect_anomaly(), pytest.raises(minidl.AnomalyError, match=r"op log in module Sequential\.1"):
        model(-minidl.ones(1, 2))


# -- hooks ------------------------------------------------------------------------------------------------------------


def hooked(lib, tensor):
    """The values that a set of hooks sees and makes."""
    log = []
    m = lib.Linear(2, 1)
    m.load_state_dict({"weight": tensor([[2.0, 3.0]]), "bias": tensor([1.0])})
    handles = [
        m.register_forward_pre_hook(lambda mod, args: log.append(("pre", args[0].tolist()))),
        m.register_forward_pre_hook(lambda mod, args: args[0] * 2),
        m.register_forward_pre_hook(lambda mod, args, kwargs: ((args[0] + 1,), kwargs), with_kwargs=True),
        m.register_forward_hook(lambda mod, args, y: log.append(("post", args[0].tolist(), y.tolist()))),
        m.register_forward_hook(lambda mod, args, kwargs, y: y * 10, with_kwargs=True),
        m.register_forward_hook(lambda mod, args, y: log.append(("first", y.tolist())), prepend=True),
        m.register_full_backward_pre_hook(lambda mod, dy: (dy[0] * 3,)),
        m.register_full_backward_hook(lambda mod, dx, dy: log.append(("back", dx[0].tolist(), dy[0].tolist()))),
        m.register_full_backward_hook(lambda mod, dx, dy: (dx[0] + 100,)),
    ]
    x = tensor([[1.0, -1.0]], requires_grad=True)
    y = m(x)
    y.sum().backward()
    log.append((y.tolist(), x.grad.tolist(), m.weight.grad.tolist()))
    for handle in handles:
        handle.remove()
        handle.remove()
    with handles[0]:
        pass
    log.append(m(x).tolist())
    return log


def test_hooks_do_as_torchs():
    assert hooked(nn, minidl.tensor) == hooked(torch.nn, torch.tensor)


def test_backward_hooks_with_several_inputs_and_outputs():
    def run(lib, tensor):
        log = []

        class Two(lib.Module):
            def forward(self, a, b, n):
                return a * n, a + b

        m = Two()
        m.register_full_backward_hook(
            lambda mod, dx, dy: log.append([None if g is None else g.tolist() for g in (*dx, *dy)])
        )
        a, b = tensor([1.0], requires_grad=True), tensor([2.0])
        p, q = m(a, b, 3)
        (p * 5 + q * 7).backward()
        log.append(a.grad.tolist())
        return log

    (seen, grad), (torch_seen, torch_grad) = run(nn, minidl.tensor), run(torch.nn, torch.tensor)
    # b wants no gradient: minidl says None, torch computes one all the same
    assert seen == [torch_seen[0], None, *torch_seen[2:]]
    assert grad == torch_grad


def test_backward_hook_on_a_module_whose_input_wants_no_gradient():
    seen = []
    m = nn.Linear(2, 1)
    m.register_full_backward_hook(lambda mod, dx, dy: seen.append((dx, dy[0].tolist())))
    m(minidl.ones(1, 2)).sum().backward()
    assert seen == [((None,), [[1.0]])]
    with minidl.no_grad():
        assert m(minidl.ones(1, 2)).grad_fn is None


def test_backward_hooks_see_second_derivatives_and_in_place_changes():
    m = nn.Tanh()
    m.register_full_backward_hook(lambda mod, dx, dy: (dx[0] * 2,))
    x = minidl.tensor([0.3], dtype=minidl.float64, requires_grad=True)
    (dx,) = minidl.autograd.grad(m(x).sum(), x, create_graph=True)
    (ddx,) = minidl.autograd.grad(dx.sum(), x)
    t = np.tanh(0.3)
    np.testing.assert_allclose(dx.item(), 2 * (1 - t * t), rtol=1e-15)
    # the second pass enters the module by what it saved, not by its output: the hook stays out of it, as in torch
    np.testing.assert_allclose(ddx.item(), 2 * -2 * t * (1 - t * t), rtol=1e-14)
    y = m(x)
    y += 1  # tanh saved its output
    with pytest.raises(RuntimeError, match="changed by an in-place"):
        y.sum().backward()


def test_hooks_with_wrong_results_raise():
    m = nn.Linear(2, 1)
    handle = m.register_forward_pre_hook(lambda mod, args, kwargs: args, with_kwargs=True)
    with pytest.raises(RuntimeError, match=r"None or \(args, kwargs\)"):
        m(minidl.ones(1, 2))
    handle.remove()
    m.register_full_backward_hook(lambda mod, dx, dy: (dx[0], dx[0]))
    with pytest.raises(RuntimeError, match="returned 2 gradients for grad_input, which has 1"):
        m(minidl.ones(1, 2, requires_grad=True)).sum().backward()


# -- utilities, summary -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, float("inf")])
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clip_grad_norm_is_torchs(norm_type, max_norm):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s) for s in ((3, 4), (5,), ())]
    theirs = [torch.zeros(a.shape, dtype=torch.float64, requires_grad=True) for a in arrays]
    ours = [nn.Parameter(np.zeros(a.shape)) for a in arrays]
    for t, o, a in zip(theirs, ours, arrays, strict=True):
        t.grad, o.grad = torch.tensor(a), minidl.tensor(a)
    total = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    mine = nn.utils.clip_grad_norm_(iter(ours), max_norm, norm_type)
    np.testing.assert_allclose(mine.item(), total.item(), rtol=1e-14)
    for t, o in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(o.grad.numpy(), t.grad.numpy(), rtol=1e-14)


def test_clipping_at_the_edges():
    p = nn.Parameter(minidl.ones(3))
    assert nn.utils.clip_grad_norm_([p], 1.0).item() == 0
    p.grad = minidl.tensor([3e30, 4e30, 0.0])  # squares overflow float32
    total = nn.utils.clip_grad_norm_(p, 1.0)
    np.testing.assert_allclose(total.item(), 5e30, rtol=1e-6)
    np.testing.assert_allclose(p.grad.numpy(), [0.6, 0.8, 0], rtol=1e-6)
    p.grad = minidl.tensor([float("nan"), 1.0, 2.0])
    with pytest.raises(RuntimeError, match="non-finite"):
        nn.utils.clip_grad_norm_(p, 1.0, error_if_nonfinite=True)
    nn.utils.clip_grad_norm_(p, 1.0)
    assert np.isnan(p.grad.numpy()).all()
    p.grad = minidl.tensor([-3.0, 0.5, 2.0])
    nn.utils.clip_grad_value_(p, 1.0)
    np.testing.assert_array_equal(p.grad.numpy(), [-1, 0.5, 1])


def test_parameters_as_a_vector():
    m = nn.Linear(3, 2)
    v = nn.utils.parameters_to_vector(m.parameters())
    assert v.shape == (8,)
    (v * v).sum().backward()
    np.testing.assert_array_equal(m.bias.grad.numpy(), 2 * m.bias.detach().numpy())
    nn.utils.vector_to_parameters(minidl.arange(8).float(), m.parameters())
    np.testing.assert_array_equal(m.weight.detach().numpy(), np.arange(6).reshape(2, 3))
    with pytest.raises(ValueError, match="8 elements"):
        nn.utils.vector_to_parameters(minidl.ones(7), m.parameters())
    with pytest.raises(TypeError, match="expected a Tensor"):
        nn.utils.vector_to_parameters(np.ones(8), m.parameters())


def test_summary_counts_from_the_shapes():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, groups=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.ConvTranspose2d(4, 2, 2, 2), nn.Flatten(), nn.Linear(2 * 8 * 6, 5), nn.Dropout(0.5),
    )  # fmt: skip
    model[6].freeze()
    model[0].weight.mask = np.arange(108).reshape(4, 3, 3, 3) >= 8
    state, running = minidl.get_rng_state(), model[1].running_mean.numpy().copy()
    info = model.summary((2, 3, 8, 6))
    by_name = {r.name: r for r in info.rows}
    assert by_name["0"].output == (2, 4, 8, 6)
    assert by_name["0"].macs == 2 * 4 * 8 * 6 * 27
    assert by_name["4"].macs == 2 * (4 * 3) * 4 * 2 * 4  # every input place (4 x 3) meets the whole weight
    assert by_name["6"].macs == 2 * 96 * 5
    assert by_name[""].macs is by_name["2"].macs is None
    assert info.macs == sum(r.macs or 0 for r in info.rows)
    assert info.params == sum(p.numel() for p in model.parameters())
    assert info.trainable == info.params - 96 * 5 - 5
    assert info.pruned == 8
    assert info.nbytes == 4 * info.params + 4 * 8 + 8  # two running statistics of 4 and an int64 counter
    text = str(info)
    assert "(2, 4, 8, 6)" in text
    assert f"MACs; linear, convolution and attention layers): {info.macs:,}" in text
    # the pass leaves nothing behind
    assert model.training
    np.testing.assert_array_equal(model[1].running_mean.numpy(), running)
    np.testing.assert_array_equal(minidl.get_rng_state(), state)
    assert not any(m._forward_hooks for m in model.modules())
    still = nn.summary(model)
    assert (still.macs, still.params) == (None, info.params)
    assert "Output shape" not in str(still)


def test_summary_takes_examples_and_several_inputs():
    attention = nn.MultiheadAttention(6, 2, batch_first=True, kdim=3, vdim=4)
    inputs = (minidl.randn(2, 5, 6), minidl.randn(2, 7, 3), minidl.randn(2, 7, 4))
    info = nn.summary(attention, inputs)
    own, out = info.rows
    # three projections, then scores and weighted sum for 5 x 7 pairs of 6 features; out_proj is a Linear of its own
    assert own.macs == 2 * (5 * 36 + 7 * 18 + 7 * 24) + 2 * 2 * 5 * 7 * 6
    assert out.macs == 2 * 5 * 36
    assert own.output == [(2, 5, 6), (2, 5, 7)]
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2)
    assert nn.summary(encoder, minidl.randn(5, 3, 8)).rows[0].output == (5, 3, 8)
    assert nn.summary(nn.Embedding(9, 4), np.arange(3)).rows[0].output == (3, 4)
    assert nn.summary(nn.Bilinear(2, 3, 4), (minidl.ones(5, 2), minidl.ones(5, 3))).macs == 5 * 4 * 2 * 4
    assert nn.summary(nn.Linear(2, 2).double(), (1, 2)).macs == 4
    tied = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    tied.append(tied[0])
    assert nn.summary(tied, (1, 2)).macs == 8
    assert nn.summary(tied).params == 6
    with pytest.raises(TypeError, match="input_size must be"):
        nn.summary(tied, "large")
    with pytest.raises(RuntimeError, match="features"):
        nn.summary(tied, (1, 3))
    assert tied.training
    assert not any(m._forward_hooks for m in tied.modules())
