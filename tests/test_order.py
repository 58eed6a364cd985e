"""When steps may be issued."""

from dataclasses import replace

import pytest

from host.compiler import compile_image
from host.compiler.order import Uses, ordered
from hw.arch.operations import VectorOp
from hw.arch.program import ANY, ControlOp, Descriptor, ScalarOp, Space, Stride, Unit
from hw.boards import board
from sim.timing import predict
from tests.test_timing import shipped

GEOMETRY = board("sim_tiny").geometry
BEATS = 4
LENGTH = BEATS * GEOMETRY.elements


def update(**fields):
    row = {"unit": Unit.VECTOR, "op": VectorOp.UPDATE, "length": LENGTH, "space": Space.SUMS}
    return Descriptor(**row, b_register=1, **fields)


def quantise(**fields):
    return Descriptor(unit=Unit.VECTOR, op=VectorOp.QUANT, length=LENGTH, b_register=1, **fields)


def product(**fields):
    return Descriptor(unit=Unit.ENGINE, length=1, operand=1, space=Space.SUMS, **fields)


def residual(**fields):
    row = {"unit": Unit.VECTOR, "op": VectorOp.RESIDUAL, "length": LENGTH, "space": Space.SUMS}
    return Descriptor(**row, b_register=1, **fields)


def multiply(**fields):
    return Descriptor(unit=Unit.SCALAR, op=ScalarOp.MUL, b_register=1, **fields)


def left(*program):
    """Of engine, vector unit and scalar unit, for the last step."""
    step = ordered(program, GEOMETRY)[-1]
    return step.engine_left, step.vector_left, step.scalar_left


OTHER = {"a": 8, "b": 9}
"""Registers that nothing here writes."""


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ([product()], (ANY, ANY, ANY)),
        # What an earlier step has yet to write, of another unit or its own.
        ([quantise(**OTHER), product()], (ANY, 0, ANY)),
        ([product(), residual(**OTHER, operand=8, dest=8)], (0, ANY, ANY)),
        ([residual(**OTHER, result=3), multiply(a=3, b=9)], (ANY, 0, ANY)),
        ([multiply(**OTHER, result=3), multiply(a=8, b=3)], (ANY, ANY, 0)),
        ([residual(**OTHER, dest=8), quantise(**OTHER, source=9)], (ANY, 0, ANY)),
        # What it reads late is there beat by beat, if it is all that the one before writes.
        ([residual(**OTHER, dest=8), update(**OTHER, operand=8)], (ANY, ANY, ANY)),
        ([residual(**OTHER, dest=8), update(**OTHER, operand=9)], (ANY, 0, ANY)),
        # Steps behind it may be under way, if only two.
        ([quantise(**OTHER), quantise(**OTHER, dest=1), product()], (ANY, 1, ANY)),
        ([quantise(**OTHER), *[quantise(**OTHER, dest=1)] * 4, product()], (ANY, 2, ANY)),
        # What it writes is read or written by another unit.
        ([product(), quantise(**OTHER)], (0, ANY, ANY)),
        ([residual(**OTHER, source=1, operand=8, dest=8), product(dest=2)], (ANY, 0, ANY)),
        ([residual(**OTHER, result=3), multiply(**OTHER, result=3)], (ANY, 0, ANY)),
        # A unit keeps order among its own steps, and registers are read when a step is issued.
        ([quantise(**OTHER), quantise(**OTHER)], (ANY, ANY, ANY)),
        ([quantise(a=3, b=9), multiply(**OTHER, result=3)], (ANY, ANY, ANY)),
        # Other words, other memories, other registers.
        ([quantise(**OTHER), product(source=1)], (ANY, ANY, ANY)),
        ([residual(**OTHER, dest=8), quantise(**OTHER, source=4)], (ANY, ANY, ANY)),
        ([multiply(**OTHER, result=3), multiply(a=4, b=5)], (ANY, ANY, ANY)),
        # It was waited for already.
        ([quantise(**OTHER), product(), product()], (ANY, ANY, ANY)),
    ],
)
def test_a_step_waits_for_what_it_needs(program, expected):
    assert left(*program) == expected


def test_a_layer_waits_for_the_one_before():
    """The last step of a layer writes what the first one of the next reads, and states do not."""
    loop = Descriptor(
        unit=Unit.CONTROL, op=ControlOp.REPEAT, length=5, dest=0, **Stride(states=BEATS).to_fields()
    )
    update = Descriptor(
        unit=Unit.VECTOR, op=VectorOp.UPDATE, length=LENGTH, operand=40, space=Space.SUMS,
        layered=1, dest=0, **OTHER,
    )  # fmt: skip
    program = [update, quantise(**OTHER, source=8), residual(**OTHER, dest=8), loop]
    update, read, write, repeat = ordered(program, GEOMETRY)
    assert (update.vector_left, read.vector_left, write.vector_left) == (ANY, 1, ANY)
    assert (repeat.engine_left, repeat.vector_left, repeat.scalar_left) == (ANY, ANY, ANY)
    once = ordered([*program[:3], replace(loop, length=1)], GEOMETRY)
    assert once[1].vector_left == ANY


@pytest.mark.parametrize("op", [ControlOp.END, ControlOp.PREFILL_END])
def test_a_token_ends_when_all_is_done(op):
    end = Descriptor(unit=Unit.CONTROL, op=op)
    assert left(quantise(**OTHER), product(), end) == (0, 0, 0)


@pytest.mark.parametrize("name", ["stories-nano", "stories-small"])
@pytest.mark.parametrize("elements", [1, 8])
def test_no_step_of_a_model_comes_too_early(name, elements):
    """In the timetable of a whole token, over all layers."""
    usual = board("ulx3s_85f").machine
    geometry = replace(
        usual.geometry, elements=elements, table_words=1 << 16, embedding_words=1 << 20
    )
    machine = replace(usual, geometry=geometry)
    image = compile_image(shipped(name), geometry)
    steps = [
        (step, Uses.of(step.descriptor, geometry))
        for step in predict(image, machine).steps
        if step.unit != Unit.CONTROL
    ]
    followed = 0
    for number, (step, uses) in enumerate(steps):
        for earlier, of_earlier in steps[max(0, number - 70) : number]:
            if uses.must_follow(of_earlier):
                assert step.issued >= earlier.idle, (step.name, earlier.name)
                followed += 1
    assert followed > 2 * len(steps)
