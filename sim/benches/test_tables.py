"""The table unit, alone and behind the normaliser of random words."""

import random

import cocotb
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import FallingEdge, ReadOnly

from hw.arch.arithmetic import BASE_BITS, OPERAND_BITS, signed
from hw.units.tables import DrawNormaliser, TableUnit, gumbel, half_sigmoid
from sim.benches.runner import arguments, run, start


class Sampler(wiring.Component):
    """Gumbel noise of random words."""

    word: In(32)
    noise: Out(signed(BASE_BITS))

    def elaborate(self, platform):
        m = Module()
        m.submodules.normaliser = normaliser = DrawNormaliser()
        m.submodules.table = table = TableUnit()
        m.d.comb += [
            normaliser.word.eq(self.word),
            table.draw.eq(normaliser.draw),
            table.sample.eq(1),
            self.noise.eq(table.value),
        ]
        return m


@pytest.mark.parametrize("function", ["sigmoid", "gumbel"])
def test_tables(function):
    run(TableUnit() if function == "sigmoid" else Sampler(), __name__, function=function)


@cocotb.test()
async def outputs_equal_formula(dut):
    await start(dut)
    rng = random.Random(4)
    if arguments()["function"] == "sigmoid":
        limit = 1 << (OPERAND_BITS - 1)
        inputs = [-limit, -limit + 1, -1, 0, 1, limit - 1]
        inputs += [segment << 9 for segment in range(-256, 256)]
        inputs += [rng.randrange(-limit, limit) >> rng.randrange(12) for _ in range(2000)]
        given, taken, latency, formula = dut.argument, dut.value, TableUnit.LATENCY, half_sigmoid
    else:
        inputs = [1 << bit for bit in range(32)] + [(2 << bit) - 1 for bit in range(32)]
        inputs += [rng.randrange(1, 1 << 32) >> rng.randrange(17) or 1 for _ in range(2000)]
        latency = DrawNormaliser.LATENCY + TableUnit.LATENCY
        given, taken, formula = dut.word, dut.noise, gumbel
    outputs = []
    for value in inputs + [inputs[-1]] * latency:
        given.value = value % (1 << len(given))
        await ReadOnly()
        outputs.append(taken.value.to_unsigned())
        await FallingEdge(dut.clk)
    wanted = [formula(value) % (1 << len(taken)) for value in inputs]
    assert outputs[latency:] == wanted
