"""torch's own sample inputs (its OpInfo database) run through minidl by name; torch's results are the definition.

Nobody here wrote these samples: they are what torch tests its own operators with. `deviations` gives what differs, as
(what, where) pairs; the tests compare that with the table of deliberate differences.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

import minidl
import minidl.linalg
import minidl.nn.functional as F

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db

# What torch's database calls with other arguments, or in another order, than the function has.
ADAPTED: dict[str, Callable] = {
    "einsum": lambda operands, equation: minidl.einsum(equation, operands),
    "where": lambda x, condition, *other, **kw: minidl.where(condition, x, *other, **kw),
    "nn.functional.embedding": lambda w, x, **kw: F.embedding(x, w, **kw),
    "nn.functional.embedding_bag": lambda w, x, **kw: F.embedding_bag(x, w, **kw),
    "zero_": lambda x: x.clone().zero_(),  # as the database does
    "linalg.pinv.singular": lambda a, b: minidl.linalg.pinv(a @ b.mT),  # a variant whose op is this product
    "T": lambda x: x.T,
    "mT": lambda x: x.mT,
    "H": lambda x: x.H,
    "mH": lambda x: x.mH,
    "polygamma": lambda x, n, **out: minidl.polygamma(n, x, **out),
    "linalg.lstsq.grad_oriented": lambda a, b, driver: minidl.linalg.lstsq(a, b, driver=driver)[:2],
}
METHODS = {"float", "double", "half", "int", "long", "short", "bool", "unfold", "view"}
RANDOM = {
    "bernoulli", "empty", "empty_like", "multinomial", "new_empty", "normal", "rand_like", "randint", "randint_like",
    "randn", "randn_like",
    "nn.functional.dropout", "nn.functional.dropout1d", "nn.functional.dropout2d", "nn.functional.dropout3d",
    "nn.functional.alpha_dropout", "nn.functional.feature_alpha_dropout", "nn.functional.rrelu",
}  # fmt: skip
# Where several indices are right (ties), the elements they point at are compared.
INDICES = {"argsort": None, "mode": 1, "sort": 1, "topk": 1, "median": 1, "kthvalue": 1}
WRITES = {
    "nn.functional.batch_norm",
    "nn.functional.instance_norm",
    "zero_",
    "resize_",
    "resize_as_",
}  # running statistics, in place
DTYPES = {"float64", "float32", "float16", "int64", "int32", "uint8", "bool"}


def function(name: str) -> Callable | None:
    """What minidl has under torch's name; None if it has nothing."""
    if name in ADAPTED:
        return ADAPTED[name]
    if name.startswith("nn.functional."):
        return getattr(F, name[14:], None)
    if name.startswith("linalg."):
        return getattr(minidl.linalg, name[7:], None)
    if hasattr(minidl, name) and name not in METHODS:
        return getattr(minidl, name)
    if hasattr(minidl.Tensor, name):
        return lambda x, *args, **kwargs: getattr(x, name)(*args, **kwargs)
    return None


# Variants for other numbers and other machines, and those of normal that are another function or take a layout.
NOT_HERE = ("complex", "without_cudnn", "in_place", "number_mean", "partial_views")
OFFERED = {
    f"{o.name}.{o.variant_test_name}".rstrip("."): o
    for o in op_db
    if function(o.name) is not None
    and o.variant_test_name not in NOT_HERE
    and (o.name, o.variant_test_name) != ("logspace", "tensor_overload")  # takes torch eight seconds to make up
}


# Other names of the same function, and methods that write into their tensor: name -> the entry of the database.
ALIASES = {a.name: n for n, o in OFFERED.items() for a in o.aliases if "." not in a.name and hasattr(minidl, a.name)}
IN_PLACE = {
    f"{name}_": n
    for n, o in OFFERED.items()
    if o.inplace_variant is not None
    for name in (o.name, *(a.name for a in o.aliases))
    if hasattr(minidl.Tensor, f"{name}_")
}


def samples(info: Any, dtype: str, how: str, most: int | None = None) -> Iterator[Any]:
    """torch's samples in a dtype, the same ones in every run; how: "sample", "reference" or "noncontiguous".

    Of more than `most` every n-th is taken.
    """
    kind = getattr(torch, dtype)
    if kind not in info.dtypes:
        return
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    grad = info.supports_autograd and dtype in ("float64", "float32")
    make = info.reference_inputs if how == "reference" else info.sample_inputs
    try:
        found = list(make("cpu", kind, requires_grad=grad))
    except ValueError:  # some of the database's own reference inputs ask for gradients of integers
        found = list(make("cpu", kind, requires_grad=False))
    found = [s for s in found if not any(_elsewhere(v) for v in (s.input, *s.args, *s.kwargs.values()))]
    yield from found[:: 1 if most is None else -(-len(found) // most) or 1]


def _elsewhere(v: Any) -> bool:
    """Whether it is a number, or a tensor of numbers, that minidl does not have."""
    return isinstance(v, complex) or (isinstance(v, torch.Tensor) and (v.dtype == torch.bfloat16 or v.is_complex()))


def ours(v: Any, leaves: list, copy: bool = True) -> Any:
    """torch's argument as minidl's, of the same strides unless copied; the tensors are added to `leaves`."""
    if isinstance(v, torch.Tensor):
        a = v.detach().numpy()
        t = minidl.tensor(a.copy()) if copy else minidl.from_numpy(a)
        if v.requires_grad:
            t.requires_grad_()
        leaves.append(t)
        return t
    if isinstance(v, torch.Size):
        return tuple(v)
    if isinstance(v, (list, tuple)):
        return type(v)(ours(u, leaves, copy) for u in v)
    if isinstance(v, dict):
        return {k: ours(u, leaves, copy) for k, u in v.items()}
    if isinstance(v, slice):
        return slice(*(ours(u, leaves, copy) for u in (v.start, v.stop, v.step)))
    if isinstance(v, torch.dtype):
        return getattr(minidl, str(v)[6:])
    if isinstance(v, torch.memory_format):
        return None
    if isinstance(v, torch.nn.PairwiseDistance):
        return lambda a, b: F.pairwise_distance(a, b, v.norm, v.eps, v.keepdim)
    return v


def tensors(v: Any) -> list:
    """The torch tensors of an argument, in the order of `ours`."""
    if isinstance(v, torch.Tensor):
        return [v]
    if isinstance(v, dict):
        v = list(v.values())
    if isinstance(v, slice):
        v = [v.start, v.stop, v.step]
    return [t for u in v for t in tensors(u)] if isinstance(v, (list, tuple)) else []


def outputs(y: Any) -> list:
    if isinstance(y, (minidl.Tensor, torch.Tensor, bool, int, float)) or y is None:
        return [y]
    return [t for part in y for t in outputs(part)]


def array(y: Any) -> np.ndarray:
    return y.numpy(force=True) if isinstance(y, (torch.Tensor, minidl.Tensor)) else np.asarray(y)


def difference(a: Any, t: Any, scale: float) -> str | None:
    """What is wrong with a, where torch has t; None if nothing is.

    Floats may differ by 256 ulp of `scale`, the greatest number around: the samples add up at most some hundred terms.
    """
    if isinstance(t, torch.Tensor):
        if not isinstance(a, minidl.Tensor):
            return f"{type(a).__name__} for a tensor"
        if a.array.dtype.name != str(t.dtype)[6:]:
            return f"dtype {a.array.dtype} for {str(t.dtype)[6:]}"
    elif type(a) is not type(t):
        return f"{type(a).__name__} for {type(t).__name__}"
    a, t = array(a), array(t)
    if a.shape != t.shape:
        return f"shape {a.shape} for {t.shape}"
    if a.dtype.kind != "f":
        return None if (a == t).all() else f"values {a.ravel()[:5]} for {t.ravel()[:5]}"
    a64, t64 = a.astype(np.float64), t.astype(np.float64)
    if a64.size and not np.array_equal(np.isfinite(a64) | np.isnan(a64), np.isfinite(t64) | np.isnan(t64)):
        return f"infinities {a.ravel()[:5]} for {t.ravel()[:5]}"
    finite = t64[np.isfinite(t64)]
    bound = 256 * np.finfo(t.dtype).eps * max(scale, np.abs(finite).max(initial=0))
    if np.allclose(a64, t64, rtol=0, atol=bound, equal_nan=True):
        return None
    return f"values {a.ravel()[:5]} for {t.ravel()[:5]}"


def described(s: Any) -> str:
    def f(v: Any) -> Any:
        if isinstance(v, torch.Tensor):
            return f"{tuple(v.shape)}{str(v.dtype)[6:]}"
        return [f(u) for u in v] if isinstance(v, (list, tuple)) else v

    return f"{f(s.input)}, {[f(a) for a in s.args]}, { {k: f(v) for k, v in s.kwargs.items()} }"[:230]


def chosen(name: str, ys: list, x: Any, kwargs: dict) -> list:
    """Outputs with indices replaced by the elements they point at."""
    if name not in INDICES or not isinstance(x, (torch.Tensor, minidl.Tensor)) or x.ndim == 0:
        return ys
    library = torch if isinstance(x, torch.Tensor) else minidl
    at = INDICES[name] or 0
    if len(ys) <= at or isinstance(ys[at], (bool, int, float)):
        return ys
    index, dim = ys[at], kwargs["dim"]
    if index.ndim < x.ndim:
        index = index.unsqueeze(dim)
    return [*ys[:at], library.take_along_dim(x.detach(), index, dim)]


def dim_of(name: str, s: Any) -> int:
    """Along which dimension the indices of a sorting op count."""
    place = {"sort": 0, "argsort": 0, "median": 0, "mode": 0, "topk": 1, "kthvalue": 1}[name]
    if "dim" in s.kwargs:
        return s.kwargs["dim"]
    return s.args[place] if len(s.args) > place and type(s.args[place]) is int else -1


def deviations(
    name: str, dtype: str, how: str = "sample", most: int | None = None
) -> tuple[int, list[tuple[str, str]]]:
    """How many samples of an op there were, and (what differs from torch, at which sample)."""
    info, f = OFFERED[name], ADAPTED.get(name) or function(OFFERED[name].name)
    assert f is not None
    found, count = [], 0
    for s in samples(info, dtype, how, most):
        everything = [*tensors([s.input, *s.args]), *tensors(s.kwargs)]
        if any(t.is_complex() for t in everything) or isinstance(s.input, complex):
            continue  # not to be had in minidl
        leaves: list = []
        given = s.noncontiguous() if how == "noncontiguous" else s
        args = ours([given.input, *given.args], leaves, how != "noncontiguous")
        kwargs = ours(given.kwargs, leaves, how != "noncontiguous")
        before = [t.array.copy() for t in leaves]
        inputs = [*tensors([s.input, *s.args]), *tensors(s.kwargs)]
        scale = max([1.0, *(float(t.abs().max()) for t in inputs if t.dtype.is_floating_point and t.numel()
                            and bool(torch.isfinite(t).all()))])  # fmt: skip
        try:
            want = info.op(s.input, *s.args, **s.kwargs)
        except Exception:  # the database has samples that this build of torch refuses
            continue
        count += 1
        for what in one(info.name, f, args, kwargs, leaves, want, inputs, scale, s):
            found.append((what, f"{dtype} {described(s)}"))
        if info.name not in WRITES and not s.kwargs.get("inplace") and s.kwargs.get("max_norm") is None:
            for t, b in zip(leaves, before, strict=True):
                if not np.array_equal(t.array, b, equal_nan=b.dtype.kind == "f"):
                    found.append(("an input was written", f"{dtype} {described(s)}"))
    return count, found


def one(
    name: str, f: Callable, args: list, kwargs: dict, leaves: list, want: Any, inputs: list, scale: float, s: Any
) -> Iterator[str]:
    """What differs for one sample: values, then gradients."""
    try:
        got = f(*args, **kwargs)
    except Exception as error:
        yield f"{type(error).__name__}: {error}"
        return
    ys, ts = outputs(got), outputs(want)
    if len(ys) != len(ts):
        yield f"{len(ys)} outputs for {len(ts)}"
        return
    if name in INDICES:
        dim = {"dim": dim_of(name, s)}
        ys, ts = chosen(name, ys, args[0], dim), chosen(name, ts, s.input, dim)
    if name in RANDOM or s.kwargs.get("dropout_p"):
        ys = [minidl.zeros_like(y) for y in ys]
        ts = [torch.zeros_like(t) for t in ts]
    if name == "linalg.svd":  # the signs of singular vectors are free
        ys, ts = ys[1:2], ts[1:2]
    if name == "linalg.eigh":  # and those of eigenvectors
        ys, ts = ys[:1], ts[:1]
    for a, t in zip(ys, ts, strict=True):
        wrong = difference(a, t, scale)
        if wrong:
            yield wrong
            return
        rows = all(t.is_contiguous() for t in inputs) and all(t.is_contiguous() for t in leaves)
        if rows and isinstance(t, torch.Tensor) and t.is_contiguous() and not a.is_contiguous():
            yield "memory: not row-major where torch's result is: x.view() would not do"
            return
    m_roots = [a for a in ys if isinstance(a, minidl.Tensor) and a.requires_grad]
    t_roots = [t for t in ts if isinstance(t, torch.Tensor) and t.requires_grad]
    if len(m_roots) != len(t_roots):
        yield f"{len(m_roots)} outputs require gradients for {len(t_roots)}"
        return
    if not t_roots or name in RANDOM or s.kwargs.get("dropout_p"):
        return
    seeds = [np.cos(np.arange(t.numel())).reshape(tuple(t.shape)).astype(str(t.dtype)[6:]) for t in t_roots]
    asked = [i for i, t in enumerate(inputs) if t.requires_grad]
    try:
        theirs = torch.autograd.grad(
            t_roots, [inputs[i] for i in asked], [torch.tensor(d) for d in seeds], allow_unused=True
        )
    except RuntimeError:  # torch has no gradient for some of its own samples
        return
    try:
        mine = minidl.autograd.grad(
            m_roots, [leaves[i] for i in asked], [minidl.tensor(d) for d in seeds], allow_unused=True
        )
    except Exception as error:
        yield f"gradient: {type(error).__name__}: {error}"
        return
    for a, t in zip(mine, theirs, strict=True):
        if t is None:  # unused, or cut off from the sample: torch says nothing
            continue
        wrong = "None" if a is None else difference(a, t, scale)
        if wrong:
            yield f"gradient: {wrong}"
            return


def refusals(name: str) -> tuple[int, list[tuple[str, str]]]:
    """How many inputs there are that torch refuses, and (what minidl does otherwise, with which)."""
    info, f = OFFERED[name], function(OFFERED[name].name)
    assert f is not None
    found, count = [], 0
    if info.error_inputs_func is None:
        return 0, []
    torch.manual_seed(0)
    for e in info.error_inputs("cpu"):
        s = e.sample_input
        try:
            args, kwargs = ours([s.input, *s.args], [], False), ours(s.kwargs, [], False)  # out= may overlap
        except Exception:  # complex numbers, 65 dimensions: not to be had in minidl
            continue
        try:
            info.op(s.input, *s.args, **s.kwargs)
        except Exception as error:
            theirs = error
        else:
            continue
        count += 1
        try:
            f(*args, **kwargs)
        except Exception as mine:
            if not isinstance(mine, type(theirs)) and not isinstance(theirs, NotImplementedError):
                found.append((f"{type(mine).__name__} for {type(theirs).__name__}: {mine}", described(s)))
        else:
            found.append((f"accepted: {theirs}".splitlines()[0], described(s)))
    return count, found
