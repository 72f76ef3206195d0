"""GPT: a decoder alone, that foretells the next token from those before; Radford et al. 2018, 2019 (GPT-2).

x   = embedding[ids] (+ position)                     N, T, E
x   = x + attention(norm(x));  x = x + mlp(norm(x))   in each block; a token sees itself and those before
p(token t + 1 | tokens 0 ... t) = softmax(norm(x)[t] embedding^T)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import nn, random
from minidl.autograd import no_grad
from minidl.nn.causal import KVCache
from minidl.tensors import wrap

__all__ = ["GPT", "GPTBlock", "sample"]


class GPTBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); the mlp is four times as wide, with GELU.    N, T, E -> N, T, E"""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0, rotary: Any = None) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim)
        self.attn = nn.CausalSelfAttention(dim, heads, dropout=dropout, rotary=rotary)
        self.ln_2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU("tanh"), nn.Linear(4 * dim, dim))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Any, cache: KVCache | None = None) -> Any:
        x = x + self.drop(self.attn(self.ln_1(x), cache))
        return x + self.drop(self.mlp(self.ln_2(x)))


class GPT(nn.Module):
    """Token ids (N, T) -> logits of the next token (N, T, vocab_size).

    Args:
        vocab_size: number of tokens.
        context: the most tokens that it sees; with rotary positions only `generate` keeps to it.
        dim, heads, layers: width, attention heads, blocks.
        dropout: in training, on embeddings, attention weights and what each half of a block adds.
        positions: "learned", a vector for each place that is added (GPT-2), or "rotary", by which queries and keys are
            turned (Su et al. 2021, arXiv:2104.09864).

    The output layer is the embedding, transposed. Weights start normal with deviation 0.02, those that write into the
    residual stream with 0.02 / sqrt(2 layers), as in GPT-2. GPT-2's smallest is GPT(50257, 1024, 768, 12, 12):
    124,439,808 parameters.

    Raises ValueError for other positions.

    >>> import minidl
    >>> model = GPT(65, context=32, dim=16, heads=2, layers=2).eval()
    >>> model(minidl.zeros(3, 10, dtype=minidl.int64)).shape
    minidl.Size([3, 10, 65])
    >>> model.generate([1, 2, 3], 4, temperature=0).shape
    (4,)
    """

    def __init__(
        self, vocab_size: int, context: int = 128, dim: int = 128, heads: int = 4, layers: int = 4,
        dropout: float = 0.0, positions: str = "learned",
    ) -> None:  # fmt: skip
        super().__init__()
        if positions not in ("learned", "rotary"):
            raise ValueError(f"GPT: positions must be 'learned' or 'rotary', got {positions!r}")
        self.context = context
        self.wte = nn.Embedding(vocab_size, dim)
        self.wpe = nn.LearnedPositions(context, dim) if positions == "learned" else None
        rotary = nn.RotaryPositions(dim // heads) if positions == "rotary" else None
        self.drop = nn.Dropout(dropout)
        self.h = nn.ModuleList([GPTBlock(dim, heads, dropout, rotary) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(dim)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                into = name.endswith(("out_proj.weight", "mlp.2.weight"))
                nn.init.normal_(p, 0.0, 0.02 / math.sqrt(2 * layers) if into else 0.02)

    def features(self, ids: Any, caches: list[KVCache] | None = None) -> Any:
        """What the output layer reads.    N, T -> N, T, E.  With caches, ids are the tokens after those seen so far."""
        x = self.wte(ids)
        if self.wpe is not None:
            x = self.wpe(x, len(caches[0]) if caches else 0)
        x = self.drop(x)
        for i, block in enumerate(self.h):
            x = block(x, caches[i] if caches else None)
        return self.ln_f(x)

    def forward(self, ids: Any, caches: list[KVCache] | None = None) -> Any:
        return nn.functional.linear(self.features(ids, caches), self.wte.weight)

    def generate(
        self, ids: Any, count: int, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None,
        generator: random.Generator | None = None, cache: bool = True,
    ) -> np.ndarray:  # fmt: skip
        """The `count` tokens that follow the tokens `ids`, each drawn by `sample`.    (T,) -> (count,) int64

        The model should be in evaluation mode. The keys and values of tokens seen are kept (`cache`), so a step costs
        one token's work, until the context is full; from then on the latest half of it is read anew. Without the cache
        every step reads the whole context; the tokens are the same but for rounding.

        Raises ValueError for no tokens at all.
        """
        seen = [int(i) for i in ids]
        if not seen:
            raise ValueError("GPT.generate: give at least one token to begin with")
        start = len(seen)
        caches: list[KVCache] | None = None
        first = max(0, start - self.context)  # the first token that the caches hold
        with no_grad():
            for _ in range(count):
                if len(seen) - first > self.context:
                    first, caches = len(seen) - self.context // 2, None
                if cache and caches is not None:
                    new = seen[-1:]
                else:
                    new = seen[first:]
                    caches = [KVCache(self.context) for _ in self.h] if cache else None
                logits = self(wrap(np.array([new], np.int64)), caches)[0, -1]
                seen.append(sample(logits.array, temperature, top_k, top_p, generator))
        return np.array(seen[start:], np.int64)


def sample(
    logits: np.ndarray, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None,
    generator: random.Generator | None = None,
) -> int:  # fmt: skip
    """A token drawn from softmax(logits / temperature), of the likeliest ones only if asked for.    (V,)

    Args:
        temperature: below 1 favours the likely ones; 0 takes the likeliest.
        top_k: of the k likeliest (Fan et al. 2018, arXiv:1805.04833).
        top_p: of the fewest that together have probability top_p (nucleus; Holtzman et al. 2020, arXiv:1904.09751).
        generator: what to draw from; by default minidl's.

    Raises ValueError for a negative temperature, top_k below 1, top_p outside 0 < top_p <= 1.

    >>> sample(np.array([0.0, 3.0, 1.0]), temperature=0), sample(np.array([0.0, 3.0, 1.0]), top_k=1)
    (1, 1)
    """
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"sample: temperature {temperature}, top_k {top_k}, top_p {top_p} is no way to draw")
    if temperature == 0:
        return int(np.argmax(logits))
    order = np.argsort(-logits, kind="stable")  # likeliest first
    z = logits[order].astype(np.float64) / temperature
    p = np.exp(z - z[0])
    p = p[:top_k] / p[:top_k].sum()
    if top_p is not None:
        keep = int(np.searchsorted(np.cumsum(p), top_p * (1 - 1e-12))) + 1
        p = p[:keep] / p[:keep].sum()
    u = float((generator or random.default_generator).uniform((1,), dtype=np.float64)[0])
    return int(order[min(int(np.searchsorted(np.cumsum(p), u, side="right")), len(p) - 1)])
