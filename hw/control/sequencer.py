"""Runs the program once per token: fetches steps and issues them to the units."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hw.arch.geometry import Geometry
from hw.arch.program import FIELDS, INVERSE_TEMPERATURE, REGISTERS, WORDS, ControlOp, Unit, Wait
from hw.control.run import RunCommand
from hw.memory.signatures import PROGRAM_LATENCY
from hw.units.commands import (
    EngineCommand,
    ScalarCommand,
    ScalarResult,
    ScaleLayout,
    VectorCommand,
)
from weights.noise import TOKEN_STEP, xorshift

DescriptorLayout = data.StructLayout(
    {name: signed(width) if is_signed else unsigned(width) for name, width, is_signed in FIELDS}
)

TotalsLayout = data.StructLayout({"cycles": 64, "engine_cycles": 64, "tokens": 32})
"""``hw.arch.protocol.Totals``."""


class Sequencer(wiring.Component):
    """Generates tokens: for each one, the program's steps in order.

    A step is fetched while earlier ones still run, waits for the units it names and for its own
    unit, reads its two registers and is issued; ``STEP_CYCLES`` is what a step costs beside the
    time it waits. Units run beside each other; order between them is the program's ``wait`` alone.

    A run takes the ``prompt_length`` tokens at the start of the token buffer through the program,
    chooses a token after the last of them, appends it, and goes on until ``generate`` tokens are
    chosen, the stop token is, or ``stop`` was raised; the last chosen token is not taken through.
    Steps after ``PREFILL_END`` run only for tokens after which one is chosen.

    Members
    -------
    run : In(stream.Signature(RunCommand)), taken when no run is under way
    stop : In(1), ends the run after the current token
    running : Out(1)
    produced : Out(16), tokens in the buffer, prompt included
    program_address, program_data : 32-bit words of the program, latency of a store
    token_address, token_data, token_write, token_write_data : token buffer, one cycle of latency
    engine, vector, scalar : command streams of the units
    engine_busy, vector_busy, scalar_busy : In(1)
    choice : In(16), the vector unit's choice, read when all units are idle
    register_address, register_value : the register file's read port
    preset : Out(stream.Signature(ScalarResult)), to the register file
    counter_address, counter_value : cycles spent at each step since the run began; read while idle
    totals : Out(TotalsLayout), since the run began
    """

    FETCH_CYCLES = WORDS + PROGRAM_LATENCY
    """From a step's first fetch until it is looked at whether it may be issued."""
    READ_CYCLES = 2
    """From the cycle in which it may be issued to that in which it is."""
    STEP_CYCLES = FETCH_CYCLES + READ_CYCLES + 1
    TOKEN_CYCLES, END_CYCLES = 2, 2
    """Before a token's first step, and after its last one."""

    @staticmethod
    def run_cycles(geometry: Geometry) -> int:
        """Of a run, beside those of its tokens: the counters are cleared, a register is preset."""
        return geometry.descriptors + 1

    def __init__(self, geometry: Geometry):
        self._descriptors = geometry.descriptors
        self._tokens = geometry.tokens
        token_address = range(geometry.tokens)
        super().__init__(
            {
                "run": In(stream.Signature(RunCommand)),
                "stop": In(1),
                "running": Out(1),
                "produced": Out(16),
                "program_address": Out(range(WORDS * geometry.descriptors)),
                "program_data": In(32),
                "token_address": Out(token_address),
                "token_data": In(16),
                "token_write": Out(1),
                "token_write_data": Out(16),
                "engine": Out(stream.Signature(EngineCommand)),
                "vector": Out(stream.Signature(VectorCommand)),
                "scalar": Out(stream.Signature(ScalarCommand)),
                "engine_busy": In(1),
                "vector_busy": In(1),
                "scalar_busy": In(1),
                "engine_active": In(1),
                "choice": In(16),
                "register_address": Out(range(REGISTERS)),
                "register_value": In(ScaleLayout),
                "preset": Out(stream.Signature(ScalarResult)),
                "counter_address": In(range(geometry.descriptors)),
                "counter_value": Out(32),
                "totals": Out(TotalsLayout),
            }
        )

    def elaborate(self, platform):
        m = Module()
        run = Signal(RunCommand)
        position = Signal(16)
        step = Signal(range(self._descriptors))
        words = Signal(32 * WORDS)
        descriptor = data.View(DescriptorLayout, words)
        fetched = Signal(range(WORDS + PROGRAM_LATENCY))
        token = Signal(16)
        first = Signal()
        stopping = Signal()
        operand = Signal(ScaleLayout)
        noise = Signal(32)

        m.submodules.counters = counters = Memory(shape=32, depth=self._descriptors, init=[])
        count_read, count_write = counters.read_port(), counters.write_port()
        elapsed = Signal(32)
        m.d.comb += [
            count_read.addr.eq(Mux(self.running, step, self.counter_address)),
            self.counter_value.eq(count_read.data),
            count_write.addr.eq(step),
        ]

        busy = Signal(3)
        m.d.comb += busy.eq(Cat(self.engine_busy, self.vector_busy, self.scalar_busy))
        own = Signal(3)
        with m.Switch(descriptor.unit):
            with m.Case(Unit.CONTROL):
                m.d.comb += own.eq(Wait.ENGINE | Wait.VECTOR | Wait.SCALAR)
            with m.Case(Unit.ENGINE):
                m.d.comb += own.eq(Wait.ENGINE)
            with m.Case(Unit.VECTOR):
                m.d.comb += own.eq(Wait.VECTOR)
            with m.Case(Unit.SCALAR):
                m.d.comb += own.eq(Wait.SCALAR)
        blocked = (busy & (own | descriptor.wait)).any()

        choosing = Signal()
        m.d.comb += choosing.eq(position + 1 >= run.prompt_length)
        last = Signal()
        m.d.comb += last.eq(
            stopping
            | (self.produced == run.prompt_length + run.generate)
            | (choosing & (position + 1 == self._tokens - 1))
            | (choosing & run.stop_enable & (self.choice == run.stop_token))
        )

        operand_b = Mux(
            (descriptor.unit == Unit.SCALAR) & ~descriptor.b_register,
            Cat(descriptor.address[:15], descriptor.address[16:26]),
            self.register_value.as_value(),
        )
        m.d.comb += [
            self.program_address.eq(Cat(fetched[: ceil_log2(WORDS)], step)),
            self.token_address.eq(position),
            self.token_write_data.eq(self.choice),
            self.preset.payload.register.eq(INVERSE_TEMPERATURE),
            self.preset.payload.value.mantissa.eq(run.mantissa),
            self.preset.payload.value.exponent.eq(run.exponent),
            self.register_address.eq(descriptor.a),
            # Every unit sees the step; only the one it names sees it offered.
            self.engine.payload.groups.eq(descriptor.length),
            self.engine.payload.chunks.eq(descriptor.operand),
            self.engine.payload.weights.eq(descriptor.address),
            self.engine.payload.activations.eq(descriptor.source),
            self.engine.payload.dest.eq(descriptor.dest),
            self.engine.payload.bank.eq(descriptor.space[1]),
            self.scalar.payload.op.eq(descriptor.op),
            self.scalar.payload.a.eq(operand),
            self.scalar.payload.b.as_value().eq(operand_b),
            self.scalar.payload.result.eq(descriptor.result),
            *(
                getattr(self.vector.payload, name).eq(getattr(descriptor, name))
                for name in (
                    *("op", "space", "b_register", "shift", "length", "operand"),
                    *("address", "source", "dest", "result"),
                )
            ),
            self.vector.payload.a.eq(operand),
            self.vector.payload.b.as_value().eq(operand_b),
            self.vector.payload.token.eq(token),
            self.vector.payload.first.eq(first),
            self.vector.payload.greedy.eq(~run.sampled),
            self.vector.payload.noise.eq(noise),
        ]
        issued = (
            (self.engine.valid & self.engine.ready)
            | (self.vector.valid & self.vector.ready)
            | (self.scalar.valid & self.scalar.ready)
        )

        def next_step():
            m.d.comb += [count_write.en.eq(1), count_write.data.eq(count_read.data + elapsed)]
            m.d.sync += [elapsed.eq(1), step.eq(step + 1), fetched.eq(0)]

        m.d.comb += self.running.eq(1)
        m.d.sync += elapsed.eq(elapsed + 1)
        with m.If(self.stop):
            m.d.sync += stopping.eq(1)
        with m.If(self.running):
            m.d.sync += self.totals.cycles.eq(self.totals.cycles + 1)
        m.d.sync += self.totals.engine_cycles.eq(self.totals.engine_cycles + self.engine_active)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.running.eq(0), self.run.ready.eq(1)]
                m.d.sync += [step.eq(0), position.eq(0), stopping.eq(0)]
                with m.If(self.run.valid):
                    m.d.sync += [
                        run.eq(self.run.payload),
                        noise.eq(self.run.payload.noise),
                        first.eq(self.run.payload.reset),
                        self.produced.eq(self.run.payload.prompt_length),
                        self.totals.eq(0),
                    ]
                    m.next = "CLEAR"
            with m.State("CLEAR"):
                m.d.comb += count_write.en.eq(1)
                m.d.sync += step.eq(step + 1)
                with m.If(step == self._descriptors - 1):
                    m.next = "PRESET"
            with m.State("PRESET"):
                m.d.comb += self.preset.valid.eq(1)
                with m.If(self.preset.ready):
                    m.next = "TOKEN"
            with m.State("TOKEN"):
                m.d.sync += [step.eq(0), fetched.eq(0)]
                m.next = "TOKEN_READ"
            with m.State("TOKEN_READ"):
                m.d.sync += [token.eq(self.token_data), elapsed.eq(1)]
                m.next = "FETCH"
            with m.State("FETCH"):
                m.d.sync += fetched.eq(fetched + 1)
                with m.If(fetched >= PROGRAM_LATENCY):
                    m.d.sync += words.eq(Cat(words[32:], self.program_data))
                with m.If(fetched == WORDS + PROGRAM_LATENCY - 1):
                    m.next = "WAIT"
            with m.State("WAIT"):
                with m.If(~blocked):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += self.register_address.eq(descriptor.b)
                m.d.sync += operand.eq(self.register_value)
                m.next = "ISSUE"
            with m.State("ISSUE"):
                m.d.comb += self.register_address.eq(descriptor.b)
                with m.Switch(descriptor.unit):
                    with m.Case(Unit.CONTROL):
                        next_step()
                        with m.If((descriptor.op == ControlOp.PREFILL_END) & choosing):
                            m.next = "FETCH"
                        with m.Else():
                            m.next = "END"
                    with m.Case(Unit.ENGINE):
                        m.d.comb += self.engine.valid.eq(1)
                    with m.Case(Unit.VECTOR):
                        m.d.comb += self.vector.valid.eq(1)
                    with m.Case(Unit.SCALAR):
                        m.d.comb += self.scalar.valid.eq(1)
                with m.If(issued):
                    next_step()
                    m.next = "FETCH"
            with m.State("END"):
                m.d.sync += [first.eq(0), self.totals.tokens.eq(self.totals.tokens + 1)]
                with m.If(choosing):
                    m.d.comb += [self.token_write.eq(1), self.token_address.eq(position + 1)]
                    m.d.sync += self.produced.eq(self.produced + 1)
                    with m.If(run.sampled):
                        m.d.sync += noise.eq(xorshift(noise, TOKEN_STEP))
                m.next = "NEXT"
            with m.State("NEXT"):
                m.d.sync += position.eq(position + 1)
                with m.If(last):
                    m.next = "IDLE"
                with m.Else():
                    m.next = "TOKEN"
        return m
