"""The whole machine behind two byte streams: what a board, and the simulated device, gets."""

from dataclasses import dataclass

from amaranth.hdl import Module, Mux, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect
from amaranth.utils import exact_log2

from host.descriptor import WORDS
from host.geometry import Geometry
from host.protocol import MemorySpace
from hw.arithmetic import CODE_BITS, HIDDEN_BITS, RESIDUAL_BITS, SUM_BITS
from hw.control.registers import RegisterFile
from hw.control.sequencer import Sequencer
from hw.links.link import Link
from hw.memory.bank import VectorBankParameters
from hw.memory.block import BlockStore, TableStoreParameters, WeightStoreParameters
from hw.memory.signatures import ADDRESS_STAGES, HALF_WORD_BITS, HOST_READ_LATENCY, READ_LATENCY
from hw.pipeline import delay
from hw.units.engine import EngineParameters
from hw.units.normaliser import NormaliserParameters
from hw.units.scalar import ScalarParameters
from hw.units.statistics import STATISTIC_BITS
from hw.units.vector import VectorParameters
from hw.units.vector_unit import VectorUnit

STORES = (MemorySpace.WEIGHTS, MemorySpace.TABLES, MemorySpace.PROGRAM)
"""Spaces that are stores of whole words with a host side of their own."""


@dataclass(frozen=True, kw_only=True)
class Units:
    """Parameters of the units that a machine of one geometry has."""

    engine: EngineParameters
    vector: VectorParameters
    scalar: ScalarParameters
    normaliser: NormaliserParameters

    @classmethod
    def from_geometry(cls, geometry: Geometry) -> "Units":
        return cls(
            engine=EngineParameters.from_geometry(geometry),
            vector=VectorParameters.from_geometry(geometry),
            scalar=ScalarParameters(),
            normaliser=NormaliserParameters(width=STATISTIC_BITS),
        )


class Core(wiring.Component):
    """Link, sequencer, units and memories of one geometry.

    Parameters
    ----------
    geometry : Geometry
    board_name : str
    clock_hz : int
    digest : bytes
        Names the build; 16 bytes. All four are what the device answers to IDENTIFY.

    Members
    -------
    rx : In(stream.Signature(8))
    tx : Out(stream.Signature(8))
        Frames of ``host.protocol``.
    busy : Out(1)
        A run is under way.
    """

    def __init__(self, *, geometry: Geometry, board_name: str, clock_hz: int, digest: bytes):
        self.geometry = geometry
        self._identity = {"board": board_name, "clock_hz": clock_hz, "digest": digest}
        super().__init__(
            {"rx": In(stream.Signature(8)), "tx": Out(stream.Signature(8)), "busy": Out(1)}
        )

    def _bank(self, width: int, elements: int, name: str) -> VectorBankParameters:
        return VectorBankParameters(
            elements=elements, width=width, depth=getattr(self.geometry, name) // elements
        )

    def elaborate(self, platform):
        m = Module()
        g = self.geometry

        m.submodules.link = link = Link(geometry=g, **self._identity)
        connect(m, wiring.flipped(self.rx), link.rx)
        connect(m, link.tx, wiring.flipped(self.tx))

        def unit(name, component):
            """A unit that the host's reset puts back into its first state."""
            m.submodules[name] = ResetInserter(link.control.reset)(component)
            return component

        sequencer = unit("sequencer", Sequencer(g))
        registers = unit("registers", RegisterFile())
        units = Units.from_geometry(g)
        engine = unit("engine", units.engine.create())
        vector = unit("vector", VectorUnit(units.vector))
        scalar = unit("scalar", units.scalar.create())
        normaliser = unit("normaliser", units.normaliser.create())

        m.submodules.weights = weights = WeightStoreParameters.from_geometry(g).create()
        m.submodules.tables = tables = TableStoreParameters.from_geometry(g).create()
        m.submodules.program = program = BlockStore(WORDS * g.descriptors, 2, 32)
        m.submodules.sums = sums = self._bank(SUM_BITS, g.elements, "sums").create()
        m.submodules.multiplicands = multiplicands = self._bank(
            SUM_BITS, g.elements, "multiplicands"
        ).create()
        m.submodules.vectors = vectors = self._bank(RESIDUAL_BITS, g.elements, "vectors").create()
        m.submodules.states = states = self._bank(HIDDEN_BITS, g.elements, "states").create()
        # A beat of codes is the part of a row that is written at once.
        m.submodules.activations = activations = VectorBankParameters(
            elements=g.columns // g.elements,
            width=CODE_BITS * g.elements,
            depth=g.activations // g.columns,
            element_enable=True,
        ).create()
        m.submodules.tokens = tokens = Memory(shape=HALF_WORD_BITS, depth=g.tokens, init=[])
        token_write, token_read, host_token_read = (
            tokens.write_port(),
            tokens.read_port(),
            tokens.read_port(),
        )

        # Steps, and the scales that they leave behind.
        connect(m, sequencer.engine, engine.command)
        connect(m, sequencer.vector, vector.command)
        connect(m, sequencer.scalar, scalar.command)
        connect(m, sequencer.preset, registers.preset)
        connect(m, scalar.result, registers.scalar)
        connect(m, vector.statistic, normaliser.raw)
        connect(m, normaliser.result, registers.vector)
        m.d.comb += [
            sequencer.engine_busy.eq(engine.busy),
            sequencer.engine_active.eq(engine.active),
            sequencer.vector_busy.eq(vector.busy | normaliser.busy),
            sequencer.scalar_busy.eq(scalar.busy),
            sequencer.choice.eq(vector.choice),
            sequencer.register_value.eq(registers.value),
            program.read.address.eq(sequencer.program_address),
            sequencer.program_data.eq(program.read.data),
            token_read.addr.eq(sequencer.token_address),
            sequencer.token_data.eq(token_read.data),
        ]

        # Memories of the units.
        connect(m, engine.weights, weights.read)
        connect(m, vector.tables, tables.read)
        connect(m, vector.multiplicands, multiplicands.read)
        connect(m, vector.vectors, vectors.read)
        connect(m, vector.vectors_write, vectors.write)
        connect(m, vector.states, states.read)
        connect(m, vector.states_write, states.write)
        m.d.comb += [
            activations.read.address.eq(engine.activations.address),
            engine.activations.data.eq(activations.read.data.as_value()),
            sums.write.enable.eq(engine.sums.enable & ~engine.sums.bank),
            multiplicands.write.enable.eq(engine.sums.enable & engine.sums.bank),
        ]
        for bank in (sums, multiplicands):
            m.d.comb += [
                bank.write.address.eq(engine.sums.address),
                bank.write.data.eq(engine.sums.data),
            ]
        part = exact_log2(g.columns // g.elements)
        beat = vector.activations_write.address
        m.d.comb += [
            activations.write.address.eq(beat[part:]),
            activations.write.enable.eq(vector.activations_write.enable << beat[:part]),
        ]
        for data in activations.write.data:
            m.d.comb += data.eq(vector.activations_write.data.as_value())

        # Runs.
        connect(m, link.control.run, sequencer.run)
        m.d.comb += [
            sequencer.stop.eq(link.control.stop),
            link.control.running.eq(sequencer.running),
            link.control.produced.eq(sequencer.produced),
            self.busy.eq(sequencer.running),
        ]

        # The host's access. Stores take it as it is; everything else is read beside them with the
        # same latency: an address ADDRESS_STAGES later, its word READ_LATENCY later, its half next.
        bus = link.bus
        for space, store in zip(STORES, (weights, tables, program), strict=True):
            here = bus.space == space
            m.d.comb += [
                store.host.address.eq(bus.address),
                store.host.write_data.eq(bus.write_data),
                store.host.write.eq(bus.write & here),
                store.host.read.eq(bus.read & here),
            ]
        address = delay(m, bus.address, ADDRESS_STAGES, name="host_address")
        lane = exact_log2(g.elements)
        m.d.comb += [
            sums.read.address.eq(
                Mux(sequencer.running, vector.sums.address, address[1 + lane :])
            ),
            vector.sums.data.eq(sums.read.data),
            sequencer.counter_address.eq(address[1:]),
            registers.address.eq(Mux(sequencer.running, sequencer.register_address, address[1:])),
            host_token_read.addr.eq(address),
            token_write.addr.eq(Mux(sequencer.running, sequencer.token_address, bus.address)),
            token_write.data.eq(
                Mux(sequencer.running, sequencer.token_write_data, bus.write_data)
            ),
            token_write.en.eq(
                sequencer.token_write | (bus.write & (bus.space == MemorySpace.TOKENS))
            ),
        ]
        half = delay(m, address, READ_LATENCY, name="host_half")
        register, count, token = (
            delay(m, value, READ_LATENCY - 1, name=f"host_{name}")
            for name, value in (
                ("register", registers.value),
                ("counter", sequencer.counter_value),
                ("token", host_token_read.data),
            )
        )
        sum_ = Signal(SUM_BITS + 8)
        m.d.comb += sum_.eq(sums.read.data[half[1 : 1 + lane] if lane else 0])
        exponent = Signal(HALF_WORD_BITS)
        m.d.comb += exponent.eq(register.exponent)
        words = {
            MemorySpace.TOKENS: token,
            MemorySpace.SUMS: sum_.word_select(half[0], HALF_WORD_BITS),
            MemorySpace.REGISTERS: Mux(half[0], exponent, register.mantissa),
            MemorySpace.COUNTERS: count.word_select(half[0], HALF_WORD_BITS),
            MemorySpace.TOTALS: sequencer.totals.as_value().word_select(half[:4], HALF_WORD_BITS),
        }
        space = delay(m, bus.space, HOST_READ_LATENCY - 1, name="host_space")
        word = Signal(HALF_WORD_BITS)
        with m.Switch(space):
            for key, value in words.items():
                with m.Case(key):
                    m.d.sync += word.eq(value)
        with m.Switch(delay(m, space, 1, name="host_space_out")):
            for key, store in zip(STORES, (weights, tables, program), strict=True):
                with m.Case(key):
                    m.d.comb += bus.read_data.eq(store.host.read_data)
            with m.Default():
                m.d.comb += bus.read_data.eq(word)
        m.d.comb += bus.read_valid.eq(
            delay(m, bus.read, HOST_READ_LATENCY, name="host_read", reset_less=False)
        )
        return m
