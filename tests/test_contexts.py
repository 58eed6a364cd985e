"""Several sequences in a machine, each against the golden model, all against the timetable."""

from __future__ import annotations

import contextlib
import itertools
import random
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from amaranth.sim import Simulator

from host.compiler import compile_image
from host.device import LinkDevice
from host.request import Request
from host.serve import scheduler
from host.serve.scheduler import Ending
from host.side_by_side import side_by_side
from host.slot import LinkSlot
from hw.arch.geometry import Geometry
from hw.arch.memories import Kind
from hw.arch.program import Unit
from hw.arch.protocol import (
    Command,
    MemorySpace,
    PollReply,
    RunRequest,
    Totals,
    argument_struct,
)
from hw.control.sequencer import Sequencer
from hw.core import Core
from hw.machine import Machine, Stores
from hw.memory.bank import DEEP
from hw.memory.sdram.parts import ULX3S
from hw.memory.sdram.store import Sdram
from hw.turns import Turns
from sim.checkpoints import RandomCheckpoint
from sim.device import SimulatedPort
from sim.golden_device import GoldenDevice
from sim.timing import predict
from tests.services import wait_for
from weights.checkpoint import Checkpoint, ModelShape
from weights.model import IntegerModel
from weights.quantise import convert

SHAPE = ModelShape(hidden=37, layers=2, intermediate=61, vocabulary=301)
GEOMETRY = Geometry(
    rows=4, columns=4, elements=2, weight_rows=4096, table_words=8192, descriptors=128, sums=512,
    multiplicands=128, vectors=256, states=128, activations=256, tokens=64, contexts=4,
)  # fmt: skip
MACHINES = [
    Machine(geometry=GEOMETRY, queued=4),
    Machine(geometry=replace(GEOMETRY, elements=1, sums=1024, states=512), shared=True),
]


def test_banks_of_one_machine_are_deep():
    """Their writes pass registers; what is read then, is what was written."""
    for machine, deep in zip(MACHINES, ((), ("sums", "states")), strict=True):
        banks = {name: row for name, row in machine.memories.items() if row.kind == Kind.BANK}
        assert {name for name, row in banks.items() if row.words >= DEEP} == set(deep)


@pytest.mark.parametrize("contexts", [1, 2, 4, 8])
def test_turns(contexts):
    """All members of a set in rising order, and how many there are beside and after each."""
    dut = Turns(contexts)

    async def bench(ctx):
        for members in range(1, 1 << contexts):
            ctx.set(dut.members, members)
            ctx.set(dut.load, 1)
            await ctx.tick()
            ctx.set(dut.load, 0)
            ctx.set(dut.members, 0)
            own = [context for context in range(contexts) if members >> context & 1]
            for place, context in enumerate(own):
                assert (ctx.get(dut.number), ctx.get(dut.own)) == (context, 1 << context)
                assert ctx.get(dut.taking) == members
                assert ctx.get(dut.others) == len(own) - 1
                assert ctx.get(dut.after) == len(own) - 1 - place
                await ctx.tick()
                ctx.set(dut.next, 1)
                await ctx.tick()
                ctx.set(dut.next, 0)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> IntegerModel:
    folder = tmp_path_factory.mktemp("model")
    RandomCheckpoint(shape=SHAPE, dtype="fp32", seed=3).write(folder)
    return convert(Checkpoint(folder))


@pytest.fixture(scope="module", params=MACHINES, ids=["queued", "shared"])
def device(request, model) -> Iterator[LinkDevice]:
    core = Core(machine=request.param, board_name="several", clock_hz=10**8, digest=bytes(16))
    with LinkDevice(SimulatedPort(core)) as opened:
        opened.machine = request.param
        opened.load(model)
        yield opened


@pytest.mark.whole
def test_each_context_is_as_it_would_be_alone(device, model):
    """Runs of all lengths, greedy and sampled, that begin and end while others go on."""
    golden = GoldenDevice()
    golden.load(model)
    draw = random.Random(1)
    requests = [
        Request.of(
            [draw.randrange(SHAPE.vocabulary) for _ in range(draw.randrange(1, 12))],
            draw.randrange(1, 30),
            draw.choice((0.0, 0.7, 1.5)),
            draw.randrange(99),
            None,
            vocabulary=SHAPE.vocabulary,
        )
        for _ in range(10)
    ]
    answers: list[list[int]] = [[] for _ in requests]
    for number, token in side_by_side(device, requests):
        if token is not None:
            answers[number].append(token)
    assert answers == [list(golden.answer(request)) for request in requests]


@pytest.mark.whole
def test_answers_that_stop_and_states_that_move(device, model):
    """Longer than the buffers, ended by one of several stop tokens; then on from elsewhere."""
    golden = GoldenDevice()
    golden.load(model)
    draw = random.Random(2)

    def some(stop=None) -> Request:
        prompt = [draw.randrange(SHAPE.vocabulary) for _ in range(draw.choice((1, 5, 70)))]
        settings = draw.randrange(1, 90), draw.choice((0.0, 0.9)), draw.randrange(99)
        return Request.of(prompt, *settings, stop, vocabulary=SHAPE.vocabulary)

    requests = [some() for _ in range(6)]
    middle = [list(golden.answer(request)) for request in requests]
    requests += [
        replace(request, stop=stop)
        for request, tokens in zip(requests, middle, strict=True)
        for stop in ((tokens[len(tokens) // 2],), (300, tokens[len(tokens) // 2]))
        if 300 not in tokens
    ]
    expected = [list(golden.answer(request)) for request in requests]
    found: list[list[int]] = [[] for _ in requests]
    for number, token in side_by_side(device, requests):
        found[number] += [] if token is None else [token]
    assert found == expected
    list(golden.answer(requests[0]))
    for slot in device.slots:
        slot.restore(golden.state())
    more = [replace(some(), resume=True) for _ in device.slots]
    answers = [slot.answer(each) for slot, each in zip(device.slots, more, strict=True)]
    begun = [next(answer) for answer in answers]
    state = golden.state()
    for first, answer, each in zip(begun, answers, more, strict=True):
        golden.restore(state)
        rest = [token for token in (first, *answer) if token is not None]
        assert rest == list(golden.answer(each))
    for slot, each in zip(device.slots, more, strict=True):
        golden.restore(state)
        list(golden.answer(each))
        assert (slot.state() == golden.state()).all()


@pytest.mark.whole
@pytest.mark.parametrize("contexts", [1, 2, 3, 4])
def test_contexts_take_what_is_predicted(device, contexts):
    """To the cycle, with whichever of the first one's tokens each of the others began."""
    tokens = 9
    requests = [
        Request.of([7 + context], tokens, 0.0, 0, None, vocabulary=SHAPE.vocabulary)
        for context in range(contexts)
    ]
    assert sum(token is not None for _, token in side_by_side(device, requests)) == (
        contexts * tokens
    )
    counted = device.totals()
    timings = {n: predict(device.image, device.machine, contexts=n) for n in range(1, contexts + 1)}
    assert counted.tokens == contexts * tokens
    assert counted.engine_cycles == contexts * tokens * timings[1].engine_cycles

    def cycles(begins: tuple[int, ...]) -> int:
        """Of all tokens, where each context's first one is beside that one of the first's."""
        beside = [
            sum(begin <= token < begin + tokens for begin in begins) for token in range(3 * tokens)
        ]
        run = Sequencer.run_cycles(GEOMETRY)
        return run + sum(timings[n].cycles for n in beside if n)

    begins = itertools.combinations_with_replacement(range(tokens), contexts - 1)
    assert counted.cycles in {cycles((0, *others)) for others in begins}


@pytest.mark.whole
def test_an_answer_of_the_device_is_read_by_all_contexts(device, model):
    """And by one once a state is kept elsewhere."""
    golden = GoldenDevice()
    golden.load(model)
    draw = random.Random(3)
    prompt = [draw.randrange(SHAPE.vocabulary) for _ in range(100)]
    device.load(model)  # nothing is kept
    took = []
    for _ in range(2):
        assert list(device.generate(prompt, 8)) == list(golden.generate(prompt, 8))
        took.append(device.totals())
        other = Request.of([1, 2], 3, 0.0, 0, None, vocabulary=SHAPE.vocabulary)
        assert len(list(device.slots[0].answer(other))) >= 3
    assert took[0].tokens == took[1].tokens == 107
    assert took[0].cycles != took[1].cycles
    assert list(device.logits([5, 6]))[1].tolist() == list(golden.logits([5, 6]))[1].tolist()


class Sink:
    """Keeps a session's tokens."""

    def __init__(self):
        self.tokens: list[int] = []
        self.token = self.tokens.append
        self._ended = threading.Event()

    def end(self, ending: Ending) -> None:
        self._ended.set()

    def result(self) -> list[int]:
        assert self._ended.wait(60)
        return self.tokens


@pytest.mark.whole
def test_a_session_alone_is_read_by_all_contexts(device, model, monkeypatch):
    """As much faster as is predicted, however little here; who comes then is served as ever."""
    machine, read = device.machine, []
    monkeypatch.setattr(device, "close", lambda: None)
    monkeypatch.setattr(scheduler, "CHAINED_GAIN", 0.0)
    monkeypatch.setattr(scheduler, "ALONE_SECONDS", 0.05)  # pieces
    answer = LinkSlot.answer

    def observed(slot: LinkSlot, request: Request, chained: bool = False):
        read.append(len(request.prompt) * chained)
        return answer(slot, request, chained)

    monkeypatch.setattr(LinkSlot, "answer", observed)
    golden = GoldenDevice()
    golden.load(model)
    draw = random.Random(5)
    common = [draw.randrange(SHAPE.vocabulary) for _ in range(30)]
    requests = [
        Request.of(
            [*common, *(draw.randrange(SHAPE.vocabulary) for _ in range(length))],
            *(9, 0.8 * (length % 2), length, None),
            vocabulary=SHAPE.vocabulary,
        )
        for length in (2, 6, 9, 80, 3)
    ]
    server = scheduler.Scheduler(lambda: device, model)
    server.start()
    with contextlib.closing(server):
        wait_for(lambda: server.status().state == scheduler.State.READY)
        gain = server._pace.gain
        for wanted in requests[:4]:
            server.submit(wanted, sink := Sink())
            if wanted is not requests[3]:
                assert sink.result() == list(golden.answer(wanted))
        server.submit(requests[4], late := Sink())
        assert late.result() == list(golden.answer(requests[4]))
        assert sink.result() == list(golden.answer(requests[3]))
    assert sum(read) > len(requests[0].prompt) + len(requests[1].prompt)
    one, four = (
        predict(device.image, machine, contexts=n, chained=n > 1) for n in (1, GEOMETRY.contexts)
    )
    run = Sequencer.run_cycles(machine.geometry)
    assert gain == (run + 3 * one.prefill_cycles + one.cycles) / (run + four.cycles)


@pytest.mark.whole
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 11, 30])
def test_a_prompt_that_all_contexts_read(device, model, length):
    """Tokens are those of a run that reads one token after the other; cycles are predicted."""
    golden = GoldenDevice()
    golden.load(model)
    draw = random.Random(length)
    prompt = [draw.randrange(SHAPE.vocabulary) for _ in range(length)]
    last, tokens = GEOMETRY.contexts - 1, 6
    request = Request.of(prompt, tokens, 1.0, length, None, vocabulary=SHAPE.vocabulary)
    link, hold = device.link, device.slots[last].runs
    link.write(MemorySpace.TOKENS, last * GEOMETRY.tokens, struct.pack(f"<{length}H", *prompt))
    order = RunRequest(
        context=last,
        session=hold._hold.session,
        run_id=length,
        prompt_length=length,
        generate=tokens,
        reset=True,
        chained=True,
        sampled=request.sampled,
        inverse_temperature=request.inverse_temperature,
        noise=request.noise,
    )
    link.exchange(Command.RUN, order.to_bytes())
    found: list[int] = []
    while len(found) < tokens:
        poll = argument_struct(Command.POLL).pack(last, length + len(found))
        found += PollReply.from_bytes(link.exchange(Command.POLL, poll)).tokens
    assert found == list(golden.answer(request))

    machine = device.machine
    first, image = (length - 1) % GEOMETRY.contexts + 1, device.image
    passes = [predict(image, machine, n, chained=True) for n in (first, GEOMETRY.contexts)]
    whole = (length - first) // GEOMETRY.contexts
    sizes = [passes[0], *[passes[1]] * whole]
    generated = (tokens - 1) * predict(image, machine).cycles
    cycles = sum(each.prefill_cycles for each in sizes[:-1]) + sizes[-1].cycles + generated
    while True:
        totals = Totals.from_bytes(link.read(MemorySpace.TOTALS, 0, Totals.LAYOUT.size // 2))
        if totals.tokens == length + tokens - 1:
            break
    assert totals.cycles == Sequencer.run_cycles(GEOMETRY) + cycles


def test_a_timetable_for_no_such_machine_is_refused(model):
    image = compile_image(model, GEOMETRY)
    with pytest.raises(ValueError, match="contexts must be from 1 to the machine's 4, not 5"):
        predict(image, MACHINES[0], contexts=5)


def test_several_contexts_keep_the_units_at_work(model):
    """What one context waits for is time of the others."""
    image, machine = compile_image(model, GEOMETRY), MACHINES[0]
    alone, four = predict(image, machine), predict(image, machine, contexts=4)
    assert four.cycles < 4 * alone.cycles
    assert four.utilization > alone.utilization
    of_one = [step for step in four.steps if step.context == 2]
    assert [step.number for step in of_one] == [step.number for step in alone.steps if step.unit]
    assert all(step.begun > step.issued for step in four.steps if step.unit)
    with pytest.raises(ValueError, match="4 contexts must have shared rows or queued steps"):
        replace(machine, queued=0)


def test_rows_that_are_late_cost_the_same_for_one_context_and_for_four(model):
    """Weights that come from an SDRAM are taken once for all, and there is time for all."""
    slow = Sdram(part=ULX3S, clock_hz=100_000_000)
    machine = Machine(geometry=GEOMETRY, stores=Stores(weights=slow), shared=True)
    image = compile_image(model, GEOMETRY)
    alone, four = predict(image, machine), predict(image, machine, contexts=4)
    products = [step for step in four.steps if step.unit == Unit.ENGINE]
    assert len(products) == sum(step.unit == Unit.ENGINE for step in alone.steps)
    assert {step.contexts for step in products} == {4}
    assert four.engine_cycles == 4 * alone.engine_cycles
    assert four.cycles < 4 * alone.cycles
    prompt = predict(image, machine, contexts=4, chained=True)
    assert prompt.prefill_cycles < 4 * alone.prefill_cycles
