"""Chapter 7: each exercise is a function with its answer, a check, and wrong answers that the check must refuse."""

from itertools import pairwise


def count_parameters(widths):
    """Parameters of Linear layers from widths[0] to widths[1], to widths[2], ..., biases included."""
    return sum(n * m + m for n, m in pairwise(widths))


def check_count_parameters(f):
    from minidl import nn

    for widths in [(2, 8, 1), (784, 128, 10), (5, 5), (7,)]:
        net = nn.Sequential(*[nn.Linear(n, m) for n, m in pairwise(widths)])
        right = sum(p.numel() for p in net.parameters())
        assert f(widths) == right, f"{widths}: {right}, not {f(widths)}"


def paths(module, prefix=""):
    """The names of all parameters in a tree of dicts, such as "first.weight", in order."""
    found = []
    for name, value in module.items():
        found += paths(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"]
    return found


def check_paths(f):
    tree = {"first": {"weight": 1, "bias": 2}, "scale": 3, "blocks": {"0": {"w": 4}, "1": {"w": 5}}, "empty": {}}
    right = ["first.weight", "first.bias", "scale", "blocks.0.w", "blocks.1.w"]
    assert list(f(tree)) == right, f"{right}, not {f(tree)}"


def make_module():
    """A class whose `named()` lists (name, value) of every float that was assigned to an instance, the latest value."""

    class Module:
        def __init__(self):
            object.__setattr__(self, "_numbers", {})

        def __setattr__(self, name, value):
            if isinstance(value, float):
                self._numbers[name] = value
            object.__setattr__(self, name, value)

        def named(self):
            return list(self._numbers.items())

    return Module


def check_make_module(f):
    class Line(f()):
        def __init__(self):
            super().__init__()
            self.slope = 2.0
            self.name = "a line"
            self.height = 1.0

    one, other = Line(), Line()
    one.slope = 3.0
    assert one.slope == 3.0, "an attribute that was assigned can be read"
    assert one.name == "a line", "other attributes, too"
    assert one.named() == [("slope", 3.0), ("height", 1.0)], f"named() gives {one.named()}"
    assert other.named() == [("slope", 2.0), ("height", 1.0)], "each instance has its own"


def _shared():
    class Module:
        numbers = {}

        def __setattr__(self, name, value):
            if isinstance(value, float):
                self.numbers[name] = value
            object.__setattr__(self, name, value)

        def named(self):
            return list(self.numbers.items())

    return Module


WRONG = {
    "count_parameters": [lambda widths: sum(n * m for n, m in pairwise(widths))],
    "paths": [list, lambda module: [f"{k}.{n}" for k, v in module.items() if isinstance(v, dict) for n in v]],
    "make_module": [_shared, lambda: type("Module", (), {"named": lambda self: list(vars(self).items())})],
}
