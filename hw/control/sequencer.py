"""Runs the program once per token: fetches steps and issues them to the units."""

from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.arch.geometry import Geometry
from hw.arch.operations import which
from hw.arch.program import (
    ANY,
    CONSTANT_BITS,
    CONSTANTS_PER_ROW,
    DESCRIPTOR_BITS,
    INVERSE_TEMPERATURE,
    LEFT,
    REGISTERS,
    UNITS,
    ControlOp,
    Unit,
)
from hw.control.contexts import Contexts
from hw.control.counters import StepCounters
from hw.control.layers import DescriptorLayout, Layers
from hw.control.run import context_bits, run_command
from hw.memory.signatures import PROGRAM_LATENCY
from hw.turns import Turns, of_context
from hw.units.commands import (
    REGISTER_BITS,
    ChoiceLayout,
    EngineCommand,
    ScalarCommand,
    ScalarResult,
    ScaleLayout,
    VectorCommand,
)

TotalsLayout = data.StructLayout({"cycles": 64, "engine_cycles": 64, "tokens": 32})
"""``hw.arch.protocol.Totals``."""

READ_CYCLES = 2
"""From the cycle in which a step may be issued to that in which it is."""


@dataclass(frozen=True, kw_only=True)
class FetchParameters:
    """How steps come from the program memory.

    Parameters
    ----------
    latency : int
        Cycles from an address to its data.
    compact : bool
        Whether a step stays in the memory, which reads nothing else while it is issued, instead of
        in a register beside that, so that the next one is fetched meanwhile.
    """

    latency: int = PROGRAM_LATENCY
    compact: bool = False

    @property
    def cycles(self) -> int:
        """From a step's first cycle until it is looked at whether it may be issued; the fetch of
        the next one begins in it, but in a compact machine its own."""
        return self.latency if self.compact else self.latency - READ_CYCLES

    @property
    def constant_cycles(self) -> int:
        """The same beside it, for a step that takes a constant from the program memory: the fetch
        of the next one begins later, or the step is read again."""
        return self.latency + 1 if self.compact else 1

    @property
    def step_cycles(self) -> int:
        """What a step costs that need not wait."""
        return self.cycles + READ_CYCLES + 1


class Sequencer(wiring.Component):
    """Generates tokens: for each one, the program's steps in order, for every running context.

    A step waits until no more of the units' steps are under way than it allows, reads its two
    registers and is issued as soon as its unit takes it; then the same step is issued for the next
    context, and after the last one the following step, which is fetched meanwhile.
    `FetchParameters` have what a step costs beside the time it waits, and ``CONTEXT_CYCLES`` is
    what every other context adds. Units run beside each other, and take a step while those before
    are under way: the order is what the program says, no more.

    What a step allows to be left is said of the steps of its context. As units take and end steps
    in order, those of other contexts that were issued in between are left beside it.

    Steps between REPEAT and the one that it names are those of every layer: their addresses move on
    as `hw.arch.program.unroll` says.

    A run takes the ``prompt_length`` tokens at the start of its context's token buffer through the
    program, chooses a token after the last of them, appends it, and goes on until ``generate``
    tokens are chosen, the stop token is, or ``stop`` was raised; the last chosen token is not taken
    through. Steps after ``PREFILL_END`` run only for contexts in which a token is chosen. A run
    that is taken while others are under way begins beside their next tokens.

    A run that is ``chained``, of the last context, has all contexts for itself: each pass takes one
    token of its prompt in each, where the state goes on from that which the context before leaves.
    The first pass takes as few as make the others whole, so that every pass ends with the last one.

    Parameters
    ----------
    geometry : Geometry
    counted : bool
        Whether there are counters of steps.
    queued : int
        Steps that wait before each unit at most.
    shared : bool
        Whether a step of the engine is issued once, for all contexts.
    fetch : FetchParameters

    Members
    -------
    run : In(stream.Signature(run_command(contexts))), of a context that does not run
    stop : In(contexts), end its run after the current token
    running : Out(contexts)
    asked, produced : as of `Contexts`
    program_address, program_data : a row of the program, and its data ``fetch.latency`` later
    token_address, token_data, token_write, token_write_data : token buffers, one behind the other;
        one cycle of latency
    token_ready : In(1), the buffer takes what is written
    engine, vector, scalar : command streams of the units
    engine_done, vector_done, scalar_done : In(1), the last cycle of a step; steps end in order
    engine_active : In(1), the engine works
    choice : In(stream.Signature(ChoiceLayout, always_ready=True)), the vector unit's
    register_address, register_value : the register file's read port
    preset : Out(stream.Signature(ScalarResult, always_ready=True)), to the register file
    counter_address, counter_value : cycles spent at each step since nothing ran; read while idle
    totals : Out(TotalsLayout), since nothing ran; tokens of all contexts
    """

    UNDER_WAY = 7
    """Most steps of a unit that may be under way, beside those that wait before it."""
    CONTEXT_CYCLES = READ_CYCLES + 1
    TOKEN_CYCLES, END_CYCLES = 2, 2
    """Before the first step of a token, and after its last one; for each context."""

    @staticmethod
    def run_cycles(geometry: Geometry) -> int:
        """From idleness to the first token: the counters are cleared."""
        return geometry.descriptors + 1

    def __init__(
        self,
        geometry: Geometry,
        counted: bool = True,
        queued: int = 0,
        shared: bool = False,
        fetch: FetchParameters = FetchParameters(),
    ):
        self._geometry = geometry
        self._counted = counted
        self._queued, self._shared, self._fetching = queued, shared, fetch
        n = geometry.contexts
        super().__init__(
            {
                "run": In(stream.Signature(run_command(n))),
                "stop": In(n),
                "running": Out(n),
                "asked": In(context_bits(n)),
                "produced": Out(16),
                "program_address": Out(range(geometry.descriptors)),
                "program_data": In(DESCRIPTOR_BITS),
                "token_address": Out(range(n * geometry.tokens)),
                "token_data": In(16),
                "token_write": Out(1),
                "token_write_data": Out(16),
                "token_ready": In(1, init=1),
                "engine": Out(stream.Signature(EngineCommand)),
                "vector": Out(stream.Signature(VectorCommand)),
                "scalar": Out(stream.Signature(ScalarCommand)),
                "engine_done": In(1),
                "vector_done": In(1),
                "scalar_done": In(1),
                "engine_active": In(1),
                "choice": In(stream.Signature(ChoiceLayout, always_ready=True)),
                "register_address": Out(range(n * REGISTERS)),
                "register_value": In(ScaleLayout),
                "preset": Out(stream.Signature(ScalarResult, always_ready=True)),
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
        m.submodules.contexts = contexts = self._contexts(m)
        m.submodules.turns = turns = Turns(g.contexts)
        members = Signal(g.contexts)  # the contexts of this token
        chained = self._chained(m)
        ahead = Signal(range(g.contexts))  # tokens beside that of a chained run's first context
        final = 1 << (g.contexts - 1)
        choosing = Signal(g.contexts)  # and those in which one is chosen after it
        number = Signal(range(g.descriptors))
        stays = self._fetching.compact
        step = layers.moved if stays else Signal(DescriptorLayout)
        moved = Signal()  # it is as it is executed in this layer
        operand = Signal(ScaleLayout)
        is_constant = step.layered & (step.unit == Unit.SCALAR)
        position = contexts.progress.position
        rank = turns.others - turns.after
        following = Signal.like(number)
        age = Signal(range(self._fetching.latency + self._fetching.constant_cycles + 1))
        fetch = self._fetch_again if stays else self._fetch_ahead
        there, constant = fetch(m, age, layers.moved, is_constant, number if stays else following)
        immediate = Mux(is_constant, constant, step.address)
        self._offer(m, step, operand, immediate, contexts, turns, chained)
        m.d.comb += [
            layers.step.eq(self.program_data if stays else step),
            contexts.context.eq(Mux(chained, g.contexts - 1, turns.number)),
            contexts.turn.eq(turns.number),
            contexts.ahead.eq(ahead),
            contexts.chose.eq((choosing & turns.own).any()),
            counters.step.eq(number),
            counters.reading.eq(~self.running.any()),
            counters.address.eq(self.counter_address),
            self.counter_value.eq(counters.value),
            self.token_address.eq(self._token(contexts.context, position + Mux(chained, rank, 0))),
            self.token_write_data.eq(contexts.choice),
            self.register_address.eq(Cat(step.a, turns.number)),
        ]
        blocked = self._blocked(m, step, turns, chained)

        def after_this():
            with m.If(layers.again & (step.unit == Unit.CONTROL) & (step.op == ControlOp.REPEAT)):
                m.d.comb += following.eq(step.dest)
            with m.Else():
                m.d.comb += following.eq(number + 1)

        def take_step():
            m.d.sync += [number.eq(following), age.eq(0)]
            if not stays:
                m.d.sync += [step.eq(self.program_data), moved.eq(0)]

        def begin_with(those):
            m.d.comb += [turns.members.eq(those), turns.load.eq(1)]

        m.d.sync += self.totals.engine_cycles.eq(self.totals.engine_cycles + self.engine_active)
        with m.If(self.running.any()):
            m.d.sync += self.totals.cycles.eq(self.totals.cycles + 1)
        with m.Elif(self.run.valid):
            m.d.sync += self.totals.eq(0)

        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += number.eq(0)
                with m.If(self.running.any()):
                    m.next = "CLEAR"
            with m.State("CLEAR"):
                m.d.comb += counters.clear.eq(1)
                begin_with(Mux(chained, self._first_pass(contexts.filled), self.running))
                m.d.sync += [number.eq(number + 1), members.eq(turns.members)]
                with m.If(number == g.descriptors - 1):
                    m.next = "TOKEN"
            with m.State("TOKEN"):  # the first step's fetch began in the cycle before
                m.d.sync += ahead.eq(Mux(chained, turns.others, 0))
                m.next = "TOKEN_READ"
            with m.State("TOKEN_READ"):
                m.d.comb += [
                    contexts.read.eq(1),
                    contexts.read_token.eq(self.token_data),
                ]
                chooses = contexts.choosing & ~(chained & (turns.after != 0))
                m.d.sync += choosing.eq(Mux(chooses, choosing | turns.own, choosing & ~turns.own))
                with m.If(turns.after != 0):
                    m.d.comb += turns.next.eq(1)
                    m.next = "TOKEN"
                with m.Else():
                    begin_with(members)
                    m.d.comb += counters.begin.eq(1)
                    take_step()
                    m.next = "WAIT"
            with m.State("WAIT"):
                after_this()
                with m.If(~blocked & there):
                    m.next = "READ"
            with m.State("READ"):
                after_this()
                m.d.comb += self.register_address.eq(Cat(step.b, turns.number))
                m.d.sync += operand.eq(self.register_value)
                if not stays:
                    m.d.sync += moved.eq(1)
                    with m.If(~moved):
                        m.d.sync += step.eq(layers.moved)
                m.next = "ISSUE"
            with m.State("ISSUE"):
                after_this()
                m.d.comb += self.register_address.eq(Cat(step.b, turns.number))
                is_control, once = step.unit == Unit.CONTROL, self._once(step)
                done, last = Signal(), Signal()
                with m.Switch(step.unit):
                    with m.Case(Unit.ENGINE):
                        m.d.comb += [self.engine.valid.eq(1), done.eq(self.engine.ready)]
                    with m.Case(Unit.VECTOR):
                        m.d.comb += [self.vector.valid.eq(1), done.eq(self.vector.ready)]
                    with m.Case(Unit.SCALAR):
                        m.d.comb += [self.scalar.valid.eq(1), done.eq(self.scalar.ready)]
                    with m.Case(Unit.CONTROL):
                        m.d.comb += done.eq(1)
                m.d.comb += [
                    last.eq(done & (once | (turns.after == 0))),
                    counters.done.eq(last),
                    turns.next.eq(done & ~last),
                ]
                with m.If(done):
                    m.next = "WAIT"
                with m.If(last):
                    take_step()
                    begin_with(turns.taking)
                    with m.If(is_control):
                        with m.Switch(step.op):
                            with m.Case(ControlOp.REPEAT):
                                m.d.comb += layers.repeat.eq(1)
                            with m.Case(ControlOp.PREFILL_END):
                                with m.If((members & choosing).any()):
                                    begin_with(members & choosing)
                                with m.Else():
                                    begin_with(Mux(chained, final, members))
                                    m.next = "END"
                            with m.Default():
                                begin_with(Mux(chained, final, members))
                                m.next = "END"
            with m.State("END"):
                m.d.comb += [
                    contexts.moving.eq(1),
                    self.token_write.eq(contexts.chose),
                    self.token_address.eq(self._token(turns.number, position + ahead + 1)),
                ]
                with m.If(~contexts.chose | self.token_ready):
                    m.d.comb += contexts.append.eq(contexts.chose)
                    m.d.sync += self.totals.tokens.eq(self.totals.tokens + ahead + 1)
                    m.next = "NEXT"
            with m.State("NEXT"):
                m.d.comb += [contexts.moving.eq(1), contexts.advance.eq(1)]
                with m.If(turns.after != 0):
                    m.d.comb += turns.next.eq(1)
                    m.next = "END"
                with m.Else():
                    reading = chained & ~contexts.chose & contexts.staying.any()
                    begin_with(contexts.staying | reading.replicate(g.contexts))
                    m.d.sync += members.eq(turns.members)
                    m.next = "TOKEN"
                    with m.If(~contexts.staying.any()):
                        m.next = "IDLE"
        return m

    def _contexts(self, m) -> Contexts:
        """What is kept of the contexts; a run's temperature is in its register from its begin."""
        contexts = Contexts(self._geometry)
        wiring.connect(m, wiring.flipped(self.run), contexts.run)
        run, preset = self.run.payload, self.preset
        m.d.comb += [
            contexts.stop.eq(self.stop),
            self.running.eq(contexts.running),
            contexts.asked.eq(self.asked),
            self.produced.eq(contexts.produced),
            contexts.chosen.eq(self.choice.valid),
            contexts.chosen_context.eq(self.choice.payload.context),
            contexts.chosen_token.eq(self.choice.payload.token),
            preset.valid.eq(self.run.valid & self.run.ready),
            preset.payload.register.eq(Cat(Const(INVERSE_TEMPERATURE, REGISTER_BITS), run.context)),
            preset.payload.value.mantissa.eq(run.mantissa),
            preset.payload.value.exponent.eq(run.exponent),
        ]
        return contexts

    def _chained(self, m):
        """Whether the run under way is chained."""
        chained = Signal()
        if self._geometry.contexts > 1:
            with m.If(self.run.valid & self.run.ready):
                m.d.sync += chained.eq(self.run.payload.chained)
        return chained

    def _first_pass(self, filled):
        """Contexts of a chained run's first pass: the last ones, one for each token that is more
        than whole passes take."""
        last = self._geometry.contexts - 1
        beyond = (filled - 1) & last
        return Cat(beyond >= last - context for context in range(last + 1))

    def _token(self, context, position):
        """Where a context's token lies."""
        return of_context(position, self._geometry.tokens, context)

    def _fetch_ahead(self, m, age, moved, is_constant, following):
        """Reads the program: the step's constant first, if it has one, then the ``following`` step.

        ``age`` is the cycles since the step's first one, and stops at where they tell nothing more.
        Returns whether the step may be looked at, and the constant.
        """
        fetch = self._fetching
        constant = Signal(CONSTANT_BITS, reset_less=True)
        row, lane = self._place_of_constant(moved)
        first = is_constant & (age < fetch.constant_cycles)
        m.d.comb += self.program_address.eq(Mux(first, row, following))
        with m.If(age != fetch.latency + fetch.constant_cycles):
            m.d.sync += age.eq(age + 1)
        with m.If(age == fetch.latency):
            m.d.sync += constant.eq(self.program_data.word_select(lane, CONSTANT_BITS))
        return age >= fetch.cycles + fetch.constant_cycles * is_constant, constant

    def _fetch_again(self, m, age, moved, is_constant, number):
        """Reads step ``number``, its constant, if it has one, and then the step again, which stays.

        Takes and returns what `_fetch_ahead` does.
        """
        fetch = self._fetching
        constant = Signal(CONSTANT_BITS, reset_less=True)
        row, lane = self._place_of_constant(moved)
        come, again = age == fetch.latency, age == fetch.cycles + fetch.constant_cycles
        kept_lane = Signal.like(lane)
        takes = Signal()  # a constant, which comes in its place for a while
        m.d.comb += self.program_address.eq(Mux(come & is_constant, row, number))
        with m.If(~again):
            m.d.sync += age.eq(age + 1)
        with m.If(come):
            m.d.sync += [takes.eq(is_constant), kept_lane.eq(lane)]
        with m.If(age == 2 * fetch.latency):
            m.d.sync += constant.eq(self.program_data.word_select(kept_lane, CONSTANT_BITS))
        there = Mux(come, ~is_constant, (age > fetch.latency) & ~takes) | again
        return there, constant

    @staticmethod
    def _place_of_constant(step):
        """Row of the program, and which of its constants it is."""
        bits = exact_log2(CONSTANTS_PER_ROW)
        return step.address[bits:], step.address[:bits]

    def _offer(self, m, step, operand, immediate, contexts, turns, chained):
        """The step to every unit; only the one that it names sees it offered."""
        context, progress = turns.number, contexts.progress
        begins = turns.after == turns.others
        before = Mux(begins, self._geometry.contexts - 1, context - 1)
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
            self.engine.payload.contexts.eq(turns.taking if self._shared else turns.own),
            self.engine.payload.bank.eq(step.space[1]),
            self.scalar.payload.op.eq(step.op),
            self.scalar.payload.a.eq(operand),
            self.scalar.payload.b.as_value().eq(operand_b),
            self.scalar.payload.result.eq(Cat(step.result, context)),
            *(
                getattr(self.vector.payload, name).eq(getattr(step, name))
                for name in (
                    *("op", "space", "b_register", "shift", "length", "operand"),
                    *("address", "source", "dest", "result"),
                )
            ),
            self.vector.payload.a.eq(operand),
            self.vector.payload.b.as_value().eq(operand_b),
            self.vector.payload.context.eq(context),
            self.vector.payload.token.eq(contexts.token),
            self.vector.payload.before.eq(Mux(chained, before, context)),
            self.vector.payload.first.eq(progress.first & (begins | ~chained)),
            self.vector.payload.greedy.eq(~contexts.order.sampled),
            self.vector.payload.noise.eq(progress.noise),
        ]

    def _once(self, step):
        """Whether a step is issued once for all contexts."""
        of_all = step.unit == Unit.CONTROL
        return of_all | (step.unit == Unit.ENGINE) if self._shared else of_all

    def _blocked(self, m, step, turns, chained):
        """Whether more steps are under way than the step allows.

        Of the steps of n contexts n times as many are left, and those that others of them have had
        issued after this one's last: of its own unit by all others, of another unit by those that
        come after. Of a unit whose steps are for all contexts there are no others. Where a chained
        context goes on from another one's states, all steps of the vector unit are over.
        """
        blocked = Signal()
        most = self.UNDER_WAY + self._queued
        for unit, name in ((u, u.name.lower()) for u in UNITS):
            command, left = getattr(self, name), step[LEFT[unit]]
            under_way = Signal(range(most + 1), name=f"{name}_under_way")
            issued = command.valid & command.ready
            m.d.sync += under_way.eq(under_way + issued - getattr(self, f"{name}_done"))
            if self._shared and unit == Unit.ENGINE:
                allowed = left
            else:
                each = turns.others + 1
                beside = Mux(step.unit == unit, turns.others, turns.after)
                allowed = Mux(left[0], each, 0) + Mux(left[1], each << 1, 0)
                allowed += Mux(self._once(step), 0, beside)
            with m.If((left != ANY) & (under_way > allowed)):
                m.d.comb += blocked.eq(1)
            if unit == Unit.VECTOR:  # whose states a chained one goes on from
                goes_on = (step.unit == unit) & step.op.matches(*which(writes="states"))
                with m.If(chained & goes_on & (turns.after != turns.others) & (under_way != 0)):
                    m.d.comb += blocked.eq(1)
        return blocked
