"""The vector unit: norms, quantisation, gates, recurrence, residual and choice."""

from dataclasses import dataclass

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.arch.arithmetic import (
    BLOCK_SHIFTS,
    CODE_BITS,
    CODE_PLACE,
    HIDDEN_BITS,
    OPERAND_BITS,
    PRODUCT_PLACE,
    RESIDUAL_BITS,
    SUM_BITS,
    block_index,
)
from hw.arch.geometry import CONTEXT_BITS
from hw.arch.memories import HALF_WORD_BITS
from hw.arch.operations import LATE, Statistic, Table, VectorOp, late_reads
from hw.arch.program import Space
from hw.memory.signatures import ReadSignature, WriteSignature
from hw.pipeline import KEEP, delay
from hw.turns import of_context
from hw.units.commands import (
    TOKEN_BITS,
    ChoiceLayout,
    VectorCommand,
    has,
    raw_layout,
)
from hw.units.embedding import EmbeddingRow
from hw.units.lane import VectorLane
from hw.units.noise import NoiseParameters
from hw.units.stages import PLACES, USES, Factor, LaneControl, Products, Stage
from hw.units.statistics import Statistics
from hw.units.vector import VectorParameters
from weights.fixed import EXPONENT_BITS, GAIN_SHIFT, NORM_SHIFT, PLAIN_SHIFT

LAST_BLOCK = len(BLOCK_SHIFTS) - 1
BOTH_OR_NOT = VectorOp.MEASURE, VectorOp.NORM
PEAK_FIELDS = "value", "exponent", "register"


@dataclass(frozen=True, kw_only=True)
class Pulses:
    """When what happens: element c of a list is c cycles after the address of a beat.

    Parameters
    ----------
    beat, first, last : list of Signal
        Beats, and the first and the last one of a step.
    late_first, late_beat : list of Signal
        The same of steps that read late.
    idle, row, scale : Signal
        No step, and EMBED's cycles before its beats.
    bits : Signal
        Of a token that EMBED has been through.
    number : Signal
        Of the beat, in a compact unit.
    """

    beat: list[Signal]
    first: list[Signal]
    last: list[Signal]
    late_first: list[Signal]
    late_beat: list[Signal]
    idle: Signal
    row: Signal
    scale: Signal
    bits: Signal
    number: Signal


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
        v = p.elements
        self._beats = {
            name: getattr(p, name) // v
            for name in ("sums", "multiplicands", "vectors", "states", "activations")
        }
        words = {name: p.contexts * beats for name, beats in self._beats.items()}

        def read(depth: int, width: int):
            return Out(ReadSignature(depth, data.ArrayLayout(signed(width), v)))

        members = {}
        if p.embedding:
            self.embedding_row = EmbeddingRow(p.embedding, p.table_words, v)
            row = self.embedding_row.signature.members
            members = {"embedding": row["fetch"], "tables_write": row["write"]}
        super().__init__(
            members
            | {
                "command": In(stream.Signature(VectorCommand)),
                "statistic": Out(stream.Signature(raw_layout(p.statistic_bits))),
                "done": Out(1),
                "busy": Out(1),
                "choice": Out(stream.Signature(ChoiceLayout, always_ready=True)),
                "tables": read(p.table_words, HALF_WORD_BITS),
                "vectors": read(words["vectors"], RESIDUAL_BITS),
                "sums": read(words["sums"], SUM_BITS),
                "multiplicands": read(words["multiplicands"], SUM_BITS),
                "states": read(words["states"], HIDDEN_BITS),
                "vectors_write": Out(WriteSignature(words["vectors"], signed(RESIDUAL_BITS), v)),
                "states_write": Out(WriteSignature(words["states"], signed(HIDDEN_BITS), v)),
                "activations_write": Out(
                    WriteSignature(words["activations"], signed(CODE_BITS), v)
                ),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        offered = self.command.payload
        command = Signal(VectorCommand, reset_less=True)
        accept = Signal()
        m.d.comb += accept.eq(self.command.valid & self.command.ready)
        if p.compact:
            m.d.comb += command.eq(offered)
        else:
            with m.If(accept):
                m.d.sync += command.eq(offered)

        # A peak that waits behind an energy, in a compact unit until that has made way.
        second = Signal(1 if p.compact else p.statistic_cycles - p.earlier)
        pulses = (
            self._one_by_one(m, second) if p.compact else self._control(m, command, accept, second)
        )
        beat, first, last = pulses.beat, pulses.first, pulses.last

        # What a step needs, at first from the command, then from a copy, so that the next one can
        # come: its first beat takes along what its stage needs.
        constants: list[Signal] = []
        early = late = self._lane_control(m, command, constants)
        if not p.compact:
            late = Signal.like(early, name="late", reset_less=True)
            with m.If(first[p.handover - 1]):
                m.d.sync += late.eq(early)

        def known_at(cycle: int, name: str, fields, attrs=None, lane: bool = False):
            """Some fields, from the cycle on in which a step's first beat is there."""
            if p.compact:
                return early.lane if lane else early
            source = early if cycle <= p.handover else late
            source = source.lane if lane else source
            layout = data.StructLayout({field: source.shape()[field].shape for field in fields})
            known = Signal(layout, name=name, reset_less=True, attrs=attrs)
            with m.If(first[cycle - 1]):
                m.d.sync += [known[field].eq(source[field]) for field in fields]
            return known

        # Every beat of every element.
        m.submodules.statistics = statistics = Statistics(p.elements, p.index_bits, p.compact)
        m.submodules.noise = noise = NoiseParameters(elements=p.elements).create()
        lanes = []
        for number in range(p.elements):
            m.submodules[f"lane_{number}"] = lane = VectorLane(p.compact)
            lanes.append(lane)
            for stage, fields in USES.items():
                # A copy for each lane: one register would drive the shifters of all of them.
                name = f"control_{number}_{stage.name.lower()}"
                own = known_at(p.at(stage), name, fields, attrs=KEEP, lane=True)
                to = lane.control[stage.name]
                m.d.comb += [to[field].eq(own[field]) for field in fields]
                if stage == Stage.MAIN and not p.compact:
                    constants.append(own.constant)
            m.d.comb += [
                lane.vector.eq(self.vectors.data[number]),
                lane.sum.eq(self.sums.data[number]),
                lane.multiplicand.eq(self.multiplicands.data[number]),
                lane.state.eq(self.states.data[number]),
                lane.table.eq(self.tables.data[number]),
                lane.word.eq(noise.words[number]),
                statistics.energies[number].eq(lane.energy),
                statistics.results[number].eq(lane.result),
                self.vectors_write.data[number].eq(lane.result),
                self.states_write.data[number].eq(lane.result),
                self.activations_write.data[number].eq(lane.result_code),
            ]

        odd = self._table_address(m, command, pulses)
        self._embedding(m, constants, lanes, pulses.scale, odd)
        written = known_at(p.write_delay, "written", ("op",))
        if p.compact:
            dest = self._held_addresses(m, command, late, pulses.number)
        else:
            self._addresses(m, command, pulses)
            dest = self._write_address(m, late, beat[p.write_delay], first[p.write_delay - 1])
        self._writes(m, written.op, beat[p.write_delay], *dest)
        squared = known_at(p.at(Stage.GATED), "squared", ("present",))
        counted = known_at(p.at(Stage.RESULT), "counted", ("op", "present"))
        results = tuple(each[p.at(Stage.RESULT)] for each in (beat, first, last))
        if p.compact:
            results = self._forms(m, lanes, early, pulses)
        is_beat, is_first, is_last = results
        fields = ("op", "result", "context")
        self._report(
            m,
            known_at(p.latency - p.earlier, "energy", (*fields, "energy_exponent")),
            known_at(p.latency, "report", (*fields, "exponent")),
            last,
            statistics,
            second,
        )
        m.d.comb += [
            noise.first.eq(first[p.at(Stage.WORD) - noise.LATENCY]),
            noise.state.eq(command.noise),
            noise.step.eq(beat[p.at(Stage.WORD) - noise.LATENCY]),
            statistics.first.eq(is_first),
            statistics.clear.eq(pulses.idle),
            statistics.number.eq(pulses.number),
            statistics.choose.eq(has(counted.op, statistic=Statistic.CHOICE)),
            statistics.valid.eq(is_beat),
            statistics.energy_first.eq(first[p.at(Stage.GATED)]),
            statistics.energy_valid.eq(beat[p.at(Stage.GATED)]),
        ]
        for number in range(p.elements):
            m.d.comb += [
                statistics.energy_present[number].eq(
                    ~last[p.at(Stage.GATED)] | (squared.present >= number)
                ),
                statistics.present[number].eq(~is_last | (counted.present >= number)),
            ]
        return m

    def _control(self, m, command, accept, second):
        """Beats, one in each cycle, and EMBED's row before them."""
        p = self.parameters
        levels = exact_log2(p.elements)
        offered = self.command.payload
        run, first, last, row, scale = Signal(), Signal(), Signal(), Signal(), Signal()
        beats = Signal(p.index_bits - levels, reset_less=True)
        bits = Signal(range(TOKEN_BITS))
        begun = Signal()
        rest = Signal(range(p.spacing))
        is_late = Signal()
        under_way = Signal(range(p.latency // p.spacing + 3))  # steps
        m.d.comb += [last.eq(run & (beats == 0)), first.eq(run & ~begun)]
        m.d.sync += begun.eq(run & ~last)
        lists = {"beat": [run], "first": [first], "last": [last]}
        lists |= {"late_first": [first & is_late], "late_beat": [run & is_late]}
        for cycle in range(p.latency):
            for name, pulses in lists.items():
                pulses.append(Signal(name=f"{name}_{cycle + 1}"))
                m.d.sync += pulses[-1].eq(pulses[-2])
        pulses = Pulses(**lists, idle=Signal(), row=row, scale=scale, bits=bits, number=Signal())
        lasts, lates = pulses.last, pulses.late_beat
        m.d.sync += under_way.eq(under_way + accept - lasts[p.latency])
        m.d.comb += self.busy.eq((under_way != 0) | second.any())

        # Steps that have yet to read late, all of the same operation: another one might need the
        # same port.
        reading = Signal(2)
        reads = accept & offered.op.matches(*LATE)
        m.d.sync += reading.eq(reading + reads - (lasts[Stage.LATE] & lates[Stage.LATE]))
        # A short step has to begin later, so that its statistic finds the last one at its register.
        apart = Mux(has(command.op, statistic=Statistic.BOTH), *(p.apart(op) for op in BOTH_OR_NOT))
        ended = Signal(4)  # cycles ago
        too_few = Signal(4)  # beats
        m.d.comb += too_few.eq(Mux(ended < apart, apart - 1 - ended, 0))
        early_end = offered.length <= (too_few << levels)
        with m.If(run):
            m.d.sync += ended.eq(last)
        with m.Elif(ended != 15):
            m.d.sync += ended.eq(ended + 1)
        free = (rest == 0) & ((reading == 0) | (offered.op == command.op)) & ~early_end
        with m.If(self.command.ready):
            m.d.sync += [
                beats.eq((offered.length - 1) >> levels),
                bits.eq(0),
                is_late.eq(offered.op.matches(*LATE)),
            ]
        with m.Elif(run):
            m.d.sync += beats.eq(beats - 1)
        with m.If(accept | scale):
            m.d.sync += rest.eq(p.spacing - 1)
        with m.Elif(rest != 0):
            m.d.sync += rest.eq(rest - 1)

        def accepting():
            m.d.comb += self.command.ready.eq(free)
            with m.If(accept):
                m.next = "RUN"
                with m.If(has(offered.op, table=Table.ROW)):
                    m.next = "ROW"

        with m.FSM():
            with m.State("IDLE"):
                accepting()
            self._row_states(m, pulses)
            with m.State("RUN"):
                m.d.comb += run.eq(1)
                with m.If(last):
                    m.next = "IDLE"
                    accepting()
        return pulses

    def _row_states(self, m, pulses: Pulses):
        """EMBED's row, before RUN."""
        with m.State("ROW"):
            m.d.comb += pulses.row.eq(1)
            m.d.sync += pulses.bits.eq(pulses.bits + 1)
            with m.If(pulses.bits == TOKEN_BITS - 1):
                m.next = "FETCH" if self.parameters.embedding else "SCALE"
        if self.parameters.embedding:
            row_fetch = self.embedding_row
            with m.State("FETCH"):
                m.d.comb += row_fetch.start.eq(1)
                m.next = "FETCHED"
            with m.State("FETCHED"), m.If(row_fetch.done):
                m.next = "SCALE"
        with m.State("SCALE"):
            m.d.comb += pulses.scale.eq(1)
            m.next = "RUN"

    def _one_by_one(self, m, second) -> Pulses:
        """Beats of `VectorParameters.pace` cycles, of one step at a time."""
        p = self.parameters
        command = self.command.payload
        run, begun, advance = Signal(), Signal(), Signal()
        phase = Signal(range(p.pace))
        levels = exact_log2(p.elements)
        number = Signal(p.index_bits - levels)
        following = Signal.like(number)
        beats = ((command.length + (p.elements - 1)) >> levels)[: len(number)]
        bits = Signal(range(TOKEN_BITS))
        late = Signal()
        last = following == beats
        m.d.comb += [
            following.eq(number + 1),
            advance.eq(phase == p.pace - 1),
            late.eq(command.op.matches(*LATE)),
        ]
        beat = [run & (phase == cycle) for cycle in range(p.pace)]
        lasts = [each & last for each in beat]
        for cycle in range(p.pace, p.latency + 1):
            lasts.append(Signal(name=f"last_{cycle}"))
            m.d.sync += lasts[-1].eq(lasts[-2])
        firsts = [each & ~begun for each in beat]
        pulses = Pulses(
            beat=beat,
            first=firsts,
            last=lasts,
            late_first=[each & late for each in firsts],
            late_beat=[each & late for each in beat],
            idle=Signal(name="idle"),
            row=Signal(name="row"),
            scale=Signal(name="scale"),
            bits=bits,
            number=number,
        )
        is_both = has(command.op, statistic=Statistic.BOTH)
        m.d.comb += [
            self.busy.eq(~pulses.idle),
            self.command.ready.eq(Mux(is_both, second & self.statistic.ready, lasts[p.latency])),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += pulses.idle.eq(1)
                m.d.sync += [number.eq(0), begun.eq(0), bits.eq(0)]
                with m.If(self.command.valid & self.statistic.ready):
                    m.next = "RUN"
                    with m.If(has(command.op, table=Table.ROW)):
                        m.next = "ROW"
            self._row_states(m, pulses)
            with m.State("RUN"):
                m.d.comb += run.eq(1)
                m.d.sync += phase.eq(phase + 1)
                with m.If(advance):
                    m.d.sync += [phase.eq(0), number.eq(following), begun.eq(1)]
                    with m.If(last):
                        m.next = "END"
            with m.State("END"), m.If(self.command.ready):
                m.next = "IDLE"
        return pulses

    def _forms(self, m, lanes, step, pulses: Pulses):
        """Which products lanes form; returns when results are those of a beat, of the first and of
        the last one.

        A product stays in a lane as long as the result needs it. MEASURE also needs the square
        behind it, so that its results count before that.
        """
        p, control, beat = self.parameters, step.lane, pulses.beat
        is_both = has(step.op, statistic=Statistic.BOTH)
        gated = has(step.op, gate=True) | has(step.op, energy=True) | (step.op == VectorOp.QUANT)
        forms = {
            Products.MAIN: beat[p.at(Stage.PRODUCT) - 1],
            Products.GATED: beat[p.at(Stage.GATED) - 1] & gated,
            Products.LAST: beat[p.at(Stage.LAST) - 1] & control.last,
        }
        for lane in lanes:
            m.d.comb += lane.forms.eq(Cat(forms[each] for each in Products))
        return tuple(
            Mux(is_both, each[p.at(Stage.PRODUCT)], each[p.at(Stage.RESULT)])
            for each in (beat, pulses.first, pulses.last)
        )

    def _report(self, m, energy, report, last, statistics, second):
        """What a step leaves: its energy early, a peak beside that late enough for the register."""
        latency, compact = self.parameters.latency, self.parameters.compact
        is_both = has(report.op, statistic=Statistic.BOTH)
        ends, measured = last[latency], has(report.op, measured=True)
        energies = last[latency - self.parameters.earlier] & has(energy.op, energy=True)
        peaks = ends & has(report.op, statistic=Statistic.PEAK)
        peak = Signal(raw_layout(RESIDUAL_BITS))
        kept = peak if compact else Signal.like(peak, name="kept")
        m.d.comb += [
            peak.value.eq(statistics.peak),
            peak.exponent.eq(report.exponent),
            peak.register.eq(Cat(report.result, report.context)),
        ]
        if compact:
            m.d.sync += second.eq(ends & is_both | second & ~self.statistic.ready)
        else:
            with m.If(ends):
                m.d.sync += kept.eq(peak)
            m.d.sync += second.eq(Cat(ends & is_both, second))
        statistic = self.statistic.payload
        with m.If(energies):
            is_second = has(energy.op, statistic=Statistic.BOTH)
            m.d.comb += [
                statistic.value.eq(statistics.energy),
                statistic.exponent.eq(energy.energy_exponent),
                statistic.register.eq(Cat((energy.result + is_second)[:4], energy.context)),
                statistic.last.eq(~is_second),
            ]
        with m.Else():
            chosen = peak.shape()(Mux(peaks, peak.as_value(), kept.as_value()))
            m.d.comb += [statistic[name].eq(chosen[name]) for name in PEAK_FIELDS]
            m.d.comb += statistic.last.eq(1)
        m.d.comb += [
            self.statistic.valid.eq(energies | peaks | second[-1]),
            self.done.eq(ends & ~measured),
            self.choice.valid.eq(ends & has(report.op, statistic=Statistic.CHOICE)),
            self.choice.payload.context.eq(report.context),
            self.choice.payload.token.eq(statistics.index),
        ]

    def _lane_control(self, m, command, constants):
        """What a step needs to know, up to three cycles after its acceptance.

        At once in a compact unit, but for ``constant``: one of ``constants``, which EMBED sets.
        """
        p = self.parameters
        op, scale = command.op, command.b
        step = Signal(
            data.StructLayout(
                {
                    "lane": LaneControl,
                    "op": command.shape()["op"].shape,
                    "present": exact_log2(p.elements),  # elements of the last beat, less one
                    "dest": self._dest_bits,
                    "exponent": signed(EXPONENT_BITS),  # of the peak
                    "energy_exponent": signed(EXPONENT_BITS),
                    "result": command.shape()["result"].shape,
                    "context": CONTEXT_BITS,
                }
            ),
            name="early",
            reset_less=True,
        )
        control = step.lane
        table, is_norm = has(op, table=Table.COEFFICIENTS), op == VectorOp.NORM
        squared_shift = Mux(is_norm, NORM_SHIFT, PLAIN_SHIFT)
        is_choice = has(op, statistic=Statistic.CHOICE)
        is_row = has(op, table=Table.ROW)
        scaled, greedy = Signal(reset_less=True), Signal(reset_less=True)
        # Amounts of shifts, each 2 more than it is beyond the first place.
        by_scale, by_table, offset = (
            Signal(signed(EXPONENT_BITS + 2), name=name, reset_less=True)
            for name in ("by_scale", "by_table", "offset")
        )
        is_last = is_row | (command.space == Space.STATES)
        block_shift = Array(BLOCK_SHIFTS)[control.block]
        beats_per_row = exact_log2(p.columns // p.elements)
        is_codes = has(op, writes="activations")
        one = 1 << PRODUCT_PLACE
        is_quant = op == VectorOp.QUANT
        # QUANT's scale is for its second product, known a cycle later, as the block is.
        inverse = (2 - CODE_PLACE - GAIN_SHIFT) - block_shift
        constant = Mux(greedy, one, _coefficient(scale.mantissa, by_scale))
        if p.compact:
            held = Signal(signed(OPERAND_BITS), name="constant", reset_less=True)
            with m.If(~is_row):
                m.d.sync += held.eq(constant)
            constants.append(held)
            constant = held
        # The longest ways begin behind these, which a compact unit's first product comes after.
        places = {"place": Mux(greedy, 0, _place(offset)), "code_place": _place(by_scale)}
        place, code_place = (
            delay(m, value, int(p.compact), name=name) for name, value in places.items()
        )
        m.d["comb" if p.compact else "sync"] += [
            scaled.eq(has(op, scaled=True)),
            greedy.eq(is_choice & command.greedy),
            by_table.eq(command.shift + (2 - PRODUCT_PLACE)),
            by_scale.eq(
                Mux(is_quant, inverse, command.shift + (2 - PRODUCT_PLACE)) - scale.exponent
            ),
            offset.eq(Mux(scaled, by_scale, by_table)),
            control.embed.eq(is_row),
            control.space.eq(command.space),
            control.tabled.eq(table),
            control.constant.eq(constant),
            control.block.eq(Mux(is_last, LAST_BLOCK, block_index(command.a.exponent))),
            control.place.eq(place),
            control.rounded.eq(~table),
            control.squares.eq(op == VectorOp.MEASURE),
            control.draw.eq(is_choice & ~command.greedy),
            control.update.eq(op == VectorOp.UPDATE),
            control.factor.eq(
                Mux(
                    has(op, energy=True),
                    Factor.ITSELF,
                    Mux(is_quant, Factor.CONSTANT, Factor.GATE),
                )
            ),
            control.code_place.eq(code_place),
            control.first.eq(command.first),
            control.narrow.eq(command.address[2]),
            control.plain.eq(op == VectorOp.SILU),
            control.add_vector.eq(op == VectorOp.RESIDUAL),
            control.add_noise.eq(is_choice & ~command.greedy),
            control.last.eq(has(op, gate=True)),
            step.op.eq(op),
            step.present.eq(command.length - 1),
            step.dest.eq(Mux(is_codes, command.dest << beats_per_row, command.dest)),
            step.exponent.eq(Mux(table, command.shift + block_shift, 0)),
            step.energy_exponent.eq((squared_shift + block_shift) << 1),
            step.result.eq(command.result),
            step.context.eq(command.context),
        ]
        return step

    @property
    def _dest_bits(self) -> int:
        """Of an address in beats, of any written memory."""
        return max(len(self.activations_write.address), 16)

    def _held_addresses(self, m, command, step, number):
        """Read addresses of the beat with that number; returns where it is written."""
        at = {
            "source": command.source + number,
            "operand": command.operand + number,
            "dest": step.dest + number,
        }
        for memory in ("vectors", "multiplicands", "states", "sums"):
            late_ops = late_reads(memory)
            (base,) = set(late_ops.values()) or {"source"}
            whose = command.before if memory == "states" else command.context
            late = command.op.matches(*late_ops)
            m.d.comb += getattr(self, memory).address.eq(
                Mux(
                    late,
                    self._of(memory, whose, at[base]),
                    self._of(memory, command.context, at["source"]),
                )
            )
        return at["dest"], step.context

    def _addresses(self, m, command, pulses: Pulses):
        """Read addresses, which count at the beats that need them.

        A late one begins late as well: until then its port may serve the step before.
        """
        offered = self.command.payload
        late_first, late_beat = pulses.late_first, pulses.late_beat
        for memory in ("vectors", "multiplicands", "states", "sums"):
            port, late_ops = getattr(self, memory), late_reads(memory)
            late = command.op.matches(*late_ops)
            begins, goes_on = late & late_first[Stage.LATE - 1], late & late_beat[Stage.LATE]
            (base,) = set(late_ops.values()) or {"source"}
            with m.If(begins | self.command.ready & ~goes_on):
                begin = self._of(memory, offered.context, offered.source)
                # A state that is gone on from may be that of another context.
                whose = command.before if memory == "states" else command.context
                late_begin = self._of(memory, whose, command[base])
                m.d.sync += port.address.eq(Mux(begins, late_begin, begin))
            with m.Elif(goes_on | pulses.beat[0]):
                m.d.sync += port.address.eq(port.address + 1)

    def _table_address(self, m, command, pulses: Pulses):
        """The table's address, which also collects token * operand, bit by bit; returns EMBED's odd
        beats."""
        p = self.parameters
        offered = self.command.payload
        load = pulses.idle if p.compact else self.command.ready
        beat = pulses.beat[p.pace - 1]
        words = max(p.table_words, p.embedding.words if p.embedding else 0)
        address = Signal(range(words), name="table_address")
        m.d.comb += self.tables.address.eq(address)
        stride = Signal(len(address), reset_less=True)
        token = command.token.bit_select(pulses.bits, 1)
        embed, odd = has(command.op, table=Table.ROW), Signal()
        begins = goes_on = Const(0)
        if not p.compact:
            late = has(command.op, table=Table.BOUNDS)
            begins = late & pulses.late_first[Stage.VALUE - 1]
            goes_on = late & pulses.late_beat[Stage.VALUE]
        count = goes_on | Mux(embed, pulses.scale | beat & odd, beat)
        more = Mux(pulses.row, Mux(token, stride, 0), count)
        if p.compact:  # none, then the step's, by the same adder
            begin = pulses.idle & self.command.valid & self.statistic.ready
            m.d.comb += odd.eq(pulses.number[0])
            m.d.sync += address.eq(address + Mux(begin, command.address, more))
            with m.If(self.command.ready):
                m.d.sync += address.eq(0)
        else:
            m.d.sync += address.eq(address + more), odd.eq(odd ^ beat)
            with m.If(load):
                m.d.sync += odd.eq(0)
            with m.If(begins | load & ~goes_on):
                m.d.sync += address.eq(Mux(begins, command.address, offered.address))
        m.d.sync += stride.eq(Mux(load, offered.operand, stride << 1))
        if p.embedding:
            self._fetch(m, command, address)
        return odd

    def _fetch(self, m, command, address):
        """EMBED's row, which is found by that address, to where it is read."""
        m.submodules.embedding_row = row = self.embedding_row
        wiring.connect(m, row.fetch, wiring.flipped(self.embedding))
        wiring.connect(m, row.write, wiring.flipped(self.tables_write))
        m.d.comb += [
            row.address.eq(address),
            row.words.eq(command.operand),
            row.dest.eq(command.source),
        ]
        with m.If(row.done):
            m.d.sync += address.eq(command.source)

    def _embedding(self, m, constants, lanes, scale, odd):
        """EMBED's coefficient, the row's scale, and its codes: half a word each beat."""
        words = self.tables.data.as_value()
        half = len(words) // 2
        behind = 0 if self.parameters.compact else self.parameters.read_latency
        codes = Mux(delay(m, odd, behind, name="odd"), words[half:], words)
        for number, lane in enumerate(lanes):
            m.d.comb += lane.code.eq(codes[CODE_BITS * number :])
        with m.If(delay(m, scale, self.parameters.read_latency, name="scale", reset_less=False)):
            m.d.sync += [constant.eq(self.tables.data[0]) for constant in constants]

    def _of(self, memory: str, context, address):
        """A context's address of a memory."""
        return of_context(address, self._beats[memory], context)

    def _write_address(self, m, step, written, load):
        """The one address that all written memories share, and whose it is."""
        address = Signal(self._dest_bits, name="write_address", reset_less=True)
        context = Signal(CONTEXT_BITS, name="write_context", reset_less=True)
        with m.If(load):
            m.d.sync += address.eq(step.dest), context.eq(step.context)
        with m.Elif(written):
            m.d.sync += address.eq(address + 1)
        return address, context

    def _writes(self, m, op, written, address, context):
        """Write enables and addresses."""
        for memory in ("vectors", "states", "activations"):
            port = getattr(self, f"{memory}_write")
            m.d.comb += [
                port.enable.eq(written & has(op, writes=memory)),
                port.address.eq(self._of(memory, context, address)),
            ]


def _place(offset):
    """Which of four places an amount has, of which ``offset`` is 2 more than beyond the first."""
    steps = offset >> 2
    return Mux(offset < 0, 0, Mux(steps > PLACES - 1, PLACES - 1, steps))[:2]


def _coefficient(mantissa, offset):
    """A mantissa, moved by what a shift by that place is more than one by the amount."""
    moved = ((mantissa << 2) >> Mux(offset < 0, 0, offset[:2]))[: OPERAND_BITS - 1]
    beyond = (offset >> 2) - (PLACES - 1)  # whole places
    far = [moved >> 4 * step for step in range(1, 5)]
    return Mux(beyond > len(far), 0, Mux(beyond > 0, Array(far)[(beyond - 1)[:2]], moved))
