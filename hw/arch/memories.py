"""The memories of a machine, one row each: all that knows of a memory reads its row.

The hardware is built from the rows, the link refuses by them, the host lays out what it writes by
them, estimates count them, and ``docs/machine.md`` shows them.
"""

import enum
from dataclasses import dataclass, replace
from functools import partial

from hw.arch.arithmetic import (
    BASE_BITS,
    CODE_BITS,
    DELTA_BITS,
    HIDDEN_BITS,
    RESIDUAL_BITS,
    SUM_BITS,
    TABLE_SEGMENTS,
)
from hw.arch.frames import MAX_PAYLOAD
from hw.arch.geometry import Geometry
from hw.arch.program import DESCRIPTOR_BITS, REGISTERS
from hw.arch.protocol import ALL_FEATURES, NO_FEATURES, Feature, MemorySpace, Totals
from weights.fixed import EXPONENT_BITS, MANTISSA_BITS

HALF_WORD_BITS = 16
"""The host's unit of access, and the width of a table entry."""


class Kind(enum.Enum):
    """How a memory is made."""

    STORE = enum.auto()  # half-words for the host that fills it, words for the unit that reads it
    BANK = enum.auto()  # beats, which one unit writes and one reads
    PART = enum.auto()  # inside the part of the machine that it serves
    FLIP_FLOPS = enum.auto()  # no memory at all, but read like one


class HostAccess(enum.Flag):
    """What the host may do with a memory."""

    NONE = 0
    READ = enum.auto()  # while no run is active
    ALWAYS = enum.auto()  # read it during a run, too
    WRITE = enum.auto()  # while no run is active


@dataclass(frozen=True, kw_only=True)
class Memory:
    """One memory, or several of one shape.

    Parameters
    ----------
    kind : Kind
    words : int
        What an address counts.
    item : int
        Bits of each of the numbers that a word consists of.
    items : int
        Numbers of a word.
    parts : bool
        Whether each item can be written alone.
    copies : int
        How many there are: one per reader of the same words, or per element of a beat.
    space : MemorySpace or None
        What the host calls it; None for one that it does not see.
    access : HostAccess
    shown : int or None
        Bits of an item for the host, sign-extended; those that it has unless given.
    feature : Feature
        Without which the host does not see it.
    contexts : int
        Sequences that have a part of the words each, one after the other.
    """

    kind: Kind
    words: int
    item: int
    items: int = 1
    parts: bool = False
    copies: int = 1
    space: MemorySpace | None = None
    access: HostAccess = HostAccess.NONE
    shown: int | None = None
    feature: Feature = NO_FEATURES
    contexts: int = 1

    @property
    def own(self) -> int:
        """Words of a context."""
        return self.words // self.contexts

    @property
    def bits(self) -> int:
        """Bits of a word."""
        return self.item * self.items

    @property
    def half_words(self) -> int:
        """Half-words of a word for the host; writes of whole words need no merging."""
        return (self.shown or self.item) * self.items // HALF_WORD_BITS

    @property
    def granule(self) -> int:
        """Half-words of an item: what the host writes begins and ends with whole ones."""
        return max(1, (self.shown or self.item) // HALF_WORD_BITS)

    @property
    def size(self) -> int:
        """Half-words for the host."""
        return self.words * self.half_words


def id_bytes(contexts: int) -> int:
    """Of the link's memory of ids: eight for each context.

    At least 16: of fewer words synthesis makes flip-flops.
    """
    return max(16, 8 * contexts)


def memories(
    geometry: Geometry, features: Feature = ALL_FEATURES, max_payload: int = MAX_PAYLOAD
) -> dict[str, Memory]:
    """The memories of a machine by name, those that the host sees in the order of their spaces.

    What is there for the host alone is not there without its feature. ``max_payload`` is that of
    a frame, whose buffer also has what the device says of itself.
    """
    g, v, n = geometry, geometry.elements, geometry.contexts
    counted = Feature.COUNTERS in features
    read, always = HostAccess.READ, HostAccess.READ | HostAccess.ALWAYS
    store = partial(Memory, kind=Kind.STORE, item=HALF_WORD_BITS, access=read | HostAccess.WRITE)
    bank = partial(Memory, kind=Kind.BANK, contexts=n)
    part = partial(Memory, kind=Kind.PART)
    space, row = MemorySpace, 8 * g.row_bytes // HALF_WORD_BITS
    rows = {
        "weights": store(space=space.WEIGHTS, words=g.weight_rows, items=row),
        "tables": store(space=space.TABLES, words=g.table_words, items=v),
        "program": store(
            space=space.PROGRAM, words=g.descriptors, items=DESCRIPTOR_BITS // HALF_WORD_BITS
        ),
        "tokens": part(
            space=space.TOKENS,
            access=always | HostAccess.WRITE,
            words=n * g.tokens,
            contexts=n,
            item=HALF_WORD_BITS,
            copies=2,
        ),
        "sums": bank(
            space=space.SUMS,
            access=read,
            words=n * g.sums // v,
            item=SUM_BITS,
            items=v,
            shown=32,
            feature=Feature.RESULTS,
        ),
        "registers": part(
            space=space.REGISTERS,
            access=read,
            words=n * REGISTERS,
            contexts=n,
            item=MANTISSA_BITS + EXPONENT_BITS,
            shown=32,
            feature=Feature.RESULTS,
        ),
        "counters": part(
            space=space.COUNTERS, access=read, words=g.descriptors if counted else 0, item=32
        ),
        "totals": Memory(
            kind=Kind.FLIP_FLOPS,
            space=space.TOTALS,
            access=always,
            words=int(counted),
            item=8 * Totals.LAYOUT.size,
        ),
        # What the host writes of a beat are single states.
        "states": bank(
            space=space.STATES,
            access=read | HostAccess.WRITE,
            words=n * g.states // v,
            item=HIDDEN_BITS,
            items=v,
            shown=32,
            parts=True,
            feature=Feature.STATES,
        ),
        "embedding": store(space=space.EMBEDDING, words=g.embedding_words, items=v),
        "multiplicands": bank(words=n * g.multiplicands // v, item=SUM_BITS, items=v),
        "vectors": bank(words=n * g.vectors // v, item=RESIDUAL_BITS, items=v),
        # A beat of codes is the part of a row that is written at once.
        "activations": bank(
            words=n * g.activations // g.columns,
            item=CODE_BITS * v,
            items=g.columns // v,
            parts=True,
        ),
        "frame": part(words=2 * max_payload, item=8),
        "ids": part(words=id_bytes(n), item=8),
        "functions": part(words=2 * TABLE_SEGMENTS, item=BASE_BITS + DELTA_BITS, copies=v),
    }
    return {
        name: row if row.feature in features else replace(row, space=None, access=HostAccess.NONE)
        for name, row in rows.items()
        if row.words
    }


def spaces(geometry: Geometry, features: Feature = ALL_FEATURES) -> dict[MemorySpace, Memory]:
    """The memories that the host sees."""
    return {m.space: m for m in memories(geometry, features).values() if m.space is not None}
