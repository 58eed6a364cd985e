"""A weight store that is late at random: what an external memory may do to the engine."""

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import flipped

from hw.arch.geometry import Geometry
from hw.memory.block import WeightStoreParameters
from hw.pipeline import delay
from hw.units.noise import WORD_BITS, Leap
from weights.noise import NOISE_STEP


@dataclass(frozen=True, kw_only=True)
class LateRows:
    """A kind of memory for the weights: block RAM that keeps its reader waiting.

    Parameters
    ----------
    chance : int
        Of 256, that there is no row in a cycle.
    longest : int
        Cycles that a row is late at most.
    latency : int
        From a row's transfer to its data.
    seed : int
        Of its lateness; not 0.
    """

    chance: int
    longest: int
    latency: int = 3
    seed: int = 1

    def weight_store(self, geometry: Geometry) -> "LateStoreParameters":
        return LateStoreParameters(memory=self, rows=WeightStoreParameters.from_geometry(geometry))


@dataclass(frozen=True, kw_only=True)
class LateStoreParameters:
    memory: LateRows
    rows: WeightStoreParameters

    # Nobody knows when they come.
    row_cycles, seek_cycles = 0.0, 0

    @property
    def latency(self) -> int:
        return self.memory.latency

    @property
    def kept(self) -> int:
        return self.rows.kept

    @property
    def kept_width(self) -> int:
        return self.rows.kept_width

    @property
    def decoded(self) -> int:
        return self.rows.decoded

    def create(self) -> "LateStore":
        return LateStore(self)


class LateStore(wiring.Component):
    """Rows of a store in block RAM, held back at random; nonsense wherever there is no row."""

    def __init__(self, parameters: LateStoreParameters):
        self.parameters = parameters
        self.store = parameters.rows.create()
        super().__init__(self.store.signature)

    def elaborate(self, platform):
        m = Module()
        memory = self.parameters.memory
        m.submodules.store = store = self.store
        wiring.connect(m, flipped(self.host), store.host)

        state = Signal(WORD_BITS, init=memory.seed)
        refused = Signal(range(memory.longest + 1))
        late, taken = Signal(), Signal()
        m.d.sync += state.eq(Cat(Leap.step(NOISE_STEP).expressions(state)))
        m.d.comb += [
            late.eq((state[:8] < memory.chance) & (refused != memory.longest)),
            store.rows.seek.eq(self.rows.seek),
            store.rows.first.eq(self.rows.first),
            store.rows.ready.eq(self.rows.ready & ~late),
            self.rows.valid.eq(store.rows.valid & ~late),
            taken.eq(self.rows.ready & self.rows.valid),
        ]
        with m.If(self.rows.ready):
            m.d.sync += refused.eq(Mux(late, refused + 1, 0))
        more = memory.latency - self.parameters.rows.latency
        data = delay(m, store.rows.data, more, name="data")
        there = delay(m, taken, memory.latency, name="there")
        m.d.comb += self.rows.data.eq(Mux(there, data, ~data))
        return m
