"""Formulas of the machine, written once for Python integers, NumPy arrays and Amaranth values.

``docs/arithmetic.md`` is the contract. The golden model calls these functions on ``int64`` arrays;
the gateware calls the very same ones on its signals.
"""

import functools
import itertools
import math

from amaranth.hdl import Const, Mux, Value, ValueCastable, signed

TABLE_SEGMENTS = 256
FRACTION_BITS = 12  # of an argument within its segment
BASE_BITS = 18
DELTA_BITS = 14
SIGMOID_UNIT = 17  # fraction bits of the sigmoid table
GUMBEL_UNIT = 12  # fraction bits of the Gumbel table
LN2 = round(math.log(2) * (1 << GUMBEL_UNIT))

CODE_BITS = 8  # int8 activations
TRIT_BITS = 2  # bit 0: not zero; bit 1: negative
NORMAL_BITS = 24  # multiplicands after the block shift
HIDDEN_BITS = 23  # hidden states and preactivations
RESIDUAL_BITS = 32
SUM_BITS = 24
GATE_ONE = 1 << 15  # 1.0 of gates and lower bounds
GATE_MAX = GATE_ONE - 1
PRODUCT_SHIFT = 6  # of a gate's product, docs/arithmetic.md


def round_shift(value, amount):
    """``value / 2**amount`` to the nearest integer, halves upwards; exact for 0."""
    return (((value << 1) >> amount) + 1) >> 1


def minimum(value, limit: int):
    """``min(value, limit)`` for a constant limit."""
    if isinstance(value, Value | ValueCastable):
        return Mux(value > limit, limit, value)
    return value.clip(None, limit) if hasattr(value, "clip") else min(value, limit)


def maximum(value, limit: int):
    """``max(value, limit)`` for a constant limit."""
    if isinstance(value, Value | ValueCastable):
        return Mux(value < limit, limit, value)
    return value.clip(limit, None) if hasattr(value, "clip") else max(value, limit)


def saturate(value, bits: int):
    """``value`` limited to ``bits`` bits of two's complement."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if isinstance(value, Value | ValueCastable):
        # The value fits exactly when all bits from the new sign upwards agree.
        value = Value.cast(value)
        top = value[bits - 1 :]
        limit = Mux(value[-1], Const(low, signed(bits)), Const(high, signed(bits)))
        return Mux(top.all() | ~top.any(), value[:bits].as_signed(), limit)
    return value.clip(low, high) if hasattr(value, "clip") else max(low, min(high, value))


def block_shift(peak_exponent: int) -> int:
    """Right shift that brings a vector of that peak (a scale's exponent) into 24 bits."""
    return maximum(peak_exponent + 15 - (NORMAL_BITS - 1), 0)


def shift_amount(shift: int, exponent: int = 0) -> int:
    """Right shift of a product with a coefficient of that exponent."""
    return minimum(maximum(shift - exponent, 0), 63)


def interpolate(base, delta, fraction):
    """Value between two points of a table: ``base + delta * fraction / 2**12``."""
    return base + round_shift(delta * fraction, FRACTION_BITS)


def sigmoid_gate(value, negative):
    """Gate (units of 2**-15) from the interpolated table value (2**-17) and the argument's sign."""
    y = round_shift(value, SIGMOID_UNIT - 15)
    if isinstance(y, Value | ValueCastable):
        return minimum(Mux(negative, GATE_ONE - y, y), GATE_MAX)
    return minimum(y + negative * (GATE_ONE - 2 * y), GATE_MAX)


def forget(gate, lower_bound):
    """Forget gate: ``lb + (1 - lb) * sigmoid``."""
    return minimum(lower_bound + round_shift((GATE_ONE - lower_bound) * gate, 15), GATE_MAX)


def silu(argument, gate):
    """``z * sigmoid(z)``."""
    return round_shift(argument * gate, 15)


def recur(state, candidate, gate):
    """MLGRU state update ``f * s + (1 - f) * c`` with one product."""
    return candidate + round_shift((state - candidate) * gate, 15)


@functools.cache
def sigmoid_table() -> tuple[tuple[int, int], ...]:
    """``(base, delta)`` of the 256 segments of sigmoid on 0 <= z < 16, in units of 2**-17."""
    top = (1 << (BASE_BITS - 1)) - 1
    points = [
        min(top, round((1 << SIGMOID_UNIT) / (1 + math.exp(-i / 16))))
        for i in range(TABLE_SEGMENTS + 1)
    ]
    return tuple((a, b - a) for a, b in itertools.pairwise(points))


@functools.cache
def gumbel_table() -> tuple[tuple[int, int], ...]:
    """``(base, delta)`` of -ln(-ln(1 - t)), segment 16 k + i for t = 2**-(k+1) * (1 + i/16)."""
    unit = 1 << GUMBEL_UNIT
    limit = (1 << (DELTA_BITS - 1)) - 1

    def gumbel(t: float) -> int:
        # The end of the first octave, t = 1, is minus infinity; its left neighbour stands in.
        t = min(t, 1 - 2**-9)
        return round(-math.log(-math.log1p(-t)) * unit)

    entries = []
    for k in range(16):
        points = [gumbel(2.0 ** -(k + 1) * (1 + i / 16)) for i in range(17)]
        entries += [(a, max(-limit, b - a)) for a, b in itertools.pairwise(points)]
    return tuple(entries)
