"""S1-36: a file of weights that runs code when it is read.

Models are to be saved and loaded by their state_dict, which torch.save and torch.load did with pickle. A pickle is a
program: whoever wrote the file decides what is called while it is read.

Right: a format that holds numbers and names only, such as safetensors or npz without objects, and a reader that refuses
anything else.
"""

import os
import pickle
import tempfile

import minidl
from minidl import nn


class Present:
    """What an attacker puts in the file: reading it calls str.upper here, and could call anything."""

    def __reduce__(self):
        return str.upper, ("this ran while the file was read",)


def broken():
    return pickle.loads(pickle.dumps({"weight": Present()}))["weight"]


def fixed():
    layer = nn.Linear(2, 2)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "layer.safetensors")
        minidl.save(layer.state_dict(), path)
        same = bool((minidl.load(path)["weight"] == layer.weight).all())
        with open(path, "wb") as file:
            file.write(pickle.dumps({"weight": Present()}))
        try:
            minidl.load(path)
        except ValueError as error:
            return same, type(error).__name__
    return same, "it was read"


def check(broken, fixed):
    assert broken == "THIS RAN WHILE THE FILE WAS READ"
    assert fixed[0] is True
    assert fixed[1] != "it was read"


if __name__ == "__main__":
    from clinic import show

    show(globals())
