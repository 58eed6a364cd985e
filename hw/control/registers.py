"""The registers between steps."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.arch.program import REGISTERS
from hw.units.commands import ScalarResult, ScaleLayout


class RegisterFile(wiring.Component):
    """Scales that steps of a context pass on to each other.

    Writes come from the sequencer (``preset``), the scalar unit and the vector unit's statistics,
    in falling priority. A read presents its address and has the value in the next cycle.

    Parameters
    ----------
    contexts : int
        Each has registers of its own.

    Members
    -------
    preset, scalar, vector : In, streams of ScalarResult; the first one is always taken
    address : In(range(REGISTERS * contexts))
    value : Out(ScaleLayout), one cycle after ``address``
    """

    def __init__(self, contexts: int = 1):
        self._registers = REGISTERS * contexts
        super().__init__(
            {
                "preset": In(stream.Signature(ScalarResult, always_ready=True)),
                "scalar": In(stream.Signature(ScalarResult)),
                "vector": In(stream.Signature(ScalarResult)),
                "address": In(range(self._registers)),
                "value": Out(ScaleLayout),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=ScaleLayout, depth=self._registers, init=[])
        read, write = memory.read_port(), memory.write_port()
        m.d.comb += [read.addr.eq(self.address), self.value.eq(read.data)]
        taken = 0
        for source in (self.preset, self.scalar, self.vector):
            if source is not self.preset:
                m.d.comb += source.ready.eq(~taken)
            with m.If(source.valid & source.ready):
                m.d.comb += [
                    write.en.eq(1),
                    write.addr.eq(source.payload.register),
                    write.data.eq(source.payload.value),
                ]
            taken = taken | source.valid
        return m
