"""Packing: pruned weights stored without their zeros, where a sparse kernel is measured to be the faster one.

Two forms are tried: compressed sparse rows, which take any zeros, and n of every m neighbours, 2:4 for one, where the
weights are pruned that way: less to read for each weight, and the same work in every row.

Zeros cost nothing on disk anyway (`save_model` gives each a bit). In memory and in time they count until the weight is
packed, and then each one that is left costs more than in a dense product: its column has to be read, and it meets a
vector where a dense kernel keeps a whole tile in registers. Which of the two wins depends on the sparsity, the shape,
the batch and the machine, so it is timed here and now.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl import random
from minidl.compress.prune import prunable
from minidl.compress.reports import latencies, table
from minidl.devices import is_cuda_array
from minidl.storage import CSR, NM, Packed

__all__ = ["Choice", "Packing", "pack_", "packing"]


@dataclass(frozen=True)
class Choice:
    """One weight: its share of zeros, milliseconds and bytes dense and sparse (None: not tried), and what to do."""

    name: str
    zeros: float
    dense_ms: float | None
    sparse_ms: float | None
    dense_bytes: int
    sparse_bytes: int | None
    packed: bool
    why: str
    form: str = "csr"  # or "2:4", or another n:m: the faster of those that fit


class Packing(tuple):
    """The choices for a model's weights; `print(packing(model))` shows them."""

    def __str__(self) -> str:
        head = ("weight", "zeros", "ms dense", "sparse", "bytes dense", "sparse", "")
        number = lambda v, f: "" if v is None else f"{v:{f}}"
        body = [
            (
                c.name, f"{100 * c.zeros:.1f} %", number(c.dense_ms, ".3f"), number(c.sparse_ms, ".3f"),
                f"{c.dense_bytes:,}", number(c.sparse_bytes, ","), (f"{c.form}: " if c.packed else "dense: ") + c.why,
            )
            for c in self
        ]  # fmt: skip
        return "\n".join(table(head, body))


def packing(model: Any, batch: int = 64, *, skip: str | Iterable[str] = (), repeats: int = 20) -> Packing:
    """Time each weight dense and sparse on inputs of `batch` rows, and say for which one packing pays, and why not.

    A weight is tried if half of it is zero, and taken to be faster from 5 % on: less is the machine's noise. The model
    is not changed. Raises ValueError for a batch below 1.
    """
    from minidl import nn

    if batch < 1:
        raise ValueError(f"packing: batch must be at least 1, got {batch}")
    users: dict[int, list[Any]] = {}
    for m in model.modules():
        for p in m.parameters(recurse=False):
            users.setdefault(id(p), []).append(m)
    found = []
    for name, p in prunable(model, skip):
        if isinstance(p.array, Packed):
            continue
        zeros = 1 - np.count_nonzero(p.array) / p.array.size if p.array.size else 0.0
        why = ""
        if any(isinstance(m, nn.Conv2d) for m in users[id(p)]):
            why = "no sparse convolution here; whole channels make it faster (prune_channels_, slim)"
        elif not all(isinstance(m, nn.Linear) and m.weight is p for m in users[id(p)]):
            why = "only Linear reads sparse rows"
        elif p.array.dtype != np.float32 or is_cuda_array(p.array):
            why = f"the sparse kernel takes float32 on the CPU, this is {p.array.dtype} on {p.device}"
        elif zeros < 0.5:
            why = "less than half is zero: a stored weight takes 6 bytes in place of 4, and more time"
        if why:
            found.append(Choice(name, zeros, None, None, p.array.nbytes, None, False, why))
            continue
        forms: dict[str, Packed] = {"csr": CSR.from_dense(p.array)}
        pattern = nm_pattern(p.array)
        if pattern is not None:
            forms["{}:{}".format(*pattern)] = NM.from_dense(p.array, *pattern)
        x = random.Generator(0).normal((batch, p.array.shape[1]))
        ways = {"dense": partial(kernels.linear, x, p.array)}
        ms = latencies(ways | {form: partial(sparse.linear, x, None) for form, sparse in forms.items()}, repeats)
        dense = ms.pop("dense")
        form = min(ms, key=ms.__getitem__)
        wins = dense / ms[form] > 1.05
        why = ", ".join(f"{form} {dense / each:.2f} times the speed" for form, each in ms.items())
        if not wins:
            why += f" for {batch} rows: too few zeros to make up for their places"
        found.append(
            Choice(name, zeros, dense, ms[form], p.array.nbytes, forms[form].nbytes, wins, why, form)
        )  # fmt: skip
    return Packing(found)


def nm_pattern(w: Any) -> tuple[int, int] | None:
    """The n:m with the fewest n / m, half at most, and of these the smallest m up to 16, that a matrix (N, K) keeps to;
    None without.

    >>> nm_pattern(np.float32([[1, 0, 0, 2, 3, 4, 0, 0]]))
    (2, 4)
    """
    best = None
    for m in (2, 4, 8, 16):
        if w.shape[1] % m or not w.size:
            continue
        n = max(int((w.reshape(-1, m) != 0).sum(1).max()), 1)
        if 2 * n <= m and (best is None or n * best[1] < best[0] * m):
            best = n, m
    return best


def pack_(
    model: Any, choices: Iterable[Choice] | None = None, *, batch: int = 64, skip: str | Iterable[str] = ()
) -> Any:
    """Store weights as sparse rows, or as n of every m, where `packing` found that faster, in place; returns the model.

    Parameters keep their objects, names and masks, and are for inference from then on; `dequantize_` gives floats back.
    `choices` are those of `packing`, made now if they are not given; those with ``packed=True`` are done, whatever was
    measured. Raises ValueError for choices of another model, TypeError for a weight that is packed already; the model
    is then as it was.

    >>> from minidl import nn
    >>> from minidl.compress import prune_
    >>> model = prune_(nn.Sequential(nn.Linear(512, 512)), 0.97)
    >>> pack_(model)[0].weight.array
    CSR(shape=(512, 512), 97.0 % zeros, 51296 bytes)
    """
    choices = packing(model, batch, skip=skip) if choices is None else list(choices)
    params = dict(model.named_parameters())
    made: list[tuple[Any, Packed]] = []
    for c in choices:
        if c.name not in params:
            raise ValueError(f"pack_: the model has no parameter {c.name}; are the choices those of another model?")
        p = params[c.name]
        if not c.packed:
            continue
        if isinstance(p.array, Packed):
            raise TypeError(f"pack_: {c.name} is packed as {p.array.kind} already")
        if c.form == "csr":
            made.append((p, CSR.from_dense(p.array, p.mask)))
        else:
            n, _, m = c.form.partition(":")
            made.append((p, NM.from_dense(p.array, int(n), int(m), p.mask)))
    for p, packed in made:  # nothing is changed before everything is known
        p.requires_grad_(False)
        p.grad = None
        p.array = packed
        p.bump()
    return model
