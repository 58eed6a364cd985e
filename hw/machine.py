"""A machine: what is built, timed and estimated."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

from hw.arch.frames import MAX_PAYLOAD
from hw.arch.geometry import Geometry
from hw.arch.memories import Memory, memories
from hw.arch.protocol import ALL_FEATURES, Feature
from hw.control.sequencer import FetchParameters
from hw.memory.block import TableStoreParameters, WeightStoreParameters
from hw.memory.signatures import READ_LATENCY
from hw.units.embedding import EmbeddingParameters
from hw.units.engine import EngineParameters
from hw.units.normaliser import NormaliserParameters
from hw.units.scalar import ScalarParameters
from hw.units.vector import VectorParameters


@dataclass(frozen=True, kw_only=True)
class BlockRam:
    """Weights in block RAM, on the chip and never late.

    Parameters
    ----------
    latency : int
        ``read_latency`` of `WeightStoreParameters`.
    narrow : bool
        Of `WeightStoreParameters`.
    """

    latency: int = WeightStoreParameters.read_latency
    narrow: bool = False

    place: ClassVar[str] = "block RAM"

    def weight_store(self, geometry: Geometry) -> WeightStoreParameters:
        return WeightStoreParameters.from_geometry(
            geometry, read_latency=self.latency, narrow=self.narrow
        )


class RowStoreParameters(Protocol):
    """What a machine knows of the store behind its engine."""

    @property
    def latency(self) -> int:
        """Cycles from a row's transfer to its data."""

    @property
    def kept(self) -> int:
        """Rows for which there is block RAM."""

    @property
    def kept_width(self) -> int:
        """Bits of each of them."""

    @property
    def decoded(self) -> int:
        """Bytes of five trits that are decoded in a cycle."""

    @property
    def row_cycles(self) -> float:
        """Cycles for a row, on average, from which on its reader waits; 0 if it never does."""

    @property
    def seek_cycles(self) -> int:
        """Cycles from a seek to where rows are not read ahead until there is a row."""

    def create(self):
        """A component with ``rows``, an ``In(RowStreamSignature)``, and ``host``.

        If its memory lies beside the chip, it also has ``pins``, an ``Out(PinsSignature)``.
        """


class RowMemory(Protocol):
    """A kind of memory that can hold the weights."""

    @property
    def place(self) -> str:
        """What people call it."""

    def weight_store(self, geometry: Geometry) -> RowStoreParameters:
        """The store of all weight rows of a geometry."""


class EmbeddingStoreParameters(Protocol):
    """What a machine knows of the store of its embedding rows."""

    @property
    def fetch_latency(self) -> int:
        """Most cycles for words, beside those of their pace."""

    @property
    def fetch_pace(self) -> int:
        """Cycles for a word; a power of two."""

    def create(self):
        """A component with ``fetch``, an ``In(FetchSignature)``, ``embedding_host``, ``pins``."""


class EmbeddingMemory(Protocol):
    """A kind of memory that can hold the embedding rows."""

    @property
    def place(self) -> str:
        """What people call it."""

    def embedding_store(self, geometry: Geometry) -> EmbeddingStoreParameters:
        """The store of all embedding rows of a geometry."""


@dataclass(frozen=True, kw_only=True)
class Stores:
    """What holds the memories that the host loads.

    Parameters
    ----------
    weights : RowMemory
    embedding : EmbeddingMemory or None
        None if embedding rows lie among the tables. If it is that of the weights, it has a store
        for both.
    narrow : bool
        Whether tables and program lie in a `NarrowStore` each.
    """

    weights: RowMemory = BlockRam()
    embedding: EmbeddingMemory | None = None
    narrow: bool = False


PAYLOADS = (128, 256, 512, MAX_PAYLOAD)
"""Powers of two that an identity fits, and a host need not take more for."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A geometry, and how its units and stores are made.

    The geometry alone says which programs a machine runs; everything else, how fast and how large
    it is. Properties are the parameters of the units and stores; what they refuse is refused here.

    Parameters
    ----------
    geometry : Geometry
    fanout, chain : int
        Of `EngineParameters`.
    digits_per_cycle : int
        Of `ScalarParameters`.
    shared : bool
        Of `EngineParameters`.
    queued : int
        Steps that wait before each unit at most, so that another unit can be given the next ones:
        of several contexts. 0: a step is issued when its unit takes it.
    stores : Stores
    features : Feature
        What the host can do beside running a model; a small machine goes without.
    max_payload : int
        Bytes that a frame carries at most, a power of two; half of its buffer has the identity.
    compact : bool
        Whether it is as small as it can be rather than as fast: for a slow clock, where no register
        is needed for its sake, and one that takes a logic cell of its own costs as much as a LUT.
    """

    geometry: Geometry
    fanout: int = EngineParameters.fanout
    chain: int = EngineParameters.chain
    digits_per_cycle: int = ScalarParameters.digits_per_cycle
    shared: bool = False
    queued: int = 0
    stores: Stores = Stores()
    features: Feature = ALL_FEATURES
    max_payload: int = MAX_PAYLOAD
    compact: bool = False

    def __post_init__(self):
        if (self.stores.embedding is None) == (self.geometry.embedding_words > 0):
            raise ValueError(
                "stores must have a memory for the embedding where there are embedding_words, "
                f"not {self.stores.embedding!r} for {self.geometry.embedding_words!r} of them"
            )
        if self.max_payload not in PAYLOADS:
            raise ValueError(
                f"max_payload must be one of {', '.join(map(str, PAYLOADS))}, "
                f"not {self.max_payload!r}"
            )
        if self.compact and self.queued:
            raise ValueError(
                f"queued must be 0 in a compact machine, not {self.queued!r}: its vector unit "
                "takes a step when that is done"
            )
        if self.geometry.contexts > 1 and not (self.shared or self.queued):
            raise ValueError(
                f"{self.geometry.contexts} contexts must have shared rows or queued steps, or they "
                "take no less time side by side than one after the other"
            )
        for part in ("engine", "vector", "scalar", "normaliser", "weights", "embedding", "tables"):
            getattr(self, part)

    @property
    def memories(self) -> dict[str, Memory]:
        return memories(self.geometry, self.features, self.max_payload)

    @property
    def narrow(self) -> frozenset[str]:
        """The memories that lie in a `NarrowStore` each."""
        rest = ("tables", "program") if self.stores.narrow else ()
        weights = ("weights",) if getattr(self.weights, "narrow", False) else ()
        return frozenset((*weights, *rest))

    @property
    def bank_latency(self) -> int:
        """Of all that units read but weights: that of block RAM alone, where it is quick enough,
        or that of a store with a register behind it."""
        if self.compact:
            return 1 if self.stores.narrow else 2
        return READ_LATENCY

    @property
    def fetch(self) -> FetchParameters:
        if not self.compact:
            return FetchParameters()
        return FetchParameters(latency=self.bank_latency, compact=True)

    @property
    def engine(self) -> EngineParameters:
        return EngineParameters.from_geometry(
            self.geometry,
            read_latency=self.bank_latency,
            fanout=self.fanout,
            chain=self.chain,
            shared=self.shared,
            row_latency=self.weights.latency,
            compact=self.compact,
        )

    @property
    def vector(self) -> VectorParameters:
        store, embedding = self.embedding, None
        if store is not None:
            embedding = EmbeddingParameters(
                words=self.geometry.embedding_words,
                latency=store.fetch_latency,
                pace=store.fetch_pace,
            )
        vector = VectorParameters.from_geometry(
            self.geometry,
            read_latency=self.bank_latency,
            embedding=embedding,
            compact=self.compact,
        )
        if not self.compact:
            return vector
        return replace(vector, statistic_cycles=self._normaliser(vector).cycles)

    @property
    def scalar(self) -> ScalarParameters:
        return ScalarParameters(digits_per_cycle=self.digits_per_cycle, compact=self.compact)

    @property
    def normaliser(self) -> NormaliserParameters:
        return self._normaliser(self.vector)

    def _normaliser(self, vector: VectorParameters) -> NormaliserParameters:
        return NormaliserParameters(width=vector.statistic_bits, compact=self.compact)

    @property
    def weights(self) -> RowStoreParameters:
        return self.stores.weights.weight_store(self.geometry)

    @property
    def embedding(self) -> EmbeddingStoreParameters | None:
        """That of the weights, if the two lie in one memory."""
        memory = self.stores.embedding
        if memory is None:
            return None
        if memory != self.stores.weights:
            return memory.embedding_store(self.geometry)
        both: Any = self.weights
        return both

    @property
    def tables(self) -> TableStoreParameters:
        return TableStoreParameters.from_geometry(
            self.geometry, narrow=self.stores.narrow, read_latency=self.bank_latency
        )
