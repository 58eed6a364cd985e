"""The vector unit: norms, quantisation, gates, recurrence, residual and choice."""

from typing import NamedTuple

from amaranth.hdl import Module, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.arch.arithmetic import CODE_BITS, HIDDEN_BITS, RESIDUAL_BITS, SUM_BITS
from hw.arch.operations import Statistic
from hw.memory.signatures import ReadSignature, WriteSignature
from hw.pipeline import KEEP
from hw.units.addresses import READ, CompactAddresses, PipelinedAddresses
from hw.units.beats import CompactBeats, PipelinedBeats, mark_layout
from hw.units.commands import ChoiceLayout, VectorCommand, has, raw_layout
from hw.units.handover import CompactHandover, PipelinedHandover
from hw.units.lane import VectorLane
from hw.units.noise import NoiseParameters
from hw.units.report import CompactReport, PipelinedReport
from hw.units.stages import USES, Stage
from hw.units.statistics import CompactStatistics, Statistics
from hw.units.step_constants import StepConstants
from hw.units.table_reader import CompactTableReader, PipelinedTableReader
from hw.units.vector import VectorParameters

STORES = "tables", "embedding", "tables_write"
"""Ports of the table's reader that are the unit's."""


class Form(NamedTuple):
    """What a vector unit is made of, beside lanes and the constants of its steps."""

    beats: type[wiring.Component]
    addresses: type[wiring.Component]
    tables: type[wiring.Component]
    statistics: type[wiring.Component]
    report: type[wiring.Component]
    handover: type[PipelinedHandover] | type[CompactHandover]


PIPELINED = Form(
    *(PipelinedBeats, PipelinedAddresses, PipelinedTableReader),
    *(Statistics, PipelinedReport, PipelinedHandover),
)
COMPACT = Form(
    *(CompactBeats, CompactAddresses, CompactTableReader),
    *(CompactStatistics, CompactReport, CompactHandover),
)


class VectorUnit(wiring.Component):
    """Executes the steps of ``hw.arch.operations``, ``elements`` elements per cycle.

    ``docs/arithmetic.md`` has the formulas. Every step is one pass over its vector. All that it
    leaves is there ``parameters.cycles(length, op)`` cycles after its command was taken. The next
    command is taken ``parameters.period(length, op)`` cycles after it, while elements are still
    under way; a step that reads what they become must not be offered before they are written, but
    if it reads just that late.
    Elements beyond ``length`` in the last beat are written, but count neither for the statistic nor
    for the choice. No operand's beat is read in the cycle in which it is written, whether the
    result lies in the same place or does not overlap. A compact unit takes a command in the last
    cycle of its step; until then it has to stay offered.

    EMBED's row is at word ``address + token * operand``: a word with the row's scale in element 0,
    then words of ``2 * elements`` int8 codes, in the order of their bytes. Where embedding rows
    have a memory of their own, it lies there, and is first copied to ``source`` of the tables.

    Members
    -------
    command : In(stream.Signature(VectorCommand))
    statistic : Out(stream.Signature(raw_layout(statistic_bits)))
        Of the operations that leave some, for register ``result`` of the command; of two, first the
        energy, for the register after that. Offered for one
        cycle, in which it has to be taken; the next one is at least `STATISTIC_CYCLES` later. A
        compact unit begins no step, and gives no second one, before it is ``ready``.
    done : Out(1)
        The last cycle of a step that leaves no statistic.
    busy : Out(1)
        Until the last cycle of all steps that were taken.
    choice : Out(stream.Signature(ChoiceLayout, always_ready=True))
        Of a CHOOSE, in its last cycle.
    tables, vectors, sums, multiplicands, states : Out(ReadSignature), in beats
    vectors_write, states_write : Out(WriteSignature), in beats
        Of all of these but the tables the command's ``context`` is the upper bits of an address,
        and ``before`` where UPDATE reads the states.
    activations_write : Out(WriteSignature)
        In beats of ``elements`` codes; row r begins at beat ``r * columns / elements``.
    embedding : Out(FetchSignature), if embedding rows have a memory of their own
    tables_write : Out(WriteSignature), with it
    """

    def __init__(self, parameters: VectorParameters):
        self.parameters = p = parameters
        self._form = COMPACT if p.compact else PIPELINED
        self._tables = self._form.tables(p)
        reader = self._tables.signature.members

        def read(memory: str, bits: int):
            depth = p.contexts * p.words(memory)
            return Out(ReadSignature(depth, data.ArrayLayout(signed(bits), p.elements)))

        def write(memory: str, bits: int):
            return Out(WriteSignature(p.contexts * p.words(memory), signed(bits), p.elements))

        super().__init__(
            {
                "command": In(stream.Signature(VectorCommand)),
                "statistic": Out(stream.Signature(raw_layout(p.statistic_bits))),
                "done": Out(1),
                "busy": Out(1),
                "choice": Out(stream.Signature(ChoiceLayout, always_ready=True)),
                "vectors": read("vectors", RESIDUAL_BITS),
                "sums": read("sums", SUM_BITS),
                "multiplicands": read("multiplicands", SUM_BITS),
                "states": read("states", HIDDEN_BITS),
                "vectors_write": write("vectors", RESIDUAL_BITS),
                "states_write": write("states", HIDDEN_BITS),
                "activations_write": write("activations", CODE_BITS),
            }
            | {name: reader[name] for name in STORES if name in reader}
        )

    def elaborate(self, platform):
        m = Module()
        p, form = self.parameters, self._form
        m.submodules.beats = beats = form.beats(p)
        m.submodules.constants = constants = StepConstants(p)
        m.submodules.addresses = addresses = form.addresses(p)
        m.submodules.tables = tables = self._tables
        m.submodules.statistics = statistics = form.statistics(
            p.elements, p.index_bits, mark_layout(p)
        )
        m.submodules.report = report = form.report(p)
        marks, row_scale = beats.now.marks, (tables.scaled, self.tables.data[0])
        handover = form.handover(m, p, constants.constants, marks, *row_scale)
        connect(m, flipped(self.command), beats.command)
        connect(m, beats.now, addresses.now, tables.now)
        for name in STORES:
            if hasattr(tables, name):
                connect(m, getattr(tables, name), flipped(getattr(self, name)))
        connect(m, report.statistic, flipped(self.statistic))
        connect(m, report.choice, flipped(self.choice))
        m.d.comb += [
            self.busy.eq(beats.busy),
            self.done.eq(report.done),
            beats.ended.eq(report.ended),
            beats.free.eq(self.statistic.ready),
            beats.fetched.eq(tables.fetched),
            tables.fetch.eq(beats.fetch),
            constants.step.eq(beats.now.step),
            addresses.dest.eq(handover.late.dest),
            addresses.context.eq(handover.late.context),
            *(getattr(self, name).address.eq(getattr(addresses, name)) for name in READ),
        ]
        self._lanes(m, beats.now, handover, tables.codes, statistics)
        self._writes(m, handover, marks, addresses.written)
        self._measure(m, handover, marks, statistics, report)
        return m

    def _lanes(self, m, now, handover, codes, statistics):
        """Every beat of every element."""
        p = self.parameters
        m.submodules.noise = noise = NoiseParameters(elements=p.elements).create()
        drawn = now.marks[p.at(Stage.WORD) - noise.LATENCY]
        m.d.comb += [
            noise.first.eq(drawn.first),
            noise.state.eq(now.step.noise),
            noise.step.eq(drawn.beat),
        ]
        for number in range(p.elements):
            m.submodules[f"lane_{number}"] = lane = VectorLane(p.compact)
            for stage, fields in USES.items():
                # A copy for each lane: one register would drive the shifters of all of them.
                name = f"control_{number}_{stage.name.lower()}"
                own = handover.at(p.at(stage), name, fields, attrs=KEEP)
                m.d.comb += lane.control[stage.name].eq(own)
            m.d.comb += [
                lane.forms.eq(handover.forms()),
                lane.vector.eq(self.vectors.data[number]),
                lane.sum.eq(self.sums.data[number]),
                lane.multiplicand.eq(self.multiplicands.data[number]),
                lane.state.eq(self.states.data[number]),
                lane.table.eq(self.tables.data[number]),
                lane.code.eq(codes[number]),
                lane.word.eq(noise.words[number]),
                statistics.energies[number].eq(lane.energy),
                statistics.results[number].eq(lane.result),
                self.vectors_write.data[number].eq(lane.result),
                self.states_write.data[number].eq(lane.result),
                self.activations_write.data[number].eq(lane.result_code),
            ]

    def _writes(self, m, handover, marks, written):
        """Results, to the operation's memory."""
        p = self.parameters
        op = handover.at(p.write_delay, "written", ("op",)).op
        for memory in ("vectors", "states", "activations"):
            port = getattr(self, f"{memory}_write")
            m.d.comb += [
                port.enable.eq(marks[p.write_delay].beat & has(op, writes=memory)),
                port.address.eq(p.address_of(memory, written.context, written.address)),
            ]

    def _measure(self, m, handover, marks, statistics, report):
        """What is gathered of a whole vector, and what becomes of that when its step ends."""
        p = self.parameters
        squares = p.latency - p.earlier
        left = "op", "result", "context"
        squared = handover.at(p.at(Stage.GATED), "squared", ("present",))
        counted = handover.at(p.at(Stage.RESULT), "counted", ("op", "present"))
        m.d.comb += [
            statistics.energy_mark.eq(marks[p.at(Stage.GATED)]),
            statistics.energy_present.eq(squared.present),
            statistics.mark.eq(handover.results()),
            statistics.present.eq(counted.present),
            statistics.choose.eq(has(counted.op, statistic=Statistic.CHOICE)),
            report.energy.eq(statistics.energy),
            report.peak.eq(statistics.peak),
            report.index.eq(statistics.index),
            report.energy_ends.eq(marks[squares].last),
            report.energy_step.eq(
                handover.at(squares, "energy_report", (*left, "energy_exponent"))
            ),
            report.ends.eq(marks[p.latency].last),
            report.step.eq(handover.at(p.latency, "report", (*left, "exponent"))),
        ]
