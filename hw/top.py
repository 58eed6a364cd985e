"""A board's top: its clock, its serial link and the machine.

The machine's clock starts only once the PLL has locked. Configuration has given every register its
initial value by then, and nothing has been clocked since, so that start is the reset: it takes no
fan-out, no logic and no slice control set, as a reset net to every register would.
"""

from dataclasses import dataclass

from amaranth.hdl import ClockDomain, ClockSignal, Const, Elaboratable, Instance, Module, Signal
from amaranth.lib import io, wiring
from amaranth.lib.cdc import FFSynchronizer

from hw.boards import Board
from hw.links.uart import UartReceiver, UartTransmitter


@dataclass(frozen=True, kw_only=True)
class EcpPll:
    """Dividers of an ECP5 PLL: ``output = input / input_divisor * feedback / output_divisor``.

    The feedback runs through an output of its own, so that the phase detector works at the highest
    rate and any whole ratio of ``feedback`` to ``output_divisor`` can be had.
    """

    input_divisor: int
    feedback: int
    output_divisor: int

    @classmethod
    def solve(cls, input_hz: int, output_hz: int) -> "EcpPll":
        """Dividers that make ``output_hz`` exactly, with the oscillator closest to 600 MHz."""
        found = []
        for input_divisor in range(1, 41):
            if not 10e6 <= input_hz / input_divisor <= 400e6:
                continue
            for output_divisor in range(1, 129):
                oscillator = output_hz * output_divisor
                feedback, rest = divmod(oscillator * input_divisor, input_hz)
                if 400e6 <= oscillator <= 800e6 and not rest and 1 <= feedback <= 128:
                    distance = abs(oscillator - 600_000_000)
                    found.append((input_divisor, distance, feedback, output_divisor))
        if not found:
            raise ValueError(
                f"output_hz must be one that a PLL can make from {input_hz} Hz, not {output_hz!r}"
            )
        input_divisor, _, feedback, output_divisor = min(found)
        return cls(input_divisor=input_divisor, feedback=feedback, output_divisor=output_divisor)

    def create(self, reference: Signal, output: Signal, locked: Signal) -> Instance:
        """The PLL between ``reference`` and ``output``."""
        feedback = Signal()
        return Instance(
            "EHXPLLL",
            # What vendor tools write for this analogue part; it suits all dividers used here.
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2",
            p_PLLRST_ENA="DISABLED",
            p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED",
            p_OUTDIVIDER_MUXA="DIVA",
            p_OUTDIVIDER_MUXB="DIVB",
            p_OUTDIVIDER_MUXC="DIVC",
            p_OUTDIVIDER_MUXD="DIVD",
            p_CLKI_DIV=self.input_divisor,
            p_CLKFB_DIV=1,
            p_FEEDBK_PATH="CLKOP",
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOP_DIV=self.feedback,
            p_CLKOP_CPHASE=self.feedback - 1,
            p_CLKOP_FPHASE=0,
            p_CLKOS_ENABLE="ENABLED",
            p_CLKOS_DIV=self.output_divisor,
            p_CLKOS_CPHASE=self.output_divisor - 1,
            p_CLKOS_FPHASE=0,
            i_CLKI=reference,
            i_CLKFB=feedback,
            i_RST=Const(0),
            i_STDBY=Const(0),
            i_PHASESEL0=Const(0),
            i_PHASESEL1=Const(0),
            i_PHASEDIR=Const(1),
            i_PHASESTEP=Const(1),
            i_PHASELOADREG=Const(1),
            i_PLLWAKESYNC=Const(0),
            i_ENCLKOP=Const(0),
            o_CLKOP=feedback,
            o_CLKOS=output,
            o_LOCK=locked,
        )


class Top(Elaboratable):
    """What a bitstream holds.

    Parameters
    ----------
    board : Board
        A board with hardware.
    core : Component
        The machine, or whatever else has the byte streams ``rx`` and ``tx``.
    """

    def __init__(self, board: Board, core):
        if board.simulated:
            raise ValueError(f"board must be one with hardware, not {board.name!r}")
        self.board = board
        self.core = core

    def elaborate(self, platform):
        if platform.family != "ecp5":
            raise NotImplementedError(f"no clock generator for the family {platform.family!r} yet")
        m = Module()
        self._clock_ecp5(m, platform)

        pins = platform.request("uart", 0, dir={"rx": "-", "tx": "-", "rts": "-", "dtr": "-"})
        m.submodules.rx_pin = rx_pin = io.Buffer("i", pins.rx)
        m.submodules.tx_pin = tx_pin = io.Buffer("o", pins.tx)
        m.submodules.receiver = receiver = UartReceiver(divisor=self.board.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(divisor=self.board.divisor)
        m.submodules.core = core = self.core
        wiring.connect(m, receiver.bytes, core.rx)
        wiring.connect(m, core.tx, transmitter.bytes)
        m.d.comb += [receiver.line.eq(rx_pin.i), tx_pin.o.eq(transmitter.line)]

        led = platform.request("led", 0, dir="-")
        m.submodules.led = led_pin = io.Buffer("o", led)
        heartbeat = Signal(range(self.board.clock_hz))
        m.d.sync += heartbeat.eq(heartbeat + 1)
        m.d.comb += led_pin.o.eq(heartbeat[-1])
        return m

    def _clock_ecp5(self, m, platform):
        pin = platform.request(platform.default_clk, dir="-")
        m.submodules.clock_pin = clock_pin = io.Buffer("i", pin)
        m.domains.reference = ClockDomain("reference", reset_less=True, local=True)
        m.domains.sync = ClockDomain("sync", reset_less=True)
        output, locked, running, enable = Signal(), Signal(), Signal(), Signal()
        pll = EcpPll.solve(int(platform.default_clk_frequency), self.board.clock_hz)
        m.submodules.pll = pll.create(clock_pin.i, output, locked)
        m.submodules.locked = FFSynchronizer(locked, running, o_domain="reference", stages=3)
        # A lock that comes and goes while the PLL settles does not count.
        settled = Signal(8)
        with m.If(~running):
            m.d.reference += settled.eq(0)
        with m.Elif(~settled.all()):
            m.d.reference += settled.eq(settled + 1)
        m.d.reference += enable.eq(settled.all())
        m.submodules.gate = Instance("DCCA", i_CLKI=output, i_CE=enable, o_CLKO=ClockSignal("sync"))
        m.d.comb += ClockSignal("reference").eq(clock_pin.i)
