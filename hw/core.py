"""The whole machine behind two byte streams: what a board, and the simulated device, gets."""

from typing import Any

from amaranth.hdl import Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect
from amaranth.utils import exact_log2

from hw.arch.memories import Kind, spaces
from hw.arch.protocol import Feature, Identity, MemorySpace
from hw.control.registers import RegisterFile
from hw.control.sequencer import Sequencer
from hw.links.link import Link
from hw.links.window import Window
from hw.machine import Machine
from hw.memory.bank import VectorBankParameters
from hw.memory.block import BlockStore
from hw.pipeline import KEEP
from hw.turns import of_context
from hw.units.vector_unit import VectorUnit


class Core(wiring.Component):
    """Link, sequencer, units and memories of one machine.

    Parameters
    ----------
    machine : Machine
    board_name : str
    clock_hz : int
    digest : bytes
        Names the build; 16 bytes. These three and the geometry are what the device answers to
        IDENTIFY.

    Members
    -------
    rx : In(stream.Signature(8))
    tx : Out(stream.Signature(8))
        Frames of ``hw.arch.protocol``.
    busy : Out(1)
        A run is under way.
    sdram : Out(PinsSignature), if the weights lie in an SDRAM
        See `hw.memory.sdram.pins`.
    """

    def __init__(self, *, machine: Machine, board_name: str, clock_hz: int, digest: bytes):
        self.geometry = g = machine.geometry
        self.weights = machine.weights.create()
        self.embedding: Any = None
        if machine.embedding is not None:
            shared = machine.embedding == machine.weights
            self.embedding = self.weights if shared else machine.embedding.create()
        members = {"rx": In(stream.Signature(8)), "tx": Out(stream.Signature(8)), "busy": Out(1)}
        for store in (self.weights, self.embedding):
            if hasattr(store, "pins"):
                self.beside = store
                members["sdram"] = store.signature.members["pins"]
        super().__init__(members)
        identity = Identity(
            board=board_name,
            geometry=g,
            clock_hz=clock_hz,
            digest=digest,
            features=machine.features,
            max_payload=machine.max_payload,
        )
        self.link = Link(identity)
        self.sequencer = Sequencer(
            g,
            counted=Feature.COUNTERS in machine.features,
            queued=machine.queued,
            shared=machine.shared,
            fetch=machine.fetch,
        )
        self.registers = RegisterFile(g.contexts)
        self.queued, self.compact = machine.queued, machine.compact
        self.engine = machine.engine.create()
        self.vector = VectorUnit(machine.vector)
        self.scalar = machine.scalar.create()
        self.normaliser = machine.normaliser.create()

        self.tables = machine.tables.create()
        self.features = machine.features
        self.memories = rows = machine.memories
        program, tokens = rows["program"], rows["tokens"]
        self.program = BlockStore(
            program.words,
            program.half_words,
            program.bits,
            latency=machine.fetch.latency,
            narrow=machine.stores.narrow,
        )
        self.sums, self.multiplicands, self.vectors, self.states, self.activations = (
            VectorBankParameters.from_row(rows[name], latency=machine.bank_latency).create()
            for name in ("sums", "multiplicands", "vectors", "states", "activations")
        )
        self.tokens = Memory(shape=tokens.bits, depth=tokens.words, init=[])
        self.token_write, self.token_read = self.tokens.write_port(), self.tokens.read_port()
        self.host_token_read = self.tokens.read_port()

    def elaborate(self, platform):
        m = Module()
        m.submodules.link = self.link
        connect(m, wiring.flipped(self.rx), self.link.rx)
        connect(m, self.link.tx, wiring.flipped(self.tx))
        # What the host's reset puts back into its first state, by a register beside each.
        for name in ("sequencer", "registers", "engine", "vector", "scalar", "normaliser"):
            reset = Signal(name=f"{name}_reset", attrs=KEEP)
            m.d.sync += reset.eq(self.link.control.reset)
            m.submodules[name] = ResetInserter(reset)(getattr(self, name))
        for name in (
            *("weights", "tables", "program"),
            *("sums", "multiplicands", "vectors", "states", "activations", "tokens"),
        ):
            m.submodules[name] = getattr(self, name)
        if self.embedding is not None and self.embedding is not self.weights:
            m.submodules.embedding = self.embedding
        if hasattr(self, "sdram"):
            connect(m, self.beside.pins, wiring.flipped(self.sdram))
        self._steps(m)
        self._operands(m)
        self._runs(m)
        self._host(m)
        return m

    def _steps(self, m):
        """Steps and tokens, and the scales that steps leave behind."""
        sequencer, registers, normaliser = self.sequencer, self.registers, self.normaliser
        engine, vector, scalar = self.engine, self.vector, self.scalar
        self._commands(m, "engine", sequencer.engine, engine.command)
        self._commands(m, "vector", sequencer.vector, vector.command)
        self._commands(m, "scalar", sequencer.scalar, scalar.command)
        connect(m, sequencer.preset, registers.preset)
        connect(m, scalar.result, registers.scalar)
        connect(m, vector.choice, sequencer.choice)
        connect(m, vector.statistic, normaliser.raw)
        connect(m, normaliser.result, registers.vector)
        m.d.comb += [
            sequencer.engine_done.eq(engine.done),
            sequencer.engine_active.eq(engine.active),
            sequencer.vector_done.eq(vector.done | normaliser.done),
            sequencer.scalar_done.eq(registers.scalar.valid & registers.scalar.ready),
            sequencer.register_value.eq(registers.value),
            self.program.read.address.eq(sequencer.program_address),
            sequencer.program_data.eq(self.program.read.data),
            self.token_read.addr.eq(sequencer.token_address),
            sequencer.token_data.eq(self.token_read.data),
        ]

    def _commands(self, m, name, source, unit):
        """A unit's commands, some of which may wait before it."""
        if not self.queued:
            connect(m, source, unit)
            return
        queue = SyncFIFO(width=Value.cast(source.payload).shape().width, depth=self.queued)
        m.submodules[f"{name}_queue"] = ResetInserter(self.link.control.reset)(queue)
        m.d.comb += [
            queue.w_data.eq(source.payload),
            queue.w_en.eq(source.valid),
            source.ready.eq(queue.w_rdy),
            unit.payload.eq(queue.r_data),
            unit.valid.eq(queue.r_rdy),
            queue.r_en.eq(unit.ready),
        ]

    def _operands(self, m):
        """Memories beside the units that read and write them."""
        engine, vector, activations = self.engine, self.vector, self.activations
        connect(m, engine.weights, self.weights.rows)
        connect(m, vector.tables, self.tables.read)
        if self.embedding is not None:
            connect(m, vector.embedding, self.embedding.fetch)
            connect(m, vector.tables_write, self.tables.write)
        connect(m, vector.multiplicands, self.multiplicands.read)
        connect(m, vector.vectors, self.vectors.read)
        connect(m, vector.vectors_write, self.vectors.write)
        m.d.comb += [
            activations.read.address.eq(engine.activations.address),
            engine.activations.data.eq(activations.read.data.as_value()),
            self.sums.write.enable.eq(engine.sums.enable & ~engine.sums.bank),
            self.multiplicands.write.enable.eq(engine.sums.enable & engine.sums.bank),
        ]
        for name, bank in (("sums", self.sums), ("multiplicands", self.multiplicands)):
            beats = self.memories[name].own
            m.d.comb += [
                bank.write.address.eq(of_context(engine.sums.address, beats, engine.sums.context)),
                bank.write.data.eq(engine.sums.data),
            ]
        part = exact_log2(self.memories["activations"].items)
        beat = vector.activations_write.address
        m.d.comb += [
            activations.write.address.eq(beat[part:]),
            activations.write.enable.eq(vector.activations_write.enable << beat[:part]),
        ]
        for data in activations.write.data:
            m.d.comb += data.eq(vector.activations_write.data.as_value())

    def _runs(self, m):
        """The host's control over runs."""
        control, sequencer = self.link.control, self.sequencer
        connect(m, control.run, sequencer.run)
        m.d.comb += [
            sequencer.stop.eq(control.stop),
            control.running.eq(sequencer.running),
            sequencer.asked.eq(control.context),
            control.produced.eq(sequencer.produced),
            self.busy.eq(sequencer.running.any()),
        ]

    def _host(self, m):
        """The host's access to the memories; a run has those that both use for itself.

        Synthesis leaves out what is there for a host that does not see it.
        """
        bus, sequencer, registers = self.link.bus, self.sequencer, self.registers
        running = sequencer.running.any()
        seen = spaces(self.geometry, self.features)
        hosts = {
            row.space: self.embedding.embedding_host
            if row.space == MemorySpace.EMBEDDING
            else getattr(self, name).host
            for name, row in self.memories.items()
            if row.kind == Kind.STORE
        }
        window = Window(bus, seen, hosts, direct=self.compact)
        window.connect(m)
        request = window.request
        address = window.address
        hosts_token = Signal()
        m.d.comb += [
            self.sums.read.address.eq(self.vector.sums.address),
            self.vector.sums.data.eq(self.sums.read.data),
            registers.address.eq(sequencer.register_address),
            self.host_token_read.addr.eq(address(MemorySpace.TOKENS)),
            # The host writes, too, while contexts run in which it does not; it cannot wait.
            hosts_token.eq(request.write & (request.space == MemorySpace.TOKENS)),
            sequencer.token_ready.eq(~hosts_token),
            self.token_write.addr.eq(Mux(hosts_token, request.address, sequencer.token_address)),
            self.token_write.data.eq(
                Mux(hosts_token, request.write_data, sequencer.token_write_data)
            ),
            self.token_write.en.eq(sequencer.token_write | hosts_token),
        ]
        if Feature.RESULTS in self.features:
            with m.If(~running):
                m.d.comb += [
                    self.sums.read.address.eq(address(MemorySpace.SUMS)),
                    registers.address.eq(address(MemorySpace.REGISTERS)),
                ]
        if Feature.COUNTERS in self.features:
            m.d.comb += sequencer.counter_address.eq(address(MemorySpace.COUNTERS))
        window.show(
            m,
            sums=self.sums.read.data,
            states=self.states.read.data,
            register=registers.value,
            counter=sequencer.counter_value,
            totals=sequencer.totals.as_value(),
            token=self.host_token_read.data,
        )
        self._states(m, window)

    def _states(self, m, window):
        """The hidden states: a run has them for itself, and between runs the host, if it may."""
        states, vector, space = self.states, self.vector, MemorySpace.STATES
        if Feature.STATES not in self.features:
            connect(m, vector.states, states.read)
            connect(m, vector.states_write, states.write)
            return
        # From a register, as it goes to every bit: no access is as near to a run's begin or end.
        running = Signal(name="run_has_states", attrs=KEEP)
        m.d.sync += running.eq(self.sequencer.running.any())
        beat, enables, item = window.writes(m, space)
        write, own = states.write, vector.states_write
        m.d.comb += [
            states.read.address.eq(Mux(running, vector.states.address, window.address(space))),
            vector.states.data.eq(states.read.data),
            write.address.eq(Mux(running, own.address, beat)),
            write.enable.eq(own.enable.replicate(len(write.enable)) | enables),
            *(
                data.eq(Mux(running, result, item))
                for data, result in zip(write.data, own.data, strict=True)
            ),
        ]
