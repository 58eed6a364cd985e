"""The registers between steps."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.arch.program import REGISTERS
from hw.units.commands import ScalarResult, ScaleLayout


class RegisterFile(wiring.Component):
    """Scales that steps pass on to each other.

    Writes come from the sequencer (``preset``), the scalar unit and the vector unit's statistics,
    in falling priority. A read presents its address and has the value in the next cycle.

    Members
    -------
    preset, scalar, vector : In, streams of ScalarResult
    address : In(4)
    value : Out(ScaleLayout), one cycle after ``address``
    """

    preset: In(stream.Signature(ScalarResult))
    scalar: In(stream.Signature(ScalarResult))
    vector: In(stream.Signature(ScalarResult))
    address: In(range(REGISTERS))
    value: Out(ScaleLayout)

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=ScaleLayout, depth=REGISTERS, init=[])
        read, write = memory.read_port(), memory.write_port()
        m.d.comb += [read.addr.eq(self.address), self.value.eq(read.data)]
        taken = 0
        for source in (self.preset, self.scalar, self.vector):
            m.d.comb += source.ready.eq(~taken)
            with m.If(source.valid & source.ready):
                m.d.comb += [
                    write.en.eq(1),
                    write.addr.eq(source.payload.register),
                    write.data.eq(source.payload.value),
                ]
            taken = taken | source.valid
        return m
