"""Whose turn it is: the contexts that take part in something, one after the other."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hw.arch.geometry import CONTEXT_BITS


def of_context(address, words: int, context):
    """Address of a context's word in a memory where each has a part of so many words."""
    return Cat(address[: ceil_log2(words)], context)


class Turns(wiring.Component):
    """The contexts of a set, from the lowest to the highest.

    Parameters
    ----------
    contexts : int
        How many there may be.

    Members
    -------
    members : In(contexts), with ``load``: from the next cycle on the first of these has its turn
    load : In(1)
    next : In(1), the one after it has its turn from the next cycle on; only while there is one
    taking : Out(contexts), the set
    number : Out(CONTEXT_BITS), whose turn it is
    own : Out(contexts), the same as a bit
    after : Out, how many come after it
    others : Out, how many there are beside it
    """

    def __init__(self, contexts: int):
        self._contexts = contexts
        super().__init__(
            {
                "members": In(contexts),
                "load": In(1),
                "next": In(1),
                "taking": Out(contexts),
                "number": Out(CONTEXT_BITS),
                "own": Out(contexts),
                "after": Out(range(contexts)),
                "others": Out(range(contexts)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        rest = Signal(self._contexts)  # those that come after
        others = Signal(self._contexts)
        coming = Signal(self._contexts)
        lowest = Signal(range(self._contexts))
        m.d.comb += [
            coming.eq(rest),
            self.own.eq(1 << self.number[: len(lowest)]),
            self.after.eq(sum(rest)),
            self.others.eq(sum(others)),
        ]
        with m.If(self.load):
            m.d.comb += coming.eq(self.members)
            m.d.sync += self.taking.eq(self.members), others.eq(_above_first(coming))
        for context in reversed(range(self._contexts)):
            with m.If(coming[context]):
                m.d.comb += lowest.eq(context)
        with m.If(self.load | self.next):
            m.d.sync += self.number.eq(lowest), rest.eq(_above_first(coming))
        return m


def _above_first(contexts):
    """A set without the lowest of its members."""
    return contexts & (contexts - 1) if len(contexts) > 1 else Const(0)
