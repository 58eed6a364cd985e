"""Models that no chip holds, out of an SDRAM: whole generations, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from host.device import LinkDevice
from host.urls import open_device
from hw.boards import board
from sim.golden_device import GoldenDevice
from sim.models import random_model
from sim.timing import predict
from tests.test_core import check_prompts
from weights.checkpoint import ModelShape
from weights.model import IntegerModel

pytestmark = [pytest.mark.whole, pytest.mark.slow]

BOARD = "ulx3s_85f_sdram"
SHAPE = ModelShape(hidden=512, layers=9, intermediate=1408, vocabulary=4096)


@pytest.fixture(scope="module")
def device() -> Iterator[LinkDevice]:
    device = open_device(f"sim://{BOARD}")
    assert isinstance(device, LinkDevice)
    with device:
        yield device


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> IntegerModel:
    folder: Path = tmp_path_factory.mktemp("model")
    model = random_model(folder, SHAPE, 3)
    for path in folder.iterdir():
        path.unlink()  # megabytes, which pytest would keep for three runs
    return model


def test_32_prompts_greedy_and_sampled(device: LinkDevice) -> None:
    check_prompts(device, "stories-base", 6)
    device.verify()


def test_thirty_million_trits(device: LinkDevice, large: IntegerModel) -> None:
    """Tokens, logits and states of the model are golden's; the timetable knows what it takes."""
    assert SHAPE.ternary_weights > 30e6
    golden = GoldenDevice()
    golden.load(large)
    device.load(large)
    assert device.image is not None
    for temperature in (0.0, 1.0):
        arguments = {"temperature": temperature, "seed": 5}
        tokens = list(device.generate([17], 2, **arguments))
        assert tokens == list(golden.generate([17], 2, **arguments))
        assert (device.state() == golden.state()).all()
    timing, counted = predict(device.image, board(BOARD).machine), device.totals()
    expected = timing.totals(chosen=2)
    assert counted.engine_cycles == expected.engine_cycles
    assert counted.cycles == pytest.approx(expected.cycles, rel=0.01)
    (ours,), (theirs,) = device.logits([17]), golden.logits([17])
    assert (ours == theirs).all()
