"""Formulas of the machine, written once for Python integers, NumPy arrays and Amaranth values.

``docs/arithmetic.md`` is the contract. The golden model calls these functions on ``int64`` arrays;
the gateware calls the very same ones on its signals.
"""

import functools
import math
from collections.abc import Callable

from amaranth.hdl import Const, Mux, Value, ValueCastable, signed

from weights.fixed import HIDDEN_FRACTION, KEY_FRACTION, MANTISSA_BITS, PREACTIVATION_FRACTION

TABLE_SEGMENTS = 256
FRACTION_BITS = 9  # of an argument within its segment
BASE_BITS = 15
DELTA_BITS = 11
OCTAVE_BITS = 3  # of the segments of an octave of the Gumbel table
LAST_OCTAVE = 20  # which stands for all that are deeper
FRACTION_MASK = (1 << FRACTION_BITS) - 1
DRAW_BITS = OCTAVE_BITS + FRACTION_BITS  # of a random word: where in its octave it lies
DRAW_MASK = (1 << DRAW_BITS) - 1

BLOCK_SHIFTS = -4, 0, 4, 6  # to the right, of main operands
GATE_SHIFTS = 0, 4  # the same of what multiplies a gate
PRODUCT_PLACE = 7  # first of the places of the first product's shifter
CODE_PLACE = 12  # the same of QUANT's codes

CODE_BITS = 8  # int8 activations
TRIT_BITS = 2  # bit 0: not zero; bit 1: negative
OPERAND_BITS = 18  # of a multiplier; of preactivations
RESIDUAL_BITS = 24
HIDDEN_BITS = 24
SUM_BITS = 24
GATE_BITS = 15
GATE_ONE = 1 << GATE_BITS  # 1.0 of gates and lower bounds
GATE_MAX = GATE_ONE - 1
GATE_HALF = GATE_ONE >> 1
HIDDEN_EXTRA = HIDDEN_FRACTION - PREACTIVATION_FRACTION
PRODUCT_SHIFT = 8  # of the last product, docs/arithmetic.md
CHANGE_SHIFT = GATE_BITS - PRODUCT_SHIFT  # of a change of the hidden state


def round_shift(value, amount):
    """``value / 2**amount`` to the nearest integer, halves upwards; exact for 0."""
    return (((value << 1) >> amount) + 1) >> 1


def minimum(value, limit: int):
    """``min(value, limit)`` for a constant limit."""
    if isinstance(value, Value | ValueCastable):
        return Mux(value > limit, limit, value)
    return value.clip(None, limit) if hasattr(value, "clip") else min(value, limit)


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


def block_index(peak_exponent):
    """Which of `BLOCK_SHIFTS` brings a vector of that peak (a scale's exponent) into 18 bits."""
    fits = OPERAND_BITS - 1 - MANTISSA_BITS
    first, second, third, _ = (peak_exponent > fits + shift for shift in BLOCK_SHIFTS)
    return first + second + third


def block_shift(peak_exponent: int) -> int:
    """That right shift."""
    return BLOCK_SHIFTS[block_index(peak_exponent)]


def place(amount: int, first: int) -> int:
    """The one of the four places from ``first`` on that stands for a shift by that amount."""
    return first + min(max((amount - first + 2) >> 2 << 2, 0), 12)


def coefficient(mantissa: int, amount: int, first: int) -> int:
    """A mantissa, moved by what a shift by `place` is more than one by the amount."""
    moved = min(place(amount, first) - amount, 2)
    return mantissa << moved if moved > 0 else mantissa >> min(-moved, MANTISSA_BITS)


def interpolate(base, delta, fraction):
    """Value between two points of a table: ``base + (delta * fraction >> 9)``."""
    return base + ((delta * fraction) >> FRACTION_BITS)


def rest(lower_bound):
    """``1 - lb``, of which sigmoid(-z) is the share of the candidate."""
    return minimum(GATE_ONE - lower_bound, GATE_MAX)


def silu(argument, gate):
    """``z * sigmoid(z)``."""
    return (argument * gate) >> GATE_BITS


def gated(factor, other):
    """Product of a gate's result with the vector that it lets through."""
    return saturate(round_shift(factor * other, PRODUCT_SHIFT), RESIDUAL_BITS)


def candidate(factor):
    """SiLU's result as a candidate."""
    return factor << HIDDEN_EXTRA


def recur(state, candidate, share):
    """MLGRU state update ``s + (c - s) * (1 - f)`` with one product."""
    change = (candidate >> CHANGE_SHIFT) - (state >> CHANGE_SHIFT)
    return saturate(state + round_shift(change * share, PRODUCT_SHIFT), HIDDEN_BITS)


@functools.cache
def sigmoid_table() -> tuple[tuple[int, int], ...]:
    """``(base, delta)`` of the 256 segments of sigmoid - 1/2 on 0 <= z < 32, units of 2**-15."""
    return tuple(
        _segment(lambda z: GATE_ONE / (1 + math.exp(-z)) - GATE_HALF, i / 8, (i + 1) / 8)
        for i in range(TABLE_SEGMENTS)
    )


@functools.cache
def gumbel_table() -> tuple[tuple[int, int], ...]:
    """``(base, delta)`` of -ln(-ln(1 - t)), segment 8 k + i for t = 2**-(k+1) * (1 + i/8)."""

    def gumbel(t: float) -> float:
        # The end of the first octave, t = 1, is minus infinity; its left neighbour stands in.
        return -math.log(-math.log1p(-min(t, 1 - 2**-9))) * (1 << KEY_FRACTION)

    per_octave = 1 << OCTAVE_BITS
    return tuple(
        _segment(
            gumbel,
            2.0**-k * (per_octave + i) / 2 / per_octave,
            2.0**-k * (per_octave + i + 1) / 2 / per_octave,
        )
        for k in range(TABLE_SEGMENTS // per_octave)
        for i in range(per_octave)
    )


def _segment(function: Callable[[float], float], left: float, right: float) -> tuple[int, int]:
    """A line as far from the curve at its ends as in its middle; its value is truncated."""
    top = (1 << (BASE_BITS - 1)) - 1
    ends = function(left), function(right)
    lift = (function((left + right) / 2) - sum(ends) / 2) / 2
    first, last = (min(round(end + lift), top) for end in ends)
    return first, last - first
