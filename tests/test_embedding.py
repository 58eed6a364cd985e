"""An embedding row's way into the table store, out of a memory that answers when it likes."""

import random

import pytest
from amaranth.sim import Simulator

from hw.units.embedding import EmbeddingParameters, EmbeddingRow

TABLE_WORDS = 90


@pytest.mark.parametrize(
    ("parameters", "elements"),
    [
        (EmbeddingParameters(words=50, latency=12, pace=1), 1),
        (EmbeddingParameters(words=64, latency=20, pace=2), 2),
        (EmbeddingParameters(words=300, latency=9, pace=4), 4),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_a_row_is_there_in_its_time_or_as_soon_as_it_can_be(parameters, elements, late):
    p = parameters
    dut = EmbeddingRow(p, TABLE_WORDS, elements)
    rng = random.Random(p.words)
    memory = [[rng.randrange(-(1 << 15), 1 << 15) for _ in range(elements)] for _ in range(p.words)]
    tables: list = [None] * TABLE_WORDS
    last_write = 0

    async def answer(ctx):
        """Words one by one; the last of them in time, unless they are late."""
        while True:
            for _ in range(rng.randrange(4)):
                await ctx.tick()
            ctx.set(dut.fetch.ask.ready, 1)
            while not ctx.get(dut.fetch.ask.valid):
                await ctx.tick()
            address, words = (ctx.get(dut.fetch.ask.payload[n]) for n in ("address", "words"))
            await ctx.tick()
            ctx.set(dut.fetch.ask.ready, 0)
            for word in memory[address : address + words]:
                most = 4 * p.pace if late else p.pace - 1
                for _ in range(rng.randint(0, most)):
                    await ctx.tick()
                ctx.set(dut.fetch.data, word)
                ctx.set(dut.fetch.valid, 1)
                await ctx.tick()
                ctx.set(dut.fetch.valid, 0)

    async def write(ctx):
        nonlocal last_write
        write, cycle = dut.write, 0
        sampled = (write.enable, write.address, write.data)
        while True:
            _, _, enable, address, data = await ctx.tick().sample(*sampled)
            cycle += 1
            if enable:
                tables[address], last_write = list(data), cycle

    async def bench(ctx):
        cycle = 0
        for _ in range(40):
            words = rng.randint(1, min(30, p.words))
            address = rng.randrange(p.words - words + 1)
            dest = rng.randrange(TABLE_WORDS - words + 1)
            untouched = [tables[n] for n in range(TABLE_WORDS) if not dest <= n < dest + words]
            for name, value in (("address", address), ("words", words), ("dest", dest)):
                ctx.set(getattr(dut, name), value)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            took = 2
            while not ctx.get(dut.done):
                await ctx.tick()
                took += 1
            cycle += took
            await ctx.tick()
            assert not ctx.get(dut.done)
            assert took == p.cycles(words) or (late and took > p.cycles(words))
            assert not late or took == p.cycles(words) or last_write == cycle - 1
            assert tables[dest : dest + words] == memory[address : address + words]
            assert untouched == [
                tables[n] for n in range(TABLE_WORDS) if not dest <= n < dest + words
            ]

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(answer, background=True)
    simulator.add_testbench(write, background=True)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("name", ["words", "latency", "pace"])
def test_parameters_that_cannot_be(name):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer, not 0"):
        EmbeddingParameters(**({"words": 8, "latency": 9, "pace": 1} | {name: 0}))
