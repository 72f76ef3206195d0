"""A small roofline: the machine's limits, measured, and where one computation stands, as SVG."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["roof"]

WIDTH, HEIGHT, LEFT, BOTTOM = 420, 210, 46, 30


def roof(c: Any, intensity: float, rate: float, kind: str = "f32") -> str:
    """Operations per second over operations per byte, both on scales of powers of ten."""
    top = c.rates[kind]
    memory, cache = c.streams["copy"][-1][1], c.streams["copy"][0][1]
    low_x, high_x = min(0.01, intensity / 3 or 0.01), max(1000.0, intensity * 3)
    low_y, high_y = min(1e6, rate / 3 or 1e6), top * 3

    def x(v: float) -> float:
        return LEFT + (WIDTH - LEFT - 10) * math.log(v / low_x) / math.log(high_x / low_x)

    def y(v: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 10) * math.log(max(v, low_y) / low_y) / math.log(high_y / low_y)

    def line(*points: tuple[float, float], style: str) -> str:
        return f'<polyline points="{" ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)}" fill="none" {style}/>'

    def text(px: float, py: float, words: str, more: str = "") -> str:
        return f'<text x="{px:.1f}" y="{py:.1f}" font-size="10" fill="currentColor" {more}>{words}</text>'

    parts = []
    for speed, name, dash in ((memory, "memory", ""), (cache, "first-level cache", 'stroke-dasharray="4 3"')):
        knee = top / speed
        ink = f'stroke="currentColor" stroke-width="1.4" {dash}'
        parts.append(line((low_x, low_x * speed), (knee, top), style=ink))
        at = low_x * 1.5
        parts.append(text(x(at), y(at * speed) - 4, f"{name} {speed / 1e9:.0f} GB/s"))
    parts.append(line((top / cache, top), (high_x, top), style='stroke="currentColor" stroke-width="1.4"'))
    parts.append(text(WIDTH - 12, y(top) - 4, f"{top / 1e9:.0f} GFLOP/s", 'text-anchor="end"'))
    if intensity > 0 and rate > 0:
        parts.append(f'<circle cx="{x(intensity):.1f}" cy="{y(rate):.1f}" r="4.5" fill="var(--mark, #0969da)"/>')
    for power in range(math.ceil(math.log10(low_x)), math.floor(math.log10(high_x)) + 1):
        parts.append(text(x(10.0**power), HEIGHT - BOTTOM + 13, f"{10.0**power:g}", 'text-anchor="middle"'))
    for power in range(math.ceil(math.log10(low_y) / 3) * 3, math.floor(math.log10(high_y)) + 1, 3):
        name = {6: "1 M", 9: "1 G", 12: "1 T", 3: "1 k", 0: "1"}.get(power, f"1e{power}")
        parts.append(text(LEFT - 5, y(10.0**power) + 3, name, 'text-anchor="end"'))
    parts.append(text((LEFT + WIDTH) / 2, HEIGHT - 3, "FLOPs per byte", 'text-anchor="middle"'))
    frame = (
        f'<path d="M{LEFT} 10V{HEIGHT - BOTTOM}H{WIDTH - 10}" fill="none" stroke="currentColor" stroke-opacity=".4"/>'
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="roofline: {rate:.3g} FLOP/s at {intensity:.3g} FLOPs per byte">{frame}{"".join(parts)}</svg>'
    )
