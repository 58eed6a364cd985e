"""Sigmoid and Gumbel noise: one interpolating table unit per lane."""

import enum

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.arch.arithmetic import (
    BASE_BITS,
    DELTA_BITS,
    FRACTION_BITS,
    HIDDEN_BITS,
    LN2,
    TABLE_SEGMENTS,
    gumbel_table,
    interpolate,
    minimum,
    round_shift,
    sigmoid_gate,
    sigmoid_table,
)
from hw.pipeline import delay
from hw.units.noise import WORD_BITS

LAST_OCTAVE = 15  # of the Gumbel table; deeper ones are this one plus multiples of ln 2
SEGMENT_BITS = (TABLE_SEGMENTS - 1).bit_length()
OCTAVE_BITS = 4  # segments within an octave
MAGNITUDE_BITS = SEGMENT_BITS + FRACTION_BITS

EntryLayout = data.StructLayout({"base": signed(BASE_BITS), "delta": signed(DELTA_BITS)})

DrawLayout = data.StructLayout({"octave": 5, "mantissa": OCTAVE_BITS + FRACTION_BITS})
"""A random word: its leading zeros, and the bits after its leading one."""


def sigmoid(argument: int) -> int:
    """Gate in units of 2**-15 of an argument in units of 2**-16."""
    magnitude = min(abs(argument), (1 << MAGNITUDE_BITS) - 1)
    base, delta = sigmoid_table()[magnitude >> FRACTION_BITS]
    fraction = magnitude & ((1 << FRACTION_BITS) - 1)
    return sigmoid_gate(interpolate(base, delta, fraction), int(argument < 0))


def gumbel(word: int) -> int:
    """Gumbel noise in units of 2**-12 of a non-zero 32-bit word."""
    zeros = WORD_BITS - word.bit_length()
    octave = min(zeros, LAST_OCTAVE)
    mantissa = word << (zeros + 1) & ((1 << WORD_BITS) - 1)
    mantissa >>= WORD_BITS - OCTAVE_BITS - FRACTION_BITS
    base, delta = gumbel_table()[octave << OCTAVE_BITS | mantissa >> FRACTION_BITS]
    fraction = mantissa & ((1 << FRACTION_BITS) - 1)
    return interpolate(base, delta, fraction) + (zeros - octave) * LN2


class DrawNormaliser(wiring.Component):
    """Position of a non-zero word's leading one, and the 16 bits after it.

    Two cycles of latency, one word per cycle.

    Members
    -------
    word : In(32)
    draw : Out(DrawLayout)
    """

    LATENCY = 2

    word: In(WORD_BITS)
    draw: Out(DrawLayout)

    def elaborate(self, platform):
        m = Module()
        word, octave = self.word, Const(0, 0)
        # Each step moves the upper half of what can still be zero out of the way.
        for step, register in ((16, False), (8, True), (4, False), (2, False), (1, True)):
            zero = ~word[-step:].any()
            word = Mux(zero, word << step, word)[:WORD_BITS]
            octave = Cat(zero, octave)
            if register:
                word = delay(m, word, 1, name=f"word_{step}")
                octave = delay(m, octave, 1, name=f"octave_{step}")
        # Bit 31 is the leading one.
        m.d.comb += [
            self.draw.octave.eq(octave),
            self.draw.mantissa.eq(word[: WORD_BITS - 1] >> (WORD_BITS - 1 - 16)),
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
    RESULT = 6


class TableUnit(wiring.Component):
    """Sigmoid of an argument or Gumbel noise of a draw: one table, one small multiplier.

    ``y = base[segment] + round_shift(delta[segment] * fraction, 12)``, the formulas of
    :func:`sigmoid` and :func:`gumbel`. ``LATENCY`` cycles later, one result per cycle.

    Members
    -------
    sample : In(1), look up the draw rather than the argument; constant while results are awaited
    argument : In(signed(23)), units of 2**-16
    draw : In(DrawLayout)
    gate : Out(15), sigmoid in units of 2**-15
    noise : Out(signed(18)), Gumbel noise in units of 2**-12
    """

    LATENCY = TableStage.RESULT

    sample: In(1)
    argument: In(signed(HIDDEN_BITS))
    draw: In(DrawLayout)
    gate: Out(15)
    noise: Out(signed(BASE_BITS))

    def elaborate(self, platform):
        m = Module()

        # SEGMENT
        negative = self.argument[-1]
        magnitude = Signal(MAGNITUDE_BITS)
        absolute = Mux(negative, -self.argument, self.argument)[:HIDDEN_BITS]
        m.d.comb += magnitude.eq(minimum(absolute, (1 << MAGNITUDE_BITS) - 1))
        last = self.draw.octave[4]
        drawn = Cat(self.draw.mantissa, self.draw.octave[:4] | last.replicate(4))
        index = Signal(SEGMENT_BITS + 1)
        fraction = Signal(FRACTION_BITS)
        m.d.sync += Cat(fraction, index).eq(Cat(Mux(self.sample, drawn, magnitude), self.sample))
        # Octaves beyond the last one of the table are 1 to 16.
        beyond = Array(Const(n * LN2, BASE_BITS - 1) for n in range(1, LAST_OCTAVE + 2))
        octaves = Signal(BASE_BITS - 1)
        m.d.sync += octaves.eq(Mux(last, beyond[self.draw.octave[:4]], 0))

        # READ, ENTRY
        entries = sigmoid_table() + gumbel_table()
        m.submodules.table = table = Memory(
            shape=EntryLayout,
            depth=len(entries),
            init=[{"base": base, "delta": delta} for base, delta in entries],
        )
        port = table.read_port()
        m.d.comb += port.addr.eq(index)
        entry = delay(m, port.data, TableStage.ENTRY - TableStage.READ, name="entry")
        fraction = delay(m, fraction, TableStage.ENTRY - TableStage.SEGMENT, name="fraction")

        # PRODUCT, VALUE: interpolation
        product = Signal(signed(DELTA_BITS + FRACTION_BITS))
        m.d.sync += product.eq(entry.delta * fraction)
        base = delay(m, entry.base, TableStage.PRODUCT - TableStage.ENTRY, name="base")
        value = Signal(signed(BASE_BITS))
        m.d.sync += value.eq(base + round_shift(product, FRACTION_BITS))

        # RESULT
        octaves = delay(m, octaves, TableStage.VALUE - TableStage.SEGMENT, name="octaves")
        negative = delay(m, negative, TableStage.VALUE - TableStage.ARGUMENT, name="negative")
        m.d.sync += [
            self.gate.eq(sigmoid_gate(value, negative)),
            self.noise.eq(value + octaves),
        ]
        return m
