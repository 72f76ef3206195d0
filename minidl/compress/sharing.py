"""Weight sharing: the weights of a layer take a few values only, found by k-means, and each is stored as a number.

Han, Mao & Dally 2016, "Deep Compression", arXiv:1510.00149, sections 3 and 3.2: pruning, then sharing. Their third
step, Huffman coding, is what any archiver does to the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from minidl.compress.prune import prunable
from minidl.devices import move
from minidl.storage import Codebook, Packed, pack_bits

__all__ = ["kmeans_codebook", "share_weights_"]

Array = Any


def kmeans_codebook(w: Array, values: int, iterations: int = 50) -> tuple[Array, Array]:
    """table (n,) float32, n <= values, rising, and codes (uint8, w's shape): the nearest value of each weight.

    Lloyd's algorithm on numbers, from values spread evenly between the least and the greatest weight, which keeps the
    few large ones (section 3.2 there); it ends when nothing moves, or after so many iterations. Values that lose all
    their weights are dropped. Raises ValueError for values outside 2 ... 256 and weights that are not finite.

    >>> table, codes = kmeans_codebook(np.float32([0, 1, 5, 6]), 2)
    >>> table.tolist(), codes.tolist()
    ([0.5, 5.5], [0, 0, 1, 1])
    """
    if isinstance(values, bool) or not isinstance(values, (int, np.integer)) or not 2 <= values <= 256:
        raise ValueError(f"a codebook has 2 ... 256 values, got {values!r}")
    a = np.sort(move(w, "cpu").astype(np.float64).reshape(-1))
    if not np.isfinite(a).all():
        raise ValueError(f"cannot share weights of shape {tuple(w.shape)} that hold NaN or infinity")
    if not a.size:
        return np.zeros(2, np.float32), np.zeros(w.shape, np.uint8)
    table = np.linspace(a[0], a[-1], values)
    sums = np.concatenate([[0.0], np.cumsum(a)])
    for _ in range(iterations):
        # sorted weights, sorted values: each value's weights lie between two borders
        ends = np.concatenate([[0], np.searchsorted(a, (table[1:] + table[:-1]) / 2, side="right"), [a.size]])
        counts = np.diff(ends)
        means = np.diff(sums[ends])[counts > 0] / counts[counts > 0]
        if len(means) == len(table) and (means == table).all():
            break
        table = means
    found = np.unique(table.astype(np.float32))
    if len(found) == 1:  # all weights are equal
        found = np.append(found, np.nextafter(found[0], np.float32(np.inf)))
    borders = (found[1:].astype(np.float64) + found[:-1]) / 2
    codes = np.searchsorted(borders, move(w, "cpu").astype(np.float64), side="left").astype(np.uint8)
    return found, codes


def share_weights_(model: Any, bits: int = 4, *, skip: str | Iterable[str] = ()) -> Any:
    """Put the weights of Linear, Conv2d and Embedding into codebooks of 2**bits values, in place; returns the model.

    Pruned weights stay exactly 0: one value is theirs. Parameters keep their names; they are for inference from then
    on, see `dequantize_`. Small files, no speed: the kernels multiply floats. Raises ValueError for bits outside
    1 ... 8, weights that are not finite, and a model without such layers; TypeError for weights that are packed.

    >>> from minidl import nn
    >>> model = share_weights_(nn.Sequential(nn.Linear(64, 64)), bits=4)
    >>> model[0].weight.array
    Codebook(shape=(64, 64), 16 values, 2120 bytes)
    """
    from minidl import nn

    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or not 1 <= bits <= 8:
        raise ValueError(f"share_weights_: bits must be a whole number in 1 ... 8, got {bits!r}")
    readers = (nn.Linear, nn.Conv2d, nn.Embedding)
    able = {id(m.weight) for m in model.modules() if isinstance(m, readers)}
    other = {id(p) for m in model.modules() if not isinstance(m, readers) for p in m.parameters(recurse=False)}
    made: list[tuple[Any, Codebook]] = []
    for name, p in prunable(model, skip):
        if id(p) not in able or id(p) in other:
            continue
        if isinstance(p.array, Packed):
            raise TypeError(f"share_weights_: {name} is packed as {p.array.kind} already; call dequantize_(model)")
        try:
            made.append((p, _shared(p.array, p.mask, 2**bits)))
        except ValueError as error:
            error.add_note(f"while sharing the weights of {name}")
            raise
    if not made:
        raise ValueError("share_weights_: the model has no Linear, Conv2d or Embedding whose weights can be shared")
    for p, book in made:  # nothing is changed before everything is known
        p.requires_grad_(False)
        p.grad = None
        p.array = book
        p.bump()
    return model


def _shared(w: Array, mask: Array | None, values: int) -> Codebook:
    w = move(w, "cpu")
    if mask is None:
        table, codes = kmeans_codebook(w, values)
        return _packed(table, codes, w.shape, None)
    mask = move(mask, "cpu")
    kept = w[mask]
    table, codes = kmeans_codebook(kept, values - 1) if values > 2 and kept.size else _one(kept)
    numbers = np.zeros(w.shape, np.uint8)  # 0 stands for 0.0, which pruned weights keep
    numbers[mask] = codes + 1
    return _packed(np.concatenate([np.zeros(1, np.float32), table]), numbers, w.shape, mask)


def _one(kept: Array) -> tuple[Array, Array]:
    mean = kept.mean() if kept.size else 0.0
    return np.array([mean], np.float32), np.zeros(kept.shape, np.uint8)


def _packed(table: Array, codes: Array, shape: tuple[int, ...], mask: Array | None) -> Codebook:
    bits = max(1, int(len(table) - 1).bit_length())
    return Codebook(pack_bits(codes, bits), table, shape, mask)
