"""Answers in parts: requests are taken apart, states are kept and given back, nothing changes."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.device import Device
from host.errors import RefusedError, UsageError
from host.request import Request
from host.urls import open_device
from hw.arch.protocol import MemorySpace
from sim.models import random_model
from weights.checkpoint import ModelShape

SHAPE = ModelShape(hidden=37, layers=3, intermediate=61, vocabulary=301)
SIMULATED = ("sim://sim_tiny", "sim://ulx3s_85f", "sim://sim_small")
"""Machines of one, two and four elements."""
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


@pytest.mark.whole
@pytest.mark.parametrize("url", SIMULATED)
def test_a_state_goes_from_device_to_device(model, url):
    """Half an answer here, half there, and others in between: the same tokens, the same states."""
    with open_device(url) as simulated:
        golden = open_device("golden://")
        for device in (golden, simulated):
            device.load(model)
        whole = request(PROMPT, 20, 0.9, seed=3)
        expected = list(golden.answer(whole))
        final = golden.state()
        for order in ((golden, simulated), (simulated, golden), (simulated, simulated)):
            chosen, left = [], whole
            for device, most in zip(order, (15, 40), strict=True):
                part = left.part(most)
                chosen += (got := list(device.answer(part)))
                left = left.after(part, got)
                kept = device.state()
                for other in (golden, simulated):
                    list(other.generate([1, 2, 3], 4, temperature=1.0))
                    other.reset()
                    other.restore(kept)
            assert left is None and chosen == expected
            assert (kept == final).all()
        # A stop token that the machine does not know, though it goes on.
        stops = request(PROMPT, 20, 0.9, seed=3, stop=[300, expected[4]])
        states = []
        for device in (golden, simulated):
            assert list(device.answer(stops)) == expected[: expected.index(expected[4]) + 1]
            states.append(device.state())
        assert (states[0] == states[1]).all()


@pytest.mark.whole
@pytest.mark.parametrize("url", SIMULATED)
def test_every_state_of_a_machine_can_be_read_and_written(url):
    """All bits of all elements, alone and in ranges that begin and end anywhere in a beat."""
    with open_device(url) as device:
        link, random = device._link, np.random.default_rng(7)
        geometry = device.identify().geometry

        def read(first, count):
            return np.frombuffer(link.read(MemorySpace.STATES, 2 * first, 2 * count), "<i4")

        words = random.integers(-(1 << 23), 1 << 23, geometry.states).astype("<i4")
        words[:2] = -(1 << 23), (1 << 23) - 1
        link.put(MemorySpace.STATES, 0, words.tobytes())
        for count in (1, 1, 2, 3, 5, 8):
            first = int(random.integers(geometry.states - count))
            words[first : first + count] ^= (1 << 24) - 1
            words = words << 8 >> 8
            link.write(MemorySpace.STATES, 2 * first, words[first : first + count].tobytes())
            assert (read(first, count) == words[first : first + count]).all()
        assert (read(0, geometry.states) == words).all()
        # What is above the 24 bits is not kept.
        link.write(MemorySpace.STATES, 2, np.array([0x12345678], "<i4").tobytes())
        assert read(1, 1) == 0x345678
        with pytest.raises(RefusedError, match=r"it refuses WRITE \(bad range\)"):
            link.write(MemorySpace.STATES, 1, bytes(4))


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
    with pytest.raises(UsageError, match="values are from -8388608 to 8388607"):
        device.restore(kept + (1 << 23))
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
