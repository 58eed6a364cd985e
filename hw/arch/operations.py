"""The operations of the vector unit, one row each: what they read, write and leave behind.

Only their arithmetic is elsewhere: in the lanes, and in ``VectorParameters.compute``.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class VectorOp(enum.IntEnum):
    """Steps of the vector unit; formulas in docs/arithmetic.md.

    n is the main operand, shifted by what P demands; z is n times K.
    """

    EMBED = 0  # code * row scale
    NORM = 1  # (n * coefficient)^2
    PEAK = 2  # n * coefficient
    QUANT = 3  # n * coefficient * K, as a code
    SILU = 4  # silu(z)
    UPDATE = 5  # f * state + (1 - f) * candidate, f from z and its bound
    GATE = 6  # silu(z) * (factor >> address)
    RESIDUAL = 7  # residual + z
    CHOOSE = 8  # z + noise
    MEASURE = 9  # n * coefficient, and n^2


class Table(enum.Enum):
    """What an operation takes from the table store."""

    NOTHING = "-"
    ROW = "row"  # of the token, in place of a main operand, at ``address + token * operand``
    COEFFICIENTS = "coefficients"  # of the main operand's elements, at ``address``
    BOUNDS = "bounds"  # of the forget gate, at ``address``


class Statistic(enum.Enum):
    """What an operation leaves of a whole vector."""

    NOTHING = "-"
    PEAK = "peak"  # largest magnitude, for register ``result``
    ENERGY = "energy"  # sum of squares, for register ``result``
    BOTH = "both"  # the largest magnitude, and the sum of squares for the register behind it
    CHOICE = "choice"  # index of the largest element: the next token


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A row. P is the scale in register ``a``, K the one in ``b``.

    Parameters
    ----------
    table : Table
        What no row stands for, the main operand, is first shifted by what P demands; a hidden
        state by what it is kept with more than a preactivation has.
    scaled : bool
        Whether the main operand, at ``source`` of ``space``, is multiplied by K.
    gate : bool
        Whether the product is a preactivation, limited to its width, of which the sigmoid is taken.
    reads : mapping of str to str
        Memories of further operands, which are needed late, and the field with their address.
    writes : str or None
        Memory in which the result lies from ``dest`` on.
    statistic : Statistic
    """

    table: Table = Table.NOTHING
    scaled: bool = False
    gate: bool = False
    reads: Mapping[str, str] = field(default_factory=dict)
    writes: str | None = None
    statistic: Statistic = Statistic.NOTHING

    @property
    def peak(self) -> bool:
        """Whether the largest magnitude goes to a register."""
        return self.statistic in (Statistic.PEAK, Statistic.BOTH)

    @property
    def energy(self) -> bool:
        """Whether the sum of squares does."""
        return self.statistic in (Statistic.ENERGY, Statistic.BOTH)

    @property
    def measured(self) -> bool:
        """Whether a statistic goes to a register."""
        return self.peak or self.energy


OPERATIONS = {
    VectorOp.EMBED: Operation(table=Table.ROW, writes="vectors", statistic=Statistic.PEAK),
    VectorOp.NORM: Operation(table=Table.COEFFICIENTS, statistic=Statistic.ENERGY),
    VectorOp.PEAK: Operation(table=Table.COEFFICIENTS, statistic=Statistic.PEAK),
    VectorOp.QUANT: Operation(table=Table.COEFFICIENTS, writes="activations"),
    VectorOp.SILU: Operation(scaled=True, gate=True, writes="vectors"),
    VectorOp.UPDATE: Operation(
        table=Table.BOUNDS,
        scaled=True,
        gate=True,
        reads={"vectors": "operand", "states": "dest"},
        writes="states",
    ),
    VectorOp.GATE: Operation(
        scaled=True,
        gate=True,
        reads={"multiplicands": "operand"},
        writes="vectors",
        statistic=Statistic.PEAK,
    ),
    VectorOp.RESIDUAL: Operation(
        scaled=True, reads={"vectors": "operand"}, writes="vectors", statistic=Statistic.PEAK
    ),
    VectorOp.CHOOSE: Operation(scaled=True, statistic=Statistic.CHOICE),
    VectorOp.MEASURE: Operation(table=Table.COEFFICIENTS, statistic=Statistic.BOTH),
}


LATE = tuple(op for op, row in OPERATIONS.items() if row.reads or row.table == Table.BOUNDS)
"""Operations that read while their main operands are long under way."""


def which(**row) -> tuple[VectorOp, ...]:
    """Operations whose rows have these values."""
    return tuple(
        op
        for op, operation in OPERATIONS.items()
        if all(getattr(operation, name) == value for name, value in row.items())
    )


def late_reads(memory: str) -> dict[VectorOp, str]:
    """Operations that read a memory late, and the field with the address."""
    return {op: row.reads[memory] for op, row in OPERATIONS.items() if memory in row.reads}
