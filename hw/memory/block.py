"""Stores in block RAM: weights, tables and the program, which the host loads."""

from dataclasses import dataclass

from amaranth.hdl import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from hw.arch.arithmetic import TRIT_BITS
from hw.arch.memories import HALF_WORD_BITS
from hw.arch.packing import FEW, MANY, row_bytes
from hw.memory.dense import decode, decoding
from hw.memory.loader import Loader
from hw.memory.narrow import NarrowStore
from hw.memory.ram import Ram
from hw.memory.signatures import (
    READ_LATENCY,
    HostSignature,
    ReadSignature,
    RowStreamSignature,
    WriteSignature,
)
from hw.parameters import require_positive


class BlockStore(wiring.Component):
    """Block RAM of whole words for a unit, of half-words for the host, by a `Loader`.

    Parameters
    ----------
    depth : int
    half_words : int
        Half-words of a word.
    shape
        Of a word, as the unit sees it.
    latency : int
        Of the unit's reads, as of `Ram`.
    writer : WriteSignature or None
        Of a unit that writes, too, while the host does nothing.
    narrow : bool
        Whether it is a `NarrowStore`, which no unit writes.

    Members
    -------
    read : ``In(ReadSignature(depth, shape))``
        A word per cycle.
    write : ``In(writer)``, if there is one
    host : ``In(HostSignature(depth * half_words))``
    """

    def __init__(
        self,
        depth: int,
        half_words: int,
        shape,
        *,
        latency: int = READ_LATENCY,
        writer: WriteSignature | None = None,
        narrow: bool = False,
    ):
        if narrow and writer is not None:
            raise ValueError("a narrow store must be one that no unit writes")
        self.latency = latency
        self.depth = depth
        self.half_words = half_words
        self._narrow = NarrowStore(depth, half_words, latency) if narrow else None
        self._ram = None if narrow else Ram(depth, HALF_WORD_BITS * half_words, latency)
        super().__init__(
            {
                "read": In(ReadSignature(depth, shape)),
                "host": In(HostSignature(depth * half_words)),
                **({"write": In(writer)} if writer else {}),
            }
        )

    def elaborate(self, platform):
        m = Module()
        if self._narrow is not None:
            m.submodules.narrow = narrow = self._narrow
            wiring.connect(m, wiring.flipped(self.host), narrow.host)
            m.d.comb += [
                narrow.read.address.eq(self.read.address),
                self.read.data.eq(narrow.read.data),
            ]
            return m
        m.submodules.ram = ram = self._ram
        m.submodules.loader = loader = Loader(self.depth, self.half_words, self.latency)
        wiring.connect(m, wiring.flipped(self.host), loader.host)
        m.d.comb += [
            ram.read.address.eq(Mux(loader.active, loader.address, self.read.address)),
            self.read.data.eq(ram.read.data),
            loader.word.eq(ram.read.data),
            ram.address.eq(loader.address),
            ram.write.eq(loader.write),
            ram.data.eq(loader.data),
        ]
        if hasattr(self, "write"):
            late = Signal()  # data come a cycle after their address
            data = Signal.like(ram.data, name="written", reset_less=True)
            m.d.sync += [late.eq(~loader.active), data.eq(self.write.data)]
            with m.If(~loader.active):
                m.d.comb += [
                    ram.address.eq(self.write.address),
                    ram.write.eq(self.write.enable),
                ]
            with m.If(late):
                m.d.comb += ram.data.eq(data)
        return m


@dataclass(frozen=True, kw_only=True)
class WeightStoreParameters:
    """Rows of ``lanes`` trits in block RAM.

    Parameters
    ----------
    lanes : int
        Trits of a row, which is a whole number of half-words.
    depth : int
        Rows.
    trits_per_byte : int
        As of `Geometry`.
    read_latency : int
        Of the block RAM; as for `BlockStore`.
    narrow : bool
        As of `BlockStore`.
    """

    lanes: int
    depth: int
    trits_per_byte: int = FEW
    read_latency: int = READ_LATENCY
    narrow: bool = False

    def __post_init__(self):
        require_positive(self)
        row_bytes(self.lanes, self.trits_per_byte)

    @classmethod
    def from_geometry(cls, geometry, **options) -> "WeightStoreParameters":
        return cls(
            lanes=geometry.lanes,
            depth=geometry.weight_rows,
            trits_per_byte=geometry.trits_per_byte,
            **options,
        )

    @property
    def latency(self) -> int:
        """Cycles from a row's transfer to its data."""
        return self.read_latency + decoding(self.trits_per_byte)

    @property
    def kept(self) -> int:
        """Rows for which there is block RAM."""
        return self.depth

    @property
    def kept_width(self) -> int:
        """Bits of each of them."""
        return HALF_WORD_BITS * self.half_words

    @property
    def decoded(self) -> int:
        """Bytes of five trits that are decoded in a cycle."""
        return self.kept_width // 8 if self.trits_per_byte == MANY else 0

    row_cycles, seek_cycles = 0.0, 0

    @property
    def half_words(self) -> int:
        """Half-words of a row."""
        return 8 * row_bytes(self.lanes, self.trits_per_byte) // HALF_WORD_BITS

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
        width = HALF_WORD_BITS * p.half_words
        self.words = BlockStore(
            p.depth, p.half_words, unsigned(width), latency=p.read_latency, narrow=p.narrow
        )
        super().__init__(
            {
                "rows": In(RowStreamSignature(p.depth, TRIT_BITS * p.lanes)),
                "host": In(HostSignature(p.depth * p.half_words)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.words = words = self.words
        wiring.connect(m, wiring.flipped(self.host), words.host)
        address = Signal.like(words.read.address)
        row = decode(m, words.read.data, self.parameters.trits_per_byte, name="row")
        m.d.comb += [
            words.read.address.eq(address),
            self.rows.valid.eq(1),
            self.rows.data.eq(row),
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
    written : bool
        Whether a unit writes them, too.
    read_latency : int
        As for `BlockStore`.
    narrow : bool
        As of `BlockStore`.
    """

    elements: int
    depth: int
    written: bool = False
    read_latency: int = READ_LATENCY
    narrow: bool = False

    def __post_init__(self):
        require_positive(self)

    @classmethod
    def from_geometry(cls, geometry, **options) -> "TableStoreParameters":
        return cls(
            elements=geometry.elements,
            depth=geometry.table_words,
            written=geometry.embedding_words > 0,
            **options,
        )

    @property
    def half_words(self) -> int:
        return self.elements

    def create(self) -> "TableStore":
        return TableStore(self)


class TableStore(BlockStore):
    """``BlockStore`` of signed table entries, with ``write`` if it is ``written``."""

    def __init__(self, parameters: TableStoreParameters):
        self.parameters = p = parameters
        entry = signed(HALF_WORD_BITS)
        shape = data.ArrayLayout(entry, p.elements)
        writer = WriteSignature(p.depth, entry, p.elements) if p.written else None
        super().__init__(
            p.depth, p.half_words, shape, latency=p.read_latency, writer=writer, narrow=p.narrow
        )
