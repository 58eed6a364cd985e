"""The size of a machine: what the hardware is built from and what a device reports of itself."""

import struct
from dataclasses import dataclass, fields, replace

from hw.arch.packing import FEW, MANY, row_bytes

LARGEST = {
    **dict.fromkeys(("rows", "columns"), 1 << 12),
    "elements": 1 << 3,
    **dict.fromkeys(("weight_rows", "table_words", "embedding_words"), (1 << 29) - 1),
    **dict.fromkeys(("descriptors", "activations"), 1 << 20),
    **dict.fromkeys(("sums", "multiplicands", "vectors", "states"), 1 << 22),
    "tokens": (1 << 16) - 1,
    "contexts": 1 << 4,
    "trits_per_byte": MANY,
}
"""Largest value of each field: what a descriptor or the link can address at most, and beyond that
what no machine has. A device that reports more is damaged, and a host that believed it would ask
its own memory for as much."""

CONTEXT_BITS = (LARGEST["contexts"] - 1).bit_length()
"""Of a context's number; of bits that no context of a machine needs, synthesis leaves nothing."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Shape of one machine. The host lays out programs and images for it; ``hw`` builds it.

    Parameters
    ----------
    rows, columns : int
        Dot products that advance per cycle and terms of each; ``lanes = rows * columns``.
    elements : int
        Vector elements per cycle (a *beat*) of the vector unit.
    weight_rows : int
        Rows of ``lanes`` trits in the weight store.
    table_words : int
        Words of ``elements`` 16-bit entries in the table store.
    descriptors : int
        Rows of the program memory: steps, and constants of layers, four in a row.
    sums, multiplicands : int
        Elements in the two banks that receive the engine's sums.
    vectors, states, activations, tokens : int
        Elements of the vector memory, hidden states, activation codes, and token buffer entries.
    contexts : int
        Sequences that go through the program side by side: a power of two. What is said of the
        memories that change is of one of them, whose part of a memory has powers of two of words
        if there are several.
    embedding_words : int
        Words of ``elements`` 16-bit entries in a memory of embedding rows alone. None: they lie
        among the tables.
    trits_per_byte : int
        In the weight store: 4, or 5 as of `hw.arch.packing`.
    """

    rows: int
    columns: int
    elements: int
    weight_rows: int
    table_words: int
    descriptors: int
    sums: int
    multiplicands: int
    vectors: int
    states: int
    activations: int
    tokens: int
    embedding_words: int = 0
    trits_per_byte: int = FEW
    contexts: int = 1

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            none = value == 0 and field.name == "embedding_words"
            if not isinstance(value, int) or (value < 1 and not none):
                raise ValueError(f"{field.name} must be a positive integer, not {value!r}")
            if value > LARGEST[field.name]:
                raise ValueError(
                    f"{field.name} must be at most {LARGEST[field.name]}, not {value!r}"
                )
        if self.tokens < 2:
            raise ValueError("tokens must be at least 2, a prompt's and the next, not 1")
        for name in ("elements", "columns", "contexts"):
            value = getattr(self, name)
            if value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value!r}")
        if self.rows % self.elements or self.columns % self.elements:
            raise ValueError(
                f"rows and columns must be multiples of elements ({self.elements}), "
                f"not {self.rows!r} and {self.columns!r}"
            )
        _ = self.row_bytes
        for name in ("sums", "multiplicands", "vectors", "states"):
            value = getattr(self, name)
            if value % self.elements:
                raise ValueError(f"{name} must be a multiple of elements, not {value!r}")
        if self.activations % self.columns:
            raise ValueError(f"activations must be a multiple of columns, not {self.activations!r}")
        if self.contexts > 1:
            self._check_contexts()

    @property
    def _words(self) -> dict[str, int]:
        """Entries of a word of each memory that contexts have a part of."""
        banks = ("sums", "multiplicands", "vectors", "states")
        return dict.fromkeys(banks, self.elements) | {"activations": self.columns, "tokens": 1}

    def _check_contexts(self):
        """A context is in the upper bits of an address."""
        for name, size in self._words.items():
            value = getattr(self, name)
            if (value // size) & (value // size - 1):
                raise ValueError(
                    f"{name} must be a power of two, as there are {self.contexts} contexts, "
                    f"not {value!r}"
                )

    def with_contexts(self, contexts: int) -> "Geometry":
        """The same for so many, with memories that are no smaller."""
        if contexts == 1:
            return replace(self, contexts=1)
        sizes = {
            name: size << (getattr(self, name) // size - 1).bit_length()
            for name, size in self._words.items()
        }
        return replace(self, **sizes, contexts=contexts)

    @property
    def lanes(self) -> int:
        return self.rows * self.columns

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of the weight store."""
        return row_bytes(self.lanes, self.trits_per_byte)

    @property
    def drain_beats(self) -> int:
        """Cycles that one group of ``rows`` sums takes to leave the engine."""
        return self.rows // self.elements

    def utilization(self, trits: int, cycles: float) -> float:
        """Ternary weights that were taken in some cycles, to those that the lanes could take."""
        return trits / (self.lanes * cycles)

    def to_bytes(self) -> bytes:
        return struct.pack(f"<{len(fields(self))}I", *(getattr(self, f.name) for f in fields(self)))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Geometry":
        names = [f.name for f in fields(cls)]
        return cls(**dict(zip(names, struct.unpack(f"<{len(names)}I", data), strict=True)))
