"""What the pages of ``examples/`` share, and ``minidl examples``, which lists and runs them.

A page is a script. Its `main(args)` does the work and ends in `figure(...)`; the last line hands it to `run`, with the
options that every page has: ``--data PATH --quick --seed N --plot FILE --save FILE --resume FILE``.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.metadata
import io
import os
import pathlib
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from minidl.cli import UserError, seed_number
from minidl.data import DataError, ImageData, load_images
from minidl.io import CheckpointError, atomic_write
from minidl.outputs import check_outputs, try_writing

__all__ = [
    "command",
    "figure",
    "folder",
    "judge",
    "labelled_images",
    "letter_pairs",
    "nearest",
    "pages",
    "picture",
    "run",
    "stage",
    "tiles",
]

WEIGHTS = (".safetensors", ".npz")


def run(
    main: Callable[[argparse.Namespace], Any],
    doc: str | None,
    *,
    quick: str,
    data: str | None = None,
    plot: str = "draw the result into an image file",
    save: str | None = "write the weights to a .safetensors or .npz file",
    resume: str | None = "keep the training's state there (FILE-NAME for a page's other trainings), and go on from it",
) -> None:
    """Read the options, see that the files can be written, and call `main` with what was read.

    Args:
        main: the page's work. `args` has data, quick, seed, plot, save, and checkpoint (the file of ``--resume``, see
            `stage`); what was not given is None or False.
        doc: the page's docstring, for ``--help``.
        quick, data, plot, save, resume: what these options do on this page; None: the page has no such option.

    What the user can mend (UserError, DataError, CheckpointError, OSError, a package that is missing) ends the program
    with one line and exit code 2, Ctrl-C with 130.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.set_defaults(data=None, save=None, checkpoint=None)
    if data is not None:
        parser.add_argument("--data", metavar="PATH", help=data)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument(
        "--seed", metavar="N", type=seed_number, default=0, help="of everything random (default: %(default)s)"
    )
    parser.add_argument("--plot", metavar="FILE", help=plot)
    if save is not None:
        parser.add_argument("--save", metavar="FILE", help=save)
    if resume is not None:
        parser.add_argument("--resume", metavar="FILE", dest="checkpoint", help=resume)
    args = parser.parse_args()
    try:
        check_outputs(None, args.plot)
        for option, path in (("--save", args.save), ("--resume", args.checkpoint)):
            _check_weights(option, path)
        main(args)
    except (UserError, DataError, CheckpointError, OSError, ImportError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"\n{parser.prog}: interrupted\n")


def _check_weights(option: str, path: str | None) -> None:
    if path is None:
        return
    if not path.lower().endswith(WEIGHTS):
        raise UserError(f"{option}: {path!r} must end in {' or '.join(WEIGHTS)}")
    where = os.path.dirname(os.path.realpath(path))
    if os.path.isdir(path) or not os.path.isdir(where):
        raise UserError(f"{option}: cannot write {path}: {'it is a folder' if os.path.isdir(path) else 'no ' + where}")
    try_writing(option, where)


def stage(args: argparse.Namespace, name: str | None = None) -> dict[str, Any]:
    """What `fit` is told so that a training can go on: the file of ``--resume``, beside it one for each other training.

    >>> stage(argparse.Namespace(checkpoint="state.npz"), "from scratch")
    {'checkpoint': 'state-from-scratch.npz', 'resume': 'auto'}
    >>> stage(argparse.Namespace(checkpoint=None))
    {}
    """
    if args.checkpoint is None:
        return {}
    stem, ending = os.path.splitext(args.checkpoint)
    file = args.checkpoint if name is None else f"{stem}-{name.replace(' ', '-')}{ending}"
    return {"checkpoint": file, "resume": "auto"}


def figure(name: str, value: float, **baselines: float) -> None:
    """Print what the page reached, beside its baselines; the page's last word, and what its test reads.

    >>> figure("accuracy", 0.9889, nearest_mean=0.9192)
    figure: accuracy 0.9889 (nearest mean 0.9192)
    """
    beside = ", ".join(f"{other.replace('_', ' ')} {x:.4g}" for other, x in baselines.items())
    print(f"figure: {name} {value:.4g} ({beside})", flush=True)


@contextlib.contextmanager
def picture(path: str, rows: int = 1, columns: int = 1, size: tuple[float, float] | None = None) -> Iterator[Any]:
    """Matplotlib axes to draw on, as `figure.subplots` gives them; afterwards the picture is in the file, whole.

    Args: size: width and height in inches; by default 4.5 x 3.6 for each plot.
    """
    from matplotlib.figure import Figure

    drawing = Figure(figsize=size or (4.5 * columns, 3.6 * rows), dpi=130, layout="constrained")
    yield drawing.subplots(rows, columns)
    drawn = io.BytesIO()
    drawing.savefig(drawn, format=os.path.splitext(path)[1][1:].lower())
    with atomic_write(path) as file:
        file.write(drawn.getvalue())
    print(f"wrote {path}")


def labelled_images(args: argparse.Namespace, multiple: int = 1) -> ImageData:
    """The images of ``--data`` or the shipped digits, scaled, for a page that tells classes apart.

    Raises DataError if there is but one class, or if the edges are no multiples of what the page's network wants.

    >>> labelled_images(argparse.Namespace(data=None, seed=0), 4).x_train.shape
    (1438, 1, 8, 8)
    """
    data = load_images(args.data, seed=args.seed).scaled()
    if (data.y_train == data.y_train[0]).all():
        raise DataError(f"{args.data}: all images are of class {data.y_train[0]}; at least two classes are needed")
    if any(edge % multiple for edge in data.x_train.shape[2:]):
        raise DataError(f"{args.data}: edges must be multiples of {multiple}, got images of {data.x_train.shape[1:]}")
    return data


def judge(data: Any, epochs: int = 12) -> Callable[[Any], tuple[float, Any]]:
    """A classifier trained on real images, for pages that make images.

    Args: data: scaled ImageData. Returns a function of images (N, C, H, W) in 0 ... 1, which says how sure the
    classifier is of them (the mean of its highest probability) and how many it takes for each class that occurs (C,).
    """
    import numpy as np

    from minidl import nn, optim
    from minidl.models import DigitsCNN
    from minidl.train import fit, predict

    model = DigitsCNN(data.x_train.shape[1:], data.num_classes)
    optimizer = optim.AdamW(model.parameters(), lr=2e-3)
    training, known = (data.x_train, data.y_train), np.unique(data.y_train)
    fit(model, training, loss=nn.functional.cross_entropy, optimizer=optimizer, epochs=epochs, progress=False)

    def of(images: Any) -> tuple[float, Any]:
        p = nn.functional.softmax(predict(model, np.float32(images)), -1).numpy()  # N, C
        return float(p.max(1).mean()), np.bincount(p.argmax(1), minlength=data.num_classes)[known]

    return of


def nearest(x: Any, others: Any) -> Any:
    """The distance of each to the nearest of the others, which tells copies.    N, ...; M, ... -> N

    >>> import numpy as np
    >>> nearest(np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[3.0, 4.0], [1.0, 1.0]])).round(3).tolist()
    [1.414, 0.0]
    """
    import numpy as np

    a, b = x.reshape(len(x), -1), others.reshape(len(others), -1)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0).min(1))


def tiles(images: Any, rows: int, columns: int, blank: float = 0.0) -> Any:
    """The first channels of the first images, side by side, lines between.    N, C, H, W -> H', W'

    Places for which there is no image are blank.

    >>> import numpy as np
    >>> tiles(np.ones((3, 1, 1, 2)), 2, 2)
    array([[1., 1., 0., 1., 1., 0.],
           [0., 0., 0., 0., 0., 0.],
           [1., 1., 0., 0., 0., 0.],
           [0., 0., 0., 0., 0., 0.]])
    """
    import numpy as np

    shown = images[: rows * columns, 0]
    h, w = shown.shape[1:]
    page = np.full((rows * columns, h + 1, w + 1), blank, shown.dtype)
    page[: len(shown), :h, :w] = shown
    return page.reshape(rows, columns, h + 1, w + 1).swapaxes(1, 2).reshape(rows * (h + 1), columns * (w + 1))


def letter_pairs(text: str) -> list[str]:
    """Each letter with the next one, as tokens; a mark stands at either end.

    >>> letter_pairs("abc")
    ['^a', 'ab', 'bc', 'c$']
    """
    return [a + b for a, b in zip("^" + text, text + "$")]


# -- minidl examples ---------------------------------------------------------------------------------------------------


def folder() -> pathlib.Path:
    """Where the pages are: beside the package in a checkout, else where the wheel put them, share/minidl/examples.

    Raises UserError if they are in neither place.
    """
    beside = pathlib.Path(__file__).resolve().parents[1] / "examples"
    if pages(beside):
        return beside
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("minidl") or ():
            place = pathlib.Path(str(file.locate())).parent.resolve()
            if place.parts[-2:] == ("minidl", "examples") and pages(place):
                return place
    raise UserError("the examples are not installed; they are in the folder examples/ of the source")


def pages(where: pathlib.Path) -> list[pathlib.Path]:
    """The numbered pages in a folder, in order."""
    return sorted(where.glob("[0-9][0-9]_*.py"))


def command(arguments: argparse.Namespace) -> int:
    """List the pages, or run one with the arguments that follow its number or name."""
    where = folder()
    if arguments.page is None:
        print(f"in {where}\n")
        for path in pages(where):
            title = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
            print(f"{path.name[:2]}  {title}")
        print("\nminidl examples 1 runs the first, minidl examples 1 --help tells its options, --quick is brief.")
        return 0
    return _run_page(_find(where, arguments.page), arguments.rest)


def _find(where: pathlib.Path, name: str) -> pathlib.Path:
    number = f"{int(name):02}" if name.isdecimal() else name.removesuffix(".py")
    found = [path for path in pages(where) if path.name[:2] == number or path.stem == number]
    if not found:
        raise UserError(f"there is no example {name!r}; `minidl examples` lists them")
    return found[0]


def _run_page(path: pathlib.Path, rest: Sequence[str]) -> int:
    """Run a page as ``python path rest...`` does, in this process; its exit code."""
    before = sys.argv
    sys.argv = [str(path), *rest]
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    finally:
        sys.argv = before
    return 0
