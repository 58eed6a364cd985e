"""The serial line."""

import gc
import random

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out
from amaranth.sim import Simulator

from hw.links.uart import UartReceiver, UartTransmitter

MESSAGE = bytes((0x00, 0xFF, 0x55, 0xAA, 0x7E, 0x01, 0x80, 0x31))


class Loop(wiring.Component):
    """A transmitter wired to a receiver."""

    def __init__(self, sending: int, receiving: int):
        self.transmitter, self.receiver = UartTransmitter(sending), UartReceiver(receiving)
        super().__init__({"line": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.transmitter, m.submodules.receiver = self.transmitter, self.receiver
        m.d.comb += [
            self.receiver.line.eq(self.transmitter.line),
            self.line.eq(self.transmitter.line),
        ]
        return m


def simulate(component, *testbenches):
    sim = Simulator(component)
    sim.add_clock(1e-6)
    for testbench in testbenches:
        sim.add_testbench(testbench)
    sim.run()


@pytest.mark.parametrize(
    "sending, receiving", [(4, 4), (5, 5), (16, 16), (25, 25), (100, 103), (100, 97)]
)
def test_bytes_pass(sending, receiving):
    loop = Loop(sending, receiving)
    source, sink = loop.transmitter.bytes, loop.receiver.bytes
    received = bytearray()

    async def send(ctx):
        rng = random.Random(1)
        for byte in MESSAGE:
            await ctx.tick().repeat(rng.choice((1, 3, 40)))
            ctx.set(source.payload, byte)
            ctx.set(source.valid, 1)
            await ctx.tick().until(source.ready)
            ctx.set(source.valid, 0)

    async def receive(ctx):
        ctx.set(sink.ready, 1)
        for _ in MESSAGE:
            (byte,) = await ctx.tick().sample(sink.payload).until(sink.valid)
            received.append(byte)

    simulate(loop, send, receive)
    assert bytes(received) == MESSAGE


async def drive(ctx, dut, levels, cycles):
    for level in levels:
        ctx.set(dut.line, level)
        await ctx.tick().repeat(cycles)


def frame(byte: int, stop: int = 1) -> list[int]:
    return [0, *((byte >> i) & 1 for i in range(8)), stop]


def test_receiver_drops_what_is_no_byte():
    dut = UartReceiver(10)
    received = []

    async def bench(ctx):
        await drive(ctx, dut, [1], 20)
        await drive(ctx, dut, [0], 3)  # a glitch, no start bit
        await drive(ctx, dut, [1], 40)
        await drive(ctx, dut, frame(0x42, stop=0), 10)  # framing error
        await drive(ctx, dut, [0], 500)  # break
        await drive(ctx, dut, [1], 30)
        await drive(ctx, dut, frame(0x43), 10)
        await drive(ctx, dut, [1], 20)

    async def sink(ctx):
        ctx.set(dut.bytes.ready, 1)
        (byte,) = await ctx.tick().sample(dut.bytes.payload).until(dut.bytes.valid)
        received.append(byte)

    simulate(dut, bench, sink)
    assert received == [0x43]


def test_receiver_keeps_the_byte_that_waits():
    dut = UartReceiver(8)
    received = []

    async def bench(ctx):
        await drive(ctx, dut, [1], 10)
        for byte in (0x11, 0x22):
            await drive(ctx, dut, [*frame(byte), 1], 8)
        assert ctx.get(dut.bytes.valid) == 1
        received.append(ctx.get(dut.bytes.payload))
        ctx.set(dut.bytes.ready, 1)
        await ctx.tick()
        ctx.set(dut.bytes.ready, 0)
        await drive(ctx, dut, [*frame(0x33), 1], 8)
        received.append(ctx.get(dut.bytes.payload))

    simulate(dut, bench)
    assert received == [0x11, 0x33]


def test_transmitter_timing():
    dut = UartTransmitter(7)
    levels = []

    async def bench(ctx):
        ctx.set(dut.bytes.payload, 0xA5)
        ctx.set(dut.bytes.valid, 1)
        await ctx.tick()
        ctx.set(dut.bytes.valid, 0)
        for _ in range(10 * 7 + 5):
            levels.append(ctx.get(dut.line))
            await ctx.tick()

    simulate(dut, bench)
    assert levels == [b for b in frame(0xA5) for _ in range(7)] + [1] * 5


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize("divisor", [3, 0, -1, 8.0])
def test_divisor_is_checked(divisor):
    for unit in (UartReceiver, UartTransmitter):
        with pytest.raises(ValueError, match="divisor must be an integer of at least 4, not"):
            unit(divisor)
    gc.collect()  # while the filter holds
