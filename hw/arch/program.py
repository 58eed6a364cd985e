"""The program: the one layout that the host's compiler and the sequencer share.

A program memory has rows of 128 bits. First come the steps, a `Descriptor` in each row: fields
packed from bit 0 upwards in the order of ``FIELDS``, little-endian. Addresses of vectors are in
beats (``Geometry.elements`` elements), of activations in rows of ``Geometry.columns`` codes, of
tables in table words, of weights in rows.

Layers are a loop
-----------------
The steps of a layer are there once and `ControlOp.REPEAT` takes the sequencer back to the first of
them. What differs from layer to layer lies at addresses that move on by a `Stride`:

- weights and tables of a step that is ``layered``;
- the hidden states of every step, in the main operand's space and as UPDATE's destination;
- constants: a layered scalar step takes its immediate from the program memory, where four lie in a
  row, and ``address`` is that of the first layer's one.

`unroll` says what is executed, in order.
"""

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from hw.arch.operations import which

DESCRIPTOR_BITS = 128
CONSTANT_BITS = 32
CONSTANTS_PER_ROW = DESCRIPTOR_BITS // CONSTANT_BITS


class Unit(enum.IntEnum):
    CONTROL = 0
    ENGINE = 1
    VECTOR = 2
    SCALAR = 3


UNITS = (Unit.ENGINE, Unit.VECTOR, Unit.SCALAR)
"""Those that work beside each other, and of which steps may be under way."""


class ControlOp(enum.IntEnum):
    END = 0  # the token is done
    PREFILL_END = 1  # the same, for prompt tokens after which nothing is chosen
    REPEAT = 2  # back to step ``dest``, until the steps from there have run ``length`` times


class ScalarOp(enum.IntEnum):
    """``result = a op b``; b is a register or the immediate in ``address``."""

    MUL = 0
    DIV = 1
    ADD = 2
    SQRT = 3  # of b
    MOVE = 4  # b


class Space(enum.IntEnum):
    """Where a step's main operand lies (engine: where its sums go)."""

    VECTORS = 0
    SUMS = 1
    MULTIPLICANDS = 2
    STATES = 3


#: name, width, signed
FIELDS = (
    ("unit", 2, False),
    ("op", 4, False),
    ("engine_left", 2, False),
    ("vector_left", 2, False),
    ("scalar_left", 2, False),
    ("a", 4, False),
    ("b", 4, False),
    ("result", 4, False),
    ("space", 2, False),
    ("layered", 1, False),
    ("b_register", 1, False),
    ("shift", 7, True),
    ("length", 16, False),
    ("operand", 16, False),
    ("address", 29, False),
    ("source", 16, False),
    ("dest", 16, False),
)

ANY = 3
"""As many steps left as there may be: a step does not wait for that unit."""

LEFT = {unit: f"{unit.name.lower()}_left" for unit in UNITS}
"""The field with the steps that may be left of each unit."""

INVERSE_TEMPERATURE = 15
"""Register that a run presets to 1/T; programs only read it."""

REGISTERS = 16


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """One program step.

    It is issued when no more than ``engine_left`` of the engine's steps issued before it are under
    way, and so for the other units, whose steps end in order; ``ANY`` is no bound. Nothing else
    orders steps: `host.compiler.order` finds what a program needs.

    ``length`` is in elements (engine: groups of rows); the engine's ``operand`` is the number of
    column chunks per group and its ``source`` the first row of activations. ``shift`` s of a vector
    step shifts products right by s with a table, by s - K.exponent with a scale, as far as
    ``docs/arithmetic.md`` says. REPEAT has its `Stride` in ``address``, ``operand``, ``source`` and
    ``shift``.
    """

    unit: Unit
    op: int = 0
    engine_left: int = 0
    vector_left: int = 0
    scalar_left: int = 0
    a: int = 0
    b: int = 0
    result: int = 0
    space: Space = Space.VECTORS
    layered: int = 0
    b_register: int = 0
    shift: int = 0
    length: int = 0
    operand: int = 0
    address: int = 0
    source: int = 0
    dest: int = 0

    def __post_init__(self):
        for name, width, signed in FIELDS:
            low = -(1 << (width - 1)) if signed else 0
            if not low <= getattr(self, name) < low + (1 << width):
                raise ValueError(f"{name} must fit {width} bits, not {getattr(self, name)!r}")

    @property
    def left(self) -> dict[Unit, int]:
        """How many steps of each unit may be under way when this one is issued."""
        return {unit: getattr(self, name) for unit, name in LEFT.items()}

    def leaving(self, left: Mapping[Unit, int]) -> "Descriptor":
        """The same step with other bounds of that kind."""
        bounds: dict[str, Any] = {name: left[unit] for unit, name in LEFT.items()}
        return replace(self, **bounds)

    def to_bytes(self) -> bytes:
        value = position = 0
        for name, width, _ in FIELDS:
            value |= (int(getattr(self, name)) & ((1 << width) - 1)) << position
            position += width
        return value.to_bytes(DESCRIPTOR_BITS // 8, "little")

    @classmethod
    def from_bytes(cls, data: bytes) -> "Descriptor":
        """What `to_bytes` made."""
        value = int.from_bytes(data, "little")
        fields: dict[str, Any] = {}
        kinds = {"unit": Unit, "space": Space}
        for name, width, signed in FIELDS:
            field = value & ((1 << width) - 1)
            value >>= width
            field -= (field >> (width - 1) << width) if signed else 0
            fields[name] = kinds.get(name, int)(field)
        return cls(**fields)


assert [f.name for f in fields(Descriptor)] == [name for name, _, _ in FIELDS]
assert sum(width for _, width, _ in FIELDS) == DESCRIPTOR_BITS


@dataclass(frozen=True, kw_only=True)
class Stride:
    """How far addresses move on from one layer to the next.

    Parameters
    ----------
    weights, tables, states, constants : int
        Rows, table words, beats and constants of a layer.
    """

    weights: int = 0
    tables: int = 0
    states: int = 0
    constants: int = 0

    def to_fields(self) -> dict[str, int]:
        """Fields of the descriptor that repeats the layer."""
        return {
            "address": self.weights,
            "operand": self.tables,
            "source": self.states,
            "shift": self.constants,
        }

    @classmethod
    def of(cls, repeat: Descriptor) -> "Stride":
        return cls(
            weights=repeat.address,
            tables=repeat.operand,
            states=repeat.source,
            constants=repeat.shift,
        )

    def moved(self, step: Descriptor, layer: int) -> Descriptor:
        """A step of the first layer as it is executed in another one."""
        address, source, dest = step.address, step.source, step.dest
        if step.layered:
            by_unit = {Unit.ENGINE: self.weights, Unit.VECTOR: self.tables}
            address += layer * by_unit.get(step.unit, self.constants)
        if step.unit == Unit.VECTOR:
            source += layer * self.states * (step.space == Space.STATES)
            dest += layer * self.states * (step.op in which(writes="states"))
        return replace(step, address=address, source=source, dest=dest)


def unroll(program: Sequence[Descriptor]) -> Iterator[tuple[int, int | None, Descriptor]]:
    """What is executed for a token, in order: number of the step, layer, and the step itself.

    Steps that are not repeated have no layer.
    """
    repeat = (Unit.CONTROL, ControlOp.REPEAT)
    ends = {s.dest: number for number, s in enumerate(program) if (s.unit, s.op) == repeat}
    at = 0
    while at < len(program):
        if at not in ends:
            yield at, None, program[at]
            at += 1
            continue
        end = ends[at]
        stride = Stride.of(program[end])
        for layer in range(program[end].length):
            for number in range(at, end + 1):
                yield number, layer, stride.moved(program[number], layer)
        at = end + 1


def immediate(mantissa: int, exponent: int) -> int:
    """A constant of a scalar step: mantissa in bits 0..14, exponent in bits 16..25."""
    return mantissa | (exponent & 0x3FF) << 16
