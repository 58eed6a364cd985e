"""Rows that were read ahead of a reader, out of a memory of narrower words."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.memory.ram import Ram
from hw.memory.signatures import RowStreamSignature


class RowsAhead(wiring.Component):
    """Asks for the words of row after row, and keeps the rows until they are taken.

    A seek to the row that comes next anyway changes nothing; any other one throws away what is
    there and what is on its way.

    Parameters
    ----------
    depth : int
        Rows of the memory.
    words, width : int
        Words of a row, from its lowest bits on, and bits of each.
    rows_ahead : int
        Most rows that are kept; a power of two.
    latency : int
        Cycles from a row's transfer to its data.

    Members
    -------
    rows : ``In(RowStreamSignature(depth, words * width))``
    forget : ``In(1)``
        The memory changes: what is there is worth nothing, and the next seek is one elsewhere.
    abandon : ``Out(1)``
        Words that were asked for until now, this very cycle included, must not come.
    begin : ``Out(1)``
        From the next cycle on words of ``row`` are asked for, then those of the rows after it.
    row : ``Out(range(depth))``
    ask : ``Out(1)``
        For another word.
    asked : ``In(1)``
        It will come. Only while ``ask`` is high.
    arrived : ``In(1)``
    word : ``In(width)``
        With ``arrived``, in the order in which they were asked for.
    """

    def __init__(self, *, depth: int, words: int, width: int, rows_ahead: int, latency: int):
        self.words = words
        self.rows_ahead = rows_ahead
        self._kept = Ram(rows_ahead, words * width, latency)
        super().__init__(
            {
                "rows": In(RowStreamSignature(depth, words * width)),
                "forget": In(1),
                "abandon": Out(1),
                "begin": Out(1),
                "row": Out(range(depth)),
                "ask": Out(1),
                "asked": In(1),
                "arrived": In(1),
                "word": In(width),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.kept = kept = self._kept
        rows, last = self.rows, self.words - 1

        reading, taken, complete = Signal(), Signal(), Signal()
        elsewhere = Signal()
        m.d.comb += [
            taken.eq(rows.ready & rows.valid),
            elsewhere.eq(rows.seek & (~reading | (rows.first != self.row))),
            self.abandon.eq(elsewhere | self.forget),
        ]
        with m.If(taken):
            m.d.sync += self.row.eq(self.row + 1)
        with m.If(rows.seek):
            m.d.sync += self.row.eq(rows.first)
        m.d.sync += self.begin.eq(elsewhere)
        with m.If(self.begin):
            m.d.sync += reading.eq(1)
        with m.If(self.abandon):
            m.d.sync += reading.eq(0)

        # Places for rows that may still be asked for, and rows that are there.
        free = Signal(range(self.rows_ahead + 1), init=self.rows_ahead)
        there = Signal(range(self.rows_ahead + 1))
        word_asked, word_arrived = Signal(range(self.words)), Signal(range(self.words))
        to, at = Signal(range(self.rows_ahead)), Signal(range(self.rows_ahead))
        first_asked = self.asked & (word_asked == 0)
        m.d.comb += [
            self.ask.eq(reading & ((word_asked != 0) | (free != 0))),
            complete.eq(self.arrived & (word_arrived == last)),
            rows.valid.eq(there != 0),
        ]
        m.d.sync += [
            free.eq(free + taken - first_asked),
            there.eq(there + complete - taken),
            at.eq(at + taken),
            to.eq(to + complete),
        ]
        for one, count in ((self.asked, word_asked), (self.arrived, word_arrived)):
            with m.If(one):
                m.d.sync += count.eq(count + 1)
                with m.If(count == last):
                    m.d.sync += count.eq(0)
        with m.If(self.abandon):
            m.d.sync += [
                free.eq(self.rows_ahead),
                there.eq(0),
                word_asked.eq(0),
                word_arrived.eq(0),
            ]
            m.d.sync += to.eq(0), at.eq(0)

        gathered = Signal(len(rows.data), reset_less=True)
        with m.If(self.arrived):
            m.d.sync += gathered.eq(Cat(gathered[len(self.word) :], self.word))
        m.d.comb += [
            kept.write.eq(complete),
            kept.address.eq(to),
            kept.data.eq(gathered),
            kept.read.address.eq(at),
            rows.data.eq(kept.read.data),
        ]
        return m
