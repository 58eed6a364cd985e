"""The host's way to a memory of whole words: half-words, one behind the other."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.arch.memories import HALF_WORD_BITS
from hw.memory.signatures import HostSignature


class Loader(wiring.Component):
    """Counts through a memory half-word by half-word, and writes it word by word.

    Half-word h of word w has the host's address ``w * half_words + h`` and is bits
    ``[16 * h +: 16]`` of the word. Half-words gather in a shift register; what a write leaves out
    of its first and its last word comes from the memory. So the memory needs one write enable, its
    data come from registers, and a write may begin and end anywhere.

    A start takes as many cycles as the address has bits, if ``half_words`` is no power of two; then
    the memory's latency, and a cycle for each half-word that lies before it in its word. After that
    a half-word is written in a cycle, and a word is read in a cycle for each of its half-words and
    the latency.

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
        left = Signal(range(max(len(word), self.latency + 1) + 1))
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
        push, pushed = Signal(), Signal(HALF_WORD_BITS, reset_less=True)
        gathered = Signal(HALF_WORD_BITS * n, reset_less=True)
        picked = self.word.word_select(half, HALF_WORD_BITS)
        m.d.sync += [
            push.eq(step),
            pushed.eq(Mux(host.write, host.write_data, picked)),
            host.read_valid.eq(host.read),
        ]
        with m.If(push):
            m.d.sync += gathered.eq(Cat(gathered[HALF_WORD_BITS:], pushed))
        complete = Signal()
        m.d.comb += [
            host.read_data.eq(pushed),
            self.data.eq(gathered),
        ]
        m.d.sync += self.write.eq(complete)
        with m.If(self.write | (host.read & last_half)):
            m.d.sync += word.eq(word + 1)

        def fetch():
            m.d.sync += left.eq(self.latency + 1)
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
                m.next = "IDLE"
        return m
