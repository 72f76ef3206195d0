"""A trace as one HTML page: a slider over its steps, the order of all nodes and the graph beside them. No network is
needed.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any

from minidl.inside import graphs, showing
from minidl.tensors import Tensor

__all__ = ["page"]

SHOWN = 300  # steps that a page holds
SINGLY = 60  # nodes that are drawn one by one; of larger graphs whole modules are

STYLE = """
.minidl.minidl { max-width: 100rem }
.minidl .parts { display: grid; grid-template-columns: minmax(13rem, 17rem) minmax(0, 5fr) minmax(0, 6fr); gap: 1.2rem;
  margin-top: .8rem }
.minidl .parts > * { min-width: 0 } .minidl .picture { max-height: 75vh; overflow: auto; border: 1px solid var(--line);
  border-radius: 6px }
.minidl .picture svg { display: block; margin: 0 auto } .minidl .picture rect { cursor: pointer }
.minidl .picture text { pointer-events: none }
.minidl .picture rect.past { stroke: var(--good); stroke-width: 2 }
.minidl .picture rect.now { stroke: var(--warm); stroke-width: 3.5 } .minidl p code { overflow-wrap: anywhere }
.minidl .order { list-style: none; margin: 0; padding: 0; max-height: 70vh; overflow-y: auto;
  border: 1px solid var(--line); border-radius: 6px; font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace }
.minidl .order li { padding: .1rem .6rem; cursor: pointer; color: var(--soft); white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis } .minidl .order li.past { color: var(--ink) }
.minidl .order li.now { background: var(--mark); color: var(--ground) }
.minidl section.step { display: none } .minidl section.step.now { display: block }
.minidl .bar { display: flex; gap: .6rem; align-items: center } .minidl button { font: inherit; padding: .1rem .8rem;
  border: 1px solid var(--line); border-radius: 6px; background: var(--tint); color: var(--ink); cursor: pointer }
.minidl td.v { text-align: left; font: 13px/1.45 ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere }
.minidl td { vertical-align: top } .minidl td:first-child { white-space: nowrap }
@media (max-width: 75rem) { .minidl .parts { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr) }
  .minidl .order { max-height: 11rem; grid-column: 1 / -1 } }
@media (max-width: 50rem) { .minidl .parts { grid-template-columns: minmax(0, 1fr) }
  .minidl .order { max-height: 7rem } .minidl .picture { max-height: 20rem } }
.minidl .whole { color: var(--good) } .minidl .part { color: var(--warm) }
"""

SCRIPT = """
const steps = [...document.querySelectorAll('section.step')], items = [...document.querySelectorAll('.order li')];
const slider = document.getElementById('at'), said = document.getElementById('said');
const boxes = [...document.querySelectorAll('.picture rect')], view = document.querySelector('.picture');
function mark(n) {
  boxes.forEach((b, i) => {
    b.classList.toggle('now', n > 0 && BOX[n - 1] === i); b.classList.toggle('past', LAST[i] < n && n > 0);
  });
  if (!n) return;
  const at = boxes[BOX[n - 1]].getBoundingClientRect(), frame = view.getBoundingClientRect();
  view.scrollTop += (at.top + at.bottom - frame.top - frame.bottom) / 2;
  view.scrollLeft += (at.left + at.right - frame.left - frame.right) / 2;
}
function show(n) {
  n = Math.max(0, Math.min(steps.length - 1, n)); slider.value = n;
  steps.forEach((s, i) => s.classList.toggle('now', i === n));
  items.forEach((s, i) => { s.classList.toggle('now', i === n - 1); s.classList.toggle('past', i < n - 1) });
  if (n) items[0].parentNode.scrollTop = items[n - 1].offsetTop - items[0].offsetTop - 60;
  mark(n);
  said.textContent = n + ' of ' + slider.max;
}
slider.addEventListener('input', () => show(+slider.value));
items.forEach((s, i) => s.addEventListener('click', () => show(i + 1)));
boxes.forEach((b, i) => b.addEventListener('click', () => BOX.includes(i) && show(BOX.indexOf(i) + 1)));
document.getElementById('back').addEventListener('click', () => show(+slider.value - 1));
document.getElementById('step').addEventListener('click', () => show(+slider.value + 1));
document.addEventListener('keydown', e => {
  if (document.activeElement !== slider && e.key === 'ArrowRight') show(+slider.value + 1);
  if (document.activeElement !== slider && e.key === 'ArrowLeft') show(+slider.value - 1);
});
show(0);
"""


def page(trace: Any) -> str:
    """The HTML of all steps, the first 300 of a longer pass. The trace itself stays where it stands."""
    from minidl.inside.traces import Trace

    whole = Trace(trace.loss, trace._seed(), trace.names, trace.calls)
    n = len(whole)
    shown = min(n, SHOWN)
    if shown:
        whole.run_to(shown)
    items = "".join(
        f'<li title="{escape(whole._title(node))}">{i + 1}. {escape(node.name())} '
        f"{escape('in ' + node.scope if node.scope else '')}</li>"
        for i, node in enumerate(whole.nodes[:shown])
    )
    start = _start(whole)
    drawn = _drawn(whole)
    panels = "".join(f'<section class="step">{_panel(whole, step)}</section>' for step in whole.steps)
    more = "" if shown == n else f'<p class="soft">These are the first {shown} of {n:,} steps.</p>'
    body = (
        f"<h1>Backward, step by step</h1>"
        f'<p class="soft">Every node comes after all of its consumers: only then is the gradient that arrives at it '
        f"complete. Backward goes up through the graph. Slide, click a node, or use the arrow keys.</p>{more}"
        f'<div class="bar"><button id="back">back</button><button id="step">step</button><span id="said"></span></div>'
        f'<input type="range" id="at" min="0" max="{shown}" value="0" aria-label="step">'
        f'<div class="parts"><ol class="order">{items}</ol><div class="picture">{drawn.svg() if drawn else ""}</div>'
        f'<div><section class="step now">{start}</section>{panels}</div></div>'
    )
    return showing.document("Backward, step by step", body, graphs.STYLE + STYLE, _marks(drawn, whole) + SCRIPT)


def _drawn(whole: Any) -> graphs.Graph | None:
    """The graph, its lines with the shapes of the gradients that have come. None for a leaf, which has none."""
    if not whole.nodes:
        return None
    sizes = {
        (id(s.node), k): (g.shape, g.nbytes) for s in whole.steps for k, g in enumerate(s.incoming) if g is not None
    }
    drawn = graphs.Graph([whole.loss], whole.nodes[::-1], sizes, None)
    if len(whole.nodes) > SINGLY:
        return drawn
    drawn = graphs.Graph(drawn.roots, drawn.nodes, sizes, drawn.deepest + 1)
    for box in drawn.boxes:
        named = whole.names.get(id(box.nodes[0])) if box.nodes else None
        box.title += f" -> {named}" if named else ""
    return drawn


def _marks(drawn: graphs.Graph | None, whole: Any) -> str:
    """BOX: the box of each step; LAST: the last step of each box, of inputs and outputs one that never comes."""
    boxes = drawn.boxes if drawn else []
    box = {node: b.number for b in boxes for node in b.nodes}
    steps = [box[node] for node in whole.nodes]
    last = [len(steps) + 1] * len(boxes)
    for number, b in enumerate(steps, 1):
        last[b] = number
    return f"const BOX = {json.dumps(steps[:SHOWN])}, LAST = {json.dumps(last)};"


def table(t: Any) -> str:
    """The steps around where a trace stands, for a notebook's cell."""
    low = max(0, min(t.position - 6, len(t) - 12))
    rows = "".join(
        f"<tr><td>{'&#9654;' if i + 1 == t.position else ''} {i + 1}</td><td>{escape(node.name())}</td>"
        f'<td class="v">{escape(node.scope)}</td><td class="v">{escape(showing.place(node))}</td></tr>'
        for i, node in list(enumerate(t.nodes))[low : low + 12]
    )
    return f"<table><tr><th>step</th><th>op</th><th>module</th><th>line</th></tr>{rows}</table>"


def _start(t: Any) -> str:
    return (
        f"<h2>Start</h2><p>The loss is <code>{escape(showing.value(t.loss))}</code>. Its gradient with respect to "
        f"itself, <code>{escape(showing.value(t._seed() or 1.0))}</code>, is what the walk back begins with.</p>"
    )


def _panel(t: Any, step: Any) -> str:
    from minidl.inside.traces import formula

    head = escape(step.op) + (f' <span class="soft">in {escape(step.module)}</span>' if step.module else "")
    lines = [f"<h2>{step.number}. {head}</h2>"]
    if step.source:
        lines.append(f"<p><code>{escape(step.source)}</code></p>")
    if formula(step.node):
        lines.append(f"<pre>{escape(formula(step.node))}</pre>")
    rows = "".join(
        f'<tr><td>arrives</td><td class="v">{escape("nothing" if g is None else showing.value(g))}</td></tr>'
        for g in step.incoming
    )
    for c in step.given:
        kind = "whole" if c.complete else "part"
        come = f"{c.number} of {c.expected}" if c.expected > 1 else ""
        rows += (
            f'<tr><td>to {escape(t.name(c.to))}</td><td class="v">{escape(showing.value(c.gradient))}'
            + (
                f'<br><span class="{kind}">contribution {come}; the sum is {escape(showing.value(c.total))}'
                f"{'' if c.complete else ', more will come'}</span>"
                if come
                else ""
            )
            + "</td></tr>"
        )
    done = [c for s in t.steps[: step.number] for c in s.given if isinstance(c.to, Tensor) and c.complete]
    known = {c.to: c for c in done}
    leaves = "".join(
        f'<tr><td>{escape(t.name(leaf))}</td><td class="v">{escape(showing.value(c.total))}</td></tr>'
        for leaf, c in list(known.items())[-12:]
    )
    lines.append(f"<table>{rows}</table>")
    if leaves:
        lines.append(f"<h2>Gradients of leaves that are complete by now</h2><table>{leaves}</table>")
    return "".join(lines)
