"""Block RAM of any depth and width, in tiles with registers of their own.

A store can take more than half of a chip's block RAMs, which lie all over it, and no wire across a
chip is quick. So a memory is made of tiles, each of as many block RAMs as can lie together, and
what goes to all of them goes through a register beside each.
"""

from amaranth.hdl import Cat, Module, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In
from amaranth.utils import ceil_log2

from hw.arch.memories import HALF_WORD_BITS
from hw.memory.signatures import ReadSignature
from hw.pipeline import KEEP, delay

DEEPEST, SHALLOWEST = 16384, 512
"""Words of a large block RAM in its narrowest and in its widest shape."""

TILE_BITS = 8 * DEEPEST
"""Of a tile: eight of them."""

FANOUT = 64
"""Bits of a word that share a copy of what chooses their part."""


def parts(depth: int) -> list[range]:
    """Words of each part of a memory.

    All but the last are as deep as a block RAM of one of its shapes, so that none is of two parts.
    A part begins at a multiple of its depth, the last one of the next power of two, so that the
    upper bits of an address tell it.
    """
    found, first = [], 0
    while rest := depth - first:
        size = min(1 << (rest.bit_length() - 1), DEEPEST) if rest > SHALLOWEST else rest
        found.append(range(first, first + size))
        first += size
    return found


class Ram(wiring.Component):
    """Words that are read whole and written by half-words.

    The register behind each block RAM has nothing between the two and does nothing else, so that a
    build can take it into the block RAM. The parts of a deep memory meet behind it.

    Parameters
    ----------
    depth : int
        Words.
    half_words : int
        Of a word.
    latency : int
        From a read's address to its data: 2 for the block RAM and the register behind it, 3 with
        one before it, all further ones behind the choice of the part.

    Members
    -------
    read : ``In(ReadSignature(depth, ArrayLayout(16, half_words)))``
        A word per cycle.
    address : ``In(range(depth))``
    enables : ``In(half_words)``
    half_word : ``In(16)``
        What becomes of the enabled half-words of the word at ``address``. The memory holds it two
        cycles later.
    """

    def __init__(self, depth: int, half_words: int, latency: int):
        if latency < 2:
            raise ValueError(f"latency must be at least 2, not {latency!r}")
        self.depth = depth
        self.half_words = half_words
        self.latency = latency
        layout = data.ArrayLayout(HALF_WORD_BITS, half_words)
        super().__init__(
            {
                "read": In(ReadSignature(depth, layout)),
                "address": In(range(depth)),
                "enables": In(half_words),
                "half_word": In(HALF_WORD_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        early = min(self.latency - 2, 1)
        numbered = list(enumerate(parts(self.depth)))
        words = [self._part(m, number, part, early) for number, part in numbered]
        chosen = Signal(range(len(words)))
        with m.If(0):
            pass
        for number, part in numbered[:-1]:
            with m.Elif(self._within(self.read.address, part)):
                m.d.comb += chosen.eq(number)
        with m.Else():
            m.d.comb += chosen.eq(len(words) - 1)

        chosen = delay(m, chosen, early + 1, name="chosen")
        word = Signal(HALF_WORD_BITS * self.half_words)
        for low in range(0, len(word), FANOUT):
            copy = Signal.like(chosen, name=f"chosen_for_{low}", reset_less=True, attrs=KEEP)
            m.d.sync += copy.eq(chosen)
            with m.Switch(copy):
                for number, value in enumerate(words):
                    with m.Case(number):
                        m.d.comb += word[low : low + FANOUT].eq(value[low : low + FANOUT])
        late = self.latency - 2 - early
        m.d.comb += self.read.data.eq(delay(m, word, late, name="word"))
        return m

    @staticmethod
    def _within(address, part: range):
        bits = ceil_log2(len(part))
        return address[bits:] == part.start >> bits

    def _part(self, m: Module, number: int, part: range, early: int):
        """The word of a part, in a row of tiles, that was read ``2 + early`` cycles ago."""
        width = HALF_WORD_BITS * self.half_words
        across = min(TILE_BITS >> ceil_log2(len(part)), TILE_BITS // SHALLOWEST, width)
        return Cat(
            self._tile(m, f"tile_{number}_{low}", part, low, min(across, width - low), early)
            for low in range(0, width, across)
        )

    def _tile(self, m: Module, name: str, part: range, low: int, width: int, early: int):
        """Bits ``[low +: width]`` of the words of a part."""
        bits = ceil_log2(len(part))
        granule = min(width, HALF_WORD_BITS)
        layout = data.ArrayLayout(unsigned(granule), width // granule)
        m.submodules[name] = memory = Memory(shape=layout, depth=len(part), init=[])
        write_port = memory.write_port(granularity=1)
        read_port = memory.read_port()

        def beside(value, of: str):
            copy = Signal.like(value, name=f"{name}_{of}", reset_less=True, attrs=KEEP)
            m.d.sync += copy.eq(value)
            return copy

        first = low // HALF_WORD_BITS
        enables = self.enables[first : first + max(width // HALF_WORD_BITS, 1)]
        enables = enables & self._within(self.address, part).replicate(len(enables))
        half = low % HALF_WORD_BITS
        value = beside(self.half_word[half : half + granule], "half_word")
        m.d.comb += [
            write_port.addr.eq(beside(self.address[:bits], "address")),
            write_port.en.eq(beside(enables, "enables")),
            *(each.eq(value) for each in write_port.data),
        ]
        address = self.read.address[:bits]
        m.d.comb += read_port.addr.eq(beside(address, "read_address") if early else address)
        word = Signal(layout, name=f"{name}_word", reset_less=True)
        m.d.sync += word.eq(read_port.data)
        return word.as_value()
