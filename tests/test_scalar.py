import random

import pytest
from amaranth.sim import Simulator

from hw.arch.program import ScalarOp
from hw.units.normaliser import NormaliserParameters
from hw.units.scalar import ScalarParameters
from weights.fixed import FULL_SCALE, ONE, ZERO, Scale

CORNERS = [
    ZERO,
    ONE,
    FULL_SCALE,
    Scale(1 << 14, 0),
    Scale((1 << 15) - 1, 0),
    Scale((1 << 15) - 1, -15),
    Scale((1 << 14) + 1, 1),
    Scale(1 << 14, -14),
    Scale(23170, -15),  # squares just below and above 2**29
    Scale(23171, -15),
    Scale(1 << 14, 240),
    Scale((1 << 15) - 1, -240),
]


def encode(scale):
    return {"mantissa": scale.mantissa, "exponent": scale.exponent}


def exercise(unit, sink, source, offers, busy, stalls, seed=0):
    """Sends payloads, returns results with the cycles of transfer, checks the stream rules."""
    rng = random.Random(seed)
    results, sent, idle = [], [], []

    async def feed(ctx):
        for payload in offers:
            while stalls and rng.random() < 0.3:
                await ctx.tick()
            ctx.set(sink.payload, payload)
            ctx.set(sink.valid, 1)
            await ctx.tick().until(sink.ready)
            ctx.set(sink.valid, 0)
            ctx.set(sink.payload, sink.payload.shape().const({}))

    async def drain(ctx):
        offered, was_busy, cycle = None, False, 0
        while len(idle) < len(offers):
            ctx.set(source.ready, not stalls or rng.random() < 0.4)
            _, _, accept, at_work, valid, ready, value = await ctx.tick().sample(
                sink.valid & sink.ready, busy, source.valid, source.ready, source.payload
            )
            seen = (value.register, value.value.mantissa, value.value.exponent)
            if was_busy and not at_work:
                idle.append(cycle)
            if accept:
                assert not at_work
                sent.append(cycle)
            if offered is not None:
                assert valid and seen == offered, "payload must be stable while offered"
            if valid:
                assert at_work
            if valid and ready:
                results.append((seen[0], Scale(*seen[1:])))
            offered = seen if valid and not ready else None
            was_busy, cycle = at_work, cycle + 1
            assert cycle < 60 * len(offers) + 100

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(feed)
    simulator.add_testbench(drain)
    simulator.run()
    return results, [b - a for a, b in zip(sent, idle, strict=True)]


def random_scale(rng, spread):
    if rng.random() < 0.05:
        return ZERO
    return Scale(rng.randrange(1 << 14, 1 << 15), rng.randint(-spread, spread))


def operations(seed, count):
    """Corner values with each other, random ones, and random ones whose sum overlaps."""
    rng = random.Random(seed)
    pairs = [(a, b) for a in CORNERS for b in CORNERS]
    rng.shuffle(pairs)
    pairs = pairs[:count]
    pairs += [(random_scale(rng, 200), random_scale(rng, 200)) for _ in range(count // 2)]
    pairs += [(random_scale(rng, 9), random_scale(rng, 9)) for _ in range(count // 2)]
    return [(op, a, b, rng.randrange(16)) for a, b in pairs for op in ScalarOp]


def command(op, a, b, register):
    return {"op": op, "a": encode(a), "b": encode(b), "result": register}


@pytest.mark.parametrize(
    ("digits", "compact"),
    [*((digits, False) for digits in (1, 2, 4, 8, 16)), (1, True), (4, True)],
)
def test_operations(digits, compact):
    parameters = ScalarParameters(digits_per_cycle=digits, compact=compact)
    unit = parameters.create()
    cases = operations(digits, 150 if digits <= 2 else 30)
    results, cycles = exercise(
        unit, unit.command, unit.result, [command(*case) for case in cases], unit.busy, False
    )
    for (op, a, b, register), got in zip(cases, results, strict=True):
        assert got == (register, parameters.compute(op, a, b)), (op, a, b)
    assert cycles == [parameters.cycles(op) for op, *_ in cases]
    assert max(cycles) <= 20


def test_stalls():
    parameters = ScalarParameters()
    unit = parameters.create()
    cases = operations(7, 20)
    results, _ = exercise(
        unit, unit.command, unit.result, [command(*case) for case in cases], unit.busy, True
    )
    assert results == [(case[3], parameters.compute(*case[:3])) for case in cases]


@pytest.mark.parametrize("stalls", [False, True])
@pytest.mark.parametrize(
    ("width", "compact"),
    [
        *((width, False) for width in (1, 7, 15, 16, 17, 30, 31, 32, 33, 47, 48, 63, 64)),
        *((width, True) for width in (7, 33)),
    ],
)
def test_normaliser(width, compact, stalls):
    parameters = NormaliserParameters(width=width, compact=compact)
    unit = parameters.create()
    rng = random.Random(width)
    values = [0, (1 << width) - 1]
    values += [1 << i for i in range(width)] + [(1 << i) - 1 for i in range(width)]
    values += [rng.getrandbits(width) >> rng.randrange(width) for _ in range(40)]
    cases = [(v, rng.randint(-400, 400), rng.randrange(16)) for v in values]
    offers = [{"value": v, "exponent": e, "register": r} for v, e, r in cases]
    results, cycles = exercise(unit, unit.raw, unit.result, offers, unit.busy, stalls)
    assert results == [(r, parameters.compute(v, e)) for v, e, r in cases]
    if not stalls:
        assert set(cycles) == {parameters.cycles}


def test_parameters():
    with pytest.raises(ValueError, match="digits_per_cycle must be 1, 2, 4, 8 or 16, not 3"):
        ScalarParameters(digits_per_cycle=3)
    with pytest.raises(ValueError, match="width must be an integer from 1 to 64, not 65"):
        NormaliserParameters(width=65)
    with pytest.raises(ValueError, match="op must be a ScalarOp, not 9"):
        ScalarParameters().compute(9, ONE, ONE)
