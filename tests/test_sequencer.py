"""The sequencer alone: which steps it issues, in which order, when, with what; and which tokens."""

import random
from dataclasses import dataclass, field, replace

import pytest
from amaranth.sim import Simulator

from hw.arch.geometry import Geometry
from hw.arch.operations import VectorOp
from hw.arch.program import (
    ANY,
    INVERSE_TEMPERATURE,
    REGISTERS,
    ControlOp,
    Descriptor,
    ScalarOp,
    Space,
    Stride,
    Unit,
    immediate,
    unroll,
)
from hw.control.sequencer import FetchParameters, Sequencer

GEOMETRY = Geometry(
    rows=4, columns=4, elements=2, weight_rows=4096, table_words=4096, descriptors=32,
    sums=64, multiplicands=32, vectors=64, states=4096, activations=32, tokens=16,
)  # fmt: skip
UNITS = {Unit.ENGINE: "engine", Unit.VECTOR: "vector", Unit.SCALAR: "scalar"}
PLACES = {Unit.ENGINE: 2, Unit.VECTOR: 4, Unit.SCALAR: 1}
"""Steps that a unit has under way at most."""
AHEAD = FetchParameters()
COMPACT = [FetchParameters(latency=latency, compact=True) for latency in (1, 2)]
OPERATIONS = [op for op in VectorOp if op != VectorOp.CHOOSE]
"""What may be anywhere in a program."""


def random_step(draw: random.Random) -> Descriptor:
    unit = draw.choice(list(UNITS))
    common = {f"{name}_left": draw.randrange(4) for name in UNITS.values()}
    common |= {"unit": unit, "a": draw.randrange(REGISTERS)}
    if unit == Unit.SCALAR:
        constant = immediate(draw.getrandbits(15), draw.randrange(-512, 512))
        by_register = draw.getrandbits(1)
        return Descriptor(
            **common, op=draw.choice(list(ScalarOp)), b=draw.randrange(REGISTERS),
            b_register=by_register, result=draw.randrange(REGISTERS), address=constant,
        )  # fmt: skip
    return Descriptor(
        **common, op=draw.choice(OPERATIONS) if unit == Unit.VECTOR else 0,
        b=draw.randrange(REGISTERS), b_register=1, result=draw.randrange(REGISTERS),
        space=draw.choice([Space.SUMS, Space.MULTIPLICANDS]), layered=draw.getrandbits(1),
        shift=draw.randrange(-64, 64), length=draw.randrange(1, 99), operand=draw.randrange(1, 9),
        address=draw.randrange(99), source=draw.randrange(99), dest=draw.randrange(99),
    )  # fmt: skip


def random_program(draw: random.Random, layers: int) -> list[Descriptor]:
    steps = [random_step(draw) for _ in range(20)]
    stride = Stride(weights=700, tables=300, states=50)
    choose = Descriptor(unit=Unit.VECTOR, op=VectorOp.CHOOSE, b_register=1, length=3)
    loop = Descriptor(
        unit=Unit.CONTROL, op=ControlOp.REPEAT, length=layers, dest=3, **stride.to_fields()
    )
    prefill_end = Descriptor(unit=Unit.CONTROL, op=ControlOp.PREFILL_END)
    end = Descriptor(unit=Unit.CONTROL, op=ControlOp.END)
    return [*steps[:12], loop, *steps[12:15], prefill_end, *steps[15:], choose, end]


def register(number: int) -> tuple[int, int]:
    """Mantissa and exponent that the register file holds here."""
    return 1000 + number, -4 * number


@dataclass(kw_only=True)
class Run:
    """A run of a context, and what came of it."""

    prompt: list[int]
    choices: list[int]
    fields: dict[str, int] = field(default_factory=dict)
    after: int = 0  # a cycle before which it is not begun
    stop_after: int | None = None
    tokens: list[int] = field(default_factory=lambda: [0] * GEOMETRY.tokens)
    produced: int = 0


@dataclass
class Machine:
    """What is around the sequencer: memories that answer late, and units that work for a while."""

    program: list[Descriptor]
    draw: random.Random
    contexts: int = 1
    queued: int = 0
    fetch: FetchParameters = AHEAD
    issued: list[tuple[Unit, dict, list[int]]] = field(default_factory=list)
    presets: list[tuple[int, int, int]] = field(default_factory=list)
    refused: int = 0  # cycles in which the token buffer did not take a token

    def run(self, *runs: Run) -> None:
        """A run in each context to its end; ``counters`` and ``totals`` are the sequencer's.

        A command is kept with how many steps each unit had under way when it was issued.
        """
        geometry = replace(GEOMETRY, contexts=self.contexts)
        dut = Sequencer(geometry, queued=self.queued, fetch=self.fetch)
        rows = [int.from_bytes(step.to_bytes(), "little") for step in self.program]
        rows += [0] * (geometry.descriptors - len(rows))
        for run in runs:
            run.tokens[: len(run.prompt)] = run.prompt

        async def bench(ctx):
            ends: dict[Unit, list[int]] = {unit: [] for unit in UNITS}
            ready = dict.fromkeys(UNITS, 0)
            rows_read = [0] * self.fetch.latency
            choices = [iter(run.choices) for run in runs]
            to_choose: list[tuple[int, int]] = []  # when the vector unit tells which choice
            waiting = dict(enumerate(runs))
            for cycle in range(60_000):
                coming = [c for c, run in waiting.items() if run.after <= cycle][:1]
                for context in coming:
                    run = runs[context]
                    fields = {"prompt_length": len(run.prompt), "context": context, **run.fields}
                    ctx.set(dut.run.payload, fields)
                ctx.set(dut.run.valid, len(coming) > 0)
                if not waiting and not ctx.get(dut.running):
                    break
                ctx.set(dut.program_data, rows_read.pop(0))
                for unit, name in UNITS.items():
                    ctx.set(getattr(dut, f"{name}_done"), ends[unit][:1] == [cycle])
                    takes = cycle >= ready[unit] and len(ends[unit]) < PLACES[unit] + self.queued
                    ctx.set(getattr(dut, name).ready, takes)
                ctx.set(dut.engine_active, len(ends[Unit.ENGINE]) > 0)
                told = [context for end, context in to_choose if end == cycle]
                ctx.set(dut.choice.valid, len(told) > 0)
                for context in told:
                    token = next(choices[context])
                    ctx.set(dut.choice.payload, {"context": context, "token": token})
                ctx.set(dut.stop, sum((run.stop_after == cycle) << c for c, run in enumerate(runs)))
                ctx.set(dut.token_ready, self.draw.random() < 0.7)
                if ctx.get(dut.preset.valid):
                    value = dut.preset.payload.value
                    found = (dut.preset.payload.register, value.mantissa, value.exponent)
                    self.presets.append(tuple(ctx.get(part) for part in found))
                under_way = [len(ends[unit]) for unit in UNITS]
                for unit, name in UNITS.items():
                    stream = getattr(dut, name)
                    if ctx.get(stream.valid) and ctx.get(stream.ready):
                        command = self.payload(ctx, name, stream.payload)
                        self.issued.append((unit, command, under_way))
                        took = self.draw.randrange(1, 40)
                        end = max([cycle + took, *(end + 1 for end in ends[unit])])
                        ends[unit].append(end)
                        ready[unit] = cycle + self.draw.randrange(1, took + 1)
                        if unit == Unit.VECTOR and command["op"] == VectorOp.CHOOSE:
                            to_choose.append((end, command["context"]))
                address, read = ctx.get(dut.program_address), ctx.get(dut.register_address)
                context, token = divmod(ctx.get(dut.token_address), geometry.tokens)
                self.refused += ctx.get(dut.token_write) and not ctx.get(dut.token_ready)
                if ctx.get(dut.token_write) and ctx.get(dut.token_ready):
                    assert not any(ends.values()), "every unit has finished"
                    runs[context].tokens[token] = ctx.get(dut.token_write_data)
                taken = coming and ctx.get(dut.run.ready)
                await ctx.tick()
                for context_ in coming if taken else ():
                    del waiting[context_]
                rows_read.append(rows[address])
                mantissa, exponent = register(read)
                ctx.set(dut.register_value, {"mantissa": mantissa, "exponent": exponent})
                ctx.set(dut.token_data, runs[context].tokens[token] if context < len(runs) else 0)
                ends = {unit: [end for end in of if end > cycle] for unit, of in ends.items()}
            else:
                raise AssertionError("the run does not end")
            for context, run in enumerate(runs):
                ctx.set(dut.asked, context)
                await ctx.tick()
                run.produced = ctx.get(dut.produced)
            self.totals = {
                name: ctx.get(getattr(dut.totals, name))
                for name in ("cycles", "engine_cycles", "tokens")
            }
            self.counters = []
            for number in range(len(self.program)):
                ctx.set(dut.counter_address, number)
                await ctx.tick()
                self.counters.append(ctx.get(dut.counter_value))

        simulator = Simulator(dut)
        simulator.add_clock(1e-6)
        simulator.add_testbench(bench)
        simulator.run()

    @staticmethod
    def payload(ctx, name: str, payload) -> dict:
        """Fields of a command, scales as pairs."""
        found = {}
        for part in payload.shape().members:
            value = getattr(payload, part)
            if part in ("a", "b"):
                found[part] = ctx.get(value.mantissa), ctx.get(value.exponent)
            else:
                found[part] = ctx.get(value)
        return found


def expected(program: list[Descriptor], choosing: bool) -> list[Descriptor]:
    """Steps of units for one token, in order."""
    steps = []
    for _, _, step in unroll(program):
        if (step.unit, step.op) == (Unit.CONTROL, ControlOp.PREFILL_END) and not choosing:
            break
        if step.unit != Unit.CONTROL:
            steps.append(step)
    return steps


def check_command(step: Descriptor, unit: Unit, command: dict, token: int, context: int):
    assert unit == step.unit
    registers = REGISTERS * context
    if unit == Unit.ENGINE:
        assert command == {
            "groups": step.length,
            "chunks": step.operand,
            "weights": step.address,
            "activations": step.source,
            "dest": step.dest,
            "contexts": 1 << context,
            "bank": int(step.space == Space.MULTIPLICANDS),
        }
        return
    assert command["a"] == register(registers + step.a)
    if unit == Unit.SCALAR and not step.b_register:
        exponent = step.address >> 16
        assert command["b"] == (step.address & 0x7FFF, exponent - (exponent >> 9 << 10))
    else:
        assert command["b"] == register(registers + step.b)
    same = ["op"]
    if unit == Unit.VECTOR:
        same += ["space", "b_register", "shift", "length", "operand", "address", "source", "dest"]
        assert (command["token"], command["context"]) == (token, context)
        same.append("result")
    else:
        assert command["result"] == registers + step.result
    assert {name: command[name] for name in same} == {name: getattr(step, name) for name in same}


@pytest.mark.parametrize(
    ("layers", "fetch"), [(1, AHEAD), (3, AHEAD), *((3, each) for each in COMPACT)]
)
def test_steps_are_issued_in_order_and_none_before_its_time(layers, fetch):
    """Two prompt tokens and a chosen one: every command, after all that its step waits for."""
    draw = random.Random(layers)
    machine = Machine(program=random_program(draw, layers), draw=draw, fetch=fetch)
    run = Run(
        prompt=[11, 12],
        choices=[7, 9],
        fields={
            **{"generate": 2, "reset": 1, "sampled": 1},
            **{"mantissa": 77, "exponent": -3, "noise": 5},
        },
    )
    machine.run(run)
    assert machine.presets == [(INVERSE_TEMPERATURE, 77, -3)]
    assert run.tokens[:4] == [11, 12, 7, 9]
    steps = []
    for token, choosing in ((11, False), (12, True), (7, True)):
        steps += [(token, step) for step in expected(machine.program, choosing)]
    assert len(machine.issued) == len(steps)
    noises, crowded = {}, False
    for (token, step), (unit, command, under_way) in zip(steps, machine.issued, strict=True):
        check_command(step, unit, command, token, 0)
        for name, count in zip(UNITS.values(), under_way, strict=True):
            left = getattr(step, f"{name}_left")
            assert left == ANY or count <= left, (step, name)
        crowded |= sum(under_way) > 1
        if unit == Unit.VECTOR:
            assert (command["first"], command["greedy"]) == (token == 11, 0)
            noises.setdefault(token, set()).add(command["noise"])
    assert crowded, "units had several steps under way"
    assert noises[11] == noises[12] == {5} and noises[7].isdisjoint({5})
    assert run.produced == 4
    assert machine.totals["tokens"] == 3


@pytest.mark.parametrize(("contexts", "queued"), [(2, 0), (4, 0), (4, 3)])
def test_contexts_go_through_the_program_side_by_side(contexts, queued):
    """Each has the commands of its run alone, issued when all is over that its step waits for."""
    draw = random.Random(contexts + queued)
    machine = Machine(program=random_program(draw, 2), draw=draw, contexts=contexts, queued=queued)
    runs = [
        Run(
            prompt=[100 * c + i for i in range(1 + c % 3)],
            choices=[100 * c + 50 + i for i in range(9)],
            fields={"generate": 2 + c, "reset": 1, "noise": 1 + c, "mantissa": c},
            after=(0, 0, 40, 2000)[c],  # before the first token, within it, after that
        )
        for c in range(contexts)
    ]
    machine.run(*runs)
    assert machine.presets == [(INVERSE_TEMPERATURE + 16 * c, c, 0) for c in range(contexts)]
    wanted: list[list[tuple[int, Descriptor]]] = []
    for c, run in enumerate(runs):
        chosen = [100 * c + 50 + i for i in range(2 + c)]
        read = [*run.prompt, *chosen[:-1]]
        assert run.tokens[: len(run.prompt) + len(chosen)] == [*run.prompt, *chosen]
        assert run.produced == len(run.prompt) + len(chosen)
        steps = [
            [(token, step) for step in expected(machine.program, n >= len(run.prompt) - 1)]
            for n, token in enumerate(read)
        ]
        wanted.append([each for token in steps for each in token])
    assert machine.totals["tokens"] == sum(len(r.prompt) + 1 + c for c, r in enumerate(runs))
    assert len(machine.issued) == sum(map(len, wanted))

    # Of a context's steps of a unit, by number: when they were issued, counted by all commands.
    history: dict[Unit, list[int]] = {unit: [] for unit in UNITS}
    crowded = False
    for unit, command, under_way in machine.issued:
        context = next(
            c for c, steps in enumerate(wanted) if steps and fits(*steps[0], unit, command, c)
        )
        token, step = wanted[context].pop(0)
        check_command(step, unit, command, token, context)
        for of, count in zip(UNITS, under_way, strict=True):
            left = step.left[of]
            mine = [n for n, c in enumerate(history[of]) if c == context]
            if left != ANY and left < len(mine):
                over = len(history[of]) - count  # steps of that unit that are over
                assert mine[-1 - left] < over, (step, of)
            crowded |= count > 2
        history[unit].append(context)
    assert crowded, "units had steps of several contexts under way"


def fits(token: int, step: Descriptor, unit: Unit, command: dict, context: int) -> bool:
    """Whether a command may be that of a context."""
    try:
        check_command(step, unit, command, token, context)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("fetch", [AHEAD, *COMPACT])
def test_every_cycle_of_a_run_is_counted_once(fetch):
    draw = random.Random(4)
    machine = Machine(program=random_program(draw, 2), draw=draw, fetch=fetch)
    run = Run(prompt=[3, 4, 5], choices=[1] * 9, fields={"generate": 3, "reset": 1})
    machine.run(run)
    tokens = machine.totals["tokens"]
    around = tokens * (Sequencer.TOKEN_CYCLES + Sequencer.END_CYCLES) + machine.refused
    total = Sequencer.run_cycles(GEOMETRY) + around + sum(machine.counters)
    assert (tokens, machine.totals["cycles"]) == (5, total)
    assert min(machine.counters) >= fetch.step_cycles
    assert 0 < machine.totals["engine_cycles"] < machine.totals["cycles"]


@pytest.mark.parametrize(
    ("request_", "produced"),
    [
        ({"generate": 3}, 5),
        ({"generate": 9, "stop_enable": 1, "stop_token": 8}, 4),  # which is appended, too
        ({"generate": 9, "stop_enable": 0, "stop_token": 8}, 11),
        ({"generate": GEOMETRY.tokens - 2}, GEOMETRY.tokens),
        ({"generate": 9, "stop_after": 150}, 2),  # in the prompt's first token
    ],
)
def test_runs_end(request_, produced):
    draw = random.Random(2)
    machine = Machine(program=random_program(draw, 1), draw=draw)
    stop_after = request_.pop("stop_after", None)
    run = Run(prompt=[1, 2], choices=[6, 8, *range(20, 40)], fields=request_, stop_after=stop_after)
    machine.run(run)
    assert run.produced == produced
    assert run.tokens[2:produced] == run.choices[: produced - 2]
    assert not any(run.tokens[produced:])
