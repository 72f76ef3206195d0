"""See inside: the engine shows what it does, out of the op table and the registry of kernels alone.

traces.py     trace: a backward pass, one node at a time; diamonds.py: why in topological order
verdicts.py   blame: which node's backward is wrong?
explanations.py  explain: an op, a layer, a model, a kernel, a graph; pages.py reads their docstrings,
              counting.py counts operations, looking.py sees kernels and time, roofs.py draws the roofline
graphs.py     graph: a picture of what a computation is made of; layouts.py puts its boxes
hunts.py      hunt: where NaN and Inf are born; checkup: gradients that vanish or explode, dead units
profiles.py   profile: where the time went, by op and by module
assembly.py   machine_code: the instructions that a kernel became
showing.py    values, places and pages as text and as HTML, without network or display
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minidl.inside.assembly import loops, machine_code
    from minidl.inside.diamonds import diamond
    from minidl.inside.explanations import Explanation, explain
    from minidl.inside.graphs import Graph, graph
    from minidl.inside.hunts import Checkup, Hunt, checkup, hunt
    from minidl.inside.profiles import profile
    from minidl.inside.traces import Trace, trace
    from minidl.inside.verdicts import Verdict, blame

__all__ = [
    "Checkup", "Explanation", "Graph", "Hunt", "Trace", "Verdict", "blame", "checkup", "diamond", "explain", "graph",
    "hunt", "loops", "machine_code", "profile", "trace",
]  # fmt: skip

# Pages are opened when first used: each needs other rooms of the house.
_PAGES = {
    "Trace": "traces",
    "trace": "traces",
    "diamond": "diamonds",
    "Explanation": "explanations",
    "explain": "explanations",
    "Graph": "graphs",
    "graph": "graphs",
    "Checkup": "hunts",
    "Hunt": "hunts",
    "checkup": "hunts",
    "hunt": "hunts",
    "profile": "profiles",
    "loops": "assembly",
    "machine_code": "assembly",
    "Verdict": "verdicts",
    "blame": "verdicts",
}


def __getattr__(name: str) -> Any:
    if name in _PAGES:
        return getattr(import_module(f"minidl.inside.{_PAGES[name]}"), name)
    raise AttributeError(f"module 'minidl.inside' has no attribute {name!r}")
