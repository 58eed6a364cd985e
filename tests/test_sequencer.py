"""The sequencer alone: which steps it issues, in which order, when, with what; and which tokens."""

import random
from dataclasses import dataclass, field

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
from hw.control.sequencer import Sequencer
from hw.memory.signatures import PROGRAM_LATENCY

GEOMETRY = Geometry(
    rows=4, columns=4, elements=2, weight_rows=4096, table_words=4096, descriptors=32,
    sums=64, multiplicands=32, vectors=64, states=4096, activations=32, tokens=16,
)  # fmt: skip
UNITS = {Unit.ENGINE: "engine", Unit.VECTOR: "vector", Unit.SCALAR: "scalar"}
PLACES = {Unit.ENGINE: 2, Unit.VECTOR: 4, Unit.SCALAR: 1}
"""Steps that a unit has under way at most."""


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
        **common, op=draw.choice(list(VectorOp)) if unit == Unit.VECTOR else 0,
        b=draw.randrange(REGISTERS), b_register=1, result=draw.randrange(REGISTERS),
        space=draw.choice([Space.SUMS, Space.MULTIPLICANDS]), layered=draw.getrandbits(1),
        shift=draw.randrange(-64, 64), length=draw.randrange(1, 99), operand=draw.randrange(1, 9),
        address=draw.randrange(99), source=draw.randrange(99), dest=draw.randrange(99),
    )  # fmt: skip


def random_program(draw: random.Random, layers: int) -> list[Descriptor]:
    steps = [random_step(draw) for _ in range(20)]
    stride = Stride(weights=700, tables=300, states=50)
    loop = Descriptor(
        unit=Unit.CONTROL, op=ControlOp.REPEAT, length=layers, dest=3, **stride.to_fields()
    )
    prefill_end = Descriptor(unit=Unit.CONTROL, op=ControlOp.PREFILL_END)
    end = Descriptor(unit=Unit.CONTROL, op=ControlOp.END)
    return [*steps[:12], loop, *steps[12:15], prefill_end, *steps[15:], end]


def register(number: int) -> tuple[int, int]:
    """Mantissa and exponent that the register file holds here."""
    return 1000 + number, -20 * number


@dataclass
class Machine:
    """What is around the sequencer: memories that answer late, and units that work for a while."""

    program: list[Descriptor]
    draw: random.Random
    choices: list[int]
    tokens: list[int] = field(default_factory=lambda: [0] * GEOMETRY.tokens)
    issued: list[tuple[Unit, dict, list[int]]] = field(default_factory=list)
    presets: list[tuple[int, int, int]] = field(default_factory=list)

    def run(self, prompt: list[int], stop_after: int | None = None, **request) -> None:
        """One run to its end; then ``produced``, ``counters`` and ``totals`` are the sequencer's.

        A command is kept with how many steps each unit had under way when it was issued.
        """
        dut = Sequencer(GEOMETRY)
        self.tokens[: len(prompt)] = prompt
        rows = [int.from_bytes(step.to_bytes(), "little") for step in self.program]
        rows += [0] * (GEOMETRY.descriptors - len(rows))

        async def bench(ctx):
            ends: dict[Unit, list[int]] = {unit: [] for unit in UNITS}
            ready = dict.fromkeys(UNITS, 0)
            rows_read = [0] * PROGRAM_LATENCY
            chosen = choice = 0
            for name, value in {"prompt_length": len(prompt), **request}.items():
                ctx.set(getattr(dut.run.payload, name), value)
            ctx.set(dut.run.valid, 1)
            await ctx.tick()
            ctx.set(dut.run.valid, 0)
            ctx.set(dut.preset.ready, 1)
            for cycle in range(20_000):
                if not ctx.get(dut.running):
                    break
                ctx.set(dut.program_data, rows_read.pop(0))
                for unit, name in UNITS.items():
                    ctx.set(getattr(dut, f"{name}_done"), ends[unit][:1] == [cycle])
                    takes = cycle >= ready[unit] and len(ends[unit]) < PLACES[unit]
                    ctx.set(getattr(dut, name).ready, takes)
                ctx.set(dut.engine_active, len(ends[Unit.ENGINE]) > 0)
                ctx.set(dut.choice, self.choices[choice])
                ctx.set(dut.stop, cycle == stop_after)
                if ctx.get(dut.preset.valid):
                    value = dut.preset.payload.value
                    found = (dut.preset.payload.register, value.mantissa, value.exponent)
                    self.presets.append(tuple(ctx.get(part) for part in found))
                under_way = [len(ends[unit]) for unit in UNITS]
                for unit, name in UNITS.items():
                    stream = getattr(dut, name)
                    if ctx.get(stream.valid) and ctx.get(stream.ready):
                        self.issued.append(
                            (unit, self.payload(ctx, name, stream.payload), under_way)
                        )
                        choice = chosen  # the vector unit keeps one until it makes another
                        took = self.draw.randrange(1, 40)
                        ends[unit].append(max([cycle + took, *(end + 1 for end in ends[unit])]))
                        ready[unit] = cycle + self.draw.randrange(1, took + 1)
                address, read = ctx.get(dut.program_address), ctx.get(dut.register_address)
                token_address = ctx.get(dut.token_address)
                if ctx.get(dut.token_write):
                    assert not any(ends.values()), "every unit has finished"
                    self.tokens[token_address] = ctx.get(dut.token_write_data)
                    chosen += 1
                await ctx.tick()
                rows_read.append(rows[address])
                mantissa, exponent = register(read)
                ctx.set(dut.register_value, {"mantissa": mantissa, "exponent": exponent})
                ctx.set(dut.token_data, self.tokens[token_address])
                ends = {unit: [end for end in of if end > cycle] for unit, of in ends.items()}
            else:
                raise AssertionError("the run does not end")
            self.produced = ctx.get(dut.produced)
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


def check_command(step: Descriptor, unit: Unit, command: dict, token: int):
    assert unit == step.unit
    if unit == Unit.ENGINE:
        assert command == {
            "groups": step.length,
            "chunks": step.operand,
            "weights": step.address,
            "activations": step.source,
            "dest": step.dest,
            "bank": int(step.space == Space.MULTIPLICANDS),
        }
        return
    assert command["a"] == register(step.a)
    if unit == Unit.SCALAR and not step.b_register:
        exponent = step.address >> 16
        assert command["b"] == (step.address & 0x7FFF, exponent - (exponent >> 9 << 10))
    else:
        assert command["b"] == register(step.b)
    same = ["op", "result"]
    if unit == Unit.VECTOR:
        same += ["space", "b_register", "shift", "length", "operand", "address", "source", "dest"]
        assert command["token"] == token
    assert {name: command[name] for name in same} == {name: getattr(step, name) for name in same}


@pytest.mark.parametrize("layers", [1, 3])
def test_steps_are_issued_in_order_and_none_before_its_time(layers):
    """Two prompt tokens and a chosen one: every command, after all that its step waits for."""
    draw = random.Random(layers)
    machine = Machine(program=random_program(draw, layers), draw=draw, choices=[7, 9, 0])
    machine.run([11, 12], generate=2, reset=1, mantissa=77, exponent=-3, noise=5, sampled=1)
    assert machine.presets == [(INVERSE_TEMPERATURE, 77, -3)]
    assert machine.tokens[:4] == [11, 12, 7, 9]
    steps = []
    for token, choosing in ((11, False), (12, True), (7, True)):
        steps += [(token, step) for step in expected(machine.program, choosing)]
    assert len(machine.issued) == len(steps)
    noises, crowded = {}, False
    for (token, step), (unit, command, under_way) in zip(steps, machine.issued, strict=True):
        check_command(step, unit, command, token)
        for name, count in zip(UNITS.values(), under_way, strict=True):
            left = getattr(step, f"{name}_left")
            assert left == ANY or count <= left, (step, name)
        crowded |= sum(under_way) > 1
        if unit == Unit.VECTOR:
            assert (command["first"], command["greedy"]) == (token == 11, 0)
            noises.setdefault(token, set()).add(command["noise"])
    assert crowded, "units had several steps under way"
    assert noises[11] == noises[12] == {5} and noises[7].isdisjoint({5})
    assert machine.produced == 4
    assert machine.totals["tokens"] == 3


def test_every_cycle_of_a_run_is_counted_once():
    draw = random.Random(4)
    machine = Machine(program=random_program(draw, 2), draw=draw, choices=[1] * 9)
    machine.run([3, 4, 5], generate=3, reset=1)
    tokens = machine.totals["tokens"]
    around = tokens * (Sequencer.TOKEN_CYCLES + Sequencer.END_CYCLES)
    total = Sequencer.run_cycles(GEOMETRY) + around + sum(machine.counters)
    assert (tokens, machine.totals["cycles"]) == (5, total)
    assert min(machine.counters) >= Sequencer.STEP_CYCLES
    assert 0 < machine.totals["engine_cycles"] < machine.totals["cycles"]


@pytest.mark.parametrize(
    ("request_", "produced"),
    [
        ({"generate": 3}, 5),
        ({"generate": 9, "stop_enable": 1, "stop_token": 8}, 4),  # which is appended, too
        ({"generate": 9, "stop_enable": 0, "stop_token": 8}, 11),
        ({"generate": 99}, GEOMETRY.tokens),
        ({"generate": 9, "stop_after": 150}, 2),  # in the prompt's first token
    ],
)
def test_runs_end(request_, produced):
    draw = random.Random(2)
    machine = Machine(program=random_program(draw, 1), draw=draw, choices=[6, 8, *range(20, 40)])
    machine.run([1, 2], **request_)
    assert machine.produced == produced
    assert machine.tokens[2:produced] == machine.choices[: produced - 2]
    assert not any(machine.tokens[produced:])
