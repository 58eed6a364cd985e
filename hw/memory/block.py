"""Stores in block RAM: weights, tables and the program, which the host loads."""

from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from hw.arch.arithmetic import TRIT_BITS
from hw.arch.memories import HALF_WORD_BITS
from hw.memory.ram import Ram
from hw.memory.signatures import (
    ADDRESS_STAGES,
    READ_LATENCY,
    HostSignature,
    ReadSignature,
    RowStreamSignature,
)
from hw.parameters import require_positive
from hw.pipeline import delay


def divide(m: Module, address, divisor: int):
    """Quotient and remainder of ``address`` by a constant, ``ADDRESS_STAGES - 1`` cycles later.

    Only wires and registers for a power of two; else a restoring division by its odd part.
    """
    low = (divisor & -divisor).bit_length() - 1
    odd = divisor >> low
    quotient, remainder, rest = Const(0, 0), Const(0, 0), address
    steps = len(address) - low if odd > 1 else 0
    stages = ADDRESS_STAGES - 1
    for stage in range(stages):
        for _ in range((steps + stage) // stages):
            trial = Cat(rest[-1], remainder)
            fits = trial >= odd
            remainder = Mux(fits, trial - odd, trial)[: (odd - 1).bit_length()]
            quotient = Cat(fits, quotient)
            rest = rest[:-1]
        held = []
        for value in (quotient, remainder, rest):
            register = Signal(len(value), reset_less=True)
            m.d.sync += register.eq(value)
            held.append(register)
        quotient, remainder, rest = held
    if odd == 1:
        return rest[low:], rest[:low]
    return quotient, Cat(rest, remainder)


class BlockStore(wiring.Component):
    """Block RAM of whole words for a unit, of half-words for the host.

    Half-word h of word w has the host's address ``w * half_words + h`` and is bits
    ``[16 * h +: 16]`` of the word. A host's read borrows the unit's address for one cycle.

    Parameters
    ----------
    latency : int
        Of the unit's reads: at least 2, the block RAM and the register behind it; each cycle more
        is a register before it. At most ``READ_LATENCY``.
    readback : bool
        Whether the host can read, too.

    Members
    -------
    read : ``In(ReadSignature(depth, shape))``
        A word per cycle.
    host : ``In(HostSignature(depth * half_words))``
        An access per cycle; reads have ``HOST_READ_LATENCY``.
    """

    def __init__(
        self,
        depth: int,
        half_words: int,
        shape,
        readback: bool = True,
        latency: int = READ_LATENCY,
    ):
        if not 2 <= latency <= READ_LATENCY:
            raise ValueError(f"latency must be from 2 to {READ_LATENCY}, not {latency!r}")
        self.latency = latency
        self.depth = depth
        self.half_words = half_words
        self.readback = readback
        super().__init__(
            {
                "read": In(ReadSignature(depth, shape)),
                "host": In(HostSignature(depth * half_words)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.ram = ram = Ram(self.depth, self.half_words, self.latency)

        # The host's access, ADDRESS_STAGES later: the last one of a write is in the memory.
        quotient, remainder = divide(m, self.host.address, self.half_words)
        early = ADDRESS_STAGES - 1
        write = delay(m, self.host.write, early, name="write", reset_less=False)
        m.d.comb += [
            ram.address.eq(quotient),
            ram.enables.eq(Cat(write & (remainder == h) for h in range(self.half_words))),
            ram.half_word.eq(delay(m, self.host.write_data, early, name="write_data")),
            ram.read.address.eq(self.read.address),
            self.read.data.eq(ram.read.data),
        ]
        if self.readback:
            late = READ_LATENCY - self.latency  # so that the host waits as long for every store
            stages = ADDRESS_STAGES + late
            read = delay(m, self.host.read, stages, name="read", reset_less=False)
            word = delay(m, quotient, 1 + late, name="read_word")
            with m.If(read):
                m.d.comb += ram.read.address.eq(word)
            half = delay(m, remainder, 1 + READ_LATENCY, name="half_read")
            with m.If(delay(m, read, self.latency, name="got", reset_less=False)):
                lane = ram.read.data.as_value().word_select(half, HALF_WORD_BITS)
                m.d.sync += self.host.read_data.eq(lane)
        return m


@dataclass(frozen=True, kw_only=True)
class WeightStoreParameters:
    """Rows of ``lanes`` trits in block RAM.

    Parameters
    ----------
    lanes : int
        Trits of a row; a multiple of 8.
    depth : int
        Rows.
    readback : bool
        Whether the host can read, too; a multiplexer over the row.
    latency : int
        Cycles from a row's transfer to its data; as for `BlockStore`.
    """

    lanes: int
    depth: int
    readback: bool = True
    latency: int = READ_LATENCY

    def __post_init__(self):
        require_positive(self)
        if self.lanes % 8:
            raise ValueError(f"lanes must be a multiple of 8, not {self.lanes!r}")

    @classmethod
    def from_geometry(cls, geometry, **options) -> "WeightStoreParameters":
        return cls(lanes=geometry.lanes, depth=geometry.weight_rows, **options)

    @property
    def half_words(self) -> int:
        """Half-words of a row."""
        return TRIT_BITS * self.lanes // HALF_WORD_BITS

    def create(self) -> "WeightStore":
        return WeightStore(self)


class WeightStore(wiring.Component):
    """Weight rows in block RAM, never late; lane l is bits ``[2 * l +: 2]``.

    Members
    -------
    rows : ``In(RowStreamSignature(depth, 2 * lanes))``
        A row per cycle, from the cycle after a seek on.
    host : ``In(HostSignature(depth * half_words))``
        As of `BlockStore`.
    """

    def __init__(self, parameters: WeightStoreParameters):
        self.parameters = p = parameters
        width = TRIT_BITS * p.lanes
        self.words = BlockStore(p.depth, p.half_words, unsigned(width), p.readback, p.latency)
        super().__init__(
            {
                "rows": In(RowStreamSignature(p.depth, width)),
                "host": In(HostSignature(p.depth * p.half_words)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.words = words = self.words
        wiring.connect(m, wiring.flipped(self.host), words.host)
        address = Signal.like(words.read.address)
        m.d.comb += [
            words.read.address.eq(address),
            self.rows.valid.eq(1),
            self.rows.data.eq(words.read.data),
        ]
        with m.If(self.rows.ready):
            m.d.sync += address.eq(address + 1)
        with m.If(self.rows.seek):
            m.d.sync += address.eq(self.rows.first)
        return m


@dataclass(frozen=True, kw_only=True)
class TableStoreParameters:
    """Words of ``elements`` 16-bit table entries in block RAM.

    Parameters
    ----------
    elements : int
        Entries of a word.
    depth : int
        Words.
    readback : bool
        Whether the host can read, too.
    """

    elements: int
    depth: int
    readback: bool = True

    def __post_init__(self):
        require_positive(self)

    @classmethod
    def from_geometry(cls, geometry, **options) -> "TableStoreParameters":
        return cls(elements=geometry.elements, depth=geometry.table_words, **options)

    @property
    def half_words(self) -> int:
        return self.elements

    def create(self) -> "TableStore":
        return TableStore(self)


class TableStore(BlockStore):
    """``BlockStore`` of signed table entries."""

    def __init__(self, parameters: TableStoreParameters):
        self.parameters = p = parameters
        shape = data.ArrayLayout(signed(HALF_WORD_BITS), p.elements)
        super().__init__(p.depth, p.half_words, shape, p.readback)
