"""The predicted timetable against the counters of the compiled core: equal, to the cycle."""

from itertools import pairwise

import numpy as np
import pytest

from host.compiler import compile_image
from host.errors import FitError
from host.urls import open_device
from hw.arch.operations import VectorOp
from hw.arch.program import Unit
from hw.boards import board
from hw.control.sequencer import READ_CYCLES, FetchParameters, Sequencer
from sim.checkpoints import RandomCheckpoint
from sim.timing import predict
from weights.checkpoint import Checkpoint, ModelShape
from weights.files import ZOO
from weights.model import IntegerModel
from weights.quantise import convert

pytestmark = pytest.mark.whole

MODELS = ("stories-tiny", "stories-fixture", "stories-small")
FITS = {
    "sim_tiny": {"stories-tiny"},
    "sim_small": {"stories-tiny", "stories-fixture"},
    "ulx3s_85f": set(MODELS),
}
# Each unit is the slowest in one of them; with 1 and 3, results meet at the registers.
SHAPES = [
    ModelShape(hidden=1, layers=1, intermediate=1, vocabulary=2),
    ModelShape(hidden=37, layers=2, intermediate=61, vocabulary=301),
    ModelShape(hidden=97, layers=1, intermediate=131, vocabulary=1001),
    *(ModelShape(hidden=n, layers=2, intermediate=3 * n, vocabulary=9) for n in (3, 9, 22, 31)),
]


@pytest.fixture(scope="module")
def device(request):
    opened = open_device(f"sim://{request.param}")
    yield opened
    opened.close()


def shipped(name: str) -> IntegerModel:
    return IntegerModel.load(ZOO / f"{name}.safetensors")


@pytest.fixture(scope="module")
def small():
    chosen = board("ulx3s_85f")
    return predict(compile_image(shipped("stories-small"), chosen.geometry), chosen.machine)


def check(device, prompt, tokens):
    """Counters of every step and totals of one generation."""
    machine = board(device.identify().board).machine
    if machine.geometry.contexts > 1:  # they read a prompt together: tests/test_contexts.py
        prompt = prompt[:1]
    timing = predict(device.image, machine)
    assert timing.cycles < device.image.token_cycles  # or a token that is under way is given up
    chosen = len(list(device.generate(prompt, tokens)))
    read = len(prompt) - 1
    assert [name for name, _ in device.counters()] == list(device.image.steps)
    counted = [cycles for _, cycles in device.counters()]
    assert counted == timing.counters(chosen=chosen, read=read)
    assert device.totals() == timing.totals(chosen=chosen, read=read)


@pytest.mark.parametrize("device", FITS, indirect=True)
def test_shipped_models_take_what_is_predicted(device):
    fits = set()
    for name in MODELS:
        try:
            device.load(shipped(name))
        except FitError:
            continue
        fits.add(name)
        check(device, [0, 5, 7], 4)
    assert fits == FITS[device.name.removeprefix("sim://")]


@pytest.mark.parametrize("device", ["sim_tiny", "sim_small"], indirect=True)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape_takes_what_is_predicted(device, shape, tmp_path):
    RandomCheckpoint(shape=shape, dtype="fp32", seed=shape.hidden).write(tmp_path)
    device.load(convert(Checkpoint(tmp_path)))
    check(device, np.arange(4) % shape.vocabulary, 5)


def test_steps_are_issued_in_order_and_wait_for_what_they_name(small):
    cycle, fetch = Sequencer.TOKEN_CYCLES, FetchParameters()
    for step in small.steps:
        assert step.fetched == cycle
        constant = step.unit == Unit.SCALAR and step.descriptor.layered
        least = fetch.step_cycles + fetch.constant_cycles * constant
        assert step.cycles == least + step.waited
        assert (step.waited_for == "nothing") == (step.waited == 0)
        if step.blocker:
            free = step.blocker.idle + READ_CYCLES
            assert step.issued == free or step.waited_for == "own unit"
            assert step.issued in (free, step.freed)
        cycle = step.issued + 1
    assert small.cycles == cycle + Sequencer.END_CYCLES
    assert small.prefill[-1].name == "prefill end"
    assert small.prefill_cycles < small.cycles


def test_steps_of_one_unit_follow_each_other(small):
    for unit in (Unit.ENGINE, Unit.VECTOR, Unit.SCALAR):
        mine = [step for step in small.steps if step.unit == unit]
        for before, after in pairwise(mine):
            assert before.issued < min(before.idle, after.issued)
            assert before.idle < after.idle


@pytest.fixture(scope="module", params=["ulx3s_85f", "icebreaker"])
def timing(request):
    """Of a machine whose units take a step as it is issued, and of a compact one."""
    chosen = board(request.param)
    return predict(compile_image(shipped(chosen.model), chosen.geometry), chosen.machine)


def test_critical_path_has_every_cycle_once(timing):
    path = timing.critical_path()
    assert path[0].start == Sequencer.TOKEN_CYCLES
    assert path[-1].end == timing.cycles - Sequencer.END_CYCLES
    assert all(a.end == b.start for a, b in pairwise(path))
    assert all(span.start < span.end for span in path)


def test_engine_waits_are_the_cycles_in_which_it_runs_nothing(timing):
    products = [step for step in timing.steps if step.unit == Unit.ENGINE]
    running = len({cycle for step in products for cycle in range(step.begun + 1, step.idle)})
    overhead = Sequencer.TOKEN_CYCLES + Sequencer.END_CYCLES
    waits = list(timing.engine_waits())
    assert sum(span.end - span.start for span in waits) == timing.cycles - overhead - running
    assert not any(span.working and span.step.unit == Unit.ENGINE for span in waits)


def test_a_compact_unit_works_before_a_step_is_issued():
    """It takes a step when that is done: until then it works, and nobody waits for its issue."""
    chosen = board("icebreaker")
    timing = predict(compile_image(shipped("stories-nano"), chosen.geometry), chosen.machine)
    vector, path = chosen.machine.vector, timing.critical_path()
    worked = {}
    for span in path:
        if span.working:
            worked[span.step.unit] = worked.get(span.step.unit, 0) + span.end - span.start
    steps = [step for step in timing.steps if step.unit == Unit.VECTOR]
    for step in steps:
        held = vector.holding(
            step.descriptor.length, VectorOp(step.descriptor.op), step.descriptor.operand
        )
        assert step.begun + held == step.issued and step.waited + held == step.issued - step.ready
    # A unit has one step at a time.
    assert all(a.idle <= b.begun + 1 for a, b in pairwise(steps))
    # Of this machine's, it is the one that sets the pace.
    assert (
        worked[Unit.VECTOR]
        > 0.7 * timing.cycles
        > max(cycles for unit, cycles in worked.items() if unit != Unit.VECTOR)
    )


def test_names(small):
    assert (small.steps[0].section, small.steps[0].kind) == ("", "embedding")
    step = next(s for s in small.steps if s.name == "layer 3 i quantise")
    assert (step.section, step.kind) == ("layer 3", "i quantise")


def test_lanes_are_used_as_stated(small):
    geometry = small.image.geometry
    assert small.engine_cycles * geometry.lanes >= small.image.trits_per_token
    share = small.image.trits_per_token / (geometry.lanes * small.cycles)
    assert small.utilization == share <= small.engine_cycles / small.cycles
