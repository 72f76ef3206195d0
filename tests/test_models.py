"""The digits networks: shapes, sizes, and that they learn."""

import numpy as np
import pytest

import minidl
from minidl import nn, optim
from minidl.models import GPT, DigitsCNN, Forecaster, RecurrentClassifier, TextClassifier, Translator, mnist_cnn, sample
from minidl.tensors import wrap


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("image", "places"),
    [
        ((1, 8, 8), (4, 4)),
        ((1, 28, 28), (7, 7)),
        ((3, 32, 32), (8, 8)),
        ((1, 2, 2), (1, 1)),
        ((1, 5, 9), (2, 4)),
        ((1, 16, 512), (4, 8)),
        ((4, 100, 75), (7, 7)),
    ],
)
def test_it_adapts_to_images_and_classes(image, places):
    model = DigitsCNN(image, 7, width=4, hidden=5).eval()
    assert model(minidl.zeros(2, *image)).shape == (2, 7)
    assert model.fc1.in_features == 8 * places[0] * places[1]
    assert max(places) <= 8


def test_sizes_it_cannot_take():
    for image in ((1, 1, 8), (1, 8, 513), (0, 8, 8)):
        with pytest.raises(ValueError, match="takes images of"):
            DigitsCNN(image)
    with pytest.raises(ValueError, match="at least one class"):
        DigitsCNN(classes=0)


def test_the_classic_has_its_number_of_parameters():
    """The count that Keras prints for this network on 28x28 images."""
    model = mnist_cnn()
    assert parameters(model) == 1_199_882
    assert [tuple(p.shape) for p in model.parameters() if p.ndim > 1] == [
        (32, 1, 3, 3),
        (64, 32, 3, 3),
        (128, 9216),
        (10, 128),
    ]
    assert model(minidl.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_parameter_names_are_stable():
    """Files of saved models depend on them."""
    names = [f"{layer}.{part}" for layer in ("conv1", "conv2", "fc1", "fc2") for part in ("weight", "bias")]
    assert list(DigitsCNN().state_dict()) == names


def test_it_learns_what_eight_images_are():
    model = DigitsCNN()
    x, y = wrap(minidl.random.uniform((8, 1, 8, 8))), wrap(np.arange(8))
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert (model.eval()(x).array.argmax(1) == np.arange(8)).all()


# -- recurrent ---------------------------------------------------------------------------------------------------------


def test_forecaster_counts():
    """Keras counts 10,451 for LSTM(50) and Dense(1): one bias for each gate. torch has two, so 4 x 50 more."""
    model = Forecaster()
    assert parameters(model) == 10_651
    assert parameters(model) - model.lstm.bias_hh_l0.numel() == 10_451
    assert list(model.state_dict()) == [
        "lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.bias_ih_l0", "lstm.bias_hh_l0", "fc.weight", "fc.bias",
    ]  # fmt: skip


def test_forecaster_looks_at_the_whole_window():
    x = minidl.randn(1, 50, 1, requires_grad=True)
    (dx,) = minidl.autograd.grad(Forecaster()(x).sum(), [x])
    assert (dx.numpy() != 0).all()


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("layers", [1, 2])
def test_padding_changes_nothing(kind, layers):
    """Logits and gradients of padded sequences are those of each alone; what stands in the padding does not matter."""
    model = RecurrentClassifier(20, 4, 8, 12, kind, num_layers=layers).double()
    lengths = [5, 1, 7, 3]
    ids = minidl.randint(1, 20, (4, 9))
    together = model(ids, minidl.tensor(lengths))
    together.square().sum().backward()
    whole = {name: p.grad.numpy().copy() for name, p in model.named_parameters()}
    model.zero_grad()
    for i, n in enumerate(lengths):
        alone = model(ids[i : i + 1, :n], minidl.tensor([n]))
        np.testing.assert_allclose(together[i].detach().numpy(), alone[0].detach().numpy(), rtol=1e-12, atol=1e-14)
        alone.square().sum().backward()
    for name, p in model.named_parameters():
        np.testing.assert_allclose(p.grad.numpy(), whole[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_recurrent_kinds():
    with pytest.raises(ValueError, match="RNN"):
        RecurrentClassifier(5, 2, kind="lstm")


def test_back_through_time_by_hand():
    """RNN, loss = sum of dy * y over all steps: gradients by the recursion that the textbooks have, against autograd.

    h_t = tanh(a_t), a_t = W x_t + U h_{t-1} + b + c;    da_t = (1 - h_t^2) (dy_t + U^T da_{t+1}), dW = sum da_t x_t^T
    """
    rnn = minidl.nn.RNN(3, 4).double()
    x, dy = (minidl.randn(6, 1, n, dtype=minidl.float64) for n in (3, 4))
    w, u, b, c = (p.detach().numpy() for p in rnn.parameters())
    xs, dys, hs = x.numpy()[:, 0], dy.numpy()[:, 0], [np.zeros(4)]
    for t in range(6):
        hs.append(np.tanh(w @ xs[t] + u @ hs[-1] + b + c))
    dw, du, db, da = np.zeros_like(w), np.zeros_like(u), np.zeros_like(b), np.zeros(4)
    for t in reversed(range(6)):
        da = (1 - hs[t + 1] ** 2) * (dys[t] + u.T @ da)
        dw, du, db = dw + np.outer(da, xs[t]), du + np.outer(da, hs[t]), db + da
    y, _ = rnn(x)
    (y * dy).sum().backward()
    for p, hand in zip(rnn.parameters(), (dw, du, db, db)):
        np.testing.assert_allclose(p.grad.numpy(), hand, rtol=1e-12, atol=1e-14)


# -- transformers ------------------------------------------------------------------------------------------------------


def translator():
    return Translator(20, dim=16, heads=2, layers=2, hidden=32).eval()


def test_translator_counts():
    """The formula gives the number of torch.nn.Transformer(512, 8, 6, 6, 2048); here the embedding comes on top."""

    def count(dim, hidden, layers):
        attention, mlp, norm = 4 * dim * (dim + 1), 2 * dim * hidden + hidden + dim, 2 * dim
        return layers * (3 * attention + 2 * mlp + 5 * norm) + 2 * norm

    assert count(512, 2048, 6) == 44_140_544
    assert parameters(translator()) == 20 * 16 + count(16, 32, 2)


def test_the_decoder_sees_nothing_that_comes_later():
    model = translator()
    source, target = minidl.randint(4, 20, (2, 6)), minidl.randint(4, 20, (2, 5))
    with minidl.no_grad():
        before = model(source, target).numpy().copy()
        target[:, 3] = 1 + target[:, 3] % 3
        after = model(source, target).numpy()
    assert np.array_equal(before[:, :3], after[:, :3])
    assert (before[:, 3:] != after[:, 3:]).any()


@pytest.mark.parametrize("model", [translator(), TextClassifier(20, 3, 16, 2, 2, 32).eval()])
def test_padding_of_the_source_changes_nothing(model):
    ids = minidl.randint(4, 20, (1, 5))
    padded = minidl.cat([ids, minidl.zeros(1, 4, dtype=minidl.int64)], 1)
    rest = (minidl.tensor([[2, 7, 8]]),) if isinstance(model, Translator) else ()
    with minidl.no_grad():
        np.testing.assert_allclose(model(padded, *rest).numpy(), model(ids, *rest).numpy(), atol=2e-6)


def test_layers_start_different():
    layers = translator().transformer.encoder.layers
    assert not np.array_equal(layers[0].linear1.weight.array, layers[1].linear1.weight.array)


def log_probability(model, source, ids, end):
    """Of a whole translation, by teacher forcing."""
    target = [2, *ids, end]
    with minidl.no_grad():
        logp = model(source.unsqueeze(0), minidl.tensor([target[:-1]])).log_softmax(-1)[0].numpy()
    return sum(float(logp[t, token]) for t, token in enumerate(target[1:]))


def test_greedy_and_beam():
    """A beam of one is greedy; the widest beam finds the best of all sequences, by brute force."""
    minidl.manual_seed(4)
    model = Translator(6, dim=8, heads=2, layers=1, hidden=8).eval()
    with minidl.no_grad():
        model.embedding.weight *= 3  # so that the choices differ in likelihood
    source = minidl.tensor([4, 5, 4])
    (greedy,) = model.greedy(source.unsqueeze(0), 2, 3, max_len=4)
    if len(greedy) < 4:
        assert model.beam(source, 2, 3, width=1, max_len=4) == greedy
    sequences = [ids for n in range(4) for ids in np.ndindex(*(6,) * n) if 3 not in ids]
    best = max(sequences, key=lambda ids: log_probability(model, source, ids, 3) / (len(ids) + 1))
    assert model.beam(source, 2, 3, width=2000, max_len=4) == list(best)
    with pytest.raises(ValueError, match="width"):
        model.beam(source, 2, 3, width=0)


def test_attention_map():
    model = translator()
    weights = model.attention(minidl.tensor([[4, 5, 6, 0]]), minidl.tensor([[2, 7]])).numpy()
    assert weights.shape == (2, 4)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    assert (weights[:, 3] == 0).all()


# -- GPT ---------------------------------------------------------------------------------------------------------------


def gpt_count(vocab, context, dim, layers):
    block = (
        2 * 2 * dim + (3 * dim * dim + 3 * dim) + (dim * dim + dim) + (4 * dim * dim + 4 * dim) + (4 * dim * dim + dim)
    )
    return vocab * dim + context * dim + layers * block + 2 * dim


def test_gpt_counts():
    """The formula gives the number known of GPT-2's smallest, and that of a model that is made."""
    assert gpt_count(50257, 1024, 768, 12) == 124_439_808
    assert parameters(GPT(50, 16, 24, 2, 3)) == gpt_count(50, 16, 24, 3)
    assert parameters(GPT(50, 16, 24, 2, 3, positions="rotary")) == gpt_count(50, 0, 24, 3)
    with pytest.raises(ValueError, match="learned"):
        GPT(50, positions="sinusoidal")


@pytest.mark.slow
def test_the_smallest_gpt_2():
    assert parameters(GPT(50257, 1024, 768, 12, 12)) == 124_439_808


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_gpt_sees_nothing_that_comes_later(positions):
    model = GPT(30, 16, 16, 2, 2, positions=positions).eval()
    ids = minidl.randint(0, 30, (2, 12))
    with minidl.no_grad():
        before = model(ids).numpy().copy()
        for t in (0, 5, 11):
            changed = ids.clone()
            changed[:, t] = (changed[:, t] + 1) % 30
            after = model(changed).numpy()
            assert np.array_equal(before[:, :t], after[:, :t])
            assert not np.array_equal(before[:, t], after[:, t])


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_the_cache_changes_nothing(positions):
    """Also beyond the context, where the latest half is read anew."""
    model = GPT(30, 8, 16, 2, 2, positions=positions).double().eval()
    for prompt in ([3], list(range(8)), list(range(20))):
        for options in ({"temperature": 0}, {"top_k": 5}, {"top_p": 0.7, "temperature": 1.5}):
            with_cache, without = (
                model.generate(prompt, 15, generator=minidl.Generator(1), cache=cache, **options)
                for cache in (True, False)
            )
            assert np.array_equal(with_cache, without)
    with pytest.raises(ValueError, match="at least one"):
        model.generate([], 3)


def test_sample_draws_as_asked():
    """Frequencies of 4000 draws within five standard deviations; what is cut off never comes."""
    logits = np.log([0.5, 0.25, 0.15, 0.1])
    g = minidl.Generator(0)
    for options, p in (
        ({}, [0.5, 0.25, 0.15, 0.1]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_p": 0.75}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_p": 0.76}, [5 / 9, 2.5 / 9, 1.5 / 9, 0]),
        ({"temperature": 0.5}, np.array([0.25, 0.0625, 0.0225, 0.01]) / 0.345),
        ({"top_p": 1e-9}, [1, 0, 0, 0]),
    ):
        p = np.array(p)
        counts = np.bincount([sample(logits, generator=g, **options) for _ in range(4000)], minlength=4)
        assert (np.abs(counts - 4000 * p) <= 5 * np.sqrt(4000 * p * (1 - p))).all(), (options, counts)
    assert sample(logits, temperature=0) == 0
    for wrong in ({"temperature": -1}, {"top_k": 0}, {"top_p": 0}, {"top_p": 1.1}):
        with pytest.raises(ValueError, match="no way to draw"):
            sample(logits, **wrong)
