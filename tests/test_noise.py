import pytest
from amaranth.sim import Simulator

from hw.units.noise import Leap, NoiseParameters
from weights.noise import NOISE_STEP, TOKEN_STEP, xorshift

PRIMES = (3, 5, 17, 257, 65537)  # of 2**32 - 1


@pytest.mark.parametrize("triple", [NOISE_STEP, TOKEN_STEP])
def test_period_is_full(triple):
    step = Leap.step(triple)
    period = 2**32 - 1
    assert step**period == Leap.identity()
    for prime in PRIMES:
        assert step ** (period // prime) != Leap.identity()


def test_leap_equals_steps():
    leap = Leap.step(NOISE_STEP) ** 7
    state = expected = 0xDEADBEEF
    for _ in range(7):
        expected = xorshift(expected, NOISE_STEP)
    assert leap.compute(state) == expected


@pytest.mark.parametrize("triple", [NOISE_STEP, TOKEN_STEP])
@pytest.mark.parametrize("elements", [1, 2, 3, 4, 8])
def test_generator_equals_xorshift(elements, triple):
    parameters = NoiseParameters(elements=elements, triple=triple)
    dut = parameters.create()

    async def bench(ctx):
        for state in (1, 0xFFFFFFFF, 0x12345678):
            ctx.set(dut.state, state)
            words = []
            for beat in range(12):
                ctx.set(dut.first, beat == 0)
                ctx.set(dut.step, 1)
                await ctx.tick()
                ctx.set(dut.step, 0)
                ctx.set(dut.state, 0x5A5A5A5A)
                if beat % 3 == 1:
                    await ctx.tick()
                words += [ctx.get(dut.words[lane]) for lane in range(elements)]
            assert words == parameters.compute(state, 12 * elements)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("elements", [0, -1, 1.0])
def test_elements_are_checked(elements):
    with pytest.raises(ValueError, match="elements must be a positive integer"):
        NoiseParameters(elements=elements)


def test_triple_is_checked():
    with pytest.raises(ValueError, match="triple must be three shifts"):
        NoiseParameters(elements=1, triple=(13, 32, 5))


def test_leap_is_checked():
    with pytest.raises(ValueError, match="columns must be 32 words"):
        Leap((1, 2))
