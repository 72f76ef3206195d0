"""Which parts of which parameters belong together: the channels and neurons of a model, found by watching it run.

A *unit* is a channel of a convolution, a neuron of a dense layer, a hidden unit of a recurrent one, a head of
attention. It owns a row of the weight that makes it, an element of the bias and of the batch norm behind it, and a
column of every weight that reads it; residual sums tie units of several layers into one. None of this is read off
module types. A forward pass is watched (`minidl.autograd.Watcher`), and beside every tensor of it go two shadows of its
shape:

    tags    which unit an element belongs to, 0 for none
    zero    whether the element is known to be 0, whatever the input, from the zeros of the parameters

What moves elements moves the shadows by the very same op: reshape, permute, cat, slices, padding. Elementwise ops on
two tensors make the units that meet one. A product ends units: whatever was summed over is used up, and the rows of the
weight are new ones. An op that is not known keeps the units that enter it from being cut, and says so.

A unit can go if every product that reads it would read zeros, or has zeros to multiply it with.

    units.py      sets of units that are one, and why some must stay
    shadows.py    the two shadows, of tensors and of parameters
    moves.py      rules for ops that move, combine, pool
    products.py   rules for ops that sum over units
    watch.py      the forward pass, and what it found
"""

from minidl.compress.anatomy.watch import Structure, structure

__all__ = ["Structure", "structure"]
