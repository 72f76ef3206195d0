"""The digits networks: shapes, sizes, and that they learn."""

import numpy as np
import pytest

import minidl
from minidl import nn, optim
from minidl.models import DigitsCNN, Forecaster, RecurrentClassifier, mnist_cnn
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
