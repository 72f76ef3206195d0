"""3 x 3 convolution of stride 1 with a quarter of the multiplications: Winograd's F(4 x 4, 3 x 3).

    y = A' [ (G w G') * (B' x B) ] A

makes 4 x 4 outputs of 6 x 6 inputs with 36 products instead of 144. Summed over channels, each of the 36 is a matrix
product over channels for all windows, which the register tile does; the transforms before and after it are sums of a
few vectors whose lanes are channels. Images are therefore turned, a few rows at a time, so that channels are
neighbours, and turned back at the end.

The transforms round too. With the points 0, 5/8, -5/8, 3/2, -3/2, at which A, B and G evaluate polynomials, the
largest error on normal numbers was 1 to 3 times that of `tiled` in y and dx and 1.3 to 6 times in dw where Winograd is
the default (16 to 256 channels, images of 7 x 7 to 28 x 28, every tier), and up to 8 times with fewer channels, where
it is not. It is relative to the largest numbers under a window, not to each output's own.
float64 is asked for the sake of its last digits, so there `tiled` is the default. Winograd is switched off by
`with mk.use(conv2d="tiled", conv2d_dx="tiled", conv2d_dw="tiled")`.

What is not finite would spread over the 4 x 4 outputs: a result with NaN or Inf is thrown away and made by `tiled`.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015, arXiv:1509.09308; the choice of points:
Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution", 2018, arXiv:1803.10986.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..cpu import gather, machine, threads, workspace
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import address
from ..cpu.simd import I64, Vectors, counting
from . import cpu
from .geometry import Geometry, Pair, geometry

Array = NDArray[Any]
Matrix = list[list[float]]

OUT, IN = 4, 6  # outputs and inputs of a window along one axis
POINTS = IN * IN


def _matrices(a: float, b: float) -> tuple[Matrix, Matrix, Matrix]:
    """B', G and A' for the points 0, a, -a, b, -b and infinity. Rows (columns of A') 1 and 2, 3 and 4 differ in the
    sign of every other number only.
    """
    aa, bb = a * a, b * b
    ga, gb = 1 / (2 * aa * (aa - bb)), 1 / (2 * bb * (bb - aa))
    inputs: Matrix = [
        [aa * bb, 0, -(aa + bb), 0, 1, 0],
        [0, -a * bb, -bb, a, 1, 0],
        [0, a * bb, -bb, -a, 1, 0],
        [0, -b * aa, -aa, b, 1, 0],
        [0, b * aa, -aa, -b, 1, 0],
        [0, aa * bb, 0, -(aa + bb), 0, 1],
    ]
    weights: Matrix = [
        [1 / (aa * bb), 0, 0],
        [ga, ga * a, ga * aa],
        [ga, -ga * a, ga * aa],
        [gb, gb * b, gb * bb],
        [gb, -gb * b, gb * bb],
        [0, 0, 1],
    ]
    outputs = [[float(i == 0)] + [(s * p) ** i for p in (a, b) for s in (1, -1)] + [float(i == 3)] for i in range(OUT)]
    return inputs, weights, outputs


INPUTS, WEIGHTS, OUTPUTS = _matrices(5 / 8, 3 / 2)


def _transposed(m: Matrix) -> Matrix:
    return [list(column) for column in zip(*m)]


def _sum(v: Vectors, terms: Sequence[tuple[float, ir.Value]]) -> ir.Value:
    """Sum of factor * vector, in order, without the factors 0 and 1."""
    total = None
    for factor, x in sorted(((f, x) for f, x in terms if f), key=lambda t: t[0] != 1):
        if total is None:
            total = x if factor == 1 else v.builder.fmul(_constant(v, factor), x)
        else:
            total = v.add(x, total) if factor == 1 else v.multiply_add(_constant(v, factor), x, total)
    return v.zero() if total is None else total


def _constant(v: Vectors, x: float) -> ir.Value:
    return ir.Constant(v.type, [x] * v.lanes)


def _apply(v: Vectors, m: Matrix, xs: Sequence[ir.Value]) -> list[ir.Value]:
    """m @ xs, where pairs of rows (or of columns) 1 and 2, 3 and 4 share their sums."""
    if len(m) == IN:
        ys = [_sum(v, list(zip(row, xs))) for row in (m[0], m[5])]
        pairs = []
        for i in (1, 3):
            same = [(p + q) / 2 for p, q in zip(m[i], m[i + 1])]
            other = [(p - q) / 2 for p, q in zip(m[i], m[i + 1])]
            s, d = _sum(v, list(zip(same, xs))), _sum(v, list(zip(other, xs)))
            pairs += [v.add(s, d), v.builder.fsub(s, d)]
        return [ys[0], *pairs, ys[1]]
    parts = [xs[0], xs[5]]
    columns = [0, 5]
    sums = {i: (v.add(xs[i], xs[i + 1]), v.builder.fsub(xs[i], xs[i + 1])) for i in (1, 3)}
    made = []
    for row in m:
        terms = [(row[c], x) for c, x in zip(columns, parts)]
        for i, (s, d) in sums.items():
            terms += [((row[i] + row[i + 1]) / 2, s), ((row[i] - row[i + 1]) / 2, d)]
        made.append(_sum(v, terms))
    return made


def _apply2(v: Vectors, m: Matrix, xs: list[list[ir.Value]]) -> list[list[ir.Value]]:
    """m @ xs @ m'"""
    half = [_apply(v, m, column) for column in zip(*xs)]  # half[j][i]: columns transformed
    return [_apply(v, m, row) for row in zip(*half)]


@functools.cache
def transform(dtype: str, nlanes: int, which: str) -> Any:
    """A transform of a vector of channels, as a function for kernels: f((source, row, column, to, to_row, to_column)).

    "inputs"   6 x 6 -> 6 x 6, B' x B          "weights"   3 x 3 -> 6 x 6, G w G'
    "outputs"  6 x 6 -> 4 x 4, A' m A          "errors"    4 x 4 -> 6 x 6, A dy A'   (of outputs, transposed)
    "filters"  6 x 6 -> 3 x 3, G' m G          (of weights, transposed)

    Steps are in bytes.
    """
    m = {
        "inputs": INPUTS,
        "weights": WEIGHTS,
        "outputs": OUTPUTS,
        "errors": _transposed(OUTPUTS),
        "filters": _transposed(WEIGHTS),
    }[which]

    def body(builder: ir.IRBuilder, *args: ir.Value) -> None:
        source, row, column, to, to_row, to_column = args
        v = Vectors(builder, gather.element(dtype), nlanes)

        def place(start: ir.Value, row: ir.Value, column: ir.Value, i: int, j: int) -> ir.Value:
            return builder.add(start, builder.add(builder.mul(row, I64(i)), builder.mul(column, I64(j))))

        n = len(m[0])
        xs = [[v.load(place(source, row, column, i, j)) for j in range(n)] for i in range(n)]
        for i, line in enumerate(_apply2(v, m, xs)):
            for j, y in enumerate(line):
                v.store(y, place(to, to_row, to_column, i, j))

    return gather.outlined(f"winograd_{which}_{dtype}_{nlanes}", 6, body)


@functools.cache
def epilogue(dtype: str, nlanes: int) -> Any:
    """f(at, bias, count, check): bias added to `count` vectors, and zero times every result to the vector `check`."""
    size = np.dtype(dtype).itemsize * nlanes

    @intrinsic
    def function(typing: Any, at: Any, bias: Any, count: Any, check: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            at, bias, count, check = args
            v = Vectors(builder, gather.element(dtype), nlanes)
            add = v.load(bias)
            with counting(builder, count) as i:
                place = builder.add(at, builder.mul(i, I64(size)))
                y = v.add(v.load(place), add)
                v.store(y, place)
                v.store(v.multiply_add(y, v.zero(), v.load(check)), check)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), emit

    return function


@functools.cache
def zeros(dtype: str) -> Any:
    pointer = gather.pointer(dtype)

    @jit(inner=True)
    def zero(at, count):
        p = pointer(at)
        for i in range(count):
            p[i] = 0

    return zero


@functools.cache
def windows(dtype: str, nlanes: int, which: str) -> Any:
    """f reads a row of windows of one block of channels of an image, and transforms them ("inputs" or "errors").

    The row begins at row `top` of the image and `left` columns before it; what is outside counts as zero. `held` has
    room for the lines of pixels.
    """
    size = np.dtype(dtype).itemsize
    vector, edge = nlanes * size, IN if which == "inputs" else OUT
    turn, change, zero = gather.turn(dtype, nlanes, True), transform(dtype, nlanes, which), zeros(dtype)

    @jit(inner=True)
    def read(source, block, channels, height, width, top, left, across, to, step, point, held):
        columns = across * OUT + edge - OUT
        c = block * nlanes
        right = min(width, columns - left)
        for r in range(edge):
            line = held + r * columns * vector
            if top + r < 0 or top + r >= height:
                zero(line, columns * nlanes)
                continue
            zero(line, left * nlanes)
            at = source + (c * height + top + r) * width * size
            turn((at, height * width * size, min(nlanes, channels - c), right, line + left * vector, vector))
            zero(line + (left + right) * vector, (columns - left - right) * nlanes)
        for t in range(across):
            change(
                (
                    held + t * OUT * vector,
                    columns * vector,
                    vector,
                    to + (t * step + c) * size,
                    IN * point * size,
                    point * size,
                )
            )

    return read


# What a kernel needs to know. Sizes of the source (c, h, w) and of the result (k, p, q); `top`, `left`: rows and
# columns of zeros before the source; windows along a column and a row; `group`: rows of windows that are worked on at a
# time. Then elements from one to the next: v_step, v_point of windows and of the 36 products among the transformed
# inputs; m_step, m_point among the products; u_point among the weights; w_out, w_in of channels in w; and bytes of
# scratch memory for one thread's inputs, products and the lines between them and the images.
Job = namedtuple(
    "Job",
    "images c h w k p q top left down across group v_step v_point m_step m_point u_point w_out w_in turned "
    "room_v room_m room_line",
)


@functools.cache
def kernels(dtype: str, tier: str) -> Any:
    """The compiled convolution."""
    size, lanes, nrows = np.dtype(dtype).itemsize, gather.lanes(dtype, tier), gather.rows(tier)
    wide, vector = 2 * lanes, lanes * np.dtype(dtype).itemsize
    pointer, tile = gather.pointer(dtype), gather.product(dtype, nrows, 2, lanes)
    inward, outward = gather.turn(dtype, lanes, True), gather.turn(dtype, lanes, False)
    read, of_weights = windows(dtype, lanes, "inputs"), transform(dtype, lanes, "weights")
    zero = zeros(dtype)
    of_products, finish = transform(dtype, lanes, "outputs"), epilogue(dtype, lanes)

    @jit(inner=True)
    def weights(task, slot, job, w, u, lines):
        """The filters of `wide` output channels and one block of input channels, transformed."""
        blocks = (job.c + lanes - 1) // lanes
        panel, block = task // blocks, task % blocks
        held = lines + slot * job.room_line
        for c in range(block * lanes, min((block + 1) * lanes, job.c)):
            for half in range(2):
                k = panel * wide + half * lanes
                to = u + ((panel * job.c + c) * wide + half * lanes) * size
                if k >= job.k:
                    zero(held, 9 * lanes)
                else:
                    source = w + (k * job.w_out + c * job.w_in) * size
                    inward((source, job.w_out * size, min(lanes, job.k - k), 9, held, vector))
                if job.turned:
                    of_weights(
                        (held + 8 * vector, -3 * vector, -vector, to, 6 * job.u_point * size, job.u_point * size)
                    )
                else:
                    of_weights((held, 3 * vector, vector, to, 6 * job.u_point * size, job.u_point * size))

    @jit(inner=True)
    def load(row, at, block, job, x, v, held):
        """A row of windows of one block of channels, transformed: windows `at` and further in v."""
        image, top = row // job.down, row % job.down * OUT - job.top
        source = x + image * job.c * job.h * job.w * size
        to = v + at * job.v_step * size
        read(
            source, block, job.c, job.h, job.w, top, job.left, job.across, to, job.v_step, job.v_point, held,
        )  # fmt: skip

    @jit(inner=True)
    def multiply(point, panel, windows, job, rows, cols, u, v, m):
        """One of the 36 products, for one panel of output channels."""
        b = u + (point * job.u_point + panel * job.c * wide) * size
        for t in range(0, windows, nrows):
            a = v + (point * job.v_point + t * job.v_step) * size
            to = m + (point * job.m_point + t * job.m_step + panel * wide) * size
            tile(job.c, a, rows, 1, b, cols, to, job.m_step, 0)

    @jit(inner=True)
    def store(row, at, block, job, m, bias, y, held, flag):
        """A row of windows of one block of output channels, transformed back and turned."""
        image, top = row // job.down, row % job.down * OUT
        length, k = job.across * OUT, block * lanes
        check = held + OUT * length * vector
        zero(check, lanes)
        for t in range(job.across):
            source = m + ((at + t) * job.m_step + k) * size
            point = job.m_point * size
            of_products((source, IN * point, point, held + t * OUT * vector, length * vector, vector))
        finish(held, bias + k * size, OUT * length, check)
        target = y + (image * job.k + k) * job.p * job.q * size
        for r in range(min(OUT, job.p - top)):
            for q in range(0, job.q, lanes):
                outward(
                    (
                        held + (r * length + q) * vector,
                        vector,
                        min(lanes, job.q - q),
                        min(lanes, job.k - k),
                        target + ((top + r) * job.q + q) * size,
                        job.p * job.q * size,
                    )
                )
        found = pointer(check)
        for i in range(lanes):
            if found[i] != found[i]:
                words(flag)[0] = 1

    words = gather.pointer("int64")

    @jit(inner=True)
    def alone(task, slot, job, rows, cols, x, u, bias, y, scratch, flag):
        """A group of rows of windows, from the image to the result."""
        v = scratch + slot * (job.room_v + job.room_m + job.room_line)
        m, held = v + job.room_v, v + job.room_v + job.room_m
        first = task * job.group
        count = min(job.group, job.images * job.down - first)
        for row in range(count):
            for block in range((job.c + lanes - 1) // lanes):
                load(first + row, row * job.across, block, job, x, v, held)
        for point in range(POINTS):
            for panel in range((job.k + wide - 1) // wide):
                multiply(point, panel, count * job.across, job, rows, cols, u, v, m)
        for row in range(count):
            for block in range((job.k + lanes - 1) // lanes):
                store(first + row, row * job.across, block, job, m, bias, y, held, flag)

    @jit(inner=True)
    def load_some(task, slot, job, first, x, v, lines):
        blocks = (job.c + lanes - 1) // lanes
        row = task // blocks
        load(first + row, row * job.across, task % blocks, job, x, v, lines + slot * job.room_line)

    @jit(inner=True)
    def multiply_some(task, slot, job, windows, rows, cols, u, v, m):
        panels = (job.k + wide - 1) // wide
        multiply(task // panels, task % panels, windows, job, rows, cols, u, v, m)

    @jit(inner=True)
    def store_some(task, slot, job, first, m, bias, y, lines, flag):
        blocks = (job.k + lanes - 1) // lanes
        row = task // blocks
        store(first + row, row * job.across, task % blocks, job, m, bias, y, lines + slot * job.room_line, flag)

    @jit(tag=f"{dtype} {tier}")
    def convolve(
        images, c, h, w, k, p, q, top, left, down, across, group, v_step, v_point, m_step, m_point, u_point,
        w_out, w_in, turned, room_v, room_m, room_line, together,
        rows, cols, x, filters, bias, y, u, biases, scratch, flag, nthreads,
    ):  # fmt: skip
        job = Job(
            images, c, h, w, k, p, q, top, left, down, across, group, v_step, v_point, m_step, m_point, u_point,
            w_out, w_in, turned, room_v, room_m, room_line,
        )  # fmt: skip
        blocks, panels = (c + lanes - 1) // lanes, (k + wide - 1) // wide
        zero(biases, panels * wide)
        if bias != 0:
            for i in range(k):
                pointer(biases)[i] = pointer(bias)[i]
        words(flag)[0] = 0
        lines = scratch + room_v + room_m if together else scratch
        parallel_for(weights, panels * blocks, nthreads, (job, filters, u, lines))
        total = images * down
        if not together:
            parallel_for(
                alone, (total + group - 1) // group, nthreads, (job, rows, cols, x, u, biases, y, scratch, flag)
            )
            return words(flag)[0]
        for first in range(0, total, group):
            count = min(group, total - first)
            v, m = scratch, scratch + room_v
            parallel_for(load_some, count * blocks, nthreads, (job, first, x, v, lines))
            parallel_for(multiply_some, POINTS * panels, nthreads, (job, count * across, rows, cols, u, v, m))
            blocks_out = (k + lanes - 1) // lanes
            parallel_for(store_some, count * blocks_out, nthreads, (job, first, m, biases, y, lines, flag))
        return words(flag)[0]

    return convolve


class _Plan(NamedTuple):
    numbers: tuple[int, ...]  # of Job
    together: int
    rows: Array  # tables for the tile
    cols: Array
    u: int  # bytes of transformed weights, of the bias, of the rest
    bias: int
    scratch: int


ALONE, TOGETHER = 64, 128  # most windows worked on at a time


@functools.lru_cache(maxsize=512)
def _plan(g: Geometry, size: int, lanes: int, nrows: int, nthreads: int, turned: bool) -> _Plan:
    """How the convolution, or the gradient for x (`turned`), is laid out."""
    c, k = (g.k, g.c) if turned else (g.c, g.k)
    (h, w), (p, q) = ((g.p, g.q), (g.h, g.w)) if turned else ((g.h, g.w), (g.p, g.q))
    top, left = (2 - g.padding[0], 2 - g.padding[1]) if turned else g.padding
    down, across = -(-p // OUT), -(-q // OUT)
    line = 64 // size
    wide = 2 * lanes

    def step(n: int) -> int:
        """n elements, and a cache line more where several steps would otherwise meet in one cache set."""
        return n + line if n * size % 2048 == 0 else n

    def odd(n: int) -> int:
        """n elements rounded up to an odd number of cache lines."""
        return (-(-n // line) | 1) * line

    total = g.n * down
    near = machine.machine().l2 // (POINTS * (c + k) * size)  # windows whose numbers stay in the second-level cache
    most = max(1, max(ALONE // 2, min(ALONE, near)) // across)
    group = min(range(max(1, most // 2), most + 1), key=lambda n: (-(-n * across // nrows) * nrows / (n * across), -n))
    groups = -(-total // group)
    together = groups % nthreads != 0 and groups < 4 * nthreads
    if together:
        group = min(total, max(1, TOGETHER // across))
    windows = -(-min(group, total) * across // nrows) * nrows
    v_step, m_step = step(-(-c // lanes) * lanes), step(-(-k // wide) * wide)
    v_point, m_point = odd(windows * v_step), odd(windows * m_step)
    u_point = odd(-(-k // wide) * c * wide)
    room_v, room_m = POINTS * v_point * size, POINTS * m_point * size
    # Lines of pixels; a transposed copy writes up to a vector's length of columns more.
    room_line = (IN * (across * OUT + IN - OUT) + 2 * lanes) * lanes * size
    window = 9
    w_out, w_in = (window, g.c * window) if turned else (g.c * window, window)
    numbers = (
        g.n, c, h, w, k, p, q, top, left, down, across, group, v_step, v_point, m_step, m_point, u_point,
        w_out, w_in, int(turned), room_v, room_m, room_line,
    )  # fmt: skip
    scratch = room_v + room_m + nthreads * room_line if together else nthreads * (room_v + room_m + room_line)
    return _Plan(
        numbers,
        int(together),
        np.arange(nrows, dtype=np.int64) * v_step,
        np.arange(c, dtype=np.int64) * wide,
        POINTS * u_point * size,
        64 + -(-k // wide) * wide * size,
        scratch,
    )


def _run(g: Geometry, x: Array, w: Array, b: Array | None, y: Array, turned: bool) -> bool:
    """Whether the result is finite."""
    dtype, tier = gather.name(x), machine.floats()
    nthreads = threads.get_num_threads()
    plan = _plan(g, x.itemsize, gather.lanes(dtype, tier), gather.rows(tier), nthreads, turned)
    with workspace.borrow(plan.u + plan.bias + plan.scratch) as u:
        flag = u + plan.u
        return not kernels(dtype, tier)(
            *plan.numbers, plan.together, address(plan.rows), address(plan.cols),
            address(x), address(w), address(b), address(y), u, flag + 64, flag + plan.bias, flag, nthreads,
        )  # fmt: skip


def conv2d(x: Array, w: Array, b: Array | None, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Array:
    """y = conv2d(x, w) + b"""
    g = geometry(x.shape, w.shape, stride, padding, dilation, groups)
    y = np.empty(g.y_shape, x.dtype)
    if _run(g, _plain(x), _plain(w), None if b is None else _plain(b), y, False):
        return y
    return cpu.conv2d(x, w, b, stride, padding, dilation, groups)


def conv2d_dx(
    dy: Array, w: Array, x_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """dx: the convolution of dy with the turned filters."""
    g = geometry(tuple(x_shape), w.shape, stride, padding, dilation, groups)
    dx = np.empty(g.x_shape, dy.dtype)
    if _run(g, _plain(dy), _plain(w), None, dx, True):
        return dx
    return cpu.conv2d_dx(dy, w, x_shape, stride, padding, dilation, groups)


_plain = cpu._plain
