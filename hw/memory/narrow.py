"""Memory of words for a unit, of half-words for the host, for machines that are small and not fast.

Each half-word of a word has a memory of its own with one port and a write enable. So nothing has to
be gathered or merged for the host, large memories with one port can be used where a part has them,
and there is no register that a slow clock does not need. It takes more block RAMs than `Ram` where
these are wider than a half-word.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.arch.memories import HALF_WORD_BITS
from hw.memory.signatures import HostSignature, ReadSignature
from hw.pipeline import delay

LARGE = 1024
"""Words from which on a memory is made of a part's large ones, if it has them."""


class HalfWords(wiring.Component):
    """Half-words behind one port.

    Where a platform has ``get_large_memory``, that makes those of `LARGE` and more: a function of
    this component that returns what drives its ``data``. Others are what synthesis takes for them.

    Members
    -------
    address : ``In(range(depth))``
    write : ``In(1)``
    write_data : ``In(16)``
        What the half-word at ``address`` becomes in the next cycle.
    data : ``Out(16)``
        That at the last cycle's ``address``; not defined after a write.
    """

    def __init__(self, depth: int):
        self.depth = depth
        super().__init__(
            {
                "address": In(range(depth)),
                "write": In(1),
                "write_data": In(HALF_WORD_BITS),
                "data": Out(HALF_WORD_BITS),
            }
        )

    def elaborate(self, platform):
        if self.depth >= LARGE and hasattr(platform, "get_large_memory"):
            return platform.get_large_memory(self)
        m = Module()
        m.submodules.memory = memory = Memory(shape=HALF_WORD_BITS, depth=self.depth, init=[])
        read, write = memory.read_port(), memory.write_port()
        m.d.comb += [
            read.addr.eq(self.address),
            self.data.eq(read.data),
            write.addr.eq(self.address),
            write.en.eq(self.write),
            write.data.eq(self.write_data),
        ]
        return m


class NarrowStore(wiring.Component):
    """Words for a unit, and the host's way to them.

    Every access of the host's takes one cycle, and none has to wait.

    Parameters
    ----------
    depth : int
        Words.
    half_words : int
        Half-words of a word, a power of two.
    latency : int
        From a read's address to its data, at least 1. All but one cycle wait as addresses.

    Members
    -------
    host : ``In(HostSignature(depth * half_words))``
    read : ``In(ReadSignature(depth, 16 * half_words))``
        A word per cycle, between the host's accesses.

    Raises
    ------
    ValueError
        From the constructor, for another latency or number of half-words.
    """

    def __init__(self, depth: int, half_words: int, latency: int):
        if latency < 1:
            raise ValueError(f"latency must be at least 1, not {latency!r}")
        if half_words & (half_words - 1):
            raise ValueError(
                "words of narrow stores must have a power of two of half-words, "
                f"not {half_words!r}: take another number of lanes, or stores that are not narrow"
            )
        self.depth, self.half_words, self.latency = depth, half_words, latency
        super().__init__(
            {
                "host": In(HostSignature(depth * half_words)),
                "read": In(ReadSignature(depth, HALF_WORD_BITS * half_words)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        host, bits = self.host, exact_log2(self.half_words)
        at, half_at = host.address[bits:], host.address[:bits]
        address = delay(m, self.read.address, self.latency - 1, name="address")
        address = Mux(host.write | host.read, at, address)

        halves = []
        for number in range(self.half_words):
            m.submodules[f"half_{number}"] = half = HalfWords(self.depth)
            m.d.comb += [
                half.address.eq(address),
                half.write.eq(host.write & (half_at == number)),
                half.write_data.eq(host.write_data),
            ]
            halves.append(half.data)
        word = Cat(halves)
        read_half = Signal(bits)
        m.d.sync += [read_half.eq(half_at), host.read_valid.eq(host.read)]
        m.d.comb += [
            self.read.data.eq(word),
            host.ready.eq(1),
            host.read_data.eq(word.word_select(read_half, HALF_WORD_BITS)),
        ]
        return m
