"""The link: frames in, memory accesses and frames out."""

import random
import zlib
from collections import deque

import cocotb
import pytest
from cocotb.triggers import FallingEdge, ReadOnly

from hw.arch.frames import Deframer, Frame, encode_frame
from hw.arch.geometry import Geometry
from hw.arch.memories import spaces
from hw.arch.protocol import (
    ALL_FEATURES,
    RESPONSE,
    Command,
    Identity,
    MemorySpace,
    argument_struct,
)
from hw.links.link import Link
from sim.benches.runner import Sink, Source, arguments, run, start

GEOMETRY = Geometry(
    rows=6, columns=4, elements=2, weight_rows=40, table_words=50, descriptors=10,
    sums=32, multiplicands=32, vectors=32, states=32, activations=32, tokens=24,
)  # fmt: skip
IDENTITY = Identity(
    board="bench",
    geometry=GEOMETRY,
    clock_hz=25_000_000,
    digest=bytes(range(16)),
    features=ALL_FEATURES,
)
SPACES = (MemorySpace.WEIGHTS, MemorySpace.TABLES, MemorySpace.PROGRAM, MemorySpace.TOKENS)
BUS_LATENCY = 5


@pytest.mark.parametrize("stall", [0, 60])
def test_link(stall):
    link = Link(IDENTITY)
    run(link, __name__, stall=stall)


async def _memories(dut, memories: dict) -> None:
    """Half-words behind the bus, which is not ready after every other access."""
    rng = random.Random(4)
    pipeline = deque([None] * BUS_LATENCY)
    ready = True
    while True:
        value = pipeline.popleft()
        dut.bus__ready.value = int(ready)
        dut.bus__read_valid.value = int(value is not None)
        dut.bus__read_data.value = 0xDEAD if value is None else value
        await ReadOnly()
        read, write = bool(dut.bus__read.value), bool(dut.bus__write.value)
        accessed = read + write + bool(dut.bus__start.value)
        assert accessed <= ready
        if accessed or not ready:
            ready = rng.random() < 0.5
        address = dut.bus__address.value.to_unsigned()
        memory = memories[dut.bus__space.value.to_unsigned()] if read or write else None
        pipeline.append(memory[address] if read else None)
        if write:
            memory[address] = dut.bus__write_data.value.to_unsigned()
        await FallingEdge(dut.clk)


@cocotb.test()
async def frames_are_answered(dut):
    rng = random.Random(9)
    stall = arguments()["stall"] / 100
    await start(dut)
    memories = {space: [0] * spaces(GEOMETRY)[space].size for space in SPACES}
    cocotb.start_soon(_memories(dut, memories))
    source = Source(dut, "rx", 8, stall=stall)
    sink = Sink(dut, "tx", 8, stall=stall)
    deframer = Deframer()
    sequence = seen = 0

    async def exchange(command: Command, payload: bytes = b"") -> Frame:
        nonlocal sequence, seen
        sequence = (sequence + 1) % 256
        frame = Frame(command=command, sequence=sequence, payload=payload)
        await source.send(*encode_frame(frame))
        for _ in range(20_000):
            await FallingEdge(dut.clk)
            data = bytes(sink.received[seen:])
            seen += len(data)
            for answer in deframer.feed(data):
                assert (answer.command, answer.sequence) == (command | RESPONSE, sequence)
                return answer.payload
        raise AssertionError(f"no answer to {command!r}")

    assert Identity.from_bytes(await exchange(Command.IDENTIFY)) == IDENTITY
    for _ in range(5):
        space = rng.choice(SPACES)
        count = rng.randint(1, min(60, len(memories[space])))
        address = rng.randint(0, len(memories[space]) - count)
        data = rng.choice((rng.randbytes(2 * count), b"\x7e\x7d" * count))
        # A damaged frame and the noise before it must leave no trace.
        head = argument_struct(Command.WRITE).pack(space, address)
        frame = bytearray(
            encode_frame(Frame(command=Command.WRITE, sequence=0, payload=head + bytes(2 * count)))
        )
        frame[rng.randrange(1, len(frame) - 1)] ^= 0x81
        await source.send(*rng.randbytes(9), *frame)

        assert await exchange(Command.WRITE, head + data) == b""
        part = memories[space][address : address + count]
        assert b"".join(value.to_bytes(2, "little") for value in part) == data
        head = argument_struct(Command.READ).pack(space, address, count)
        assert await exchange(Command.READ, head) == data
        head = argument_struct(Command.CHECKSUM).pack(space, address, count)
        assert await exchange(Command.CHECKSUM, head) == zlib.crc32(data).to_bytes(4, "little")
