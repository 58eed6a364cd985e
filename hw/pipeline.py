"""What pipelines are made of: registers in a row, and adders of one carry chain."""

from amaranth.hdl import Cat, Const, Module, Signal


def delay(m: Module, value, cycles: int, *, name: str, reset_less: bool = True):
    """``value`` as it was ``cycles`` cycles ago; undefined after a reset if ``reset_less``."""
    for cycle in range(cycles):
        register = Signal.like(value, name=f"{name}_{cycle + 1}", reset_less=reset_less)
        m.d.sync += register.eq(value)
        value = register
    return value


def add(left, right, carry):
    """``left + right + carry`` of signed values, one carry chain wherever it is mapped.

    The carry enters as an addition of its own below the lowest bit, because synthesis makes a third
    operand of ``a + b + c``.
    """
    total = Cat(Const(1, 1), left).as_signed() + Cat(carry, right).as_signed()
    return total[1:].as_signed()
