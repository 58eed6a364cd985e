"""Compiles an integer model for a geometry: program, tables and weights as a device stores them.

An image is made from what a device reports of itself and is never stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from host.errors import FitError
from hw.arch.geometry import Geometry
from hw.arch.program import (
    CONSTANTS_PER_ROW,
    DESCRIPTOR_BITS,
    INVERSE_TEMPERATURE,
    ControlOp,
    Descriptor,
    ScalarOp,
    Space,
    Stride,
    Unit,
    VectorOp,
    Wait,
    immediate,
    unroll,
)
from hw.arch.protocol import MemorySpace
from weights.fixed import (
    EMBEDDING_SHIFT,
    FULL_SCALE,
    GAIN_SHIFT,
    HIDDEN_FRACTION,
    NORM_SHIFT,
    ONE,
    Scale,
    sum_shift,
)
from weights.model import IntegerModel
from weights.packing import pack

# Registers. P is a vector's peak, A the peak of its gained form, E its energy, D the root of D^2.
R_ONE, R_STATE_UNIT, R_FULL_SCALE = 0, 1, 2
R_X_PEAK, R_H_PEAK, R_PEAK, R_ENERGY, R_ROOT, R_INVERSE = 3, 4, 5, 6, 7, 8
R_SIGMA_I, R_SIGMA_F, R_SIGMA, R_G_ENERGY, R_WORK = 9, 10, 11, 12, 13
R_HEAD_SIGMA = 14


MOST_LATENCY = 256
"""More cycles than a step takes beside its beats, in any unit."""


def _ceil(value: int, unit: int) -> int:
    return -(-value // unit)


@dataclass(frozen=True)
class Image:
    """A model laid out for one geometry.

    Attributes
    ----------
    sections : dict of MemorySpace to bytes
        What each memory must hold, from its address 0, as little-endian half-words.
    steps : tuple of str
        One name per program step, for profiles; those of a layer are there once.
    trits_per_token : int
        Ternary weights that one generated token takes, padding not counted.
    token_cycles : int
        More cycles than a token takes: after so many without one the device does not work.
    """

    geometry: Geometry
    sections: dict[MemorySpace, bytes]
    steps: tuple[str, ...]
    trits_per_token: int
    vocabulary: int
    token_cycles: int = 1 << 32

    head_scale_register: int = R_HEAD_SIGMA

    def program(self) -> list[Descriptor]:
        """The steps as the device gets them."""
        data, size = self.sections[MemorySpace.PROGRAM], DESCRIPTOR_BITS // 8
        return [
            Descriptor.from_bytes(data[at : at + size])
            for at in range(0, size * len(self.steps), size)
        ]


def pack_tables(values: np.ndarray, elements: int) -> np.ndarray:
    """A table as 16-bit entries, padded to whole words of ``elements``."""
    padded = np.zeros(_ceil(len(values), elements) * elements, dtype="<i2")
    padded[: len(values)] = values
    return padded


def pack_embedding(codes: np.ndarray, scales: np.ndarray, elements: int) -> np.ndarray:
    """Embedding rows: a word with the row's scale in lane 0, words of ``2 * elements`` codes."""
    rows, length = codes.shape
    words = _ceil(length, 2 * elements)
    table = np.zeros((rows, 1 + words, elements), dtype="<i2")
    table[:, 0, 0] = scales
    padded = np.zeros((rows, words * 2 * elements), dtype=np.int8)
    padded[:, :length] = codes
    table[:, 1:] = padded.view("<i2").reshape(rows, words, elements)
    return table.ravel()


def pack_weights(trits: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """A matrix in the engine's order of use: groups of ``rows``, chunks of ``columns``.

    Lane ``r * columns + c`` of weight row ``group * chunks + chunk`` is the trit of output
    ``group * rows + r`` and input ``chunk * columns + c``; padding is zero.
    """
    outputs, inputs = trits.shape
    groups, chunks = _ceil(outputs, rows), _ceil(inputs, columns)
    padded = np.zeros((groups * rows, chunks * columns), dtype=np.int8)
    padded[:outputs, :inputs] = trits
    tiles = padded.reshape(groups, rows, chunks, columns).transpose(0, 2, 1, 3)
    return pack(tiles.reshape(groups * chunks, rows * columns))


@dataclass
class _Assembler:
    """Collects steps, tables and weights; addresses are handed out in order of use."""

    model: IntegerModel
    geometry: Geometry
    program: list[Descriptor] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    tables: list[np.ndarray] = field(default_factory=list)
    table_words: int = 0
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

    def product(
        self, name: str, trits: np.ndarray, source: int, dest: int, space: Space, wait: Wait
    ) -> None:
        """One ternary matrix product; ``source`` in rows of activations, ``dest`` in beats."""
        g = self.geometry
        chunks, groups = _ceil(trits.shape[1], g.columns), _ceil(trits.shape[0], g.rows)
        self.emit(
            name, Unit.ENGINE, 0, wait=wait, length=groups, operand=chunks, space=space,
            address=self.weight_rows, layered=int(self.layered), source=source, dest=dest,
        )  # fmt: skip
        self.weights.append(pack_weights(trits, g.rows, g.columns))
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

    def program_section(self) -> bytes:
        """Steps, and behind them the constants of layers."""
        base = CONSTANTS_PER_ROW * len(self.program)
        steps = (
            replace(step, address=base + step.address)
            if step.unit == Unit.SCALAR and step.layered
            else step
            for step in self.program
        )
        rows = _ceil(len(self.constants), CONSTANTS_PER_ROW)
        constants = np.zeros(CONSTANTS_PER_ROW * rows, dtype="<u4")
        constants[: len(self.constants)] = self.constants
        return b"".join(step.to_bytes() for step in steps) + constants.tobytes()

    def norm(self, step: str, table: str, peak: int, source: int, length: int) -> None:
        self.vector(
            f"{step} norm", VectorOp.NORM, length, a=peak, result=R_ENERGY, shift=NORM_SHIFT,
            source=source, wait=Wait.SCALAR, **self.table(table),
        )  # fmt: skip

    def root(self, step: str, wait: Wait = Wait.VECTOR) -> None:
        self.scalar(f"{step} root", ScalarOp.SQRT, R_ROOT, b=R_ENERGY, wait=wait)

    def quantise(self, name: str, peak: int, source: int, length: int, dest: int) -> None:
        """Codes of a vector for matrix ``name``: its gained peak, 127 over it, then the codes."""
        step = name.rsplit(".", 1)[-1]
        gain = self.table(f"{name}.gain")
        gained = {"a": peak, "shift": GAIN_SHIFT, "source": source, **gain}
        self.vector(
            f"{step} peak", VectorOp.PEAK, length, result=R_PEAK, wait=Wait.SCALAR, **gained
        )
        self.scalar(
            f"{step} inverse", ScalarOp.DIV, R_INVERSE, a=R_FULL_SCALE, b=R_PEAK, wait=Wait.VECTOR
        )
        self.vector(
            f"{step} quantise", VectorOp.QUANT, length, b=R_INVERSE, b_register=1, dest=dest,
            wait=Wait.SCALAR, **gained,
        )  # fmt: skip

    def sigma(self, name: str, result: int) -> None:
        step = name.rsplit(".", 1)[-1]
        constant = self.model.scale(f"{name}.scale")
        self.scalar(f"{step} scale", ScalarOp.DIV, result, a=R_PEAK, b=R_ROOT)
        self.scalar(f"{step} scale", ScalarOp.MUL, result, a=result, b=constant)


def compile_image(model: IntegerModel, geometry: Geometry) -> Image:
    """Lay out a model for a device.

    Raises
    ------
    FitError
        If a memory or a field is too small; the message names each with what is needed and there.
    """
    shape = model.shape
    asm = _Assembler(model, geometry)
    V, d, m = geometry.elements, shape.hidden, shape.intermediate
    beats, chunks = _ceil(d, V), _ceil(d, geometry.columns)
    padded_beats = _ceil(d, geometry.rows) * geometry.drain_beats
    middle_beats = _ceil(m, geometry.rows) * geometry.drain_beats
    vocabulary_beats = _ceil(shape.vocabulary, geometry.rows) * geometry.drain_beats
    needed = {
        "sums": V * max(2 * padded_beats, middle_beats, vocabulary_beats),
        "multiplicands": V * max(padded_beats, middle_beats),
        "vectors": V * (beats + max(beats, _ceil(m, V))),
        "states": V * beats * shape.layers,
        "activations": geometry.columns * max(2 * chunks, _ceil(m, geometry.columns)),
    }
    _check(needed, geometry)

    x, other = 0, beats  # vector memory: the residual, then the candidate or the gated vector
    b = sum_shift(d)
    embedding = asm.add_table(pack_embedding(model["embedding.codes"], model["embedding.scale"], V))
    hidden = {"b_register": 1, "shift": -HIDDEN_FRACTION}

    asm.scalar("one", ScalarOp.MOVE, R_ONE, b=ONE)
    asm.scalar("state unit", ScalarOp.MOVE, R_STATE_UNIT, b=Scale.from_int(1, -HIDDEN_FRACTION))
    asm.scalar("full scale", ScalarOp.MOVE, R_FULL_SCALE, b=FULL_SCALE)
    asm.vector(
        "embedding", VectorOp.EMBED, d, result=R_X_PEAK, shift=EMBEDDING_SHIFT, address=embedding,
        operand=1 + _ceil(d, 2 * V), dest=x,
    )  # fmt: skip

    def residual(name: str, length: int) -> None:
        asm.vector(
            f"{name} residual", VectorOp.RESIDUAL, length, b=R_SIGMA, b_register=1, result=R_X_PEAK,
            shift=-model.residual_fraction, space=Space.SUMS, operand=x, dest=x,
            wait=Wait.ENGINE | Wait.SCALAR,
        )  # fmt: skip

    def layer(n: int) -> None:
        attn, mlp = f"layers.{n}.attn", f"layers.{n}.mlp"
        asm.norm("mixer", f"{attn}.norm", R_X_PEAK, x, d)
        asm.root("mixer")
        # Codes of f are made while the engine runs i, those of g, over i's, while it runs f.
        asm.quantise(f"{attn}.i", R_X_PEAK, x, d, dest=0)
        asm.sigma(f"{attn}.i", R_SIGMA_I)
        asm.product("i", model.trits(f"{attn}.i"), 0, 0, Space.SUMS, Wait.VECTOR)
        asm.quantise(f"{attn}.f", R_X_PEAK, x, d, dest=chunks)
        asm.sigma(f"{attn}.f", R_SIGMA_F)
        asm.product("f", model.trits(f"{attn}.f"), chunks, padded_beats, Space.SUMS, Wait.VECTOR)
        asm.quantise(f"{attn}.g", R_X_PEAK, x, d, dest=0)
        asm.vector(
            "candidate", VectorOp.SILU, d, b=R_SIGMA_I, space=Space.SUMS, dest=other, **hidden
        )
        asm.product("g", model.trits(f"{attn}.g"), 0, 0, Space.MULTIPLICANDS, Wait.NOTHING)
        asm.vector(
            "state", VectorOp.UPDATE, d, b=R_SIGMA_F, space=Space.SUMS, source=padded_beats,
            operand=other, dest=n * beats, **asm.table(f"{attn}.lower_bound"), **hidden,
        )  # fmt: skip
        asm.vector(
            "g energy", VectorOp.NORM, d, a=R_ONE, b=R_ONE, b_register=1, result=R_G_ENERGY,
            shift=b, space=Space.MULTIPLICANDS, wait=Wait.ENGINE,
        )  # fmt: skip
        asm.vector(
            "output gate", VectorOp.GATE, d, b=R_STATE_UNIT, result=R_H_PEAK, space=Space.STATES,
            source=n * beats, operand=0, address=b, dest=other, **hidden,
        )  # fmt: skip
        asm.norm("o", f"{attn}.o.norm", R_H_PEAK, other, d)
        epsilon = model.scale(f"{attn}.o.epsilon")
        asm.scalar("o epsilon", ScalarOp.MUL, R_G_ENERGY, a=R_G_ENERGY, b=epsilon)
        asm.scalar("o epsilon", ScalarOp.ADD, R_ENERGY, a=R_ENERGY, b=R_G_ENERGY, wait=Wait.VECTOR)
        asm.root("o", Wait.NOTHING)
        asm.quantise(f"{attn}.o", R_H_PEAK, other, d, dest=0)
        asm.sigma(f"{attn}.o", R_SIGMA)
        asm.product("o", model.trits(f"{attn}.o"), 0, 0, Space.SUMS, Wait.VECTOR)
        residual("o", d)

        asm.norm("mlp", f"{mlp}.norm", R_X_PEAK, x, d)
        asm.root("mlp")
        asm.quantise(f"{mlp}.gate", R_X_PEAK, x, d, dest=0)
        asm.sigma(f"{mlp}.gate", R_SIGMA)
        gate = model.trits(f"{mlp}.gate")
        asm.product("gate", gate[:m], 0, 0, Space.SUMS, Wait.VECTOR)
        asm.product("up", gate[m:], 0, 0, Space.MULTIPLICANDS, Wait.NOTHING)
        asm.vector(
            "gated unit", VectorOp.GATE, m, b=R_SIGMA, result=R_H_PEAK, space=Space.SUMS, operand=0,
            address=b, dest=other, wait=Wait.ENGINE | Wait.SCALAR, **hidden,
        )  # fmt: skip
        asm.vector(
            "down energy", VectorOp.NORM, m, a=R_H_PEAK, b=R_ONE, b_register=1, result=R_ENERGY,
            shift=NORM_SHIFT + ONE.exponent, source=other,
        )  # fmt: skip
        asm.scalar("down epsilon", ScalarOp.MUL, R_SIGMA, a=R_SIGMA, b=R_SIGMA)
        asm.scalar("down epsilon", ScalarOp.MOVE, R_WORK, b=model.scale(f"{mlp}.down.epsilon"))
        asm.scalar("down epsilon", ScalarOp.DIV, R_WORK, a=R_WORK, b=R_SIGMA)
        asm.scalar("down epsilon", ScalarOp.ADD, R_ENERGY, a=R_ENERGY, b=R_WORK, wait=Wait.VECTOR)
        asm.root("down", Wait.NOTHING)
        asm.quantise(f"{mlp}.down", R_H_PEAK, other, m, dest=0)
        asm.sigma(f"{mlp}.down", R_SIGMA)
        asm.product("down", model.trits(f"{mlp}.down"), 0, 0, Space.SUMS, Wait.VECTOR)
        residual("down", d)

    asm.layers(layer, shape.layers, states=beats)
    asm.emit("prefill end", Unit.CONTROL, ControlOp.PREFILL_END)
    asm.norm("head", "head.norm", R_X_PEAK, x, d)
    asm.root("head")
    asm.quantise("head", R_X_PEAK, x, d, dest=0)
    asm.sigma("head", R_HEAD_SIGMA)
    asm.scalar("temperature", ScalarOp.MUL, R_SIGMA, a=R_HEAD_SIGMA, b=INVERSE_TEMPERATURE)
    asm.product("head", model.trits("head"), 0, 0, Space.SUMS, Wait.VECTOR)
    asm.vector(
        "choice", VectorOp.CHOOSE, shape.vocabulary, b=R_SIGMA, space=Space.SUMS,
        wait=Wait.ENGINE | Wait.SCALAR, **hidden,
    )  # fmt: skip
    asm.emit("end", Unit.CONTROL, ControlOp.END)

    program = asm.program_section()
    _check(
        {
            "weight_rows": asm.weight_rows,
            "table_words": asm.table_words,
            "descriptors": len(program) * 8 // DESCRIPTOR_BITS,
        },
        geometry,
    )
    return Image(
        geometry=geometry,
        sections={
            MemorySpace.PROGRAM: program,
            MemorySpace.TABLES: b"".join(table.tobytes() for table in asm.tables),
            MemorySpace.WEIGHTS: b"".join(rows.tobytes() for rows in asm.weights),
        },
        steps=tuple(asm.steps),
        trits_per_token=shape.ternary_weights,
        vocabulary=shape.vocabulary,
        token_cycles=sum(_most_cycles(step, geometry) for _, _, step in unroll(asm.program)),
    )


def _most_cycles(step: Descriptor, geometry: Geometry) -> int:
    """More cycles than a step takes with none beside it."""
    match step.unit:
        case Unit.ENGINE:
            beats = (step.length + 1) * max(step.operand, geometry.drain_beats)
        case Unit.VECTOR:
            beats = _ceil(step.length, geometry.elements)
        case _:
            beats = 0
    return beats + MOST_LATENCY


def _check(needed: dict[str, int], geometry: Geometry) -> None:
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
