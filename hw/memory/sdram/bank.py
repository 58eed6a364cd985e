"""What a bank of an SDRAM may be told, and when."""

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.memory.sdram.parts import Timing


def remaining(m: Module, cycles, event, name: str) -> Signal:
    """Cycles until ``event`` is ``cycles`` cycles ago; 0 if it is, or never was."""
    left = Signal(Value.cast(cycles).shape(), name=f"{name}_left")
    with m.If(event):
        m.d.sync += left.eq(cycles - 1)
    with m.Elif(left != 0):
        m.d.sync += left.eq(left - 1)
    return left


def passing(m: Module, cycles, event, name: str) -> Value:
    """Whether ``event`` will be at least ``cycles`` cycles ago in the next cycle.

    Of an event in this very cycle nothing is known yet.
    """
    return ~remaining(m, cycles, event, name)[1:].any()


class Bank(wiring.Component):
    """The row that is open in a bank, and its times.

    Members
    -------
    activate, precharge, write : ``In(1)``
        The bank is told so in this cycle; what follows from it shows in the next.
    row : ``In(row_bits)``
        Of an activate.
    open : ``Out(1)``
    opened : ``Out(row_bits)``
        The row that is open.
    may_activate, may_access, may_precharge : ``Out(1)``
        Its own times allow it in the next cycle, if it is told nothing in this one. An access is a
        read or a write.
    """

    def __init__(self, row_bits: int, timing: Timing):
        self.timing = timing
        super().__init__(
            {
                "activate": In(1),
                "precharge": In(1),
                "write": In(1),
                "row": In(row_bits),
                "open": Out(1),
                "opened": Out(row_bits),
                "may_activate": Out(1),
                "may_access": Out(1),
                "may_precharge": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        t = self.timing
        with m.If(self.precharge):
            m.d.sync += self.open.eq(0)
        with m.If(self.activate):
            m.d.sync += self.open.eq(1), self.opened.eq(self.row)
        m.d.comb += [
            self.may_activate.eq(
                passing(m, t.rp, self.precharge, "rp") & passing(m, t.rc, self.activate, "rc")
            ),
            self.may_access.eq(passing(m, t.rcd, self.activate, "rcd")),
            self.may_precharge.eq(
                passing(m, t.ras, self.activate, "ras") & passing(m, t.wr, self.write, "wr")
            ),
        ]
        return m
