"""Recurrent layers and cells: RNN, LSTM, GRU. torch's names, parameters, defaults and errors.

A layer makes the products of all its inputs with W_ih at once and leaves the recurrence to one op for the whole
sequence: see minidl/ops/recurrent.py, which also has the sources. Sequences of different lengths come packed
(nn.utils.rnn): no step is spent on padding.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

from minidl import devices
from minidl.autograd import ShapeError
from minidl.nn import init
from minidl.nn.module import Module
from minidl.nn.parameter import Parameter
from minidl.nn.utils.rnn import PackedSequence, _integers
from minidl.ops import hints
from minidl.ops.axes import transpose
from minidl.ops.create import empty
from minidl.ops.dropout import dropout
from minidl.ops.indexing import getitem
from minidl.ops.joining import cat, stack
from minidl.ops.linalg import linear
from minidl.ops.projected_lstm import projected_lstm_scan
from minidl.ops.recurrent import gru_scan, lstm_scan, rnn_scan
from minidl.ops.shapes import reshape
from minidl.tensors import wrap

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNBase", "RNNCell", "RNNCellBase"]

_GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}


def _scan(
    mode: str, x: Any, states: tuple, weights: tuple, sizes: list[int], reverse: bool = False
) -> tuple[Any, tuple]:
    """One layer in one direction. x (L, I), states of (B, H) -> every h_t (L, H), the last states. A fifth weight is
    the projection of an LSTM's output.
    """
    w_ih, w_hh, b_ih, b_hh, *w_hr = weights
    if mode == "GRU":  # its b_hh stands inside the brackets that r multiplies
        y, *last = gru_scan(linear(x, w_ih, b_ih), *states, w_hh, b_hh, sizes, reverse)
        return y, tuple(last)
    gx = linear(x, w_ih, None if b_ih is None else b_ih + b_hh)
    if w_hr:
        y, *last = projected_lstm_scan(gx, *states, w_hh, *w_hr, sizes, reverse)
    elif mode == "LSTM":
        y, *last = lstm_scan(gx, *states, w_hh, sizes, reverse)
    else:
        y, *last = rnn_scan(gx, *states, w_hh, sizes, reverse, "tanh" if mode == "RNN_TANH" else "relu")
    return y, tuple(last)


def _reset(module: Module, hidden_size: int) -> None:
    bound = 1 / math.sqrt(hidden_size) if hidden_size > 0 else 0
    for p in module.parameters():
        init.uniform_(p, -bound, bound)


def _zeros(x: Any, *shape: int) -> Any:
    return wrap(devices.array_module(x.array).zeros(shape, x.array.dtype))


class RNNBase(Module):
    """What RNN, LSTM and GRU share.

    Layer k has weight_ih_l{k} (G H, I), weight_hh_l{k} (G H, H), bias_ih_l{k} and bias_hh_l{k} (G H,), G being the
    number of gates, and the same with ``_reverse`` for the backward direction; all start uniform on +-1 / sqrt(H). From
    the second layer on, I is H times the number of directions. With `proj_size` P > 0 weight_hh is (G H, P), there is a
    weight_hr_l{k} (P, H), and P stands for H in outputs, in h and in I.
    """

    def __init__(
        self, mode: str, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0,
        device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        if mode not in _GATES:
            raise ValueError(f"Unrecognized RNN mode: {mode}")
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout <= 1:
            raise ValueError(
                "dropout should be a number in range [0, 1] representing the probability of an element being zeroed"
            )
        for name, size in (("hidden_size", hidden_size), ("input_size", input_size), ("num_layers", num_layers)):
            if not isinstance(size, int) or isinstance(size, bool):
                raise TypeError(f"{name} should be of type int, got: {type(size).__name__}")
            if size <= 0:
                raise ValueError(f"{name} must be greater than zero")
        for name, flag in (("bias", bias), ("batch_first", batch_first)):
            if not isinstance(flag, bool):
                raise TypeError(f"{name} should be of type bool, got: {type(flag).__name__}")
        if proj_size < 0:
            raise ValueError("proj_size should be a positive integer or zero to disable projections")
        if proj_size >= hidden_size:
            raise ValueError("proj_size has to be smaller than hidden_size")
        if proj_size and mode != "LSTM":
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
                f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}",
                stacklevel=3,
            )
        self.mode, self.input_size, self.hidden_size, self.num_layers = mode, input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.proj_size = bidirectional, proj_size
        rows, directions = _GATES[mode] * hidden_size, 2 if bidirectional else 1
        size = proj_size or hidden_size  # of h
        self._suffixes = [
            f"_l{layer}{direction}" for layer in range(num_layers) for direction in ("", "_reverse")[:directions]
        ]
        for k, suffix in enumerate(self._suffixes):
            features = input_size if k < directions else size * directions
            setattr(self, f"weight_ih{suffix}", Parameter(empty(rows, features, device=device, dtype=dtype)))
            setattr(self, f"weight_hh{suffix}", Parameter(empty(rows, size, device=device, dtype=dtype)))
            if bias:
                for name in ("bias_ih", "bias_hh"):
                    setattr(self, name + suffix, Parameter(empty(rows, device=device, dtype=dtype)))
            if proj_size:
                setattr(
                    self, f"weight_hr{suffix}", Parameter(empty(proj_size, hidden_size, device=device, dtype=dtype))
                )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw initial values again: uniform on +-1 / sqrt(hidden_size)."""
        _reset(self, self.hidden_size)

    def flatten_parameters(self) -> None:
        """Nothing: torch's way to lay weights out for cuDNN."""

    @property
    def all_weights(self) -> list[list[Any]]:
        """For each layer and direction its weights and biases."""
        names = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if self.bias else ()))
        names += ("weight_hr",) if self.proj_size else ()
        return [[getattr(self, name + suffix) for name in names] for suffix in self._suffixes]

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """(outputs of the last layer at every step, last states of all layers).

        input: (T, B, I), with `batch_first` (B, T, I), without a batch (T, I), or a PackedSequence. hx: the initial
        state (layers * directions, B, H), zeros unless given; without a batch (layers * directions, H); for an LSTM the
        pair (h, c). The outputs are (T, B, H * directions) in the layout of the input, or packed as it is; the states
        are laid out as hx. Raises ValueError for inputs of another rank or dtype, RuntimeError for other sizes.
        """
        packed = input if isinstance(input, PackedSequence) else None
        pair = self.mode == "LSTM"
        name = type(self).__name__
        batched = True
        if packed is not None:
            x, sizes = packed.data, _integers(packed.batch_sizes).tolist()
            self._check_input(x, 2)
        else:
            x = input
            if x.ndim not in (2, 3):
                raise ValueError(f"{name}: Expected input to be 2D or 3D, got {x.ndim}D instead")
            batched = x.ndim == 3
            self._check_input(x, x.ndim)
            x = x.unsqueeze(1) if not batched else transpose(x, 0, 1) if self.batch_first else x
            time, batch = x.shape[:2]
            if time == 0:
                raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
            sizes = [batch] * time
            x = reshape(x, (time * batch, x.shape[2]))
        features = (self.proj_size or self.hidden_size, self.hidden_size)[: 2 if pair else 1]  # of h, and of c
        count = len(self._suffixes)
        if hx is None:
            layers = [tuple(_zeros(x, sizes[0], n) for n in features)] * count
        else:
            states = self._states(hx, pair, batched, [(count, sizes[0], n) for n in features], x)
            if packed is not None and packed.sorted_indices is not None:
                order = _integers(packed.sorted_indices)
                states = tuple(getitem(h, (slice(None), order)) for h in states)
            layers = list(zip(*states, strict=True))
        x, last = self._layers(x, layers, sizes)
        if packed is not None:
            if packed.unsorted_indices is not None:
                back = _integers(packed.unsorted_indices)
                last = tuple(getitem(h, (slice(None), back)) for h in last)
            return PackedSequence(x, *packed[1:]), last if pair else last[0]
        if not batched:
            last = tuple(h[:, 0] for h in last)
        else:
            x = reshape(x, (time, batch, x.shape[1]))
            x = transpose(x, 0, 1) if self.batch_first else x
        return x, last if pair else last[0]

    def _layers(self, x: Any, layers: list[tuple], sizes: list[int]) -> tuple[Any, tuple]:
        """All layers over packed rows x (L, I), from the states of each; the last states, stacked."""
        directions = 2 if self.bidirectional else 1
        finals = []
        weights = [tuple(w) if self.bias else (*w[:2], None, None, *w[2:]) for w in self.all_weights]
        for k in range(0, len(layers), directions):
            if k:
                x = dropout(x, self.dropout, self.training)
            ys = []
            for d in range(directions):
                y, last = _scan(self.mode, x, layers[k + d], weights[k + d], sizes, reverse=d == 1)
                ys.append(y)
                finals.append(last)
            x = ys[0] if directions == 1 else cat(ys, -1)
        return x, tuple(stack(h, 0) for h in zip(*finals, strict=True))

    def _check_input(self, x: Any, ndim: int) -> None:
        weight = self.weight_hh_l0
        if not getattr(weight, "packed", False) and x.dtype != weight.dtype:
            raise ValueError(
                f"RNN input dtype ({x.dtype}) does not match weight dtype ({weight.dtype}). Convert input: "
                f"input.to({weight.dtype}), or convert model: model.to({x.dtype})"
            )
        if x.ndim != ndim:
            raise RuntimeError(f"input must have {ndim} dimensions, got {x.ndim}")
        if x.shape[-1] != self.input_size:
            raise ShapeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {x.shape[-1]}: the input "
                f"is {tuple(x.shape)}; {hints.features(x.shape, (self.input_size,))}"
            )

    def _states(self, hx: Any, pair: bool, batched: bool, wanted: list[tuple], x: Any) -> tuple:
        """hx as a tuple of (layers * directions, B, H)."""
        if pair and not (isinstance(hx, (tuple, list)) and len(hx) == 2):
            raise TypeError(
                f"LSTM: hx must be the pair (h, c), got {type(hx).__name__}; call lstm(x, (h, c)), and take both back: "
                "y, (h, c) = ..."
            )
        states = tuple(hx) if pair else (hx,)
        for h, what, shape in zip(states, ("hidden", "cell"), wanted, strict=False):
            if h.ndim != (3 if batched else 2):
                kind = "batched 3-D" if batched else "unbatched 2-D"
                raise RuntimeError(
                    f"For {kind} input, hx should also be {3 if batched else 2}-D but got {h.ndim}-D tensor"
                )
            have = tuple(h.shape) if batched else (h.shape[0], 1, h.shape[1])
            if have != shape:
                time = x.shape[0] // shape[1] if shape[1] else 0
                hint = hints.state(have, shape, time, self.batch_first)
                raise ShapeError(f"Expected {what} size {shape}, got {list(h.shape)}; {hint}")
            if h.dtype != x.dtype:
                raise RuntimeError(f"the {what} state is {h.dtype} and the input {x.dtype}: they must have one dtype")
        return states if batched else tuple(h.unsqueeze(1) for h in states)

    def extra_repr(self) -> str:
        s = f"{self.input_size}, {self.hidden_size}"
        for name, default in (
            ("proj_size", 0), ("num_layers", 1), ("bias", True), ("batch_first", False), ("dropout", 0),
            ("bidirectional", False),
        ):  # fmt: skip
            value = getattr(self, name)
            s += "" if value == default else f", {name}={value}"
        return s


class RNN(RNNBase):
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh), or relu by `nonlinearity`, `num_layers` deep (Elman 1990).

    Args:
        batch_first: inputs and outputs are (B, T, ...) in place of (T, B, ...); states are (layers, B, H) either way.
        dropout: probability of dropout on the outputs of each layer but the last, in training.
        bidirectional: a second set of weights goes from the last step to the first; outputs stand side by side.

    >>> import minidl
    >>> y, h = RNN(3, 5, num_layers=2)(minidl.zeros(7, 4, 3))
    >>> tuple(y.shape), tuple(h.shape)
    ((7, 4, 5), (2, 4, 5))

    Try: RNN(3, 4)(randn(5, 2, 3))
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, device: Any = None,
        dtype: Any = None,
    ):  # fmt: skip
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        super().__init__(
            f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, 0, device, dtype,
        )  # fmt: skip
        self.nonlinearity = nonlinearity


class LSTM(RNNBase):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, doi 10.1162/neco.1997.9.8.1735; with Gers et al.'s forget
    gate, 2000). Arguments as RNN.

        i, f, o = sigmoid(W_ii x + W_hi h + b), ... ;    g = tanh(W_ig x + W_hg h + b)
        c' = f c + i g;    h' = o tanh(c')

    The weights hold the gates in the order i, f, g, o. The state is the pair (h, c). With `proj_size` P > 0
    h' = W_hr (o tanh c') has P < H numbers (Sak et al. 2014, arXiv:1402.1128). ValueError for a P that is not less.

    >>> import minidl
    >>> y, (h, c) = LSTM(3, 5, bidirectional=True)(minidl.zeros(7, 4, 3))
    >>> tuple(y.shape), tuple(c.shape)
    ((7, 4, 10), (2, 4, 5))

    Try: LSTM(3, 4)(randn(5, 2, 3))
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device,
            dtype,
        )  # fmt: skip


class GRU(RNNBase):
    """Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078), in torch's variant. Arguments as RNN.

        r, z = sigmoid(W_ir x + b_ir + W_hr h + b_hr), ... ;    n = tanh(W_in x + b_in + r (W_hn h + b_hn))
        h' = (1 - z) n + z h

    Cho et al. multiply h by r before the product with W_hn; here r comes after it, so that all products with h are one.
    The weights hold the gates in the order r, z, n.

    >>> import minidl
    >>> y, h = GRU(3, 5, batch_first=True)(minidl.zeros(4, 7, 3))
    >>> tuple(y.shape), tuple(h.shape)
    ((4, 7, 5), (1, 4, 5))

    Try: GRU(3, 4)(randn(5, 2, 3))
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype
        )


class RNNCellBase(Module):
    """What the cells share: weight_ih (G H, I), weight_hh (G H, H), bias_ih and bias_hh (G H,), G gates."""

    mode = ""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, num_chunks: int, device: Any = None, dtype: Any = None
    ):
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        rows = num_chunks * hidden_size
        self.weight_ih = Parameter(empty(rows, input_size, device=device, dtype=dtype))
        self.weight_hh = Parameter(empty(rows, hidden_size, device=device, dtype=dtype))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, Parameter(empty(rows, device=device, dtype=dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw initial values again: uniform on +-1 / sqrt(hidden_size)."""
        _reset(self, self.hidden_size)

    def _step(self, x: Any, hx: Any, count: int) -> tuple:
        """The new states after one step from x (B, I) or (I,)."""
        name = type(self).__name__
        if x.ndim not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {x.ndim}D instead")
        batched = x.ndim == 2
        x = x if batched else x.unsqueeze(0)
        if x.shape[1] != self.input_size:
            raise ShapeError(f"{name}: the input has {x.shape[1]} features, input_size is {self.input_size}")
        if hx is None:
            states = (_zeros(x, x.shape[0], self.hidden_size),) * count
        else:
            states = tuple(hx) if count == 2 else (hx,)
            for h in states:
                if h.ndim not in (1, 2):
                    raise ValueError(f"{name}: Expected hidden to be 1D or 2D, got {h.ndim}D instead")
            states = states if batched else tuple(h.unsqueeze(0) for h in states)
            for h in states:
                if tuple(h.shape) != (x.shape[0], self.hidden_size):
                    raise ShapeError(
                        f"{name}: the state has shape {tuple(h.shape)}, expected {(x.shape[0], self.hidden_size)}"
                    )
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        _, states = _scan(self.mode, x, states, weights, [x.shape[0]])
        return states if batched else tuple(h[0] for h in states)

    def extra_repr(self) -> str:
        s = f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else f", bias={self.bias}")
        nonlinearity = getattr(self, "nonlinearity", "tanh")
        return s if nonlinearity == "tanh" else f"{s}, nonlinearity={nonlinearity}"


class RNNCell(RNNCellBase):
    """One step of RNN: h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu.    x (B, I) or (I,), h (B, H) or (H,)

    Try: RNNCell(3, 4)(randn(2, 3))
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", device: Any = None,
        dtype: Any = None,
    ):  # fmt: skip
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity, self.mode = nonlinearity, f"RNN_{nonlinearity.upper()}"

    def forward(self, input: Any, hx: Any = None) -> Any:
        """The new state h'; zeros before, unless hx is given."""
        return self._step(input, hx, 1)[0]


class LSTMCell(RNNCellBase):
    """One step of LSTM.    x (B, I) or (I,), (h, c) of (B, H) or (H,) -> (h', c')

    Try: LSTMCell(3, 4)(randn(2, 3))
    """

    mode = "LSTM"

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None):
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """The new states (h', c'); zeros before, unless hx = (h, c) is given."""
        if hx is not None and not (isinstance(hx, (tuple, list)) and len(hx) == 2):
            raise TypeError(f"LSTMCell: hx must be the pair (h, c), got {type(hx).__name__}")
        h, c = self._step(input, hx, 2)
        return h, c


class GRUCell(RNNCellBase):
    """One step of GRU.    x (B, I) or (I,), h (B, H) or (H,) -> h'

    Try: GRUCell(3, 4)(randn(2, 3))
    """

    mode = "GRU"

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None):
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Any, hx: Any = None) -> Any:
        """The new state h'; zeros before, unless hx is given."""
        return self._step(input, hx, 1)[0]
