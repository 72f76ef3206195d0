"""Causal self-attention for language models, with a cache of keys and values for decoding token by token."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices
from minidl.autograd import require
from minidl.nn import functional as F
from minidl.nn import init
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.nn.parameter import Parameter
from minidl.nn.positions import RotaryPositions
from minidl.ops.axes import transpose
from minidl.ops.create import empty
from minidl.ops.linalg import linear
from minidl.ops.shapes import reshape, unflatten
from minidl.tensors import wrap

__all__ = ["CausalSelfAttention", "KVCache"]


class KVCache:
    """Keys and values (B, G, S, D) of the tokens seen so far, for one attention layer.

    The memory is made in advance and doubled when it is full, so a new token costs a copy of its own row only. It holds
    plain arrays: for inference, under no_grad.

    >>> import minidl
    >>> layer, cache = CausalSelfAttention(8, 2).eval(), KVCache()
    >>> with minidl.no_grad():
    ...     for _ in range(3):
    ...         y = layer(minidl.zeros(1, 1, 8), cache)
    >>> len(cache)
    3
    """

    def __init__(self, capacity: int = 64):
        self.capacity = max(int(capacity), 1)
        self.reset()

    def reset(self) -> None:
        """Forget all tokens."""
        self._k: Any = None
        self._v: Any = None
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        """Bytes of memory it holds, the unused rows included."""
        return 0 if self._k is None else self._k.nbytes + self._v.nbytes

    def append(self, k: Any, v: Any) -> tuple[Any, Any]:
        """Add keys and values (B, G, T, D) of new tokens; returns those of all tokens, (B, G, S, D), as views.

        Raises RuntimeError for tensors that want gradients, ShapeError for another batch, number of heads or size.
        """
        if k.requires_grad or v.requires_grad:
            raise RuntimeError("KVCache: gradients do not pass through the cache; decode under minidl.no_grad()")
        k, v = k.array, v.array
        end = self._length + k.shape[2]
        if self._k is not None:
            require(
                k.shape[:2] == self._k.shape[:2] and k.shape[3] == self._k.shape[3],
                "KVCache: new keys {} do not fit the {} of before; reset() it for a new batch",
                k.shape, (*self._k.shape[:2], self._length, self._k.shape[3]),
            )  # fmt: skip
        if self._k is None or end > self._k.shape[2]:
            rows = max(self.capacity, end if self._k is None else max(end, 2 * self._k.shape[2]))
            self._k, self._v = self._grown(self._k, k, rows), self._grown(self._v, v, rows)
        self._k[:, :, self._length : end] = k
        self._v[:, :, self._length : end] = v
        self._length = end
        return wrap(self._k[:, :, :end]), wrap(self._v[:, :, :end])

    def _grown(self, old: Any, like: Any, rows: int) -> Any:
        new = devices.array_module(like).empty((*like.shape[:2], rows, like.shape[3]), like.dtype)
        if old is not None:
            new[:, :, : self._length] = old[:, :, : self._length]
        return new

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens. Raises ValueError when there are fewer."""
        if not 0 <= length <= self._length:
            raise ValueError(f"KVCache: cannot keep {length} tokens of {self._length}")
        self._length = length

    def select(self, rows: Any) -> None:
        """Keep these rows of the batch, in this order, repeated if named twice: beam search, finished sequences."""
        if self._k is not None:
            rows = rows.array if hasattr(rows, "array") else np.asarray(rows, np.int64)
            self._k, self._v = self._k[rows], self._v[rows]


class CausalSelfAttention(Module):
    """Self-attention in which a token sees itself and those before.    x (B, T, E) or (T, E) -> the same shape

    Args:
        num_kv_heads: heads of keys and values, each for a group of query heads (Ainslie et al. 2023, arXiv:2305.13245);
            num_heads unless given.
        dropout: probability with which attention weights are dropped in training.
        rotary: a RotaryPositions for the heads, applied to queries and keys.

    in_proj_weight holds the rows of q, k and v, in this order: (3 E, E) without groups, and then parameters and results
    are those of MultiheadAttention with a causal mask. Raises ValueError when heads do not divide.

    Try: CausalSelfAttention(8, 2)(randn(1, 3, 8))
    """

    in_proj_bias: Any

    def __init__(
        self, embed_dim: int, num_heads: int, num_kv_heads: int | None = None, dropout: float = 0.0, bias: bool = True,
        rotary: RotaryPositions | None = None, device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        groups = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads <= 0 or embed_dim % num_heads:
            raise ValueError(f"embed_dim ({embed_dim}) must be divisible by num_heads ({num_heads})")
        if groups <= 0 or num_heads % groups:
            raise ValueError(f"num_heads ({num_heads}) must be divisible by num_kv_heads ({groups})")
        self.embed_dim, self.num_heads, self.num_kv_heads = embed_dim, num_heads, groups
        self.head_dim, self.dropout = embed_dim // num_heads, dropout
        if rotary is not None and rotary.dim != self.head_dim:
            raise ValueError(f"the heads have {self.head_dim} numbers, the rotary positions turn {rotary.dim}")
        self.rotary: Any = rotary
        rows = (num_heads + 2 * groups) * self.head_dim
        self.in_proj_weight = Parameter(empty(rows, embed_dim, device=device, dtype=dtype))
        self.register_parameter("in_proj_bias", Parameter(empty(rows, device=device, dtype=dtype)) if bias else None)
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw initial values again: xavier_uniform weights, zero biases, as MultiheadAttention."""
        init.xavier_uniform_(self.in_proj_weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)

    def forward(self, x: Any, cache: KVCache | None = None) -> Any:
        """The same shape. With a cache, x holds the tokens after those that the cache has seen, one or more."""
        require(
            x.ndim in (2, 3) and x.shape[-1] == self.embed_dim,
            "x must be (B, T, {}) or (T, {}), got {}", self.embed_dim, self.embed_dim, tuple(x.shape),
        )  # fmt: skip
        if x.ndim == 2:
            return self.forward(x.unsqueeze(0), cache)[0]
        batch, time, _ = x.shape
        past = 0 if cache is None else len(cache)
        groups, heads = self.num_kv_heads, self.num_heads
        qkv = unflatten(linear(x, self.in_proj_weight, self.in_proj_bias), -1, (heads + 2 * groups, self.head_dim))
        qkv = transpose(qkv, 1, 2)  # B, H + 2 G, T, D
        q, k, v = qkv[:, :heads], qkv[:, heads : heads + groups], qkv[:, heads + groups :]
        if self.rotary is not None:
            q, k = self.rotary(q, past), self.rotary(k, past)
        if cache is not None:
            k, v = cache.append(k, v)
        # The kernel's causal mask starts at row 0, column 0; after `past` tokens it is shifted.
        mask = wrap(devices.move(np.tri(time, past + time, past, dtype=bool), x.device)) if past and time > 1 else None
        p = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, mask, p, is_causal=not past, enable_gqa=groups != heads)
        return self.out_proj(reshape(transpose(y, 1, 2), (batch, time, self.embed_dim)))

    def extra_repr(self) -> str:
        groups = "" if self.num_kv_heads == self.num_heads else f", num_kv_heads={self.num_kv_heads}"
        return f"{self.embed_dim}, {self.num_heads}{groups}"
