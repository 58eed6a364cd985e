"""Runs the program once per token: fetches steps and issues them to the units."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.arch.geometry import Geometry
from hw.arch.program import (
    ANY,
    CONSTANT_BITS,
    CONSTANTS_PER_ROW,
    DESCRIPTOR_BITS,
    INVERSE_TEMPERATURE,
    REGISTERS,
    ControlOp,
    Unit,
)
from hw.control.counters import StepCounters
from hw.control.layers import DescriptorLayout, Layers
from hw.control.run import run_command
from hw.memory.signatures import PROGRAM_LATENCY
from hw.units.commands import (
    EngineCommand,
    ScalarCommand,
    ScalarResult,
    ScaleLayout,
    VectorCommand,
)
from weights.noise import TOKEN_STEP, xorshift

TotalsLayout = data.StructLayout({"cycles": 64, "engine_cycles": 64, "tokens": 32})
"""``hw.arch.protocol.Totals``."""


class Sequencer(wiring.Component):
    """Generates tokens: for each one, the program's steps in order.

    A step waits until no more of the units' steps are under way than it allows, reads its two
    registers and is issued as soon as its unit takes it, while the next one is fetched;
    ``STEP_CYCLES`` is what a step costs beside the time it waits. Units run beside each other, and
    take a step while those before are under way: the order is what the program says, no more.

    Steps between REPEAT and the one that it names are those of every layer: their addresses move on
    as `hw.arch.program.unroll` says.

    A run takes the ``prompt_length`` tokens at the start of the token buffer through the program,
    chooses a token after the last of them, appends it, and goes on until ``generate`` tokens are
    chosen, the stop token is, or ``stop`` was raised; the last chosen token is not taken through.
    Steps after ``PREFILL_END`` run only for tokens after which one is chosen.

    Parameters
    ----------
    geometry : Geometry
    counted : bool
        Whether there are counters of steps.

    Members
    -------
    run : In(stream.Signature(run_command(contexts))), taken when no run is under way
    stop : In(1), ends the run after the current token
    running : Out(1)
    produced : Out(16), tokens in the buffer, prompt included
    program_address, program_data : a row of the program, and its data ``PROGRAM_LATENCY`` later
    token_address, token_data, token_write, token_write_data : token buffer, one cycle of latency
    engine, vector, scalar : command streams of the units
    engine_done, vector_done, scalar_done : In(1), the last cycle of a step; steps end in order
    choice : In(16), the vector unit's choice, read when all units are idle
    register_address, register_value : the register file's read port
    preset : Out(stream.Signature(ScalarResult)), to the register file
    counter_address, counter_value : cycles spent at each step since the run began; read while idle
    totals : Out(TotalsLayout), since the run began
    """

    UNDER_WAY = 7
    """Most steps of a unit that may be under way."""
    READ_CYCLES = 2
    """From the cycle in which a step may be issued to that in which it is."""
    FETCH_CYCLES = PROGRAM_LATENCY - READ_CYCLES
    """From a step's first cycle, in which the fetch of the next one begins, until it is looked at
    whether it may be issued."""
    CONSTANT_CYCLES = 1
    """The same beside it, for a step that takes a constant from the program memory: the fetch of
    the next one begins later."""
    STEP_CYCLES = FETCH_CYCLES + READ_CYCLES + 1
    TOKEN_CYCLES, END_CYCLES = 2, 2
    """Before a token's first step, and after its last one."""

    @staticmethod
    def run_cycles(geometry: Geometry) -> int:
        """Of a run, beside those of its tokens: the counters are cleared, a register is preset."""
        return geometry.descriptors + 1

    def __init__(self, geometry: Geometry, counted: bool = True):
        self._geometry = geometry
        self._counted = counted
        token_address = range(geometry.tokens)
        super().__init__(
            {
                "run": In(stream.Signature(run_command(geometry.contexts))),
                "stop": In(1),
                "running": Out(1),
                "produced": Out(16),
                "program_address": Out(range(geometry.descriptors)),
                "program_data": In(DESCRIPTOR_BITS),
                "token_address": Out(token_address),
                "token_data": In(16),
                "token_write": Out(1),
                "token_write_data": Out(16),
                "engine": Out(stream.Signature(EngineCommand)),
                "vector": Out(stream.Signature(VectorCommand)),
                "scalar": Out(stream.Signature(ScalarCommand)),
                "engine_done": In(1),
                "vector_done": In(1),
                "scalar_done": In(1),
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
        g = self._geometry
        m.submodules.layers = layers = Layers(g)
        m.submodules.counters = counters = StepCounters(g.descriptors, self._counted)
        run = Signal(run_command(g.contexts))
        position = Signal(16)
        token = Signal(16)
        first = Signal()
        noise = Signal(32)
        number = Signal(range(g.descriptors))
        step = Signal(DescriptorLayout)
        operand = Signal(ScaleLayout)
        is_constant = step.layered & (step.unit == Unit.SCALAR)
        m.d.comb += layers.step.eq(step)

        choosing = Signal()
        m.d.comb += choosing.eq(position + 1 >= run.prompt_length)
        following = Signal.like(number)
        age, constant = self._fetch(m, layers.moved, is_constant, following)
        self._offer(m, step, operand, Mux(is_constant, constant, step.address))
        m.d.comb += [
            counters.step.eq(number),
            counters.reading.eq(~self.running),
            counters.address.eq(self.counter_address),
            self.counter_value.eq(counters.value),
            self.preset.payload.register.eq(INVERSE_TEMPERATURE),
            self.preset.payload.value.mantissa.eq(run.mantissa),
            self.preset.payload.value.exponent.eq(run.exponent),
            self.token_address.eq(position),
            self.token_write_data.eq(self.choice),
            self.register_address.eq(step.a),
            self.vector.payload.token.eq(token),
            self.vector.payload.first.eq(first),
            self.vector.payload.greedy.eq(~run.sampled),
            self.vector.payload.noise.eq(noise),
        ]
        last = self._last(m, run, position, choosing)
        blocked = self._blocked(m, step)

        def after_this():
            with m.If(layers.again & (step.unit == Unit.CONTROL) & (step.op == ControlOp.REPEAT)):
                m.d.comb += following.eq(step.dest)
            with m.Else():
                m.d.comb += following.eq(number + 1)

        def take_step():
            m.d.sync += [number.eq(following), step.eq(self.program_data), age.eq(0)]

        m.d.comb += self.running.eq(1)
        with m.If(self.running):
            m.d.sync += self.totals.cycles.eq(self.totals.cycles + 1)
        m.d.sync += self.totals.engine_cycles.eq(self.totals.engine_cycles + self.engine_active)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.running.eq(0), self.run.ready.eq(1)]
                m.d.sync += [number.eq(0), position.eq(0)]
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
                m.d.comb += counters.clear.eq(1)
                m.d.sync += number.eq(number + 1)
                with m.If(number == g.descriptors - 1):
                    m.next = "PRESET"
            with m.State("PRESET"):
                m.d.comb += self.preset.valid.eq(1)
                with m.If(self.preset.ready):
                    m.next = "TOKEN"
            with m.State("TOKEN"):  # the first step's fetch began in the cycle before
                m.next = "TOKEN_READ"
            with m.State("TOKEN_READ"):
                m.d.comb += counters.begin.eq(1)
                m.d.sync += token.eq(self.token_data)
                take_step()
                m.next = "WAIT"
            with m.State("WAIT"):
                after_this()
                with m.If(
                    ~blocked & (age >= self.FETCH_CYCLES + self.CONSTANT_CYCLES * is_constant)
                ):
                    m.next = "READ"
            with m.State("READ"):
                after_this()
                m.d.comb += self.register_address.eq(step.b)
                m.d.sync += [operand.eq(self.register_value), step.eq(layers.moved)]
                m.next = "ISSUE"
            with m.State("ISSUE"):
                after_this()
                m.d.comb += self.register_address.eq(step.b)
                done = Signal()
                with m.Switch(step.unit):
                    with m.Case(Unit.ENGINE):
                        m.d.comb += [self.engine.valid.eq(1), done.eq(self.engine.ready)]
                    with m.Case(Unit.VECTOR):
                        m.d.comb += [self.vector.valid.eq(1), done.eq(self.vector.ready)]
                    with m.Case(Unit.SCALAR):
                        m.d.comb += [self.scalar.valid.eq(1), done.eq(self.scalar.ready)]
                    with m.Case(Unit.CONTROL):
                        m.d.comb += done.eq(1)
                m.d.comb += counters.done.eq(done)
                with m.If(done):
                    take_step()
                    m.next = "WAIT"
                    with m.If(step.unit == Unit.CONTROL):
                        with m.Switch(step.op):
                            with m.Case(ControlOp.REPEAT):
                                m.d.comb += layers.repeat.eq(1)
                            with m.Case(ControlOp.PREFILL_END):
                                with m.If(~choosing):
                                    m.next = "END"
                            with m.Default():
                                m.next = "END"
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

    def _fetch(self, m, moved, is_constant, following):
        """Reads the program: the step's constant first, if it has one, then the ``following`` step.

        Returns the cycles since the step's first one, which stop at where they tell nothing more,
        and the constant.
        """
        age = Signal(range(PROGRAM_LATENCY + self.CONSTANT_CYCLES + 1))
        constant = Signal(CONSTANT_BITS, reset_less=True)
        lane_bits = exact_log2(CONSTANTS_PER_ROW)
        row, lane = moved.address[lane_bits:], moved.address[:lane_bits]
        first = is_constant & (age < self.CONSTANT_CYCLES)
        m.d.comb += self.program_address.eq(Mux(first, row, following))
        with m.If(age != PROGRAM_LATENCY + self.CONSTANT_CYCLES):
            m.d.sync += age.eq(age + 1)
        with m.If(age == PROGRAM_LATENCY):
            m.d.sync += constant.eq(self.program_data.word_select(lane, CONSTANT_BITS))
        return age, constant

    def _offer(self, m, step, operand, immediate):
        """The step to every unit; only the one that it names sees it offered."""
        operand_b = Mux(
            (step.unit == Unit.SCALAR) & ~step.b_register,
            Cat(immediate[:15], immediate[16:26]),
            self.register_value.as_value(),
        )
        m.d.comb += [
            self.engine.payload.groups.eq(step.length),
            self.engine.payload.chunks.eq(step.operand),
            self.engine.payload.weights.eq(step.address),
            self.engine.payload.activations.eq(step.source),
            self.engine.payload.dest.eq(step.dest),
            self.engine.payload.bank.eq(step.space[1]),
            self.scalar.payload.op.eq(step.op),
            self.scalar.payload.a.eq(operand),
            self.scalar.payload.b.as_value().eq(operand_b),
            self.scalar.payload.result.eq(step.result),
            *(
                getattr(self.vector.payload, name).eq(getattr(step, name))
                for name in (
                    *("op", "space", "b_register", "shift", "length", "operand"),
                    *("address", "source", "dest", "result"),
                )
            ),
            self.vector.payload.a.eq(operand),
            self.vector.payload.b.as_value().eq(operand_b),
        ]

    def _blocked(self, m, step):
        """Whether more steps are under way than the step allows."""
        blocked = Signal()
        for name in ("engine", "vector", "scalar"):
            command, left = getattr(self, name), step[f"{name}_left"]
            under_way = Signal(range(self.UNDER_WAY + 1), name=f"{name}_under_way")
            issued = command.valid & command.ready
            m.d.sync += under_way.eq(under_way + issued - getattr(self, f"{name}_done"))
            with m.If((left != ANY) & (under_way > left)):
                m.d.comb += blocked.eq(1)
        return blocked

    def _last(self, m, run, position, choosing):
        """Whether the run ends with the token under way."""
        stopping = Signal()
        with m.If(~self.running):
            m.d.sync += stopping.eq(0)
        with m.Elif(self.stop):
            m.d.sync += stopping.eq(1)
        last = Signal()
        m.d.comb += last.eq(
            stopping
            | (self.produced == run.prompt_length + run.generate)
            | (choosing & (position + 1 == self._geometry.tokens - 1))
            | (choosing & run.stop_enable & (self.choice == run.stop_token))
        )
        return last
