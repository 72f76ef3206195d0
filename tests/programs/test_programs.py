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


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[str]:
    for t in (torch, minidl):
        t.set_default_dtype(getattr(t, request.param))
    yield request.param
    for t in (torch, minidl):
        t.set_default_dtype(t.float32)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_program_written_for_torch_trains_alike(program: ModuleType, dtype: str) -> None:
    torch.manual_seed(0)
    theirs, ours = program.model(torch), program.model(minidl)
    start = numbers(theirs)
    ours.load_state_dict({name: minidl.tensor(value) for name, value in start.items()}, strict=True)
    data = program.data(np.random.default_rng(0))
    data = [x.astype(dtype) if x.dtype == np.float32 else x for x in map(np.asarray, data)]
    expected, losses = program.train(torch, theirs, *data), program.train(minidl, ours, *data)

    # Both round their sums, in another order, and every step hands that on to the next: in 24 bits it grew over
    # six seeds to 3e-6 of a loss and 6e-5 of a parameter (Adam, where a gradient is nearly zero), in 53 bits to 6e-11.
    rtol = 1e-4 if any(value.dtype == np.float32 for value in start.values()) else 1e-8
    np.testing.assert_allclose(losses, expected, rtol=rtol)
    end = numbers(theirs)
    assert list(numbers(ours)) == list(end)
    assert any(not np.array_equal(end[name], start[name]) for name in end)
    for name, value in numbers(ours).items():
        assert value.dtype == end[name].dtype
        np.testing.assert_allclose(value, end[name], rtol=rtol, atol=rtol * np.abs(end[name]).max(), err_msg=name)
