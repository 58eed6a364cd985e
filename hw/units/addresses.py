"""Where the vector unit reads and writes the memories that each context has a part of."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.arch.geometry import CONTEXT_BITS
from hw.arch.operations import late_reads
from hw.units.beats import BeatsSignature
from hw.units.stages import Stage
from hw.units.vector import VectorParameters

READ = "vectors", "multiplicands", "states", "sums"


class _Addresses(wiring.Component):
    """What both forms have.

    Members
    -------
    now : In(BeatsSignature)
    dest : In, and context : In(CONTEXT_BITS)
        Of the step whose beats come to be written.
    vectors, multiplicands, states, sums : Out
        Addresses, with their contexts', which count at the beats that need them.
    written : Out(StructLayout), ``address`` and ``context``
        Of the beat at ``write_delay``, in whichever memory.
    """

    def __init__(self, parameters: VectorParameters):
        self.parameters = p = parameters
        at = {"address": p.dest_bits, "context": CONTEXT_BITS}
        super().__init__(
            {
                "now": In(BeatsSignature(p)),
                "dest": In(p.dest_bits),
                "context": In(CONTEXT_BITS),
                "written": Out(data.StructLayout(at)),
            }
            | {name: Out(range(p.contexts * p.words(name))) for name in READ}
        )

    def elaborate(self, platform):
        m = Module()
        step = self.now.step
        for memory in READ:
            late_ops = late_reads(memory)
            (base,) = set(late_ops.values()) or {"source"}
            # A state that is gone on from may be that of another context.
            whose = step.before if memory == "states" else step.context
            self._read(m, memory, step.op.matches(*late_ops), base, whose)
        self._write(m)
        return m


class PipelinedAddresses(_Addresses):
    """Registers that count. A late address begins late as well: until then its port may serve the
    step before."""

    def _read(self, m, memory, late, base, whose):
        of, now, address = self.parameters.address_of, self.now, getattr(self, memory)
        begins = late & now.marks[Stage.LATE - 1].late_first
        goes_on = late & now.marks[Stage.LATE].late_beat
        with m.If(begins | now.ready & ~goes_on):
            begin = of(memory, now.offered.context, now.offered.source)
            m.d.sync += address.eq(Mux(begins, of(memory, whose, now.step[base]), begin))
        with m.Elif(goes_on | now.marks[0].beat):
            m.d.sync += address.eq(address + 1)

    def _write(self, m):
        delay, marks = self.parameters.write_delay, self.now.marks
        written = Signal(self.written.shape(), name="write", reset_less=True)
        m.d.comb += self.written.eq(written)
        with m.If(marks[delay - 1].first):
            m.d.sync += [written.address.eq(self.dest), written.context.eq(self.context)]
        with m.Elif(marks[delay].beat):
            m.d.sync += written.address.eq(written.address + 1)


class CompactAddresses(_Addresses):
    """Where the step begins, and the beat's number."""

    def _read(self, m, memory, late, base, whose):
        of, step, number = self.parameters.address_of, self.now.step, self.now.marks[0].number
        begin = self.dest if base == "dest" else step[base]  # by the adder of what is written
        at = of(memory, whose, begin + number)
        source = of(memory, step.context, step.source + number)
        m.d.comb += getattr(self, memory).eq(Mux(late, at, source))

    def _write(self, m):
        m.d.comb += [
            self.written.address.eq(self.dest + self.now.marks[0].number),
            self.written.context.eq(self.context),
        ]
