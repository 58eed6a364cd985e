"""What the chunks of a row's dot product are added to."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.arch.geometry import CONTEXT_BITS
from hw.pipeline import KEEP

CHUNK = ("present", "last", "first", "context")
"""What accompanies a chunk to the accumulator."""


class Accumulator(wiring.Component):
    """Sums of dot products whose chunks come one after the other; of several contexts in turn.

    The adder is the user's: ``total`` is to be ``value`` and the chunk's own sum, in the cycle
    after ``present``, ``last``, ``first`` and ``context``, which say of the chunk that it is there,
    that it is the last one of its group, the first one, and whose it is.

    Parameters
    ----------
    bits : int
    contexts : int
        Of which there is a sum each. Of one, the first chunk needs no telling.
    stays : bool
        Of one context: whether ``value`` is the complete sum in the cycle after ``ends``, in which
        no chunk is added.

    Members
    -------
    present, last, first : In(1)
    context : In(CONTEXT_BITS)
    value : Out(signed(bits))
    total : In(signed(bits))
    ends : Out(1), ``total`` is complete
    """

    def __init__(self, bits: int, contexts: int = 1, *, stays: bool = False):
        self._bits, self._contexts, self._stays = bits, contexts, stays
        super().__init__(
            {
                "present": In(1),
                "last": In(1),
                "first": In(1),
                "context": In(CONTEXT_BITS),
                "value": Out(signed(bits)),
                "total": In(signed(bits)),
                "ends": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        present = Signal(attrs=KEEP)
        last = Signal(init=1, attrs=KEEP)  # a reset leaves nothing in the accumulator
        m.d.sync += present.eq(self.present), last.eq(self.last)
        m.d.comb += self.ends.eq(last)
        if self._contexts == 1:
            value = Signal(signed(self._bits), reset_less=True)
            m.d.comb += self.value.eq(value)
            empties = last
            if self._stays:
                empties = Signal(init=1)
                m.d.sync += empties.eq(last)
            # Synchronous reset and clock enable of the flip-flop: they cost no logic.
            with m.If(empties):
                m.d.sync += value.eq(0)
            with m.Elif(present):
                m.d.sync += value.eq(self.total)
            return m
        first, context = Signal(), Signal(CONTEXT_BITS)
        m.d.sync += first.eq(self.first), context.eq(self.context)
        m.submodules.sums = sums = Memory(shape=signed(self._bits), depth=self._contexts, init=[])
        read, write = sums.read_port(domain="comb"), sums.write_port()
        m.d.comb += [
            read.addr.eq(context),
            self.value.eq(Mux(first, 0, read.data)),
            write.addr.eq(context),
            write.data.eq(self.total),
            write.en.eq(present),
        ]
        return m
