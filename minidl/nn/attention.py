"""Multi-head attention and the transformer's encoder; Vaswani et al. 2017 (arXiv:1706.03762). torch's names and masks.

torch has two readings of a bool mask, and so does this page: in MultiheadAttention and the layers True *hides* a place,
in scaled_dot_product_attention True *shows* it.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import ShapeError
from minidl.nn import functional as F
from minidl.nn import init
from minidl.nn.containers import ModuleList
from minidl.nn.dropout import Dropout
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.nn.norm import LayerNorm
from minidl.nn.parameter import Parameter
from minidl.ops.attention import attention_scores
from minidl.ops.axes import transpose
from minidl.ops.create import empty
from minidl.ops.joining import cat
from minidl.ops.linalg import linear, matmul
from minidl.ops.masks import where
from minidl.ops.padding import pad
from minidl.ops.reduce import mean
from minidl.ops.shapes import reshape, unflatten
from minidl.ops.softmax import softmax
from minidl.ops.splitting import chunk
from minidl.ops.tiling import broadcast_to
from minidl.tensors import Tensor, wrap


class AttentionError(ShapeError, AssertionError):
    """Inputs, masks or sizes that do not fit together (AssertionError, as in torch)."""


class MaskTypeError(TypeError, AssertionError):
    """A mask that is neither bool nor floating point (AssertionError, as in torch)."""


class MultiheadAttention(Module):
    """softmax(q k^T / sqrt(D) + mask) v for num_heads heads of D = embed_dim / num_heads, side by side.

    query (T, B, E), key (S, B, kdim), value (S, B, vdim); with `batch_first` (B, T, E) ...; without a batch (T, E) ...

    Args:
        dropout: probability with which attention weights are dropped in training.
        bias: whether the projections have one.
        add_bias_kv: a learned key and value after the others.
        add_zero_attn: a zero key and value after the others.
        kdim, vdim: features of key and value; embed_dim unless given.

    Parameters are torch's: in_proj_weight (3 E, E), or q_proj_weight, k_proj_weight, v_proj_weight when kdim or vdim
    differ; in_proj_bias (3 E,); out_proj. Raises ValueError when the heads do not divide embed_dim.

    Try: MultiheadAttention(4, 2)(randn(3, 1, 4), randn(3, 1, 4), randn(3, 1, 4))
    """

    in_proj_weight: Any
    in_proj_bias: Any
    q_proj_weight: Any
    k_proj_weight: Any
    v_proj_weight: Any
    bias_k: Any
    bias_v: Any

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True, add_bias_kv: bool = False,
        add_zero_attn: bool = False, kdim: int | None = None, vdim: int | None = None, batch_first: bool = False,
        device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(
                f"embed_dim and num_heads must be greater than 0, got embed_dim={embed_dim} and num_heads={num_heads}"
            )
        if embed_dim % num_heads:
            near = [h for h in range(1, embed_dim + 1) if embed_dim % h == 0]
            raise AttentionError(
                f"embed_dim ({embed_dim}) must be divisible by num_heads ({num_heads}), each head takes an equal part; "
                f"these divide it: {', '.join(map(str, near[:12]))}"
            )
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.kdim, self.vdim = kdim or embed_dim, vdim or embed_dim
        self.dropout, self.batch_first, self.add_zero_attn = dropout, batch_first, add_zero_attn
        new = lambda *shape: Parameter(empty(*shape, device=device, dtype=dtype))
        same = self.kdim == self.vdim == embed_dim
        self.register_parameter("q_proj_weight", None if same else new(embed_dim, embed_dim))
        self.register_parameter("k_proj_weight", None if same else new(embed_dim, self.kdim))
        self.register_parameter("v_proj_weight", None if same else new(embed_dim, self.vdim))
        self.register_parameter("in_proj_weight", new(3 * embed_dim, embed_dim) if same else None)
        self.register_parameter("in_proj_bias", new(3 * embed_dim) if bias else None)
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, device=device, dtype=dtype)
        self.register_parameter("bias_k", new(1, 1, embed_dim) if add_bias_kv else None)
        self.register_parameter("bias_v", new(1, 1, embed_dim) if add_bias_kv else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw initial values again: xavier_uniform weights, zero biases."""
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)
        for extra in (self.bias_k, self.bias_v):
            if extra is not None:
                init.xavier_normal_(extra)

    def forward(
        self, query: Any, key: Any, value: Any, key_padding_mask: Any = None, need_weights: bool = True,
        attn_mask: Any = None, average_attn_weights: bool = True, is_causal: bool = False,
    ) -> tuple[Any, Any]:  # fmt: skip
        """(output of query's shape, attention weights or None).

        Args:
            key_padding_mask: (B, S), bool (True hides that key) or float (added to the scores).
            need_weights: also return the weights (B, T, S), the mean over the heads; or (B, H, T, S) without
                `average_attn_weights`. Without them, the streaming kernel runs, which never stores them.
            attn_mask: (T, S) or (B H, T, S), bool (True hides) or float (added).
            is_causal: a place sees only those up to itself; stands for attn_mask, which may be left out.

        A query that may see nothing gives zeros (before out_proj).
        """
        batched = query.ndim == 3
        if query.ndim not in (2, 3) or key.ndim != query.ndim or value.ndim != query.ndim:
            raise AttentionError(
                f"query, key and value must all have 3 dimensions, or all 2 without a batch; got {tuple(query.shape)}, "
                f"{tuple(key.shape)}, {tuple(value.shape)}"
            )
        if query.shape[-1] != self.embed_dim:
            raise AttentionError(
                f"was expecting embedding dimension of {self.embed_dim}, but got {query.shape[-1]} as the last size of "
                f"query {tuple(query.shape)}"
            )
        q, k, v = self._project(query, key, value)
        if not batched:
            q, k, v = (x.unsqueeze(0) for x in (q, k, v))
        elif not self.batch_first:
            q, k, v = (transpose(x, 0, 1) for x in (q, k, v))
        mask, is_causal = self._mask(attn_mask, key_padding_mask, is_causal, q, k.shape[1], need_weights)
        b = q.shape[0]
        for name, wanted in (("bias", self.bias_k is not None), ("zero", self.add_zero_attn)):
            if wanted:
                k, v = (
                    cat([x, broadcast_to(extra, (b, 1, x.shape[-1]))], 1)
                    for x, extra in ((k, self._extra(name, k, "k")), (v, self._extra(name, v, "v")))
                )
        q, k, v = (transpose(unflatten(x, -1, (self.num_heads, self.head_dim)), 1, 2) for x in (q, k, v))
        p = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores, seen = attention_scores(q, k, mask, is_causal, 1 / math.sqrt(self.head_dim))
            weights = softmax(scores, -1)
            weights = weights if seen is None else where(seen.any(-1, keepdims=True), weights, 0.0)
            weights = F.dropout(weights, p)
            y = matmul(weights, v)
            weights = mean(weights, 1) if average_attn_weights else weights
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, p, is_causal)
        y = reshape(transpose(y, 1, 2), (b, -1, self.num_heads * self.head_dim))  # (B, H, T, D) -> (B, T, H D)
        y = self.out_proj(y)
        if not batched:
            return y[0], None if weights is None else weights[0]
        return (y if self.batch_first else transpose(y, 0, 1)), weights

    def _project(self, query: Any, key: Any, value: Any) -> tuple[Any, Any, Any]:
        """The three inputs through their weights; one product where they are the same tensor."""
        bias = self.in_proj_bias
        if self.in_proj_weight is not None:
            if query is key is value:
                return chunk(linear(query, self.in_proj_weight, bias), 3, -1)
            weights = self._thirds(self.in_proj_weight)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None,) * 3 if bias is None else chunk(bias, 3, 0)
        return tuple(linear(x, w, c) for x, w, c in zip((query, key, value), weights, biases, strict=True))  # type: ignore[return-value]

    def _thirds(self, weight: Any) -> tuple:
        """The rows of q, of k and of v."""
        if not getattr(weight, "packed", False):
            return chunk(weight, 3, 0)
        e = self.embed_dim
        return tuple(Parameter(weight.array.rows(i * e, (i + 1) * e)) for i in range(3))

    def _extra(self, name: str, like: Any, which: str) -> Any:
        if name == "bias":
            return self.bias_k if which == "k" else self.bias_v
        return wrap(devices.array_module(like.array).zeros((1, 1, like.shape[-1]), like.array.dtype))

    def _mask(
        self, attn_mask: Any, padding: Any, is_causal: bool, q: Any, s: int, need_weights: bool
    ) -> tuple[Any, bool]:
        """Both masks as one for SDPA (bool: True shows; float: added), and whether to ask it for causal."""
        b, t = q.shape[:2]
        extra = (self.bias_k is not None) + self.add_zero_attn
        if attn_mask is None and is_causal:
            if padding is None and not extra:
                return None, True
            attn_mask = wrap(~np.tril(np.ones((t, s), bool)))
        attn_mask, padding = (
            _checked(m, name) for m, name in ((attn_mask, "attn_mask"), (padding, "key_padding_mask"))
        )
        if attn_mask is not None:
            shapes = ((t, s), (b * self.num_heads, t, s))
            if tuple(attn_mask.shape) not in shapes:
                hint = "" if tuple(attn_mask.shape) != (b, s) else "; a mask (B, S) of padding is key_padding_mask"
                raise AttentionError(
                    f"attn_mask has shape {tuple(attn_mask.shape)}, expected {shapes[0]} or {shapes[1]}: (T, S), or "
                    f"(B num_heads, T, S) to differ between examples{hint}"
                )
            attn_mask = reshape(attn_mask, (-1, self.num_heads, t, s) if attn_mask.ndim == 3 else (1, 1, t, s))
        if padding is not None:
            if padding.ndim == 1 and b == 1:
                padding = padding.unsqueeze(0)
            if tuple(padding.shape) != (b, s):
                raise AttentionError(
                    f"key_padding_mask has shape {tuple(padding.shape)}, expected (B, S) = {(b, s)}"
                    + (
                        f": with batch_first={self.batch_first} the input's first size is taken for the "
                        f"{'batch' if self.batch_first else 'length'}; pass batch_first={not self.batch_first}?"
                        if tuple(padding.shape) == (s, b)
                        else ""
                    )
                )
            padding = reshape(padding, (b, 1, 1, s))
        masks = [m for m in (attn_mask, padding) if m is not None]
        if not masks:
            return None, False
        if all(m.dtype == dtypes.bool for m in masks):
            hidden = masks[0].array if len(masks) == 1 else masks[0].array | masks[1].array
            mask = wrap(~hidden)
            return (
                wrap(np.pad(mask.array, [(0, 0)] * 3 + [(0, extra)], constant_values=True)) if extra else mask
            ), False
        total: Any = None
        for m in masks:
            m = where(m, -math.inf, 0.0).to(q.dtype) if m.dtype == dtypes.bool else m.to(q.dtype)
            total = m if total is None else total + m
        return (pad(total, (0, extra)) if extra else total), False


def _checked(mask: Any, name: str) -> Any:
    """A mask as a Tensor. Raises TypeError unless it is bool or floating point."""
    if mask is None:
        return None
    mask = mask if isinstance(mask, Tensor) else wrap(np.asarray(mask))
    if mask.dtype != dtypes.bool and not mask.is_floating_point():
        raise MaskTypeError(
            f"only bool and floating point {name} are supported, got {mask.dtype}; convert with .bool(), and mind that "
            "True hides a place (a mask of 1 for real tokens becomes mask == 0)"
        )
    return mask


def _activation(activation: Any) -> Any:
    if activation == "relu":
        return F.relu
    if activation == "gelu":
        return F.gelu
    if callable(activation):
        return activation
    raise RuntimeError(f"activation should be relu/gelu or a function, not {activation}")


class TransformerEncoderLayer(Module):
    """Self-attention and a feed-forward network, each with dropout, a residual and layer normalisation.

        x = norm1(x + dropout(self_attn(x)))
        x = norm2(x + dropout(linear2(dropout(activation(linear1(x))))))

    With `norm_first` the norms stand before the two blocks (Xiong et al. 2020, arXiv:2002.04745). activation: "relu",
    "gelu" or a function. src (T, B, d_model), with `batch_first` (B, T, d_model), without a batch (T, d_model).

    Try: TransformerEncoderLayer(4, 2, 8, 0.0)(randn(3, 1, 4))
    """

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1, activation: Any = F.relu,
        layer_norm_eps: float = 1e-5, batch_first: bool = False, norm_first: bool = False, bias: bool = True,
        device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        made: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, batch_first=batch_first, **made)
        self.linear1 = Linear(d_model, dim_feedforward, **made)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, **made)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, layer_norm_eps, **made)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, **made)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.activation = _activation(activation)

    def forward(self, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False) -> Any:
        """The same shape as src. Masks as MultiheadAttention's; is_causal alone is enough."""
        x = src
        if self.norm_first:
            x = x + self._attend(self.norm1(x), src_mask, src_key_padding_mask, is_causal)
            return x + self._feed_forward(self.norm2(x))
        x = self.norm1(x + self._attend(x, src_mask, src_key_padding_mask, is_causal))
        return self.norm2(x + self._feed_forward(x))

    def _attend(self, x: Any, mask: Any, padding: Any, is_causal: bool) -> Any:
        y, _ = self.self_attn(x, x, x, padding, need_weights=False, attn_mask=mask, is_causal=is_causal)
        return self.dropout1(y)

    def _feed_forward(self, x: Any) -> Any:
        return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))


class TransformerEncoder(Module):
    """num_layers copies of an encoder layer, and a last `norm` if given.

    The copies start with equal weights, as torch's do; draw others with nn.init to make the layers differ from the
    start. The last two arguments are taken for torch's sake: nothing depends on them here.

    Try: TransformerEncoder(TransformerEncoderLayer(4, 2, 8, 0.0), 2)(randn(3, 1, 4))
    """

    def __init__(
        self, encoder_layer: Module, num_layers: int, norm: Module | None = None, enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ):  # fmt: skip
        super().__init__()
        self.layers = ModuleList([copy.deepcopy(encoder_layer) for _ in range(num_layers)])
        self.num_layers = num_layers
        self.norm: Any = norm

    def forward(self, src: Any, mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False) -> Any:
        """The same shape as src. Masks as MultiheadAttention's."""
        x = src
        for layer in self.layers:
            x = layer(x, src_mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=is_causal)
        return x if self.norm is None else self.norm(x)
