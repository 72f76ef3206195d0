"""Where torch's choices are not forced by the mathematics: dtypes, kinks, errors, broadcasting; and planted faults."""

from __future__ import annotations

import operator
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from cases import CASES, Case, Const, Sample, flat_outputs, run_minidl
from hypothesis import given
from hypothesis import strategies as st

import minidl
import minidl.nn.functional as MF

DTYPES = ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")


def kind_of(f: Any, *args: Any) -> str:
    """The dtype of the result, or "error"."""
    try:
        y = f(*args)
    except (RuntimeError, TypeError, NotImplementedError):
        return "error"
    return str(y.dtype).partition(".")[2] if not isinstance(y, bool) else "bool"


ARITHMETIC = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "pow": operator.pow,
    "eq": operator.eq,
    "lt": operator.lt,
    "and": operator.and_,
    "xor": operator.xor,
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_dtypes_meet_as_in_torch(name: str) -> None:
    """All pairs of dtypes, arrays and 0-d, and all dtypes with Python numbers on either side."""
    f, wrong = ARITHMETIC[name], []
    for a in DTYPES:
        for shape_a in ((2,), ()):
            m_a, t_a = minidl.ones(shape_a, dtype=getattr(minidl, a)), torch.ones(shape_a, dtype=getattr(torch, a))
            for b in DTYPES:
                for shape_b in ((2,), ()):
                    m_b = minidl.ones(shape_b, dtype=getattr(minidl, b))
                    t_b = torch.ones(shape_b, dtype=getattr(torch, b))
                    ours, theirs = kind_of(f, m_a, m_b), kind_of(f, t_a, t_b)
                    if ours != theirs:
                        wrong.append(f"{a}{shape_a} {name} {b}{shape_b}: {ours}, torch {theirs}")
            for number in (True, 2, 2.5):
                for swap in (False, True):
                    ours, theirs = (kind_of(f, *((number, x) if swap else (x, number))) for x in (m_a, t_a))
                    if (name, a, number) == ("pow", "bool", True) and not swap:
                        continue  # torch's short cut for x ** 1 lets bools pass, which it refuses otherwise
                    if ours != theirs:
                        wrong.append(f"{a}{shape_a} {name} {number} (swapped: {swap}): {ours}, torch {theirs}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", ["maximum", "where", "cat", "stack", "result_type", "mse_loss", "clamp"])
def test_functions_of_two_dtypes(name: str) -> None:
    wrong = []

    def call(lib: Any, x: Any, y: Any) -> Any:
        if name in ("cat", "stack"):
            return getattr(lib, name)([x, y])
        if name == "where":
            return lib.where(lib.tensor([True, False]), x, y)
        if name == "mse_loss":
            return lib.nn.functional.mse_loss(x, y)
        if name == "clamp":
            return lib.clamp(x, y, None)
        return getattr(lib, name)(x, y)

    for a in DTYPES:
        for b in DTYPES:
            if name == "result_type":
                ours = minidl.result_type(
                    minidl.ones(2, dtype=getattr(minidl, a)), minidl.ones((), dtype=getattr(minidl, b))
                )
                theirs = torch.result_type(
                    torch.ones(2, dtype=getattr(torch, a)), torch.ones((), dtype=getattr(torch, b))
                )
                same = str(ours).removeprefix("minidl.") == str(theirs).removeprefix("torch.")
            else:
                ours = kind_of(call, minidl, *(minidl.ones(2, dtype=getattr(minidl, d)) for d in (a, b)))
                theirs = kind_of(call, torch, *(torch.ones(2, dtype=getattr(torch, d)) for d in (a, b)))
                same = ours == theirs
            if not same and not (name == "mse_loss" and "bool" in (a, b)):  # refused, as every difference of bools
                wrong.append(f"{name}({a}, {b}): {ours}, torch {theirs}")
    assert not wrong, "\n".join(wrong)


UNARY = [
    "neg",
    "abs",
    "sign",
    "exp",
    "log",
    "log1p",
    "sqrt",
    "rsqrt",
    "square",
    "reciprocal",
    "sin",
    "cos",
    "tanh",
    "sigmoid",
    "relu",
    "erf",
    "floor",
    "ceil",
    "trunc",
    "round",
    "isnan",
    "isfinite",
    "logical_not",
    "bitwise_not",
    "sum",
    "mean",
    "prod",
    "amax",
    "argmax",
    "max",
    "var",
    "cumsum",
    "all",
    "any",
    "softmax",
    "logsumexp",
]


@pytest.mark.parametrize("name", UNARY)
def test_dtype_of_functions(name: str) -> None:
    args = {"cumsum": (0,), "softmax": (0,), "logsumexp": (0,)}.get(name, ())
    wrong = []
    for d in DTYPES:
        if (name, d) in (("all", "uint8"), ("any", "uint8"), ("argmax", "bool")):
            continue  # bool, bool and int64 here; torch: uint8, uint8, an error
        ours = kind_of(lambda x: getattr(minidl, name)(x, *args), minidl.ones(3, dtype=getattr(minidl, d)))
        theirs = kind_of(lambda x: getattr(torch, name)(x, *args), torch.ones(3, dtype=getattr(torch, d)))
        if ours != theirs:
            wrong.append(f"{name}({d}): {ours}, torch {theirs}")
    assert not wrong, "\n".join(wrong)


# -- kinks ------------------------------------------------------------------------------------------------------------

X = [-2.0, -1.0, -0.0, 0.0, 1.0, 2.0, float("nan"), float("inf"), -float("inf")]
KINKS = {
    "relu": lambda L, x: L.relu(x),
    "abs": lambda L, x: L.abs(x),
    "sign": lambda L, x: L.sign(x),
    "leaky_relu": lambda L, x: L.nn.functional.leaky_relu(x, 0.1),
    "clamp": lambda L, x: L.clamp(x, -1.0, 1.0),
    "clamp_min": lambda L, x: L.clamp(x, min=0.0),
    "clamp_max": lambda L, x: L.clamp(x, max=0.0),
    "clamp_crossed": lambda L, x: L.clamp(x, 1.0, -1.0),
    "floor": lambda L, x: L.floor(x),
    "round": lambda L, x: L.round(x + 0.5),
    "sqrt": lambda L, x: L.sqrt(x),
    "log": lambda L, x: L.log(x),
    "reciprocal": lambda L, x: 1 / x,
    "square_root_of_square": lambda L, x: (x * x).sqrt(),
    "pow2": lambda L, x: x**2,
    "pow3": lambda L, x: x**3,
    "pow0": lambda L, x: x**0,
    "pow_half": lambda L, x: (L.clamp(x, min=-5.0) + 0.0) ** 0.5,  # torch's slope is -inf at -0.0, NaN at -inf
    "pow_minus": lambda L, x: x**-1,
    "pow_tensor": lambda L, x: x ** L.tensor([2.0] * 9),
    "pow_tensor_0": lambda L, x: x ** L.tensor([0.0] * 9),
    "base_2": lambda L, x: 2.0**x,
    "base_0": lambda L, x: 0.0**x,
    "base_tensor_0": lambda L, x: L.tensor([0.0] * 9) ** x,
    "maximum": lambda L, x: L.maximum(x, L.zeros(9)),
    "minimum": lambda L, x: L.minimum(L.ones(9), x),
    "remainder": lambda L, x: x % 1.5,
    "sigmoid": lambda L, x: L.sigmoid(x),
    "tanh": lambda L, x: L.tanh(x),
    "erf": lambda L, x: L.erf(x),
    "softplus": lambda L, x: L.nn.functional.softplus(x),
    "silu": lambda L, x: L.nn.functional.silu(x),
    "gelu": lambda L, x: L.nn.functional.gelu(L.clamp(x, -50.0, 50.0)),  # torch's is NaN at inf
    "exp": lambda L, x: L.exp(x),
    "log1p": lambda L, x: L.log1p(x),
    "where": lambda L, x: L.where(x > 0, x, -x),
    "masked_fill": lambda L, x: x.masked_fill(x > 0, 0.0),
    "nan_times_mask": lambda L, x: L.where(x > 0, L.log(L.where(x > 0, x, L.ones(9))), L.zeros(9)),
    "huber": lambda L, x: L.nn.functional.huber_loss(x, L.zeros(9), reduction="none"),
    "smooth_l1": lambda L, x: L.nn.functional.smooth_l1_loss(x, L.zeros(9), reduction="none"),
    "l1": lambda L, x: L.nn.functional.l1_loss(x, L.zeros(9), reduction="none"),
    "bce": lambda L, x: L.nn.functional.binary_cross_entropy(L.tensor([0.0, 1.0, 0.5]), L.tensor([1.0] * 3)) + x,
    "bce_logits": lambda L, x: L.nn.functional.binary_cross_entropy_with_logits(x, 0.5 * L.ones(9), reduction="none"),
    "prod_zero": lambda L, x: L.tensor([0.0, 2.0]).prod() * x,
}  # fmt: skip


@pytest.mark.parametrize("name", KINKS)
def test_values_and_gradients_at_kinks_and_infinities(name: str) -> None:
    f = KINKS[name]
    m, t = minidl.tensor(X, requires_grad=True), torch.tensor(X, requires_grad=True)
    y, z = f(minidl, m), f(torch, t)
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-6, atol=1e-7)
    y.sum().backward()
    z.sum().backward()
    np.testing.assert_allclose(m.grad.numpy(), t.grad.numpy(), rtol=1e-5, atol=1e-7, err_msg=f"{X}")


TIES = {
    "amax": lambda L, x: L.amax(x, 1),
    "amin": lambda L, x: L.amin(x, (0, 1)),
    "max": lambda L, x: L.max(x),
    "min": lambda L, x: L.min(x),
    "max_dim": lambda L, x: L.max(x, 1).values,
    "min_dim": lambda L, x: L.min(x, 0)[0],
    "max_indices": lambda L, x: L.max(x, 1).indices + 0 * x.sum(),
    "argmax": lambda L, x: L.argmax(x, 1) + 0 * x.sum(),
    "argmin": lambda L, x: L.argmin(x) + 0 * x.sum(),
    "maximum": lambda L, x: L.maximum(x, x.flip(1)),
    "maximum_self": lambda L, x: L.maximum(x, x),
    "minimum": lambda L, x: L.minimum(x, L.ones(3, 4)),
    "max_pool2d": lambda L, x: L.nn.functional.max_pool2d(x[None], 2, 1, 1),
    "max_pool1d": lambda L, x: L.nn.functional.max_pool1d(x, 2),
    "prod": lambda L, x: (x - 1).prod(1),
    "clamp_tensor": lambda L, x: L.clamp(x, L.ones(4), 2 * L.ones(4)),
    "std_of_equals": lambda L, x: (0 * x + 1).std() * 0 + x,
    "softmax": lambda L, x: L.softmax(x, 1),
}


@pytest.mark.parametrize("name", TIES)
def test_ties(name: str) -> None:
    data = [[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 2.0, 2.0]]
    m, t = minidl.tensor(data, requires_grad=True), torch.tensor(data, requires_grad=True)
    y, z = TIES[name](minidl, m), TIES[name](torch, t)
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-6)
    y.sum().backward()
    z.sum().backward()
    np.testing.assert_allclose(m.grad.numpy(), t.grad.numpy(), rtol=1e-6, atol=1e-7)


def test_an_infinite_gradient_does_not_pass_a_closed_gate() -> None:
    """0 times infinity: torch selects, and does not multiply, in these."""
    gates = {
        "relu": lambda L, x: L.relu(x),
        "clamp": lambda L, x: L.clamp(x, 0.0, 1.0),
        "maximum": lambda L, x: L.maximum(x, L.zeros(2)),
        "sign": lambda L, x: L.sign(x),
        "floor": lambda L, x: L.floor(x),
        "where": lambda L, x: L.where(x > 0, x, L.zeros(2)),
        "masked_fill": lambda L, x: x.masked_fill(x < 0, 0.0),
        "pow0": lambda L, x: x**0,
        "div_floor": lambda L, x: L.div(x, 2.0, rounding_mode="floor"),
    }
    for name, f in gates.items():
        grads = []
        for L in (minidl, torch):
            x = L.tensor([-1.0, 0.5], requires_grad=True)
            f(L, x).backward(L.tensor([float("inf"), float("inf")]))
            grads.append(x.grad.numpy())
        np.testing.assert_array_equal(grads[0], grads[1], err_msg=name)


# -- errors -----------------------------------------------------------------------------------------------------------


def images(L: Any, *shape: int) -> Any:
    return L.zeros(*shape)


ERRORS = {
    "add": lambda L: L.zeros(2, 3) + L.zeros(2, 4),
    "add_str": lambda L: L.zeros(2) + "a",
    "add_none": lambda L: L.zeros(2) + None,
    "add_list": lambda L: L.zeros(2) + [1.0, 2.0],
    "sub_bool": lambda L: L.tensor([True]) - L.tensor([True]),
    "neg_bool": lambda L: -L.tensor([True]),
    "invert_float": lambda L: ~L.tensor([1.0]),
    "and_float": lambda L: L.tensor([1.0]) & L.tensor([1.0]),
    "int_pow_negative": lambda L: L.tensor([2]) ** -1,
    "int_mod_zero": lambda L: L.tensor([2]) % 0,
    "int_floordiv_zero": lambda L: L.tensor([2]) // L.tensor([0]),
    "matmul": lambda L: L.zeros(2, 3) @ L.zeros(2, 3),
    "matmul_0d": lambda L: L.zeros(()) @ L.zeros(3),
    "matmul_batch": lambda L: L.zeros(2, 3, 4) @ L.zeros(3, 4, 2),
    "matmul_dtype": lambda L: L.zeros(2, 2) @ L.zeros(2, 2, dtype=L.float64),
    "matmul_number": lambda L: L.zeros(2, 2) @ 2.0,
    "mm_3d": lambda L: L.mm(L.zeros(2, 2, 2), L.zeros(2, 2)),
    "bmm_2d": lambda L: L.bmm(L.zeros(2, 2), L.zeros(2, 2)),
    "dot_2d": lambda L: L.dot(L.zeros(2, 2), L.zeros(2, 2)),
    "dot_sizes": lambda L: L.dot(L.zeros(2), L.zeros(3)),
    "outer_2d": lambda L: L.outer(L.zeros(2, 2), L.zeros(2)),
    "reshape": lambda L: L.zeros(2, 3).reshape(4, 2),
    "reshape_two": lambda L: L.zeros(2, 3).reshape(-1, -1),
    "reshape_uneven": lambda L: L.zeros(2, 3).reshape(-1, 4),
    "reshape_empty": lambda L: L.zeros(0, 3).reshape(-1, 0),
    "reshape_negative": lambda L: L.zeros(2, 3).reshape(-2, -3),
    "view": lambda L: L.zeros(2, 3).t().view(6),
    "permute_number": lambda L: L.zeros(2, 3).permute(0),
    "permute_twice": lambda L: L.zeros(2, 3).permute(0, 0),
    "transpose": lambda L: L.zeros(2, 3).transpose(0, 2),
    "t_3d": lambda L: L.zeros(2, 3, 4).t(),
    "mT_1d": lambda L: L.zeros(2).mT,
    "expand": lambda L: L.zeros(2, 3).expand(2, 4),
    "expand_fewer": lambda L: L.zeros(2, 3).expand(3),
    "expand_new": lambda L: L.zeros(3).expand(-1, 3),
    "broadcast_to": lambda L: L.broadcast_to(L.zeros(2, 3), (2, 2)),
    "unsqueeze": lambda L: L.zeros(2).unsqueeze(3),
    "squeeze": lambda L: L.zeros(2).squeeze(2),
    "flatten": lambda L: L.flatten(L.zeros(2, 3), 1, 0),
    "unflatten": lambda L: L.unflatten(L.zeros(6), 0, (4, 2)),
    "cat": lambda L: L.cat([L.zeros(2, 3), L.zeros(2, 4)]),
    "cat_none": lambda L: L.cat([]),
    "cat_0d": lambda L: L.cat([L.zeros(()), L.zeros(())]),
    "cat_dims": lambda L: L.cat([L.zeros(2), L.zeros(2, 2)]),
    "stack": lambda L: L.stack([L.zeros(2), L.zeros(3)]),
    "stack_none": lambda L: L.stack([]),
    "split_sizes": lambda L: L.split(L.zeros(5), [1, 2]),
    "split_negative": lambda L: L.split(L.zeros(5), -1),
    "chunk_0": lambda L: L.chunk(L.zeros(5), 0),
    "narrow": lambda L: L.narrow(L.zeros(5), 0, 3, 4),
    "repeat_fewer": lambda L: L.zeros(2, 3).repeat(2),
    "flip_range": lambda L: L.flip(L.zeros(2), (1,)),
    "sum_range": lambda L: L.zeros(2).sum(1),
    "sum_twice": lambda L: L.zeros(2, 3).sum((0, 0)),
    "mean_int": lambda L: L.tensor([1, 2]).mean(),
    "amax_empty": lambda L: L.amax(L.zeros(2, 0), 1),
    "max_empty": lambda L: L.max(L.zeros(0)),
    "max_empty_dim": lambda L: L.max(L.zeros(2, 0), 1),
    "argmax_empty": lambda L: L.argmax(L.zeros(0)),
    "argmax_empty_dim": lambda L: L.argmax(L.zeros(2, 0), 1),
    "argmax_range": lambda L: L.argmax(L.zeros(2), 2),
    "cumsum_range": lambda L: L.cumsum(L.zeros(2), 1),
    "softmax_range": lambda L: L.softmax(L.zeros(2), 1),
    "softmax_int": lambda L: L.softmax(L.tensor([1, 2]), 0),
    "clamp_none": lambda L: L.clamp(L.zeros(2)),
    "index_range": lambda L: L.zeros(2)[2],
    "index_negative": lambda L: L.zeros(2)[-3],
    "index_many": lambda L: L.zeros(2)[0, 0],
    "index_float": lambda L: L.zeros(2)[1.0],
    "index_float_tensor": lambda L: L.zeros(2)[L.zeros(1)],
    "index_array_range": lambda L: L.zeros(2)[L.tensor([0, 2])],
    "index_mask_shape": lambda L: L.zeros(2)[L.tensor([True, False, True])],
    "index_step": lambda L: L.zeros(4)[::-1],
    "index_shapes": lambda L: L.zeros(3, 3)[L.tensor([0, 1]), L.tensor([0, 1, 2])],
    "setitem_shape": lambda L: L.zeros(2, 3).__setitem__(0, L.zeros(2)),
    "setitem_mask": lambda L: L.zeros(3).__setitem__(L.tensor([True, True, False]), L.zeros(3)),
    "gather_range": lambda L: L.gather(L.zeros(2, 2), 0, L.tensor([[2, 0]])),
    "gather_dims": lambda L: L.gather(L.zeros(2, 2), 0, L.tensor([1])),
    "gather_float": lambda L: L.gather(L.zeros(2), 0, L.zeros(1)),
    "gather_larger": lambda L: L.gather(L.zeros(2, 2), 0, L.zeros(1, 3, dtype=L.int64)),
    "scatter_add_range": lambda L: L.zeros(2).scatter_add(0, L.tensor([2]), L.ones(1)),
    "index_select_2d": lambda L: L.index_select(L.zeros(2, 2), 0, L.tensor([[0]])),
    "index_select_range": lambda L: L.index_select(L.zeros(2, 2), 0, L.tensor([2])),
    "where_condition": lambda L: L.where(L.zeros(2), L.zeros(2), L.zeros(2)),
    "where_shapes": lambda L: L.where(L.tensor([True, False]), L.zeros(3), L.zeros(3)),
    "masked_fill_mask": lambda L: L.zeros(2).masked_fill(L.zeros(2), 1.0),
    "masked_fill_shape": lambda L: L.zeros(2).masked_fill(L.tensor([True] * 3), 1.0),
    "tril_1d": lambda L: L.tril(L.zeros(3)),
    "one_hot_negative": lambda L: L.nn.functional.one_hot(L.tensor([-1])),
    "one_hot_large": lambda L: L.nn.functional.one_hot(L.tensor([3]), 2),
    "one_hot_float": lambda L: L.nn.functional.one_hot(L.zeros(2)),
    "embedding_range": lambda L: L.nn.functional.embedding(L.tensor([3]), L.zeros(3, 2)),
    "embedding_float": lambda L: L.nn.functional.embedding(L.zeros(2), L.zeros(3, 2)),
    "linear": lambda L: L.nn.functional.linear(L.zeros(2, 3), L.zeros(4, 2)),
    "linear_bias": lambda L: L.nn.functional.linear(L.zeros(2, 3), L.zeros(4, 3), L.zeros(3)),
    "linear_dtype": lambda L: L.nn.functional.linear(L.zeros(2, 3), L.zeros(4, 3, dtype=L.float64)),
    "conv2d_channels": lambda L: L.nn.functional.conv2d(L.zeros(1, 3, 4, 4), L.zeros(2, 2, 3, 3)),
    "conv2d_groups": lambda L: L.nn.functional.conv2d(L.zeros(1, 4, 4, 4), L.zeros(3, 2, 3, 3), groups=2),
    "conv2d_kernel": lambda L: L.nn.functional.conv2d(L.zeros(1, 1, 2, 2), L.zeros(1, 1, 3, 3)),
    "conv2d_2d": lambda L: L.nn.functional.conv2d(L.zeros(2, 2), L.zeros(1, 1, 1, 1)),
    "conv2d_bias": lambda L: L.nn.functional.conv2d(L.zeros(1, 1, 3, 3), L.zeros(2, 1, 2, 2), L.zeros(3)),
    "conv2d_stride": lambda L: L.nn.functional.conv2d(L.zeros(1, 1, 3, 3), L.zeros(2, 1, 2, 2), stride=0),
    "conv2d_padding": lambda L: L.nn.functional.conv2d(L.zeros(1, 1, 3, 3), L.zeros(2, 1, 2, 2), padding=-1),
    "conv2d_same": lambda L: L.nn.functional.conv2d(L.zeros(1, 1, 3, 3), L.zeros(2, 1, 2, 2), stride=2, padding="same"),
    "conv2d_dtype": lambda L: L.nn.functional.conv2d(L.zeros(1, 1, 3, 3), L.zeros(2, 1, 2, 2, dtype=L.float64)),
    "conv_transpose2d": lambda L: L.nn.functional.conv_transpose2d(L.zeros(1, 2, 3, 3), L.zeros(1, 2, 2, 2)),
    "conv_transpose2d_output_padding": lambda L: L.nn.functional.conv_transpose2d(
        L.zeros(1, 1, 3, 3), L.zeros(1, 1, 2, 2), output_padding=1
    ),
    "max_pool2d_padding": lambda L: L.nn.functional.max_pool2d(L.zeros(1, 1, 4, 4), 2, padding=2),
    "max_pool2d_small": lambda L: L.nn.functional.max_pool2d(L.zeros(1, 1, 2, 2), 3),
    "max_pool2d_2d": lambda L: L.nn.functional.max_pool2d(L.zeros(4, 4), 2),
    "avg_pool2d_divisor": lambda L: L.nn.functional.avg_pool2d(L.zeros(1, 1, 4, 4), 2, divisor_override=0),
    "layer_norm": lambda L: L.nn.functional.layer_norm(L.zeros(2, 3), (4,)),
    "layer_norm_weight": lambda L: L.nn.functional.layer_norm(L.zeros(2, 3), (3,), L.zeros(2)),
    "batch_norm_single": lambda L: L.nn.functional.batch_norm(L.zeros(1, 3), None, None, training=True),
    "batch_norm_stats": lambda L: L.nn.functional.batch_norm(L.zeros(2, 3), None, None),
    "batch_norm_size": lambda L: L.nn.functional.batch_norm(L.zeros(2, 3), L.zeros(2), L.ones(2)),
    "dropout_p": lambda L: L.nn.functional.dropout(L.zeros(2), 1.5),
    "attention_sizes": lambda L: L.nn.functional.scaled_dot_product_attention(
        L.zeros(1, 1, 2, 3), L.zeros(1, 1, 2, 4), L.zeros(1, 1, 2, 4)
    ),
    "cross_entropy_range": lambda L: L.nn.functional.cross_entropy(L.zeros(2, 3), L.tensor([0, 3])),
    "cross_entropy_shape": lambda L: L.nn.functional.cross_entropy(L.zeros(2, 3), L.tensor([0, 1, 2])),
    "cross_entropy_float": lambda L: L.nn.functional.cross_entropy(L.zeros(2, 3), L.zeros(2)),
    "cross_entropy_smoothing": lambda L: L.nn.functional.cross_entropy(
        L.zeros(2, 3), L.tensor([0, 1]), label_smoothing=2.0
    ),
    "cross_entropy_weight": lambda L: L.nn.functional.cross_entropy(L.zeros(2, 3), L.tensor([0, 1]), L.ones(2)),
    "nll_loss_range": lambda L: L.nn.functional.nll_loss(L.zeros(2, 3), L.tensor([0, -1])),
    "reduction": lambda L: L.nn.functional.mse_loss(L.zeros(2), L.zeros(2), reduction="average"),
    "bce_outside": lambda L: L.nn.functional.binary_cross_entropy(L.tensor([1.5]), L.tensor([1.0])),
    "bce_shape": lambda L: L.nn.functional.binary_cross_entropy(L.zeros(2), L.zeros(3)),
    "bce_logits_shape": lambda L: L.nn.functional.binary_cross_entropy_with_logits(L.zeros(2), L.zeros(3)),
    "smooth_l1_beta": lambda L: L.nn.functional.smooth_l1_loss(L.zeros(2), L.zeros(2), beta=-1.0),
    "gelu": lambda L: L.nn.functional.gelu(L.zeros(2), approximate="sigmoid"),
    "pad_many": lambda L: L.nn.functional.pad(L.zeros(2), (1, 1, 1, 1)),
    "pad_odd": lambda L: L.nn.functional.pad(L.zeros(2), (1,)),
    "pad_negative": lambda L: L.nn.functional.pad(L.zeros(2), (-2, -1)),
    "pad_reflect": lambda L: L.nn.functional.pad(L.zeros(1, 1, 3), (3, 0), mode="reflect"),
    "pad_mode": lambda L: L.nn.functional.pad(L.zeros(1, 1, 3), (1, 0), mode="mirror"),
    "item": lambda L: L.zeros(2).item(),
    "bool": lambda L: bool(L.zeros(2)),
    "bool_empty": lambda L: bool(L.zeros(0)),
    "len_0d": lambda L: len(L.zeros(())),
    "iter_0d": lambda L: list(L.zeros(())),
    "float": lambda L: float(L.zeros(2)),
    "index": lambda L: [1, 2][L.tensor(1.0)],
    "numpy_grad": lambda L: L.zeros(2, requires_grad=True).numpy(),
    "int_grad": lambda L: L.zeros(2, dtype=L.int64, requires_grad=True),
    "zeros_negative": lambda L: L.zeros(-1),
    "tensor_str": lambda L: L.tensor("abc"),
    "tensor_ragged": lambda L: L.tensor([[1, 2], [3]]),
    "arange_step": lambda L: L.arange(0, 3, 0),
    "arange_sign": lambda L: L.arange(3, 0, 1),
    "linspace": lambda L: L.linspace(0, 1, -1),
    "randint": lambda L: L.randint(3, 3, (2,)),
    "multinomial_negative": lambda L: L.multinomial(L.tensor([-1.0, 2.0]), 1),
    "from_numpy": lambda L: L.from_numpy([1, 2]),
    "backward_vector": lambda L: L.zeros(2, requires_grad=True).exp().backward(),
    "backward_shape": lambda L: L.zeros(2, requires_grad=True).exp().backward(L.zeros(3)),
    "backward_nothing": lambda L: L.zeros(()).backward(),
    "requires_grad_nonleaf": lambda L: L.zeros(2, requires_grad=True).exp().requires_grad_(False),
    "grad_shape": lambda L: setattr(L.zeros(2), "grad", L.zeros(3)),
    "grad_type": lambda L: setattr(L.zeros(2), "grad", 1.0),
    "grad_dtype": lambda L: setattr(L.zeros(2), "grad", L.zeros(2, dtype=L.float64)),
    "hook_no_grad": lambda L: L.zeros(2).register_hook(print),
    "retain_no_grad": lambda L: L.zeros(2).retain_grad(),
    "default_dtype": lambda L: L.set_default_dtype(L.int64),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_where_torch_has_errors(name: str) -> None:
    """An error of torch's class, or of a class that is one."""
    f = ERRORS[name]
    with pytest.raises(Exception) as theirs:
        f(torch)
    with pytest.raises(Exception) as ours:
        f(minidl)
    family = next(
        c
        for c in (IndexError, TypeError, ValueError, NotImplementedError, AssertionError, RuntimeError, Exception)
        if isinstance(theirs.value, c)
    )
    if "out of bounds" in str(theirs.value) or "out of range" in str(theirs.value):
        family = (family, IndexError)  # torch is of two minds about indices out of range
    assert isinstance(ours.value, family), f"{ours.value!r}\ntorch: {theirs.value!r}"
    assert str(ours.value)


def test_shape_errors_name_the_op_and_both_shapes() -> None:
    with pytest.raises(minidl.ShapeError, match=r"matmul.*\(2, 3\).*\(4, 5\)"):
        minidl.zeros(2, 3) @ minidl.zeros(4, 5)
    with pytest.raises(minidl.ShapeError, match=r"add.*\(2, 3\).*\(2, 4\)"):
        minidl.zeros(2, 3) + minidl.zeros(2, 4)
    with pytest.raises(minidl.ShapeError, match=r"linear.*5 features.*takes 3"):
        MF.linear(minidl.zeros(2, 5), minidl.zeros(4, 3))
    with pytest.raises(minidl.ShapeError, match=r"conv2d.*3 channels.*takes 2"):
        MF.conv2d(minidl.zeros(1, 3, 4, 4), minidl.zeros(2, 2, 3, 3))


# -- any shape, any broadcast, any stride -----------------------------------------------------------------------------

SHAPES = hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, min_side=0, max_side=4)


@st.composite
def strided(draw: Any, shape: tuple[int, ...]) -> np.ndarray:
    """float32 values in memory of any order: transposed, sliced, reversed."""
    steps = draw(st.lists(st.sampled_from([1, 2, -1, -2]), min_size=len(shape), max_size=len(shape)))
    order = draw(st.permutations(range(len(shape))))
    size = [0] * len(shape)
    for position, d in enumerate(order):
        size[position] = shape[d] * abs(steps[d])
    seed = draw(st.integers(0, 2**31))
    memory = np.random.default_rng(seed).uniform(-2, 2, size).astype(np.float32)
    a = memory.transpose(np.argsort(order)) if shape else memory
    a = a[tuple(slice(None, None, s) for s in steps)]
    assert a.shape == tuple(shape)
    return np.asarray(a)


@given(data=st.data(), shapes=SHAPES, name=st.sampled_from(["add", "sub", "mul", "div", "maximum", "where"]))
def test_broadcasting_of_any_shapes_and_strides(data: Any, shapes: Any, name: str) -> None:
    a, b = (data.draw(strided(s)) for s in shapes.input_shapes)
    b = np.where(np.abs(b) < 0.1, 0.5, b).astype(np.float32) if name == "div" else b
    results = []
    for L in (minidl, torch):
        x, y = (L.tensor(v.copy(), requires_grad=True) for v in (a, b))
        if L is minidl:
            x, y = (minidl.from_numpy(v).requires_grad_() for v in (a, b))
        z = L.where(x > y, x, y) if name == "where" else getattr(L, name)(x, y)
        dz = L.tensor(np.cos(np.arange(int(np.prod(z.shape)))).reshape(tuple(z.shape)).astype(np.float32))
        z.backward(dz)
        results.append([v.detach().numpy() for v in (z, x.grad, y.grad)])
    for ours, theirs in zip(*results, strict=True):
        assert ours.shape == theirs.shape
        # at most 64 terms are summed, of size up to 40 (a quotient by 0.1, squared below)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=64 * 400 * np.finfo(np.float32).eps)


@given(data=st.data(), shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
def test_reductions_of_any_shape_and_strides(data: Any, shape: Any) -> None:
    a = data.draw(strided(shape))
    dims = data.draw(st.one_of(st.none(), st.sets(st.integers(0, max(len(shape) - 1, 0)), max_size=len(shape))))
    keepdim = data.draw(st.booleans())
    name = data.draw(st.sampled_from(["sum", "mean", "amax"]))
    args = (tuple(dims),) if dims is not None else ((),)
    m, t = minidl.from_numpy(a).requires_grad_(), torch.tensor(a.copy(), requires_grad=True)
    try:
        theirs = getattr(torch, name)(t, *args, keepdim=keepdim)
    except (RuntimeError, IndexError) as error:
        with pytest.raises(type(error)):
            getattr(minidl, name)(m, *args, keepdim=keepdim)
        return
    ours = getattr(minidl, name)(m, *args, keepdim=keepdim)
    assert tuple(ours.shape) == tuple(theirs.shape)
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-5, atol=256 * 2 * 1.2e-7)
    ours.sum().backward()
    theirs.sum().backward()
    np.testing.assert_allclose(m.grad.numpy(), t.grad.numpy(), rtol=1e-5, atol=1e-6)


@given(data=st.data())
def test_matmul_of_any_stack_and_strides(data: Any) -> None:
    lead = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, min_side=0, max_side=3)).input_shapes
    m, k, n = (data.draw(st.integers(0, 5)) for _ in range(3))
    a, b = data.draw(strided((*lead[0], m, k))), data.draw(strided((*lead[1], k, n)))
    x, y = (minidl.from_numpy(v).requires_grad_() for v in (a, b))
    u, v = (torch.tensor(w.copy(), requires_grad=True) for w in (a, b))
    ours, theirs = x @ y, u @ v
    assert tuple(ours.shape) == tuple(theirs.shape)
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-5, atol=5 * 4 * 1.2e-7)
    ours.sum().backward()
    theirs.sum().backward()
    for p, q in ((x, u), (y, v)):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-5, atol=45 * 2 * 1.2e-7)


@st.composite
def indices(draw: Any, shape: tuple[int, ...]) -> Any:
    """A valid index in torch's terms: integers, slices, None, ..., and arrays that broadcast."""
    parts: list[Any] = []
    array_shape = draw(st.sampled_from([(2,), (1, 3), (3,)]))
    for n in shape[: draw(st.integers(0, len(shape)))]:
        choice = draw(st.sampled_from(["int", "slice", "array", "slice", "none"]))
        if choice == "none":
            parts.append(None)
        if choice == "int":
            parts.append(draw(st.integers(-n, n - 1)))
        elif choice == "array":
            parts.append(
                np.array(draw(st.lists(st.integers(-n, n - 1), min_size=3, max_size=3)))[: array_shape[-1]].reshape(
                    array_shape
                )
            )
        else:
            parts.append(slice(draw(st.integers(-n, n)), draw(st.integers(-n, n)), draw(st.integers(1, 2))))
    if draw(st.booleans()):
        parts.append(Ellipsis)
    return tuple(parts)


@given(data=st.data(), shape=hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4))
def test_any_index_reads_and_writes_as_torchs(data: Any, shape: Any) -> None:
    index = data.draw(indices(shape))
    a = data.draw(strided(shape))
    at = {L: tuple(L.tensor(i) if isinstance(i, np.ndarray) else i for i in index) for L in (minidl, torch)}
    m, t = minidl.tensor(a.copy(), requires_grad=True), torch.tensor(a.copy(), requires_grad=True)
    ours, theirs = m[at[minidl]], t[at[torch]]
    assert tuple(ours.shape) == tuple(theirs.shape), index
    np.testing.assert_array_equal(ours.detach().numpy(), theirs.detach().numpy())
    (ours * ours).sum().backward()
    (theirs * theirs).sum().backward()
    np.testing.assert_allclose(m.grad.numpy(), t.grad.numpy(), rtol=1e-6)
    grads = []
    for L in (minidl, torch):
        x, v = L.tensor(a.copy(), requires_grad=True), L.tensor(2.0, requires_grad=True)
        y = x * 3
        y[at[L]] = v
        (y * y).sum().backward()
        grads.append((y.detach().numpy(), x.grad.numpy(), v.grad.numpy()))
    for p, q in zip(*grads, strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-5)


@pytest.mark.parametrize("case", [c for c in CASES.values() if c.theirs is not None], ids=repr)
def test_nan_and_infinity_are_silent(case: Case) -> None:
    """NaN and Inf are results as in torch, not NumPy's warnings: neither in forward nor in backward."""
    wild = np.array([np.inf, 0.0, -np.inf, 3e38, np.nan, -1.0, 1e-38])

    def fill(v: Any) -> Any:
        if isinstance(v, Const):
            return Const(fill(v.array)) if v.array.dtype.kind == "f" else v
        if isinstance(v, np.ndarray) and v.dtype.kind == "f":
            return np.resize(wild, v.shape).astype(v.dtype) if v.size else v
        return type(v)(fill(u) for u in v) if isinstance(v, (list, tuple)) else v

    for sample in case.samples:
        wild_sample = Sample(tuple(fill(a) for a in sample.args), {k: fill(v) for k, v in sample.kwargs.items()})
        try:
            y, leaves = run_minidl(case, wild_sample, "float32", grad=True)
        except (RuntimeError, ValueError) as error:  # binary_cross_entropy of no probability, an SVD of NaN
            assert not isinstance(error, minidl.ShapeError)
            continue
        roots = [t for t in flat_outputs(y) if t.requires_grad]
        if roots and case.smooth:
            minidl.autograd.grad(roots, leaves, [minidl.ones_like(t) for t in roots], allow_unused=True)


def test_where_with_zero_in_any_shape_and_layout() -> None:
    """x where c else 0 has a way of its own through the bits; it is where's all the same."""
    rng = np.random.default_rng(1)
    for dtype in ("float16", "float32", "float64"):
        for x_shape, c_shape in (((), ()), ((3,), ()), ((), (3,)), ((2, 3), (3,)), ((3,), (2, 3)), ((0, 3), (1, 3))):
            x = rng.standard_normal(x_shape).astype(dtype)
            if x.size > 1:
                x.reshape(-1)[:2] = np.nan, -np.inf
            c = rng.random(c_shape) < 0.5
            for a in (x, np.asfortranarray(x)[::-1] if x.ndim else x):
                for args in ((c, a, 0.0), (c, 0.0, a)):
                    ours = minidl.where(*[v if type(v) is float else minidl.from_numpy(np.asarray(v)) for v in args])
                    want = np.where(*args).astype(dtype)
                    assert ours.array.dtype == want.dtype
                    np.testing.assert_array_equal(ours.numpy(), want)
                    assert not np.signbit(ours.numpy()[want == 0]).any()
