"""Machines without what only large ones have: their tokens are the same, and what lacks is told."""

from dataclasses import replace

import pytest

from host.checkup import compare
from host.compiler import compile_image
from host.device import LinkDevice
from host.errors import DeviceError, UsageError
from host.urls import SIMULATED, open_device
from hw.arch.protocol import NO_FEATURES, Totals
from hw.boards import board
from sim.device import SimulatedPort
from sim.golden_device import GoldenDevice
from sim.models import random_model
from sim.profile import machine, measure
from sim.timing import predict
from weights.checkpoint import ModelShape

pytestmark = pytest.mark.whole


def test_the_smallest_board_generates_what_golden_does(stories_nano):
    with open_device("sim://icebreaker") as device:
        identity = device.identify()
        assert (identity.features, identity.max_payload) == (NO_FEATURES, 256)
        assert compare(device, stories_nano) > 0
        prompt = list(range(1, 40))
        assert len(list(device.generate(prompt, 20, stop=None))) == 20
        assert device.totals() == Totals()
        with pytest.raises(UsageError, match="only chooses greedily; ask for a temperature of 0"):
            device.generate(prompt, 20, temperature=0.5)
        with pytest.raises(DeviceError, match="keeps its results to itself; build it with RESULTS"):
            next(device.logits([1]))
        with pytest.raises(DeviceError, match="the state of a sequence to itself"):
            device.state()
        with pytest.raises(UsageError, match="icebreaker counts no cycles to profile"):
            machine(device)


def test_features_change_no_cycle(stories_nano):
    """So that a board is measured with counters, if it has none."""
    profile, cycles = measure(board("icebreaker"), stories_nano, "stories-nano", tokens=3)
    assert profile.counted == profile.predicted
    assert cycles == predict(profile.timing.image, board("icebreaker").machine).cycles


def test_a_compact_machine_with_all_features_is_predicted(tmp_path):
    """Its stores have registers, so that its vector unit reads later than the board's."""
    usual = board("sim_tiny")
    compact = replace(usual, machine=replace(usual.machine, compact=True))
    model = random_model(
        tmp_path, ModelShape(hidden=22, layers=2, intermediate=35, vocabulary=61), seed=5
    )
    golden = GoldenDevice()
    golden.load(model)
    with LinkDevice(SimulatedPort(compact.core()), name="compact", **SIMULATED) as device:
        device.load(model)
        image = compile_image(model, usual.geometry)
        timing = predict(image, compact.machine)
        assert timing.cycles > predict(image, usual.machine).cycles
        chosen = list(device.generate([3, 1, 4], 6, temperature=0.8, seed=2, stop=None))
        assert chosen == list(golden.generate([3, 1, 4], 6, temperature=0.8, seed=2, stop=None))
        counted = [cycles for _, cycles in device.counters()]
        assert counted == timing.counters(chosen=6, read=2)
        assert device.totals() == timing.totals(chosen=6, read=2)
        for ours, theirs in zip(device.logits([5, 9]), golden.logits([5, 9]), strict=True):
            assert (ours == theirs).all()
