"""Registers in a row."""

from amaranth.hdl import Module, Signal


def delay(m: Module, value, cycles: int, *, name: str, reset_less: bool = True):
    """``value`` as it was ``cycles`` cycles ago; undefined after a reset if ``reset_less``."""
    for cycle in range(cycles):
        register = Signal.like(value, name=f"{name}_{cycle + 1}", reset_less=reset_less)
        m.d.sync += register.eq(value)
        value = register
    return value
