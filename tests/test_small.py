"""Machines without what only large ones have: their tokens are the same, and what lacks is told."""

import pytest

from host.checkup import compare
from host.errors import DeviceError, UsageError
from host.urls import open_device
from hw.arch.protocol import NO_FEATURES, Totals
from hw.boards import board
from sim.profile import machine, measure
from sim.timing import predict

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
