"""Scales from integers: what the vector unit measures, on its way to the registers."""

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.units.commands import ScalarResult, raw_layout
from weights.fixed import EXPONENT_BITS, MANTISSA_BITS, ZERO, Scale

SLACK = 3
"""Cycles for which a compact normaliser's scale may wait for its register and delay nothing."""


@dataclass(frozen=True, kw_only=True)
class NormaliserParameters:
    """Width of the integers that become scales.

    Parameters
    ----------
    width : int
        Bits of the unsigned value, at most 64.
    compact : bool
        Whether it shifts by a bit in a cycle.
    """

    width: int = 48
    compact: bool = False

    def __post_init__(self):
        if not isinstance(self.width, int) or not 1 <= self.width <= 64:
            raise ValueError(f"width must be an integer from 1 to 64, not {self.width!r}")

    @property
    def top(self) -> int:
        """Bits of the register of a value that has just come."""
        return max(self.width, 2 * MANTISSA_BITS + 1)

    @property
    def latency(self) -> int:
        """Cycles from the acceptance of a value to ``valid`` of its scale."""
        return self.top if self.compact else 4

    @property
    def cycles(self) -> int:
        """Cycles from one acceptance to the next, with a result that is taken at once."""
        return self.latency + (SLACK if self.compact else 1)

    def compute(self, value: int, exponent: int) -> Scale:
        return Scale.from_int(value, exponent) if value else ZERO

    def create(self) -> "Normaliser":
        return Normaliser(self)


class Normaliser(wiring.Component):
    """``value * 2**exponent`` of an unsigned integer as a scale, truncated (``Scale.from_int``).

    Shifts by 16s, by 4s and by 1s in a cycle each, or by 1 in as many cycles as it may take; one
    value at a time.

    Members
    -------
    raw : ``In(stream.Signature(raw_layout(width)))``
    result : ``Out(stream.Signature(ScalarResult))``
    done : ``Out(1)``
        A scale is transferred that is the last one of its step.
    busy : ``Out(1)``
        From the cycle after a value's acceptance until its scale was transferred, and the next one
        is accepted.
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
        top = self.parameters.top

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

        if self.parameters.compact:
            with m.If(~accept & ~value[-1]):  # and no more once a one is there
                m.d.sync += [value.eq(value << 1), exponent.eq(exponent - 1)]
            mantissa = value[-MANTISSA_BITS:]
            self._count(m, accept)
        else:
            mantissa, exponent = self._shift(m, value, exponent)
            self._accompany(m, accept)
        result = self.result.payload
        m.d.comb += [
            result.register.eq(register),
            self.done.eq(self.result.valid & self.result.ready & last),
        ]
        with m.If(mantissa[-1]):
            m.d.comb += [result.value.mantissa.eq(mantissa), result.value.exponent.eq(exponent)]
        return m

    def _shift(self, m, value, exponent):
        """Mantissa and exponent of what came three cycles ago."""
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
        return value, exponent

    def _accompany(self, m, accept):
        """A one that accompanies the value through the stages."""
        stages = Signal(self.parameters.latency)
        m.d.sync += stages.eq(Cat(accept, stages))
        m.d.comb += self.result.valid.eq(stages[-1])
        m.d.comb += self.busy.eq(stages.any())
        with m.If(self.result.valid & ~self.result.ready):
            m.d.sync += stages[-1].eq(1)

    def _count(self, m, accept):
        """Cycles until the next value may come, and before them those until there is a scale."""
        left = Signal(range(self.parameters.cycles))
        valid = Signal()
        m.d.comb += [self.result.valid.eq(valid), self.busy.eq(valid | (left != 0))]
        with m.If(accept):
            m.d.sync += left.eq(self.parameters.cycles - 1)
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        with m.If(left == SLACK + 1):
            m.d.sync += valid.eq(1)
        with m.Elif(self.result.ready):
            m.d.sync += valid.eq(0)
