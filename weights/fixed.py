"""Number formats that the model file, the host, the golden model and the gateware share.

The contract is ``docs/arithmetic.md``. Nothing here needs NumPy or Amaranth.
"""

import math
from dataclasses import dataclass

MANTISSA_BITS = 15
EXPONENT_BITS = 10
MODEL_EXPONENT_BITS = 8
"""Of the scales in a model: no operation on these leaves `EXPONENT_BITS`, whatever the tokens."""

RESIDUAL_FRACTIONS = range(-63, 65)
"""What a residual fraction may be: minus it is the shift of a program step, of 7 bits."""

COEFFICIENT_MAX = 32767
"""Largest magnitude of a 16-bit multiplier coefficient: a gain, a gate or a mantissa."""

PREACTIVATION_FRACTION = 12
"""Preactivations are integers in units of 2**-12."""

HIDDEN_FRACTION = 18
"""Hidden states and candidates are integers in units of 2**-18."""

KEY_FRACTION = 9
"""Keys of a sampled choice, and their noise, are integers in units of 2**-9."""

EMBEDDING_SHIFT = 3
"""A row scale of a model has this many fraction bits more than its residual fraction."""

ROW_SCALE_SHIFT = 10
"""The same of a machine's row scales and its residual stream."""

NORM_SHIFT = 19
"""Right shift of a normed vector's products before they are squared."""

PLAIN_SHIFT = 4
"""The same of a vector that is squared as it is."""

GAIN_SHIFT = 15
"""Right shift of a gained vector's products before they are quantised."""

MODEL_GATED_FRACTION = 10
"""A model's constants are made for gated vectors in units of 2**(b - 10) sums, b = `sum_shift`."""

GATED_FRACTION = 4
"""The machine's are in units of 2**(t - 4) sums, t = `operand_shift`."""

SUM_SHIFT_TARGET = 16
"""Bits of the sums that ``b`` makes fit."""

OPERAND_SUM_BITS = 18
"""Bits of a sum that is not shifted."""


def sum_bits(terms: int) -> int:
    """Signed bits that hold any sum of ``terms`` int8 codes."""
    return 8 + (terms - 1).bit_length()


def sum_shift(terms: int) -> int:
    """Right shift that makes a sum of ``terms`` codes fit 16 bits (``b`` in the contract)."""
    return max(0, sum_bits(terms) - SUM_SHIFT_TARGET)


def operand_shift(terms: int) -> int:
    """Right shift that makes a sum of ``terms`` codes an operand of 18 bits: 0, 4 or 6 (``t``)."""
    excess = sum_bits(terms) - OPERAND_SUM_BITS
    return 0 if excess <= 0 else 4 if excess <= 4 else 6


@dataclass(frozen=True)
class Scale:
    """Non-negative number ``mantissa * 2**exponent`` with a normalised 15-bit mantissa.

    All operations truncate, and none raises: ``x / 0`` is 0, because the only zero divisor is the
    peak or the norm of an all-zero vector, whose codes are zero whatever the scale.
    """

    mantissa: int
    exponent: int

    def __post_init__(self):
        if self.mantissa == 0:
            if self.exponent != 0:
                raise ValueError(f"zero must have exponent 0, not {self.exponent!r}")
        elif not 1 << (MANTISSA_BITS - 1) <= self.mantissa < 1 << MANTISSA_BITS:
            raise ValueError(f"mantissa must be normalised to 15 bits, not {self.mantissa!r}")
        if not -(1 << (EXPONENT_BITS - 1)) <= self.exponent < 1 << (EXPONENT_BITS - 1):
            raise ValueError(f"exponent must fit {EXPONENT_BITS} bits, not {self.exponent!r}")

    @classmethod
    def from_int(cls, value: int, exponent: int = 0) -> "Scale":
        """``value * 2**exponent``, truncated to 15 bits."""
        if value == 0:
            return ZERO
        excess = value.bit_length() - MANTISSA_BITS
        mantissa = value >> excess if excess > 0 else value << -excess
        return cls(mantissa, exponent + excess)

    @classmethod
    def from_float(cls, value: float) -> "Scale":
        """Nearest scale of a non-negative finite number."""
        if not 0 <= value < math.inf:
            raise ValueError(f"a scale must be finite and not negative, not {value!r}")
        fraction, exponent = math.frexp(value)
        return cls.from_int(round(fraction * (1 << MANTISSA_BITS)), exponent - MANTISSA_BITS)

    def __float__(self) -> float:
        return math.ldexp(self.mantissa, self.exponent)

    def __mul__(self, other: "Scale") -> "Scale":
        if not (self.mantissa and other.mantissa):
            return ZERO
        product = self.mantissa * other.mantissa
        excess = 15 if product >> 29 else 14
        return Scale(product >> excess, self.exponent + other.exponent + excess)

    def __truediv__(self, other: "Scale") -> "Scale":
        if not (self.mantissa and other.mantissa):
            return ZERO
        extra = 14 if self.mantissa >= other.mantissa else 15
        quotient = (self.mantissa << extra) // other.mantissa
        return Scale(quotient, self.exponent - other.exponent - extra)

    def __add__(self, other: "Scale") -> "Scale":
        if not self.mantissa:
            return other
        if not other.mantissa:
            return self
        big, small = (self, other) if self.exponent >= other.exponent else (other, self)
        total = big.mantissa + (small.mantissa >> (big.exponent - small.exponent))
        carry = total >> MANTISSA_BITS
        return Scale(total >> carry, big.exponent + carry)

    def sqrt(self) -> "Scale":
        if not self.mantissa:
            return ZERO
        odd = self.exponent & 1
        root = math.isqrt(self.mantissa << (14 + odd))
        return Scale(root, (self.exponent - odd - 14) // 2)


ZERO = Scale(0, 0)
ONE = Scale(1 << 14, -14)
FULL_SCALE = Scale(127 << 8, -8)
"""127, the largest activation code."""

SUM_PEAKS = {0: Scale(1 << 14, 2), 4: Scale(1 << 14, 6), 6: Scale(1 << 14, 8)}
"""By `operand_shift`, what stands for the peak of sums, so that they are shifted by that."""
