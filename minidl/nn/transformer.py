"""The transformer's decoder, and encoder and decoder together; Vaswani et al. 2017 (arXiv:1706.03762). torch's names.

Masks as in MultiheadAttention: bool, where True hides, or float, which is added to the scores.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from minidl import dtypes
from minidl.autograd import ShapeError
from minidl.devices import move
from minidl.nn import functional as F
from minidl.nn import init
from minidl.nn.attention import MultiheadAttention, TransformerEncoder, TransformerEncoderLayer, _activation
from minidl.nn.containers import ModuleList
from minidl.nn.dropout import Dropout
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.nn.norm import LayerNorm
from minidl.tensors import wrap

__all__ = ["Transformer", "TransformerDecoder", "TransformerDecoderLayer"]


class TransformerDecoderLayer(Module):
    """Self-attention, attention to the encoder's memory, and a feed-forward network, each with dropout, a residual and
    layer normalisation.

        x = norm1(x + dropout1(self_attn(x)))
        x = norm2(x + dropout2(multihead_attn(x, memory)))
        x = norm3(x + dropout3(linear2(dropout(activation(linear1(x))))))

    With `norm_first` the norms stand before the blocks (Xiong et al. 2020, arXiv:2002.04745). activation: "relu",
    "gelu" or a function. tgt (T, B, d_model) and memory (S, B, d_model); with `batch_first` (B, T, d_model) and so on,
    without a batch (T, d_model).

    >>> import minidl
    >>> layer = TransformerDecoderLayer(8, 2, 16, batch_first=True)
    >>> tuple(layer(minidl.zeros(3, 5, 8), minidl.zeros(3, 7, 8), tgt_is_causal=True).shape)
    (3, 5, 8)

    Try: TransformerDecoderLayer(4, 2, 8, 0.0)(randn(2, 1, 4), randn(3, 1, 4))
    """

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1, activation: Any = F.relu,
        layer_norm_eps: float = 1e-5, batch_first: bool = False, norm_first: bool = False, bias: bool = True,
        device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        made: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, batch_first=batch_first, **made)
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout, batch_first=batch_first, **made)
        self.linear1 = Linear(d_model, dim_feedforward, **made)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, **made)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, layer_norm_eps, **made)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, **made)
        self.norm3 = LayerNorm(d_model, layer_norm_eps, **made)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.dropout3 = Dropout(dropout)
        self.activation = _activation(activation)

    def forward(
        self, tgt: Any, memory: Any, tgt_mask: Any = None, memory_mask: Any = None, tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None, tgt_is_causal: bool = False, memory_is_causal: bool = False,
    ) -> Any:  # fmt: skip
        """The same shape as tgt. tgt_is_causal alone is enough: it stands for tgt_mask."""

        def own(x: Any) -> Any:
            y, _ = self.self_attn(
                x, x, x, tgt_key_padding_mask, need_weights=False, attn_mask=tgt_mask, is_causal=bool(tgt_is_causal)
            )
            return self.dropout1(y)

        def other(x: Any) -> Any:
            y, _ = self.multihead_attn(
                x, memory, memory, memory_key_padding_mask, need_weights=False, attn_mask=memory_mask,
                is_causal=bool(memory_is_causal),
            )  # fmt: skip
            return self.dropout2(y)

        def feed_forward(x: Any) -> Any:
            return self.dropout3(self.linear2(self.dropout(self.activation(self.linear1(x)))))

        x = tgt
        for block, norm in ((own, self.norm1), (other, self.norm2), (feed_forward, self.norm3)):
            x = x + block(norm(x)) if self.norm_first else norm(x + block(x))
        return x


class TransformerDecoder(Module):
    """num_layers copies of a decoder layer, and a last `norm` if given. The copies start with equal weights, as torch's
    do.

    Try: TransformerDecoder(TransformerDecoderLayer(4, 2, 8, 0.0), 2)(randn(2, 1, 4), randn(3, 1, 4))
    """

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None):
        super().__init__()
        self.layers = ModuleList([copy.deepcopy(decoder_layer) for _ in range(num_layers)])
        self.num_layers = num_layers
        self.norm: Any = norm

    def forward(
        self, tgt: Any, memory: Any, tgt_mask: Any = None, memory_mask: Any = None, tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None, tgt_is_causal: bool | None = None, memory_is_causal: bool = False,
    ) -> Any:  # fmt: skip
        """The same shape as tgt. Arguments as TransformerDecoderLayer's."""
        x = tgt
        for layer in self.layers:
            x = layer(
                x, memory, tgt_mask=tgt_mask, memory_mask=memory_mask, tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask, tgt_is_causal=bool(tgt_is_causal),
                memory_is_causal=memory_is_causal,
            )  # fmt: skip
        return x if self.norm is None else self.norm(x)


class Transformer(Module):
    """Encoder and decoder, each with a last layer normalisation; embeddings and the output layer are the user's.

    src (S, B, d_model), tgt (T, B, d_model) -> (T, B, d_model); with `batch_first` the batch comes first.
    custom_encoder and custom_decoder take the place of the own ones. Weights start as xavier_uniform.

    Try: Transformer(4, 2, 1, 1, 8, 0.0)(randn(3, 1, 4), randn(2, 1, 4))
    """

    def __init__(
        self, d_model: int = 512, nhead: int = 8, num_encoder_layers: int = 6, num_decoder_layers: int = 6,
        dim_feedforward: int = 2048, dropout: float = 0.1, activation: Any = F.relu, custom_encoder: Any = None,
        custom_decoder: Any = None, layer_norm_eps: float = 1e-5, batch_first: bool = False, norm_first: bool = False,
        bias: bool = True, device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        layer = (
            d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias, device,
            dtype,
        )  # fmt: skip
        made: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        self.encoder = custom_encoder or TransformerEncoder(
            TransformerEncoderLayer(*layer), num_encoder_layers, LayerNorm(d_model, layer_norm_eps, **made)
        )
        self.decoder = custom_decoder or TransformerDecoder(
            TransformerDecoderLayer(*layer), num_decoder_layers, LayerNorm(d_model, layer_norm_eps, **made)
        )
        for p in self.parameters():
            if p.ndim > 1:
                init.xavier_uniform_(p)
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first

    def forward(
        self, src: Any, tgt: Any, src_mask: Any = None, tgt_mask: Any = None, memory_mask: Any = None,
        src_key_padding_mask: Any = None, tgt_key_padding_mask: Any = None, memory_key_padding_mask: Any = None,
        src_is_causal: bool | None = None, tgt_is_causal: bool | None = None, memory_is_causal: bool = False,
    ) -> Any:  # fmt: skip
        """The same shape as tgt. Raises RuntimeError when batch sizes differ or the last size is not d_model."""
        batch = 0 if self.batch_first else 1
        if src.ndim == 3 and src.shape[batch] != tgt.shape[batch]:
            raise ShapeError(
                f"the batch number of src and tgt must be equal, got {tuple(src.shape)} and {tuple(tgt.shape)}"
            )
        if src.shape[-1] != self.d_model or tgt.shape[-1] != self.d_model:
            raise ShapeError(
                f"the feature number of src and tgt must be equal to d_model {self.d_model}, got {tuple(src.shape)} "
                f"and {tuple(tgt.shape)}"
            )
        memory = self.encoder(
            src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=bool(src_is_causal)
        )
        return self.decoder(
            tgt, memory, tgt_mask=tgt_mask, memory_mask=memory_mask, tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask, tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
        )  # fmt: skip

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> Any:
        """(sz, sz): 0 where row t may see column s <= t, -inf elsewhere.

        >>> Transformer.generate_square_subsequent_mask(2).tolist()
        [[0.0, -inf], [0.0, 0.0]]
        """
        kind = dtypes.as_numpy(dtype) if dtype is not None else dtypes.default()
        mask = np.where(np.tri(sz, dtype=bool), 0.0, -np.inf).astype(kind)
        return wrap(mask if device is None else move(mask, device))
