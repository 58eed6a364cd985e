"""When the vector unit does what: it takes commands, and tells when their beats are where."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.arch.operations import LATE, Statistic, Table, VectorOp
from hw.units.commands import TOKEN_BITS, VectorCommand, has
from hw.units.stages import Stage
from hw.units.vector import VectorParameters

BOTH_OR_NOT = VectorOp.MEASURE, VectorOp.NORM


def mark_layout(parameters: VectorParameters) -> data.StructLayout:
    """A beat, whether it is the first and the last one of its step, and what one form adds.

    A pipelined unit: the same of steps that read late. A compact one, with all marks: ``idle``, no
    step is under way, and the ``number`` of the beat that is.
    """
    number = parameters.index_bits - exact_log2(parameters.elements)
    own = {"idle": 1, "number": number} if parameters.compact else {"late_beat": 1, "late_first": 1}
    return data.StructLayout({"beat": 1, "first": 1, "last": 1} | own)


class BeatsSignature(wiring.Signature):
    """What is to be done now.

    Members
    -------
    offered : Out(VectorCommand)
        The next step, which is taken in a cycle that is ``ready`` and begins in one of ``begins``.
    ready, begins : Out(1)
    step : Out(VectorCommand)
        The step whose beats are at the first marks.
    marks : Out(ArrayLayout(mark_layout, latency + 1))
        Element c is of the beat whose address was there c cycles ago.
    row, bit : Out
        EMBED looks at a bit of its token.
    scale : Out(1)
        It reads its row's scale, right before its first beat.
    """

    def __init__(self, parameters: VectorParameters):
        super().__init__(
            {
                "offered": Out(VectorCommand),
                "ready": Out(1),
                "begins": Out(1),
                "step": Out(VectorCommand),
                "marks": Out(data.ArrayLayout(mark_layout(parameters), parameters.latency + 1)),
                "row": Out(1),
                "bit": Out(range(TOKEN_BITS)),
                "scale": Out(1),
            }
        )


class _Beats(wiring.Component):
    """What both forms have: their ports, and EMBED's row before its beats.

    Members
    -------
    command : In(stream.Signature(VectorCommand))
    now : Out(BeatsSignature)
    ended : In(1)
        A step has left all that it leaves.
    free : In(1)
        A statistic would be taken: a compact unit begins no step before.
    fetch, fetched : Out(1), In(1)
        EMBED's row is to come to the tables, and has; where rows have a memory of their own.
    busy : Out(1)
    """

    def __init__(self, parameters: VectorParameters):
        self.parameters = parameters
        super().__init__(
            {
                "command": In(stream.Signature(VectorCommand)),
                "now": Out(BeatsSignature(parameters)),
                "ended": In(1),
                "free": In(1),
                "fetch": Out(1),
                "fetched": In(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [
            self.now.offered.eq(self.command.payload),
            self.now.ready.eq(self.command.ready),
        ]
        self._run(m)
        return m

    def _begin(self, m):
        """The state that follows the one in which a step begins."""
        m.next = "RUN"
        with m.If(has(self.command.payload.op, table=Table.ROW)):
            m.next = "ROW"

    def _row_states(self, m):
        now, bit = self.now, Signal.like(self.now.bit)
        m.d.comb += now.bit.eq(bit)
        with m.State("ROW"):
            m.d.comb += now.row.eq(1)
            m.d.sync += bit.eq(bit + 1)  # round to 0 again
            with m.If(bit == TOKEN_BITS - 1):
                m.next = "FETCH" if self.parameters.embedding else "SCALE"
        if self.parameters.embedding:
            with m.State("FETCH"):
                m.d.comb += self.fetch.eq(1)
                m.next = "FETCHED"
            with m.State("FETCHED"), m.If(self.fetched):
                m.next = "SCALE"
        with m.State("SCALE"):
            m.d.comb += now.scale.eq(1)
            m.next = "RUN"


class PipelinedBeats(_Beats):
    """A beat in each cycle, of one step right behind another."""

    def _run(self, m):
        p, offered, now = self.parameters, self.command.payload, self.now
        ready, accept = self.command.ready, now.begins
        step = Signal(VectorCommand, reset_less=True)
        levels = exact_log2(p.elements)
        beats = Signal(p.index_bits - levels, reset_less=True)
        run, begun, is_late = Signal(), Signal(), Signal()
        mark = Signal(mark_layout(p))
        before = Signal(data.ArrayLayout(mark.shape(), p.latency))
        under_way = Signal(range(p.latency // p.spacing + 3))  # steps
        m.d.comb += [
            accept.eq(self.command.valid & ready),
            now.step.eq(step),
            mark.beat.eq(run),
            mark.first.eq(run & ~begun),
            mark.last.eq(run & (beats == 0)),
            mark.late_beat.eq(run & is_late),
            mark.late_first.eq(mark.first & is_late),
            now.marks.eq(Cat(mark, before)),
            self.busy.eq(under_way != 0),
        ]
        m.d.sync += [
            begun.eq(run & ~mark.last),
            before.eq(now.marks),
            under_way.eq(under_way + accept - self.ended),
        ]
        with m.If(ready):
            m.d.sync += [
                beats.eq((offered.length - 1) >> levels),
                is_late.eq(offered.op.matches(*LATE)),
            ]
        with m.Elif(run):
            m.d.sync += beats.eq(beats - 1)
        with m.If(accept):
            m.d.sync += step.eq(offered)
        free = self._free(m, run, mark.last)

        def accepting():
            m.d.comb += ready.eq(free)
            with m.If(accept):
                self._begin(m)

        with m.FSM():
            with m.State("IDLE"):
                accepting()
            self._row_states(m)
            with m.State("RUN"):
                m.d.comb += run.eq(1)
                with m.If(mark.last):
                    m.next = "IDLE"
                    accepting()

    def _free(self, m, run, last):
        """Whether the step that is offered may begin behind those that are under way."""
        p, now, offered = self.parameters, self.now, self.command.payload
        accept, step = now.begins, now.step
        rest = Signal(range(p.spacing))
        with m.If(accept | now.scale):
            m.d.sync += rest.eq(p.spacing - 1)
        with m.Elif(rest != 0):
            m.d.sync += rest.eq(rest - 1)
        # Steps that have yet to read late, all of the same operation: another one might need the
        # same port.
        reading = Signal(2)
        reads, has_read = accept & offered.op.matches(*LATE), now.marks[Stage.LATE]
        m.d.sync += reading.eq(reading + reads - (has_read.last & has_read.late_beat))
        # A short step has to begin later, so that its statistic finds the last one at its register.
        # Beats that it lacks then are known a cycle ahead, whatever the last one leaves.
        ended, ended_next = Signal(4), Signal(4)  # cycles ago
        m.d.comb += ended_next.eq(Mux(run, last, Mux(ended == 15, ended, ended + 1)))
        m.d.sync += ended.eq(ended_next)
        leaves_both = Signal()
        with m.If(accept):
            m.d.sync += leaves_both.eq(has(offered.op, statistic=Statistic.BOTH))
        too_few = []
        for op in BOTH_OR_NOT:
            beats = Signal(
                range(p.apart(op)), init=p.apart(op) - 1, name=f"too_few_{op.name.lower()}"
            )
            m.d.sync += beats.eq(
                Mux(ended_next < p.apart(op), p.apart(op) - 1 - ended_next, 0),
            )
            too_few.append(beats)
        early_end = offered.length <= (Mux(leaves_both, *too_few) << exact_log2(p.elements))
        return (rest == 0) & ((reading == 0) | (offered.op == step.op)) & ~early_end


class CompactBeats(_Beats):
    """Beats of `VectorParameters.pace` cycles, of one step at a time, which stays offered."""

    def _run(self, m):
        p, command, now = self.parameters, self.command.payload, self.now
        run, begun, idle = Signal(), Signal(), Signal()
        phase = Signal(range(p.pace))
        levels = exact_log2(p.elements)
        number = Signal(p.index_bits - levels)
        following = Signal.like(number)
        is_last, advance = Signal(), Signal()
        beats = ((command.length + (p.elements - 1)) >> levels)[: len(number)]
        behind = Signal()
        m.d.comb += [
            following.eq(number + 1),
            is_last.eq(following == beats),
            advance.eq(phase == p.pace - 1),
            now.step.eq(command),
            now.begins.eq(idle & self.command.valid & self.free),
            self.command.ready.eq(self.ended),
            self.busy.eq(~idle),
        ]
        for cycle, mark in enumerate(now.marks):
            m.d.comb += [mark.idle.eq(idle), mark.number.eq(number)]
            if cycle < p.pace:
                beat = run & (phase == cycle)
                m.d.comb += [
                    mark.beat.eq(beat),
                    mark.first.eq(beat & ~begun),
                    mark.last.eq(beat & is_last),
                ]
        m.d.sync += behind.eq(now.marks[p.pace - 1].last)
        m.d.comb += now.marks[p.pace].last.eq(behind)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += idle.eq(1)
                m.d.sync += [number.eq(0), begun.eq(0)]
                with m.If(now.begins):
                    self._begin(m)
            self._row_states(m)
            with m.State("RUN"):
                m.d.comb += run.eq(1)
                m.d.sync += phase.eq(phase + 1)
                with m.If(advance):
                    m.d.sync += [phase.eq(0), number.eq(following), begun.eq(1)]
                    with m.If(is_last):
                        m.next = "END"
            with m.State("END"), m.If(self.command.ready):
                m.next = "IDLE"
