"""Models that no chip holds, out of an SDRAM: whole generations, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from host.device import LinkDevice
from host.urls import SIMULATED, open_device
from hw.boards import board
from hw.core import Core
from hw.machine import Machine, Stores
from hw.memory.sdram.parts import ULX3S
from hw.memory.sdram.store import Sdram
from sim.device import SimulatedPort
from sim.golden_device import GoldenDevice
from sim.timing import predict
from tests.models import random_model
from tests.test_core import PROMPTS
from weights.checkpoint import ModelShape
from weights.files import ZOO
from weights.model import IntegerModel

pytestmark = [pytest.mark.whole, pytest.mark.slow]


def test_32_prompts_greedy_and_sampled() -> None:
    model = IntegerModel.load(ZOO / "stories-base.safetensors")
    tokenizer = Tokenizer.from_str(model.tokenizer_json)
    golden = GoldenDevice()
    golden.load(model)
    with open_device("sim://ulx3s_85f_sdram") as device:
        device.load(model)
        for seed, prompt in enumerate(PROMPTS):
            ids = [model.start_token, *tokenizer.encode(prompt).ids]
            for temperature in (0.0, 0.5 + seed / 32):
                arguments = {"temperature": temperature, "seed": seed}
                expected = list(golden.generate(ids, 6, **arguments))
                assert list(device.generate(ids, 6, **arguments)) == expected
        device.verify()


SHAPE = ModelShape(hidden=512, layers=9, intermediate=1408, vocabulary=4096)
CLOCK_HZ = 70_000_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IntegerModel]:
    folder: Path = tmp_path_factory.mktemp("model")
    yield random_model(folder, SHAPE, 3)
    for path in folder.iterdir():
        path.unlink()  # megabytes, which pytest would keep for three runs


def machine() -> Machine:
    """That of a ULX3S, with its SDRAM for rows of weights in five trits a byte and embedding."""
    words = SHAPE.vocabulary * (1 + SHAPE.hidden // 4)
    memory = Sdram(part=ULX3S, clock_hz=CLOCK_HZ)
    geometry = replace(
        board("ulx3s_85f").geometry,
        **{"rows": 20, "columns": 8, "elements": 2, "trits_per_byte": 5},
        **{"weight_rows": 200_000, "table_words": 28_000, "embedding_words": 2 * words},
        **{"sums": 4100, "multiplicands": 1420, "vectors": 2048},
        **{"states": SHAPE.layers * SHAPE.hidden, "activations": SHAPE.intermediate},
    )
    return Machine(geometry=geometry, stores=Stores(weights=memory, embedding=memory))


def test_thirty_million_trits(large: IntegerModel) -> None:
    """Tokens, logits and states of the model are golden's; the timetable knows what it takes."""
    assert SHAPE.ternary_weights > 30e6
    golden = GoldenDevice()
    golden.load(large)
    core = Core(machine=machine(), board_name="large", clock_hz=CLOCK_HZ, digest=bytes(16))
    with LinkDevice(SimulatedPort(core, timeout=0.05), **SIMULATED) as device:
        device.load(large)
        for arguments in ({}, {"temperature": 1.0, "seed": 5}):
            tokens = list(device.generate([17], 2, **arguments))
            assert tokens == list(golden.generate([17], 2, **arguments))
            assert (device.state() == golden.state()).all()
        expected, counted = predict(device.image, machine()).totals(chosen=2), device.totals()
        assert counted.engine_cycles == expected.engine_cycles
        assert counted.cycles == pytest.approx(expected.cycles, rel=0.01)
        (ours,), (theirs,) = device.logits([17]), golden.logits([17])
        assert (ours == theirs).all()
