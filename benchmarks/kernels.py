"""Kernels against NumPy and torch, on the shapes of real networks: ``python -m benchmarks.kernels [family ...]``.

Every contestant's result is verified against float64 before it is timed; a result that is off is an error, not a row.
Needs the extra `bench`. Set the number of threads with --threads: all contestants get the same.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

import minidl_kernels as kernels
from benchmarks.timing import measure, unit

Row = tuple[str, float, dict[str, Callable[[], Any]], Any]  # name, operations, contestants, float64 result

MATMUL = [  # M, K, N
    (64, 64, 64), (128, 128, 128), (256, 256, 256), (512, 512, 512), (1024, 1024, 1024),
    (1, 512, 512), (32, 784, 128), (512, 384, 1536), (2048, 384, 384), (3136, 64, 64),
]  # fmt: skip
CONV2D = [  # N, C, H, W, K, R, stride, padding, groups
    (64, 1, 8, 8, 32, 3, 1, 1, 1), (64, 32, 8, 8, 64, 3, 1, 1, 1), (64, 32, 26, 26, 64, 3, 1, 0, 1),
    (16, 64, 28, 28, 64, 3, 1, 1, 1), (8, 64, 56, 56, 256, 1, 1, 0, 1), (4, 3, 224, 224, 64, 7, 2, 3, 1),
    (8, 128, 28, 28, 128, 3, 2, 1, 1), (8, 96, 28, 28, 96, 3, 1, 1, 96),
]  # fmt: skip
ATTENTION = [  # B, H, T, D, causal
    (8, 4, 64, 32, True), (8, 8, 256, 64, True), (4, 8, 512, 64, False), (4, 8, 1024, 64, True),
]  # fmt: skip
INT8 = [(1, 1024, 1024), (64, 784, 128), (256, 256, 256), (512, 512, 512), (1024, 1024, 1024)]  # M, K, N


def matmul_rows(rng: np.random.Generator) -> Iterator[Row]:
    for m, k, n in MATMUL:
        a, b = (rng.standard_normal(s, np.float32) for s in ((m, k), (k, n)))
        ta, tb = torch.from_numpy(a), torch.from_numpy(b)
        want = a.astype(np.float64) @ b.astype(np.float64)
        calls = {
            "minidl": lambda a=a, b=b: kernels.matmul(a, b),
            "numpy": lambda a=a, b=b: a @ b,
            "torch": lambda ta=ta, tb=tb: ta @ tb,
        }
        yield f"matmul {m}x{k}x{n} [{kernels.which('matmul', a, b)}]", 2.0 * m * k * n, calls, want


def conv2d_rows(rng: np.random.Generator) -> Iterator[Row]:
    for n, c, h, w, k, r, stride, pad, groups in CONV2D:
        x, wt = rng.standard_normal((n, c, h, w), np.float32), rng.standard_normal((k, c // groups, r, r), np.float32)
        tx, tw = torch.from_numpy(x), torch.from_numpy(wt)
        y = torch.nn.functional.conv2d(tx.double(), tw.double(), None, stride, pad, 1, groups).numpy()
        flops = 2.0 * y.size * (c // groups) * r * r
        name = f"{n}x{c}x{h}x{w} k{k} {r}x{r}/{stride}" + (f" g{groups}" if groups > 1 else "")
        how = (stride, pad, 1, groups)
        calls: dict[str, Any] = {
            "minidl": lambda x=x, wt=wt, how=how: kernels.conv2d(x, wt, None, *how),
            "torch": lambda tx=tx, tw=tw, how=how: torch.nn.functional.conv2d(tx, tw, None, *how),
        }
        yield f"conv2d {name} [{kernels.which('conv2d', x, wt, None, *how)}]", flops, calls, y
        dy = rng.standard_normal(y.shape, np.float32)
        tdy = torch.from_numpy(dy)
        s2, p2 = (stride, stride), (pad, pad)

        def grads(
            want_x: bool, tx: Any = tx, tw: Any = tw, tdy: Any = tdy, s2: Any = s2, p2: Any = p2, g: int = groups
        ) -> Any:
            mask = [want_x, not want_x, False]
            out = torch.ops.aten.convolution_backward(tdy, tx, tw, None, s2, p2, (1, 1), False, (0, 0), g, mask)
            return out[0] if want_x else out[1]

        want_dx = grads(True, tx.double(), tw.double(), tdy.double()).numpy()
        want_dw = grads(False, tx.double(), tw.double(), tdy.double()).numpy()
        calls = {
            "minidl": lambda dy=dy, wt=wt, x=x, how=how: kernels.conv2d_dx(dy, wt, x.shape, *how),
            "torch": lambda grads=grads: grads(True),
        }
        yield f"  dx   {name} [{kernels.which('conv2d_dx', dy, wt, x.shape, *how)}]", flops, calls, want_dx
        calls = {
            "minidl": lambda dy=dy, wt=wt, x=x, how=how: kernels.conv2d_dw(dy, x, wt.shape, *how),
            "torch": lambda grads=grads: grads(False),
        }
        yield f"  dw   {name} [{kernels.which('conv2d_dw', dy, x, wt.shape, *how)}]", flops, calls, want_dw


def attention_rows(rng: np.random.Generator) -> Iterator[Row]:
    sdpa = torch.nn.functional.scaled_dot_product_attention
    for b, h, t, d, causal in ATTENTION:
        q, k, v, dy = (rng.standard_normal((b, h, t, d), np.float32) for _ in range(4))
        tq, tk, tv = (torch.from_numpy(a).requires_grad_() for a in (q, k, v))
        dq, dk, dv = (a.detach().double().requires_grad_() for a in (tq, tk, tv))
        want = sdpa(dq, dk, dv, is_causal=causal)
        flops = 4.0 * b * h * t * t * d * (0.5 if causal else 1.0)
        name = f"{b}x{h}x{t}x{d}" + (" causal" if causal else "")

        def forward(tq: Any = tq, tk: Any = tk, tv: Any = tv, causal: bool = causal) -> Any:
            with torch.no_grad():
                return sdpa(tq, tk, tv, is_causal=causal)

        calls: dict[str, Any] = {
            "minidl": lambda q=q, k=k, v=v, c=causal: kernels.attention(q, k, v, None, c)[0],
            "torch": forward,
        }
        yield (
            f"attention {name} [{kernels.which('attention', q, k, v, None, causal)}]",
            flops,
            calls,
            want.detach().numpy(),
        )
        want_dq = torch.autograd.grad(want, dq, torch.from_numpy(dy).double())[0].numpy()

        tdy = torch.from_numpy(dy)

        def both(tq: Any = tq, tk: Any = tk, tv: Any = tv, tdy: Any = tdy, causal: bool = causal) -> Any:
            return torch.autograd.grad(sdpa(tq, tk, tv, is_causal=causal), (tq, tk, tv), tdy)[0]

        def ours(q: Any = q, k: Any = k, v: Any = v, dy: Any = dy, c: bool = causal) -> Any:
            y, lse = kernels.attention(q, k, v, None, c)
            return kernels.attention_backward(dy, q, k, v, y, lse, None, c)[0]

        yield f"  and backward {name}", 3.5 * flops, {"minidl": ours, "torch": both}, want_dq


def int8_rows(rng: np.random.Generator) -> Iterator[Row]:
    for m, k, n in INT8:
        a, b = rng.integers(-128, 128, (m, k), np.int8), rng.integers(-128, 128, (k, n), np.int8)
        fa, fb = a.astype(np.float32), b.astype(np.float32)
        ta, tb = torch.from_numpy(a), torch.from_numpy(b)
        calls: dict[str, Any] = {
            "minidl": lambda a=a, b=b: kernels.int8_matmul(a, b),
            "our f32": lambda fa=fa, fb=fb: kernels.matmul(fa, fb),
            "torch": lambda ta=ta, tb=tb: torch._int_mm(ta, tb),
        }
        if m <= 16:
            del calls["torch"]  # _int_mm wants more than 16 rows
        yield (
            f"int8 {m}x{k}x{n} [{kernels.which('int8_matmul', a, b)}]",
            2.0 * m * k * n,
            calls,
            a.astype(np.int64) @ b.astype(np.int64),
        )


FAMILIES = {"matmul": matmul_rows, "conv2d": conv2d_rows, "attention": attention_rows, "int8": int8_rows}


def verify(name: str, contestant: str, got: Any, want: np.ndarray) -> None:
    """Raise SystemExit unless `got` is right: exact for integers, else within 1e-4 of the largest value.

    The longest sum here has 50,176 terms (dw of the stem): as a random walk its float32 roundings come to 224 * 6e-8 =
    1.3e-5 of the terms' size, and a wrong term is far above 1e-4 of a normal sum.
    """
    got = np.asarray(got)
    if got.dtype.kind == "i":
        ok = np.array_equal(got, want)
    else:
        ok = bool(np.max(np.abs(got - want), initial=0.0) <= 1e-4 * max(1.0, np.max(np.abs(want), initial=0.0)))
    if not ok and not (contestant == "our f32" and want.dtype.kind == "i"):
        raise SystemExit(f"{name}: {contestant} gives a wrong result; nothing is timed")


def main(argv: list[str] | None = None) -> int:
    """Time the families and print a table; with --json FILE also write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("family", nargs="*", choices=[[], *FAMILIES], help="what to time (default: everything)")
    parser.add_argument("--threads", type=int, default=None, help="threads for every contestant (default: all cores)")
    parser.add_argument("--seconds", type=float, default=0.5, help="time per row and contestant")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    args = parser.parse_args(argv)
    if args.threads:
        kernels.set_num_threads(args.threads)
    torch.set_num_threads(kernels.get_num_threads())
    rng, results = np.random.default_rng(0), []
    print(f"{kernels.get_num_threads()} threads; ratio = peer's time / ours, above 1 is faster than the peer")
    for family in args.family or FAMILIES:
        ratios = []
        for name, flops, calls, want in FAMILIES[family](rng):
            for contestant, call in calls.items():
                verify(name, contestant, call(), want)
            times = measure(calls, args.seconds)
            ours = times["minidl"]
            against = {peer: times[peer] / ours for peer in times if peer != "minidl"}
            ratios.append(min(against.values()))
            text = "  ".join(f"{peer} {unit(times[peer])} x{ratio:.2f}" for peer, ratio in against.items())
            print(f"{name:58s} {unit(ours)} {flops / ours / 1e9:8.1f} Gop/s   {text}", flush=True)
            results.append({"name": name, "seconds": times, "gops": flops / ours / 1e9})
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"{family}: against the fastest peer, geometric mean {mean:.2f}, worst {min(ratios):.2f}\n")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(results, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
