"""The noise generator against xorshift32, one word after the other."""

import random

import cocotb
import pytest
from cocotb.triggers import FallingEdge, ReadOnly

from hw.units.noise import NoiseParameters
from sim.benches.runner import arguments, run, start


@pytest.mark.parametrize("elements", [1, 3, 8])
def test_noise(elements):
    run(NoiseParameters(elements=elements).create(), __name__, elements=elements)


@cocotb.test()
async def words_follow_the_state(dut):
    p = NoiseParameters(elements=arguments()["elements"])
    rng = random.Random(5)
    await start(dut)
    for _ in range(5):
        state, beats = rng.randrange(1, 1 << 32), rng.randint(1, 50)
        dut.first.value, dut.state.value = 1, state
        words, step = [], 0
        while len(words) < beats * p.elements:
            dut.step.value = step = int(rng.random() < 0.6)
            await FallingEdge(dut.clk)
            dut.step.value = 0
            if step:
                dut.first.value, dut.state.value = 0, rng.getrandbits(32)
            await ReadOnly()
            if step:
                beat = dut.words.value.to_unsigned()
                words += [beat >> 32 * i & 0xFFFFFFFF for i in range(p.elements)]
            await FallingEdge(dut.clk)
        assert words == p.compute(state, beats * p.elements)
