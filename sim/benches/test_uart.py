"""A transmitter into a receiver, at equal and at slightly different speeds."""

import random

import cocotb
import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.links.uart import UartReceiver, UartTransmitter
from sim.benches.runner import Sink, Source, quiet, run, start


class Loop(wiring.Component):
    """A transmitter wired to a receiver."""

    sent: In(stream.Signature(8))
    received: Out(stream.Signature(8))
    line: Out(1, init=1)

    def __init__(self, sending: int, receiving: int):
        self._divisors = sending, receiving
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.transmitter = transmitter = UartTransmitter(self._divisors[0])
        m.submodules.receiver = receiver = UartReceiver(self._divisors[1])
        wiring.connect(m, wiring.flipped(self.sent), transmitter.bytes)
        wiring.connect(m, receiver.bytes, wiring.flipped(self.received))
        m.d.comb += [receiver.line.eq(transmitter.line), self.line.eq(transmitter.line)]
        return m


@pytest.mark.parametrize("sending, receiving", [(4, 4), (7, 7), (50, 51), (51, 50)])
def test_uart(sending, receiving):
    run(Loop(sending, receiving), __name__, sending=sending, receiving=receiving)


@cocotb.test()
async def bytes_pass(dut):
    await start(dut)
    data = [0x00, 0xFF, 0x55, 0xAA, *random.Random(6).randbytes(40)]
    sink = Sink(dut, "received", 8, stall=0.3)
    await Source(dut, "sent", 8, stall=0.5).send(*data)
    await sink.take(len(data), limit=2000)
    await quiet(600)
    assert sink.received == data
