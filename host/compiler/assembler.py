"""Collects a program, and what it reads, for one model and one geometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from host.compiler.image import Image
from host.compiler.layout import ceil_div, pack_embedding, pack_tables, pack_weights
from host.compiler.order import ordered
from host.errors import FitError
from hw.arch.geometry import Geometry
from hw.arch.memories import spaces
from hw.arch.operations import VectorOp
from hw.arch.program import (
    CONSTANTS_PER_ROW,
    DESCRIPTOR_BITS,
    ControlOp,
    Descriptor,
    ScalarOp,
    Space,
    Stride,
    Unit,
    immediate,
    unroll,
)
from hw.arch.protocol import MemorySpace
from weights.fixed import Scale
from weights.model import IntegerModel

MOST_LATENCY = 256
"""More cycles than a step takes beside its beats, in any unit."""


@dataclass
class Assembler:
    """Collects steps, tables and weights; addresses are handed out in order of use.

    Parameters
    ----------
    model : IntegerModel
    geometry : Geometry
    """

    model: IntegerModel
    geometry: Geometry
    program: list[Descriptor] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    tables: list[np.ndarray] = field(default_factory=list)
    table_words: int = 0
    embedding_rows: np.ndarray | None = None
    row_words: int = 0
    weights: list[np.ndarray] = field(default_factory=list)
    weight_rows: int = 0
    constants: list[int] = field(default_factory=list)
    layered: bool = False

    def emit(self, name: str, unit: Unit, op: int, **fields) -> None:
        try:
            self.program.append(Descriptor(unit=unit, op=op, **fields))
        except ValueError as error:
            raise FitError(
                f"model fits no machine: step {name}: {error}; use a smaller model"
            ) from None
        self.steps.append(name)

    def add_table(self, entries: np.ndarray) -> int:
        address = self.table_words
        self.tables.append(entries)
        self.table_words += len(entries) // self.geometry.elements
        return address

    def table(self, name: str) -> dict[str, int]:
        """Fields that name a table of the model."""
        address = self.add_table(pack_tables(self.model[name], self.geometry.elements))
        return {"address": address, "layered": int(self.layered)}

    def embedding(self, codes: np.ndarray, scales: np.ndarray) -> dict[str, int]:
        """Fields by which a step finds a token's row, in the tables or in a memory of its own.

        From there it is copied to the words behind the tables, see `_located`.
        """
        elements = self.geometry.elements
        rows = pack_embedding(codes, scales, elements)
        operand = len(rows) // (elements * len(codes))
        if not self.geometry.embedding_words:
            return {"address": self.add_table(rows), "operand": operand}
        self.embedding_rows, self.row_words = rows, operand
        return {"address": 0, "operand": operand}

    def constant(self, value: Scale) -> dict[str, int]:
        """Fields that name a constant: in the step itself, or in the program memory."""
        number = immediate(value.mantissa, value.exponent)
        if not self.layered:
            return {"address": number}
        self.constants.append(number)
        return {"address": len(self.constants) - 1, "layered": 1}

    def scalar(
        self, name: str, op: ScalarOp, result: int, a: int = 0, b: int | Scale = 0, **fields
    ) -> None:
        operand = self.constant(b) if isinstance(b, Scale) else {"b": b, "b_register": 1}
        self.emit(name, Unit.SCALAR, op, result=result, a=a, **operand, **fields)

    def vector(self, name: str, op: VectorOp, length: int, **fields) -> None:
        self.emit(name, Unit.VECTOR, op, length=length, **fields)

    def product(self, name: str, trits: np.ndarray, source: int, dest: int, space: Space) -> None:
        """One ternary matrix product; ``source`` in rows of activations, ``dest`` in beats."""
        g = self.geometry
        chunks, groups = ceil_div(trits.shape[1], g.columns), ceil_div(trits.shape[0], g.rows)
        self.emit(
            name, Unit.ENGINE, 0, length=groups, operand=chunks, space=space,
            address=self.weight_rows, layered=int(self.layered), source=source, dest=dest,
        )  # fmt: skip
        self.weights.append(pack_weights(trits, g.rows, g.columns, g.trits_per_byte))
        self.weight_rows += groups * chunks

    def layers(self, layer: Callable[[int], None], count: int, states: int) -> None:
        """What ``layer`` emits for each layer, as a loop over the steps of the first one.

        ``states`` is the beats of hidden states that a layer has.
        """
        first, weights, tables = len(self.program), self.weight_rows, self.table_words
        self.layered = True
        layer(0)
        end = len(self.program)
        stride = Stride(
            weights=self.weight_rows - weights,
            tables=self.table_words - tables,
            states=states,
            constants=len(self.constants),
        )
        for number in range(1, count):
            layer(number)
            moved = [stride.moved(step, number) for step in self.program[first:end]]
            assert self.program[end:] == moved
            del self.program[end:], self.steps[end:]
        self.layered = False
        self.emit(
            "repeat", Unit.CONTROL, ControlOp.REPEAT, length=count, dest=first, **stride.to_fields()
        )

    def _program_section(self) -> bytes:
        """Steps, and behind them the constants of layers."""
        steps = map(self._located, ordered(self.program, self.geometry))
        rows = ceil_div(len(self.constants), CONSTANTS_PER_ROW)
        constants = np.zeros(CONSTANTS_PER_ROW * rows, dtype="<u4")
        constants[: len(self.constants)] = self.constants
        return b"".join(step.to_bytes() for step in steps) + constants.tobytes()

    def _located(self, step: Descriptor) -> Descriptor:
        """A step with the addresses that are known only when all others are."""
        if step.unit == Unit.SCALAR and step.layered:
            return replace(step, address=CONSTANTS_PER_ROW * len(self.program) + step.address)
        if self.row_words and step.unit == Unit.VECTOR and step.op == VectorOp.EMBED:
            try:
                return replace(step, source=self.table_words)
            except ValueError as error:
                raise FitError(
                    f"model fits no machine: embedding row behind {self.table_words} words of "
                    f"tables: {error}; use a smaller model"
                ) from None
        return step

    def image(self, head_scale_register: int) -> Image:
        """All of it, for the device. Raises FitError if a memory is too small."""
        program = self._program_section()
        depths = {
            "weight_rows": self.weight_rows,
            "table_words": self.table_words + self.row_words,
            "descriptors": len(program) * 8 // DESCRIPTOR_BITS,
        }
        sections = {
            MemorySpace.PROGRAM: program,
            MemorySpace.TABLES: b"".join(table.tobytes() for table in self.tables),
            MemorySpace.WEIGHTS: b"".join(rows.tobytes() for rows in self.weights),
        }
        if self.embedding_rows is not None:
            depths["embedding_words"] = len(self.embedding_rows) // self.geometry.elements
            sections[MemorySpace.EMBEDDING] = self.embedding_rows.tobytes()
        check_fit(depths, self.geometry)
        return Image(
            geometry=self.geometry,
            depths=depths,
            sections=sections,
            steps=tuple(self.steps),
            trits_per_token=self.model.shape.ternary_weights,
            vocabulary=self.model.shape.vocabulary,
            state_shape=(self.model.shape.layers, self.model.shape.hidden),
            head_scale_register=head_scale_register,
            token_cycles=self.geometry.contexts
            * sum(_most_cycles(step, self.geometry) for _, _, step in unroll(self.program)),
        )


def _most_cycles(step: Descriptor, geometry: Geometry) -> int:
    """More cycles than a step takes with none beside it.

    Weight and embedding rows may come from a memory beside the chip, a half-word in a cycle and no
    more in another.
    """
    match step.unit:
        case Unit.ENGINE:
            row = 2 * spaces(geometry)[MemorySpace.WEIGHTS].half_words
            beats = (step.length + 1) * max(row * step.operand, geometry.drain_beats)
        case Unit.VECTOR:
            beats = ceil_div(step.length, geometry.elements)
            if step.op == VectorOp.EMBED:
                beats += 2 * geometry.elements * step.operand
        case _:
            beats = 0
    return beats + MOST_LATENCY


def check_fit(needed: dict[str, int], geometry: Geometry) -> None:
    """Raises FitError, which names each size of a geometry that is too small."""
    short = [
        f"{need} {name.replace('_', ' ')} (it has {getattr(geometry, name)})"
        for name, need in needed.items()
        if need > getattr(geometry, name)
    ]
    if short:
        raise FitError(
            f"model does not fit the device: it needs {', '.join(short)}; "
            "use a smaller model or a larger device"
        )
