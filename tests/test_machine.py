"""A machine's options: they reach what is built, timed and estimated."""

from dataclasses import replace

import pytest
from amaranth.hdl import Fragment

from host.compiler import compile_image
from hw.boards import BoardError, board
from hw.core import Core
from hw.machine import BlockRam, Stores
from sim.timing import predict
from weights.files import ZOO
from weights.model import IntegerModel

TINY = board("sim_tiny").machine


def test_options_reach_the_core():
    stores = Stores(weights=BlockRam(latency=5))
    machine = replace(TINY, fanout=1, chain=4, digits_per_cycle=4, stores=stores)
    core = Core(machine=machine, board_name="x", clock_hz=10_000, digest=bytes(16))
    Fragment.get(core, None)
    assert core.engine.parameters == machine.engine
    assert (machine.engine.fanout, machine.engine.chain) == (1, 4)
    assert core.scalar.parameters == machine.scalar and machine.scalar.digits_per_cycle == 4
    assert core.vector.parameters == machine.vector
    assert core.normaliser.parameters == machine.normaliser
    assert core.weights.parameters.latency == machine.engine.row_latency == 5


def test_a_compact_machine_waits_for_block_ram_alone():
    stores = Stores(weights=BlockRam(latency=2))
    machine = replace(TINY, stores=stores, compact=True)
    core = Core(machine=machine, board_name="x", clock_hz=10_000, digest=bytes(16))
    Fragment.get(core, None)
    assert core.engine.parameters == machine.engine
    assert machine.engine.read_latency == core.activations.parameters.latency == 2
    assert core.tables.latency == machine.vector.read_latency == 2
    assert machine.engine.latency == TINY.engine.latency - 1
    narrow = replace(machine, stores=replace(stores, narrow=True))
    assert narrow.vector.read_latency == narrow.tables.read_latency == 1


def test_options_are_timed():
    image = compile_image(IntegerModel.load(ZOO / "stories-tiny.safetensors"), TINY.geometry)
    assert predict(image) == predict(image, TINY)
    machine = board("ulx3s_85f").machine
    image = compile_image(IntegerModel.load(ZOO / "stories-small.safetensors"), machine.geometry)
    usual, faster = predict(image, machine), predict(image, replace(machine, digits_per_cycle=4))
    assert faster.cycles < usual.cycles and faster.engine_cycles == usual.engine_cycles


def test_a_machine_of_another_size_is_not_timed():
    image = compile_image(IntegerModel.load(ZOO / "stories-tiny.safetensors"), TINY.geometry)
    with pytest.raises(ValueError, match=r"machine must have the image's Geometry\(rows=4"):
        predict(image, board("sim_small").machine)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("fanout", 0, "fanout must be a positive integer, not 0"),
        ("chain", 3, r"chain must divide columns \(4\), which 3 does not"),
        ("queued", 1, "queued must be 0 in a compact machine, not 1"),
        ("digits_per_cycle", 3, "digits_per_cycle must be 1, 2, 4, 8 or 16, not 3"),
    ],
)
def test_options_are_checked(option, value, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, compact=option == "queued", **{option: value})


def test_rows_out_of_an_sdram_are_timed():
    chosen = board("ulx3s_85f_sdram")
    image = compile_image(IntegerModel.load(ZOO / "stories-base.safetensors"), chosen.geometry)
    timing, store = predict(image, chosen.machine), chosen.machine.weights
    in_block_ram = Stores(embedding=chosen.machine.stores.embedding)
    at_once = predict(image, replace(chosen.machine, stores=in_block_ram))
    words = timing.engine_cycles * store.words
    assert timing.engine_cycles == at_once.engine_cycles
    assert at_once.cycles < words < timing.cycles < 1.04 * words
    assert timing.cycles < image.token_cycles  # or a token that is under way is given up

    few = replace(chosen.machine.stores.weights, rows_ahead=1)
    hasty = replace(chosen.machine, stores=Stores(weights=few, embedding=few))
    assert predict(image, hasty).cycles > timing.cycles  # nothing is read while the engine waits


def test_an_sdram_has_the_clock_of_its_machine():
    with pytest.raises(BoardError, match="clock_hz of the SDRAM must be the machine's 50000000, "):
        replace(board("ulx3s_85f_sdram"), clock_hz=50_000_000)
