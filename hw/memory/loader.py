"""The host's way to a memory of whole words: half-words, one behind the other."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.arch.memories import HALF_WORD_BITS
from hw.memory.signatures import HostSignature
from hw.pipeline import KEEP, delay

GROUP = 8
"""Half-words among which one is chosen at a time."""

FANOUT = 64
"""Bits that share a copy of what makes them move on."""


class Loader(wiring.Component):
    """Counts through a memory half-word by half-word, and writes it word by word.

    Half-word h of word w has the host's address ``w * half_words + h`` and is bits
    ``[16 * h +: 16]`` of the word. Half-words gather in a shift register; what a write leaves out
    of its first and its last word comes from the memory. So the memory needs one write enable, its
    data come from registers, and a write may begin and end anywhere.

    A start takes as many cycles as the address has bits, if ``half_words`` is no power of two; then
    the memory's latency, and a cycle for each half-word that lies before it in its word. After that
    a half-word is written in a cycle, and a word is read in a cycle for each of its half-words and
    the latency. Half-words of a wide word lie all over the chip: they move ``late`` cycles later,
    in which one of each group is chosen and then one of these.

    Parameters
    ----------
    depth : int
        Words.
    half_words : int
        Half-words of a word.
    latency : int
        Cycles from ``address`` to ``word`` while ``active`` is high.

    Members
    -------
    host : ``In(HostSignature(depth * half_words))``
    active : ``Out(1)``
        ``address`` is read. No unit may read then.
    address : ``Out(range(depth))``
        Of the word that is read or written.
    word : ``In(16 * half_words)``
    write : ``Out(1)``
    data : ``Out(16 * half_words)``
        As of `Ram`.
    """

    def __init__(self, depth: int, half_words: int, latency: int):
        self.depth, self.half_words, self.latency = depth, half_words, latency
        self.late = 2 if half_words > 2 * GROUP else 0
        width = HALF_WORD_BITS * half_words
        super().__init__(
            {
                "host": In(HostSignature(depth * half_words)),
                "active": Out(1),
                "address": Out(range(depth)),
                "word": In(width),
                "write": Out(1),
                "data": Out(width),
            }
        )

    def elaborate(self, platform):
        m = Module()
        host, n = self.host, self.half_words
        low = (n & -n).bit_length() - 1
        odd = n >> low

        word = Signal(len(host.address[low:]))
        half = Signal(range(n))  # the next one, within its word
        begin = Signal.like(half)  # where accesses begin
        waiting = self.latency + 1 + self.late
        left = Signal(range(max(len(word), waiting) + 1))
        closing = Signal()  # the last half-word of the host's is there
        step, last_half = Signal(), Signal()
        m.d.comb += [
            self.active.eq(1),
            self.address.eq(word),
            last_half.eq(half == n - 1),
        ]
        with m.If(step):
            m.d.sync += half.eq(Mux(last_half, 0, half + 1))

        # A step pushes a half-word of the host or of the memory; host reads wait there, too.
        def later(value, name: str):
            return delay(m, value, self.late, name=name, reset_less=False)

        complete = Signal()
        pushing = later(step, "step")
        pushed = Signal(HALF_WORD_BITS, reset_less=True)
        written, own = later(host.write_data, "written"), later(host.write, "own")
        gathered = Signal(HALF_WORD_BITS * n, reset_less=True)
        m.d.sync += [
            pushed.eq(Mux(own, written, self._picked(m, half))),
            host.read_valid.eq(later(host.read, "read")),
            self.write.eq(later(complete, "complete")),
        ]
        after = Cat(gathered[HALF_WORD_BITS:], pushed)
        for bit in range(0, len(gathered), FANOUT):
            push = Signal(name=f"push_{bit}", attrs=KEEP)
            m.d.sync += push.eq(pushing)
            with m.If(push):
                m.d.sync += gathered[bit : bit + FANOUT].eq(after[bit : bit + FANOUT])
        m.d.comb += [
            host.read_data.eq(pushed),
            self.data.eq(gathered),
        ]
        with m.If(self.write | (host.read & last_half)):
            m.d.sync += word.eq(word + 1)

        def fetch():
            m.d.sync += left.eq(waiting)
            m.next = "FETCH"

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.active.eq(0), host.ready.eq(1)]
                m.d.sync += closing.eq(0)
                with m.If(host.start):
                    m.d.sync += [
                        word.eq(host.address[low:]),
                        half.eq(0),
                        begin.eq(host.address[:low]),
                    ]
                    if odd == 1:
                        fetch()
                    else:
                        m.d.sync += left.eq(len(word))
                        m.next = "DIVIDE"
            if odd > 1:
                # By the odd part of a word's half-words, a bit of the quotient in a cycle.
                rest = Signal(range(odd))
                trial = Signal(range(2 * odd))
                fits = Signal()
                m.d.comb += [trial.eq(Cat(word[-1], rest)), fits.eq(trial >= odd)]
                with m.State("DIVIDE"):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left == 0):
                        m.d.sync += [begin.eq(Cat(begin[:low], rest)), rest.eq(0)]
                        fetch()
                    with m.Else():
                        m.d.sync += [
                            word.eq(Cat(fits, word[:-1])),
                            rest.eq(Mux(fits, trial - odd, trial)),
                        ]
            with m.State("FETCH"):
                m.d.sync += left.eq(left - 1)
                with m.If(left == 1):
                    m.next = "FILL"
            with m.State("FILL"):
                with m.If(half != begin):
                    m.d.comb += [step.eq(1), complete.eq(last_half)]
                with m.Elif(closing):
                    m.d.sync += left.eq(self.late)
                    m.next = "CLOSE"
                with m.Else():
                    m.next = "READY"
            with m.State("READY"):
                m.d.comb += [
                    host.ready.eq(1),
                    step.eq(host.write | host.read),
                    complete.eq(host.write & last_half),
                ]
                with m.If(host.write & host.last):
                    m.d.sync += [closing.eq(1), begin.eq(0)]
                    fetch()
                with m.If(host.read):
                    with m.If(host.last):
                        m.next = "IDLE"
                    with m.Elif(last_half):
                        m.d.sync += begin.eq(0)
                        fetch()
            with m.State("CLOSE"):
                m.d.sync += left.eq(left - 1)
                with m.If(left == 0):
                    m.next = "IDLE"
        return m

    def _picked(self, m, half):
        """The half-word of ``word`` of that number, which was told ``late`` cycles ago."""
        if not self.late:
            return self.word.word_select(half, HALF_WORD_BITS)
        chosen = []
        for first in range(0, self.half_words, GROUP):
            number = Signal(range(GROUP), name=f"half_{first}", reset_less=True, attrs=KEEP)
            one = Signal(HALF_WORD_BITS, name=f"chosen_{first}", reset_less=True)
            group = self.word[HALF_WORD_BITS * first :][: HALF_WORD_BITS * GROUP]
            m.d.sync += [number.eq(half), one.eq(group.word_select(number, HALF_WORD_BITS))]
            chosen.append(one)
        group = delay(m, half[exact_log2(GROUP) :], self.late, name="group")
        return Cat(chosen).word_select(group, HALF_WORD_BITS)
