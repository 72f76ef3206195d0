"""Chapter 2: each exercise is a function with its answer, a check, and wrong answers that the check must refuse."""


def topological(parents, root):
    """The nodes that `root` comes from, itself first, each after all that use it. `parents`: {node: [its inputs]}"""
    order, seen = [], set()

    def visit(node):
        if node not in seen:
            seen.add(node)
            for parent in parents.get(node, []):
                visit(parent)
            order.append(node)

    visit(root)
    return order[::-1]


GRAPHS = [
    {"y": ["b", "c"], "b": ["a", "a"], "c": ["a"], "a": ["x", "x"]},
    {"y": ["a", "b"], "b": ["a"], "c": ["x"], "a": ["c", "x"], "unused": ["x"]},
    {"y": ["p", "q", "x"], "p": ["q"], "q": ["r"], "r": ["x"]},
]


def check_topological(f):
    for parents in GRAPHS:
        order = list(f(parents, "y"))
        assert order[0] == "y", f"the root comes first, not {order[0]!r}"
        assert len(set(order)) == len(order), f"each node once: {order}"
        for node in order:
            for parent in parents.get(node, []):
                assert parent in order, f"{parent!r} is missing"
                assert order.index(parent) > order.index(node), f"{parent!r} stands before {node!r}, which uses it"
        assert "unused" not in order, "only nodes that the root comes from"


def gradients(inputs, root):
    """{node: gradient of root with respect to it}; `inputs`: {node: [(parent, slope of the node in that parent)]}"""
    order = topological({node: [p for p, _ in edges] for node, edges in inputs.items()}, root)
    found = dict.fromkeys(order, 0.0)
    found[root] = 1.0
    for node in order:
        for parent, slope in inputs.get(node, []):
            found[parent] += found[node] * slope
    return found


def check_gradients(f):
    # The diamond of this chapter, at x = 3.
    inputs = {"y": [("c", 1), ("b", 1)], "b": [("a", 9), ("a", 9)], "c": [("a", 5)], "a": [("x", 3), ("x", 3)]}
    for edges in (inputs["y"], inputs["y"][::-1]):
        found = dict(f({**inputs, "y": edges}, "y"))
        right = {"y": 1, "b": 1, "c": 1, "a": 23, "x": 138}
        assert found == right, f"{found}, not {right}"


def visits(n):
    """How many visits a recursion along every path makes for n times y = y + y, the first y being a node, too."""
    return 2 ** (n + 1) - 1


def check_visits(f):
    from minidl.inside.diamonds import paths

    for n in range(6):
        assert f(n) == paths(n), f"n = {n}: {paths(n)} visits, not {f(n)}"


def _breadth_first(parents, root):
    order, ready = [], [root]
    while ready:
        node = ready.pop(0)
        if node not in order:
            order.append(node)
            ready += parents.get(node, [])
    return order


def _assigned(inputs, root):
    order = topological({node: [p for p, _ in edges] for node, edges in inputs.items()}, root)
    found = dict.fromkeys(order, 1.0)
    for node in order:
        for parent, slope in inputs.get(node, []):
            found[parent] = found[node] * slope
    return found


WRONG = {
    "topological": [_breadth_first, lambda parents, root: topological(parents, root)[::-1]],
    "gradients": [_assigned],
    "visits": [lambda n: n + 1, lambda n: 2**n],
}
