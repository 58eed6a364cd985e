"""The vector unit: norms, quantisation, gates, recurrence, residual and choice."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.arch.arithmetic import (
    CODE_BITS,
    HIDDEN_BITS,
    PRODUCT_SHIFT,
    RESIDUAL_BITS,
    SUM_BITS,
    block_shift,
    shift_amount,
)
from hw.arch.memories import HALF_WORD_BITS
from hw.arch.operations import Statistic, Table, VectorOp, late_reads
from hw.memory.signatures import ReadSignature, WriteSignature
from hw.pipeline import KEEP, delay
from hw.units.commands import INDEX_BITS, TOKEN_BITS, VectorCommand, raw_layout
from hw.units.embedding import EmbeddingRow
from hw.units.lane import LaneControl, Stage, VectorLane, has
from hw.units.noise import NoiseParameters
from hw.units.statistics import STATISTIC_BITS, Statistics
from hw.units.vector import VectorParameters
from weights.fixed import EXPONENT_BITS, GAIN_SHIFT


class VectorUnit(wiring.Component):
    """Executes the steps of ``hw.arch.operations``, ``elements`` elements per cycle.

    ``docs/arithmetic.md`` has the formulas. Every step is one pass over its vector; ``busy`` is
    high for ``parameters.cycles(length, op)`` cycles from the cycle after the command is taken, and
    longer while the statistic waits. Elements beyond ``length`` in the last beat are written, but
    count neither for the statistic nor for the choice. No operand's beat is read in the cycle in
    which it is written, whether the result lies in the same place or does not overlap.

    EMBED's row is at word ``address + token * operand``: a word with the row's scale in element 0,
    then words of ``2 * elements`` int8 codes, in the order of their bytes. Where embedding rows
    have a memory of their own, it lies there, and is first copied to ``source`` of the tables.

    Members
    -------
    command : In(stream.Signature(VectorCommand))
        Taken while not busy.
    statistic : Out(stream.Signature(raw_layout(48)))
        Of the operations that leave one, for register ``result`` of the command.
    busy : Out(1)
        Until all is written and the statistic was taken.
    choice : Out(16)
        Of the last CHOOSE, from the end of its ``busy`` on.
    tables, vectors, sums, multiplicands, states : Out(ReadSignature), in beats
    vectors_write, states_write : Out(WriteSignature), in beats
    activations_write : Out(WriteSignature)
        In beats of ``elements`` codes; row r begins at beat ``r * columns / elements``.
    embedding : Out(FetchSignature), if embedding rows have a memory of their own
    tables_write : Out(WriteSignature), with it
    """

    def __init__(self, parameters: VectorParameters):
        self.parameters = p = parameters
        v = p.elements

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
                "statistic": Out(stream.Signature(raw_layout(STATISTIC_BITS))),
                "busy": Out(1),
                "choice": Out(INDEX_BITS),
                "tables": read(p.table_words, HALF_WORD_BITS),
                "vectors": read(p.vectors // v, RESIDUAL_BITS),
                "sums": read(p.sums // v, SUM_BITS),
                "multiplicands": read(p.multiplicands // v, SUM_BITS),
                "states": read(p.states // v, HIDDEN_BITS),
                "vectors_write": Out(WriteSignature(p.vectors // v, signed(RESIDUAL_BITS), v)),
                "states_write": Out(WriteSignature(p.states // v, signed(HIDDEN_BITS), v)),
                "activations_write": Out(WriteSignature(p.activations // v, signed(CODE_BITS), v)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        offered = self.command.payload
        command = Signal(VectorCommand, reset_less=True)
        accept = Signal()
        m.d.comb += accept.eq(self.command.valid & self.command.ready)
        with m.If(accept):
            m.d.sync += command.eq(offered)

        # Every beat of every element.
        m.submodules.statistics = statistics = Statistics(p.elements)
        m.submodules.noise = noise = NoiseParameters(elements=p.elements).create()
        control = self._lane_control(m, command)
        controls, lanes = [], []
        for number in range(p.elements):
            m.submodules[f"lane_{number}"] = lane = VectorLane()
            lanes.append(lane)
            # A copy for each lane: one register would drive the shifters of all of them.
            own = Signal(LaneControl, name=f"control_{number}", reset_less=True, attrs=KEEP)
            controls.append(own)
            m.d.sync += own.eq(control)
            m.d.comb += [
                lane.control.eq(own),
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

        # When they happen: element c of these lists is c cycles after the address of a beat.
        beat, last, row, scale = self._control(m, command, statistics)
        odd = self._addresses(m, command, beat, row, scale)
        self._writes(m, command.op, beat)
        self._embedding(m, [control, *controls], lanes, scale, odd)
        data_at = p.read_latency
        present = (command.length - 1)[: exact_log2(p.elements)]
        m.d.comb += [
            noise.load.eq(accept),
            noise.state.eq(offered.noise),
            noise.step.eq(beat[data_at + Stage.WORD - noise.LATENCY]),
            statistics.clear.eq(accept),
            statistics.choose.eq(has(command.op, statistic=Statistic.CHOICE)),
            statistics.valid.eq(beat[data_at + Stage.ENERGY]),
            *(
                statistics.present[number].eq(~last[data_at + Stage.ENERGY] | (present >= number))
                for number in range(p.elements)
            ),
        ]
        return m

    def _control(self, m, command, statistics):
        """Beats, EMBED's row before them, and the statistic after them.

        Beats and last beats come as lists: element c is c cycles after the addresses.
        """
        levels = exact_log2(self.parameters.elements)
        offered = self.command.payload
        op = command.op
        run, last, row, scale = Signal(), Signal(), Signal(), Signal()
        beats = Signal(INDEX_BITS - levels, reset_less=True)
        bits = Signal(range(TOKEN_BITS))
        m.d.comb += last.eq(run & (beats == 0))
        end = self.parameters.latency - 1
        runs, lasts = [run], [last]
        for cycle in range(end):
            for row_of, name in ((runs, "beat"), (lasts, "last")):
                row_of.append(Signal(name=f"{name}_{cycle + 1}"))
                m.d.sync += row_of[-1].eq(row_of[-2])

        has_energy = has(op, statistic=Statistic.ENERGY)
        has_statistic = has_energy | has(op, statistic=Statistic.PEAK)
        of_gained = has(op, table=Table.COEFFICIENTS, statistic=Statistic.PEAK)
        reach = Signal(signed(EXPONENT_BITS), reset_less=True)
        exponent = Signal(signed(EXPONENT_BITS), reset_less=True)
        m.d.sync += [
            reach.eq(command.shift + block_shift(command.a.exponent)),
            exponent.eq(Mux(has_energy, reach << 1, Mux(of_gained, reach, 0))),
        ]
        m.d.comb += [
            self.statistic.payload.value.eq(Mux(has_energy, statistics.energy, statistics.peak)),
            self.statistic.payload.exponent.eq(exponent),
            self.statistic.payload.register.eq(command.result),
            self.busy.eq(~self.command.ready),
        ]

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.command.ready.eq(1)
                m.d.sync += [beats.eq((offered.length - 1) >> levels), bits.eq(0)]
                with m.If(self.command.valid):
                    m.next = "RUN"
                    with m.If(has(offered.op, table=Table.ROW)):
                        m.next = "ROW"
            with m.State("ROW"):
                m.d.comb += row.eq(1)
                m.d.sync += bits.eq(bits + 1)
                with m.If(bits == TOKEN_BITS - 1):
                    m.next = "FETCH" if self.parameters.embedding else "SCALE"
            if self.parameters.embedding:
                row_fetch = self.embedding_row
                with m.State("FETCH"):
                    m.d.comb += row_fetch.start.eq(1)
                    m.next = "FETCHED"
                with m.State("FETCHED"), m.If(row_fetch.done):
                    m.next = "SCALE"
            with m.State("SCALE"):
                m.d.comb += scale.eq(1)
                m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += run.eq(1)
                m.d.sync += beats.eq(beats - 1)
                with m.If(last):
                    m.next = "DRAIN"
            with m.State("DRAIN"), m.If(lasts[end]):
                m.next = "REPORT"
            with m.State("REPORT"):
                m.d.comb += self.statistic.valid.eq(has_statistic)
                with m.If(has(op, statistic=Statistic.CHOICE)):
                    m.d.sync += self.choice.eq(statistics.index)
                with m.If(self.statistic.ready | ~has_statistic):
                    m.next = "IDLE"
        return runs, lasts, row, scale

    def _lane_control(self, m, command):
        """Constants and shift amounts, up to three cycles late: ahead of the first beat's use, even
        in the copies of the lanes."""
        op, scale = command.op, command.b
        control = Signal(LaneControl, reset_less=True)
        scaled = Signal(reset_less=True)
        gained = has(op, table=Table.COEFFICIENTS)
        greedy = has(op, statistic=Statistic.CHOICE) & command.greedy
        excess = Signal(signed(EXPONENT_BITS + 1), reset_less=True)
        code_excess = Signal(signed(EXPONENT_BITS + 1), reset_less=True)
        m.d.sync += [
            scaled.eq(has(op, scaled=True) | (op == VectorOp.NORM) & command.b_register),
            control.op.eq(op),
            control.space.eq(command.space),
            control.block.eq(Mux(gained, block_shift(command.a.exponent), 0)),
            control.tabled.eq(gained & ~scaled),
            excess.eq(command.shift - Mux(scaled, scale.exponent, 0)),
            control.amount.eq(Mux(greedy, 0, shift_amount(excess))),
            control.factor.eq(Mux(op == VectorOp.SILU, 1 << PRODUCT_SHIFT, scale.mantissa)),
            code_excess.eq(-GAIN_SHIFT - control.block - scale.exponent),
            control.code_amount.eq(shift_amount(code_excess)),
            control.gate_shift.eq(command.address),
            control.sample.eq(~command.greedy),
            control.first.eq(command.first),
        ]
        with m.If(op != VectorOp.EMBED):
            m.d.sync += control.constant.eq(Mux(greedy, 1, scale.mantissa))
        return control

    def _addresses(self, m, command, beat, row, scale):
        """Read addresses, which count at the beats that need them; returns EMBED's odd beats."""
        offered = self.command.payload
        op = offered.op
        late_beat = beat[Stage.LATE]
        for memory in ("vectors", "multiplicands", "states", "sums"):
            port, late_ops = getattr(self, memory), late_reads(memory)
            late = op.matches(*late_ops)
            (base,) = set(late_ops.values()) or {"source"}
            is_late = Signal()
            with m.If(self.command.ready):
                m.d.sync += [
                    port.address.eq(Mux(late, offered[base], offered.source)),
                    is_late.eq(late),
                ]
            with m.Elif(Mux(is_late, late_beat, beat[0])):
                m.d.sync += port.address.eq(port.address + 1)

        # The table's address also collects token * operand, bit by bit.
        p = self.parameters
        words = max(p.table_words, p.embedding.words if p.embedding else 0)
        address = Signal(range(words), name="table_address")
        m.d.comb += self.tables.address.eq(address)
        stride = Signal(len(address), reset_less=True)
        token = Signal(TOKEN_BITS, reset_less=True)
        embed, update, odd = Signal(), Signal(), Signal()
        count = Mux(embed, scale | beat[0] & odd, Mux(update, beat[Stage.BOUND], beat[0]))
        with m.If(self.command.ready):
            m.d.sync += [
                address.eq(offered.address),
                stride.eq(offered.operand),
                token.eq(offered.token),
                embed.eq(has(op, table=Table.ROW)),
                update.eq(has(op, table=Table.BOUNDS)),
                odd.eq(0),
            ]
        with m.Else():
            m.d.sync += [
                address.eq(address + Mux(row, Mux(token[0], stride, 0), count)),
                stride.eq(stride << 1),
                token.eq(token >> 1),
                odd.eq(odd ^ beat[0]),
            ]
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

    def _embedding(self, m, controls, lanes, scale, odd):
        """EMBED's coefficient, the row's scale, and its codes: half a word each beat."""
        words = self.tables.data.as_value()
        half = len(words) // 2
        codes = Mux(delay(m, odd, self.parameters.read_latency, name="odd"), words[half:], words)
        for number, lane in enumerate(lanes):
            m.d.comb += lane.code.eq(codes[CODE_BITS * number :])
        with m.If(delay(m, scale, self.parameters.read_latency, name="scale", reset_less=False)):
            m.d.sync += [each.constant.eq(self.tables.data[0]) for each in controls]

    def _writes(self, m, op, beat):
        """Write enables, and the one address that all written memories share."""
        p = self.parameters
        offered = self.command.payload
        written = beat[p.write_delay]
        beats_per_row = exact_log2(p.columns // p.elements)
        address = Signal(max(len(self.activations_write.address), 16), reset_less=True)
        with m.If(self.command.ready):
            is_row = has(offered.op, writes="activations")
            m.d.sync += address.eq(Mux(is_row, offered.dest << beats_per_row, offered.dest))
        with m.Elif(written):
            m.d.sync += address.eq(address + 1)
        for memory in ("vectors", "states", "activations"):
            port = getattr(self, f"{memory}_write")
            m.d.comb += [
                port.enable.eq(written & has(op, writes=memory)),
                port.address.eq(address),
            ]
