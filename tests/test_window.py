"""The host's window on stores and on everything else, at the pace of the link."""

import random
from dataclasses import replace

import pytest
from amaranth.hdl import Elaboratable, Module, Signal, signed
from amaranth.lib import data
from amaranth.sim import Simulator

from hw.arch.geometry import Geometry
from hw.arch.memories import memories, spaces
from hw.arch.protocol import MemorySpace
from hw.control.sequencer import TotalsLayout
from hw.links.window import Window
from hw.memory.bank import VectorBankParameters
from hw.memory.block import BlockStore
from hw.memory.signatures import READ_LATENCY, BusSignature
from hw.pipeline import delay
from hw.units.commands import ScaleLayout

GEOMETRY = Geometry(
    rows=12, columns=4, elements=2, weight_rows=30, table_words=20, descriptors=4, sums=32,
    multiplicands=32, vectors=32, states=32, activations=32, tokens=24,
)  # fmt: skip
STORES = (MemorySpace.WEIGHTS, MemorySpace.TABLES, MemorySpace.PROGRAM)


class Bench(Elaboratable):
    """A window with stores and states, and sums of which each tells its own address."""

    def __init__(self, elements=GEOMETRY.elements, *, direct=False):
        self.direct = direct
        self.geometry = geometry = replace(GEOMETRY, elements=elements)
        self.bus = BusSignature().create(path=("bus",))
        self.memories = spaces(geometry)
        self.states = VectorBankParameters.from_row(memories(geometry)["states"]).create()
        self.stores = {
            space: BlockStore(memory.words, memory.half_words, memory.bits)
            for space, memory in self.memories.items()
            if space in STORES
        }

    def elaborate(self, platform):
        m = Module()
        window = Window(
            self.bus,
            self.memories,
            {space: store.host for space, store in self.stores.items()},
            direct=self.direct,
        )
        window.connect(m)
        elements, states = self.geometry.elements, self.states
        m.submodules.states = states
        address, enables, item = window.writes(m, MemorySpace.STATES)
        m.d.comb += [
            states.read.address.eq(window.address(MemorySpace.STATES)),
            states.write.address.eq(address),
            states.write.enable.eq(enables),
            *(data.eq(item) for data in states.write.data),
        ]
        sums = Signal(data.ArrayLayout(signed(24), elements))
        beat = delay(m, window.address(MemorySpace.SUMS), READ_LATENCY, name="beat")
        m.d.comb += [sums[i].eq(0x10000 - (beat << 4) - i) for i in range(elements)]
        window.show(
            m,
            sums=sums,
            states=states.read.data,
            register=Signal(ScaleLayout),
            counter=Signal(32),
            totals=Signal(TotalsLayout.size),
            token=delay(m, window.address(MemorySpace.TOKENS)[:16] ^ 0xAA, 1, name="token"),
        )
        for space, store in self.stores.items():
            m.submodules[space.name] = store
        return m


class Link:
    """Accesses as the link makes them: looks at ``ready``, and is on the bus in the cycle after."""

    def __init__(self, ctx, bus):
        self.ctx, self.bus = ctx, bus

    async def _access(self, **values):
        for name, value in values.items():
            self.ctx.set(getattr(self.bus, name), value)
        await self.ctx.tick()
        for name in ("start", "write", "read"):
            self.ctx.set(getattr(self.bus, name), 0)

    async def _ready(self):
        while not self.ctx.get(self.bus.ready):
            await self.ctx.tick()

    async def write(self, space, address, values):
        await self._ready()
        await self._access(space=space, address=address, start=1)
        for i, value in enumerate(values):
            await self._ready()
            await self.ctx.tick()
            last = i == len(values) - 1
            await self._access(address=address + i, write=1, write_data=value, last=last)
        await self._ready()

    async def read(self, space, address, count):
        await self._ready()
        await self._access(space=space, address=address, start=1)
        values, asked = [], 0
        while len(values) < count:
            ask = asked < count and self.ctx.get(self.bus.ready)
            if ask:
                await self._access(address=address + asked, read=1, last=asked == count - 1)
                asked += 1
                values += [self.ctx.get(self.bus.read_data)] * self.ctx.get(self.bus.read_valid)
            await self.ctx.tick()
            values += [self.ctx.get(self.bus.read_data)] * self.ctx.get(self.bus.read_valid)
        return values


def shown(address, value):
    """What is read of a state's half-word that was written."""
    return (value & 0xFF ^ 0x80) - 0x80 & 0xFFFF if address % 2 else value


@pytest.mark.parametrize(
    "seed, elements, direct", [(0, 1, False), (1, 2, False), (2, 4, False), (3, 1, True)]
)
def test_what_the_host_writes_it_reads(seed, elements, direct):
    """A range is whole and nothing else is touched, whichever memory the next command goes to."""
    bench, rng = Bench(elements, direct=direct), random.Random(seed)
    written = (*STORES, MemorySpace.STATES)
    contents = {space: [0] * bench.memories[space].size for space in written}

    async def testbench(ctx):
        link = Link(ctx, bench.bus)
        for _ in range(40):
            space = rng.choice(written)
            size, unit = len(contents[space]), bench.memories[space].granule
            start = rng.randrange(0, size, unit)
            end = min(size, start + unit * rng.randint(1, 12 // unit))
            if rng.random() < 0.6:
                values = [rng.getrandbits(16) for _ in range(start, end)]
                await link.write(space, start, values)
                if space == MemorySpace.STATES:
                    values = [shown(i, value) for i, value in enumerate(values)]
                contents[space][start:end] = values
            else:
                assert await link.read(space, start, end - start) == contents[space][start:end]
        for space in written:
            assert await link.read(space, 0, len(contents[space])) == contents[space]

    simulate(bench, testbench)


def test_what_is_no_store():
    bench = Bench()

    async def testbench(ctx):
        link = Link(ctx, bench.bus)
        size = bench.memories[MemorySpace.SUMS].size
        values = [0x10000 - (i // 2 << 4) - i % 2 for i in range(size // 2)]
        expected = [value >> shift & 0xFFFF for value in values for shift in (0, 16)]
        assert await link.read(MemorySpace.SUMS, 0, size) == expected
        tokens = await link.read(MemorySpace.TOKENS, 5, 7)
        assert tokens == [address ^ 0xAA for address in range(5, 12)]

    simulate(bench, testbench)


def simulate(bench, testbench):
    simulator = Simulator(bench)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
