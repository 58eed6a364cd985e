"""The vector unit: norms, quantisation, gates, recurrence, residual and choice."""

from dataclasses import dataclass, fields

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from host.descriptor import Space, VectorOp
from hw import arithmetic
from hw.arithmetic import (
    GUMBEL_UNIT,
    HIDDEN_BITS,
    PRODUCT_SHIFT,
    RESIDUAL_BITS,
    SUM_BITS,
    block_shift,
    round_shift,
    saturate,
    shift_amount,
)
from hw.lane import ENERGY_BITS, WIDE_BITS, LaneControl, VectorLane, any_of
from hw.layouts import (
    CODE_BITS,
    HALF_WORD_BITS,
    REGISTER_BITS,
    ReadSignature,
    ScaleLayout,
    WriteSignature,
    raw_layout,
)
from hw.noise import WORD_BITS, NoiseParameters
from hw.pipeline import delay
from hw.tables import gumbel, sigmoid
from weights.fixed import EXPONENT_BITS, GAIN_SHIFT, HIDDEN_FRACTION

INDEX_BITS = 16
"""Of lengths, elements and tokens."""

STATISTIC_BITS = ENERGY_BITS + INDEX_BITS + 1

TOKEN_BITS = 16

EMBED_CYCLES = TOKEN_BITS + 1
"""Cycles that EMBED takes before its first beat: the row's address and its scale."""

VectorCommand = data.StructLayout(
    {
        "op": 4,  # host.descriptor.VectorOp
        "space": 3,  # host.descriptor.Space of the main operand
        "b_register": 1,
        "shift": signed(7),
        "length": INDEX_BITS,  # elements, at least 1
        "operand": 16,
        "address": 32,
        "source": 16,
        "dest": 16,
        "a": ScaleLayout,  # P
        "b": ScaleLayout,  # K
        "result": REGISTER_BITS,
        "token": TOKEN_BITS,
        "first": 1,  # hidden states read as zero
        "greedy": 1,
        "noise": WORD_BITS,  # state of the noise before the first element, never 0
    }
)
"""A descriptor with the values of its registers; ``host.descriptor`` has the fields' meaning."""

SCALED = (VectorOp.SILU, VectorOp.UPDATE, VectorOp.GATE, VectorOp.RESIDUAL, VectorOp.CHOOSE)
NORMED = (VectorOp.NORM, VectorOp.PEAK, VectorOp.QUANT)
PEAKED = (VectorOp.EMBED, VectorOp.PEAK, VectorOp.GATE, VectorOp.RESIDUAL)
MEASURED = (VectorOp.NORM, *PEAKED)
"""Operations that leave a statistic."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a step leaves behind.

    Parameters
    ----------
    elements : list of int
        Elements from ``dest`` on; none for NORM, PEAK and CHOOSE.
    value, exponent : int or None
        The statistic.
    choice : int or None
        Index of the largest key.
    """

    elements: list
    value: int | None = None
    exponent: int | None = None
    choice: int | None = None


@dataclass(frozen=True, kw_only=True)
class VectorParameters:
    """Shape of a vector unit.

    Parameters
    ----------
    elements : int
        Elements per cycle (a beat): 1, 2, 4 or 8.
    columns : int
        Codes of a row of the activation memory, in which ``dest`` of QUANT counts.
    table_words : int
        Words of ``elements`` table entries.
    sums, multiplicands, vectors, states, activations : int
        Elements of the memories.
    read_latency : int
        Cycles from an address to its data, of all memories; at least 2.
    """

    elements: int
    columns: int
    table_words: int
    sums: int
    multiplicands: int
    vectors: int
    states: int
    activations: int
    read_latency: int = 2

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{field.name} must be a positive integer, not {value!r}")
        if self.elements not in (1, 2, 4, 8):
            raise ValueError(f"elements must be 1, 2, 4 or 8, not {self.elements!r}")
        if self.read_latency < 2:
            raise ValueError(f"read_latency must be at least 2, not {self.read_latency!r}")
        if self.columns & (self.columns - 1) or self.columns < self.elements:
            raise ValueError(
                f"columns must be a power of two and at least elements ({self.elements}), "
                f"not {self.columns!r}"
            )

    @classmethod
    def from_geometry(cls, geometry, **options) -> "VectorParameters":
        names = [f.name for f in fields(cls) if f.name != "read_latency"]
        return cls(**{name: getattr(geometry, name) for name in names}, **options)

    @property
    def write_delay(self) -> int:
        """Cycles from the address of a beat's main operand to the write of its result."""
        return self.read_latency + VectorLane.RESULT

    @property
    def latency(self) -> int:
        """Cycles of a step beside one per beat."""
        return self.write_delay + Statistics.latency(self.elements)

    def cycles(self, length: int, op: VectorOp = VectorOp.NORM) -> int:
        """Cycles that ``busy`` stays high if the statistic is taken at once."""
        extra = EMBED_CYCLES if op == VectorOp.EMBED else 0
        return -(-length // self.elements) + self.latency + extra

    def compute(self, command, memories) -> Outcome:
        """What a step does, from the formulas of ``docs/arithmetic.md``.

        Parameters
        ----------
        command
            Has the fields of ``VectorCommand`` as attributes.
        memories : mapping of str to sequence of int
            Elements of ``vectors``, ``sums``, ``multiplicands``, ``states`` and ``tables``.
        """
        length, op = command.length, VectorOp(command.op)
        mantissa, exponent = command.b.mantissa, command.b.exponent

        def read(memory: str, beat: int, first: int = 0):
            start = beat * self.elements + first
            return list(memories[memory][start : start + length])

        def peaked(elements):
            return Outcome(elements=elements, value=max(map(abs, elements)), exponent=0)

        if op == VectorOp.EMBED:
            row = command.address + command.token * command.operand
            scale, *_ = read("tables", row)
            words = read("tables", row, self.elements)
            codes = [half >> 8 * j & 0xFF for half in words for j in range(2)][:length]
            amount = shift_amount(command.shift)
            x = [round_shift((c - (c >> 7 << 8)) * scale, amount) for c in codes]
            return peaked(x)

        main = read(Space(command.space).name.lower(), command.source)
        if op in NORMED:
            block = block_shift(command.a.exponent)
            main = [v >> block for v in main]
            if op == VectorOp.NORM and command.b_register:
                coefficients, amount = [mantissa] * length, shift_amount(command.shift, exponent)
            else:
                coefficients, amount = read("tables", command.address), shift_amount(command.shift)
            y = [round_shift(n * c, amount) for n, c in zip(main, coefficients, strict=True)]
            if op == VectorOp.NORM:
                energy = sum(w * w for w in y)
                return Outcome(elements=[], value=energy, exponent=2 * (command.shift + block))
            if op == VectorOp.PEAK:
                peak = max(map(abs, y))
                return Outcome(elements=[], value=peak, exponent=command.shift + block)
            amount = shift_amount(-(GAIN_SHIFT + block), exponent)
            return Outcome(elements=[round_shift(v * mantissa, amount) for v in y])

        if op == VectorOp.CHOOSE and command.greedy:
            return Outcome(elements=[], choice=main.index(max(main)))
        amount = shift_amount(command.shift, exponent)
        scaled = [round_shift(v * mantissa, amount) for v in main]
        if op == VectorOp.CHOOSE:
            words = NoiseParameters(elements=1).compute(command.noise, length)
            noise = [gumbel(word) << (HIDDEN_FRACTION - GUMBEL_UNIT) for word in words]
            keys = [saturate(v + n, RESIDUAL_BITS) for v, n in zip(scaled, noise, strict=True)]
            return Outcome(elements=[], choice=keys.index(max(keys)))
        if op == VectorOp.RESIDUAL:
            residual = read("vectors", command.operand)
            x = [saturate(r + v, RESIDUAL_BITS) for r, v in zip(residual, scaled, strict=True)]
            return peaked(x)

        z = [saturate(v, HIDDEN_BITS) for v in scaled]
        gates = [sigmoid(v) for v in z]
        if op == VectorOp.UPDATE:
            bounds = read("tables", command.address)
            forget = map(arithmetic.forget, gates, bounds)
            states = [0] * length if command.first else read("states", command.dest)
            candidates = read("vectors", command.operand)
            return Outcome(elements=list(map(arithmetic.recur, states, candidates, forget)))
        silu = list(map(arithmetic.silu, z, gates))
        if op == VectorOp.SILU:
            return Outcome(elements=silu)
        factors = [u >> command.address for u in read("multiplicands", command.operand)]
        h = [round_shift(v * u, PRODUCT_SHIFT) for v, u in zip(silu, factors, strict=True)]
        return peaked(h)

    def create(self) -> "VectorUnit":
        return VectorUnit(self)


class Statistics(wiring.Component):
    """Sum of squares, largest magnitude, and largest key with its index, over all beats of a step.

    A beat's results come a cycle after its energies, ``valid`` and ``present``. The outputs hold
    all beats up to one ``latency(elements)`` cycles after that beat's results. One beat per cycle.

    Members
    -------
    clear : In(1), starts a step
    choose : In(1), results are keys; constant during a step
    valid : In(1)
    present : In(elements), elements that count
    energies : In(ArrayLayout(31, elements))
    results : In(ArrayLayout(signed(32), elements))
    energy : Out(48)
    peak : Out(32)
    index : Out(16), of the first largest key
    """

    @staticmethod
    def latency(elements: int) -> int:
        return 2 + exact_log2(elements)

    def __init__(self, elements: int):
        self.elements = elements
        super().__init__(
            {
                "clear": In(1),
                "choose": In(1),
                "valid": In(1),
                "present": In(elements),
                "energies": In(data.ArrayLayout(ENERGY_BITS, elements)),
                "results": In(data.ArrayLayout(signed(RESIDUAL_BITS), elements)),
                "energy": Out(STATISTIC_BITS),
                "peak": Out(RESIDUAL_BITS),
                "index": Out(INDEX_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        levels = exact_log2(self.elements)
        valid = [self.valid]
        for cycle in range(levels + 2):
            valid.append(Signal(name=f"valid_{cycle + 1}"))
            m.d.sync += valid[-1].eq(valid[-2])

        # Squares: masked, added in a tree, accumulated.
        nodes = []
        for lane in range(self.elements):
            node = Signal(ENERGY_BITS, name=f"energy_{lane}", reset_less=True)
            m.d.sync += node.eq(Mux(self.present[lane], self.energies[lane], 0))
            nodes.append(node)
        while len(nodes) > 1:
            sums = []
            for left, right in zip(nodes[::2], nodes[1::2], strict=True):
                node = Signal(len(left) + 1, reset_less=True)
                m.d.sync += node.eq(left + right)
                sums.append(node)
            nodes = sums
        with m.If(self.clear):
            m.d.sync += self.energy.eq(0)
        with m.Elif(valid[levels + 1]):
            m.d.sync += self.energy.eq(self.energy + nodes[0])

        # Keys or magnitudes: a tree of the larger and its lane, then the largest so far. The left
        # one wins a draw. What does not count is less than any of them.
        least = Const(-(1 << (WIDE_BITS - 1)), signed(WIDE_BITS))
        present = Signal(self.elements, reset_less=True)
        m.d.sync += present.eq(self.present)
        nodes = []
        for lane in range(self.elements):
            result = self.results[lane]
            size = Mux(~self.choose & result[-1], -result, result)
            node = Signal(signed(WIDE_BITS), name=f"key_{lane}", reset_less=True)
            m.d.sync += node.eq(Mux(present[lane], size, least))
            nodes.append((node, Const(0, 0)))
        while len(nodes) > 1:
            winners = []
            for (left, left_lane), (right, right_lane) in zip(nodes[::2], nodes[1::2], strict=True):
                node = Signal(signed(WIDE_BITS), reset_less=True)
                lane = Signal(len(left_lane) + 1, reset_less=True)
                larger = Signal()
                m.d.comb += larger.eq(right > left)
                m.d.sync += [
                    node.eq(Mux(larger, right, left)),
                    lane.eq(Cat(Mux(larger, right_lane, left_lane), larger)),
                ]
                winners.append((node, lane))
            nodes = winners
        key, lane = nodes[0]
        best = Signal(signed(WIDE_BITS), reset_less=True)
        beat = Signal(INDEX_BITS - levels, reset_less=True)
        with m.If(self.clear):
            m.d.sync += [best.eq(least), beat.eq(0)]
        with m.Elif(valid[levels + 2]):
            m.d.sync += beat.eq(beat + 1)
            with m.If(key > best):
                m.d.sync += [best.eq(key), self.index.eq(Cat(lane, beat))]
        m.d.comb += self.peak.eq(best)
        return m


class VectorUnit(wiring.Component):
    """Executes the ``VectorOp`` steps of ``host.descriptor``, ``elements`` elements per cycle.

    ``docs/arithmetic.md`` has the formulas. Every step is one pass over its vector; ``busy`` is
    high for ``parameters.cycles(length, op)`` cycles from the cycle after the command is taken, and
    longer while the statistic waits. Elements beyond ``length`` in the last beat are written, but
    count neither for the statistic nor for the choice. No operand's beat is read in the cycle in
    which it is written, whether the result lies in the same place or does not overlap.

    EMBED's row is at word ``address + token * operand``: a word with the row's scale in element 0,
    then words of ``2 * elements`` int8 codes, in the order of their bytes.

    Members
    -------
    command : In(stream.Signature(VectorCommand))
        Taken while not busy.
    statistic : Out(stream.Signature(raw_layout(48)))
        After EMBED, GATE and RESIDUAL the largest magnitude of the result; after PEAK that of the
        gained vector; after NORM the energy; for register ``result`` of the command.
    busy : Out(1)
        Until all is written and the statistic was taken.
    choice : Out(16)
        Of the last CHOOSE, from the end of its ``busy`` on.
    tables, vectors, sums, multiplicands, states : Out(ReadSignature), in beats
    vectors_write, states_write : Out(WriteSignature), in beats
    activations_write : Out(WriteSignature)
        In beats of ``elements`` codes; row r begins at beat ``r * columns / elements``.
    """

    def __init__(self, parameters: VectorParameters):
        self.parameters = p = parameters
        v = p.elements

        def read(depth: int, width: int):
            return Out(ReadSignature(depth, data.ArrayLayout(signed(width), v)))

        super().__init__(
            {
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
        lanes = []
        for number in range(p.elements):
            m.submodules[f"lane_{number}"] = lane = VectorLane()
            lanes.append(lane)
            m.d.comb += [
                lane.control.eq(control),
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
        odd = self._addresses(m, beat, row, scale)
        self._writes(m, command.op, beat)
        self._embedding(m, control, lanes, scale, odd)
        data_at = p.read_latency
        present = (command.length - 1)[: exact_log2(p.elements)]
        m.d.comb += [
            noise.load.eq(accept),
            noise.state.eq(offered.noise),
            noise.step.eq(beat[data_at + VectorLane.WORD - 1]),
            statistics.clear.eq(accept),
            statistics.choose.eq(command.op == VectorOp.CHOOSE),
            statistics.valid.eq(beat[data_at + VectorLane.ENERGY]),
            *(
                statistics.present[number].eq(
                    ~last[data_at + VectorLane.ENERGY] | (present >= number)
                )
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

        has_energy = op == VectorOp.NORM
        has_statistic = has_energy | any_of(op, *PEAKED)
        reach = Signal(signed(EXPONENT_BITS), reset_less=True)
        exponent = Signal(signed(EXPONENT_BITS), reset_less=True)
        m.d.sync += [
            reach.eq(command.shift + block_shift(command.a.exponent)),
            exponent.eq(Mux(has_energy, reach << 1, Mux(op == VectorOp.PEAK, reach, 0))),
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
                    with m.If(offered.op == VectorOp.EMBED):
                        m.next = "ROW"
            with m.State("ROW"):
                m.d.comb += row.eq(1)
                m.d.sync += bits.eq(bits + 1)
                with m.If(bits == TOKEN_BITS - 1):
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
                with m.If(op == VectorOp.CHOOSE):
                    m.d.sync += self.choice.eq(statistics.index)
                with m.If(self.statistic.ready | ~has_statistic):
                    m.next = "IDLE"
        return runs, lasts, row, scale

    def _lane_control(self, m, command):
        """Constants and shift amounts, up to three cycles late: ahead of the first beat's use."""
        op, scale = command.op, command.b
        control = Signal(LaneControl, reset_less=True)
        scaled = Signal(reset_less=True)
        greedy = (op == VectorOp.CHOOSE) & command.greedy
        excess = Signal(signed(EXPONENT_BITS + 1), reset_less=True)
        code_excess = Signal(signed(EXPONENT_BITS + 1), reset_less=True)
        m.d.sync += [
            scaled.eq(any_of(op, *SCALED) | (op == VectorOp.NORM) & command.b_register),
            control.op.eq(op),
            control.space.eq(command.space),
            control.block.eq(Mux(any_of(op, *NORMED), block_shift(command.a.exponent), 0)),
            control.tabled.eq(any_of(op, *NORMED) & ~scaled),
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

    def _addresses(self, m, beat, row, scale):
        """Read addresses, which count at the beats that need them; returns EMBED's odd beats."""
        offered = self.command.payload
        op = offered.op
        late_beat = beat[VectorLane.LATE]
        for port, late, late_base in (
            (self.vectors, any_of(op, VectorOp.UPDATE, VectorOp.RESIDUAL), offered.operand),
            (self.multiplicands, op == VectorOp.GATE, offered.operand),
            (self.states, op == VectorOp.UPDATE, offered.dest),
            (self.sums, Const(0), offered.source),
        ):
            is_late = Signal()
            with m.If(self.command.ready):
                m.d.sync += [
                    port.address.eq(Mux(late, late_base, offered.source)),
                    is_late.eq(late),
                ]
            with m.Elif(Mux(is_late, late_beat, beat[0])):
                m.d.sync += port.address.eq(port.address + 1)

        # The table's address also collects token * operand, bit by bit.
        address = self.tables.address
        stride = Signal(len(address), reset_less=True)
        token = Signal(TOKEN_BITS, reset_less=True)
        embed, update, odd = Signal(), Signal(), Signal()
        count = Mux(embed, scale | beat[0] & odd, Mux(update, beat[VectorLane.BOUND], beat[0]))
        with m.If(self.command.ready):
            m.d.sync += [
                address.eq(offered.address),
                stride.eq(offered.operand),
                token.eq(offered.token),
                embed.eq(op == VectorOp.EMBED),
                update.eq(op == VectorOp.UPDATE),
                odd.eq(0),
            ]
        with m.Else():
            m.d.sync += [
                address.eq(address + Mux(row, Mux(token[0], stride, 0), count)),
                stride.eq(stride << 1),
                token.eq(token >> 1),
                odd.eq(odd ^ beat[0]),
            ]
        return odd

    def _embedding(self, m, control, lanes, scale, odd):
        """EMBED's coefficient, the row's scale, and its codes: half a word each beat."""
        words = self.tables.data.as_value()
        half = len(words) // 2
        codes = Mux(delay(m, odd, self.parameters.read_latency, name="odd"), words[half:], words)
        for number, lane in enumerate(lanes):
            m.d.comb += lane.code.eq(codes[CODE_BITS * number :])
        with m.If(delay(m, scale, self.parameters.read_latency, name="scale", reset_less=False)):
            m.d.sync += control.constant.eq(self.tables.data[0])

    def _writes(self, m, op, beat):
        """Write enables, and the one address that all written memories share."""
        p = self.parameters
        offered = self.command.payload
        written = beat[p.write_delay]
        beats_per_row = exact_log2(p.columns // p.elements)
        address = Signal(max(len(self.activations_write.address), 16), reset_less=True)
        with m.If(self.command.ready):
            is_row = offered.op == VectorOp.QUANT
            m.d.sync += address.eq(Mux(is_row, offered.dest << beats_per_row, offered.dest))
        with m.Elif(written):
            m.d.sync += address.eq(address + 1)
        for port, enable in (
            (
                self.vectors_write,
                any_of(op, VectorOp.EMBED, VectorOp.SILU, VectorOp.GATE, VectorOp.RESIDUAL),
            ),
            (self.states_write, op == VectorOp.UPDATE),
            (self.activations_write, op == VectorOp.QUANT),
        ):
            m.d.comb += [port.enable.eq(written & enable), port.address.eq(address)]
