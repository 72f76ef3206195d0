"""A graph as one HTML page: modules open and close by a click, a slider opens all to a depth. No network is needed.

The first picture is drawn by graphs.py; what comes after a click the page lays out itself. Its program is that of
layouts.py and graphs.py once more, for a browser; a test runs both and compares the pictures.
"""

from __future__ import annotations

import json
from typing import Any

from minidl.inside import layouts, showing

__all__ = ["data", "page"]

STYLE = """
.minidl-graph .box { outline: none } .minidl-graph .opens > rect, .minidl-graph .fold { cursor: pointer }
.minidl-graph .opens > rect { stroke-width: 1.8 } .minidl-graph .box:focus-visible > rect { stroke: var(--s);
  stroke-width: 3 } .minidl-graph .fold circle { fill: var(--g); stroke: var(--b) }
.minidl-graph text.sign { font-size: 12px; fill: var(--s) }
.minidl .bar label { display: flex; gap: .6rem; align-items: center; flex-wrap: wrap }
"""

SCRIPT = """
const sum = xs => xs.reduce((a, b) => a + b, 0), get = (m, k) => m.has(k) ? m.get(k) : m.set(k, []).get(k);

function ranks(boxes, after, before) {
  const rank = new Map(), waiting = new Map(), ready = [];
  for (const b of boxes.keys()) {
    rank.set(b, 0); waiting.set(b, before.get(b).length);
    if (!before.get(b).length) ready.push(b);
  }
  while (ready.length) {
    const a = ready.pop();
    for (const b of after.get(a)) {
      rank.set(b, Math.max(rank.get(b), rank.get(a) + 1)); waiting.set(b, waiting.get(b) - 1);
      if (!waiting.get(b)) ready.push(b);
    }
  }
  return rank;
}

function apart(wish, widths) {
  const offset = [], blocks = [];
  let at = 0;
  for (const w of widths) { at += w / 2; offset.push(at); at += w / 2 + GAP_X; }
  wish.forEach((v, i) => {
    blocks.push([v - offset[i], 1]);
    const mean = k => blocks[blocks.length - k][0] / blocks[blocks.length - k][1];
    while (blocks.length > 1 && mean(2) > mean(1)) {
      const [total, n] = blocks.pop(), last = blocks[blocks.length - 1];
      last[0] += total; last[1] += n;
    }
  });
  const starts = blocks.flatMap(([total, n]) => Array(n).fill(total / n));
  return starts.map((s, i) => s + offset[i]);
}

function layered(boxes, edges) {
  const after = new Map(), before = new Map(), up = new Map(), down = new Map(), width = new Map(), chains = [];
  for (const [b, [w]] of boxes) {
    after.set(b, []); before.set(b, []); up.set(b, []); down.set(b, []); width.set(b, w);
  }
  for (const [a, b] of edges) { after.get(a).push(b); before.get(b).push(a); }
  const rank = ranks(boxes, after, before);
  for (const b of [...boxes.keys()].sort((p, q) => rank.get(q) - rank.get(p)))
    if (!before.get(b).length && after.get(b).length) rank.set(b, Math.min(...after.get(b).map(c => rank.get(c))) - 1);
  let fresh = Math.max(0, ...boxes.keys()) + 1;
  for (const [a, b] of edges) {
    const chain = [a];
    for (let r = rank.get(a) + 1; r < rank.get(b); r++) {
      rank.set(fresh, r); width.set(fresh, BEND); up.set(fresh, []); down.set(fresh, []);
      chain.push(fresh++);
    }
    chain.push(b); chains.push(chain);
    for (let i = 1; i < chain.length; i++) {
      down.get(chain[i - 1]).push(chain[i]); up.get(chain[i]).push(chain[i - 1]);
    }
  }
  const rows = Array.from({length: Math.max(-1, ...rank.values()) + 1}, () => []);
  for (const [b, r] of rank) rows[r].push(b);
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const down_ = sweep % 2 === 0, near = down_ ? up : down;
    for (let k = 1; k < rows.length; k++) {
      const r = down_ ? k : rows.length - 1 - k, at = new Map(rows[down_ ? r - 1 : r + 1].map((b, i) => [b, i]));
      const mean = new Map(rows[r].map((b, i) => {
        const n = near.get(b);
        return [b, n.length ? sum(n.map(c => at.get(c))) / n.length : i];
      }));
      rows[r].sort((p, q) => mean.get(p) - mean.get(q));
    }
  }
  const x = new Map();
  for (const row of rows) {
    let at = 0;
    for (const b of row) { x.set(b, at + width.get(b) / 2); at += width.get(b) + GAP_X; }
  }
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const near = sweep % 2 ? down : up;
    for (const row of sweep % 2 ? [...rows].reverse() : rows) {
      const mean = n => sum(n.map(b => x.get(b))) / n.length;
      const wish = row.map(b => near.get(b).length ? mean(near.get(b)) : x.get(b));
      apart(wish, row.map(b => width.get(b))).forEach((v, i) => x.set(row[i], v));
    }
  }
  const low = Math.min(...[...x].map(([b, v]) => v - width.get(b) / 2)), centre = new Map(), lines = [];
  for (const [b, v] of x) x.set(b, v - low);
  let y = 0;
  for (const row of rows) {
    const height = Math.max(0, ...row.filter(b => boxes.has(b)).map(b => boxes.get(b)[1]));
    for (const b of row) centre.set(b, [x.get(b), y + height / 2]);
    y += height + GAP_Y;
  }
  for (const chain of chains) {
    const a = chain[0], b = chain[chain.length - 1];
    lines.push([[centre.get(a)[0], centre.get(a)[1] + boxes.get(a)[1] / 2],
      ...chain.slice(1, -1).map(c => centre.get(c)), [centre.get(b)[0], centre.get(b)[1] - boxes.get(b)[1] / 2]]);
  }
  const right = Math.max(0, ...[...x].map(([b, v]) => v + width.get(b) / 2));
  return {centre, lines, size: [right, Math.max(0, y - GAP_Y)]};
}

function withoutCycles(flows) {  // Tarjan
  const number = new Map(), low = new Map(), where = new Map(), stack = [], on = new Set();
  const enter = g => { number.set(g, number.size); low.set(g, number.get(g)); stack.push(g); on.add(g);
    return [g, flows.get(g)[Symbol.iterator]()]; };
  for (const start of flows.keys()) {
    if (number.has(start)) continue;
    const work = [enter(start)];
    while (work.length) {
      const [g, rest] = work[work.length - 1], {value: h, done} = rest.next();
      if (!done) {
        if (!number.has(h)) work.push(enter(h));
        else if (on.has(h)) low.set(g, Math.min(low.get(g), number.get(h)));
        continue;
      }
      work.pop();
      if (work.length) { const p = work[work.length - 1][0]; low.set(p, Math.min(low.get(p), low.get(g))); }
      if (low.get(g) === number.get(g))
        for (let h = null; h !== g;) { h = stack.pop(); on.delete(h); where.set(h, g); }
    }
  }
  return where;
}

const three = x => String(Number(x.toPrecision(3)));
function numberText(x) {
  for (const [unit, step] of [['T', 1e12], ['G', 1e9], ['M', 1e6], ['k', 1e3]])
    if (x >= step) return three(x / step) + ' ' + unit;
  return three(x);
}
function bytesText(n) {
  for (const [unit, step] of [['GiB', 2 ** 30], ['MiB', 2 ** 20], ['KiB', 2 ** 10]])
    if (n >= step) return three(n / step) + ' ' + unit;
  return n + ' B';
}
function flow(sizes) {
  const known = sizes.filter(s => s[2] >= 0), total = sum(known.map(s => s[2]));
  if (!known.length) return '';
  return sizes.length === 1 ? sizes[0][1] + ', ' + bytesText(total)
    : sizes.length.toLocaleString('en-US') + ' tensors, ' + bytesText(total);
}

function opened(depth) {  // all modules that stand open at a depth
  const open = new Set();
  for (const a of GRAPH.atoms) for (let k = 1; k < depth && k <= a.path.length; k++) {
    const name = a.path.slice(0, k).join('.');
    if (depth > GRAPH.deepest || GRAPH.holders.includes(name)) open.add(name);
  }
  return open;
}

function collapse(open) {
  const keys = GRAPH.atoms.map((a, i) => {
    for (let k = 1; k <= a.path.length; k++) {
      const name = a.path.slice(0, k).join('.');
      if (!open.has(name)) return name;
    }
    return i;
  });
  const flows = new Map(keys.map(k => [k, new Set()]));
  for (const [a, b] of GRAPH.edges) if (keys[a] !== keys[b]) flows.get(keys[a]).add(keys[b]);
  const merged = withoutCycles(flows), groups = new Map(), at = [];
  keys.forEach((key, i) => {
    const g = merged.get(key);
    if (!groups.has(g)) groups.set(g, {number: groups.size, keys: new Set(), atoms: []});
    groups.get(g).keys.add(key); groups.get(g).atoms.push(GRAPH.atoms[i]); at[i] = groups.get(g).number;
  });
  const boxes = [...groups.values()].map(describe), edges = new Map();
  for (const [a, b, sizes] of GRAPH.edges) if (at[a] !== at[b]) {
    const key = at[a] + ' ' + at[b];
    if (!edges.has(key)) edges.set(key, new Map());
    for (const s of sizes) edges.get(key).set(s[0], s);
  }
  return {boxes, edges: [...edges].map(([key, sizes]) => [...key.split(' ').map(Number), flow([...sizes.values()])])};
}

function describe({number, keys, atoms}) {
  const modules = [...keys].filter(k => typeof k === 'string'), params = new Map(), counts = new Map();
  for (const a of atoms) {
    for (const [id, n] of a.params) params.set(id, n);
    for (const [name, n] of a.ops) counts.set(name, (counts.get(name) || 0) + n);
  }
  const total = sum([...params.values()]), first = atoms[0], nodes = sum([...counts.values()]);
  let {title, detail, kind} = first, inner = '';
  if (modules.length) {
    const ops = [...counts].sort((a, b) => b[1] - a[1]).map(([name, n]) => n > 1 ? n + ' x ' + name : name);
    kind = 'module';
    title = modules[0] + (modules.length > 1 ? ' + ' + (modules.length - 1) : '');
    detail = ops.slice(0, 3).join(', ') + (ops.length > 3 ? ', ' + (ops.length - 3) + ' more' : '')
      + (modules.length === keys.size ? '' : ', in a loop');
    if (atoms.length > 1 && modules.length === 1) inner = modules[0];
  }
  if (total) detail += ', ' + numberText(total) + ' params';
  const path = modules.length ? modules[0].split('.').slice(0, -1) : first.path;
  return {number, title, detail, kind, nodes, inner, outer: path.join('.')};
}

const ENTITIES = {'&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#x27;'};
const esc = s => s.replace(/[&<>"']/g, c => ENTITIES[c]);
const wide = (text, size) => text.length * size * 0.6, f = x => x.toFixed(1);
const label = (x, y, text) => text ? `<text class="f" x="${f(x)}" y="${f(y)}">${esc(text)}</text>` : '';

function lineOf(points) {
  let [x, y] = points[0], d = `M${f(x)} ${f(y)}`;
  for (const [px, py] of points.slice(1)) {
    const middle = (y + py) / 2;
    d += `C${f(x)} ${f(middle)} ${f(px)} ${f(middle)} ${f(px)} ${f(py)}`;
    [x, y] = [px, py];
  }
  return `<path class="l" d="${d}"/><path class="a" d="M${f(x)} ${f(y)}l-4 -7h8z"/>`;
}

function picture(open) {
  const {boxes, edges} = collapse(open), given = new Map(), shapes = new Map(), parts = [];
  for (const [a, , text] of edges) get(given, a).push(text);
  const below = new Map([...given].filter(([, t]) => new Set(t).size === 1).map(([a, t]) => [a, t[0]]));
  const textOf = b => Math.max(wide(b.title, 12), wide(b.detail, 10.5)) + 18;
  for (const b of boxes) {
    const under = wide(below.get(b.number) || '', 10.5);
    shapes.set(b.number, [Math.max(64, textOf(b), under ? 2 * under + 10 : 0), b.detail ? 38 : 24]);
  }
  const drawn = layered(shapes, edges), w = drawn.size[0] + 2 * MARGIN, h = drawn.size[1] + 2 * MARGIN;
  drawn.lines.forEach((points, i) => {
    const moved = points.map(([x, y]) => [x + MARGIN, y + MARGIN]), [x, y] = moved[moved.length - 1];
    parts.push(lineOf(moved));
    if (!below.has(edges[i][0])) parts.push(label(x + 6, y - 9, edges[i][2]));
  });
  for (const b of boxes) {
    const [x, y] = drawn.centre.get(b.number).map(v => v + MARGIN), height = shapes.get(b.number)[1];
    const breadth = Math.max(64, textOf(b)), left = x - breadth / 2, top = y - height / 2;
    const round = b.kind === 'input' || b.kind === 'output' ? 12 : 5;
    const opens = b.inner ? ` opens" data-open="${esc(b.inner)}" tabindex="0" role="button" aria-expanded="false` : '';
    parts.push(`<g class="box${opens}"><rect class="${b.kind}" x="${f(left)}" y="${f(top)}" width="${f(breadth)}" `
      + `height="${f(height)}" rx="${round}"><title>${b.nodes.toLocaleString('en-US')} ops</title></rect>`
      + `<text x="${f(x)}" y="${f(b.detail ? y - 3 : y + 4)}">${esc(b.title)}</text>`
      + (b.detail ? `<text class="d" x="${f(x)}" y="${f(y + 12)}">${esc(b.detail)}</text>` : '')
      + (b.inner ? `<text class="sign" x="${f(left + breadth - 8)}" y="${f(top + 12)}">+</text>` : '') + '</g>');
    if (b.outer) parts.push(`<g class="fold" data-close="${esc(b.outer)}" tabindex="0" role="button" `
      + `aria-label="close ${esc(b.outer)}"><title>close ${esc(b.outer)}</title><circle cx="${f(left)}" cy="${f(top)}" `
      + `r="7"/><text class="sign" x="${f(left)}" y="${f(top + 4)}">\\u2212</text></g>`);
    if (below.has(b.number)) parts.push(label(x + 6, y + height / 2 + 13, below.get(b.number)));
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" class="minidl-graph" viewBox="0 0 ${w.toFixed(0)} ${h.toFixed(0)}" `
    + `width="${w.toFixed(0)}" height="${h.toFixed(0)}" role="img" aria-label="graph of ${boxes.length} boxes">`
    + `<path d="M0 0H${w.toFixed(0)}V${h.toFixed(0)}H0z" fill="var(--g)"/>${parts.join('')}</svg>`;
}
"""

LISTEN = """
const place = document.getElementById('picture'), level = document.getElementById('level');
let open = opened(GRAPH.depth);
const draw = () => { place.innerHTML = picture(open); };
function change(target) {
  const toOpen = target.closest('[data-open]'), toClose = target.closest('[data-close]');
  if (toClose) for (const m of [...open]) {
    const name = toClose.dataset.close;
    if (m === name || m.startsWith(name + '.')) open.delete(m);
  } else if (toOpen) open.add(toOpen.dataset.open);
  else return false;
  draw();
  return true;
}
place.addEventListener('click', e => change(e.target));
place.addEventListener('keydown', e => {
  if ((e.key === 'Enter' || e.key === ' ') && change(e.target)) e.preventDefault();
});
if (level) level.addEventListener('input', () => { open = opened(+level.value); draw(); });
draw();
"""


def data(graph: Any, finest: int) -> dict[str, Any]:
    """What the page knows: the boxes of the finest drawing, their module paths, ops and parameters, and the edges."""
    from minidl.inside import graphs

    boxes, edges = graph.flows(finest, graphs.KNOWN)
    small: dict[Any, int] = {}
    atoms = []
    for box in boxes:
        ops: dict[str, int] = {}
        for node in box.nodes:
            ops[node.name()] = ops.get(node.name(), 0) + 1
        scope = box.nodes[0].scope if box.nodes else ""
        atoms.append(
            {
                "path": scope.split(".") if scope else [],
                "title": box.title,
                "detail": box.detail,
                "kind": box.kind,
                "ops": list(ops.items()),
                "params": [(small.setdefault(k, len(small)), n) for k, n in box.parameters.items()],
            }
        )
    flows = [
        (a, b, [(small.setdefault(key, len(small)), str(shape), nbytes) for key, (shape, nbytes) in sizes.items()])
        for (a, b), sizes in edges.items()
    ]
    holders = sorted(graph.holders)
    return {"atoms": atoms, "edges": flows, "deepest": graph.deepest, "depth": graph.depth, "holders": holders}


def program(graph: Any, finest: int) -> str:
    """The page's JavaScript without what listens to the reader: constants, the graph, layout and drawing."""
    from minidl.inside.graphs import MARGIN

    known = {"GAP_X": layouts.GAP_X, "GAP_Y": layouts.GAP_Y, "BEND": layouts.BEND, "SWEEPS": layouts.SWEEPS}
    numbers = ", ".join(f"{name} = {value:g}" for name, value in {**known, "MARGIN": MARGIN}.items())
    text = json.dumps(data(graph, finest), separators=(",", ":")).replace("</", "<\\/")
    return f"const {numbers};\nconst GRAPH = {text};\n{SCRIPT}"


def page(graph: Any, depths: list[int], finest: int) -> str:
    """The HTML of a graph: the slider opens all of it to one of `depths`, clicks go on to the depth `finest`."""
    from minidl.inside import graphs

    slider = (
        ""
        if len(depths) < 2
        else (
            f'<div class="bar"><label>from whole modules to single ops <input type="range" id="level" '
            f'min="{depths[0]}" max="{depths[-1]}" value="{graph.depth}" aria-label="depth" '
            f'style="max-width: 20rem"></label></div>'
        )
    )
    head = (
        f'<h1>Graph</h1><p class="soft">{len(graph.nodes):,} ops; on the lines what flows, forwards. A click on a '
        f"module opens it; the \N{MINUS SIGN} at the corner of what is inside closes it again.</p>{slider}"
    )
    body = f'{head}<div class="wide" id="picture">{graph.svg()}</div>'
    return showing.document("Graph", body, graphs.STYLE + STYLE, program(graph, finest) + LISTEN)
