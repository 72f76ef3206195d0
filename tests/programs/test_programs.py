"""Programs as people write them for torch, each written once and run with `t` as torch and as minidl.

A program is a page with `model(t)`, `data(rng)` and `train(t, model, *data)`, which returns what it measured: losses,
norms, predictions. Both models start from the same numbers; losses and final parameters must agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import char_rnn
import dcgan
import ddpm
import mnist_cnn
import nano_gpt
import numpy as np
import pytest
import reinforce
import resnet
import seq2seq
import siamese
import time_sequence_prediction
import torch
import vae
import word_language_model

import minidl

PROGRAMS = [
    mnist_cnn,
    vae,
    word_language_model,
    nano_gpt,
    char_rnn,
    seq2seq,
    resnet,
    ddpm,
    reinforce,
    time_sequence_prediction,
    dcgan,
    siamese,
]


@pytest.fixture(autouse=True)
def _one_thread_of_torch() -> Iterator[None]:
    """At these sizes torch's threads wait for each other, and on a busy machine for seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def numbers(model: Any) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_program_written_for_torch_trains_alike(program: ModuleType) -> None:
    torch.manual_seed(0)
    theirs, ours = program.model(torch), program.model(minidl)
    start = numbers(theirs)
    ours.load_state_dict({name: minidl.tensor(value) for name, value in start.items()}, strict=True)
    data = program.data(np.random.default_rng(0))
    expected, losses = program.train(torch, theirs, *data), program.train(minidl, ours, *data)

    # Sums are rounded in another order, in 24 or 53 bits, and every step hands that on to the next.
    double = any(value.dtype == np.float64 for value in start.values())
    rtol = 1e-8 if double else 1e-4
    np.testing.assert_allclose(losses, expected, rtol=rtol)
    end = numbers(theirs)
    assert list(numbers(ours)) == list(end)
    assert any(not np.array_equal(end[name], start[name]) for name in end)
    for name, value in numbers(ours).items():
        assert value.dtype == end[name].dtype
        np.testing.assert_allclose(value, end[name], rtol=rtol, atol=rtol * np.abs(end[name]).max(), err_msg=name)
