"""Random numbers: xorshift32 generators that deliver several steps per cycle."""

import functools
import operator
from dataclasses import dataclass

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from weights.noise import NOISE_STEP, xorshift

WORD_BITS = 32


def parity(bits: list) -> Value:
    """XOR of the given bits as a balanced tree, which takes fewer LUTs than `Value.xor`."""
    if len(bits) == 1:
        return bits[0]
    half = len(bits) // 2
    return parity(bits[:half]) ^ parity(bits[half:])


@dataclass(frozen=True)
class Leap:
    """A linear map of 32-bit words over GF(2), such as any number of steps of xorshift32.

    Parameters
    ----------
    columns : tuple of int
        Images of the words ``1 << i``.
    """

    columns: tuple[int, ...]

    def __post_init__(self):
        if len(self.columns) != WORD_BITS:
            raise ValueError(f"columns must be {WORD_BITS} words, not {self.columns!r}")

    @classmethod
    def identity(cls) -> "Leap":
        return cls(tuple(1 << i for i in range(WORD_BITS)))

    @classmethod
    def step(cls, triple: tuple[int, int, int]) -> "Leap":
        """One step of xorshift32."""
        return cls(tuple(xorshift(1 << i, triple) for i in range(WORD_BITS)))

    def compute(self, word: int) -> int:
        """The map of a Python integer."""
        images = (column for i, column in enumerate(self.columns) if word >> i & 1)
        return functools.reduce(operator.xor, images, 0)

    def expressions(self, word: Value) -> list[Value]:
        """The map of a signal, bit by bit."""
        return [
            parity([word[i] for i, column in enumerate(self.columns) if column >> bit & 1])
            for bit in range(WORD_BITS)
        ]

    def __matmul__(self, other: "Leap") -> "Leap":
        """First ``other``, then this map."""
        return Leap(tuple(self.compute(column) for column in other.columns))

    def __pow__(self, steps: int) -> "Leap":
        result, power = Leap.identity(), self
        while steps:
            if steps & 1:
                result = power @ result
            power = power @ power
            steps >>= 1
        return result


@dataclass(frozen=True, kw_only=True)
class NoiseParameters:
    """Shape of a noise generator.

    Parameters
    ----------
    elements : int
        Words per cycle.
    triple : tuple of int
        Shifts of the xorshift, left, right and left.
    """

    elements: int
    triple: tuple[int, int, int] = NOISE_STEP

    def __post_init__(self):
        if not isinstance(self.elements, int) or self.elements < 1:
            raise ValueError(f"elements must be a positive integer, not {self.elements!r}")
        if len(self.triple) != 3 or not all(0 < shift < WORD_BITS for shift in self.triple):
            raise ValueError(f"triple must be three shifts of 1 to 31, not {self.triple!r}")

    def compute(self, state: int, count: int) -> list[int]:
        """The ``count`` words that follow a state."""
        words = []
        for _ in range(count):
            state = xorshift(state, self.triple)
            words.append(state)
        return words

    def create(self) -> "NoiseGenerator":
        return NoiseGenerator(self)


class NoiseGenerator(wiring.Component):
    """``elements`` successive words of one xorshift32 sequence per cycle.

    ``words[l]`` is ``l + 1`` steps after the last word of the cycle before, so that the word of
    beat b and lane l is ``b * elements + l + 1`` steps after the first state. The last word is the
    whole state. ``LATENCY`` from ``step`` to ``words``, one beat per cycle.

    Members
    -------
    step : In(1), the next ``elements`` words
    first, state : In, with ``step``: those after ``state`` (never 0)
    words : Out(ArrayLayout(32, elements)), held between steps
    """

    LATENCY = 1

    def __init__(self, parameters: NoiseParameters):
        self.parameters = parameters
        super().__init__(
            {
                "first": In(1),
                "state": In(WORD_BITS),
                "step": In(1),
                "words": Out(data.ArrayLayout(WORD_BITS, parameters.elements)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        last = self.parameters.elements - 1
        single = Leap.step(self.parameters.triple)
        state = Signal(WORD_BITS)
        m.d.comb += state.eq(Mux(self.first, self.state, self.words[last]))
        for lane in range(self.parameters.elements):
            following = (single ** (lane + 1)).expressions(state)
            with m.If(self.step):
                m.d.sync += [self.words[lane][i].eq(bit) for i, bit in enumerate(following)]
        return m
