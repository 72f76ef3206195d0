"""Two-dimensional convolution and its two gradients.

    x (N, C, H, W), w (K, C / groups, R, S), b (K,) -> y (N, K, P, Q)

float32 and float64; sums are taken in the dtype of the arrays. x counts as zero outside its borders, so an infinite
weight beside the border gives NaN, as 0 * inf does; in conv2d_dx only the taps that touched x take part. N = 0, C = 0
and K = 0 are legal.

Every variant takes (x, w, b, stride, padding, dilation, groups), (dy, w, x_shape, ...) or (dy, x, w_shape, ...), all
positional.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import checks
from ..cpu import machine
from ..registry import REFERENCE, Op, Variant
from .geometry import Geometry, geometry


def _forward(x: Any, w: Any, b: Any, *rest: Any) -> Geometry:
    return geometry(x.shape, w.shape, *rest)


def _backward(dy: Any, w: Any, x_shape: Any, *rest: Any) -> Geometry:
    return geometry(tuple(x_shape), w.shape, *rest)


def _gradient(dy: Any, x: Any, w_shape: Any, *rest: Any) -> Geometry:
    return geometry(x.shape, tuple(w_shape), *rest)


def prefer_matrix(op: str, g: Geometry) -> bool:
    """Whether windows are better laid out as a matrix. Measured on Zen 4 (AVX-512) with 1 and 2 threads, float32.

    That is so where nothing has to be laid out (windows of 1), where there is hardly a run of outputs to walk along,
    and where the preparations of `tiled` cost more than its product: dy turned for short filters, or copied into
    planes for few channels (unless in many groups, for which NumPy makes as many products).
    """
    c, k, outputs = g.c // g.groups, g.k // g.groups, g.p * g.q
    if k == 1:
        return False
    single = g.r == g.s == 1 and g.padding == (0, 0)
    if op == "conv2d_dw":
        depth = c * g.r * g.s
        return (depth <= 16 and g.n * outputs * k * depth > 1 << 19) or (single and outputs > 1)
    if op == "conv2d":
        return outputs <= 2 or (single and c > 1)
    return outputs <= 2 or single or (c < 8 and g.groups == 1 and (g.stride != (1, 1) or outputs < 16))


# Outputs per filter, of one image, up to which `tiled` reads the filters where they lie instead of packing them, which
# then takes longer than their product, and is faster than anything that packs them. Measured on a Xeon with AVX-512,
# 1 and 2 threads: 3 x 3 windows of 64 to 512 channels on 4 x 4 to 14 x 14.
FEW = 256


def prefer_direct(op: str, g: Geometry) -> bool:
    """Whether few outputs of many filters are asked for."""
    return op == "conv2d" and g.n == g.groups == 1 and 2 < g.p * g.q <= FEW and g.r * g.s > 1


def prefer_filters(op: str, g: Geometry) -> bool:
    """Whether filters are better lanes than pixels: not where a panel of them (32 floats) stays partly empty, for short
    sums, whose products are turned more than made, nor where dx is written with gaps and few channels share the
    turning. Measured as above.
    """
    c, k, outputs = g.c // g.groups, g.k // g.groups, g.p * g.q
    lanes, depth = (c, k * g.r * g.s) if op == "conv2d_dx" else (k, c * g.r * g.s)
    if outputs <= 2 or prefer_direct(op, g) or depth < 128 or lanes < 0.85 * 32 * -(-lanes // 32):
        return False
    if g.r == g.s == 1 and g.padding == (0, 0):
        if machine.multiplies_bfloat16():  # a matrix product on the tile unit is faster still
            return False
        return outputs <= 64 and g.stride == (1, 1) and (op == "conv2d" or c >= k)
    return op == "conv2d" or g.stride == (1, 1) or c >= 128


def _filters(op: str, of: Callable[..., Geometry]) -> Variant:
    return Variant(
        "filters",
        load=f"minidl_kernels.conv.filters:{op}",
        cost=lambda *args: 0.8 if prefer_filters(op, of(*args)) else 3.5,
        note="as `tiled`, with filters as the lanes of vectors instead of pixels: nothing is idle in small images",
    )


# Bytes of partial sums beyond which dot products leave the second-level cache.
SUMS_BYTES = 640 << 10


def prefer_dots(g: Geometry) -> bool:
    """Whether pixels are better lanes than filters for the gradient of filters: where these leave vectors of 16, or
    pairs of them, idle, or where there are so few channels and taps that dy is turned more than multiplied. Measured on
    a Xeon with AVX-512, 1 and 2 threads: groups of 4 to 64 filters on 7 x 7 to 56 x 56, first layers.
    """
    k, depth = g.k // g.groups, g.c // g.groups * g.r * g.s
    if not k * depth:
        return False
    wide = 16 if k <= 16 else 32
    full = k / (-(-k // wide) * wide) * depth / (-(-depth // 8) * 8)
    return full < 0.72 and k * depth * 64 <= SUMS_BYTES


def prefer_bands(g: Geometry) -> bool:
    """Whether the gradient of filters is better summed a block of filters at a time: everywhere but for windows of 1,
    where NumPy's product has nothing to lay out, unless it were one for each of many groups.
    """
    return g.groups > 1 or g.r * g.s > 1


def _small(name: str, prefer: Callable[[Geometry], bool], cost: float, note: str) -> Callable[..., Variant]:
    return lambda op, of: Variant(
        name,
        load=f"minidl_kernels.conv.{name}:{op}",
        cost=lambda *args: cost if prefer(of(*args)) else 3.9,
        note=note,
    )


_dots = _small("dots", prefer_dots, 0.7, "dot products of pixels: for few filters, or few channels")
_bands = _small("bands", prefer_bands, 0.75, "a product over pixels for some filters at a time, near the caches")


def accepts_columns(g: Geometry, itemsize: int) -> bool:
    """Whether a filter fills the widest tile, of 128 bytes, and there are outputs."""
    return min(g.n, g.k, g.p, g.q) > 0 and g.c // g.groups * g.r * g.s * itemsize >= 128


def prefer_columns(g: Geometry) -> bool:
    """Whether the filters of dx meet so few outputs that turning them takes longer than the product. Measured as above:
    64 to 2048 channels on 2 x 2 to 14 x 14, batches of 1 to 8.
    """
    most = 36 if g.r == g.s == 1 and g.stride == (1, 1) else 100  # a product as it stands, where there are more
    return g.groups == 1 and g.n * g.p * g.q <= most


def _columns(op: str, of: Callable[..., Geometry]) -> Variant:
    return Variant(
        "columns",
        load=f"minidl_kernels.conv.columns:{op}",
        accepts=lambda *args: accepts_columns(of(*args), args[0].dtype.itemsize),
        needs="filters of at least 128 bytes, and outputs",
        cost=lambda *args: 0.45 if prefer_columns(of(*args)) else 3.9,
        note="columns of products, added up; filters are read where they lie: for few outputs",
    )


# Bytes of windows beyond which they are not worth gathering.
PATCHES_BYTES = 16 << 20


def prefer_patches(op: str, g: Geometry, itemsize: int) -> bool:
    """Whether to gather windows for the tile unit: float32, all sides of the product long enough to be split there,
    channels enough, and filters enough to share what was gathered. Measured on a Xeon with AMX, 2 threads: windows of
    3 x 3 and 4 x 4 at stride 2.
    """
    depth, pixels = g.c * g.r * g.s, g.n * g.p * g.q
    if op == "conv2d_dw":  # of few images, too: what else there is reads the windows, or dy, again and again
        return (
            itemsize == 4
            and g.groups == 1
            and machine.multiplies_bfloat16()
            and g.r * g.s > 1
            and g.c >= 128
            and g.k >= 256
            and depth * pixels * itemsize <= PATCHES_BYTES
        )
    return (
        itemsize == 4
        and g.groups == 1
        and not prefer_direct(op, g)
        and machine.multiplies_bfloat16()
        and g.r * g.s > 1
        and g.c >= (128 if op == "conv2d" else 64)
        and g.k >= (128 if pixels < 1000 else 256)
        and min(depth, pixels) >= 64
        and depth * g.k * pixels >= 1 << 24
        and depth * pixels * itemsize <= PATCHES_BYTES
    )


def _patches(op: str, of: Callable[..., Geometry]) -> Variant:
    return Variant(
        "patches",
        load=f"minidl_kernels.conv.patches:{op}",
        cost=lambda *args: 0.6 if prefer_patches(op, of(*args), args[0].dtype.itemsize) else 3.8,
        note="windows gathered into a matrix by all threads, one product: for a tile unit",
    )


# Bytes of transformed filters beyond which Winograd's way would mostly move them about.
WINOGRAD_BYTES = 40 << 20


def accepts_winograd(g: Geometry, itemsize: int) -> bool:
    """Whether Winograd's transforms are defined, and fit."""
    return (
        g.r == g.s == 3
        and g.stride == g.dilation == (1, 1)
        and g.groups == 1
        and max(g.padding) <= 2
        and min(g.n, g.c, g.k, g.p, g.q) > 0
        and 36 * g.c * g.k * itemsize <= WINOGRAD_BYTES
    )


def prefer_winograd(op: str, g: Geometry) -> bool:
    """Whether Winograd's way is the fastest: not for few channels, where the transforms cost more than the product, for
    few windows, where those of the filters do, nor where a good part of each window lies outside. Measured as above;
    the gradient of few filters gains too, but less than its kernel takes to compile.
    """
    windows = -(-g.p // 4) * -(-g.q // 4)
    if op != "conv2d_dw" and g.n * windows >= 256 and g.p * g.q * 4 >= windows * 16 * 3:
        return min(g.c, g.k) >= 8 and g.c * g.k >= 128  # filters are transformed once for many windows
    least = 1024 if op == "conv2d_dw" else 512
    # Few windows do not pay for the transforms of filters that leave the caches, where there are faster ways.
    fewest = 17 if op == "conv2d" and g.c * g.k > 1 << 15 else 6
    return min(g.c, g.k) >= 12 and g.c * g.k >= least and g.n * windows >= fewest and g.p * g.q * 3 >= windows * 16


def _winograd(op: str, of: Callable[..., Geometry]) -> Variant:
    def accepts(*args: Any) -> bool:
        return accepts_winograd(of(*args), args[0].dtype.itemsize)

    def cost(*args: Any) -> float:
        return 0.5 if args[0].dtype.itemsize == 4 and prefer_winograd(op, of(*args)) else 4.0

    return Variant(
        "winograd",
        load=f"minidl_kernels.conv.winograd{'_dw' if op == 'conv2d_dw' else ''}:{op}",
        accepts=accepts,
        needs="3 x 3 windows, stride 1, dilation 1, one group, padding up to 2, filters of at most 512 x 512 channels",
        cost=cost,
        note="4 x 4 outputs by 36 multiplications instead of 144; errors up to 6 times those of `tiled`",
    )


def apart(g: Geometry) -> Geometry | None:
    """The geometry of the smaller images that one with dilated windows falls apart into (dilated.py), or None."""
    (dh, dw), (ph, pw) = g.dilation, g.padding
    if g.stride != (1, 1) or g.dilation == (1, 1) or ph % dh or pw % dw or g.h % dh or g.w % dw or g.p % dh or g.q % dw:
        return None
    return g._replace(
        n=g.n * dh * dw, h=g.h // dh, w=g.w // dw, p=g.p // dh, q=g.q // dw, padding=(ph // dh, pw // dw),
        dilation=(1, 1),
    )  # fmt: skip


def _dilated(op: str, of: Callable[..., Geometry]) -> Variant:
    def accepts(*args: Any) -> bool:
        small = apart(of(*args))
        return small is not None and accepts_winograd(small, args[0].dtype.itemsize)

    def cost(*args: Any) -> float:
        small = apart(of(*args))
        good = small is not None and args[0].dtype.itemsize == 4 and prefer_winograd(op, small)
        return 0.5 if good and min(small.c, small.k) >= 32 else 4.0  # type: ignore[union-attr]

    return Variant(
        "dilated",
        load=f"minidl_kernels.conv.dilated:{op}",
        accepts=accepts,
        needs="3 x 3 windows, stride 1, one group, a dilation that divides height, width and padding",
        cost=cost,
        note="pixels dealt out to smaller images on which the windows are plain, then `winograd`",
    )


def accepts_depthwise(op: str, g: Geometry) -> bool:
    """Whether a channel at a time is a way: one channel in a group, windows and strides that there is code for."""
    return (
        g.c == g.groups
        and max(g.r, g.s) <= 7
        and max(g.stride) <= 2
        and g.dilation == (1, 1)
        and min(g.n, g.c, g.k, g.p, g.q) > 0
        and (op != "conv2d_dx" or (g.k == g.groups and g.padding[0] < g.r and g.padding[1] < g.s))
    )


def _depthwise(op: str, of: Callable[..., Geometry]) -> Variant:
    def cost(*args: Any) -> float:
        g = of(*args)
        # The first layer on grey images is of that kind, too: small windows fill the lanes better with pixels.
        fits = g.groups > 1 or (g.c == 1 and (op == "conv2d_dw" or g.r * g.s <= 9))
        # Beyond that a plane leaves the second-level cache.
        return 0.5 if fits and (g.h + 2 * g.padding[0]) * (g.w + 2 * g.padding[1]) <= 1 << 18 else 4.0

    return Variant(
        "depthwise",
        load=f"minidl_kernels.conv.depthwise:{op}",
        accepts=lambda *args: accepts_depthwise(op, of(*args)),
        needs="one channel in a group (for dx one filter too, and padding less than the window), windows up to 7 x 7, "
        "strides up to 2, dilation 1",
        cost=cost,
        note="a channel at a time: vectors of pixels, several rows of outputs at once",
    )


def accepts_channels(op: str, g: Geometry) -> bool:
    """Whether channels as lanes are a way: one filter for each channel."""
    return accepts_depthwise(op, g) and g.k == g.groups


def prefer_channels(g: Geometry) -> bool:
    """Whether rows are so short that vectors of pixels would stay half empty, or their windows so large that the
    turning of the images does not matter. Measured as above: 3 x 3 to 7 x 7 windows on 7 x 7 to 14 x 14.
    """
    return g.groups >= 16 and (g.q <= 8 or (g.q <= 14 and g.r * g.s >= 49))


def _channels(op: str, of: Callable[..., Geometry]) -> Variant:
    return Variant(
        "channels",
        load=f"minidl_kernels.conv.channels:{op}",
        accepts=lambda *args: accepts_channels(op, of(*args)),
        needs="one channel and one filter in a group, for dx padding less than the window, windows up to 7 x 7, "
        "strides up to 2, dilation 1",
        cost=lambda *args: 0.4 if prefer_channels(of(*args)) else 4.0,
        note="depthwise, with channels as the lanes of vectors: for small images",
    )


def _depthwise_cuda(op: str, of: Callable[..., Geometry]) -> Variant:
    """Its cost is a rank, not a measurement: no GPU was at hand. A tile of 64 filters would stay empty but for one."""
    return Variant(
        "depthwise",
        load=f"minidl_kernels.conv.depthwise_cuda:{op}",
        device="cuda",
        accepts=lambda *args: (g := of(*args)).c == g.groups and g.k < 1 << 16,
        needs="one channel in a group, fewer than 65536 filters",
        cost=lambda *args: 0.5 if of(*args).groups > 1 else 2.0,
        note="a thread for each output, its window read where it is",
    )


def _cost(op: str, of: Callable[..., Geometry]) -> Callable[..., float]:
    """Of im2col, where `tiled` costs 2."""
    return lambda *args: 1.0 if prefer_matrix(op, of(*args)) else 3.0


OPS = tuple(
    Op(
        name,
        check=check,
        variants=(
            Variant(
                "reference",
                load=f"minidl_kernels.conv.reference:{name}",
                cost=REFERENCE,
                note="the definition: one product per tap of the window",
            ),
            Variant(
                "im2col",
                load=f"minidl_kernels.conv.im2col:{name}",
                cost=_cost(name, of),
                note="NumPy's way: windows copied into a matrix, one BLAS product",
            ),
            Variant(
                "tiled",
                load=f"minidl_kernels.conv.cpu:{name}",
                cost=2.0,
                note="an implicit matrix product: the register tile reads the padded image through a table of offsets",
            ),
            *([_dots(name, of), _bands(name, of)] if name == "conv2d_dw" else [_filters(name, of)]),
            *([_columns(name, of)] if name == "conv2d_dx" else []),
            _patches(name, of),
            _winograd(name, of),
            _dilated(name, of),
            _depthwise(name, of),
            *([] if name == "conv2d_dw" else [_channels(name, of)]),
            Variant(
                "implicit",
                load=f"minidl_kernels.conv.cuda:{name}",
                device="cuda",
                note="a matrix product by register tiles that read the image where it is",
            ),
            _depthwise_cuda(name, of),
        ),
    )
    for name, check, of in (
        ("conv2d", checks.conv2d, _forward),
        ("conv2d_dx", checks.conv2d_dx, _backward),
        ("conv2d_dw", checks.conv2d_dw, _gradient),
    )
)
