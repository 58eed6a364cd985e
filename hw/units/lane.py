"""Datapath of one element of the vector unit."""

import enum

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.arch.arithmetic import (
    CODE_BITS,
    GATE_MAX,
    GATE_ONE,
    GUMBEL_UNIT,
    HIDDEN_BITS,
    NORMAL_BITS,
    PRODUCT_SHIFT,
    RESIDUAL_BITS,
    SUM_BITS,
    minimum,
    round_shift,
    saturate,
)
from hw.arch.memories import HALF_WORD_BITS
from hw.arch.operations import Statistic, Table, VectorOp, which
from hw.arch.program import Space
from hw.pipeline import delay
from hw.units.noise import WORD_BITS
from hw.units.tables import DrawNormaliser, TableUnit
from weights.fixed import HIDDEN_FRACTION

COEFFICIENT_BITS = 16
PRODUCT_BITS = NORMAL_BITS + COEFFICIENT_BITS
ENERGY_BITS = 2 * COEFFICIENT_BITS - 1
AMOUNT_BITS = 6
CODE_AMOUNT_BITS = 5
"""QUANT's second amount is 8 to 31 for the inverse of any peak but zero."""
FINE_BITS = 3  # of a shift amount, for the second half of a shifter
WIDE_BITS = RESIDUAL_BITS + 1
"""A term limited to this width changes no sum with a residual that is then limited to 32 bits."""

LaneControl = data.StructLayout(
    {
        "op": 4,
        "space": 2,
        "block": 4,  # right shift of the main operand
        "tabled": 1,  # the coefficient comes from the table, else it is ``constant``
        "constant": signed(COEFFICIENT_BITS),
        "amount": AMOUNT_BITS,  # right shift of its product
        "factor": signed(COEFFICIENT_BITS),  # of the last product, where it is a constant
        "code_amount": CODE_AMOUNT_BITS,
        "gate_shift": 4,
        "sample": 1,  # add noise to the key
        "first": 1,  # hidden states read as zero
    }
)
"""What is the same for all elements of a step."""


def has(op, **row):
    """Whether the row of ``op`` in ``hw.arch.operations`` has these values."""
    return op.matches(*which(**row))


class Stage(enum.IntEnum):
    """When what belongs to one element is where: cycles after its main operand comes."""

    MAIN = 0  # main operand and coefficient come
    OPERAND = 1  # both are chosen
    NORMAL = 2  # the operand is shifted by its block's amount
    PRODUCT = 3
    COARSE = 4  # the product is shifted by all of its amount but ``FINE_BITS``
    ROUNDED = 5
    TERM = 6  # argument of the gate, or term of the result
    WORD = TERM - DrawNormaliser.LATENCY  # the random word comes
    GATE = TERM + TableUnit.LATENCY  # sigmoid and noise, and what is multiplied by the gate
    BOUND = GATE - 1  # the lower bound comes
    LATE = GATE + 1  # product with the gate; late operands come
    FACTORS = LATE + 1  # of the last product, and what its result is added to
    ENERGY = FACTORS + 1  # the last product
    RESULT = ENERGY + 1


USES = {
    Stage.MAIN: ("op", "space", "tabled", "constant"),
    Stage.OPERAND: ("block",),
    Stage.PRODUCT: ("amount",),
    Stage.COARSE: ("amount",),
    Stage.ROUNDED: ("op",),
    Stage.TERM: ("op",),
    Stage.BOUND: ("op",),
    Stage.LATE: ("op", "first", "factor", "gate_shift", "sample"),
    Stage.ENERGY: ("op", "code_amount"),
}
"""What a lane needs to know at each stage."""

ControlLayout = data.StructLayout(
    {
        stage.name: data.StructLayout({name: LaneControl.members[name] for name in names})
        for stage, names in USES.items()
    }
)
"""Of the step whose element is at that stage."""


class VectorLane(wiring.Component):
    """One element per cycle through every formula of ``VectorOp``.

    ``docs/arithmetic.md`` has the formulas. Data that meet in one result enter at different stages.
    Elements of two steps may be under way at once: each stage has its own ``control``.

    Members
    -------
    control : In(ControlLayout)
    vector, sum, multiplicand, state, code : In
        Main operand, chosen by ``op`` and ``space``, at ``MAIN``; candidate or residual
        (``vector``), gate factor (``multiplicand``) and hidden state (``state``) at ``LATE``.
    table : In(signed(16))
        Coefficient at ``MAIN``, or lower bound at ``BOUND``.
    word : In(32)
        Random word at ``WORD``.
    energy : Out(31)
        Square of NORM's element at ``ENERGY``.
    result : Out(signed(32))
        Element, PEAK's gained element or CHOOSE's key at ``RESULT``.
    result_code : Out(signed(8))
        QUANT's code at ``RESULT``.
    """

    control: In(ControlLayout)
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

    def elaborate(self, platform):
        m = Module()
        # OPERAND, with its coefficient
        control = self.control.MAIN
        operand = Signal(signed(RESIDUAL_BITS), reset_less=True)
        with m.If(has(control.op, table=Table.ROW)):
            m.d.sync += operand.eq(self.code)
        with m.Else(), m.Switch(control.space):
            for space, source in (
                (Space.VECTORS, self.vector),
                (Space.SUMS, self.sum),
                (Space.MULTIPLICANDS, self.multiplicand),
                (Space.STATES, self.state),
            ):
                with m.Case(space):
                    m.d.sync += operand.eq(source)
        coefficient = Signal(signed(COEFFICIENT_BITS), reset_less=True)
        m.d.sync += coefficient.eq(Mux(control.tabled, self.table, control.constant))

        # NORMAL, PRODUCT
        normal = Signal(signed(NORMAL_BITS), reset_less=True)
        m.d.sync += normal.eq(operand >> self.control.OPERAND.block)
        coefficient = delay(m, coefficient, Stage.NORMAL - Stage.OPERAND, name="coefficient")
        product = Signal(signed(PRODUCT_BITS), reset_less=True)
        m.d.sync += product.eq(normal * coefficient)

        # COARSE, ROUNDED: round_shift in two halves
        coarse = Signal(signed(PRODUCT_BITS + 1), reset_less=True)
        amount = self.control.PRODUCT.amount
        multiple = Cat(Const(0, FINE_BITS), amount[FINE_BITS:])
        m.d.sync += coarse.eq((product << 1) >> multiple)
        rounded = Signal(signed(PRODUCT_BITS), reset_less=True)
        amount = self.control.COARSE.amount
        m.d.sync += rounded.eq(((coarse >> amount[:FINE_BITS]) + 1) >> 1)

        # TERM
        term = Signal(signed(WIDE_BITS), reset_less=True)
        is_gate = has(self.control.ROUNDED.op, gate=True)
        m.d.sync += term.eq(
            Mux(is_gate, saturate(rounded, HIDDEN_BITS), saturate(rounded, WIDE_BITS))
        )

        # GATE
        m.submodules.normaliser = normaliser = DrawNormaliser()
        m.submodules.table_unit = table_unit = TableUnit()
        m.d.comb += [
            normaliser.word.eq(self.word),
            table_unit.draw.eq(normaliser.draw),
            table_unit.argument.eq(term),
            table_unit.sample.eq(has(self.control.TERM.op, statistic=Statistic.CHOICE)),
        ]
        term = delay(m, term, Stage.BOUND - Stage.TERM, name="term_to_bound")
        bound = Signal(signed(HALF_WORD_BITS), reset_less=True)
        gated = Signal(signed(HIDDEN_BITS), reset_less=True)
        m.d.sync += [
            bound.eq(self.table),
            gated.eq(Mux(self.control.BOUND.op == VectorOp.UPDATE, GATE_ONE - self.table, term)),
        ]

        # LATE
        product = Signal(signed(HIDDEN_BITS + COEFFICIENT_BITS - 1), reset_less=True)
        m.d.sync += product.eq(gated * table_unit.gate)
        bound = delay(m, bound, Stage.LATE - Stage.GATE, name="bound")
        noise = delay(m, table_unit.noise, Stage.LATE - Stage.GATE, name="noise")
        term = delay(m, term, Stage.LATE - Stage.BOUND, name="term_to_late")

        # FACTORS
        control = self.control.LATE
        silu = round_shift(product, 15)
        forget = minimum((bound + silu)[: COEFFICIENT_BITS + 1], GATE_MAX)
        state = Mux(control.first, 0, self.state)
        left = Signal(signed(NORMAL_BITS), reset_less=True)
        right = Signal(signed(COEFFICIENT_BITS), reset_less=True)
        base = Signal(signed(RESIDUAL_BITS), reset_less=True)
        m.d.sync += [left.eq(silu), right.eq(control.factor), base.eq(0)]
        with m.Switch(control.op):
            with m.Case(VectorOp.NORM):
                m.d.sync += [left.eq(term), right.eq(term)]
            with m.Case(VectorOp.QUANT):
                m.d.sync += left.eq(term)
            with m.Case(VectorOp.UPDATE):
                candidate = self.vector[:HIDDEN_BITS].as_signed()
                m.d.sync += [left.eq(state - candidate), right.eq(forget), base.eq(candidate)]
            with m.Case(VectorOp.GATE):
                m.d.sync += right.eq(self.multiplicand >> control.gate_shift)
            with m.Case(VectorOp.RESIDUAL):
                m.d.sync += base.eq(self.vector)
            with m.Case(VectorOp.CHOOSE):
                scaled = noise << (HIDDEN_FRACTION - GUMBEL_UNIT)
                m.d.sync += base.eq(Mux(control.sample, scaled, 0))

        # ENERGY
        product = Signal(signed(PRODUCT_BITS), reset_less=True)
        m.d.sync += product.eq(left * right)
        m.d.comb += self.energy.eq(product)
        base = delay(m, base, Stage.ENERGY - Stage.FACTORS, name="base")
        term = delay(m, term, Stage.ENERGY - Stage.LATE, name="term_to_result")

        # RESULT: rounded and added in one carry chain: the rounding bit enters below bit 0
        control = self.control.ENERGY
        twice = Signal(signed(WIDE_BITS + 1))
        is_product = has(control.op, gate=True, writes="vectors")
        with m.If(control.op == VectorOp.UPDATE):
            m.d.comb += twice.eq((product << 1) >> 15)
        with m.Elif(is_product):
            m.d.comb += twice.eq((product << 1) >> PRODUCT_SHIFT)
        with m.Else():
            m.d.comb += twice.eq(term << 1)
        total = (Cat(Const(1, 1), base).as_signed() + twice) >> 1
        m.d.sync += self.result.eq(saturate(total, RESIDUAL_BITS))
        shifted = ((product << 1) >> control.code_amount)[: CODE_BITS + 1]
        m.d.sync += self.result_code.eq((shifted + 1) >> 1)
        return m
