"""Sigmoid and Gumbel noise: one interpolating table unit per lane."""

import enum

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.arch.arithmetic import (
    BASE_BITS,
    DELTA_BITS,
    DRAW_BITS,
    DRAW_MASK,
    FRACTION_BITS,
    FRACTION_MASK,
    GATE_HALF,
    LAST_OCTAVE,
    OCTAVE_BITS,
    OPERAND_BITS,
    TABLE_SEGMENTS,
    gumbel_table,
    interpolate,
    sigmoid_table,
)
from hw.pipeline import delay
from hw.units.noise import WORD_BITS

SEGMENT_BITS = (TABLE_SEGMENTS - 1).bit_length()
MAGNITUDE_BITS = SEGMENT_BITS + FRACTION_BITS

EntryLayout = data.StructLayout({"base": signed(BASE_BITS), "delta": signed(DELTA_BITS)})

DrawLayout = data.StructLayout({"mantissa": DRAW_BITS, "octave": SEGMENT_BITS - OCTAVE_BITS})
"""Where a random number lies: its octave, and how far in it."""


def half_sigmoid(argument: int) -> int:
    """sigmoid - 1/2 in units of 2**-15 of an argument's magnitude in units of 2**-12."""
    magnitude = max(argument, ~argument)
    base, delta = sigmoid_table()[magnitude >> FRACTION_BITS]
    return interpolate(base, delta, magnitude & FRACTION_MASK)


def sigmoid(argument: int) -> int:
    """Gate in units of 2**-15 of an argument in units of 2**-12."""
    half = half_sigmoid(argument)
    return GATE_HALF + (~half if argument < 0 else half)


def octave(word: int) -> int:
    """Leading zeros of the upper 20 of 32 bits."""
    return LAST_OCTAVE - (word >> DRAW_BITS).bit_length()


def gumbel(word: int) -> int:
    """Gumbel noise in units of 2**-9 of a 32-bit word."""
    mantissa = word & DRAW_MASK
    base, delta = gumbel_table()[octave(word) << OCTAVE_BITS | mantissa >> FRACTION_BITS]
    return interpolate(base, delta, mantissa & FRACTION_MASK)


class DrawNormaliser(wiring.Component):
    """The octave of a random word, by the leading one of its upper 20 bits; the rest is in it.

    These bits are independent, so that none has to be moved. One word per cycle.

    Parameters
    ----------
    compact : bool
        Without latency, else that is a cycle.

    Members
    -------
    word : In(32)
    draw : Out(DrawLayout)
    """

    LATENCY = 1

    word: In(WORD_BITS)
    draw: Out(DrawLayout)

    def __init__(self, compact: bool = False):
        self._domain = "comb" if compact else "sync"
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        # Groups of four: which is the first that is not zero, and where in it the one is.
        upper = self.word[DRAW_BITS:]
        groups = [upper[at : at + 4] for at in range(LAST_OCTAVE - 4, -4, -4)]
        zeros = Signal(range(len(groups) + 1))
        place = Signal(2)
        m.d.comb += zeros.eq(len(groups))
        for number, group in reversed(list(enumerate(groups))):
            with m.If(group.any()):
                m.d.comb += [
                    zeros.eq(number),
                    place.eq(Mux(group[3], 0, Mux(group[2], 1, Mux(group[1], 2, 3)))),
                ]
        m.d[self._domain] += [
            self.draw.octave.eq(Cat(place, zeros)),
            self.draw.mantissa.eq(self.word),
        ]
        return m


class TableStage(enum.IntEnum):
    """When what belongs to one result is where: cycles after its argument or draw."""

    ARGUMENT = 0
    SEGMENT = 1  # and the fraction within it
    READ = 2  # the entry, out of the table
    ENTRY = 3  # out of the register behind it
    PRODUCT = 4
    VALUE = 5  # interpolated


class TableUnit(wiring.Component):
    """Half the sigmoid of an argument or Gumbel noise of a draw: a table, a small multiplier.

    ``value = base[segment] + (delta[segment] * fraction >> 9)``, the formulas of
    :func:`half_sigmoid` and :func:`gumbel`. ``LATENCY`` cycles later, one value per cycle.

    Parameters
    ----------
    compact : bool
        The only register is that of the table itself, with the fraction's beside it: a cycle of
        latency.

    Members
    -------
    sample : In(1), look up the draw rather than the argument
    argument : In(signed(18)), units of 2**-12
    draw : In(DrawLayout)
    value : Out(signed(15)), sigmoid - 1/2 of its magnitude in units of 2**-15, or Gumbel noise in
        units of 2**-9
    """

    LATENCY = TableStage.VALUE

    sample: In(1)
    argument: In(signed(OPERAND_BITS))
    draw: In(DrawLayout)
    value: Out(signed(BASE_BITS))

    def __init__(self, compact: bool = False):
        self._compact = compact
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        domain = "comb" if self._compact else "sync"

        # SEGMENT
        negative = self.argument[-1]
        magnitude = self.argument[:MAGNITUDE_BITS] ^ negative.replicate(MAGNITUDE_BITS)
        index = Signal(SEGMENT_BITS + 1)
        fraction = Signal(FRACTION_BITS)
        where = Mux(self.sample, self.draw.as_value(), magnitude)
        m.d[domain] += Cat(fraction, index).eq(Cat(where, self.sample))

        # READ, ENTRY
        entries = sigmoid_table() + gumbel_table()
        m.submodules.table = table = Memory(
            shape=EntryLayout,
            depth=len(entries),
            init=[{"base": base, "delta": delta} for base, delta in entries],
        )
        port = table.read_port()
        m.d.comb += port.addr.eq(index)
        behind = 0 if self._compact else TableStage.ENTRY - TableStage.READ
        entry = delay(m, port.data, behind, name="entry")
        fraction = delay(m, fraction, 1 + behind, name="fraction")

        # PRODUCT, VALUE: interpolation
        product = Signal(signed(DELTA_BITS + FRACTION_BITS + 1))
        m.d[domain] += product.eq(entry.delta * Cat(fraction, Const(0, 1)).as_signed())
        base = delay(m, entry.base, behind, name="base")
        m.d[domain] += self.value.eq(base + (product >> FRACTION_BITS))
        return m
