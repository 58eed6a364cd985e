"""Weight rows, and embedding rows behind them, in an SDRAM."""

from dataclasses import dataclass

from amaranth.hdl import Array, C, Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.arch.arithmetic import TRIT_BITS
from hw.arch.memories import HALF_WORD_BITS
from hw.arch.packing import FEW, MANY, row_bytes
from hw.memory.dense import decode, decoding
from hw.memory.sdram.ahead import RowsAhead
from hw.memory.sdram.controller import (
    POSTPONED,
    Controller,
    most_wait,
    read_latency,
    seek_latency,
    share,
)
from hw.memory.sdram.parts import Part, Timing
from hw.memory.sdram.pins import PinsSignature
from hw.memory.signatures import (
    READ_LATENCY,
    FetchSignature,
    HostSignature,
    RowStreamSignature,
)
from hw.pipeline import delay


@dataclass(frozen=True, kw_only=True)
class Sdram:
    """A kind of memory for weights, for embedding rows, or for both: an SDRAM beside the chip.

    Parameters
    ----------
    part : Part
    clock_hz : int
        Of the machine.
    ratio : int
        How many times faster the part's is, of `RATIOS`: so many words of the part pass in a cycle.
    rows_ahead : int
        Weight rows that are read ahead and wait on the chip; a power of two.
    """

    part: Part
    clock_hz: int
    ratio: int = 1
    rows_ahead: int = 512

    @property
    def place(self) -> str:
        return f"SDRAM x{self.part.width}"

    def weight_store(self, geometry) -> "SdramStoreParameters":
        """All weight rows of a geometry, and its embedding rows if it has a memory for them."""
        return self._store(geometry, lanes=geometry.lanes, depth=geometry.weight_rows)

    def embedding_store(self, geometry) -> "SdramStoreParameters":
        """Its embedding rows alone."""
        return self._store(geometry)

    def _store(self, geometry, **rows) -> "SdramStoreParameters":
        return SdramStoreParameters(
            part=self.part,
            clock_hz=self.clock_hz,
            ratio=self.ratio,
            rows_ahead=self.rows_ahead,
            embedding_words=geometry.embedding_words,
            elements=geometry.elements,
            trits_per_byte=geometry.trits_per_byte,
            **rows,
        )


@dataclass(frozen=True, kw_only=True)
class SdramStoreParameters:
    """Weight rows of ``lanes`` trits in an SDRAM, and behind them words of embedding rows.

    Parameters
    ----------
    part : Part
    clock_hz, ratio : int
        Of `Sdram`.
    lanes : int
        Trits of a row, which is a whole number of words of ``width`` bits.
    depth : int
        Rows; none lie elsewhere if it is 0.
    embedding_words : int
        Words of ``elements`` entries of 16 bits, each a whole number of those words; or 0.
    elements : int
    trits_per_byte : int
        As of `Geometry`.
    rows_ahead : int
        Of `Sdram`.
    latency : int
        Cycles from a row's transfer to its data.
    """

    part: Part
    clock_hz: int
    ratio: int = 1
    lanes: int = 0
    depth: int = 0
    embedding_words: int = 0
    elements: int = 1
    trits_per_byte: int = FEW
    rows_ahead: int
    latency: int = READ_LATENCY

    def __post_init__(self):
        _ = self.timing  # which a part may not have
        if not self.depth and not self.embedding_words:
            raise ValueError("depth or embedding_words must be positive, not 0 both")
        for name, unit, least in (
            ("lanes", "trits", self.width // 8 * self.trits_per_byte),
            ("elements", "entries", self.width // HALF_WORD_BITS if self.embedding_words else 1),
        ):
            if getattr(self, name) % least:
                raise ValueError(
                    f"{name} must be a multiple of {least}, the {unit} of a word of "
                    f"{self.part.name}, not {getattr(self, name)!r}"
                )
        if self.part_words > self.part_holds:
            raise ValueError(
                f"{self.depth} rows and {self.embedding_words} words of embedding rows must be at "
                f"most the {self.part_holds} words of {self.width} bits that {self.part.name} "
                f"holds, not {self.part_words}"
            )
        if self.rows_ahead < 1 or self.rows_ahead & (self.rows_ahead - 1):
            raise ValueError(f"rows_ahead must be a power of two, not {self.rows_ahead!r}")

    @property
    def timing(self) -> Timing:
        """The part's times in cycles."""
        return self.part.timing(self.clock_hz, self.ratio)

    @property
    def width(self) -> int:
        """Bits of a word: what one access moves."""
        return self.ratio * self.part.width

    @property
    def kept(self) -> int:
        """Rows for which there is block RAM."""
        return self.rows_ahead

    @property
    def kept_width(self) -> int:
        """Bits of each of them, which are decoded."""
        return TRIT_BITS * self.lanes

    @property
    def decoded(self) -> int:
        """Bytes of five trits that are decoded in a cycle."""
        return self.width // 8 if self.depth and self.trits_per_byte == MANY else 0

    @property
    def words(self) -> int:
        """Words in a weight row: the cycles that a row takes at least."""
        return HALF_WORD_BITS * self.half_words // self.width

    @property
    def row_cycles(self) -> float:
        """Cycles for a row, on average: its words, and what opening rows and refreshes take."""
        return self.words / share(self.part, self.timing)

    @property
    def seek_cycles(self) -> int:
        """Cycles from a seek to where rows are not read ahead until there is a row.

        The address, a row of the part that is closed and one that is opened, and a row's words.
        """
        arrived = read_latency(self.timing) + decoding(self.trits_per_byte)
        return 2 + seek_latency(self.timing) + arrived + self.words

    @property
    def half_words(self) -> int:
        """Half-words of a row."""
        return 8 * row_bytes(self.lanes, self.trits_per_byte) // HALF_WORD_BITS

    @property
    def fetch_pace(self) -> int:
        """Words of ``width`` bits in one of an embedding row."""
        return HALF_WORD_BITS * self.elements // self.width

    @property
    def fetch_latency(self) -> int:
        """Most cycles from where embedding words are asked for to the last one, beside its pace.

        Refreshes may be owed: one at most unless weight rows keep them waiting.
        """
        refreshes = POSTPONED if self.depth else 1
        return FETCH_LATENCY + most_wait(self.timing, refreshes) + read_latency(self.timing)

    @property
    def part_holds(self) -> int:
        """Words of ``width`` bits that the part has."""
        return self.part.words // self.ratio

    @property
    def part_words(self) -> int:
        """How many of them the store takes."""
        return self.depth * self.words + self.embedding_words * self.fetch_pace

    def create(self) -> "SdramStore":
        return SdramStore(self)


FETCH_LATENCY = 6
"""Cycles of a fetch in registers: its address in two, its words on their way to the reader."""


class SdramStore(wiring.Component):
    """Weight rows in an SDRAM, one behind the other as the host has them, and embedding rows.

    Weight rows are read ahead as of `RowsAhead`, and may be late: some ten cycles after a seek
    elsewhere, and then by what ``words`` cycles for each and the refreshes leave of the part's
    time. A fetch of embedding words throws away what was read ahead. Every half-word of the host's
    is an access of its own, and one more where single bytes cannot be masked.

    Members
    -------
    rows : ``In(RowStreamSignature(depth, 2 * lanes))``, if there is a depth
    host : ``In(HostSignature(depth * half_words))``, with it
    fetch : ``In(FetchSignature(embedding_words, ...))``, if there are embedding words
    embedding_host : ``In(HostSignature(embedding_words * elements))``, with it
    pins : ``Out(PinsSignature(part))``
    """

    def __init__(self, parameters: SdramStoreParameters):
        self.parameters = p = parameters
        self.controller = Controller(p.part, p.timing)
        members = {"pins": Out(PinsSignature(p.part, p.ratio))}
        if p.depth:
            self.ahead = RowsAhead(
                depth=p.depth,
                words=p.words,
                width=p.kept_width // p.words,
                rows_ahead=p.rows_ahead,
                latency=p.latency,
            )
            members["rows"] = In(RowStreamSignature(p.depth, TRIT_BITS * p.lanes))
            members["host"] = In(HostSignature(p.depth * p.half_words))
        if p.embedding_words:
            word = data.ArrayLayout(signed(HALF_WORD_BITS), p.elements)
            members["fetch"] = In(FetchSignature(p.embedding_words, word))
            members["embedding_host"] = In(HostSignature(p.embedding_words * p.elements))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        m.submodules.controller = controller = self.controller
        wiring.connect(m, controller.pins, wiring.flipped(self.pins))

        # One address serves all: half-words for the host, and where it reads none, whole words.
        address = Signal(range(p.part_holds * p.width // HALF_WORD_BITS))
        halves = exact_log2(p.width // HALF_WORD_BITS)
        access, step = controller.access, Signal()
        by = Signal.like(address)  # what the address advances by in a step
        m.d.comb += [
            Cat(access.p.column, access.p.bank, access.p.row).eq(address[halves:]),
            by.eq(1 << halves),
        ]
        with m.If(step):
            m.d.sync += address.eq(address + by)
        starts = {}
        if p.depth:
            starts["ASK"] = self.host
            self._read_ahead(m)
        if p.embedding_words:
            starts["ASK_BEHIND"] = self.embedding_host
            asked, awaited = self._fetched(m)
        hosts = list(starts.values())
        read, write = (Cat(getattr(host, n) for host in hosts).any() for n in ("read", "write"))
        # Of the host that has started. Where both are on one bus, there is nothing to choose.
        host_number = Signal(range(len(hosts)))
        last, write_data = (
            Array(getattr(host, n) for host in hosts)[host_number] for n in ("last", "write_data")
        )
        done = Signal()
        written, written_last = self._written(m, write, Cat(last, write_data), done)
        half = address[:halves]
        m.d.comb += access.p.mask.eq(~(C(0b11) << Cat(C(0, 1), half)))
        found = Signal(HALF_WORD_BITS, reset_less=True)
        for host in hosts:
            m.d.sync += host.read_valid.eq(host.read)
            m.d.comb += host.read_data.eq(found)
        if not p.part.masked:
            # What a write does not change of a word is what was read there before.
            whole = Signal(p.width, reset_less=True)
            with m.If(controller.answer):
                m.d.sync += whole.eq(controller.word)
            for number in range(1 << halves):
                with m.If(half != number):
                    part = slice(HALF_WORD_BITS * number, HALF_WORD_BITS * (number + 1))
                    m.d.comb += access.p.data[part].eq(whole[part])

        with m.FSM():
            with m.State("IDLE"):
                if p.depth:
                    m.d.comb += [access.valid.eq(self.ahead.ask), step.eq(self.ahead.asked)]
                    with m.If(self.ahead.begin):
                        m.d.sync += address.eq((self.ahead.row * p.words) << halves)
                for number, (state, host) in enumerate(starts.items()):
                    m.d.comb += host.ready.eq(1)
                    with m.If(host.start):
                        m.d.sync += [address.eq(host.address), host_number.eq(number)]
                        m.next = state
                if p.embedding_words:
                    ask = self.fetch.ask
                    m.d.comb += ask.ready.eq(1)
                    with m.If(ask.valid):
                        m.d.sync += address.eq((ask.payload.address * p.fetch_pace) << halves)
                        m.next = "FETCH_BEHIND"
            if p.embedding_words:
                for state in ("ASK", "FETCH"):
                    with m.State(f"{state}_BEHIND"):  # the weight rows
                        m.d.comb += [step.eq(1), by.eq((p.depth * p.words) << halves)]
                        m.next = state
                with m.State("FETCH"):
                    m.d.comb += [access.valid.eq(asked != 0), step.eq(access.valid & access.ready)]
                    with m.If(step):
                        m.d.sync += asked.eq(asked - 1)
                    with m.If(awaited == 0):
                        m.next = "IDLE"
            # Nothing is known of what follows a host's start, so that a word is read first.
            with m.State("ASK"):
                m.d.comb += access.valid.eq(1)
                with m.If(access.ready):
                    m.next = "WAIT"
            with m.State("WAIT"):
                m.d.sync += found.eq(controller.word.word_select(half, HALF_WORD_BITS))
                with m.If(controller.answer):
                    m.next = "READY"
            with m.State("READY"):
                m.d.comb += [by.eq(1), *(host.ready.eq(~written) for host in hosts)]
                with m.If(read):
                    m.d.comb += step.eq(1)
                    m.next = "ASK"
                with m.If(written):
                    m.d.comb += [access.valid.eq(1), access.p.write.eq(1)]
                    with m.If(access.ready):
                        m.d.comb += [done.eq(1), step.eq(1)]
                        if not p.part.masked:
                            m.next = "ASK"
                with m.If((read & last) | (done & written_last)):
                    m.next = "IDLE"
        return m

    def _read_ahead(self, m: Module):
        """Rows ahead, for as long as nobody else asks for anything."""
        p, controller = self.parameters, self.controller
        m.submodules.ahead = ahead = self.ahead
        wiring.connect(m, ahead.rows, wiring.flipped(self.rows))
        forget = self.host.start
        if p.embedding_words:
            forget |= self.embedding_host.start | (self.fetch.ask.valid & self.fetch.ask.ready)
        arrived = controller.answer
        if cycles := decoding(p.trits_per_byte):
            arrived = delay(m, arrived & ~ahead.abandon, cycles, name="arrived", reset_less=False)
        m.d.comb += [
            ahead.arrived.eq(arrived),
            ahead.word.eq(decode(m, controller.word, p.trits_per_byte, name="word")),
            ahead.forget.eq(forget),
            ahead.asked.eq(ahead.ask & controller.access.ready),
            controller.abandon.eq(ahead.abandon),
        ]

    def _fetched(self, m: Module):
        """Gathers embedding words; returns the part's words that are to be asked for, and awaited.

        Only while a fetch is under way does it matter what is gathered.
        """
        p, fetch, pace = self.parameters, self.fetch, self.parameters.fetch_pace
        asked = Signal(range(p.embedding_words * pace + 1))
        awaited = Signal.like(asked)
        part = Signal(range(pace))
        gathered = Signal(HALF_WORD_BITS * p.elements, reset_less=True)
        m.d.comb += fetch.data.eq(gathered)
        m.d.sync += fetch.valid.eq(0)
        with m.If(self.controller.answer & (awaited != 0)):
            m.d.sync += [
                gathered.eq(Cat(gathered, self.controller.word)[p.width :]),
                awaited.eq(awaited - 1),
                part.eq(part + 1),
                fetch.valid.eq(part == pace - 1),
            ]
        with m.If(fetch.ask.valid & fetch.ask.ready):
            count = fetch.ask.payload.words * pace
            m.d.sync += [asked.eq(count), awaited.eq(count), part.eq(0)]
        return asked, awaited

    def _written(self, m: Module, write, given, done):
        """A host's write for the controller; returns whether there is one, and it is the last.

        The next one is on its way when the store is no longer ready.
        """
        access = self.controller.access
        one, two = (Signal.like(given, name=f"write_{n}", reset_less=True) for n in (1, 2))
        has_one, has_two = Signal(), Signal()
        with m.If(done):
            m.d.sync += [has_one.eq(has_two), one.eq(two), has_two.eq(0)]
        with m.If(write):
            with m.If(has_one & ~done):
                m.d.sync += [has_two.eq(1), two.eq(given)]
            with m.Else():
                m.d.sync += [has_one.eq(1), one.eq(given)]
        m.d.comb += access.p.data.eq(one[1:].replicate(len(access.p.data) // HALF_WORD_BITS))
        return has_one, one[0]
