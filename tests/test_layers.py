"""The loop over layers in hardware against its definition, and the counters of steps."""

import random

from amaranth.sim import Simulator

from hw.arch.geometry import Geometry
from hw.arch.operations import VectorOp
from hw.arch.program import ControlOp, Descriptor, Space, Stride, Unit, unroll
from hw.control.counters import StepCounters
from hw.control.layers import Layers

GEOMETRY = Geometry(
    rows=4, columns=4, elements=2, weight_rows=1 << 20, table_words=50_000, descriptors=64,
    sums=64, multiplicands=32, vectors=64, states=1 << 17, activations=32, tokens=16,
)  # fmt: skip
KINDS = [
    (Unit.ENGINE, 0),
    *((Unit.VECTOR, op) for op in VectorOp),
    (Unit.SCALAR, 0),
    (Unit.CONTROL, ControlOp.PREFILL_END),
]


def simulate(component, testbench):
    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


def value(step: Descriptor) -> int:
    return int.from_bytes(step.to_bytes(), "little")


def program(draw: random.Random, layers: int) -> list[Descriptor]:
    """Steps of all kinds, some of them in a loop."""
    steps = [
        Descriptor(
            unit=unit,
            op=op,
            layered=draw.getrandbits(1),
            space=draw.choice(list(Space)),
            address=draw.randrange(1000),
            source=draw.randrange(1000),
            dest=draw.randrange(1000),
            operand=draw.randrange(1 << 16),
        )
        for unit, op in draw.sample(KINDS, k=len(KINDS))
    ]
    stride = Stride(weights=90_000, tables=3_000, states=700, constants=9)
    repeat = Descriptor(
        unit=Unit.CONTROL, op=ControlOp.REPEAT, length=layers, dest=2, **stride.to_fields()
    )
    return [*steps[:-1], repeat, steps[-1]]


def test_addresses_are_those_of_the_definition():
    draw = random.Random(5)
    layers = Layers(GEOMETRY)

    async def testbench(ctx):
        for count in (1, 2, 5, 3):  # nothing is left of the program before
            steps = program(draw, count)
            at, seen = 0, []
            while at < len(steps):
                step = steps[at]
                ctx.set(layers.step.as_value(), value(step))
                moved = ctx.get(layers.moved.as_value()).to_bytes(16, "little")
                seen.append((at, Descriptor.from_bytes(moved)))
                repeats = (step.unit, step.op) == (Unit.CONTROL, ControlOp.REPEAT)
                ctx.set(layers.repeat, repeats)
                at = step.dest if repeats and ctx.get(layers.again) else at + 1
                await ctx.tick()
                ctx.set(layers.repeat, 0)
            assert seen == [(number, step) for number, _, step in unroll(steps)]

    simulate(layers, testbench)


def test_counters_add_the_cycles_of_each_step():
    counters = StepCounters(8)
    durations = [(3, 4), (5, 3), (3, 9), (0, 3), (5, 100)]

    async def testbench(ctx):
        for number in range(8):
            ctx.set(counters.step, number)
            ctx.set(counters.clear, 1)
            await ctx.tick()
        ctx.set(counters.clear, 0)
        ctx.set(counters.begin, 1)
        await ctx.tick()
        ctx.set(counters.begin, 0)
        for number, cycles in durations:
            ctx.set(counters.step, number)
            await ctx.tick().repeat(cycles - 1)
            ctx.set(counters.done, 1)
            await ctx.tick()
            ctx.set(counters.done, 0)
        ctx.set(counters.reading, 1)
        found = []
        for number in range(8):
            ctx.set(counters.address, number)
            await ctx.tick()
            found.append(ctx.get(counters.value))
        assert found == [3, 0, 0, 13, 0, 103, 0, 0]

    simulate(counters, testbench)
