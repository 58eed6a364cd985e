"""One dot product of the ternary engine, a chunk of its terms per cycle."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.arch.arithmetic import CODE_BITS, SUM_BITS, TRIT_BITS
from hw.arch.geometry import CONTEXT_BITS
from hw.pipeline import add, add_up, delay
from hw.units.accumulator import CHUNK, Accumulator


def term(code, not_zero, negative):
    """``(code & not_zero) ^ negative``: a code by a trit, less one where that is negative."""
    selected = code.as_unsigned() & not_zero.replicate(len(code))
    return (selected ^ negative.replicate(len(code))).as_signed()


class TernaryRow(wiring.Component):
    """One dot product: ``sum = sum over chunks, over c of code[c] * trit[c]``.

    A lane's term is ``(code & non_zero) ^ negative``; the one that this lacks of ``-code`` is the
    carry of one of the row's adders, of which there are as many as lanes, the accumulator's
    included. Level k of the tree has 8 + k bits and a register.

    Throughput is a chunk per cycle. A chunk that is at the inputs in cycle t is marked by
    ``present`` of cycle t + levels - 1, and a missing one adds nothing. With ``last`` of that cycle
    the sum is complete, and in ``sum`` in cycle t + levels + 1; the next chunk begins a new one. In
    that of a ``compact`` row it is a cycle later, and no chunk may come the cycle after the last.

    Members
    -------
    codes : ``In(ArrayLayout(signed(8), columns))``
    trits : ``In(ArrayLayout(2, columns))``
    present : ``In(1)``
        There is a chunk whose term tree ends in the next cycle.
    last : ``In(1)``
        It is the last one of its group.
    first, context : ``In(1)``, ``In(CONTEXT_BITS)``
        It is the first one, and whose; of an `Accumulator` of several ``contexts``.
    above : ``In(signed(24))``
        What ``sum`` becomes in all other cycles: the drain is a shift register over rows.
    sum : ``Out(signed(24))``
    """

    def __init__(self, columns: int, contexts: int = 1, *, compact: bool = False):
        if not isinstance(columns, int) or columns < 1:
            raise ValueError(f"columns must be a positive integer, not {columns!r}")
        self.columns = columns
        self.accumulator = Accumulator(SUM_BITS, contexts, stays=compact)
        self._compact = compact
        super().__init__(
            {
                "codes": In(data.ArrayLayout(signed(CODE_BITS), columns)),
                "trits": In(data.ArrayLayout(TRIT_BITS, columns)),
                "present": In(1),
                "last": In(1),
                "first": In(1),
                "context": In(CONTEXT_BITS),
                "above": In(signed(SUM_BITS)),
                "sum": Out(signed(SUM_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        terms = [term(code, *trit) for code, trit in zip(self.codes, self.trits, strict=True)]
        node, carry = add_up(m, terms, [trit[1] for trit in self.trits])

        m.submodules.accumulator = accumulator = self.accumulator
        held = Signal(signed(SUM_BITS), reset_less=True)
        m.d.comb += [
            *(getattr(accumulator, name).eq(getattr(self, name)) for name in CHUNK),
            accumulator.total.eq(add(accumulator.value, node, carry)),
        ]
        ends, complete = accumulator.ends, accumulator.total
        if self._compact:
            # Where the sum itself is not needed at once, it and its register are one logic cell.
            ends = delay(m, ends, 1, name="ended", reset_less=False)
            complete = accumulator.value
        m.d.sync += held.eq(Mux(ends, complete, self.above))
        m.d.comb += self.sum.eq(held)
        return m
