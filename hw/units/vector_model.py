"""What a step of the vector unit computes, in integers."""

from dataclasses import dataclass, replace

from hw.arch import arithmetic
from hw.arch.arithmetic import (
    CODE_PLACE,
    GATE_BITS,
    GATE_MAX,
    HIDDEN_EXTRA,
    OPERAND_BITS,
    PRODUCT_PLACE,
    RESIDUAL_BITS,
    block_shift,
    coefficient,
    place,
    round_shift,
    saturate,
)
from hw.arch.operations import OPERATIONS, Table, VectorOp
from hw.arch.program import Space
from hw.units.lane import CODE_ALIGNMENT
from hw.units.noise import NoiseParameters
from hw.units.tables import gumbel, sigmoid
from weights.fixed import GAIN_SHIFT, PLAIN_SHIFT


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a step leaves behind.

    Parameters
    ----------
    elements : list of int
        Elements from ``dest`` on, of an operation that writes.
    value, exponent : int or None
        The statistic for register ``result``.
    energy : tuple of int or None
        The same two of that for the register behind it.
    choice : int or None
        Index of the largest key.
    """

    elements: list
    value: int | None = None
    exponent: int | None = None
    energy: tuple[int, int] | None = None
    choice: int | None = None


def compute(command, memories, elements: int, rows: str = "tables") -> Outcome:
    """What a step does, from the formulas of ``docs/arithmetic.md``.

    Parameters
    ----------
    command
        Has the fields of ``VectorCommand`` as attributes.
    memories : mapping of str to sequence of int
        Elements of those memories that the operation reads, by name.
    elements : int
        Of a beat, in which addresses count.
    rows : str
        The memory of embedding rows.
    """
    length, op = command.length, VectorOp(command.op)
    table = OPERATIONS[op].table
    mantissa, exponent = command.b.mantissa, command.b.exponent

    def read(memory: str, beat: int, first: int = 0):
        start = beat * elements + first
        return list(memories[memory][start : start + length])

    def peaked(elements, exponent=0):
        peak = 1 + max(max(v, ~v) for v in elements)
        return Outcome(elements=elements, value=peak, exponent=exponent)

    if table == Table.ROW:
        row = command.address + command.token * command.operand
        scale, *_ = read(rows, row)
        words = read(rows, row, elements)
        codes = [half >> 8 * j & 0xFF for half in words for j in range(2)][:length]
        amount = place(command.shift, PRODUCT_PLACE) - CODE_ALIGNMENT + HIDDEN_EXTRA
        return peaked([round_shift((c - (c >> 7 << 8)) * scale, amount) for c in codes])

    space = Space(command.space)
    block = HIDDEN_EXTRA if space == Space.STATES else block_shift(command.a.exponent)
    main = [
        v >> block if block >= 0 else v << -block for v in read(space.name.lower(), command.source)
    ]
    if table == Table.COEFFICIENTS:
        amount, factors = place(command.shift, PRODUCT_PLACE), read("tables", command.address)
        y = [n * c >> amount for n, c in zip(main, factors, strict=True)]
        if op == VectorOp.NORM:
            energy = sum(w * w for w in y)
            return Outcome(elements=[], value=energy, exponent=2 * (command.shift + block))
        if OPERATIONS[op].peak:
            outcome = replace(peaked(y, command.shift + block), elements=[])
            if op == VectorOp.PEAK:
                return outcome
            squares = sum((n >> PLAIN_SHIFT) ** 2 for n in main)
            return replace(outcome, energy=(squares, 2 * (PLAIN_SHIFT + block)))
        amount = -(GAIN_SHIFT + block) - exponent
        factor, amount = coefficient(mantissa, amount, CODE_PLACE), place(amount, CODE_PLACE)
        return Outcome(elements=[round_shift(v * factor, amount) for v in y])

    if op == VectorOp.CHOOSE and command.greedy:
        return Outcome(elements=[], choice=main.index(max(main)))
    amount = command.shift - exponent
    factor, amount = coefficient(mantissa, amount, PRODUCT_PLACE), place(amount, PRODUCT_PLACE)
    products = [v * factor for v in main]
    if op == VectorOp.CHOOSE:
        words = NoiseParameters(elements=1).compute(command.noise, length)
        keys = [
            saturate(round_shift(v, amount) + gumbel(word), RESIDUAL_BITS)
            for v, word in zip(products, words, strict=True)
        ]
        return Outcome(elements=[], choice=keys.index(max(keys)))
    if op == VectorOp.RESIDUAL:
        residual = read("vectors", command.operand)
        return peaked(
            [
                saturate(r + round_shift(v, amount), RESIDUAL_BITS)
                for r, v in zip(residual, products, strict=True)
            ]
        )

    z = [saturate(v >> amount, OPERAND_BITS) for v in products]
    if op == VectorOp.UPDATE:
        rests = read("tables", command.address)
        shares = [r * (GATE_MAX - sigmoid(v)) >> GATE_BITS for r, v in zip(rests, z, strict=True)]
        states = [0] * length if command.first else read("states", command.dest)
        candidates = read("vectors", command.operand)
        return Outcome(elements=list(map(arithmetic.recur, states, candidates, shares)))
    silu = [arithmetic.silu(v, sigmoid(v)) for v in z]
    if op == VectorOp.SILU:
        return Outcome(elements=[arithmetic.candidate(v) for v in silu])
    factors = [u >> command.address for u in read("multiplicands", command.operand)]
    return peaked([arithmetic.gated(v, u) for v, u in zip(silu, factors, strict=True)])
