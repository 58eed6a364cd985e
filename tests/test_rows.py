"""Whole machines whose weights come late, against the golden model: later, and never wrong."""

from dataclasses import replace

import pytest

from host.device import LinkDevice
from host.urls import open_device
from hw.arch.geometry import Geometry
from hw.arch.program import Unit
from hw.boards import board
from hw.core import Core
from hw.machine import Machine, Stores
from hw.memory.sdram.parts import EM638325, ULX3S
from hw.memory.sdram.store import Sdram
from sim.checkpoints import RandomCheckpoint
from sim.device import SimulatedPort
from sim.golden_device import GoldenDevice
from sim.timing import Timing, predict
from tests.late_rows import LateRows
from weights.checkpoint import Checkpoint, ModelShape
from weights.files import ZOO
from weights.model import IntegerModel
from weights.quantise import convert

SIZES = {
    "weight_rows": 900, "table_words": 1500, "descriptors": 160, "sums": 48, "multiplicands": 24,
    "vectors": 64, "states": 32, "activations": 48, "tokens": 24,
}  # fmt: skip
# A drain of as many beats as a group has chunks, of more, and of fewer.
MACHINES = {
    "2x4x1": Geometry(rows=2, columns=4, elements=1, **SIZES),
    "12x8x1": Geometry(rows=12, columns=8, elements=1, **SIZES),
    "8x4x4": Geometry(rows=8, columns=4, elements=4, **SIZES),
}
DENSE = Geometry(rows=10, columns=8, elements=2, trits_per_byte=5, **SIZES)
SHAPE = ModelShape(hidden=10, layers=2, intermediate=17, vocabulary=29)
PROMPT = [3, 28, 0, 11]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> IntegerModel:
    folder = tmp_path_factory.mktemp("model")
    RandomCheckpoint(shape=SHAPE, dtype="fp32", seed=7).write(folder)
    return convert(Checkpoint(folder))


CLOCK_HZ = 100_000_000


def opened(machine: Machine) -> LinkDevice:
    core = Core(machine=machine, board_name="late", clock_hz=CLOCK_HZ, digest=bytes(16))
    return LinkDevice(SimulatedPort(core))


def generations(device) -> list[list[int]]:
    """Of a store that goes on being late in its own way, each one meets another lateness."""
    return [
        list(device.generate(PROMPT[: 1 + seed % 4], 6, temperature=seed / 4, seed=seed))
        for seed in range(8)
    ]


@pytest.mark.whole
@pytest.mark.parametrize("name", MACHINES)
def test_tokens_equal_golden(name, model):
    golden = GoldenDevice()
    golden.load(model)
    expected = generations(golden)
    memory = LateRows(chance=150, longest=5, latency=5, seed=0xC0FFEE)
    machine = Machine(geometry=MACHINES[name], stores=Stores(weights=memory))
    with opened(machine) as device:
        device.load(model)
        assert generations(device) == expected
        list(device.generate(PROMPT[:1], 6))
        on_time, counted = predict(device.image, machine).totals(chosen=6), device.totals()
        assert counted.engine_cycles == on_time.engine_cycles  # a row each
        # The vector unit may hide all of it.
        assert 0 <= counted.cycles - on_time.cycles <= memory.longest * on_time.engine_cycles


def check_to_the_cycle(machine: Machine, model: IntegerModel) -> Timing:
    """Tokens equal to golden, and every step takes what is predicted."""
    golden = GoldenDevice()
    golden.load(model)
    with opened(machine) as device:
        device.load(model)
        assert generations(device) == generations(golden)
        list(device.generate(PROMPT[:1], 6))
        timing = predict(device.image, machine)
        assert [cycles for _, cycles in device.counters()] == timing.counters(chosen=6)
        assert device.totals() == timing.totals(chosen=6)
    return timing


@pytest.mark.whole
@pytest.mark.parametrize("chain", [2, 8])
def test_cascades_equal_golden(chain, model):
    """Every step takes what is predicted; products are longer the longer the cascades are."""
    timing = check_to_the_cycle(Machine(geometry=MACHINES["12x8x1"], chain=chain), model)

    def worked(timing: Timing) -> int:
        return sum(step.idle - step.issued for step in timing.steps if step.unit == Unit.ENGINE)

    assert worked(timing) > worked(predict(timing.image))


@pytest.mark.whole
def test_five_trits_in_a_byte_of_block_ram(model):
    """Tokens equal to golden, and every step takes what is predicted."""
    machine = Machine(geometry=DENSE)
    assert machine.weights.half_words == 8
    check_to_the_cycle(machine, model)


@pytest.mark.whole
@pytest.mark.parametrize(
    ("part", "ratio", "name", "rows_ahead"),
    [
        (ULX3S, 1, "8x4x4", 16),
        (EM638325, 2, "8x4x4", 16),
        pytest.param(EM638325, 1, "12x8x1", 2, marks=pytest.mark.slow),
    ],
)
def test_tokens_out_of_an_sdram_equal_golden(part, ratio, name, rows_ahead, model):
    golden = GoldenDevice()
    golden.load(model)
    clock_hz = CLOCK_HZ if ratio == 1 else 66_000_000
    memory = Sdram(part=part, clock_hz=clock_hz, ratio=ratio, rows_ahead=rows_ahead)
    machine = Machine(geometry=MACHINES[name], stores=Stores(weights=memory))
    with opened(machine) as device:
        device.load(model)
        assert generations(device) == generations(golden)
        list(device.generate(PROMPT[:1], 18))
        expected, counted = predict(device.image, machine).totals(chosen=18), device.totals()
        assert counted.engine_cycles == expected.engine_cycles
        assert counted.cycles == pytest.approx(expected.cycles, rel=0.02)


BESIDE = {
    # Where weights and embedding rows lie, and whether a token's cycles are known exactly.
    "embedding": (False, MACHINES["12x8x1"], ULX3S, True),
    "wide embedding": (False, MACHINES["8x4x4"], EM638325, True),
    "both, five trits in a byte": (True, DENSE, ULX3S, False),
}


@pytest.mark.whole
@pytest.mark.parametrize("name", BESIDE)
def test_an_embedding_in_an_sdram(name, model):
    weights, geometry, part, exact = BESIDE[name]
    golden = GoldenDevice()
    golden.load(model)
    memory = Sdram(part=part, clock_hz=CLOCK_HZ, rows_ahead=16)
    stores = Stores(embedding=memory, **({"weights": memory} if weights else {}))
    sizes = {"table_words": 700, "embedding_words": 600}
    machine = Machine(geometry=replace(geometry, **sizes), stores=stores)
    with opened(machine) as device:
        device.load(model)
        assert generations(device) == generations(golden)
        list(device.generate(PROMPT, 18))
        timing, counted = predict(device.image, machine), device.totals()
        expected = timing.totals(chosen=18, read=len(PROMPT) - 1)
        assert counted.engine_cycles == expected.engine_cycles
        assert counted.cycles == (
            expected.cycles if exact else pytest.approx(expected.cycles, rel=0.02)
        )
        device.verify()


@pytest.mark.whole
@pytest.mark.slow
@pytest.mark.parametrize("name", ["ulx3s_85f_sdram", "colorlight_i5"])
def test_a_model_that_no_chip_holds(name):
    """The largest shipped one: tokens, its timetable, and how much of the SDRAM's time is used."""
    model, machine = IntegerModel.load(ZOO / "stories-base.safetensors"), board(name).machine
    golden = GoldenDevice()
    golden.load(model)
    words = machine.weights.words
    with open_device(f"sim://{name}") as device:
        device.load(model)
        timing = predict(device.image, machine)
        for seed, prompt in enumerate(([1, 5, 7], [300, 2, 9, 4000], [17], [44, 45, 46, 47, 48])):
            if machine.geometry.contexts > 1:  # they read a prompt together: tests/test_contexts.py
                prompt = prompt[:1]
            options = {"temperature": seed / 3, "seed": seed}
            tokens = list(device.generate(prompt, 5, **options))
            assert tokens == list(golden.generate(prompt, 5, **options))
            expected = timing.totals(chosen=len(tokens), read=len(prompt) - 1)
            counted = device.totals()
            assert counted.engine_cycles == expected.engine_cycles
            assert counted.cycles == pytest.approx(expected.cycles, rel=0.002)
            assert counted.engine_cycles * words / counted.cycles > 0.96
