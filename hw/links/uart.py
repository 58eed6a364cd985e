"""Serial line: 8 data bits, no parity, one stop bit, least significant bit first."""

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import io, stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from hw.links.pins import request_raw

BITS = 8
DIVISOR_MIN = 4


def _check_divisor(divisor):
    if not isinstance(divisor, int) or divisor < DIVISOR_MIN:
        raise ValueError(f"divisor must be an integer of at least {DIVISOR_MIN}, not {divisor!r}")


class UartReceiver(wiring.Component):
    """Bytes from a line.

    Each bit is sampled in its middle. A byte whose stop bit is low is dropped, and the line must
    be high again before another one begins. A byte that is not taken before the next one has come
    is lost to that one, which is dropped.

    Parameters
    ----------
    divisor : int
        Clock cycles per bit, at least 4.

    Members
    -------
    line : In(1), asynchronous, high when idle
    bytes : Out(stream.Signature(8))

    Raises
    ------
    ValueError
        From the constructor, for another divisor.
    """

    def __init__(self, divisor: int):
        _check_divisor(divisor)
        self.divisor = divisor
        super().__init__({"line": In(1, init=1), "bytes": Out(stream.Signature(BITS))})

    def elaborate(self, platform):
        m = Module()
        line = Signal(init=1)
        m.submodules.synchroniser = FFSynchronizer(self.line, line, init=1)

        timer = Signal(range(self.divisor))
        left = Signal(range(BITS + 1))
        bits = Signal(BITS)
        with m.If(self.bytes.ready):
            m.d.sync += self.bytes.valid.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                # The first sample is that of the start bit; its edge was seen one cycle late.
                m.d.sync += [timer.eq(self.divisor // 2 - 1), left.eq(BITS)]
                with m.If(~line):
                    m.next = "START"
            with m.State("START"):
                m.d.sync += timer.eq(timer - 1)
                with m.If(timer == 0):
                    m.d.sync += timer.eq(self.divisor - 1)
                    m.next = "IDLE"
                    with m.If(~line):
                        m.next = "BITS"
            with m.State("BITS"):
                m.d.sync += timer.eq(timer - 1)
                with m.If(timer == 0):
                    m.d.sync += [
                        timer.eq(self.divisor - 1),
                        left.eq(left - 1),
                        bits.eq(Cat(bits[1:], line)),
                    ]
                    with m.If(left == 0):
                        m.d.sync += bits.eq(bits)
                        m.next = "BREAK"
                        with m.If(line):
                            m.next = "IDLE"
                            with m.If(~self.bytes.valid | self.bytes.ready):
                                m.d.sync += [
                                    self.bytes.valid.eq(1),
                                    self.bytes.payload.eq(bits),
                                ]
            with m.State("BREAK"):
                with m.If(line):
                    m.next = "IDLE"
        return m


class UartTransmitter(wiring.Component):
    """Bytes to a line, one in ``10 * divisor + 1`` cycles.

    Parameters
    ----------
    divisor : int
        Clock cycles per bit, at least 4.

    Members
    -------
    bytes : In(stream.Signature(8))
    line : Out(1), a register, high when idle

    Raises
    ------
    ValueError
        From the constructor, for another divisor.
    """

    def __init__(self, divisor: int):
        _check_divisor(divisor)
        self.divisor = divisor
        super().__init__({"bytes": In(stream.Signature(BITS)), "line": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        timer = Signal(range(self.divisor))
        left = Signal(range(BITS + 3))  # bits still to end, the one on the line included
        bits = Signal(BITS + 1, init=-1)  # after the one on the line; above them the stop bit
        m.d.comb += self.bytes.ready.eq(left == 0)
        with m.If(left == 0):
            m.d.sync += timer.eq(self.divisor - 1)
            with m.If(self.bytes.valid):
                m.d.sync += [
                    left.eq(BITS + 2),
                    bits.eq(Cat(self.bytes.payload, 1)),
                    self.line.eq(0),
                ]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [
                timer.eq(self.divisor - 1),
                left.eq(left - 1),
                bits.eq(Cat(bits[1:], 1)),
                self.line.eq(bits[0]),
            ]
        return m


@dataclass(frozen=True, kw_only=True)
class Uart:
    """A link over a board's UART.

    Parameters
    ----------
    baud : int
        Bits per second; must divide the machine's clock to within 2 %.
    resource : str
        Name of the platform's resource, with ``rx`` and ``tx`` as the board sees them.
    """

    baud: int
    resource: str = "uart"

    @property
    def clocks(self) -> dict[str, int]:
        """Rates of clock domains that the link needs beside the machine's."""
        return {}

    def check(self, clock_hz: int):
        """Raises ValueError for a rate, or a clock of the machine, that does not suit."""
        if not isinstance(self.baud, int) or self.baud < 1:
            raise ValueError(f"baud must be a positive integer, not {self.baud!r}")
        if not 0.98 < self.divisor(clock_hz) * self.baud / clock_hz < 1.02:
            raise ValueError(
                f"baud must divide a clock of {clock_hz} Hz to within 2 %, not {self.baud!r}"
            )

    def divisor(self, clock_hz: int) -> int:
        """Clock cycles per bit."""
        return round(clock_hz / self.baud)

    def attach(self, m: Module, platform, core, clock_hz: int):
        """Adds a core and what lies between its streams ``rx`` and ``tx`` and the board's pins."""
        pins = request_raw(platform, self.resource)
        divisor = self.divisor(clock_hz)
        m.submodules.rx_pin = rx_pin = io.Buffer("i", pins.rx)
        m.submodules.tx_pin = tx_pin = io.Buffer("o", pins.tx)
        m.submodules.receiver = receiver = UartReceiver(divisor=divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(divisor=divisor)
        m.submodules.core = core
        wiring.connect(m, receiver.bytes, core.rx)
        wiring.connect(m, core.tx, transmitter.bytes)
        m.d.comb += [receiver.line.eq(rx_pin.i), tx_pin.o.eq(transmitter.line)]
