"""The same values in another shape, order or type: reshape, permute, expand, cat, pad, cast."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import Op, ShapeError, attach, op, require
from minidl.ops.common import IndexRangeError, broadcast, many_dims, one_dim, prod, unbroadcast
from minidl.tensors import Tensor


def _sizes(size: tuple) -> tuple[int, ...]:
    """Sizes given as f(2, 3) or f((2, 3))."""
    if len(size) == 1 and isinstance(size[0], (tuple, list)):
        size = tuple(size[0])
    return tuple(int(n) for n in size)


class _Reshape(Op):
    """y has the values of x, row-major, in another shape; one size may be -1"""

    is_view = True

    def shape(x: Any, size: Any) -> Any:  # type: ignore[override]
        size, n = _sizes((size,)), prod(x)
        known = prod([s for s in size if s != -1])
        require(size.count(-1) <= 1 and builtins.min(size, default=0) >= -1, "only one size can be -1, got {}", size)
        if -1 in size:
            require(known > 0 and n % known == 0, "{} elements of shape {} do not fill shape {}", n, x, size)
            return tuple(n // known if s == -1 else s for s in size)
        require(known == n, "shape {} has {} elements, shape {} has {}", x, n, size, known)
        return size

    def forward(ctx, x: Any, size: Any) -> Any:
        ctx.size = x.shape
        return x.reshape(size)

    def backward(ctx, dy: Any) -> Any:
        return reshape_op(dy, ctx.size)


_Reshape.__name__ = "reshape"
reshape_op = _Reshape


@op(method="reshape")
def reshape(x: Any, *shape: Any) -> Any:
    """The values of x, row-major, in another shape; one size may be -1. A view where the memory allows it."""
    return reshape_op(x, _sizes(shape))


@op(method="view")
def view(x: Any, *shape: Any) -> Any:
    """As reshape, never copying: raises RuntimeError where the memory layout would need a copy. A dtype
    reinterprets."""
    if len(shape) == 1 and isinstance(shape[0], (dtypes.DType, np.dtype)):
        from minidl.tensors import wrap

        return wrap(x.array.view(dtypes.as_numpy(shape[0])))
    y = reshape_op(x, _sizes(shape))
    if isinstance(x, Tensor) and x.array.size and not np.shares_memory(x.array, y.array):
        raise RuntimeError(
            "view size is not compatible with the tensor's memory layout (some dimension spans two subspaces): use "
            ".reshape(...) instead"
        )
    return y


@op(method="flatten")
def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Dimensions start_dim .. end_dim as one."""
    first, last = one_dim(start_dim, x.ndim), one_dim(end_dim, x.ndim)
    if first > last:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    shape = tuple(x.shape)
    return reshape_op(x, (*shape[:first], prod(shape[first : last + 1]), *shape[last + 1 :]))


@op(method="unflatten")
def unflatten(x: Any, dim: int, sizes: Any) -> Any:
    """Dimension dim as several, of `sizes`."""
    d, shape = one_dim(dim, x.ndim), tuple(x.shape)
    inner = _Reshape.shape((shape[d],), tuple(sizes))
    return reshape_op(x, (*shape[:d], *inner, *shape[d + 1 :]))


@op(method="squeeze")
def squeeze(x: Any, dim: Any = None) -> Any:
    """Without the dimensions of size 1 (or, of those in `dim`, the ones of size 1)."""
    if dim is None:
        dims: Any = range(x.ndim)
    else:
        dims = () if isinstance(dim, (tuple, list)) and not dim else many_dims(dim, x.ndim)
    return reshape_op(x, tuple(n for i, n in enumerate(x.shape) if i not in dims or n != 1))


@op(method="unsqueeze")
def unsqueeze(x: Any, dim: int) -> Any:
    """With a new dimension of size 1 at `dim`."""
    d = one_dim(dim, x.ndim + 1)
    return reshape_op(x, (*x.shape[:d], 1, *x.shape[d:]))


class _Permute(Op):
    """y's dimension i is x's dimension dims[i];    dx = dy permuted back"""

    is_view = True

    def shape(x: Any, dims: Any) -> Any:  # type: ignore[override]
        require(
            len(dims) == len(x), "permute({}) names {} dimensions, the tensor {} has {}", dims, len(dims), x, len(x)
        )
        return tuple(x[d] for d in many_dims(dims, len(x)))

    def forward(ctx, x: Any, dims: Any) -> Any:
        if len(dims) != x.ndim:
            raise ShapeError(f"permute{tuple(dims)} names {len(dims)} dimensions, the tensor {x.shape} has {x.ndim}")
        ctx.dims = many_dims(dims, x.ndim)
        return x.transpose(ctx.dims)

    def backward(ctx, dy: Any) -> Any:
        return permute_op(dy, tuple(int(d) for d in np.argsort(ctx.dims)))


_Permute.__name__ = "permute"
permute_op = _Permute


@op(method="permute")
def permute(x: Any, *dims: Any) -> Any:
    """Dimensions in another order, a view: y's dimension i is x's dimension dims[i]."""
    return permute_op(x, _sizes(dims))


@op(method="transpose")
def transpose(x: Any, dim0: int, dim1: int) -> Any:
    """Two dimensions exchanged, a view."""
    d0, d1 = one_dim(dim0, x.ndim), one_dim(dim1, x.ndim)
    order = list(range(x.ndim))
    if order:
        order[d0], order[d1] = d1, d0
    return permute_op(x, tuple(order))


@op(method="swapaxes")
def swapaxes(x: Any, axis0: int, axis1: int) -> Any:
    """NumPy's name of transpose."""
    return transpose(x, axis0, axis1)


@op(method="movedim")
def movedim(x: Any, source: Any, destination: Any) -> Any:
    """Dimensions `source` moved to `destination`, the others in their order."""
    src, dst = (
        many_dims(source if isinstance(source, (tuple, list)) else (source,), x.ndim),
        many_dims(destination if isinstance(destination, (tuple, list)) else (destination,), x.ndim),
    )
    require(len(src) == len(dst), "movedim: {} sources and {} destinations", len(src), len(dst))
    order = [d for d in range(x.ndim) if d not in src]
    for d, s in sorted(zip(dst, src, strict=True)):
        order.insert(d, s)
    return permute_op(x, tuple(order))


@op(method="t")
def t(x: Any) -> Any:
    """The transpose of a matrix; vectors as they are. Raises RuntimeError beyond two dimensions."""
    if x.ndim > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {x.ndim}D")
    return permute_op(x, tuple(range(x.ndim))[::-1])


def _T(x: Any) -> Any:
    return permute_op(x, tuple(range(x.ndim))[::-1])


def _mT(x: Any) -> Any:
    if x.ndim < 2:
        raise RuntimeError(f"tensor.mT is only supported on matrices or batches of matrices; got a {x.ndim}-D tensor")
    return transpose(x, -2, -1)


attach("T", property(_T, doc="All dimensions in reverse order."))
attach("mT", property(_mT, doc="The last two dimensions exchanged."))


@op(method="broadcast_to")
class broadcast_to(Op):
    """x repeated, without copying, to a larger shape;    dx = dy summed over what was repeated"""

    is_view = True

    def shape(x: Any, size: Any) -> Any:  # type: ignore[override]
        require(broadcast(x, tuple(size)) == tuple(size), "shape {} does not broadcast to {}", x, tuple(size))
        return tuple(size)

    def forward(ctx, x: Any, size: Any) -> Any:
        ctx.size = x.shape
        y = np.broadcast_to(x, tuple(size), subok=True)
        if isinstance(y, np.ndarray) and x.flags.writeable:
            y = np.lib.stride_tricks.as_strided(x, y.shape, y.strides)  # torch's expanded tensors are not read-only
        return y

    def backward(ctx, dy: Any) -> Any:
        return unbroadcast(dy, ctx.size)


@op(method="expand")
def expand(x: Any, *size: Any) -> Any:
    """As broadcast_to, where -1 keeps a size."""
    sizes = _sizes(size)
    lead = len(sizes) - x.ndim
    require(lead >= 0, "expand: {} sizes for a tensor of {} dimensions", len(sizes), x.ndim)
    full = []
    for i, n in enumerate(sizes):
        if n == -1:
            require(i >= lead, "expand: -1 is not allowed for a new dimension ({})", sizes)
            n = x.shape[i - lead]
        full.append(n)
    return broadcast_to(x, tuple(full))


@op(method="expand_as")
def expand_as(x: Any, other: Any) -> Any:
    """x expanded to the shape of `other`."""
    return expand(x, *other.shape)


@op(method="view_as")
def view_as(x: Any, other: Any) -> Any:
    """x viewed in the shape of `other`."""
    return view(x, tuple(other.shape))


@op(method="repeat")
def repeat(x: Any, *sizes: Any) -> Any:
    """x laid side by side sizes[i] times along dimension i."""
    times = _sizes(sizes)
    require(len(times) >= x.ndim, "repeat: {} numbers for a tensor of {} dimensions", len(times), x.ndim)
    shape = (1,) * (len(times) - x.ndim) + tuple(x.shape)
    spread = broadcast_to(
        reshape_op(x, tuple(n for s in shape for n in (1, s))),
        tuple(n for k, s in zip(times, shape, strict=True) for n in (k, s)),
    )
    return reshape_op(clone(spread), tuple(k * s for k, s in zip(times, shape, strict=True)))


@op(method="flip")
class flip(Op):
    """y has the elements of x in reverse order along dims;    dx = dy flipped"""

    def shape(x: Any, *_: Any) -> Any:  # type: ignore[override]
        return x

    def forward(ctx, x: Any, dims: Any) -> Any:
        ctx.dims = many_dims(dims if isinstance(dims, (tuple, list)) else (dims,), x.ndim) if dims != () else ()
        return np.ascontiguousarray(np.flip(x, ctx.dims)) if ctx.dims else x.copy()

    def backward(ctx, dy: Any) -> Any:
        return flip(dy, ctx.dims)


@op(method="roll")
class roll(Op):
    """y_{i + shift} = x_i, around the end;    dx = dy rolled back"""

    def shape(x: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        return x

    def forward(ctx, x: Any, shifts: Any, dims: Any = None) -> Any:
        require(shifts != () and shifts != [], "`shifts` required")
        many, over = (v if isinstance(v, (tuple, list)) else (v,) for v in (shifts, dims))
        require(
            (len(many) == 1) if dims is None or dims == () or dims == [] else len(many) == len(over),
            "shifts {} and dims {} must be of one length",
            shifts,
            dims,
        )
        dims = None if dims == () or dims == [] else dims
        ctx.shifts, ctx.dims = shifts, dims
        return np.roll(x, shifts, dims)

    def backward(ctx, dy: Any) -> Any:
        back = tuple(-s for s in ctx.shifts) if isinstance(ctx.shifts, (tuple, list)) else -ctx.shifts
        return roll(dy, back, ctx.dims)


@op()
class cat(Op):
    """The tensors one after the other along `dim`;    each dx is its part of dy"""

    variadic = True

    def shape(xs: Any, dim: int = 0) -> Any:  # type: ignore[override]
        require(len(xs) > 0, "cat() needs at least one tensor")
        real = [x for x in xs if x != (0,)]
        if not real:
            return (0,)
        d = one_dim(dim, len(real[0]))
        for x in real[1:]:
            same = len(x) == len(real[0]) and builtins.all(
                a == b for i, (a, b) in enumerate(zip(x, real[0], strict=True)) if i != d
            )
            require(same, "sizes must match except in dimension {}: {} and {}", d, real[0], x)
        return tuple(builtins.sum(x[d] for x in real) if i == d else n for i, n in enumerate(real[0]))

    def forward(ctx, xs: Any, dim: int = 0) -> Any:
        if not xs:
            raise ShapeError("cat() needs at least one tensor")
        if builtins.any(x.ndim == 0 for x in xs):
            raise RuntimeError("zero-dimensional tensor cannot be concatenated: use stack(), or unsqueeze(0) first")
        dtype = xs[0].dtype
        for x in xs[1:]:
            if x.dtype != dtype:
                dtype = dtypes.result_type(*[y.reshape(-1)[:1] for y in xs])
                break
        real = [x for x in xs if x.shape != (0,)] or list(xs[:1])
        ctx.dim = one_dim(dim, real[0].ndim)
        ctx.shapes = [x.shape for x in xs]
        ctx.dtypes = [x.dtype for x in xs]
        return np.concatenate([x.astype(dtype, copy=False) for x in real], axis=ctx.dim)

    def backward(ctx, dy: Any) -> Any:
        grads, start = [], 0
        for shape, dtype, need in zip(ctx.shapes, ctx.dtypes, ctx.needs, strict=True):
            n = 0 if shape == (0,) and dy.ndim != 1 else shape[ctx.dim]
            part = dy[(slice(None),) * ctx.dim + (slice(start, start + n),)] if need else None
            if need and shape == (0,) and dy.ndim != 1:
                part = reshape(part, (0,))
            grads.append(part if part is None or dtypes.as_numpy(part.dtype) == dtype else cast(part, dtype))
            start += n
        return grads


concat = concatenate = cat


@op()
def stack(tensors: Any, dim: int = 0) -> Any:
    """The tensors, all of one shape, along a new dimension."""
    require(len(tensors) > 0, "stack() needs at least one tensor")
    first = tuple(tensors[0].shape)
    for x in tensors:
        require(
            tuple(x.shape) == first,
            "stack expects each tensor to be equal size, but got {} and {}",
            first,
            tuple(x.shape),
        )
    return cat([unsqueeze(x, dim) for x in tensors], one_dim(dim, len(first) + 1))


@op()
def vstack(tensors: Any) -> Any:
    """The tensors, as rows or matrices, one below the other."""
    return cat([reshape_op(x, (1, -1)) if x.ndim < 2 else x for x in tensors], 0)


@op()
def hstack(tensors: Any) -> Any:
    """The tensors side by side: along dimension 1, vectors along 0."""
    tensors = [reshape_op(x, (1,)) if x.ndim == 0 else x for x in tensors]
    return cat(tensors, 0 if tensors[0].ndim == 1 else 1)


@op(method="split")
def split(x: Any, split_size: Any, dim: int = 0) -> tuple:
    """Pieces along `dim`: of `split_size` each (the last may be smaller), or of the sizes in a list. Views."""
    d = one_dim(dim, x.ndim)
    n = x.shape[d]
    if isinstance(split_size, int):
        require(split_size > 0 or n == 0, "split expects a positive split_size, got {}", split_size)
        sizes = [builtins.min(split_size, n - i) for i in range(0, n, split_size or 1)] or [0]
    else:
        sizes = list(split_size)
        require(builtins.sum(sizes) == n, "split sizes {} do not add up to the size {} of dimension {}", sizes, n, d)
    out, start = [], 0
    for size in sizes:
        out.append(narrow(x, d, start, size))
        start += size
    return tuple(out)


@op(method="split_with_sizes")
def split_with_sizes(x: Any, split_sizes: Any, dim: int = 0) -> tuple:
    """Pieces of the given sizes along `dim`."""
    return split(x, list(split_sizes), dim)


@op(method="chunk")
def chunk(x: Any, chunks: int, dim: int = 0) -> tuple:
    """At most `chunks` pieces of equal size along `dim` (the last may be smaller). Views."""
    require(chunks > 0, "chunk expects `chunks` to be greater than 0, got: {}", chunks)
    n = x.shape[one_dim(dim, x.ndim)]
    return split(x, builtins.max(1, -(-n // chunks)), dim)


@op(method="narrow")
def narrow(x: Any, dim: int, start: int, length: int) -> Any:
    """`length` elements from `start` along `dim`, a view."""
    require(x.ndim > 0, "narrow() cannot be applied to a 0-dim tensor.")
    d = one_dim(dim, x.ndim)
    n = x.shape[d]
    if not -n <= start <= n:
        raise IndexRangeError(f"start out of range (expected to be in range of [{-n}, {n}], but got {start})")
    start = start + n if start < 0 else start
    require(
        length >= 0 and start + length <= n,
        "start ({}) + length ({}) exceeds dimension size ({})",
        start,
        length,
        n,
    )
    return x[(slice(None),) * d + (slice(start, start + length),)]


@op(method="unbind")
def unbind(x: Any, dim: int = 0) -> tuple:
    """The slices along `dim`. Views."""
    d = one_dim(dim, x.ndim)
    return tuple(x[(slice(None),) * d + (i,)] for i in range(x.shape[d]))


@op()
class pad_constant(Op):
    """x surrounded by `value`; pads are (before, after) for each dimension, negative ones crop;    dx = the middle
    of dy"""

    def shape(x: Any, pads: Any, value: float = 0.0) -> Any:  # type: ignore[override]
        out = tuple(n + a + b for n, (a, b) in zip(x, pads, strict=True))
        require(builtins.all(n >= 0 for n in out), "padding {} leaves nothing of {}", pads, x)
        return out

    def forward(ctx, x: Any, pads: Any, value: float = 0.0) -> Any:
        ctx.pads = pads
        size = pad_constant.shape(x.shape, pads)
        y = np.full_like(x, value, shape=size)
        inner = tuple(slice(builtins.max(a, 0), n - builtins.max(b, 0)) for (a, b), n in zip(pads, size, strict=True))
        outer = tuple(
            slice(builtins.max(-a, 0), n - builtins.max(-b, 0)) for (a, b), n in zip(pads, x.shape, strict=True)
        )
        y[inner] = x[outer]
        return y

    def backward(ctx, dy: Any) -> Any:
        return pad_constant(dy, tuple((-a, -b) for a, b in ctx.pads))


@op(namespace="nn.functional")
def pad(x: Any, pad: Any, mode: str = "constant", value: Any = None) -> Any:
    """Pad the last dimensions: pad = (left, right, top, bottom, ...), innermost dimension first.

    mode is "constant" (with `value`, 0 by default), "reflect", "replicate" or "circular". Raises ShapeError when
    there are more pads than dimensions.
    """
    require(
        len(pad) % 2 == 0 and len(pad) <= 2 * x.ndim,
        "pad {} does not fit a tensor of shape {}",
        tuple(pad),
        tuple(x.shape),
    )
    pads = [(0, 0)] * (x.ndim - len(pad) // 2)
    for i in range(len(pad) // 2 - 1, -1, -1):
        pads.append((int(pad[2 * i]), int(pad[2 * i + 1])))
    if mode == "constant":
        return pad_constant(x, tuple(pads), 0.0 if value is None else value)
    for d, (before, after) in enumerate(pads):
        if before or after:
            n = x.shape[d]
            at = np.arange(-before, n + after)
            if mode == "replicate":
                at = np.clip(at, 0, n - 1)
            elif mode == "circular":
                require(
                    before <= n and after <= n, "circular padding {} is larger than the size {}", (before, after), n
                )
                first = builtins.max(-before, 0)  # cropped first, then wrapped
                kept = n + builtins.min(before, 0) + builtins.min(after, 0)
                require(kept > 0, "padding {} leaves nothing of the size {} to wrap around", (before, after), n)
                at = first + np.arange(-builtins.max(before, 0), kept + builtins.max(after, 0)) % kept
            elif mode == "reflect":
                require(
                    before < n and after < n, "reflect padding {} must be smaller than the size {}", (before, after), n
                )
                at = np.abs(at)
                at = np.where(at >= n, 2 * (n - 1) - at, at)
            else:
                raise NotImplementedError(f"unknown padding mode {mode!r}: constant, reflect, replicate or circular")
            x = x[(slice(None),) * d + (at,)]
    return x


# -- copies and types --------------------------------------------------------------------------------------------------


@op()
class alias(Op):
    """The same values at a new place in the graph"""

    is_view = True

    def forward(ctx, x: Any) -> Any:
        return x

    def backward(ctx, dy: Any) -> Any:
        return dy


@op(method="clone")
class clone(Op):
    """A copy in memory of its own;    dx = dy"""

    def shape(x: Any, **_: Any) -> Any:  # type: ignore[override]
        return x

    def forward(ctx, x: Any, *, memory_format: Any = None) -> Any:
        return x.copy()

    def backward(ctx, dy: Any) -> Any:
        return dy


@op()
class cast(Op):
    """x in another dtype;    dx = dy in x's dtype"""

    def shape(x: Any, *_: Any) -> Any:  # type: ignore[override]
        return x

    def forward(ctx, x: Any, dtype: Any) -> Any:
        ctx.dtype = x.dtype
        return x.astype(dtypes.as_numpy(dtype))

    def backward(ctx, dy: Any) -> Any:
        return cast(dy, ctx.dtype)


@op()
class transfer(Op):
    """x on another device;    dx = dy on x's device"""

    def forward(ctx, x: Any, device: Any) -> Any:
        ctx.device = devices.device_of(x)
        return devices.move(x, device)

    def backward(ctx, dy: Any) -> Any:
        return transfer(dy, ctx.device)


@op(method="contiguous")
def contiguous(x: Any, *, memory_format: Any = None) -> Any:
    """x itself if its memory is row-major without gaps, else a copy that is."""
    return x if x.is_contiguous() else clone_contiguous(x)


@op()
class clone_contiguous(Op):
    """A row-major copy;    dx = dy"""

    def forward(ctx, x: Any) -> Any:
        return x.copy(order="C")

    def backward(ctx, dy: Any) -> Any:
        return dy


@op(method="to")
def to(
    x: Any, *args: Any, dtype: Any = None, device: Any = None, copy: bool = False, non_blocking: bool = False
) -> Any:
    """x in another dtype, on another device, or both; the same tensor if nothing changes.

    Accepts to(dtype), to(device), to(device, dtype) and to(other).
    """
    for a in args:
        if isinstance(a, Tensor):
            dtype, device = a.dtype, a.device
        elif isinstance(a, devices.Device) or (isinstance(a, str) and a.partition(":")[0] in ("cpu", "cuda")):
            device = a
        elif a is not None and not isinstance(a, bool):  # a bool is non_blocking, which copies here always are
            dtype = a
    y = x
    if dtype is not None and dtypes.as_numpy(dtype) != x.array.dtype:
        y = cast(y, dtypes.as_numpy(dtype))
    if device is not None and devices.Device(device) != y.device:
        y = transfer(y, devices.Device(device))
    return clone(y) if copy and y is x else y


def _converter(name: str, dtype: dtypes.DType) -> None:
    def convert(self: Tensor) -> Any:
        return to(self, dtype=dtype)

    convert.__name__, convert.__doc__ = name, f"The values as {dtype!r}."
    attach(name, convert)


for _name in ("float", "double", "half", "int", "long", "short", "bool"):
    _converter(_name, getattr(dtypes, _name))


def _type(self: Tensor, dtype: Any = None) -> Any:
    """The name of the dtype; with an argument, the values in that dtype."""
    return repr(self.dtype) if dtype is None else to(self, dtype=dtype)


def _type_as(self: Tensor, other: Tensor) -> Any:
    """The values in the dtype of `other`."""
    return to(self, dtype=other.dtype)


attach("type", _type)
attach("type_as", _type_as)
