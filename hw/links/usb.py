"""USB serial device (CDC-ACM, full speed) on two pins of the board; LUNA has the protocol."""

from dataclasses import dataclass
from types import SimpleNamespace

from amaranth.hdl import Module
from amaranth.lib import io, stream, wiring
from amaranth.lib.fifo import AsyncFIFO
from amaranth.lib.wiring import In, Out

from hw.links.pins import request_raw

DEPTH = 64
"""Bytes that wait between the clocks, either way: those of the largest packet."""


@dataclass(frozen=True, kw_only=True)
class UsbSerial:
    """A link over USB, for boards without a UART. Hosts see a serial port, of any rate.

    Parameters
    ----------
    resource : str
        Name of the platform's resource, with ``d_p``, ``d_n`` and perhaps ``pullup``.
    vendor, product : int
        What the device says that it is. The default is the pair of pid.codes for private tests.
    """

    resource: str = "usb"
    vendor: int = 0x1209
    product: int = 0x0001

    @property
    def clocks(self) -> dict[str, int]:
        """Rates of clock domains that the link needs beside the machine's."""
        return {"usb_io": 48_000_000, "usb": 12_000_000}

    def check(self, clock_hz: int):
        """Raises ValueError for a clock of the machine that does not suit; all do."""

    def attach(self, m: Module, platform, core, clock_hz: int):
        """Adds a core and what lies between its streams ``rx`` and ``tx`` and the board's pins."""
        pins = request_raw(platform, self.resource)
        buffers = {}
        for name, direction in {"d_p": "io", "d_n": "io", "pullup": "o"}.items():
            if hasattr(pins, name):
                buffers[name] = io.Buffer(direction, getattr(pins, name))
                m.submodules[f"{name}_pin"] = buffers[name]
        device = self.create(SimpleNamespace(**buffers))
        m.d.comb += device.connect.eq(1)
        m.submodules.usb = usb = Crossing(device)
        m.submodules.core = core
        wiring.connect(m, usb.received, core.rx)
        wiring.connect(m, core.tx, usb.to_send)

    def create(self, bus):
        """The device behind ``bus``, two pins or a PHY's interface."""
        from luna.gateware.usb.devices.acm import USBSerialDevice

        class Device(USBSerialDevice):
            """One that is the same design in every process.

            Of endpoints of one class LUNA names the second by its place in memory.
            """

            def elaborate(self, platform):
                m = super().elaborate(platform)
                for number, endpoint in enumerate(m.submodules.usb._endpoints):
                    of = type(endpoint)
                    endpoint.__class__ = type(f"{of.__name__}_{number}", (of,), {})
                return m

        return Device(
            bus=bus,
            idVendor=self.vendor,
            idProduct=self.product,
            manufacturer_string="Tritstream",
            product_string="Tritstream",
        )


class Crossing(wiring.Component):
    """Bytes between a serial device in ``usb`` and streams in ``sync``.

    A packet ends where no other byte waits, so that none waits for a full packet.

    Parameters
    ----------
    device : Elaboratable
        It is elaborated within, and has LUNA's streams ``rx`` and ``tx``.
    """

    received: Out(stream.Signature(8))
    to_send: In(stream.Signature(8))

    def __init__(self, device):
        self.device = device
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.device = device = self.device
        m.submodules.incoming = incoming = AsyncFIFO(
            width=8, depth=DEPTH, w_domain="usb", r_domain="sync"
        )
        m.submodules.outgoing = outgoing = AsyncFIFO(
            width=8, depth=DEPTH, w_domain="sync", r_domain="usb"
        )
        wiring.connect(m, incoming.r_stream, wiring.flipped(self.received))
        wiring.connect(m, wiring.flipped(self.to_send), outgoing.w_stream)
        m.d.comb += [
            incoming.w_data.eq(device.rx.payload),
            incoming.w_en.eq(device.rx.valid),
            device.rx.ready.eq(incoming.w_rdy),
            device.tx.payload.eq(outgoing.r_data),
            device.tx.valid.eq(outgoing.r_rdy),
            device.tx.last.eq(outgoing.r_level == 1),
            outgoing.r_en.eq(device.tx.ready),
        ]
        return m
