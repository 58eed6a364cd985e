"""Payloads, port signatures and an adder that several units share."""

from amaranth.hdl import Cat, Const, Shape, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic import SUM_BITS
from weights.fixed import EXPONENT_BITS, MANTISSA_BITS

CODE_BITS = 8
"""Width of an activation code."""

TRIT_BITS = 2
"""Bit 0: not zero; bit 1: negative."""

HALF_WORD_BITS = 16
"""The host's unit of access to a store, and the width of a table entry."""

REGISTER_BITS = 4

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
    }
)

ScalarCommand = data.StructLayout(
    {"op": 4, "a": ScaleLayout, "b": ScaleLayout, "result": REGISTER_BITS}
)
"""``op`` is a ``host.descriptor.ScalarOp``; ``result`` is passed along."""

ScalarResult = data.StructLayout({"register": REGISTER_BITS, "value": ScaleLayout})


def raw_layout(width: int) -> data.StructLayout:
    """An integer on its way to a scale: ``value * 2**exponent`` for ``register``."""
    return data.StructLayout(
        {
            "value": unsigned(width),
            "exponent": signed(EXPONENT_BITS),
            "register": REGISTER_BITS,
        }
    )


class ReadSignature(wiring.Signature):
    """A reader's side of a memory with a fixed latency and no back-pressure.

    Members
    -------
    address : ``Out(range(depth))``
    data : ``In(shape)``
        What lay at ``address`` the memory's read latency earlier.
    """

    def __init__(self, depth: int, shape):
        Shape.cast(shape)
        super().__init__({"address": Out(range(depth)), "data": In(shape)})


class WriteSignature(wiring.Signature):
    """A writer's side of a beat-wide memory.

    Members
    -------
    enable : ``Out(enables)``
        One bit, or one bit per element. The memory holds the data in the next cycle.
    address : ``Out(range(depth))``
    data : ``Out(ArrayLayout(shape, elements))``
    """

    def __init__(self, depth: int, shape, elements: int, enables: int = 1):
        super().__init__(
            {
                "enable": Out(enables),
                "address": Out(range(depth)),
                "data": Out(data.ArrayLayout(shape, elements)),
            }
        )


class SumSignature(wiring.Signature):
    """The engine's side of the two banks that take its sums.

    Members
    -------
    enable : ``Out(1)``
    bank : ``Out(1)``
        0: sums, 1: multiplicands.
    address : ``Out(range(depth))``
        Beat of ``elements`` sums.
    data : ``Out(ArrayLayout(signed(24), elements))``
    """

    def __init__(self, depth: int, elements: int):
        super().__init__(
            {
                "enable": Out(1),
                "bank": Out(1),
                "address": Out(range(depth)),
                "data": Out(data.ArrayLayout(signed(SUM_BITS), elements)),
            }
        )


class HostSignature(wiring.Signature):
    """The host's side of a store, in half-words; one access per cycle.

    Members
    -------
    address : ``Out(range(size))``
    write, read : ``Out(1)``
        At most one of them. A read is allowed only while no unit reads the store.
    write_data : ``Out(16)``
    read_data : ``In(16)``
        Result of a read ``hw.stores.HOST_READ_LATENCY`` cycles later, until that of the next one.
    """

    def __init__(self, size: int):
        super().__init__(
            {
                "address": Out(range(size)),
                "write": Out(1),
                "write_data": Out(HALF_WORD_BITS),
                "read": Out(1),
                "read_data": In(HALF_WORD_BITS),
            }
        )


def add(left, right, carry):
    """``left + right + carry`` of signed values, one carry chain wherever it is mapped.

    The carry enters as an addition of its own below the lowest bit, because synthesis makes a third
    operand of ``a + b + c``.
    """
    total = Cat(Const(1, 1), left).as_signed() + Cat(carry, right).as_signed()
    return total[1:].as_signed()
