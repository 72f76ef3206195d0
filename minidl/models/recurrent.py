"""Recurrent networks: one that names the class of a sequence, one that foretells the next value of a series."""

from __future__ import annotations

from typing import Any

from minidl import nn
from minidl.nn.utils.rnn import pack_padded_sequence
from minidl.ops.shapes import flatten

__all__ = ["Forecaster", "RecurrentClassifier"]


class RecurrentClassifier(nn.Module):
    """Embedding - recurrent layers - the last state - dense.    ids (N, T), lengths (N,) -> logits (N, classes)

    What lies beyond a sequence's length is never read: the batch is packed, so a padded sequence gives the logits that
    it gives alone.

    Args:
        vocab_size: how many tokens there are; 0 is padding.
        classes: number of classes.
        embed_dim, hidden: width of the embedding, and of the state in each direction.
        kind: "LSTM", "GRU" or "RNN".
        num_layers, bidirectional, dropout: as in nn.LSTM; dropout also before and after the recurrent layers.

    Raises ValueError for another kind.

    >>> import minidl
    >>> model = RecurrentClassifier(30, 8, embed_dim=16, hidden=24)
    >>> model(minidl.ones(2, 5, dtype=minidl.int64), minidl.tensor([5, 3])).shape
    minidl.Size([2, 8])
    >>> sum(p.numel() for p in model.parameters()) == 30 * 16 + 2 * 4 * 24 * (16 + 24 + 2) + 8 * (2 * 24 + 1)
    True
    """

    def __init__(
        self,
        vocab_size: int,
        classes: int,
        embed_dim: int = 64,
        hidden: int = 128,
        kind: str = "LSTM",
        num_layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        kinds = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
        if kind not in kinds:
            raise ValueError(f"RecurrentClassifier: kind must be one of {', '.join(kinds)}, got {kind!r}")
        self.embedding = nn.Embedding(vocab_size, embed_dim, padding_idx=0)
        self.rnn = kinds[kind](
            embed_dim, hidden, num_layers, batch_first=True, bidirectional=bidirectional,
            dropout=dropout if num_layers > 1 else 0.0,
        )  # fmt: skip
        self.drop = nn.Dropout(dropout)
        self.ways = 2 if bidirectional else 1
        self.fc = nn.Linear(self.ways * hidden, classes)

    def forward(self, ids: Any, lengths: Any) -> Any:
        x = self.drop(self.embedding(ids))  # N, T, E
        _, h = self.rnn(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        h = h[0] if isinstance(h, tuple) else h  # an LSTM has (h, c); layers * ways, N, H
        h = flatten(h[-self.ways :].transpose(0, 1), 1)  # N, ways * H
        return self.fc(self.drop(h))


class Forecaster(nn.Module):
    """LSTM - dense on the last state: the value after a window of values.    x (N, T, features) -> (N, features)

    With the default sizes 10,651 parameters: the 10,451 that Keras counts, and 200 because torch's LSTM has two biases
    for each of its four gates.

    >>> import minidl
    >>> sum(p.numel() for p in Forecaster().parameters()), Forecaster()(minidl.zeros(7, 22, 1)).shape
    (10651, minidl.Size([7, 1]))
    """

    def __init__(self, features: int = 1, hidden: int = 50) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, features)

    def forward(self, x: Any) -> Any:
        y, _ = self.lstm(x)  # N, T, H
        return self.fc(y[:, -1])
