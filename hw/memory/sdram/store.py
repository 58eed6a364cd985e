"""Weight rows in an SDRAM."""

from dataclasses import dataclass

from amaranth.hdl import C, Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.arch.arithmetic import TRIT_BITS
from hw.arch.memories import HALF_WORD_BITS
from hw.memory.sdram.ahead import RowsAhead
from hw.memory.sdram.controller import Controller, read_latency, seek_latency, share
from hw.memory.sdram.parts import Part, Timing
from hw.memory.sdram.pins import PinsSignature
from hw.memory.signatures import READ_LATENCY, HostSignature, RowStreamSignature
from hw.parameters import require_positive


@dataclass(frozen=True, kw_only=True)
class Sdram:
    """A kind of memory for the weights: an SDRAM beside the chip.

    Parameters
    ----------
    part : Part
    clock_hz : int
        Of the machine, and of the part.
    rows_ahead : int
        Rows that are read ahead and wait on the chip; a power of two.
    """

    part: Part
    clock_hz: int
    rows_ahead: int = 512

    @property
    def place(self) -> str:
        return f"SDRAM x{self.part.width}"

    def weight_store(self, geometry) -> "SdramStoreParameters":
        return SdramStoreParameters(
            part=self.part,
            clock_hz=self.clock_hz,
            lanes=geometry.lanes,
            depth=geometry.weight_rows,
            rows_ahead=self.rows_ahead,
        )


@dataclass(frozen=True, kw_only=True)
class SdramStoreParameters:
    """Rows of ``lanes`` trits in an SDRAM.

    Parameters
    ----------
    part : Part
    clock_hz : int
    lanes : int
        Trits of a row, which is a whole number of the part's words.
    depth : int
        Rows.
    rows_ahead : int
        Of `Sdram`.
    latency : int
        Cycles from a row's transfer to its data.
    """

    part: Part
    clock_hz: int
    lanes: int
    depth: int
    rows_ahead: int
    latency: int = READ_LATENCY

    def __post_init__(self):
        require_positive(self)
        trits = self.part.width // TRIT_BITS
        if self.lanes % trits:
            raise ValueError(
                f"lanes must be a multiple of {trits}, the trits of a word of {self.part.name}, "
                f"not {self.lanes!r}"
            )
        if self.depth * self.words > self.part.words:
            raise ValueError(
                f"depth must be at most {self.part.words // self.words}, the rows that "
                f"{self.part.name} holds, not {self.depth!r}"
            )
        if self.rows_ahead & (self.rows_ahead - 1):
            raise ValueError(f"rows_ahead must be a power of two, not {self.rows_ahead!r}")

    @property
    def timing(self) -> Timing:
        """The part's times in cycles."""
        return self.part.timing(self.clock_hz)

    @property
    def kept(self) -> int:
        """Rows for which there is block RAM."""
        return self.rows_ahead

    @property
    def words(self) -> int:
        """Words of the part in a row: the cycles that a row takes at least."""
        return TRIT_BITS * self.lanes // self.part.width

    @property
    def row_cycles(self) -> float:
        """Cycles for a row, on average: its words, and what opening rows and refreshes take."""
        return self.words / share(self.part, self.timing)

    @property
    def seek_cycles(self) -> int:
        """Cycles from a seek to where rows are not read ahead until there is a row.

        The address, a row of the part that is closed and one that is opened, and a row's words.
        """
        return 2 + seek_latency(self.timing) + read_latency(self.timing) + self.words

    @property
    def half_words(self) -> int:
        """Half-words of a row."""
        return TRIT_BITS * self.lanes // HALF_WORD_BITS

    def create(self) -> "SdramStore":
        return SdramStore(self)


class SdramStore(wiring.Component):
    """Weight rows in an SDRAM, one behind the other as the host has them.

    Rows are read ahead as of `RowsAhead`, and may be late: some ten cycles after a seek elsewhere,
    and then by what ``words`` cycles for each and the refreshes leave of the part's time. Every
    half-word of the host's is an access of its own.

    Members
    -------
    rows : ``In(RowStreamSignature(depth, 2 * lanes))``
    host : ``In(HostSignature(depth * half_words))``
    pins : ``Out(PinsSignature(part))``
    """

    def __init__(self, parameters: SdramStoreParameters):
        self.parameters = p = parameters
        self.controller = Controller(p.part, p.timing)
        self.ahead = RowsAhead(
            depth=p.depth,
            words=p.words,
            width=p.part.width,
            rows_ahead=p.rows_ahead,
            latency=p.latency,
        )
        super().__init__(
            {
                "rows": In(RowStreamSignature(p.depth, TRIT_BITS * p.lanes)),
                "host": In(HostSignature(p.depth * p.half_words)),
                "pins": Out(PinsSignature(p.part)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        m.submodules.controller = controller = self.controller
        m.submodules.ahead = ahead = self.ahead
        wiring.connect(m, controller.pins, wiring.flipped(self.pins))
        wiring.connect(m, ahead.rows, wiring.flipped(self.rows))

        # One address serves both: half-words for the host, and where it reads none, whole words.
        address = Signal(range(p.part.words * p.part.width // HALF_WORD_BITS))
        halves = exact_log2(p.part.width // HALF_WORD_BITS)
        half, word = address[:halves], address[halves:]
        access, step = controller.access, Signal()
        m.d.comb += [
            Cat(access.p.column, access.p.bank, access.p.row).eq(word),
            step.eq(access.valid & access.ready),
            ahead.arrived.eq(controller.answer),
            ahead.word.eq(controller.word),
            ahead.forget.eq(self.host.start),
            ahead.asked.eq(step & ahead.ask),
            controller.abandon.eq(ahead.abandon),
        ]
        with m.If(ahead.ask & step):
            m.d.sync += word.eq(word + 1)
        with m.If(ahead.begin):
            m.d.sync += word.eq(ahead.row * p.words)
        m.d.comb += access.valid.eq(ahead.ask)
        self._host(m, address, half)
        return m

    def _host(self, m: Module, address, half):
        """Accesses of the host, which asks for nothing while rows are read."""
        host, controller = self.host, self.controller
        access = controller.access
        # A write, and the next one, which is on its way when the store is no longer ready.
        given = Cat(host.last, host.write_data)
        one, two = (Signal.like(given, name=f"write_{n}", reset_less=True) for n in (1, 2))
        has_one, has_two, done = Signal(), Signal(), Signal()
        with m.If(done):
            m.d.sync += [has_one.eq(has_two), one.eq(two), has_two.eq(0)]
        with m.If(host.write):
            with m.If(has_one & ~done):
                m.d.sync += [has_two.eq(1), two.eq(given)]
            with m.Else():
                m.d.sync += [has_one.eq(1), one.eq(given)]
        m.d.comb += [
            access.p.data.eq(one[1:].replicate(1 << len(half))),
            access.p.mask.eq(~(C(0b11) << Cat(C(0, 1), half))),
        ]
        found = Signal(HALF_WORD_BITS, reset_less=True)
        m.d.sync += host.read_valid.eq(host.read)
        m.d.comb += host.read_data.eq(found)
        # Nothing is known of what follows a start, so that a word is read first.
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += host.ready.eq(1)
                with m.If(host.start):
                    m.d.sync += address.eq(host.address)
                    m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += access.valid.eq(1)
                with m.If(access.ready):
                    m.next = "WAIT"
            with m.State("WAIT"):
                m.d.sync += found.eq(controller.word.word_select(half, HALF_WORD_BITS))
                with m.If(controller.answer):
                    m.next = "READY"
            with m.State("READY"):
                m.d.comb += host.ready.eq(~has_one)
                with m.If(host.read):
                    m.d.sync += address.eq(address + 1)
                    m.next = "ASK"
                with m.If(has_one):
                    m.d.comb += [access.valid.eq(1), access.p.write.eq(1)]
                    with m.If(access.ready):
                        m.d.comb += done.eq(1)
                        m.d.sync += address.eq(address + 1)
                with m.If((host.read & host.last) | (done & one[0])):
                    m.next = "IDLE"
