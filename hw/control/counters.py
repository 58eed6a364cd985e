"""Counters of the cycles that are spent at each step of the program."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out


class StepCounters(wiring.Component):
    """``counters[step] += cycles since the last step was done``, when a step is done.

    Parameters
    ----------
    steps : int
    counted : bool
        If not, nothing is counted, and every value is 0.

    Members
    -------
    step : In(range(steps)), since at least one cycle before ``done``
    begin : In(1), the next cycle is the first one of a step
    done : In(1), this cycle is the last one of ``step``, and the next the first of another
    clear : In(1), set the counter of ``step`` to 0
    reading : In(1), ``value`` is that of ``address``; nothing is counted meanwhile
    address : In(range(steps))
    value : Out(32), one cycle after its address
    """

    def __init__(self, steps: int, counted: bool = True):
        self._steps = steps
        self._counted = counted
        super().__init__(
            {
                "step": In(range(steps)),
                "begin": In(1),
                "done": In(1),
                "clear": In(1),
                "reading": In(1),
                "address": In(range(steps)),
                "value": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        if not self._counted:
            return m
        m.submodules.memory = memory = Memory(shape=32, depth=self._steps, init=[])
        read, write = memory.read_port(), memory.write_port()
        elapsed = Signal(32)
        m.d.sync += elapsed.eq(Mux(self.begin | self.done, 1, elapsed + 1))
        m.d.comb += [
            read.addr.eq(Mux(self.reading, self.address, self.step)),
            self.value.eq(read.data),
            write.addr.eq(self.step),
            write.en.eq(self.done | self.clear),
            write.data.eq(Mux(self.clear, 0, read.data + elapsed)),
        ]
        return m
