"""What the sequencer hands to the units, and what they hand back to the registers."""

from amaranth.hdl import signed, unsigned
from amaranth.lib import data

from hw.arch.geometry import CONTEXT_BITS, LARGEST
from hw.arch.operations import which
from hw.units.noise import WORD_BITS
from weights.fixed import EXPONENT_BITS, MANTISSA_BITS

REGISTER_BITS = 4

RESULT_BITS = REGISTER_BITS + CONTEXT_BITS
"""Of a register of a context, which the upper bits tell."""

INDEX_BITS = 16
"""Of lengths, elements and tokens."""

TOKEN_BITS = 16

ScaleLayout = data.StructLayout({"mantissa": MANTISSA_BITS, "exponent": signed(EXPONENT_BITS)})
"""``weights.fixed.Scale``."""

EngineCommand = data.StructLayout(
    {
        "groups": 16,  # of rows, at least 1
        "chunks": 16,  # of columns in each group, at least 1
        "weights": 32,  # first row of the weight store
        "activations": 16,  # first row of the activation memory
        "dest": 16,  # first beat of the bank
        "bank": 1,  # 0: sums, 1: multiplicands
        "contexts": LARGEST["contexts"],  # a bit for each whose codes and sums these are
    }
)

VectorCommand = data.StructLayout(
    {
        "op": 4,  # hw.arch.operations.VectorOp
        "space": 2,  # hw.arch.program.Space of the main operand
        "b_register": 1,
        "shift": signed(7),
        "length": INDEX_BITS,  # elements, at least 1
        "operand": 16,
        "address": 32,
        "source": 16,
        "dest": 16,
        "a": ScaleLayout,  # P
        "b": ScaleLayout,  # K
        "result": REGISTER_BITS,
        "context": CONTEXT_BITS,
        "before": CONTEXT_BITS,  # whose states UPDATE goes on from
        "token": TOKEN_BITS,
        "first": 1,  # hidden states read as zero
        "greedy": 1,
        "noise": WORD_BITS,  # state of the noise before the first element, never 0
    }
)
"""A descriptor with the values of its registers; ``hw.arch.program`` has the fields' meaning."""


def has(op, **row):
    """Whether a `VectorCommand`'s ``op`` has these values in its row of ``hw.arch.operations``."""
    return op.matches(*which(**row))


ScalarCommand = data.StructLayout(
    {"op": 4, "a": ScaleLayout, "b": ScaleLayout, "result": RESULT_BITS}
)
"""``op`` is a ``hw.arch.program.ScalarOp``; ``result`` is passed along."""

ScalarResult = data.StructLayout({"register": RESULT_BITS, "value": ScaleLayout})


ChoiceLayout = data.StructLayout({"context": CONTEXT_BITS, "token": TOKEN_BITS})
"""The token that a context is to go on with."""


def raw_layout(width: int) -> data.StructLayout:
    """An integer on its way to a scale: ``value * 2**exponent`` for ``register``, and whether it is
    the last one of its step."""
    return data.StructLayout(
        {
            "value": unsigned(width),
            "exponent": signed(EXPONENT_BITS),
            "register": RESULT_BITS,
            "last": 1,
        }
    )
