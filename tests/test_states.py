"""Answers in parts: requests are taken apart, states are kept and given back, nothing changes."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.device import Device
from host.errors import UsageError
from host.request import Request
from host.urls import open_device
from tests.models import random_model
from weights.checkpoint import ModelShape

SHAPE = ModelShape(hidden=37, layers=3, intermediate=61, vocabulary=301)
PROMPT = [5, 299, 0, 17, 150, 3, 8]


def request(prompt, tokens, temperature=0.0, seed=0, stop=None) -> Request:
    return Request.of(prompt, tokens, temperature, seed, stop, vocabulary=SHAPE.vocabulary)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("model"), SHAPE, 5)


@pytest.fixture(params=["golden://", pytest.param("native://", marks=pytest.mark.whole)])
def device(request, model):
    with contextlib.closing(open_device(request.param)) as device:
        device.load(model)
        yield device


def in_parts(device: Device, request: Request, most: int, between) -> list[int]:
    """An answer taken part by part, with something else in between."""
    chosen: list[int] = []
    left: Request | None = request
    while left:
        part = left.part(most)
        assert len(part.prompt) + max(part.tokens, 1) - 1 <= most
        got = list(device.answer(part))
        chosen += got
        left = left.after(part, got)
        between(device)
    return chosen


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("most", [1, 2, 3, 7, 8, 30])
def test_other_sequences_between_change_nothing(device, most, temperature):
    whole = request(PROMPT, 20, temperature, seed=3)
    expected = list(device.answer(whole))
    final = device.state()

    def between(device):
        kept = device.state()
        list(device.generate([1, 2, 3], 4, temperature=1.0))
        device.restore(kept)
        assert (device.state() == kept).all()

    assert in_parts(device, whole, most, between) == expected
    assert (device.state() == final).all()
    stops = request(PROMPT, 20, temperature, seed=3, stop=[300, expected[11]])
    ended = expected[: expected.index(expected[11]) + 1]
    assert in_parts(device, stops, most, between) == list(device.answer(stops)) == ended


@pytest.mark.whole
def test_states_are_those_of_golden(model):
    """A state is the same on both, and one that is kept from one goes on on the other."""
    devices = [open_device(url) for url in ("golden://", "native://")]
    states = []
    for device in devices:
        device.load(model)
        list(device.answer(request(PROMPT, 9)))
        states.append(device.state())
    assert all(state.dtype == np.int32 and state.shape == (3, 37) for state in states)
    assert (states[0] == states[1]).all() and states[0].any()
    rest = Request.reading([4], resume=True)
    for device, state in zip(devices, reversed(states), strict=True):
        device.restore(state)
        list(device.answer(rest))
    assert (devices[0].state() == devices[1].state()).all()
    for device in devices:
        device.close()


def test_only_a_state_that_is_known_is_gone_on_from(device):
    resumed = Request.reading([1], resume=True)
    message = "it has no state to go on from; take an answer to its end"
    with pytest.raises(UsageError, match=message):
        device.state()
    with pytest.raises(UsageError, match=message):
        list(device.answer(resumed))
    list(device.answer(request([3], 2)))
    kept = device.state()
    cut = device.answer(request([3], 5))
    next(cut)
    cut.close()
    with pytest.raises(UsageError, match=message):
        list(device.answer(resumed))
    device.restore(kept)
    assert list(device.answer(resumed)) == []
    with pytest.raises(UsageError, match="is 3 x 37 integers, not 3 x 36 of int32"):
        device.restore(kept[:, :-1])
    with pytest.raises(UsageError, match="integers, not 3 x 37 of float64"):
        device.restore(kept / 2)
    with pytest.raises(UsageError, match="values are from -4194304 to 4194303"):
        device.restore(kept + (1 << 22))
    assert (device.state() != kept).any()


@given(
    prompt=st.integers(1, 40),
    tokens=st.integers(1, 40),
    most=st.integers(1, 50),
    sampled=st.booleans(),
)
def test_parts_are_all_of_a_request(prompt, tokens, most, sampled):
    """Every token goes through once, in order, and the noise goes on where it was."""
    whole = request([i % 300 for i in range(prompt)], tokens, 0.5 if sampled else 0.0, seed=9)
    read, chosen, left = [], [], whole
    noises = {}
    while left:
        assert left.resume == bool(read)
        part = left.part(most)
        through = [*part.prompt, *(1000 + len(chosen) + i for i in range(part.tokens))]
        if part.tokens:
            noises[len(chosen)] = part.noise
        got = through[len(part.prompt) :]
        read += part.prompt
        read += got[:-1]
        chosen += got
        left = left.after(part, got)
    assert chosen == [1000 + i for i in range(tokens)]
    assert read == [*whole.prompt, *chosen[:-1]]
    if sampled:
        one = {0: whole.noise}
        step = whole
        for at in range(1, tokens):
            part = step.part(len(step.prompt))
            step = step.after(part, [1])
            one[at] = step.noise
        assert noises == {at: one[at] for at in noises}
    else:
        assert set(noises.values()) == {whole.noise}
