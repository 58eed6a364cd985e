import gc
import random

import pytest
from amaranth.sim import Simulator

from hw.memory.bank import VectorBankParameters
from hw.memory.block import BlockStore, TableStoreParameters, WeightStore, WeightStoreParameters
from hw.memory.signatures import (
    HOST_READ_LATENCY,
    HOST_WRITE_LATENCY,
    PROGRAM_LATENCY,
    READ_LATENCY,
)


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
    WeightStoreParameters(lanes=64, depth=7),
    WeightStoreParameters(lanes=96, depth=13),
    WeightStoreParameters(lanes=40, depth=40),
    WeightStoreParameters(lanes=32, depth=9, readback=False),
    TableStoreParameters(elements=1, depth=3),
    TableStoreParameters(elements=4, depth=10),
]


@pytest.mark.parametrize("parameters", STORES, ids=str)
def test_host_and_unit(parameters):
    check_host_and_unit(parameters.create())


@pytest.mark.parametrize("latency", range(2, READ_LATENCY + 1))
def test_latencies(latency):
    """The unit waits as long as the store says, the host as long as for every store."""
    check_host_and_unit(BlockStore(6, 2, 32, latency=latency))


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize("latency", [1, READ_LATENCY + 1])
def test_latencies_that_no_store_has(latency):
    with pytest.raises(ValueError, match=f"latency must be from 2 to {READ_LATENCY}, not"):
        BlockStore(6, 2, 32, latency=latency)
    assert 2 <= PROGRAM_LATENCY <= READ_LATENCY
    gc.collect()  # while the filter holds


def check_host_and_unit(store):
    """Half-words written in any order come back to the unit as words and to the host one by one."""
    streams = isinstance(store, WeightStore)
    words = store.words if streams else store
    check_contents(store, words, read_rows if streams else read_words)


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


async def read_rows(ctx, store, expected, rng):
    """From anywhere on a row per cycle, whenever it is asked for and never late."""
    latency = store.parameters.latency
    for _ in range(5):
        first = rng.randrange(len(expected))
        ctx.set(store.rows.first, first)
        ctx.set(store.rows.seek, 1)
        await ctx.tick()
        ctx.set(store.rows.seek, 0)
        left = list(range(first, len(expected)))
        pipeline = [None] * latency
        while left or any(row is not None for row in pipeline):
            assert ctx.get(store.rows.valid)
            ready = bool(left) and rng.random() < 0.7
            ctx.set(store.rows.ready, ready)
            row = pipeline.pop(0)
            assert row is None or ctx.get(store.rows.data) == expected[row]
            pipeline.append(left.pop(0) if ready else None)
            await ctx.tick()


def check_contents(store, block, read):
    n = block.half_words
    rng = random.Random(n)
    contents = {}

    async def testbench(ctx):
        async def access(address, value=None):
            ctx.set(store.host.address, address)
            ctx.set(store.host.write_data, rng.getrandbits(16) if value is None else value)
            ctx.set(store.host.write, value is not None)
            await ctx.tick()
            ctx.set(store.host.write, 0)

        addresses = list(range(block.depth * n))
        for _ in range(2):
            rng.shuffle(addresses)
            for address in addresses:
                contents[address] = rng.getrandbits(16)
                await access(address, contents[address])
                if rng.random() < 0.3:
                    await access(rng.randrange(len(addresses)))
        # The write may be seen at the last possible cycle.
        contents[0] ^= 0xFFFF
        await access(0, contents[0])
        await ctx.tick().repeat(HOST_WRITE_LATENCY - 1)

        expected = [
            sum(contents[word * n + h] << (16 * h) for h in range(n)) for word in range(block.depth)
        ]
        await read(ctx, store, expected, rng)

        if block.readback:
            ctx.set(store.host.read, 1)
            for i in range(len(addresses) + HOST_READ_LATENCY):
                if i >= HOST_READ_LATENCY:
                    got = ctx.get(store.host.read_data)
                    assert got == contents[addresses[i - HOST_READ_LATENCY]]
                if i < len(addresses):
                    ctx.set(store.host.address, addresses[i])
                else:
                    ctx.set(store.host.read, 0)
                await ctx.tick()
            # The last result stays.
            await ctx.tick().repeat(3)
            assert ctx.get(store.host.read_data) == contents[addresses[-1]]
            # A read right behind a write of the same half-word sees it.
            await access(0, 0x1234)
            ctx.set(store.host.address, 0)
            ctx.set(store.host.read, 1)
            await ctx.tick().repeat(HOST_READ_LATENCY)
            assert ctx.get(store.host.read_data) == 0x1234

    simulate(store, testbench)


def test_signed_entries():
    store = TableStoreParameters(elements=2, depth=3).create()

    async def testbench(ctx):
        ctx.set(store.host.address, 5)
        ctx.set(store.host.write_data, 0x8000)
        ctx.set(store.host.write, 1)
        await ctx.tick()
        ctx.set(store.host.write, 0)
        ctx.set(store.read.address, 2)
        await ctx.tick().repeat(HOST_WRITE_LATENCY + READ_LATENCY)
        assert ctx.get(store.read.data[1]) == -32768

    simulate(store, testbench)


@pytest.mark.parametrize("element_enable", [False, True])
@pytest.mark.parametrize(("elements", "width", "depth"), [(1, 24, 1), (3, 23, 5), (4, 32, 12)])
def test_vector_bank(elements, width, depth, element_enable):
    parameters = VectorBankParameters(
        elements=elements, width=width, depth=depth, element_enable=element_enable
    )
    bank = parameters.create()
    rng = random.Random(width)

    async def testbench(ctx):
        contents = [[0] * elements for _ in range(depth)]
        pending = [None] * READ_LATENCY
        for _ in range(200):
            if pending[0] is not None:
                assert [ctx.get(bank.read.data[i]) for i in range(elements)] == pending[0]
            enable = rng.getrandbits(elements if element_enable else 1)
            target, source = rng.randrange(depth), rng.randrange(depth)
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
