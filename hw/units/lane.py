"""Datapath of one element of the vector unit."""

from functools import partial

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.arch.arithmetic import (
    BLOCK_SHIFTS,
    CHANGE_SHIFT,
    CODE_BITS,
    CODE_PLACE,
    GATE_BITS,
    GATE_SHIFTS,
    HIDDEN_BITS,
    HIDDEN_EXTRA,
    OPERAND_BITS,
    PRODUCT_PLACE,
    PRODUCT_SHIFT,
    RESIDUAL_BITS,
    SUM_BITS,
    saturate,
)
from hw.arch.memories import HALF_WORD_BITS
from hw.arch.program import Space
from hw.pipeline import delay
from hw.units.noise import WORD_BITS
from hw.units.stages import PLACES, ControlLayout, Factor, Products, Stage
from hw.units.tables import DrawNormaliser, TableUnit
from weights.fixed import PLAIN_SHIFT

SQUARED_BITS = 15
"""Of what is squared: 18 + 16 bits, shifted right by 19; or 18, shifted right by 4."""
ENERGY_BITS = 2 * (SQUARED_BITS - 2) + 1
TERM_BITS = 2 * OPERAND_BITS - 1 - PRODUCT_PLACE
"""Of a shifted product: a coefficient that is not of a table is never negative."""
CODE_ALIGNMENT = 15
"""EMBED's codes come with so many zeros below them: these need no multiplexer."""
PLAIN_FACTOR = 1 << PRODUCT_SHIFT + HIDDEN_EXTRA


class VectorLane(wiring.Component):
    """One element per cycle through every formula of ``VectorOp``.

    ``docs/arithmetic.md`` has the formulas. Data that meet in one result enter at different stages.
    Elements of two steps may be under way at once: each stage has its own ``control``.

    Parameters
    ----------
    compact : bool
        One element at a time: all inputs stay until its result was taken, and it forms its products
        one after the other.

    Members
    -------
    control : In(ControlLayout)
    forms : In(Products)
        Of a compact lane: what it forms, so that it is there in the next cycle, and until it forms
        another one. The last product is that of a result with ``last``.
    vector, sum, multiplicand, state, code : In
        Main operand, chosen by ``embed`` and ``space``, at ``MAIN``; candidate or residual
        (``vector``), gate factor (``multiplicand``) and hidden state (``state``) at ``LATE``.
    table : In(signed(16))
        Coefficient at ``MAIN``, or a lower bound's rest at ``VALUE``.
    word : In(32)
        Random word at ``WORD``.
    energy : Out(27)
        Square of NORM's element, or of MEASURE's operand, at ``GATED``.
    result : Out(signed(24))
        Element, gained element or CHOOSE's key at ``RESULT``.
    result_code : Out(signed(8))
        QUANT's code at ``RESULT``.
    """

    control: In(ControlLayout)
    forms: In(Products)
    vector: In(signed(RESIDUAL_BITS))
    sum: In(signed(SUM_BITS))
    multiplicand: In(signed(SUM_BITS))
    state: In(signed(HIDDEN_BITS))
    table: In(signed(HALF_WORD_BITS))
    code: In(signed(CODE_BITS))
    word: In(WORD_BITS)
    energy: Out(ENERGY_BITS)
    result: Out(signed(RESIDUAL_BITS))
    result_code: Out(signed(CODE_BITS))

    def __init__(self, compact: bool = False):
        self._compact = compact
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        domain = "comb" if self._compact else "sync"
        multiply = self._share(m) if self._compact else partial(_multiply, m)

        def behind(value, since: Stage, until: Stage, name: str):
            """A value where another stage's are, unless it is held anyway."""
            return value if self._compact else delay(m, value, until - since, name=name)

        # OPERAND, with its coefficient
        control = self.control.MAIN
        operand = Signal(signed(RESIDUAL_BITS), reset_less=True)
        with m.Switch(control.space):
            for space, source in (
                (Space.VECTORS, self.vector),
                (Space.SUMS, self.sum),
                (Space.MULTIPLICANDS, self.multiplicand),
                (Space.STATES, self.state),
            ):
                with m.Case(space):
                    m.d[domain] += operand.eq(source)
        with m.If(control.embed):
            m.d[domain] += operand.eq(self.code << CODE_ALIGNMENT)
        coefficient = Signal(signed(OPERAND_BITS), reset_less=True)
        m.d[domain] += coefficient.eq(Mux(control.tabled, self.table, control.constant))

        # NORMAL, PRODUCT
        normal = Signal(signed(OPERAND_BITS), reset_less=True)
        m.d[domain] += normal.eq(
            _shifted(operand, BLOCK_SHIFTS, OPERAND_BITS)[self.control.OPERAND.block]
        )
        coefficient = behind(coefficient, Stage.OPERAND, Stage.NORMAL, "coefficient")
        product = multiply(Products.MAIN, normal, coefficient)

        # SHIFTED, with the bit behind it
        shifted = Signal(signed(TERM_BITS + 1), reset_less=True)
        places = range(PRODUCT_PLACE - 1, PRODUCT_PLACE + 4 * PLACES - 1, 4)
        m.d[domain] += shifted.eq(
            _shifted(product, places, TERM_BITS + 1)[self.control.PRODUCT.place]
        )
        term = shifted[1:].as_signed()
        half = shifted[0] & self.control.SHIFTED.rounded

        # TERM
        plain = (normal >> PLAIN_SHIFT).as_signed()
        plain = behind(plain, Stage.NORMAL, Stage.SHIFTED, "plain")
        argument = Signal(signed(OPERAND_BITS), reset_less=True)
        m.d[domain] += argument.eq(
            Mux(self.control.SHIFTED.squares, plain, saturate(term, OPERAND_BITS))
        )
        term = behind(Cat(half, term), Stage.SHIFTED, Stage.LAST, "term")

        # VALUE
        m.submodules.normaliser = normaliser = DrawNormaliser(self._compact)
        m.submodules.table_unit = table_unit = TableUnit(self._compact)
        m.d.comb += [
            normaliser.word.eq(self.word),
            table_unit.draw.eq(normaliser.draw),
            table_unit.argument.eq(argument),
            table_unit.sample.eq(self.control.TERM.draw),
        ]
        value = table_unit.value
        argument = behind(argument, Stage.TERM, Stage.VALUE, "argument")

        # LATE: a gate is 1/2 and the value, or 1/2 and its complement for the other sign
        control = self.control.VALUE
        inverted = argument[-1] ^ control.update
        half_gate = value[: GATE_BITS - 1] ^ inverted.replicate(GATE_BITS - 1)
        left = Signal(signed(OPERAND_BITS), reset_less=True)
        right = Signal(signed(OPERAND_BITS), reset_less=True)
        m.d[domain] += left.eq(Mux(control.update, self.table, argument))
        with m.Switch(control.factor):
            with m.Case(Factor.GATE):
                m.d[domain] += right.eq(Cat(half_gate, ~inverted))
            with m.Case(Factor.CONSTANT):
                m.d[domain] += right.eq(control.constant)
            with m.Default():
                m.d[domain] += right.eq(argument[:SQUARED_BITS].as_signed())

        # GATED
        product = multiply(Products.GATED, left, right)
        m.d.comb += self.energy.eq(product)
        vector = behind(self.vector, Stage.LATE, Stage.GATED, "vector")
        noise = behind(value, Stage.VALUE, Stage.GATED, "noise")
        state = Signal(signed(HIDDEN_BITS), reset_less=True)
        multiplicand = Signal(signed(OPERAND_BITS), reset_less=True)
        m.d[domain] += [
            state.eq(Mux(self.control.LATE.first, 0, self.state)),
            multiplicand.eq(
                _shifted(self.multiplicand, GATE_SHIFTS, OPERAND_BITS)[self.control.LATE.narrow]
            ),
        ]

        # LAST_FACTORS, and QUANT's code
        control = self.control.GATED
        share = silu = product[GATE_BITS : GATE_BITS + OPERAND_BITS].as_signed()
        change = (vector >> CHANGE_SHIFT) - (state >> CHANGE_SHIFT)
        left = Signal(signed(OPERAND_BITS), reset_less=True)
        right = Signal(signed(OPERAND_BITS), reset_less=True)
        base = Signal(signed(RESIDUAL_BITS), reset_less=True)
        code = Signal(signed(CODE_BITS + 1), reset_less=True)
        m.d[domain] += [
            left.eq(Mux(control.update, change, silu)),
            right.eq(Mux(control.plain, PLAIN_FACTOR, Mux(control.update, share, multiplicand))),
            base.eq(0),
        ]
        with m.If(control.update):
            m.d[domain] += base.eq(state)
        with m.If(control.add_vector):
            m.d[domain] += base.eq(vector)
        with m.If(control.add_noise):
            m.d[domain] += base.eq(noise)
        places = range(CODE_PLACE - 1, CODE_PLACE + 4 * PLACES - 1, 4)
        m.d[domain] += code.eq(_shifted(product, places, CODE_BITS + 1)[control.code_place])

        # LAST
        product = multiply(Products.LAST, left, right)
        base = behind(base, Stage.LAST_FACTORS, Stage.LAST, "base")
        code = behind(code, Stage.LAST_FACTORS, Stage.LAST, "code")

        # SUM: rounded and added in one carry chain: the rounding bit enters below bit 0
        last = product[PRODUCT_SHIFT - 1 :].as_signed()
        addend = Mux(self.control.LAST.last, last, term.as_signed())
        total = Signal(signed(TERM_BITS + 1), reset_less=True)
        m.d[domain] += total.eq((Cat(Const(1, 1), base).as_signed() + addend) >> 1)
        result_code = Signal(signed(CODE_BITS), reset_less=True)
        m.d[domain] += result_code.eq((code + 1) >> 1)

        # RESULT
        m.d[domain] += [
            self.result.eq(saturate(total, RESIDUAL_BITS)),
            self.result_code.eq(result_code),
        ]
        return m

    def _share(self, m):
        """One multiplier and its register for all products."""
        left, right = (Signal(signed(OPERAND_BITS), name=name) for name in ("left", "right"))
        product = Signal(signed(2 * OPERAND_BITS), reset_less=True)
        with m.If(self.forms.any()):
            m.d.sync += product.eq(left * right)

        def multiply(number: Products, first, second):
            with m.If(self.forms & number if number != Products.MAIN else 1):
                m.d.comb += [left.eq(first), right.eq(second)]
            return product

        return multiply


def _multiply(m, number: Products, left, right):
    """A product with a multiplier and a register of its own."""
    product = Signal(
        signed(2 * OPERAND_BITS), name=f"{number.name}_product".lower(), reset_less=True
    )
    m.d.sync += product.eq(left * right)
    return product


def _shifted(value, amounts, bits: int) -> Array:
    """So many bits of a signed value shifted right by each amount, left by a negative one."""
    return Array(
        (value >> amount if amount >= 0 else value << -amount)[:bits].as_signed()
        for amount in amounts
    )
