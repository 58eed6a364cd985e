"""Scales from integers: what the vector unit measures, on its way to the registers."""

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.units.commands import ScalarResult, raw_layout
from weights.fixed import EXPONENT_BITS, MANTISSA_BITS, ZERO, Scale


@dataclass(frozen=True, kw_only=True)
class NormaliserParameters:
    """Width of the integers that become scales.

    Parameters
    ----------
    width : int
        Bits of the unsigned value, at most 64.
    """

    width: int = 48

    def __post_init__(self):
        if not isinstance(self.width, int) or not 1 <= self.width <= 64:
            raise ValueError(f"width must be an integer from 1 to 64, not {self.width!r}")

    @property
    def latency(self) -> int:
        """Cycles from the acceptance of a value to ``valid`` of its scale."""
        return 4

    @property
    def cycles(self) -> int:
        """Cycles from one acceptance to the next, with a result that is taken at once."""
        return self.latency + 1

    def compute(self, value: int, exponent: int) -> Scale:
        return Scale.from_int(value, exponent) if value else ZERO

    def create(self) -> "Normaliser":
        return Normaliser(self)


class Normaliser(wiring.Component):
    """``value * 2**exponent`` of an unsigned integer as a scale, truncated (``Scale.from_int``).

    Shifts by 16s, by 4s and by 1s in a cycle each; one value at a time.

    Members
    -------
    raw : ``In(stream.Signature(raw_layout(width)))``
    result : ``Out(stream.Signature(ScalarResult))``
    done : ``Out(1)``
        A scale is transferred that is the last one of its step.
    busy : ``Out(1)``
        From the cycle after a value's acceptance until its scale was transferred.
    """

    def __init__(self, parameters: NormaliserParameters):
        self.parameters = parameters
        super().__init__(
            {
                "raw": In(stream.Signature(raw_layout(parameters.width))),
                "result": Out(stream.Signature(ScalarResult)),
                "done": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        width = self.parameters.width
        raw = self.raw.payload
        top = max(width, 2 * MANTISSA_BITS + 1)

        register = Signal.like(raw.register, reset_less=True)
        last = Signal(reset_less=True)
        value = Signal(top, reset_less=True)
        exponent = Signal(signed(EXPONENT_BITS), reset_less=True)
        m.d.comb += self.raw.ready.eq(~self.busy)
        accept = self.raw.valid & self.raw.ready
        with m.If(accept):
            m.d.sync += [register.eq(raw.register), last.eq(raw.last)]
            m.d.sync += value.eq(raw.value << (top - width))
            m.d.sync += exponent.eq(raw.exponent + (width - MANTISSA_BITS))

        # After a stage that moves by multiples of `unit`, fewer than `unit` leading zeros are left,
        # and bits that no later stage can move into the mantissa end here.
        for unit, kept in ((16, MANTISSA_BITS + 15), (4, MANTISSA_BITS + 3), (1, MANTISSA_BITS)):
            shifted = Signal(kept, reset_less=True)
            moved = Signal(signed(EXPONENT_BITS), reset_less=True)
            moves = Signal(2)
            with m.Switch(Cat(value[-unit * (i + 1) :].any() for i in range(3))):
                for pattern, count in (("--1", 0), ("-10", 1), ("100", 2), ("000", 3)):
                    with m.Case(pattern):
                        m.d.comb += moves.eq(count)
                        if count * unit < len(value):
                            m.d.sync += shifted.eq((value << (count * unit))[: len(value)][-kept:])
                        else:
                            m.d.sync += shifted.eq(0)
            m.d.sync += moved.eq(exponent - moves * unit)
            value, exponent = shifted, moved

        result = self.result.payload
        m.d.comb += result.register.eq(register)
        with m.If(value[-1]):
            m.d.comb += result.value.mantissa.eq(value)
            m.d.comb += result.value.exponent.eq(exponent)

        # A one that accompanies the value through the stages.
        stages = Signal(self.parameters.latency)
        m.d.sync += stages.eq(Cat(accept, stages))
        m.d.comb += self.result.valid.eq(stages[-1])
        m.d.comb += self.done.eq(self.result.valid & self.result.ready & last)
        m.d.comb += self.busy.eq(stages.any())
        with m.If(self.result.valid & ~self.result.ready):
            m.d.sync += stages[-1].eq(1)
        return m
