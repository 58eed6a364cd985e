"""The MatMul-free language model as a program."""

from __future__ import annotations

from host.compiler.assembler import Assembler, check_fit
from host.compiler.image import Image
from host.compiler.layout import ceil_div
from hw.arch.geometry import Geometry
from hw.arch.operations import VectorOp
from hw.arch.program import INVERSE_TEMPERATURE, ControlOp, ScalarOp, Space, Unit, Wait
from weights.checkpoint import ModelShape
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

# Registers. P is a vector's peak, A the peak of its gained form, E its energy, D the root of D^2.
R_ONE, R_STATE_UNIT, R_FULL_SCALE = 0, 1, 2
R_X_PEAK, R_H_PEAK, R_PEAK, R_ENERGY, R_ROOT, R_INVERSE = 3, 4, 5, 6, 7, 8
R_SIGMA_I, R_SIGMA_F, R_SIGMA, R_G_ENERGY, R_WORK = 9, 10, 11, 12, 13
R_HEAD_SIGMA = 14


class _Assembler(Assembler):
    """With what this model does again and again."""

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


def working_memory(shape: ModelShape, geometry: Geometry) -> dict[str, int]:
    """What a model needs of the memories that hold no part of it, as fields of a `Geometry`."""
    V, d, m = geometry.elements, shape.hidden, shape.intermediate
    beats, chunks = ceil_div(d, V), ceil_div(d, geometry.columns)
    padded, middle, vocabulary = (
        ceil_div(length, geometry.rows) * geometry.drain_beats
        for length in (d, m, shape.vocabulary)
    )
    return {
        "sums": V * max(2 * padded, middle, vocabulary),
        "multiplicands": V * max(padded, middle),
        "vectors": V * (beats + max(beats, ceil_div(m, V))),
        "states": V * beats * shape.layers,
        "activations": geometry.columns * max(2 * chunks, ceil_div(m, geometry.columns)),
    }


def compile_mmfree(model: IntegerModel, geometry: Geometry) -> Image:
    """Lay out a model for a device.

    Raises
    ------
    FitError
        If a memory or a field is too small; the message names each with what is needed and there.
    """
    shape = model.shape
    check_fit(working_memory(shape, geometry), geometry)
    asm = _Assembler(model, geometry)
    V, d, m = geometry.elements, shape.hidden, shape.intermediate
    beats, chunks = ceil_div(d, V), ceil_div(d, geometry.columns)
    padded_beats = ceil_div(d, geometry.rows) * geometry.drain_beats

    x, other = 0, beats  # vector memory: the residual, then the candidate or the gated vector
    b = sum_shift(d)
    hidden = {"b_register": 1, "shift": -HIDDEN_FRACTION}

    asm.vector(
        "embedding", VectorOp.EMBED, d, result=R_X_PEAK, shift=EMBEDDING_SHIFT, dest=x,
        **asm.embedding(model["embedding.codes"], model["embedding.scale"]),
    )  # fmt: skip
    asm.scalar("one", ScalarOp.MOVE, R_ONE, b=ONE)
    asm.scalar("state unit", ScalarOp.MOVE, R_STATE_UNIT, b=Scale.from_int(1, -HIDDEN_FRACTION))
    asm.scalar("full scale", ScalarOp.MOVE, R_FULL_SCALE, b=FULL_SCALE)

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

    return asm.image(head_scale_register=R_HEAD_SIGMA)
