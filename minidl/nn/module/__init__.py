"""Module: a tree of layers that knows its parameters. torch's names and behaviour.

One idea a page:

- ``registration.py``: what an assignment to an attribute does; parameters, buffers and children by name
- ``tree.py``: walking the tree, paths such as ``layers.0.weight``; train, eval, requires_grad_, zero_grad
- ``hooks.py``: functions called before and after forward, and around backward
- ``calls.py``: the call, under the module's path
- ``moving.py``: dtypes and devices
- ``states.py``: state_dict and load_state_dict
- ``showing.py``: repr and summary
"""

from minidl.nn.module.calls import Calls
from minidl.nn.module.moving import Moving
from minidl.nn.module.showing import Showing
from minidl.nn.module.states import IncompatibleKeys, States

__all__ = ["Module", "IncompatibleKeys"]


class Module(Calls, Moving, States, Showing):
    """Base of all layers and models. A subclass calls ``super().__init__()``, assigns its layers, defines ``forward``.

    >>> from minidl import nn
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.fc = nn.Linear(4, 2)
    ...     def forward(self, x):
    ...         return self.fc(x).relu()
    >>> net = Net()
    >>> [(name, tuple(p.shape)) for name, p in net.named_parameters()]
    [('fc.weight', (2, 4)), ('fc.bias', (2,))]
    """
