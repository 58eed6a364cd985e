"""The MatMul-free language model as a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from host.compiler.assembler import Assembler, check_fit
from host.compiler.image import Image
from host.compiler.layout import ceil_div, pack_tables
from host.errors import FitError
from hw.arch.arithmetic import GATE_SHIFTS, PRODUCT_PLACE, rest
from hw.arch.geometry import Geometry
from hw.arch.operations import VectorOp
from hw.arch.program import INVERSE_TEMPERATURE, ControlOp, ScalarOp, Space, Unit
from weights.checkpoint import ModelShape
from weights.fixed import (
    FULL_SCALE,
    GAIN_SHIFT,
    KEY_FRACTION,
    NORM_SHIFT,
    ONE,
    PREACTIVATION_FRACTION,
    SUM_PEAKS,
    Scale,
)
from weights.model import IntegerModel
from weights.units import MachineUnits

# Registers. P is a vector's peak, A the peak of its gained form, E its energy, D the root of D^2.
# R_SUMS and R_MIDDLE_SUMS are what stands for P of sums of d and of m codes.
R_ONE, R_SUMS, R_FULL_SCALE = 0, 1, 2
R_X_PEAK, R_H_PEAK, R_PEAK, R_ENERGY, R_ROOT, R_INVERSE = 3, 4, 5, 6, 7, 8
R_SIGMA_I, R_SIGMA_F, R_SIGMA, R_WORK, R_MIDDLE_SUMS = 9, 10, 11, 12, 13
R_HEAD_SIGMA = 14
assert R_ENERGY == R_PEAK + 1 and R_WORK == R_SIGMA + 1  # MEASURE leaves an energy behind a peak


@dataclass(frozen=True, kw_only=True)
class Gained:
    """The gained form of a vector, of which a matrix takes the codes.

    Parameters
    ----------
    step : str
        What its steps are called.
    length : int
    peak : int
        Register with its peak.
    fields : mapping
        Of the steps that make it.
    """

    step: str
    length: int
    peak: int
    fields: Mapping[str, int]


class _Assembler(Assembler):
    """With what this model does again and again."""

    def rests(self, name: str) -> dict[str, int]:
        """Fields that name what a table of lower bounds leaves to the gates."""
        bounds = self.model[name].astype(np.int64)
        address = self.add_table(pack_tables(rest(bounds), self.geometry.elements))
        return {"address": address, "layered": int(self.layered)}

    def norm(self, step: str, table: str, peak: int, source: int, length: int) -> None:
        self.vector(
            f"{step} norm", VectorOp.NORM, length, a=peak, result=R_ENERGY, shift=NORM_SHIFT,
            source=source, **self.table(table),
        )  # fmt: skip

    def root(self, step: str) -> None:
        self.scalar(f"{step} root", ScalarOp.SQRT, R_ROOT, b=R_ENERGY)

    def gained(
        self,
        name: str,
        peak: int,
        source: int,
        length: int,
        result: int,
        op: VectorOp = VectorOp.PEAK,
    ) -> Gained:
        """The peak of a vector's gained form for matrix ``name``."""
        form = Gained(
            step=name.rsplit(".", 1)[-1],
            length=length,
            peak=result,
            fields={"a": peak, "shift": GAIN_SHIFT, "source": source, **self.table(f"{name}.gain")},
        )
        self.vector(f"{form.step} peak", op, length, result=result, **form.fields)
        return form

    def inverse(self, form: Gained) -> None:
        self.scalar(f"{form.step} inverse", ScalarOp.DIV, R_INVERSE, a=R_FULL_SCALE, b=form.peak)

    def quantise(self, form: Gained, dest: int) -> None:
        """Its codes."""
        self.vector(
            f"{form.step} quantise", VectorOp.QUANT, form.length, b=R_INVERSE, b_register=1,
            dest=dest, **form.fields,
        )  # fmt: skip

    def ratio(self, form: Gained, result: int) -> None:
        """A over D, of which `sigma` makes the scale of a matrix's output."""
        self.scalar(f"{form.step} scale", ScalarOp.DIV, result, a=form.peak, b=R_ROOT)

    def sigma(self, name: str, form: Gained, result: int, moved: int = 0) -> None:
        """The scale of a matrix's output, times ``2**moved``."""
        scale = self.model.scale(f"{name}.scale")
        constant = Scale(scale.mantissa, scale.exponent + moved)
        self.scalar(f"{form.step} scale", ScalarOp.MUL, result, a=result, b=constant)


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


def spare_memory(shape: ModelShape, geometry: Geometry) -> dict[str, int]:
    """What a program makes use of if it is there: a place of its own for each matrix's codes."""
    return {"activations": geometry.columns * 3 * ceil_div(shape.hidden, geometry.columns)}


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

    # Codes of i, f and g; those of g take the place of i's where there is no third one.
    codes_i, codes_f = 0, chunks
    is_spare = geometry.activations >= spare_memory(shape, geometry)["activations"]
    codes_g = 2 * chunks if is_spare else codes_i
    x, other = 0, beats  # vector memory: the residual, then the candidate or the gated vector
    units = MachineUnits.of(model)
    t = units.hidden_shift
    if t not in GATE_SHIFTS:
        raise FitError(
            f"model fits no machine: {d} hidden values are too many; use a smaller model"
        )
    preactivation = {
        "a": R_SUMS, "b_register": 1, "space": Space.SUMS, "shift": -PREACTIVATION_FRACTION - t,
    }  # fmt: skip

    asm.vector(
        "embedding", VectorOp.EMBED, d, result=R_X_PEAK, shift=PRODUCT_PLACE + 12, dest=x,
        **asm.embedding(model["embedding.codes"], units.row_scales(model)),
    )  # fmt: skip
    asm.scalar("one", ScalarOp.MOVE, R_ONE, b=ONE)
    asm.scalar("sums", ScalarOp.MOVE, R_SUMS, b=SUM_PEAKS[t])
    asm.scalar("sums", ScalarOp.MOVE, R_MIDDLE_SUMS, b=SUM_PEAKS[units.middle_shift])
    asm.scalar("full scale", ScalarOp.MOVE, R_FULL_SCALE, b=FULL_SCALE)

    def residual(name: str, sums: int) -> None:
        asm.vector(
            f"{name} residual", VectorOp.RESIDUAL, d, a=sums, b=R_SIGMA, b_register=1,
            result=R_X_PEAK, shift=-model.residual_fraction, space=Space.SUMS, operand=x, dest=x,
        )  # fmt: skip

    # Steps are issued in this order. It keeps the vector unit at work: what waits for a scale has
    # something before it that does not, and the engine runs a matrix while the next one's codes are
    # made.
    def layer(n: int) -> None:
        attn, mlp = f"layers.{n}.attn", f"layers.{n}.mlp"
        i, f, g = (f"{attn}.{matrix}" for matrix in "ifg")
        of_i = asm.gained(i, R_X_PEAK, x, d, R_SIGMA_I)
        asm.norm("mixer", f"{attn}.norm", R_X_PEAK, x, d)
        of_f = asm.gained(f, R_X_PEAK, x, d, R_SIGMA_F)
        asm.inverse(of_i)
        of_g = asm.gained(g, R_X_PEAK, x, d, R_H_PEAK)
        asm.root("mixer")
        asm.quantise(of_i, codes_i)
        asm.inverse(of_f)
        asm.quantise(of_f, codes_f)
        asm.ratio(of_i, R_SIGMA_I)
        asm.inverse(of_g)
        asm.product("i", model.trits(i), codes_i, 0, Space.SUMS)
        asm.ratio(of_f, R_SIGMA_F)
        asm.quantise(of_g, codes_g)
        asm.sigma(i, of_i, R_SIGMA_I)
        asm.product("f", model.trits(f), codes_f, padded_beats, Space.SUMS)
        asm.vector("candidate", VectorOp.SILU, d, b=R_SIGMA_I, dest=other, **preactivation)
        asm.sigma(f, of_f, R_SIGMA_F)
        asm.product("g", model.trits(g), codes_g, 0, Space.MULTIPLICANDS)
        asm.vector(
            "state", VectorOp.UPDATE, d, b=R_SIGMA_F, source=padded_beats, operand=other,
            dest=n * beats, **asm.rests(f"{attn}.lower_bound"), **preactivation,
        )  # fmt: skip
        asm.vector(
            "output gate", VectorOp.GATE, d, b=R_ONE, b_register=1, result=R_H_PEAK,
            space=Space.STATES, source=n * beats, operand=0, address=t, dest=other,
        )  # fmt: skip
        asm.vector(  # for its energy, in R_WORK: nobody asks for the peak
            "g energy", VectorOp.MEASURE, d, a=R_SUMS, result=R_SIGMA, shift=GAIN_SHIFT,
            space=Space.MULTIPLICANDS,
        )  # fmt: skip
        of_o = asm.gained(f"{attn}.o", R_H_PEAK, other, d, R_PEAK)
        epsilon = units.epsilon(model.scale(f"{attn}.o.epsilon"))
        asm.scalar("o epsilon", ScalarOp.MUL, R_WORK, a=R_WORK, b=epsilon)
        asm.norm("o", f"{attn}.o.norm", R_H_PEAK, other, d)
        asm.inverse(of_o)
        asm.quantise(of_o, 0)
        asm.scalar("o epsilon", ScalarOp.ADD, R_ENERGY, a=R_ENERGY, b=R_WORK)
        asm.root("o")
        asm.product("o", model.trits(f"{attn}.o"), 0, 0, Space.SUMS)
        asm.ratio(of_o, R_SIGMA)
        asm.sigma(f"{attn}.o", of_o, R_SIGMA, units.residual_exponent(t))
        residual("o", R_SUMS)

        of_gate = asm.gained(f"{mlp}.gate", R_X_PEAK, x, d, R_PEAK)
        asm.norm("mlp", f"{mlp}.norm", R_X_PEAK, x, d)
        asm.inverse(of_gate)
        asm.quantise(of_gate, 0)
        gate = model.trits(f"{mlp}.gate")
        asm.root("mlp")
        asm.product("up", gate[m:], 0, 0, Space.MULTIPLICANDS)
        asm.ratio(of_gate, R_SIGMA)
        epsilon = units.epsilon(model.scale(f"{mlp}.down.epsilon"))
        asm.scalar("down epsilon", ScalarOp.MOVE, R_WORK, b=epsilon)
        asm.sigma(f"{mlp}.gate", of_gate, R_SIGMA)
        asm.product("gate", gate[:m], 0, 0, Space.SUMS)
        asm.vector(
            "gated unit", VectorOp.GATE, m, b=R_SIGMA, result=R_H_PEAK, operand=0, address=t,
            dest=other, **preactivation,
        )  # fmt: skip
        asm.scalar("down epsilon", ScalarOp.MUL, R_SIGMA, a=R_SIGMA, b=R_SIGMA)
        of_down = asm.gained(f"{mlp}.down", R_H_PEAK, other, m, R_PEAK, op=VectorOp.MEASURE)
        asm.scalar("down epsilon", ScalarOp.DIV, R_WORK, a=R_WORK, b=R_SIGMA)
        asm.inverse(of_down)
        asm.quantise(of_down, 0)
        asm.scalar("down epsilon", ScalarOp.ADD, R_ENERGY, a=R_ENERGY, b=R_WORK)
        asm.root("down")
        asm.ratio(of_down, R_SIGMA)
        asm.product("down", model.trits(f"{mlp}.down"), 0, 0, Space.SUMS)
        asm.sigma(f"{mlp}.down", of_down, R_SIGMA, units.residual_exponent(units.middle_shift))
        residual("down", R_MIDDLE_SUMS)

    asm.layers(layer, shape.layers, states=beats)
    asm.emit("prefill end", Unit.CONTROL, ControlOp.PREFILL_END)
    of_head = asm.gained("head", R_X_PEAK, x, d, R_PEAK)
    asm.norm("head", "head.norm", R_X_PEAK, x, d)
    asm.inverse(of_head)
    asm.quantise(of_head, 0)
    asm.root("head")
    asm.product("head", model.trits("head"), 0, 0, Space.SUMS)
    asm.ratio(of_head, R_HEAD_SIGMA)
    asm.sigma("head", of_head, R_HEAD_SIGMA)
    asm.scalar("temperature", ScalarOp.MUL, R_SIGMA, a=R_HEAD_SIGMA, b=INVERSE_TEMPERATURE)
    asm.vector(
        "choice", VectorOp.CHOOSE, shape.vocabulary, a=R_SUMS, b=R_SIGMA, b_register=1,
        space=Space.SUMS, shift=-KEY_FRACTION - t,
    )  # fmt: skip
    asm.emit("end", Unit.CONTROL, ControlOp.END)

    return asm.image(head_scale_register=R_HEAD_SIGMA)
