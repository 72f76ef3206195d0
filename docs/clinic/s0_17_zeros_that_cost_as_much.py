"""A pruned model that is neither smaller nor faster.

The text says that pruning makes a network smaller and faster. A mask beside a dense weight makes it larger (the mask)
and slower (one more product); zeros written into the weight change nothing, for a dense kernel multiplies them like
any other number and a file holds them like any other number.

Right: store what is left. `save_model` gives a zero one bit; `pack_` stores sparse rows where that is measured to be
faster, and says so where it is not; `slim` removes whole channels, which is faster everywhere. Whether it is faster is
measured, not claimed.
"""

import os
import tempfile

import minidl
from minidl import nn
from minidl.compress import pack_, packing, prune_, prune_channels_, save_model, slim


def net():
    minidl.manual_seed(0)
    return nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512))


def in_memory(model):
    return sum(p.array.nbytes for p in model.parameters())


def on_disk(model):
    with tempfile.TemporaryDirectory() as folder:
        return save_model(model, os.path.join(folder, "net.safetensors"))


def broken():
    model = prune_(net(), 0.9)  # the zeros are there, and so are all the bytes
    return {"bytes dense": in_memory(net()), "bytes pruned": in_memory(model)}


def fixed():
    sparse, x = prune_(net(), 0.9), minidl.randn(1, 512)
    choices = packing(sparse, batch=64)
    thin = slim(prune_channels_(net(), 0.5, x), x)
    return {
        "bytes on disk, dense": on_disk(net()),
        "bytes on disk, pruned": on_disk(sparse),
        "bytes in memory": in_memory(pack_(sparse, choices)),
        "packed": [c.packed for c in choices],
        "why": [c.why for c in choices],
        "bytes of the slim one": in_memory(thin),
    }


def check(broken, fixed):
    assert broken["bytes pruned"] == broken["bytes dense"]
    assert fixed["bytes on disk, pruned"] < 0.2 * fixed["bytes on disk, dense"]
    if all(fixed["packed"]):  # as measured here and now
        assert fixed["bytes in memory"] < 0.2 * broken["bytes dense"]
    assert all("times the speed" in why for why in fixed["why"])
    assert fixed["bytes of the slim one"] < 0.55 * broken["bytes dense"]


if __name__ == "__main__":
    from clinic import show

    show(globals())
