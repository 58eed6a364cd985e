"""The link over USB: bytes between its clock and the machine's, and a host's packets."""

from functools import partial
from itertools import cycle

import pytest
from amaranth.hdl import Elaboratable, Module, Signal
from amaranth.lib import wiring
from amaranth.sim import Simulator

from hw.links.usb import DEPTH, Crossing, UsbSerial


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


def crc(bits, width, polynomial):
    """Of a USB packet, as the bits that follow it on the wire, the first one lowest."""
    ones = (1 << width) - 1
    state = ones
    for bit in bits:
        state = (state >> 1) ^ (polynomial if (state ^ bit) & 1 else 0)
    return state ^ ones


def bits_of(data):
    return [byte >> place & 1 for byte in data for place in range(8)]


OUT, IN, SETUP, DATA0, DATA1, ACK, NAK = 0x1, 0x9, 0xD, 0x3, 0xB, 0x2, 0xA


def packet(kind, content=b""):
    return bytes([kind | (~kind & 15) << 4]) + content


def token(kind, endpoint):
    field = endpoint << 7  # of address 0
    return packet(
        kind,
        (field | crc(bits_of(field.to_bytes(2, "little"))[:11], 5, 0x14) << 11).to_bytes(
            2, "little"
        ),
    )


def data(kind, content):
    return packet(kind, content + crc(bits_of(content), 16, 0xA001).to_bytes(2, "little"))


class Host:
    """What a computer sends to the PHY of a device, and what it hears."""

    def __init__(self, ctx, bus):
        self.ctx, self.bus = ctx, bus
        ctx.set(bus.line_state, 2)  # no reset
        ctx.set(bus.vbus_valid, 1)

    async def send(self, *packets):
        ctx, bus = self.ctx, self.bus
        for sent in packets:
            ctx.set(bus.rx_active, 1)
            for byte in sent:
                await ctx.tick("usb").repeat(7)
                ctx.set(bus.rx_data, byte)
                ctx.set(bus.rx_valid, 1)
                await ctx.tick("usb")
                ctx.set(bus.rx_valid, 0)
            ctx.set(bus.rx_active, 0)
            await ctx.tick("usb").repeat(8)

    async def answer(self):
        ctx, bus = self.ctx, self.bus
        ctx.set(bus.tx_ready, 1)
        for _ in range(200):
            if ctx.get(bus.tx_valid):
                break
            await ctx.tick("usb")
        heard = b""
        while ctx.get(bus.tx_valid):
            heard += bytes([ctx.get(bus.tx_data)])
            await ctx.tick("usb")
        ctx.set(bus.tx_ready, 0)
        await ctx.tick("usb").repeat(16)
        return heard

    async def ask(self, *packets):
        await self.send(*packets)
        return await self.answer()


class Echoing(Elaboratable):
    """A serial device whose machine sends back what it receives."""

    def __init__(self, device):
        self.crossing = Crossing(device)

    def elaborate(self, platform):
        m = Module()
        m.submodules.usb = self.crossing
        wiring.connect(m, self.crossing.received, self.crossing.to_send)
        return m


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # LUNA's, of Amaranth
def test_a_host_finds_the_device_and_talks_to_it():
    """To LUNA's own device, packet by packet: its descriptor, then bytes there and back."""
    pytest.importorskip("luna")
    from luna.gateware.interface.utmi import UTMIInterface

    bus = UTMIInterface()
    device = UsbSerial().create(bus)
    done = []

    async def computer(ctx):
        ctx.set(device.connect, 1)
        host = Host(ctx, bus)
        await ctx.tick("usb").repeat(100)
        read = bytes.fromhex("8006000100001200")
        assert await host.ask(token(SETUP, 0), data(DATA0, read)) == packet(ACK)
        descriptor = await host.ask(token(IN, 0))
        assert descriptor == data(DATA1, descriptor[1:-2]) and len(descriptor) == 18 + 3
        assert descriptor[9:13] == bytes.fromhex("09120100")  # vendor and product
        await host.send(packet(ACK))
        assert await host.ask(token(OUT, 0), data(DATA1, b"")) == packet(ACK)
        configure = bytes.fromhex("0009010000000000")
        assert await host.ask(token(SETUP, 0), data(DATA0, configure)) == packet(ACK)
        assert await host.ask(token(IN, 0)) == data(DATA1, b"")
        await host.send(packet(ACK))

        assert await host.ask(token(IN, 4)) == packet(NAK)
        echo, kinds = b"", cycle((DATA0, DATA1))
        for kind, text in ((DATA0, b"Once upon"), (DATA1, b" a time")):
            assert await host.ask(token(OUT, 4), data(kind, text)) == packet(ACK)
            for _ in range(3):
                heard = await host.ask(token(IN, 4))
                if heard != packet(NAK):
                    assert heard == data(next(kinds), heard[1:-2])
                    echo += heard[1:-2]
                    await host.send(packet(ACK))
        assert echo == b"Once upon a time"
        done.append(True)

    simulator = Simulator(Echoing(device))
    simulator.add_clock(1 / 60e6)
    simulator.add_clock(1 / 12e6, domain="usb")
    simulator.add_testbench(computer)
    simulator.run()
    assert done
