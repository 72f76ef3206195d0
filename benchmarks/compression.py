"""The bars of compression, measured here: `python -m benchmarks.compression`.

A linear layer as sparse rows and with two of four weights beside the dense one, and networks with half of their
channels beside the whole ones, timed in turns: medians. `minidl sweep` measures accuracy; `minidl bench` the kernels.
"""

from __future__ import annotations

import argparse
import functools

import minidl
import minidl_kernels as kernels
from minidl import models, nn
from minidl.compress import Choice, latencies, nm_mask, pack_, packing, prune_, prune_channels_, slim
from minidl.compress.reports import table

BATCH = 64


def sparse_rows(repeats: int) -> list[tuple[str, ...]]:
    rows = []
    for zeros in (0.5, 0.7, 0.8, 0.9, 0.95):
        dense = nn.Sequential(nn.Linear(1024, 1024))
        small = nn.Sequential(nn.Linear(1024, 1024))
        prune_(small, zeros)
        (choice,) = packing(small, BATCH, repeats=3)
        pack_(small, [type(choice)(**{**vars(choice), "packed": True})])
        x = minidl.randn(BATCH, 1024)
        ms = latencies({"dense": functools.partial(dense, x), "sparse": functools.partial(small, x)}, repeats)
        share = small[0].weight.array.nbytes / dense[0].weight.array.nbytes
        rows.append(
            (f"linear 1024 x 1024, {100 * zeros:g} % zeros, batch {BATCH}", f"{ms['dense']:.3f}", f"{ms['sparse']:.3f}",
             f"{ms['dense'] / ms['sparse']:.2f}", f"{100 * share:.1f} %")
        )  # fmt: skip
    return rows


def two_of_four(repeats: int) -> list[tuple[str, ...]]:
    rows = []
    for n, k in ((1024, 1024), (2048, 2048)):
        for batch in (1, 16, BATCH):
            dense, small = nn.Linear(k, n), nn.Linear(k, n)
            small.weight.array *= nm_mask(small.weight.array)
            pack_(small, [Choice("weight", 0.5, None, None, 0, None, True, "", "2:4")])
            x = minidl.randn(batch, k)
            ms = latencies({"dense": functools.partial(dense, x), "sparse": functools.partial(small, x)}, repeats)
            share = small.weight.array.nbytes / dense.weight.array.nbytes
            rows.append(
                (f"linear {n} x {k}, 2:4, batch {batch}", f"{ms['dense']:.3f}", f"{ms['sparse']:.3f}",
                 f"{ms['dense'] / ms['sparse']:.2f}", f"{100 * share:.1f} %")
            )  # fmt: skip
    return rows


def half_the_channels(repeats: int) -> list[tuple[str, ...]]:
    rows = []
    for name, make, size in (
        ("DigitsCNN, 256 digits", models.DigitsCNN, (256, 1, 8, 8)),
        ("mnist_cnn, 64 of 28 x 28", models.mnist_cnn, (64, 1, 28, 28)),
        ("ResNet-18, 2 of 64 x 64", models.resnet18, (2, 3, 64, 64)),
        ("MobileNetV1, 1 of 224 x 224", models.MobileNetV1, (1, 3, 224, 224)),
        ("MobileNetV1, 2 of 64 x 64", models.MobileNetV1, (2, 3, 64, 64)),
    ):
        whole, x = make().eval(), minidl.randn(*size)
        small = slim(prune_channels_(make().eval(), 0.5, x[:1]), x[:1])
        ms = latencies({"whole": functools.partial(whole, x), "half": functools.partial(small, x)}, repeats)
        count = [sum(p.numel() for p in m.parameters()) for m in (small, whole)]
        rows.append(
            (f"{name}, half of the channels", f"{ms['whole']:.3f}", f"{ms['half']:.3f}",
             f"{ms['whole'] / ms['half']:.2f}", f"{100 * count[0] / count[1]:.1f} %")
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="default: all")
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    if arguments.threads:
        kernels.set_num_threads(arguments.threads)
    minidl.manual_seed(0)
    with minidl.no_grad():
        rows = sparse_rows(arguments.repeats) + two_of_four(arguments.repeats) + half_the_channels(arguments.repeats)
    print("\n".join(table(("", "ms before", "ms after", "times as fast", "bytes"), rows)))


if __name__ == "__main__":
    main()
