"""Dot products as cascades: lanes that hand a sum on, each of them one adder and no more."""

from collections.abc import Sequence

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.arch.arithmetic import CODE_BITS, SUM_BITS, TRIT_BITS
from hw.arch.geometry import CONTEXT_BITS
from hw.pipeline import add, add_up, delay
from hw.units.accumulator import CHUNK, Accumulator
from hw.units.row import term


def skew(lane: int) -> int:
    """Cycles by which a lane of a cascade is behind its first one; the first two work together."""
    return max(0, lane - 1)


def sum_bits(terms: int) -> int:
    """Width of the sum of so many codes of either sign, or the 24 bits of all sums if these do."""
    return min(SUM_BITS, CODE_BITS + terms.bit_length())


def row_widths(columns: int, *, chain: int, bits: int) -> tuple[list[int], list[int]]:
    """Of the adders of a row: each cascade's; each level's of the tree, and the accumulator's."""
    cascade = [CODE_BITS + lane.bit_length() for lane in range(1, chain)]
    left = columns // chain
    terms, sums, level = cascade * left, [], cascade[-1]
    while left > 1:
        level += 1
        sums += [level] * (left // 2)
        left -= left // 2
    return terms, [*sums, bits]


class AdderSignature(wiring.Signature):
    """``sum = augend + addend + carry`` of so many bits; at once.

    Where an adder ``chooses``, it adds ``(addend & not_zero) ^ negative``.

    Members
    -------
    augend, addend : ``Out(signed(bits))``
    carry : ``Out(1)``
    not_zero, negative : ``Out(1)``, if it chooses
    sum : ``In(signed(bits))``
    """

    def __init__(self, bits: int, *, chooses: bool):
        members = {"augend": Out(signed(bits)), "addend": Out(signed(bits)), "carry": Out(1)}
        if chooses:
            members |= {"not_zero": Out(1), "negative": Out(1)}
        super().__init__({**members, "sum": In(signed(bits))})


class TermAdders(wiring.Component):
    """Adders beside each other.

    Where a carry cell can choose a term as well, the platform has ``get_term_adders``: a function
    of this component that returns what is elaborated in its place, and equals it.

    Members
    -------
    term_0, term_1, ... : ``In(AdderSignature(bits, chooses=True))``
        One for each of ``terms``.
    sum_0, sum_1, ... : ``In(AdderSignature(bits, chooses=False))``
        One for each of ``sums``; lists of the same names have all.
    """

    def __init__(self, terms: Sequence[int], sums: Sequence[int]):
        super().__init__(
            {
                f"{name}_{n}": In(AdderSignature(bits, chooses=name == "term"))
                for name, widths in (("term", terms), ("sum", sums))
                for n, bits in enumerate(widths)
            }
        )
        self.terms = [getattr(self, f"term_{n}") for n in range(len(terms))]
        self.sums = [getattr(self, f"sum_{n}") for n in range(len(sums))]

    def elaborate(self, platform):
        if hasattr(platform, "get_term_adders"):
            return platform.get_term_adders(self)
        m = Module()
        for adder in self.terms:
            addend = term(adder.addend, adder.not_zero, adder.negative)
            m.d.comb += adder.sum.eq(add(adder.augend, addend, adder.carry))
        for adder in self.sums:
            m.d.comb += adder.sum.eq(add(adder.augend, adder.addend, adder.carry))
        return m


class CascadeRow(wiring.Component):
    """One dot product: ``sum = sum over chunks, over c of code[c] * trit[c]``.

    Its columns are cascades of ``chain`` lanes, whose sums a tree adds. A lane adds its term to
    what the lane before handed on, 8 + ceil(log2 k) bits behind k lanes; the first one adds
    nothing, and the one that its term then lacks of ``-code`` is a carry of the tree or of the
    accumulator.

    Throughput is a chunk per cycle. Lane k of each cascade, from 0, takes its code and its trit
    ``skew(k)`` cycles after the chunk's first ones. A chunk whose first ones are at the inputs in
    cycle t is marked by ``present`` of cycle t + depth - 1, where the depth is ``chain - 1`` and
    the levels of the tree, and a missing one adds nothing. With ``last`` of that cycle the sum is
    complete, and can be taken from cycle t + depth + 1 on, until the next is; the next chunk begins
    that.

    Members
    -------
    codes : ``In(ArrayLayout(signed(8), columns))``
    trits : ``In(ArrayLayout(2, columns))``
    present : ``In(1)``
        There is a chunk whose terms are all added in the next cycle.
    last : ``In(1)``
        It is the last one of its group.
    first, context : ``In(1)``, ``In(CONTEXT_BITS)``
        It is the first one, and whose; of an `Accumulator` of several ``contexts``.
    take : ``In(1)``
        The sum is what comes in the next cycle.
    sum : ``Out(signed(bits))``
        Zero in all other cycles, so that rows share what they drive.
    """

    def __init__(self, columns: int, *, chain: int, bits: int, contexts: int = 1):
        self.columns, self.chain, self.bits = columns, chain, bits
        self.accumulator = Accumulator(bits, contexts)
        super().__init__(
            {
                "codes": In(data.ArrayLayout(signed(CODE_BITS), columns)),
                "trits": In(data.ArrayLayout(TRIT_BITS, columns)),
                "present": In(1),
                "last": In(1),
                "first": In(1),
                "context": In(CONTEXT_BITS),
                "take": In(1),
                "sum": Out(signed(bits)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.adders = adders = TermAdders(
            *row_widths(self.columns, chain=self.chain, bits=self.bits)
        )
        terms, sums = iter(adders.terms), iter(adders.sums)

        def sum_of(augend, addend, carry, adder=None):
            adder = adder or next(sums)
            m.d.comb += [
                adder.augend.eq(augend),
                adder.addend.eq(addend),
                adder.carry.eq(carry),
            ]
            return adder.sum

        nodes, carries = [], []
        for column, (code, (not_zero, negative)) in enumerate(
            zip(self.codes, self.trits, strict=True)
        ):
            if column % self.chain == 0:
                node, carry = term(code, not_zero, negative), negative
            else:
                adder = next(terms)
                m.d.comb += [adder.not_zero.eq(not_zero), adder.negative.eq(negative)]
                total = sum_of(node, code, negative, adder)
                node = delay(m, total, 1, name=f"sum_{column}")
                carry = delay(m, carry, 1, name=f"carry_{column}")
            if (column + 1) % self.chain == 0:
                nodes.append(node)
                carries.append(carry)
        node, carry = add_up(m, nodes, carries, add=sum_of)

        m.submodules.accumulator = accumulator = self.accumulator
        complete = Signal(signed(self.bits), reset_less=True)
        taken = Signal(signed(self.bits), reset_less=True)
        m.d.comb += [
            *(getattr(accumulator, name).eq(getattr(self, name)) for name in CHUNK),
            accumulator.total.eq(sum_of(accumulator.value, node, carry)),
            self.sum.eq(taken),
        ]
        with m.If(accumulator.ends):
            m.d.sync += complete.eq(accumulator.total)
        m.d.sync += taken.eq(Mux(self.take, complete, 0))
        return m
