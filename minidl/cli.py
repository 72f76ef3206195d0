"""The command ``minidl``: `demo` trains, compresses and measures; `examples` lists and runs the pages of the tour;
`sweep` compresses one model in many ways; `bench` times the kernels; `explain` tells of an op, a layer or a kernel;
`info` tells what this machine would run.

Exit codes: 0 done; 1 `bench` found a fault or a real slowdown, `sweep` did not meet a budget; 2 wrong usage, or input
and output that cannot be used (one line on stderr says why); 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from minidl import __version__

__all__ = ["UserError", "main", "seed_number"]


class UserError(Exception):
    """Something that the user can put right; the message says what, where, and how."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (default: those of the process) and return its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        if arguments.command == "demo":
            from minidl.demo import main as command
        elif arguments.command == "bench":
            from minidl.bench.command import main as command  # type: ignore[assignment]
        elif arguments.command == "sweep":
            from minidl.sweep.command import main as command  # type: ignore[assignment]
        elif arguments.command == "examples":
            from minidl.examples import command  # type: ignore[assignment]
        elif arguments.command == "explain":
            from minidl.inside.command import main as command  # type: ignore[assignment]
        else:
            from minidl.info import main as command  # type: ignore[assignment]
        code: int | None = command(arguments)  # type: ignore[func-returns-value]
        sys.stdout.flush()
        return code or 0
    except UserError as error:
        print(f"minidl {arguments.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nminidl {arguments.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `minidl info | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minidl",
        description="A deep learning engine on NumPy: training, fast kernels, pruning, int8.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"minidl {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        allow_abbrev=False,
        help="train a small CNN on real digits, prune it, quantize it, and measure all of that",
        description="Train a small CNN on the 1,797 handwritten digits in the package (or on your images), prune 80 % "
        "of its weights and retrain, quantize both to int8, and measure accuracy, size and speed of the four.",
    )
    demo.add_argument(
        "--data",
        metavar="PATH",
        help="your images: an .npz file, an idx file, or a folder of idx files such as MNIST's",
    )
    demo.add_argument("--seed", metavar="N", type=seed_number, default=0, help="seed of everything random (default 0)")
    demo.add_argument(
        "--epochs", metavar="N", type=_epochs, help="passes over the data in training (default: by their number)"
    )
    demo.add_argument(
        "--quick", action="store_true", help="a tenth of the training, to see it work; the figures are worse"
    )
    demo.add_argument("--json", metavar="FILE", help="write the figures as JSON")
    demo.add_argument("--plot", metavar="FILE", help="draw loss, confusion and table as a picture (.png, .svg, .pdf)")
    demo.add_argument(
        "--out", metavar="DIR", help="keep the four models there as safetensors files (default: not kept)"
    )

    examples = commands.add_parser(
        "examples",
        allow_abbrev=False,
        help="list the pages of the tour, or run one: each trains a network of its own on real data",
        description="List the numbered pages, or run one of them with the options that follow its number: "
        "`minidl examples 2 --quick`; `minidl examples 2 --help` tells them.",
    )
    examples.add_argument("page", metavar="N", nargs="?", help="number or name of a page")
    examples.add_argument("rest", metavar="...", nargs=argparse.REMAINDER, help="options of the page")

    _sweep(commands)
    _bench(commands)

    explain = commands.add_parser(
        "explain",
        allow_abbrev=False,
        help="tell of an op, a layer or a kernel: formula, source, derivation, cost, a live check",
        description="Formula, shape rule, sources, derivation, kernels, FLOPs and bytes, place on this machine's "
        "roofline, live gradient check and an example. Without a name: all names.",
    )
    explain.add_argument("name", metavar="NAME", nargs="?", help="such as conv2d, Conv2d or minidl_kernels.conv2d")
    explain.add_argument("--shapes", metavar="SIZES", nargs="+", help="of its inputs, such as 64x128 128x32")
    explain.add_argument("--html", metavar="FILE", help="write a page for a browser instead")
    explain.add_argument("--quick", action="store_true", help="leave out the roofline, which takes a second to measure")

    info = commands.add_parser(
        "info",
        allow_abbrev=False,
        help="what this machine offers and what each kernel would run here",
        description="Versions, CPU features and tier, threads, BLAS, GPU, kernel cache, what each kernel would run.",
    )
    info.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _sweep(commands: argparse._SubParsersAction) -> None:
    sweep = commands.add_parser(
        "sweep",
        allow_abbrev=False,
        help="prune and quantize one model in many ways, and measure accuracy, bytes and milliseconds of each",
        description="Train a model, remove channels, prune and retrain it, put it into fewer bits, in every "
        "combination and over several seeds; measure accuracy, file and time of each; mark what others dominate. With "
        "a limit, also choose a treatment for each layer that meets it, and explain the choices. Exit code 1 if that "
        "fails.",
    )
    sweep.add_argument(
        "model", metavar="MODEL", help="cnn, mlp, mnist-cnn, resnet, or FILE.py:FUNCTION(image_shape, classes)"
    )
    sweep.add_argument("--data", metavar="PATH", help="your images, as for demo (default: the package's digits)")
    sweep.add_argument("--channels", metavar="LIST", help="shares of channels to remove, such as 0,0.5 (default 0)")
    sweep.add_argument("--prune", metavar="LIST", help="shares of weights to prune (default 0,0.5,0.8,0.9,0.95)")
    sweep.add_argument("--bits", metavar="LIST", help="32 for floats, 2 ... 8 (default 32,8,4)")
    sweep.add_argument("--seeds", metavar="N", type=_epochs, help="how many seeds, from 0 on (default 3)")
    sweep.add_argument("--epochs", metavar="N", type=_epochs, help="of the dense training; half of it to retrain")
    sweep.add_argument("--quick", action="store_true", help="few points, one seed, a tenth of the training")
    sweep.add_argument("--max-bytes", metavar="N", type=_epochs, help="limit on the stored parameters, in bytes")
    sweep.add_argument("--max-ms", metavar="MS", type=_positive, help="limit on a forward pass, in milliseconds")
    sweep.add_argument("--min-accuracy", metavar="A", type=_positive, help="limit on the accuracy, such as 0.97")
    sweep.add_argument("--out", metavar="DIR", help="keep models and points there; the same command then goes on there")
    sweep.add_argument("--json", metavar="FILE", help="write all points and means as JSON")
    sweep.add_argument("--csv", metavar="FILE", help="write the means as CSV")
    sweep.add_argument("--plot", metavar="FILE", help="draw accuracy over bytes and milliseconds (.png, .svg, .pdf)")


def _bench(commands: argparse._SubParsersAction) -> None:
    bench = commands.add_parser(
        "bench",
        allow_abbrev=False,
        help="time the kernels, verified, against this machine's ceilings and other libraries",
        description="Time the kernels on layers of real networks: each verified against its reference before "
        "and after, beside NumPy, torch and onnxruntime in the same run, and beside what this machine can do at "
        "most. Exit code 1 if a kernel of minidl is wrong, or --compare finds a real slowdown.",
    )
    bench.add_argument(
        "kernels", metavar="KERNEL", nargs="*", help="what to time (default: all; with --models, models)"
    )
    bench.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cuda: the kernels on a GPU, beside torch and CuPy"
    )
    bench.add_argument("--peers", metavar="LIST", help="numpy,torch,onnxruntime or none (default: what is installed)")
    bench.add_argument("--threads", metavar="LIST", help="thread counts such as 1,2 (default: 1 and all)")
    bench.add_argument("--tier", metavar="T", help="run our kernels as a lesser CPU would (`minidl info` lists them)")
    bench.add_argument("--shapes", metavar="FILE", help="shapes from a .toml or .json file instead of the package's")
    bench.add_argument(
        "--ladder", action="store_true", help="time all variants of each kernel, from the plain loops up"
    )
    bench.add_argument(
        "--models", action="store_true", help="time training steps and inference of models against torch"
    )
    bench.add_argument("--compare", metavar=("A", "B"), nargs=2, help="what changed between two --json files")
    bench.add_argument("--self-test", action="store_true", help="plant cheating kernels and see each caught")
    bench.add_argument("--seconds", metavar="S", type=_seconds, help="time per row and contestant (default 0.4)")
    bench.add_argument("--quick", action="store_true", help="one small shape per kernel, briefly: to see it work")
    bench.add_argument("--json", metavar="FILE", help="write the figures as JSON")
    bench.add_argument("--plot", metavar="FILE", help="draw the roofline as a picture (.png, .svg, .pdf)")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0.01 <= seconds <= 60:
        raise argparse.ArgumentTypeError(f"{text} is not in 0.01 ... 60")
    return seconds


def seed_number(text: str) -> int:
    """An option's text as a seed. Raises ArgumentTypeError for anything but a whole number in 0 ... 2^63 - 1."""
    return _whole(text, 0, 2**63 - 1)


def _epochs(text: str) -> int:
    return _whole(text, 1, 100_000)


def _whole(text: str, low: int, high: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if not low <= number <= high:
        raise argparse.ArgumentTypeError(f"{number} is not in {low} ... {high}")
    return number
