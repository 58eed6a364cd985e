"""The program: descriptors as bytes, and the loop over layers."""

from dataclasses import replace

import pytest

from hw.arch.operations import VectorOp
from hw.arch.program import (
    FIELDS,
    ControlOp,
    Descriptor,
    ScalarOp,
    Space,
    Stride,
    Unit,
    unroll,
)

STRIDE = Stride(weights=70_000, tables=300, states=5, constants=7)
REPEAT = Descriptor(unit=Unit.CONTROL, op=ControlOp.REPEAT, length=3, dest=1, **STRIDE.to_fields())
PRODUCT = Descriptor(unit=Unit.ENGINE, address=10, layered=1, source=1, dest=2)
NORM = Descriptor(unit=Unit.VECTOR, op=VectorOp.NORM, address=20, layered=1, source=3, dest=4)
UPDATE = Descriptor(
    unit=Unit.VECTOR, op=VectorOp.UPDATE, address=30, layered=1, source=3, dest=4, space=Space.SUMS
)
GATE = Descriptor(unit=Unit.VECTOR, op=VectorOp.GATE, address=6, source=3, space=Space.STATES)
SCALE = Descriptor(unit=Unit.SCALAR, op=ScalarOp.MUL, address=40, layered=1)
ONE = Descriptor(unit=Unit.SCALAR, op=ScalarOp.MOVE, address=40)


def test_descriptors_come_back():
    step = Descriptor(
        unit=Unit.VECTOR, op=7, engine_left=1, vector_left=3, scalar_left=2, a=3, b=9, result=15,
        space=Space.STATES, layered=1, b_register=1, shift=-64, length=65535, operand=1,
        address=1 << 28, source=2, dest=3,
    )  # fmt: skip
    assert Descriptor.from_bytes(step.to_bytes()) == step
    assert step.to_bytes().hex() == "5e3bf90ffcff0f000000008002000300"


@pytest.mark.parametrize("name", [name for name, *_ in FIELDS])
def test_every_field_is_bounded(name):
    width, signed = next((width, signed) for field, width, signed in FIELDS if field == name)
    with pytest.raises(ValueError, match=f"{name} must fit {width} bits"):
        Descriptor(**{"unit": Unit.SCALAR, name: 1 << (width - signed)})


def test_addresses_move_with_the_layer():
    assert Stride.of(REPEAT) == STRIDE
    moved = {step: STRIDE.moved(step, 2) for step in (PRODUCT, NORM, UPDATE, GATE, SCALE, ONE)}
    assert moved == {
        PRODUCT: replace(PRODUCT, address=140_010),
        NORM: replace(NORM, address=620),
        UPDATE: replace(UPDATE, address=630, dest=14),
        GATE: replace(GATE, source=13),
        SCALE: replace(SCALE, address=54),
        ONE: ONE,
    }


def test_layers_follow_each_other():
    end = Descriptor(unit=Unit.CONTROL, op=ControlOp.END)
    order = [(number, layer) for number, layer, _ in unroll([ONE, NORM, UPDATE, REPEAT, end])]
    layers = [(number, layer) for layer in range(3) for number in (1, 2, 3)]
    assert order == [(0, None), *layers, (4, None)]


def test_program_without_a_loop_is_executed_as_it_is():
    assert list(unroll([ONE, NORM])) == [(0, None, ONE), (1, None, NORM)]
