"""Heads of attention are pruned and removed in code of one's own, however it splits into them."""

import copy
import math

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import models, nn, optim
from minidl.autograd import state
from minidl.compress import SlimError, load_model, masks, prune_channels_, save_model, slim

DIM, HEADS, EACH = 24, 4, 6


def scores(q, k):
    return (q @ k.transpose(-2, -1) / math.sqrt(k.size(-1))).softmax(-1)


class Four(nn.Module):
    """Queries, keys, values and output by a layer each; sizes are attributes."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(DIM, DIM) for _ in range(4))
        self.num_heads, self.head_dim = HEADS, EACH

    def split(self, x):
        return x.view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    def forward(self, x):
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class NanoGPT(nn.Module):
    """As in karpathy/nanoGPT: one layer for all three, sizes from attributes and from the input."""

    def __init__(self):
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.attn_dropout, self.n_head, self.n_embd = nn.Dropout(0.1), HEADS, DIM
        self.register_buffer("bias", minidl.tril(minidl.ones(16, 16)).view(1, 1, 16, 16))

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        q, k, v = (t.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for t in (q, k, v))
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf"))
        y = self.attn_dropout(F.softmax(att, dim=-1)) @ v
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


class Fused(nn.Module):
    """One layer for all three, taken apart in many ways; the number of heads has a name that says nothing."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj, self.h = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM), HEADS

    def apart(self, y, B, T, C):
        return y.reshape(B, T, 3, self.h, C // self.h).permute(2, 0, 3, 1, 4)  # as in timm

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.apart(self.qkv(x), B, T, C)
        return self.proj((scores(q, k) @ v).transpose(1, 2).reshape(B, T, C))


class Interleaved(Fused):
    """As in GPT-NeoX: queries, keys and values of one head side by side."""

    def apart(self, y, B, T, C):
        return y.view(B, T, self.h, 3 * (C // self.h)).transpose(1, 2).chunk(3, -1)


class Unflattened(Fused):
    def apart(self, y, B, T, C):
        return [t.unflatten(-1, (self.h, -1)).transpose(1, 2) for t in y.split([C, C, C], -1)]


class Literal(Fused):
    """Every size written into the code."""

    def apart(self, y, B, T, C):
        return [t.view(B, T, 4, 6).transpose(1, 2) for t in y.split(24, -1)]


class Sliced(Fused):
    """Taken apart by the sizes of an attribute."""

    def __init__(self):
        super().__init__()
        self.width = DIM

    def apart(self, y, B, T, C):
        parts = [y[..., i * self.width : (i + 1) * self.width] for i in range(3)]
        return [t.reshape(B, T, self.h, EACH).transpose(1, 2) for t in parts]


class Batched(Fused):
    """Batch and heads in one axis, as for bmm."""

    def forward(self, x):
        B, T, C = x.shape
        fold = lambda t: t.view(B, T, self.h, C // self.h).transpose(1, 2).reshape(B * self.h, T, C // self.h)
        q, k, v = (fold(t) for t in self.qkv(x).chunk(3, -1))
        y = minidl.bmm((q @ k.mT / math.sqrt(C / self.h)).softmax(-1), v).view(B, self.h, T, EACH).transpose(1, 2)
        return self.proj(y.reshape(B, T, self.h * EACH))


class Summed(Fused):
    """By einsum, with a bias for each head on the scores."""

    def __init__(self):
        super().__init__()
        self.near = nn.Parameter(minidl.randn(HEADS, 1, 1))

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.apart(self.qkv(x), B, T, C)
        att = (minidl.einsum("bhtd,bhsd->bhts", q, k) / math.sqrt(EACH) + self.near).softmax(-1)
        return self.proj(minidl.einsum("bhts,bhsd->bthd", att, v).reshape(B, T, -1))


class Layer(nn.Module):
    """nn.MultiheadAttention in a block of one's own, which drops the weights that it gives, too."""

    def __init__(self, cross=False):
        super().__init__()
        self.attn, self.cross = nn.MultiheadAttention(DIM, HEADS, batch_first=True), cross

    def forward(self, x):
        other = 2 * x if self.cross else x
        y, _ = self.attn(x, other, other)
        return y


KINDS = {
    k.__name__: k for k in (Four, NanoGPT, Fused, Interleaved, Unflattened, Literal, Sliced, Batched, Summed, Layer)
}
KINDS["Cross"] = lambda: Layer(cross=True)
KINDS["Causal"] = lambda: nn.CausalSelfAttention(DIM, HEADS)
KINDS["Rotary"] = lambda: nn.CausalSelfAttention(DIM, HEADS, rotary=nn.RotaryPositions(EACH))


class Net(nn.Module):
    """Token ids -> logits, with the embedding as the output layer."""

    def __init__(self, kind):
        super().__init__()
        self.emb = nn.Embedding(9, DIM)
        self.norms = nn.ModuleList([nn.LayerNorm(DIM) for _ in range(2)])
        self.attn = nn.ModuleList([KINDS[kind]() for _ in range(2)])

    def forward(self, ids):
        x = self.emb(ids)
        for norm, attn in zip(self.norms, self.attn):
            x = x + attn(norm(x))
        return F.linear(x, self.emb.weight)


def ids(*shape):
    return minidl.randint(0, 9, shape)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_go_and_the_rest_computes_the_same(kind):
    model, x = Net(kind).double().eval(), ids(1, 6)  # as long as a head, so that sizes could be taken for each other
    before = model(x).array
    prune_channels_(model, 0.5, x)
    assert not np.allclose(before, model(x).array)
    small = slim(model, x)
    matrices = {tuple(p.shape) for name, p in small.named_parameters() if p.ndim == 2 and "attn" in name}
    half = DIM // 2
    assert matrices == ({(half, DIM), (DIM, half)} if kind == "Four" else {(3 * half, DIM), (DIM, half)})
    assert set(small.state_dict()) == set(model.state_dict())
    for shape in ((3, 7), (2, 4), (4, 2)):  # float64 sums of fewer terms
        other = ids(*shape)
        np.testing.assert_allclose(copy.deepcopy(small)(other).array, model(other).array, rtol=1e-9, atol=1e-12)
    assert state.heads is None


@pytest.mark.parametrize("kind", ["Four", "NanoGPT", "Fused", "Layer"])
def test_heads_go_one_after_the_other(kind):
    """Four, three, two, one; sizes in the code may mean any number that there has been."""
    model, x = Net(kind).double().eval(), ids(1, 5)
    for left in (3, 2, 1):
        prune_channels_(model, 1 / (left + 1), x)
        small = slim(model, x)
        np.testing.assert_allclose(small(ids(2, 7)).shape, (2, 7, 9))
        np.testing.assert_allclose(small(x).array, model(x).array, rtol=1e-9, atol=1e-12)
        model = small
    assert min(p.shape[0] for p in model.attn[0].parameters() if p.ndim == 2) in (EACH, 3 * EACH)


def test_a_slim_gpt_trains_and_is_saved(tmp_path):
    model, x = Net("NanoGPT"), ids(2, 8)
    small = slim(prune_channels_(model, 0.25, x), x).train()
    assert (small.attn[0].n_head, type(small.attn[0]).__name__) == (3, "NanoGPT")
    assert isinstance(small.attn[0], NanoGPT)
    adam = optim.AdamW(small.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(small(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    save_model(small.eval(), tmp_path / "gpt.safetensors")
    again = load_model(slim(model, x), tmp_path / "gpt.safetensors").eval()
    assert (again(x).array == small(x).array).all()


def test_a_size_that_has_nothing_to_do_with_heads_is_still_an_error():
    model, x = Net("NanoGPT").eval(), ids(1, 6)
    small = slim(prune_channels_(model, 0.5, x), x)
    with pytest.raises(RuntimeError, match="in module Net.attn.0"):
        small(ids(1, 17))  # the mask is 16 x 16
    assert state.heads is None


def test_a_gpt_of_the_package_writes_the_same_with_fewer_heads():
    model, x = models.GPT(9, 16, dim=DIM, heads=HEADS, layers=2).eval(), ids(1, 6)
    for block in model.h:
        nn.init.normal_(block.attn.in_proj_weight)
    small = slim(prune_channels_(model, 0.5, x), x)
    assert small.h[1].attn.in_proj_weight.shape == (3 * DIM // 2, DIM)
    start = [1, 2, 3]
    assert (small.generate(start, 20, 0) == model.generate(start, 20, 0)).all()  # with the cache


def test_the_weakest_head_goes():
    model, x = Net("Fused").eval(), ids(1, 5)
    w = model.attn[0].qkv.weight
    w.array.reshape(3, HEADS, EACH, DIM)[:, 2] *= 0.01
    prune_channels_(model, 0.25, x, skip="attn.1")
    assert np.flatnonzero(~w.mask.reshape(3, HEADS, -1).any((0, 2))).tolist() == [2]
    assert set(masks(model)) == {"attn.0.qkv.weight", "attn.0.qkv.bias"}


class Shared(nn.Module):
    """Grouped queries: two heads read one pair of keys and values."""

    def __init__(self):
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM), nn.Linear(DIM, 2)

    def forward(self, x):
        B, T, C = x.shape
        q = self.q(x).view(B, T, 4, 6).transpose(1, 2)
        k, v = (t.view(B, T, 2, 6).transpose(1, 2) for t in self.kv(x).chunk(2, -1))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.out(y.transpose(1, 2).reshape(B, T, C))


class Averaged(Layer):
    """The weights, averaged over heads, are an output."""

    def forward(self, x):
        return self.attn(x, x, x)


@pytest.mark.parametrize("make", [Shared, Averaged])
def test_what_needs_every_head_keeps_them_with_a_reason(make):
    model, x = make().eval(), minidl.randn(1, 5, DIM)
    with pytest.raises((ValueError, SlimError), match="made by .*; .* stay: "):
        prune_channels_(model, 0.5, x)
    assert masks(model) == {}
