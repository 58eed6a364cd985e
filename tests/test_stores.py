import gc
import itertools
import random
from typing import ClassVar

import numpy as np
import pytest
from amaranth.hdl import Elaboratable, Fragment, Module, Mux, Signal, Value
from amaranth.lib.memory import Memory
from amaranth.sim import Simulator

from hw.arch.packing import unpack
from hw.families import ice40
from hw.memory.bank import DEEP, VectorBankParameters
from hw.memory.block import BlockStore, TableStoreParameters, WeightStore, WeightStoreParameters
from hw.memory.narrow import NarrowStore
from hw.memory.signatures import PROGRAM_LATENCY, READ_LATENCY


def simulate(component, *testbenches):
    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    for testbench in testbenches:
        simulator.add_testbench(testbench)
    simulator.run()


STORES = [
    WeightStoreParameters(lanes=8, depth=1),
    WeightStoreParameters(lanes=16, depth=5),
    WeightStoreParameters(lanes=24, depth=11),
    WeightStoreParameters(lanes=64, depth=7, read_latency=2),
    WeightStoreParameters(lanes=96, depth=13),
    WeightStoreParameters(lanes=160, depth=5, read_latency=2),
    WeightStoreParameters(lanes=256, depth=4),
    WeightStoreParameters(lanes=40, depth=40, read_latency=5),
    WeightStoreParameters(lanes=10, depth=40, trits_per_byte=5, read_latency=2),
    WeightStoreParameters(lanes=80, depth=9, trits_per_byte=5),
    TableStoreParameters(elements=1, depth=3),
    TableStoreParameters(elements=4, depth=10),
    WeightStoreParameters(lanes=8, depth=9, narrow=True),
    WeightStoreParameters(lanes=32, depth=1100, read_latency=1, narrow=True),
    TableStoreParameters(elements=1, depth=3, narrow=True),
    TableStoreParameters(elements=8, depth=20, narrow=True),
]


@pytest.mark.parametrize("parameters", STORES, ids=str)
def test_host_and_unit(parameters):
    check_host_and_unit(parameters.create())


@pytest.mark.parametrize("latency", [2, 3, 5])
def test_latencies(latency):
    """The unit waits as long as the store says; so does the host."""
    check_host_and_unit(BlockStore(6, 2, 32, latency=latency))


class Spram(Elaboratable):
    """An SB_SPRAM256KA as its data sheet has it, as far as it is used here."""

    made: ClassVar[list] = []

    def __init__(self, kind, **ports):
        assert kind == "SB_SPRAM256KA"
        self.ports = {name: Value.cast(value) for name, value in ports.items()}
        assert len(self.ports["i_ADDRESS"]) == 14
        self.made.append(self)

    def elaborate(self, platform):
        m, p = Module(), self.ports
        m.submodules.memory = memory = Memory(shape=16, depth=1 << 14, init=[])
        read, write = memory.read_port(), memory.write_port(granularity=4)
        on = p["i_CHIPSELECT"] & p["i_POWEROFF"] & ~p["i_STANDBY"] & ~p["i_SLEEP"]
        reads = Signal()
        m.d.sync += reads.eq(on & ~p["i_WREN"])
        m.d.comb += [
            read.addr.eq(p["i_ADDRESS"]),
            write.addr.eq(p["i_ADDRESS"]),
            write.data.eq(p["i_DATAIN"]),
            write.en.eq(p["i_MASKWREN"] & (on & p["i_WREN"]).replicate(4)),
            p["o_DATAOUT"].eq(Mux(reads, read.data, 0x5AA5)),
        ]
        return m


@pytest.mark.parametrize(
    "parameters", [STORES[-3], TableStoreParameters(elements=1, depth=33000, narrow=True)], ids=str
)
def test_large_memories_of_ice40(parameters, monkeypatch):
    """As many as the words need, and every word is its own."""
    monkeypatch.setattr(ice40, "Instance", Spram)
    monkeypatch.setattr(Spram, "made", [])
    store = parameters.create()
    platform = ice40.with_large_memories(type("Platform", (), {}))()
    check_host_and_unit(store, lambda: Fragment.get(store, platform))
    halves = store.parameters.half_words
    assert len(Spram.made) == halves * -(-store.parameters.depth // (1 << 14))


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_narrow_stores_that_are_none():
    with pytest.raises(ValueError, match="must have a power of two of half-words, not 3"):
        NarrowStore(6, 3, 2)
    with pytest.raises(ValueError, match="latency must be at least 1, not 0"):
        NarrowStore(6, 2, 0)
    with pytest.raises(ValueError, match="a narrow store must be one that no unit writes"):
        TableStoreParameters(elements=2, depth=9, written=True, narrow=True).create()
    gc.collect()  # while the filter holds


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_latency_that_no_store_has():
    with pytest.raises(ValueError, match="latency must be at least 2, not 1"):
        BlockStore(6, 2, 32, latency=1)
    assert 2 <= PROGRAM_LATENCY <= READ_LATENCY
    gc.collect()  # while the filter holds


def test_a_unit_writes_tables_too():
    """Beside the host, each while the other does nothing."""
    store = TableStoreParameters(elements=2, depth=700, written=True).create()
    rng = random.Random(7)

    async def testbench(ctx):
        host = Host(ctx, store.host, rng)
        contents = [rng.getrandbits(16) for _ in range(1400)]
        await host.write(0, contents)
        for _ in range(40):
            count = rng.randint(1, 9)
            first = rng.randrange(701 - count)
            while not ctx.get(store.host.ready):  # until then the host is not done
                await ctx.tick()
            for word in range(first, first + count):
                halves = [rng.getrandbits(16) for _ in range(2)]
                contents[2 * word : 2 * word + 2] = halves
                ctx.set(store.write.address, word)
                ctx.set(store.write.data, [half - (half >> 15 << 16) for half in halves])
                ctx.set(store.write.enable, 1)
                await ctx.tick()
                ctx.set(store.write.enable, 0)
                ctx.set(store.write.data, [0, 0])
                for _ in range(rng.choice((0, 0, 2))):
                    await ctx.tick()
            await ctx.tick()
            if rng.random() < 0.5:
                start = rng.randrange(1390)
                contents[start : start + 3] = [rng.getrandbits(16) for _ in range(3)]
                await host.write(start, contents[start : start + 3])
            if rng.random() < 0.3:
                assert await host.read(2 * first, 2) == contents[2 * first : 2 * first + 2]
        words = [low | high << 16 for low, high in zip(contents[::2], contents[1::2], strict=True)]
        await read_words(ctx, store, words, rng)
        assert await host.read(0, 1400) == contents

    simulate(store, testbench)


class Host:
    """The host's side of a store: ranges of half-words, with gaps between them or none."""

    def __init__(self, ctx, host, rng):
        self.ctx, self.host, self.rng = ctx, host, rng

    async def _ready(self):
        for cycles in itertools.count():
            if self.ctx.get(self.host.ready):
                return cycles
            await self.ctx.tick()

    async def _start(self, address):
        await self._ready()
        self.ctx.set(self.host.address, address)
        self.ctx.set(self.host.start, 1)
        await self.ctx.tick()
        self.ctx.set(self.host.start, 0)
        self._no_access()

    def _no_access(self):
        """An address that means nothing."""
        self.ctx.set(self.host.address, self.rng.getrandbits(len(self.host.address)))

    async def write(self, address, values, gap=0.0):
        """Returns the cycles from the start until the store has them all."""
        ctx, host = self.ctx, self.host
        await self._start(address)
        cycles = 1
        for number, value in enumerate(values):
            cycles += await self._ready()
            while self.rng.random() < gap:
                await ctx.tick()
            assert ctx.get(host.ready)  # it stays
            ctx.set(host.write, 1)
            ctx.set(host.address, address + number)
            ctx.set(host.last, number == len(values) - 1)
            ctx.set(host.write_data, value)
            await ctx.tick()
            cycles += 1
            ctx.set(host.write, 0)
            self._no_access()
            ctx.set(host.write_data, self.rng.getrandbits(16))
        return cycles + await self._ready()

    async def read(self, address, count, gap=0.0):
        """Answers come in order, a few cycles late, while further reads go on."""
        ctx, host = self.ctx, self.host
        values = []

        async def tick():
            await ctx.tick()
            if ctx.get(host.read_valid):
                values.append(ctx.get(host.read_data))

        await self._start(address)
        for number in range(count):
            while not ctx.get(host.ready) or self.rng.random() < gap:
                await tick()
            ctx.set(host.read, 1)
            ctx.set(host.address, address + number)
            ctx.set(host.last, number == count - 1)
            await tick()
            ctx.set(host.read, 0)
            self._no_access()
        for _ in range(4):
            await tick()
        return values


def check_host_and_unit(store, elaborated=None):
    """Ranges of half-words come back to the unit as words and to the host one by one."""
    streams = isinstance(store, WeightStore)
    words = store.words if streams else store
    check_contents(store, words, read_rows if streams else read_words, elaborated)


async def read_words(ctx, store, expected, rng):
    """A word per cycle, from anywhere."""
    words = [0] + [rng.randrange(len(expected)) for _ in range(30)]
    for i in range(len(words) + store.latency):
        if i >= store.latency:
            data = ctx.get(store.read.data)
            if hasattr(data, "as_bits"):
                data = data.as_bits()
            assert data == expected[words[i - store.latency]]
        if i < len(words):
            ctx.set(store.read.address, words[i])
        await ctx.tick()


def trits(row, lanes, trits_per_byte=4):
    """The trits of a row: as it lies in a store, or of two bits each."""
    packed = np.frombuffer(row.to_bytes(-(-lanes // trits_per_byte), "little"), np.uint8)
    return unpack(packed[None], trits_per_byte)[0, :lanes].tolist()


async def read_rows(ctx, store, expected, rng):
    """From anywhere on a row per cycle, whenever it is asked for and never late."""
    p = store.parameters
    for _ in range(5):
        first = rng.randrange(len(expected))
        ctx.set(store.rows.first, first)
        ctx.set(store.rows.seek, 1)
        await ctx.tick()
        ctx.set(store.rows.seek, 0)
        left = list(range(first, len(expected)))
        pipeline = [None] * p.latency
        while left or any(row is not None for row in pipeline):
            assert ctx.get(store.rows.valid)
            ready = bool(left) and rng.random() < 0.7
            ctx.set(store.rows.ready, ready)
            row = pipeline.pop(0)
            if row is not None:
                got = trits(ctx.get(store.rows.data), p.lanes)
                assert got == trits(expected[row], p.lanes, p.trits_per_byte)
            pipeline.append(left.pop(0) if ready else None)
            await ctx.tick()


def check_contents(store, block, read, elaborated=None):
    n = block.half_words
    rng = random.Random(n)
    size = block.depth * n

    async def testbench(ctx):
        host = Host(ctx, store.host, rng)
        contents = [rng.getrandbits(16) for _ in range(size)]
        await host.write(0, contents)
        for _ in range(30):
            start = rng.randrange(size)
            end = min(size, start + rng.randint(1, 3 * n))
            values = [rng.getrandbits(16) for _ in range(start, end)]
            await host.write(start, values, gap=rng.choice((0, 0.5)))
            contents[start:end] = values
            if rng.random() < 0.5:
                got = await host.read(start, end - start, gap=rng.choice((0, 0.5)))
                assert got == values
        assert await host.read(0, size) == contents
        expected = [
            sum(contents[word * n + h] << (16 * h) for h in range(n)) for word in range(block.depth)
        ]
        await read(ctx, store, expected, rng)

    simulate(elaborated() if elaborated else store, testbench)


@pytest.mark.parametrize("lanes", [24, 64, 256])
def test_cycles_of_a_write(lanes):
    """What a start costs: no division where half-words are a power of two; then one a cycle."""
    store = WeightStoreParameters(lanes=lanes, depth=40).create()
    n = store.words.half_words

    async def testbench(ctx):
        host = Host(ctx, store.host, random.Random(lanes))
        bits = (40 * n - 1).bit_length()
        seek = 0 if n & (n - 1) == 0 else bits + 1
        late = 2 if n > 16 else 0
        fetch = store.parameters.latency + 1 + late
        for word, half in ((0, 0), (3, 1), (17, n - 1)):
            values = list(range(5 * n - half))  # up to the end of a word
            cycles = await host.write(word * n + half, values)
            # Start, seek, fetch, what lies before it, the values; fetch and the last word's write.
            assert cycles == 1 + seek + fetch + half + 1 + len(values) + fetch + 2 + late

    simulate(store, testbench)


def test_signed_entries():
    store = TableStoreParameters(elements=2, depth=3).create()

    async def testbench(ctx):
        await Host(ctx, store.host, random.Random(0)).write(5, [0x8000])
        ctx.set(store.read.address, 2)
        await ctx.tick().repeat(READ_LATENCY)
        assert ctx.get(store.read.data[1]) == -32768

    simulate(store, testbench)


@pytest.mark.parametrize("latency", [1, 2, READ_LATENCY])
@pytest.mark.parametrize("element_enable", [False, True])
@pytest.mark.parametrize(
    ("elements", "width", "depth"), [(1, 24, 1), (3, 23, 5), (4, 32, 12), (2, 9, DEEP)]
)
def test_vector_bank(elements, width, depth, element_enable, latency):
    parameters = VectorBankParameters(
        elements=elements, width=width, depth=depth, element_enable=element_enable, latency=latency
    )
    bank = parameters.create()
    rng = random.Random(width)

    async def testbench(ctx):
        contents = [[0] * elements for _ in range(depth)]
        pending = [None] * latency
        target = 0
        for _ in range(200):
            if pending[0] is not None:
                assert [ctx.get(bank.read.data[i]) for i in range(elements)] == pending[0]
            enable = rng.getrandbits(elements if element_enable else 1)
            source = rng.choice((target, rng.randrange(depth)))  # what was just written, too
            target = rng.randrange(depth)
            values = [rng.getrandbits(width) - (1 << (width - 1)) for _ in range(elements)]
            ctx.set(bank.write.enable, enable)
            ctx.set(bank.write.address, target)
            ctx.set(bank.write.data, values)
            ctx.set(bank.read.address, source)
            collision = enable and source == target
            pending = [*pending[1:], None if collision else list(contents[source])]
            for i in range(elements):
                if enable >> (i if element_enable else 0) & 1:
                    contents[target][i] = values[i]
            await ctx.tick()

    simulate(bank, testbench)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeightStoreParameters(lanes=12, depth=1), "lanes must be a multiple of 8, not 12"),
        (
            lambda: WeightStoreParameters(lanes=16, depth=1, trits_per_byte=5),
            "lanes must be a multiple of 10, not 16",
        ),
        (
            lambda: WeightStoreParameters(lanes=16, depth=1, trits_per_byte=6),
            "trits_per_byte must be 4 or 5, not 6",
        ),
        (
            lambda: WeightStoreParameters(lanes=8, depth=0),
            "depth must be a positive integer, not 0",
        ),
        (lambda: TableStoreParameters(elements="4", depth=1), "elements must be a positive .*'4'"),
        (
            lambda: VectorBankParameters(elements=1, width=0, depth=1),
            "width must be a positive integer, not 0",
        ),
    ],
)
def test_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()
