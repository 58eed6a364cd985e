"""A token's embedding row on its way from a memory beside the chip to the table store."""

from dataclasses import dataclass

from amaranth.hdl import C, Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.arch.memories import HALF_WORD_BITS
from hw.memory.signatures import FetchSignature, WriteSignature
from hw.parameters import require_positive


@dataclass(frozen=True, kw_only=True)
class EmbeddingParameters:
    """A memory of embedding rows, and the time that its reader gives it.

    The time is the same for every row, long enough for a refresh that comes between: when refreshes
    fall does not show in a token's timetable.

    Parameters
    ----------
    words : int
        Words of the memory, as wide as those of the table store.
    latency : int
        Cycles for a row, beside those of its words.
    pace : int
        Cycles for a word; a power of two.
    """

    words: int
    latency: int
    pace: int

    def __post_init__(self):
        require_positive(self)

    def cycles(self, words: int) -> int:
        """Cycles for a row of so many words, from that of ``start`` to that of ``done``."""
        return self.latency + self.pace * words


class EmbeddingRow(wiring.Component):
    """Copies a row, in `EmbeddingParameters.cycles`, or later if the memory is.

    Parameters
    ----------
    parameters : EmbeddingParameters
    table_words, elements : int
        Words of the table store, and entries of each.

    Members
    -------
    start : ``In(1)``
        The row at ``address`` of ``words`` words goes to ``dest`` on; they stay until ``done``.
    address, words, dest : ``In``
    done : ``Out(1)``
        It is there since this cycle.
    fetch : ``Out(FetchSignature)``
    write : ``Out(WriteSignature)``
        To the table store.
    """

    def __init__(self, parameters: EmbeddingParameters, table_words: int, elements: int):
        self.parameters = p = parameters
        entry = signed(HALF_WORD_BITS)
        super().__init__(
            {
                "start": In(1),
                "address": In(range(p.words)),
                "words": In(range(p.words + 1)),
                "dest": In(range(table_words)),
                "done": Out(1),
                "fetch": Out(FetchSignature(p.words, data.ArrayLayout(entry, elements))),
                "write": Out(WriteSignature(table_words, entry, elements)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p, fetch, write = self.parameters, self.fetch, self.write
        working, asking = Signal(), Signal()
        missing = Signal.like(self.words)
        left = Signal(range(p.cycles(p.words)))
        m.d.comb += [
            fetch.ask.valid.eq(asking),
            fetch.ask.payload.address.eq(self.address),
            fetch.ask.payload.words.eq(self.words),
            write.enable.eq(fetch.valid),
            write.data.eq(fetch.data),
            self.done.eq(working & (left == 0) & (missing == 0)),
        ]
        with m.If(self.done):
            m.d.sync += working.eq(0)
        with m.If(left != 0):
            m.d.sync += left.eq(left - 1)
        with m.If(fetch.ask.ready):
            m.d.sync += asking.eq(0)
        with m.If(fetch.valid):
            m.d.sync += [missing.eq(missing - 1), write.address.eq(write.address + 1)]
        least = Cat(C(0, exact_log2(p.pace)), self.words) + p.latency - 2
        with m.If(self.start):
            m.d.sync += [
                working.eq(1),
                asking.eq(1),
                missing.eq(self.words),
                left.eq(least),
                write.address.eq(self.dest),
            ]
        return m
