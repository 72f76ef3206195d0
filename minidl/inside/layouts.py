"""A layered drawing of a directed graph without cycles: where the boxes go, and which way the lines run.

Sugiyama, Tagawa & Toda 1981: every box gets a layer below all it comes from; a line over several layers gets a bend in
each; within the layers boxes move beside the mean of their neighbours until few lines cross; at last each is put as
near to its neighbours as the others of its layer let it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Layout", "layered"]

GAP_X, GAP_Y, BEND = 26.0, 46.0, 14.0
SWEEPS = 10


@dataclass
class Layout:
    """`centre` of each box, `lines`: for each edge its points from below the one box to above the other; `size`."""

    centre: dict[int, tuple[float, float]]
    lines: dict[tuple[int, int], list[tuple[float, float]]]
    size: tuple[float, float]


def layered(boxes: Mapping[int, tuple[float, float]], edges: Sequence[tuple[int, int]]) -> Layout:
    """Lay out boxes of these (width, height) from top to bottom along the edges.

    >>> drawn = layered({0: (10, 10), 1: (10, 10), 2: (10, 10)}, [(0, 1), (1, 2), (0, 2)])
    >>> [drawn.centre[i][1] for i in range(3)]
    [5.0, 61.0, 117.0]
    """
    after: dict[int, list[int]] = {b: [] for b in boxes}
    before: dict[int, list[int]] = {b: [] for b in boxes}
    for a, b in edges:
        after[a].append(b)
        before[b].append(a)
    rank = _ranks(after, before)
    # An input that only something far below reads stands just above that.
    for b in sorted(boxes, key=lambda b: -rank[b]):
        if not before[b] and after[b]:
            rank[b] = min(rank[c] for c in after[b]) - 1
    width = {b: w for b, (w, _) in boxes.items()}
    chains: dict[tuple[int, int], list[int]] = {}
    up: dict[int, list[int]] = {b: [] for b in boxes}
    down: dict[int, list[int]] = {b: [] for b in boxes}
    fresh = max(boxes, default=0) + 1
    for a, b in edges:
        chain = [a]
        for r in range(rank[a] + 1, rank[b]):
            rank[fresh], width[fresh], up[fresh], down[fresh] = r, BEND, [], []
            chain.append(fresh)
            fresh += 1
        chain.append(b)
        chains[a, b] = chain
        for p, q in pairwise(chain):
            down[p].append(q)
            up[q].append(p)
    rows: list[list[int]] = [[] for _ in range(max(rank.values(), default=-1) + 1)]
    for b in rank:
        rows[rank[b]].append(b)
    _order(rows, up, down)
    x = _places(rows, up, down, width)
    y, centre, bottom = 0.0, {}, {}
    for row in rows:
        height = max((boxes[b][1] for b in row if b in boxes), default=0.0)
        for b in row:
            centre[b] = (x[b], y + height / 2)
            bottom[b] = y + height
        y += height + GAP_Y
    lines = {}
    for (a, b), chain in chains.items():
        start = (centre[a][0], centre[a][1] + boxes[a][1] / 2)
        end = (centre[b][0], centre[b][1] - boxes[b][1] / 2)
        lines[a, b] = [start, *(centre[c] for c in chain[1:-1]), end]
    right = max((x[b] + width[b] / 2 for b in x), default=0.0)
    return Layout({b: centre[b] for b in boxes}, lines, (right, max(0.0, y - GAP_Y)))


def _ranks(after: Mapping[int, list[int]], before: Mapping[int, list[int]]) -> dict[int, int]:
    """The longest way from a box without predecessors. ValueError if the graph has a cycle."""
    waiting = {b: len(p) for b, p in before.items()}
    rank = dict.fromkeys(before, 0)
    ready = [b for b, n in waiting.items() if not n]
    done = 0
    while ready:
        a = ready.pop()
        done += 1
        for b in after[a]:
            rank[b] = max(rank[b], rank[a] + 1)
            waiting[b] -= 1
            if not waiting[b]:
                ready.append(b)
    if done != len(before):
        raise ValueError("a layered drawing needs a graph without cycles")
    return rank


def _order(rows: list[list[int]], up: Mapping[int, list[int]], down: Mapping[int, list[int]]) -> None:
    """Sort each row by the mean place of its neighbours in the row before, downwards and upwards in turn."""
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        near = up if downwards else down
        for r in range(1, len(rows)) if downwards else range(len(rows) - 2, -1, -1):
            at = {b: i for i, b in enumerate(rows[r - 1 if downwards else r + 1])}
            here = {b: i for i, b in enumerate(rows[r])}
            mean = {b: sum(at[n] for n in near[b]) / len(near[b]) if near[b] else here[b] for b in rows[r]}
            rows[r].sort(key=lambda b: mean[b])


def _places(
    rows: list[list[int]], up: Mapping[int, list[int]], down: Mapping[int, list[int]], width: Mapping[int, float]
) -> dict[int, float]:
    """x of each box: the mean of its neighbours, as far as the order and the gaps of its row allow."""
    x: dict[int, float] = {}
    for row in rows:
        at = 0.0
        for b in row:
            x[b] = at + width[b] / 2
            at += width[b] + GAP_X
    for sweep in range(SWEEPS):
        near = (up, down)[sweep % 2]
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wish = [sum(x[n] for n in near[b]) / len(near[b]) if near[b] else x[b] for b in row]
            for b, place in zip(row, _apart(wish, [width[b] for b in row])):
                x[b] = place
    low = min((x[b] - width[b] / 2 for b in x), default=0.0)
    return {b: v - low for b, v in x.items()}


def _apart(wish: list[float], widths: list[float]) -> list[float]:
    """The places nearest to `wish` whose boxes keep their order and do not touch: neighbours that collide share."""
    offset, at = [], 0.0
    for w in widths:
        at += w / 2
        offset.append(at)
        at += w / 2 + GAP_X
    blocks: list[list[float]] = []  # [sum of wishes less offsets, number]
    for v, o in zip(wish, offset):
        blocks.append([v - o, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, n = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += n
    starts = [total / n for total, n in blocks for _ in range(int(n))]
    return [s + o for s, o in zip(starts, offset)]
