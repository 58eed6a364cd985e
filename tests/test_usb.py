"""The link over USB, without LUNA: bytes between its clock and the machine's."""

from functools import partial

from amaranth.hdl import Elaboratable, Module, Signal
from amaranth.sim import Simulator

from hw.links.usb import DEPTH, Crossing


class Stream:
    """One of LUNA's, as far as it is used."""

    def __init__(self):
        self.payload, self.valid, self.ready, self.last = Signal(8), Signal(), Signal(), Signal()


class Device(Elaboratable):
    """A serial device whose host a test is."""

    def __init__(self):
        self.rx, self.tx = Stream(), Stream()

    def elaborate(self, platform):
        return Module()


def simulate(*testbenches):
    device = Device()
    crossing = Crossing(device)
    simulator = Simulator(crossing)
    simulator.add_clock(1 / 60e6)
    simulator.add_clock(1 / 12e6, domain="usb")
    for testbench in testbenches:
        simulator.add_testbench(partial(testbench, device=device, crossing=crossing))
    simulator.run()


def test_bytes_of_the_host_come_in_order_and_none_is_lost():
    """More of them than wait between the clocks, with a machine that takes its time."""
    sent, taken = list(range(3 * DEPTH)), []

    async def host(ctx, device, crossing):
        ctx.set(device.rx.valid, 1)
        for byte in sent:
            ctx.set(device.rx.payload, byte)
            await ctx.tick("usb").until(device.rx.ready)
        ctx.set(device.rx.valid, 0)

    async def machine(ctx, device, crossing):
        while len(taken) < len(sent):
            if len(taken) % 7 == 0:
                await ctx.tick().repeat(40)
            ctx.set(crossing.received.ready, 1)
            (byte,) = (
                await ctx.tick().sample(crossing.received.payload).until(crossing.received.valid)
            )
            ctx.set(crossing.received.ready, 0)
            taken.append(byte)

    simulate(host, machine)
    assert taken == sent


def test_a_packet_ends_where_no_other_byte_waits():
    answers, packets = [b"one", b"an answer"], []

    async def machine(ctx, device, crossing):
        for answer in answers:
            ctx.set(crossing.to_send.valid, 1)
            for byte in answer:
                ctx.set(crossing.to_send.payload, byte)
                await ctx.tick().until(crossing.to_send.ready)
            ctx.set(crossing.to_send.valid, 0)
            await ctx.tick().repeat(500)

    async def host(ctx, device, crossing):
        packet = b""
        await ctx.tick("usb").repeat(20)  # another packet is under way
        ctx.set(device.tx.ready, 1)
        while len(packets) < len(answers):
            byte, last = (
                await ctx.tick("usb")
                .sample(device.tx.payload, device.tx.last)
                .until(device.tx.valid)
            )
            packet += bytes([byte])
            if last:
                packets.append(packet)
                packet = b""

    simulate(machine, host)
    assert packets == answers
