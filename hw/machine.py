"""A machine: what is built, timed and estimated."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from hw.arch.geometry import Geometry
from hw.memory.block import TableStoreParameters, WeightStoreParameters
from hw.units.engine import EngineParameters
from hw.units.normaliser import NormaliserParameters
from hw.units.scalar import ScalarParameters
from hw.units.statistics import STATISTIC_BITS
from hw.units.vector import VectorParameters


@dataclass(frozen=True, kw_only=True)
class BlockRam:
    """Weights in block RAM, on the chip and never late.

    Parameters
    ----------
    latency : int
        ``read_latency`` of `WeightStoreParameters`.
    """

    latency: int = WeightStoreParameters.read_latency

    place: ClassVar[str] = "block RAM"

    def weight_store(self, geometry: Geometry) -> WeightStoreParameters:
        return WeightStoreParameters.from_geometry(geometry, read_latency=self.latency)


class RowStoreParameters(Protocol):
    """What a machine knows of the store behind its engine."""

    @property
    def latency(self) -> int:
        """Cycles from a row's transfer to its data."""

    @property
    def kept(self) -> int:
        """Rows for which there is block RAM."""

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


@dataclass(frozen=True, kw_only=True)
class Stores:
    """What holds the memories that the host loads."""

    weights: RowMemory = BlockRam()


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A geometry, and how its units and stores are made.

    The geometry alone says which programs a machine runs; everything else, how fast and how large
    it is. Properties are the parameters of the units and stores; what they refuse is refused here.

    Parameters
    ----------
    geometry : Geometry
    fanout : int
        Of `EngineParameters`.
    digits_per_cycle : int
        Of `ScalarParameters`.
    stores : Stores
    """

    geometry: Geometry
    fanout: int = EngineParameters.fanout
    digits_per_cycle: int = ScalarParameters.digits_per_cycle
    stores: Stores = Stores()

    def __post_init__(self):
        for part in ("engine", "vector", "scalar", "normaliser", "weights", "tables"):
            getattr(self, part)

    @property
    def engine(self) -> EngineParameters:
        return EngineParameters.from_geometry(
            self.geometry, fanout=self.fanout, row_latency=self.weights.latency
        )

    @property
    def vector(self) -> VectorParameters:
        return VectorParameters.from_geometry(self.geometry)

    @property
    def scalar(self) -> ScalarParameters:
        return ScalarParameters(digits_per_cycle=self.digits_per_cycle)

    @property
    def normaliser(self) -> NormaliserParameters:
        return NormaliserParameters(width=STATISTIC_BITS)

    @property
    def weights(self) -> RowStoreParameters:
        return self.stores.weights.weight_store(self.geometry)

    @property
    def tables(self) -> TableStoreParameters:
        return TableStoreParameters.from_geometry(self.geometry)
