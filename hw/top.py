"""A board's top: its clocks, its link and the machine."""

from amaranth.build import ResourceError
from amaranth.hdl import Elaboratable, Module, Signal
from amaranth.lib import io

from hw.boards import Board
from hw.families import of
from hw.links.pins import request_raw
from hw.memory.sdram.pins import PAD_LATENCY
from hw.sdram_pads import CLOCK, attach_sdram, clock_phase


class Top(Elaboratable):
    """What a bitstream holds.

    Parameters
    ----------
    board : Board
        A board with hardware.
    core : Component
        The machine, or whatever else has the byte streams ``rx`` and ``tx``, and ``sdram`` if the
        board's one is used.
    """

    def __init__(self, board: Board, core):
        if board.simulated:
            raise ValueError(f"board must be one with hardware, not {board.name!r}")
        self.board = board
        self.core = core

    def elaborate(self, platform):
        m = Module()
        link, clock_hz = self.board.link, self.board.clock_hz
        rates, phases = {"sync": clock_hz, **link.clocks}, {}
        family = of(self.board.device)
        if hasattr(self.core, "sdram"):
            ratio = self.core.sdram.signature.ratio
            if ratio > 1 and family.double_rate != PAD_LATENCY[ratio]:
                raise NotImplementedError(
                    f"an SDRAM at {ratio} times the machine's clock needs pads like those of ECP5, "
                    f"which {self.board.device} has not; take a ratio of 1"
                )
            rates[CLOCK] = ratio * clock_hz
            phases[CLOCK] = clock_phase(rates[CLOCK])
            attach_sdram(m, platform, self.core.sdram)
        family.clocks(m, platform, rates, phases)
        link.attach(m, platform, self.core, clock_hz)

        if (led := self._led(platform)) is not None:
            m.submodules.led = led_pin = io.Buffer("o", led)
            heartbeat = Signal(range(clock_hz))
            m.d.sync += heartbeat.eq(heartbeat + 1)
            m.d.comb += led_pin.o.eq(heartbeat[-1])
        return m

    @staticmethod
    def _led(platform):
        """The port of an LED, green where it has colours; None if the board has none."""
        try:
            return platform.request("led", 0, dir="-")
        except ResourceError:
            pass
        try:
            return request_raw(platform, "rgb_led").g
        except ResourceError:
            return None
