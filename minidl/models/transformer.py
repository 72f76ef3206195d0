"""Transformers on tokens: encoder and decoder for translation, an encoder alone for classes; after Vaswani et al. 2017.

Tokens are numbers (N, T), 0 is padding. Masks as in torch's layers: bool, True hides.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import nn
from minidl.autograd import no_grad
from minidl.ops.joining import cat
from minidl.tensors import Tensor, wrap

__all__ = ["TextClassifier", "Translator"]

PAD = 0


class TextClassifier(nn.Module):
    """Embedding + positions - encoder layers - mean over the tokens - dense.    ids (N, T) -> logits (N, classes)

    Padding is hidden from the attention and left out of the mean: a padded text gives the logits that it gives alone.

    Args: vocab_size; classes; dim: width; heads: of each attention; layers; hidden: of the feed-forward networks, 4 dim
    unless given; dropout.

    >>> import minidl
    >>> model = TextClassifier(100, 3, dim=16, heads=2, layers=2)
    >>> model(minidl.ones(5, 7, dtype=minidl.int64)).shape
    minidl.Size([5, 3])
    """

    def __init__(
        self, vocab_size: int, classes: int, dim: int = 64, heads: int = 4, layers: int = 2, hidden: int | None = None,
        dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, dim, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, 0.0, dim**-0.5)  # times sqrt(dim) as large as the positions
        self.positions = nn.SinusoidalPositions(dim)
        self.drop = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(dim, heads, hidden or 4 * dim, dropout, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(dim))
        self.fc = nn.Linear(dim, classes)
        _draw_again(self.encoder)

    def forward(self, ids: Any) -> Any:
        hidden = ids == PAD  # N, T
        x = self.drop(self.positions(self.embedding(ids) * math.sqrt(self.embedding.embedding_dim)))
        x = self.encoder(x, src_key_padding_mask=hidden)  # N, T, E
        real = (~hidden).to(x.dtype).unsqueeze(-1)
        return self.fc((x * real).sum(1) / real.sum(1).clamp(min=1))


class Translator(nn.Module):
    """Encoder and decoder, one vocabulary for both sides; the output layer is the embedding, transposed (section 3.4).

        source (N, S), target (N, T) -> logits (N, T, vocab_size): row t foretells token t + 1 from tokens 0 ... t

    Args: as TextClassifier's; layers: of the encoder, and of the decoder.

    >>> import minidl
    >>> model = Translator(50, dim=16, heads=2, layers=1)
    >>> model(minidl.ones(3, 7, dtype=minidl.int64), minidl.ones(3, 5, dtype=minidl.int64)).shape
    minidl.Size([3, 5, 50])
    """

    def __init__(
        self, vocab_size: int, dim: int = 128, heads: int = 4, layers: int = 2, hidden: int | None = None,
        dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, dim, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, 0.0, dim**-0.5)  # so that both its uses start with deviation 1
        self.positions = nn.SinusoidalPositions(dim)
        self.drop = nn.Dropout(dropout)
        self.transformer = nn.Transformer(
            dim, heads, layers, layers, hidden or 4 * dim, dropout, batch_first=True, norm_first=True
        )
        _draw_again(self.transformer)

    def _embed(self, ids: Any) -> Any:
        return self.drop(self.positions(self.embedding(ids) * math.sqrt(self.embedding.embedding_dim)))

    def encode(self, source: Any) -> Any:
        """What the decoder attends to.    N, S -> N, S, E"""
        return self.transformer.encoder(self._embed(source), src_key_padding_mask=source == PAD)

    def decode(self, memory: Any, source: Any, target: Any) -> Any:
        """Logits of what follows each token of the target.    (N, S, E), (N, S), (N, T) -> N, T, vocab_size"""
        y = self.transformer.decoder(
            self._embed(target), memory, tgt_is_causal=True, memory_key_padding_mask=source == PAD
        )
        return nn.functional.linear(y, self.embedding.weight)

    def forward(self, source: Any, target: Any) -> Any:
        return self.decode(self.encode(source), source, target)

    def greedy(self, source: Any, start: int, end: int, max_len: int = 80) -> list[list[int]]:
        """For each source the likeliest token, again and again, until `end` or `max_len`; without start and end.

        The model should be in evaluation mode. Each step decodes the target anew.
        """
        with no_grad():
            memory = self.encode(source)
            target = np.full((source.shape[0], 1), start, np.int64)
            while target.shape[1] <= max_len and not (target == end).any(1).all():
                logits = self.decode(memory, source, wrap(target))[:, -1]
                target = np.concatenate([target, logits.array.argmax(-1)[:, None]], 1)
        return [_until(row.tolist(), end) for row in target[:, 1:]]

    def beam(
        self, source: Any, start: int, end: int, width: int = 5, max_len: int = 80, alpha: float = 1.0
    ) -> list[int]:
        """One source (S,): of the sequences found with a beam, that of the best log-probability / length^alpha.

        Each step extends `width` sequences by each token and keeps the `width` likeliest; those that reach `end` are
        set aside. With width 1 it is `greedy`. Raises ValueError for a width below 1.
        """
        if width < 1:
            raise ValueError(f"beam: width must be at least 1, got {width}")
        with no_grad():
            memory = self.encode(source.unsqueeze(0))  # 1, S, E
            beams, scores, done = np.full((1, 1), start, np.int64), np.zeros(1), []
            for length in range(1, max_len + 1):
                n = len(beams)
                logits = self.decode(cat([memory] * n), cat([source.unsqueeze(0)] * n), wrap(beams))[:, -1]
                total = scores[:, None] + logits.log_softmax(-1).array.astype(np.float64)  # n, vocab_size
                best = np.argsort(-total, axis=None, kind="stable")[:width]
                rows, tokens = np.unravel_index(best, total.shape)
                found = np.concatenate([beams[rows], tokens[:, None]], 1)
                ended = tokens == end
                done += [(s / length**alpha, row) for s, row in zip(total.flat[best[ended]], found[ended])]
                beams, scores = found[~ended], total.flat[best[~ended]]
                if not len(beams) or len(done) >= width:
                    break
            done += [(s / max_len**alpha, row) for s, row in zip(scores, beams)] if not done else []
        return _until(max(done, key=lambda one: one[0])[1][1:].tolist(), end)

    def attention(self, source: Any, target: Any) -> Tensor:
        """How much each token of the target looks at each of the source, in the last layer, the mean over its heads.

        (1, S), (1, T) -> T, S. In evaluation mode.
        """
        seen: list[Any] = []
        layer = self.transformer.decoder.layers[-1].multihead_attn
        with no_grad():
            hook = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
            try:
                self(source, target)
            finally:
                hook.remove()
            query, memory = seen[0][:2]
            return layer(query, memory, memory, source == PAD, need_weights=True)[1][0]


def _draw_again(module: nn.Module) -> None:
    """Other weights for each layer: the copies that an encoder is made of start equal."""
    for p in module.parameters():
        if p.ndim > 1:
            nn.init.xavier_uniform_(p)


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids
