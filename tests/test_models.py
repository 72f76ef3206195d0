"""The digits networks: shapes, sizes, and that they learn."""

import numpy as np
import pytest

import minidl
from minidl import nn, optim
from minidl.models import DigitsCNN, mnist_cnn
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
