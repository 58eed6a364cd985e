"""The vector unit's way to the table store: coefficients, bounds, and EMBED's row."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.arch.arithmetic import CODE_BITS
from hw.arch.memories import HALF_WORD_BITS
from hw.arch.operations import Table
from hw.memory.signatures import ReadSignature
from hw.pipeline import delay
from hw.units.beats import BeatsSignature
from hw.units.commands import has
from hw.units.embedding import EmbeddingRow
from hw.units.stages import Stage
from hw.units.vector import VectorParameters


class _TableReader(wiring.Component):
    """What both forms have: one adder for an address that counts, and that at first collects
    EMBED's ``address + token * operand``, bit by bit.

    Members
    -------
    now : In(BeatsSignature)
    tables : Out(ReadSignature)
    codes : Out(ArrayLayout(signed(8), elements))
        EMBED's, half a word in each beat, with their main operands.
    scaled : Out(1)
        The first of the data is EMBED's coefficient, the row's scale.
    fetch : In(1), fetched : Out(1)
        EMBED's row is to come to where it is read, and has.
    embedding : Out(FetchSignature), if embedding rows have a memory of their own
    tables_write : Out(WriteSignature), with it
    """

    def __init__(self, parameters: VectorParameters):
        self.parameters = p = parameters
        word = data.ArrayLayout(signed(HALF_WORD_BITS), p.elements)
        members = {
            "now": In(BeatsSignature(p)),
            "tables": Out(ReadSignature(p.table_words, word)),
            "codes": Out(data.ArrayLayout(signed(CODE_BITS), p.elements)),
            "scaled": Out(1),
            "fetch": In(1),
            "fetched": Out(1),
        }
        if p.embedding:
            self._row = EmbeddingRow(p.embedding, p.table_words, p.elements)
            row = self._row.signature.members
            members |= {"embedding": row["fetch"], "tables_write": row["write"]}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        p, now = self.parameters, self.now
        words = max(p.table_words, p.embedding.words if p.embedding else 0)
        address = Signal(range(words))
        m.d.comb += self.tables.address.eq(address)
        stride = Signal(len(address), reset_less=True)
        load, odd = self._count(m, address, stride)
        m.d.sync += stride.eq(Mux(load, now.offered.operand, stride << 1))
        if p.embedding:
            m.submodules.row = row = self._row
            connect(m, row.fetch, flipped(self.embedding))
            connect(m, row.write, flipped(self.tables_write))
            m.d.comb += [
                row.start.eq(self.fetch),
                row.address.eq(address),
                row.words.eq(now.step.operand),
                row.dest.eq(now.step.source),
                self.fetched.eq(row.done),
            ]
            with m.If(row.done):
                m.d.sync += address.eq(now.step.source)
        word = self.tables.data.as_value()
        m.d.comb += [
            self.scaled.eq(delay(m, now.scale, p.read_latency, name="scale", reset_less=False)),
            self.codes.eq(Mux(odd, word[len(word) // 2 :], word)),
        ]
        return m

    def _more(self, stride, beat, odd):
        """What is added to the address, but for late reads."""
        now = self.now
        token, embed = now.step.token.bit_select(now.bit, 1), has(now.step.op, table=Table.ROW)
        count = Mux(embed, now.scale | beat & odd, beat)
        return Mux(now.row, Mux(token, stride, 0), count)


class PipelinedTableReader(_TableReader):
    """Bounds are read late, as `PipelinedAddresses` has it."""

    def _count(self, m, address, stride):
        now, odd = self.now, Signal()
        beat, load = now.marks[0].beat, now.ready
        late = has(now.step.op, table=Table.BOUNDS)
        begins = late & now.marks[Stage.VALUE - 1].late_first
        goes_on = late & now.marks[Stage.VALUE].late_beat
        m.d.sync += [
            address.eq(address + (goes_on | self._more(stride, beat, odd))),
            odd.eq(odd ^ beat),
        ]
        with m.If(load):
            m.d.sync += odd.eq(0)
        with m.If(begins | load & ~goes_on):
            m.d.sync += address.eq(Mux(begins, now.step.address, now.offered.address))
        return load, delay(m, odd, self.parameters.read_latency, name="odd")


class CompactTableReader(_TableReader):
    """The step's address is added to none, by the same adder."""

    def _count(self, m, address, stride):
        now, mark = self.now, self.now.marks[self.parameters.pace - 1]
        odd = mark.number[0]
        more = self._more(stride, mark.beat, odd)
        m.d.sync += address.eq(address + Mux(now.begins, now.step.address, more))
        with m.If(now.ready):
            m.d.sync += address.eq(0)
        return mark.idle, odd
