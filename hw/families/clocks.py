"""What clocks are made of in every family: the board's oscillator, and a start after the PLL's."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from amaranth.hdl import ClockDomain, ClockSignal, Instance, Module, Signal
from amaranth.lib import io
from amaranth.lib.cdc import FFSynchronizer

Pll = TypeVar("Pll")

NEAR_MHZ = 50
"""How far from a clock that a PLL does not make another is looked for."""


def refusal(input_hz: int, *outputs_hz: int) -> ValueError:
    """What a ``solve`` raises if no dividers make its outputs."""
    wanted = " and ".join(map(str, outputs_hz))
    return ValueError(f"clock must be one that a PLL can make from {input_hz} Hz, not {wanted}")


def solved(solve: Callable[..., Pll], input_hz: int, *outputs_hz: int) -> Pll:
    """``solve(input_hz, *outputs_hz)``; a refusal of a lone clock has the closest one in whole MHz.

    Raises ValueError as ``solve`` does.
    """
    try:
        return solve(input_hz, *outputs_hz)
    except ValueError as error:
        if len(outputs_hz) == 1 and (near := _nearest(solve, input_hz, *outputs_hz)):
            raise ValueError(f"{error}; {near} is the closest in whole MHz") from None
        raise


def _nearest(solve: Callable[..., object], input_hz: int, output_hz: int) -> int | None:
    """The closest clock in whole MHz that ``solve`` does not refuse, if one is near."""
    mhz = output_hz // 1_000_000
    near = (n * 1_000_000 for n in range(max(1, mhz - NEAR_MHZ), mhz + NEAR_MHZ))
    for hz in sorted(near, key=lambda hz: abs(hz - output_hz)):
        with suppress(ValueError):
            solve(input_hz, hz)
            return hz
    return None


def add_oscillator(m: Module, platform) -> Signal:
    """The clock that the board itself has."""
    pin = platform.request(platform.default_clk, dir="-")
    m.submodules.clock_pin = clock_pin = io.Buffer("i", pin)
    return clock_pin.i


def add_start(m: Module, oscillator: Signal, locked: Signal) -> Signal:
    """What opens clocks' gates once a PLL has been locked for a while, in cycles of its reference.

    Configuration has given every register its initial value by then, and nothing has been clocked
    since, so that this start is the reset: it takes no fan-out, no logic and no slice control set,
    as a reset net to every register would.
    """
    m.domains.reference = ClockDomain("reference", reset_less=True, local=True)
    running, enable = (Signal() for _ in range(2))
    m.submodules.locked = FFSynchronizer(locked, running, o_domain="reference", stages=3)
    # A lock that comes and goes while the PLL settles does not count.
    settled = Signal(8)
    with m.If(~running):
        m.d.reference += settled.eq(0)
    with m.Elif(~settled.all()):
        m.d.reference += settled.eq(settled + 1)
    m.d.reference += enable.eq(settled.all())
    m.d.comb += ClockSignal("reference").eq(oscillator)
    return enable


def add_domains(
    m: Module, clocks: Mapping[str, Signal], gate: Callable[..., Instance | Module]
) -> None:
    """Clock domains by their names, each with its clock of a PLL behind a gate of its own.

    ``gate(clock, gated)`` is the family's cell, or a module with it.
    """
    for name, clock in clocks.items():
        m.domains += ClockDomain(name, reset_less=True)
        m.submodules["gate" if name == "sync" else f"gate_{name}"] = gate(clock, ClockSignal(name))
