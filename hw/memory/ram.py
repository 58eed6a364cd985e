"""Block RAM of any depth and width, in tiles with registers of their own.

A store can take more than half of a chip's block RAMs, which lie all over it, and no wire across a
chip is quick. So a memory is made of tiles, each of as many block RAMs as can lie together, and
what goes to all of them goes through a register beside each.
"""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In
from amaranth.utils import ceil_log2

from hw.memory.signatures import ReadSignature
from hw.pipeline import KEEP, delay

WIDTHS = {512: 36, 1024: 18, 2048: 9, 4096: 4, 8192: 2, 16384: 1}
"""Bits of a large block RAM's words, by its words."""

SHALLOWEST, DEEPEST = min(WIDTHS), max(WIDTHS)
NINE_BITS = 2048
"""Words of the deepest one that has the ninth bit of every byte."""

IN_LUTS = 48
"""Words for which synthesis for ECP5 takes LUTs: where these cost less, by its weights."""

TILE = 8
"""Block RAMs of a tile."""

FANOUT = 64
"""Bits of a word that share a copy of what chooses their part."""


def parts(depth: int, width: int, first: int = 0) -> list[range]:
    """Words of each part of a memory of so wide words, from ``first`` on.

    One part needs nothing that chooses, and is what there is where several take no fewer block
    RAMs, nor these a bit in nine. Else all but the last are as deep as a block RAM of one of its
    shapes, so that none is of two parts. A part begins at a multiple of its depth, the last one of
    the next power of two, so that the upper bits of an address tell it.
    """
    whole = [range(first, first + depth)]
    size = min(1 << (depth.bit_length() - 1), DEEPEST)
    if depth <= SHALLOWEST or size == depth:
        return whole
    split = [range(first, first + size), *parts(depth - size, width, first + size)]
    if depth > NINE_BITS or _blocks(depth, width) > sum(_blocks(len(p), width) for p in split):
        return split
    return whole


def _blocks(depth: int, width: int) -> int:
    """Block RAMs of a part; synthesis makes none of one that is as shallow as memory in LUTs."""
    return 0 if depth <= IN_LUTS else -(-width // _width(depth))


def _width(depth: int) -> int:
    """Bits of a word of the block RAM that just holds so many."""
    return WIDTHS[max(1 << ceil_log2(depth), SHALLOWEST)]


def registers(latency: int) -> tuple[int, int, int]:
    """Of a memory, one behind the other: before all tiles, beside each, behind the choice."""
    ahead, early = int(latency > 4), int(latency > 2)
    return ahead, early, latency - 2 - ahead - early


class Ram(wiring.Component):
    """Words that are read and written whole.

    The register behind each block RAM has nothing between the two and does nothing else, so that a
    build can take it into the block RAM. The parts of a deep memory meet behind it.

    Parameters
    ----------
    depth : int
        Words.
    width : int
        Bits of a word.
    latency : int
        From a read's address to its data: 2 for the block RAM and the register behind it, 3 with
        one before it, 4 with one behind the choice of the part, 5 with one before what goes to all
        tiles, all further ones behind the choice.

    Members
    -------
    read : ``In(ReadSignature(depth, width))``
        A word per cycle.
    address : ``In(range(depth))``
    write : ``In(1)``
        The word at ``address`` becomes what ``data`` is in the next cycle, and is that for a read
        of the cycle after.
    data : ``In(width)``
        From a register, which needs no other beside each tile.
    """

    def __init__(self, depth: int, width: int, latency: int):
        if latency < 2:
            raise ValueError(f"latency must be at least 2, not {latency!r}")
        self.depth = depth
        self.width = width
        self.latency = latency
        super().__init__(
            {
                "read": In(ReadSignature(depth, width)),
                "address": In(range(depth)),
                "write": In(1),
                "data": In(width),
            }
        )

    def elaborate(self, platform):
        m = Module()
        ahead, early, late = registers(self.latency)
        numbered = list(enumerate(parts(self.depth, self.width)))
        address = delay(m, self.read.address, ahead, name="address_ahead")
        words = [self._part(m, number, part, address, early) for number, part in numbered]
        chosen = Signal(range(len(words)))
        with m.If(0):
            pass
        for number, part in numbered[:-1]:
            with m.Elif(self._within(address, part)):
                m.d.comb += chosen.eq(number)
        with m.Else():
            m.d.comb += chosen.eq(len(words) - 1)

        chosen = delay(m, chosen, early + 1, name="chosen")
        word = Signal(self.width)
        for low in range(0, len(word), FANOUT):
            copy = Signal.like(chosen, name=f"chosen_for_{low}", reset_less=True, attrs=KEEP)
            m.d.sync += copy.eq(chosen)
            with m.Switch(copy):
                for number, value in enumerate(words):
                    with m.Case(number):
                        m.d.comb += word[low : low + FANOUT].eq(value[low : low + FANOUT])
        m.d.comb += self.read.data.eq(delay(m, word, late, name="word"))
        return m

    @staticmethod
    def _within(address, part: range):
        bits = ceil_log2(len(part))
        return address[bits:] == part.start >> bits

    def _part(self, m: Module, number: int, part: range, address, early: int):
        """The word of a part, in a row of tiles, at the ``address`` of ``2 + early`` cycles ago."""
        across = TILE * _width(len(part))
        return Cat(
            self._tile(
                m, f"tile_{number}_{low}", part, low, min(across, self.width - low), address, early
            )
            for low in range(0, self.width, across)
        )

    def _tile(self, m: Module, name: str, part: range, low: int, width: int, address, early: int):
        """Bits ``[low +: width]`` of the words of a part."""
        bits = ceil_log2(len(part))
        m.submodules[name] = memory = Memory(shape=width, depth=len(part), init=[])
        write_port, read_port = memory.write_port(), memory.read_port()

        def beside(value, of: str):
            copy = Signal.like(value, name=f"{name}_{of}", reset_less=True, attrs=KEEP)
            m.d.sync += copy.eq(value)
            return copy

        write = self.write & self._within(self.address, part)
        m.d.comb += [
            write_port.addr.eq(beside(self.address[:bits], "address")),
            write_port.en.eq(beside(write, "write")),
            write_port.data.eq(self.data[low : low + width]),
        ]
        address = address[:bits]
        m.d.comb += read_port.addr.eq(beside(address, "read_address") if early else address)
        word = Signal(width, name=f"{name}_word", reset_less=True)
        m.d.sync += word.eq(read_port.data)
        return word
