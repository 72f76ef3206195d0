"""Decoder layers and the whole transformer against torch; positions against their formulas; decoding with a cache.

Tolerance. float64: sums of at most 40 terms, a few hundred roundings of numbers near 1: 1e-10 is far above their
1e-12. float32: the same with eps 1.2e-7 gives some 1e-5, gradients of deep stacks are ten times as big: 2e-4.
"""

import numpy as np
import pytest
import torch

import minidl
from minidl import nn

RNG = np.random.default_rng(8)
TOLERANCE = {"float64": 1e-10, "float32": 2e-4}


def close(ours, theirs, dtype="float64"):
    a, t = ours.detach().numpy(), theirs.detach().numpy()
    assert a.shape == t.shape
    assert a.dtype == t.dtype
    assert (np.abs(a - t) <= TOLERANCE[dtype] * max(1.0, np.abs(t).max(initial=0))).all(), np.abs(a - t).max()


def twins(make, dtype="float64"):
    torch.manual_seed(4)
    theirs, ours = make(torch.nn), make(nn)
    theirs.to(getattr(torch, dtype)), ours.to(getattr(minidl, dtype))
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.1 * torch.randn_like(p))  # no zero biases, no equal layers
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    return theirs, ours


def pair(*shape, dtype="float64"):
    a = RNG.standard_normal(shape).astype(dtype)
    return torch.tensor(a, requires_grad=True), minidl.tensor(a, requires_grad=True)


def compare(theirs, ours, inputs, t_kwargs, m_kwargs, dtype="float64"):
    t, m = theirs(*[p[0] for p in inputs], **t_kwargs), ours(*[p[1] for p in inputs], **m_kwargs)
    close(m, t, dtype)
    seed = RNG.standard_normal(tuple(t.shape)).astype(dtype)
    t.backward(torch.tensor(seed)), m.backward(minidl.tensor(seed))
    for a, b in inputs:
        close(b.grad, a.grad, dtype)
    for a, b in zip(theirs.parameters(), ours.parameters()):
        close(b.grad, a.grad, dtype)


def both(**arrays):
    return {k: torch.tensor(v) for k, v in arrays.items()}, {k: minidl.tensor(v) for k, v in arrays.items()}


def hidden(rows, *lengths):
    """A padding mask (B, rows): True from each length on."""
    return np.arange(rows) >= np.array(lengths)[:, None]


LAYERS = [
    {},
    {"batch_first": True, "activation": "gelu"},
    {"norm_first": True, "bias": False},
    {"norm_first": True, "batch_first": True, "layer_norm_eps": 1e-3},
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", LAYERS)
def test_decoder_layer_equals_torch(options, training, dtype):
    make = lambda n: n.TransformerDecoderLayer(8, 2, 16, dropout=0.0 if training else 0.3, **options)
    theirs, ours = (m.train(training) for m in twins(make, dtype))
    batch_first = options.get("batch_first")
    inputs = [pair(*s, dtype=dtype) for s in (((3, 5, 8), (3, 7, 8)) if batch_first else ((5, 3, 8), (7, 3, 8)))]
    causal = np.triu(np.ones((5, 5), bool), 1)
    t, m = both(
        tgt_mask=causal, memory_mask=np.triu(np.ones((5, 7), bool), 3),
        tgt_key_padding_mask=hidden(5, 5, 3, 4), memory_key_padding_mask=hidden(7, 7, 2, 5),
    )  # fmt: skip
    compare(theirs, ours, inputs, t, m, dtype)


def test_decoder_layer_without_a_batch_and_with_everything_dropped():
    theirs, ours = twins(lambda n: n.TransformerDecoderLayer(8, 2, 16, dropout=1.0))
    compare(theirs, ours, [pair(5, 8), pair(7, 8)], {}, {})


@pytest.mark.parametrize("mask", ["float", "bool", "causal"])
def test_decoder_equals_torch(mask):
    """One causal mask in three spellings; torch wants the mask along with the word causal."""
    theirs, ours = twins(lambda n: n.TransformerDecoder(
        n.TransformerDecoderLayer(8, 2, 16, dropout=0.0), 2, n.LayerNorm(8)))  # fmt: skip
    square = torch.nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    ours_square = nn.Transformer.generate_square_subsequent_mask(5, dtype=minidl.float64)
    assert ours_square.tolist() == square.tolist()
    t = {"tgt_mask": square}
    m = {"float": {"tgt_mask": ours_square}, "bool": {"tgt_mask": ours_square < 0}, "causal": {"tgt_is_causal": True}}
    compare(theirs, ours, [pair(5, 3, 8), pair(7, 3, 8)], t, m[mask])


def test_causal_mask_defaults():
    mask = nn.Transformer.generate_square_subsequent_mask(3, device="cpu")
    assert mask.dtype == minidl.float32
    assert mask.tolist() == torch.nn.Transformer.generate_square_subsequent_mask(3).tolist()


@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")  # torch's, about a path it does not take
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("options", LAYERS)
def test_transformer_equals_torch(options, dtype):
    make = lambda n: n.Transformer(8, 2, 2, 2, 16, 0.0, **options)
    theirs, ours = twins(make, dtype)
    batch_first = options.get("batch_first")
    inputs = [pair(*s, dtype=dtype) for s in (((3, 7, 8), (3, 5, 8)) if batch_first else ((7, 3, 8), (5, 3, 8)))]
    padding = hidden(7, 7, 2, 5)
    t, m = both(
        src_key_padding_mask=padding, memory_key_padding_mask=padding, tgt_mask=np.triu(np.ones((5, 5), bool), 1)
    )
    compare(theirs, ours, inputs, t, m, dtype)


def test_transformer_starts_as_torchs():
    """xavier_uniform everywhere: no weight beyond its bound, the largest of many close to it."""
    model = nn.Transformer(32, 4, 1, 1, 64)
    for name, p in model.named_parameters():
        if p.ndim > 1:
            bound = np.sqrt(6 / sum(p.shape))
            largest = np.abs(p.detach().numpy()).max()
            assert 0.98 * bound < largest <= bound * (1 + 1e-6), name
    encoder, decoder = nn.Identity(), nn.Identity()
    custom = nn.Transformer(32, 4, custom_encoder=encoder, custom_decoder=decoder)
    assert custom.encoder is encoder
    assert custom.decoder is decoder


def test_transformer_errors():
    model = nn.Transformer(8, 2, 1, 1, 16)
    with pytest.raises(RuntimeError, match="batch number of src and tgt must be equal"):
        model(minidl.zeros(4, 2, 8), minidl.zeros(4, 3, 8))
    with pytest.raises(RuntimeError, match="equal to d_model 8"):
        model(minidl.zeros(4, 2, 8), minidl.zeros(4, 2, 7))
    with pytest.raises(RuntimeError, match="relu/gelu"):
        nn.TransformerDecoderLayer(8, 2, activation="tanh")


@pytest.mark.parametrize("dim", [6, 5])
@pytest.mark.parametrize("batch_first", [True, False])
def test_sinusoidal_positions_are_the_formula(dim, batch_first):
    shape = (2, 4, dim) if batch_first else (4, 2, dim)
    x = RNG.standard_normal(shape)
    y = nn.SinusoidalPositions(dim, batch_first=batch_first)(minidl.tensor(x), offset=3).numpy() - x
    for p in range(4):
        row = y[:, p] if batch_first else y[p]
        for i in range(dim):
            angle = (p + 3) / 10000 ** (2 * (i // 2) / dim)
            np.testing.assert_allclose(row[:, i], np.cos(angle) if i % 2 else np.sin(angle), rtol=0, atol=1e-12)
    layer = nn.SinusoidalPositions(dim)
    assert layer(minidl.zeros(4, dim)).dtype == minidl.float32
    assert len(layer.state_dict()) == 0
    assert repr(layer) == f"SinusoidalPositions({dim})"


def test_learned_positions():
    layer = nn.LearnedPositions(6, 3, dtype=minidl.float64)
    x = minidl.tensor(RNG.standard_normal((2, 4, 3)), requires_grad=True)
    y = layer(x, offset=1)
    np.testing.assert_array_equal(y.detach().numpy(), x.detach().numpy() + layer.weight.detach().numpy()[1:5])
    y.sum().backward()
    np.testing.assert_array_equal(layer.weight.grad.numpy()[:, 0], [0, 2, 2, 2, 2, 0])
    time_first = nn.LearnedPositions(6, 3, batch_first=False)
    time_first.load_state_dict({"weight": layer.weight.detach().float()})
    np.testing.assert_array_equal(
        time_first(minidl.zeros(4, 2, 3))[:, 1].detach().numpy(), time_first.weight.detach().numpy()[:4]
    )
    with pytest.raises(RuntimeError, match="positions 3 to 7 are asked for, there are 6"):
        layer(x, offset=3)
    with pytest.raises(RuntimeError, match=r"x must be \(..., T, 3\)"):
        layer(minidl.zeros(2, 4))
    assert repr(layer) == "LearnedPositions(6, 3)"


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_positions_turn_complex_numbers(interleaved):
    """Pairs as complex numbers, times e^(i angle), in torch; gradients too."""
    t, m = pair(2, 3, 5, 8)
    layer = nn.RotaryPositions(8, interleaved=interleaved)
    pairs = t.reshape(2, 3, 5, 4, 2) if interleaved else torch.stack([t[..., :4], t[..., 4:]], -1)
    angle = torch.arange(2, 7, dtype=torch.float64)[:, None] * 10000.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.ones_like(angle), angle))
    turned = turned.reshape(2, 3, 5, 8) if interleaved else torch.cat([turned[..., 0], turned[..., 1]], -1)
    y = layer(m, offset=2)
    close(y, turned)
    seed = RNG.standard_normal((2, 3, 5, 8))
    y.backward(minidl.tensor(seed)), turned.backward(torch.tensor(seed))
    close(m.grad, t.grad)


def test_rotary_positions_are_relative():
    layer = nn.RotaryPositions(8)
    q, k = (minidl.tensor(RNG.standard_normal((1, 8))) for _ in range(2))
    scores = [(layer(q, 7 + s) * layer(k, 3 + s)).sum().item() for s in (0, 1, 50)]
    np.testing.assert_allclose(scores, scores[0], rtol=1e-12)
    assert abs((layer(q, 7) * layer(k, 4)).sum().item() - scores[0]) > 1e-3
    with pytest.raises(ValueError, match="even"):
        nn.RotaryPositions(7)
    assert repr(nn.RotaryPositions(8, interleaved=True)) == "RotaryPositions(8, interleaved=True)"


def test_causal_self_attention_is_torchs_multihead_attention():
    theirs = torch.nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)
    ours = nn.CausalSelfAttention(8, 2, dtype=minidl.float64)
    state = {k: v.numpy() + 0.1 * RNG.standard_normal(v.shape) for k, v in theirs.state_dict().items()}
    theirs.load_state_dict({k: torch.tensor(v) for k, v in state.items()}), ours.load_state_dict(state)
    mask = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
    compare(
        lambda_module(lambda x: theirs(x, x, x, attn_mask=mask, need_weights=False)[0], theirs), ours,
        [pair(3, 5, 8)], {}, {},
    )  # fmt: skip
    x = minidl.tensor(RNG.standard_normal((5, 8)))
    np.testing.assert_allclose(ours(x).detach().numpy(), ours(x.unsqueeze(0))[0].detach().numpy(), atol=1e-13)


def lambda_module(function, module):
    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, x):
            return function(x)

    return Wrapped()


def test_grouped_heads_are_repeated_heads():
    """Two groups of keys and values for four heads: the same as four, each group's rows written twice."""
    grouped = nn.CausalSelfAttention(8, 4, 2, dtype=minidl.float64)
    full = nn.CausalSelfAttention(8, 4, dtype=minidl.float64)
    state = grouped.state_dict()
    for name in ("in_proj_weight", "in_proj_bias"):
        a = state[name].numpy() + 0.1 * RNG.standard_normal(tuple(state[name].shape))
        grouped.load_state_dict({name: a}, strict=False)
        q, k, v = a[:8], a[8:12].reshape(2, 2, -1), a[12:].reshape(2, 2, -1)
        a = np.concatenate([q.reshape(8, -1), *(np.repeat(g, 2, 0).reshape(8, -1) for g in (k, v))])
        full.load_state_dict({name: a.reshape(24, *state[name].shape[1:])}, strict=False)
    full.out_proj.load_state_dict(grouped.out_proj.state_dict())
    x = minidl.tensor(RNG.standard_normal((2, 5, 8)))
    np.testing.assert_allclose(grouped(x).detach().numpy(), full(x).detach().numpy(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("pieces", [[1] * 9, [4, 1, 1, 3], [9], [2, 5, 2]])
def test_decoding_with_a_cache_equals_the_full_pass(groups, rotary, pieces):
    layer = nn.CausalSelfAttention(
        16, 4, groups, rotary=nn.RotaryPositions(4) if rotary else None, dtype=minidl.float64
    ).eval()
    x = minidl.tensor(RNG.standard_normal((3, 9, 16)))
    full = layer(x).detach().numpy()
    cache = nn.KVCache(capacity=2)
    with minidl.no_grad():
        parts = [layer(part, cache).numpy() for part in x.split(pieces, 1)]
    assert len(cache) == 9
    np.testing.assert_allclose(np.concatenate(parts, 1), full, rtol=0, atol=1e-12)


def test_cache_goes_back_and_reorders():
    layer = nn.CausalSelfAttention(8, 2, dtype=minidl.float64)
    x = minidl.tensor(RNG.standard_normal((2, 4, 8)))
    cache = nn.KVCache()
    assert cache.nbytes == 0
    with minidl.no_grad():
        layer(x, cache)
        last = layer(x[:, 3:], cache)
        cache.truncate(4)
        np.testing.assert_array_equal(layer(x[:, 3:], cache).numpy(), last.numpy())
        cache.truncate(4)
        cache.select([1, 1, 0])
        y = layer(x[minidl.tensor([1, 1, 0]), 3:], cache)
        np.testing.assert_allclose(y.numpy(), last.numpy()[[1, 1, 0]], rtol=0, atol=1e-13)
        assert cache.nbytes == 2 * 3 * 2 * 64 * 4 * 8
        with pytest.raises(RuntimeError, match="do not fit"):
            layer(x, cache)
        cache.reset()
        assert len(cache) == 0
        assert layer(x, cache).shape == x.shape
    with pytest.raises(RuntimeError, match="no_grad"):
        layer(x, cache)
    with pytest.raises(ValueError, match="cannot keep 5 tokens of 4"):
        cache.truncate(5)


def test_causal_self_attention_errors():
    for kwargs, match in [
        ({"embed_dim": 8, "num_heads": 3}, "divisible by num_heads"),
        ({"embed_dim": 8, "num_heads": 4, "num_kv_heads": 3}, "divisible by num_kv_heads"),
        ({"embed_dim": 8, "num_heads": 2, "rotary": nn.RotaryPositions(2)}, "rotary positions turn 2"),
    ]:
        with pytest.raises(ValueError, match=match):
            nn.CausalSelfAttention(**kwargs)
    layer = nn.CausalSelfAttention(8, 4, 2, bias=False)
    with pytest.raises(RuntimeError, match=r"\(B, T, 8\)"):
        layer(minidl.zeros(2, 3, 7))
    assert repr(layer).startswith("CausalSelfAttention(\n  8, 4, num_kv_heads=2")
    with minidl.no_grad():
        layer.in_proj_weight.fill_(1.0)
    layer.reset_parameters()
    assert np.abs(layer.in_proj_weight.detach().numpy()).max() <= np.sqrt(6 / 24)


def test_dropout_of_weights_only_in_training():
    layer = nn.CausalSelfAttention(8, 2, dropout=1.0)
    x = minidl.randn(2, 3, 8)
    np.testing.assert_array_equal(layer(x).detach().numpy(), np.zeros((2, 3, 8), np.float32))
    assert np.abs(layer.eval()(x).detach().numpy()).max() > 0
