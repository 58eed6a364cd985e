"""The register file against a list of values, with writers that meet and reads in every cycle."""

import random

import pytest
from amaranth.sim import Simulator

from hw.arch.program import REGISTERS
from hw.control.registers import RegisterFile
from hw.units.commands import ScaleLayout

WRITERS = ("preset", "scalar", "vector")


@pytest.mark.parametrize("contexts", [1, 4])
def test_one_writer_a_cycle_and_the_first_goes_first(contexts):
    """Every offer is taken once, in falling priority, and read from the next cycle on.

    A register that is being written is not read: no step reads what another one still makes.
    """
    dut = RegisterFile(contexts)
    rng = random.Random(1)
    held = [0] * REGISTERS * contexts
    offers: dict[str, tuple[int, int]] = {}
    taken = dict.fromkeys(WRITERS, 0)
    read = 0

    async def bench(ctx):
        nonlocal read
        for _ in range(2000):
            for name in WRITERS:
                port = getattr(dut, name)
                if name not in offers and rng.random() < 0.4:
                    offers[name] = rng.randrange(len(held)), rng.getrandbits(ScaleLayout.size)
                    register, bits = offers[name]
                    value = ScaleLayout.from_bits(bits)
                    ctx.set(port.payload, {"register": register, "value": value})
                ctx.set(port.valid, name in offers)
            address = rng.randrange(len(held))
            ctx.set(dut.address, address)
            waiting = [name for name in WRITERS if name in offers]
            ready = [n for n in waiting if n == "preset" or ctx.get(getattr(dut, n).ready)]
            assert ready == waiting[:1]
            written, bits = offers.pop(waiting[0]) if waiting else (None, 0)
            await ctx.tick()
            if written != address:
                assert ctx.get(dut.value.as_value()) == held[address]
                read += held[address] != 0
            if written is not None:
                held[written] = bits
                taken[waiting[0]] += 1

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert taken["preset"] > taken["scalar"] > taken["vector"] > 50 and read > 1000
