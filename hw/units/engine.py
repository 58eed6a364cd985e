"""The ternary engine: ``rows`` dot products of int8 codes with trits, by adders only."""

from dataclasses import dataclass
from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.arch.arithmetic import CODE_BITS, TRIT_BITS
from hw.arch.geometry import CONTEXT_BITS
from hw.arch.memories import memories
from hw.memory.signatures import READ_LATENCY, ReadSignature, RowStreamSignature, SumSignature
from hw.parameters import require_positive
from hw.pipeline import KEEP, delay
from hw.turns import Turns, of_context
from hw.units.accumulator import CHUNK
from hw.units.cascade import CascadeRow, skew, sum_bits
from hw.units.commands import EngineCommand
from hw.units.row import TernaryRow

COUNT_BITS = 16


@dataclass(frozen=True, kw_only=True)
class EngineParameters:
    """Shape of a ternary engine.

    Parameters
    ----------
    rows, columns : int
        Dot products that advance per cycle and terms of each.
    elements : int
        Sums that leave per cycle; divides ``rows``.
    weight_rows, activation_rows : int
        Depth of the memories that the engine reads.
    beats : int
        Depth of the deeper one of the banks that it writes.
    contexts : int
        Parts of those memories, one after the other: no product takes codes of two of them.
    shared : bool
        Whether a command may be for several contexts, for all of which a weight row is taken once.
    read_latency : int
        Cycles from an address of the activation memory to its data.
    row_latency : int
        Cycles from a weight row's transfer to its data; at least ``read_latency``.
    fanout : int
        Rows of lanes served by one copy of the activation register.
    chain : int
        Lanes of a row that hand a sum on, as `CascadeRow` has them; divides ``columns``. 1: none
        does, a tree adds all terms.
    compact : bool
        Whether rows that are trees, and of one context, go without registers before their lanes
        and beside their accumulators: these are empty again a cycle later.
    """

    rows: int
    columns: int
    elements: int
    weight_rows: int
    activation_rows: int
    beats: int
    read_latency: int = READ_LATENCY
    row_latency: int = READ_LATENCY
    fanout: int = 16
    chain: int = 1
    contexts: int = 1
    shared: bool = False
    compact: bool = False

    def __post_init__(self):
        require_positive(self)
        if self.rows % self.elements:
            raise ValueError(
                f"rows must be a multiple of elements ({self.elements}), not {self.rows!r}"
            )
        if self.columns % self.chain:
            raise ValueError(
                f"chain must divide columns ({self.columns}), which {self.chain!r} does not"
            )
        if self.row_latency < self.read_latency:
            raise ValueError(
                f"row_latency must be at least read_latency ({self.read_latency}), "
                f"not {self.row_latency!r}"
            )

    @classmethod
    def from_geometry(cls, geometry, **options) -> "EngineParameters":
        words = {name: memory.words for name, memory in memories(geometry).items()}
        return cls(
            rows=geometry.rows,
            columns=geometry.columns,
            elements=geometry.elements,
            weight_rows=words["weights"],
            activation_rows=words["activations"],
            beats=max(words["sums"], words["multiplicands"]),
            contexts=geometry.contexts,
            **options,
        )

    @property
    def lanes(self) -> int:
        return self.rows * self.columns

    @property
    def drain_beats(self) -> int:
        """Cycles that the sums of one group take to leave."""
        return self.rows // self.elements

    @property
    def depth(self) -> int:
        """Adders, each with a register, from a row's first lanes to its accumulator.

        Those of a cascade, and the levels of the tree.
        """
        return self.chain - 1 + (self.columns // self.chain - 1).bit_length()

    @property
    def lean(self) -> bool:
        """Whether its rows are compact ones."""
        return self.compact and self.chain == 1 and not self.shared

    @property
    def broadcast(self) -> int:
        """Cycles from the data of codes and rows to the lanes."""
        return int(not self.lean)

    @property
    def gating(self) -> int:
        """Cycles from a row's sum to what leaves: rows of cascades are no shift register, and those
        of compact ones take it from the accumulator."""
        return int(self.chain > 1 or self.lean)

    @property
    def apart(self) -> int:
        """Least cycles from a group's last chunk to the next one's."""
        return max(self.drain_beats, 1 + self.lean)

    @property
    def latency(self) -> int:
        """Cycles from the transfer of a group's last row until its last sum is in the bank.

        The read, the broadcast register, the adders of a row, the accumulator, and the drain.
        """
        return self.row_latency + self.broadcast + self.depth + 1 + self.gating + self.drain_beats

    def period(self, chunks: int, contexts: int = 1) -> int:
        """Cycles from one group to the next."""
        lasts = (contexts - 1) * self.apart
        return lasts + max(contexts * (chunks - 1) + 1 + self.lean, self.apart)

    def taking(self, groups: int, chunks: int, contexts: int = 1) -> int:
        """Cycles from the acceptance of a command until its last chunk enters the lanes.

        Of the last chunks of a group each is a drain behind the one before. Of a store that is
        never late.
        """
        last = contexts * (chunks - 1) + 1 + (contexts - 1) * self.apart
        return (groups - 1) * self.period(chunks, contexts) + last

    def spacing(self, groups: int, chunks: int, contexts: int = 1) -> int:
        """Cycles from the acceptance of a command until the next one can be accepted.

        Sums of two commands must not drain at once; and where they go is kept for one command,
        until its first ones drain. Of a store that is never late.
        """
        first = contexts * (chunks - 1) + 1 + self.latency - self.drain_beats
        return max(self.taking(groups, chunks, contexts) + max(1, self.apart - 1), first)

    def cycles(self, groups: int, chunks: int, contexts: int = 1) -> int:
        """Cycles from the acceptance of a command until its last sum is in the bank.

        Of a store that is never late; each cycle of waiting for a row is one more.
        """
        return self.taking(groups, chunks, contexts) + self.latency

    def compute(self, codes, trits) -> list[int]:
        """Sums of the rows of ``trits`` (2-bit codes) with ``codes``."""
        return [
            sum(int(x) * (1 - (int(t) & 2)) for x, t in zip(codes, row, strict=True) if t & 1)
            for row in trits
        ]

    def create(self) -> "TernaryEngine":
        return TernaryEngine(self)

    def create_row(self) -> TernaryRow | CascadeRow:
        sums = self.contexts if self.shared else 1
        if self.chain == 1:
            return TernaryRow(self.columns, sums, compact=self.lean)
        terms = self.activation_rows // self.contexts * self.columns
        return CascadeRow(self.columns, chain=self.chain, bits=sum_bits(terms), contexts=sums)


class TernaryEngine(wiring.Component):
    """Product of a ternary matrix with a vector of int8 codes, from memory to memory.

    For groups g and chunks k it takes row ``weights + g * chunks + k`` of the weight store (it asks
    once for the first one, all others follow) and reads row ``activations + k`` of the activation
    memory; lane ``r * columns + c`` of a weight row is its bits ``[2 * lane +: 2]``. Row r of group
    g goes to element ``r % elements`` of beat ``dest + g * drain_beats + r // elements``. Sums are
    24 bits. Where a command is for several ``contexts``, each row is taken once and is multiplied
    with the codes of one after the other, from those of the lowest on.

    A chunk per cycle; a group takes ``parameters.period(chunks, contexts)`` cycles, the whole
    ``parameters.cycles(groups, chunks, contexts)`` and one cycle more for each in which
    ``weights.ready`` is high and ``weights.valid`` low: a row that is not there yet stops
    everything that leads to its transfer, and nothing behind it. So a row that comes late costs its
    lateness, and no sum.

    Members
    -------
    command : ``In(stream.Signature(EngineCommand))``
        Ready ``parameters.spacing(groups, chunks, contexts)`` cycles after the last one, whose sums
        may still be on their way. ``groups`` and ``chunks`` are at least 1, and there is a context:
        one, unless rows are ``shared``.
    busy : ``Out(1)``
        From the cycle after acceptance until the last sum of all commands is in its bank: what is
        read in the first cycle with ``busy`` low is the new value.
    done : ``Out(1)``
        The last sum of a command goes into its bank.
    active : ``Out(1)``
        A chunk enters the lanes.
    weights : ``Out(RowStreamSignature(weight_rows, 2 * lanes))``
    activations : ``Out(ReadSignature(activation_rows, 8 * columns))``
    sums : ``Out(SumSignature(beats, elements))``
    """

    def __init__(self, parameters: EngineParameters):
        self.parameters = p = parameters
        super().__init__(
            {
                "command": In(stream.Signature(EngineCommand)),
                "busy": Out(1),
                "done": Out(1),
                "active": Out(1),
                "weights": Out(RowStreamSignature(p.weight_rows, TRIT_BITS * p.lanes)),
                "activations": Out(ReadSignature(p.activation_rows, CODE_BITS * p.columns)),
                "sums": Out(SumSignature(p.beats, p.elements)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        command = self.command.payload

        # Chunks: one per cycle, and those that end a group no nearer to each other than sums drain.
        # Time stands still here while a row is awaited, those pauses included.
        m.submodules.turns = turns = Turns(p.contexts)
        chunks = Signal(COUNT_BITS)  # less one, as all counts here
        chunks_left = Signal(COUNT_BITS)
        groups_left = Signal(COUNT_BITS)
        drain_left = Signal(range(p.apart))
        emptied = Signal()  # the cycle in which compact rows begin again
        dest = Signal.like(self.sums.address)
        bank = Signal()
        held = Signal()  # these two are of a command whose first sums have not left
        opening = Signal()  # the command's first group
        under_way = Signal(2)  # commands
        first_activation = Signal(range(p.activation_rows))
        activation = Signal(range(p.activation_rows))
        issuing = Signal()
        again = Signal()  # the row is there, and others have had it
        ends_group = Signal()  # no chunk is left
        paused = Signal()
        entering = Signal()
        row_done = Signal()
        late = Signal()
        taken = Signal()
        last = Signal()
        final = Signal()
        m.d.comb += [
            self.command.ready.eq(~issuing & ~held & (drain_left <= 1)),
            self.busy.eq(under_way != 0),
            self.weights.seek.eq(self.command.valid & self.command.ready),
            self.weights.first.eq(command.weights),
            paused.eq((ends_group & (drain_left != 0)) | emptied),
            self.weights.ready.eq(issuing & ~again & ~paused),
            taken.eq(self.weights.ready & self.weights.valid),
            late.eq(self.weights.ready & ~self.weights.valid),
            entering.eq(taken | (again & ~paused)),
            row_done.eq(entering & (turns.after == 0)),
            last.eq(entering & ends_group),
            final.eq(row_done & ends_group & (groups_left == 0)),
            turns.members.eq(Mux(self.weights.seek, command.contexts, turns.taking)),
            turns.load.eq(self.weights.seek | row_done),
            turns.next.eq(entering & ~row_done),
        ]
        if p.shared:
            with m.If(entering):
                m.d.sync += again.eq(~row_done)
        with m.If(row_done):
            m.d.sync += [
                activation.eq(activation + 1),
                chunks_left.eq(chunks_left - 1),
                ends_group.eq(Mux(ends_group, chunks == 0, chunks_left == 1)),
            ]
            with m.If(ends_group):
                m.d.sync += [
                    issuing.eq(~final),
                    opening.eq(0),
                    activation.eq(first_activation),
                    chunks_left.eq(chunks),
                    groups_left.eq(groups_left - 1),
                ]
        if p.lean:
            m.d.sync += emptied.eq(last)
        with m.If(last):
            m.d.sync += drain_left.eq(p.apart - 1)
        with m.Elif((drain_left != 0) & ~late):
            m.d.sync += drain_left.eq(drain_left - 1)
        with m.If(self.weights.seek):
            m.d.sync += [
                held.eq(1),
                opening.eq(1),
                issuing.eq(1),
                activation.eq(command.activations),
                first_activation.eq(command.activations),
                chunks.eq(command.chunks - 1),
                chunks_left.eq(command.chunks - 1),
                ends_group.eq(command.chunks == 1),
                groups_left.eq(command.groups - 1),
                bank.eq(command.bank),
                dest.eq(command.dest),
            ]

        early = p.row_latency - p.read_latency
        own = p.activation_rows // p.contexts
        address = of_context(activation, own, turns.number)[: len(self.activations.address)]
        m.d.comb += self.activations.address.eq(delay(m, address, early, name="activation"))

        # What accompanies a chunk.
        layout = data.StructLayout(
            {
                "present": 1,
                "last": 1,  # of its group
                "first": 1,  # of its group
                "row": 1,  # it comes with a new row
                "opens": 1,  # the first sums of a command
                "again": 1,  # the same group as the sums before, of another context
                "final": 1,  # the last sums of a command
                "context": CONTEXT_BITS,
            }
        )
        flags = [Signal(layout, name="flags")]
        m.d.comb += [
            flags[0].present.eq(entering),
            flags[0].last.eq(last),
            flags[0].first.eq(chunks_left == chunks),
            flags[0].row.eq(taken),
            flags[0].opens.eq(last & opening & ~again),
            flags[0].again.eq(again),
            flags[0].final.eq(final),
            flags[0].context.eq(turns.number),
        ]
        marked = p.row_latency + p.broadcast + p.depth - 1
        for cycle in range(marked + 1 + p.gating):
            flags.append(Signal(layout, name=f"flags_{cycle + 1}"))
            m.d.sync += flags[-1].eq(flags[-2])
        chunk = flags[marked]
        m.d.comb += self.active.eq(flags[p.row_latency].present)

        # Lanes.
        trits = Signal(data.ArrayLayout(TRIT_BITS, p.lanes), reset_less=True)
        to_lanes = m.d.sync if p.broadcast else m.d.comb
        # A row that is shared stays until the next one is there.
        with m.If(flags[p.row_latency].row | (not p.shared)):
            to_lanes += trits.eq(self.weights.data)
        rows = [p.create_row() for _ in range(p.rows)]
        in_time = None
        for r, row in enumerate(rows):
            if r % p.fanout == 0:
                codes = Signal(row.codes.shape(), reset_less=True, attrs=KEEP)
                to_lanes += codes.eq(self.activations.data)
                in_time = self._in_time(m, codes, f"codes_{r}")
            m.submodules[f"row_{r}"] = row
            own = [trits[r * p.columns + c] for c in range(p.columns)]
            m.d.comb += [
                Cat(row.codes).eq(in_time),
                Cat(row.trits).eq(self._in_time(m, own, f"trits_{r}")),
                *(getattr(row, name).eq(chunk[name]) for name in CHUNK),
            ]
            if p.chain == 1 and r + p.elements < p.rows:
                m.d.comb += row.above.eq(rows[r + p.elements].sum)

        # Drain.
        beats_left = Signal(range(p.drain_beats))
        closing = Signal()
        sums, captured = self.sums, flags[-1]
        m.d.comb += self.done.eq(sums.enable & (beats_left == 0) & closing)
        m.d.sync += under_way.eq(under_way + self.weights.seek - self.done)
        in_turn = self._taken(m, rows, captured.last) if p.chain > 1 else [row.sum for row in rows]
        m.d.comb += [sums.data[i].eq(in_turn[i]) for i in range(p.elements)]
        with m.If(sums.enable):
            m.d.sync += sums.address.eq(sums.address + 1)
            m.d.sync += beats_left.eq(beats_left - 1)
            with m.If(beats_left == 0):
                m.d.sync += sums.enable.eq(0)
        with m.If(captured.last):
            m.d.sync += [
                sums.enable.eq(1),
                sums.context.eq(captured.context),
                beats_left.eq(p.drain_beats - 1),
                closing.eq(captured.final),
            ]
        if p.shared:  # as many beats back as the context before had
            behind = Signal(len(sums.address))
            m.d.comb += behind.eq(Mux(sums.enable, sums.address + 1, sums.address))
            with m.If(captured.last & captured.again):
                m.d.sync += sums.address.eq(behind - p.drain_beats)
        with m.If(captured.opens):
            m.d.sync += sums.address.eq(dest), sums.bank.eq(bank), held.eq(0)
        return m

    def _in_time(self, m, columns, name: str):
        """Codes or trits of a row, each in the cycle in which its lane takes it."""
        chain = self.parameters.chain
        return Cat(
            delay(m, value, skew(c % chain), name=f"{name}_{c}") for c, value in enumerate(columns)
        )

    def _taken(self, m, rows, captured):
        """What leaves, by elements, where each row is taken in its turn."""
        elements = self.parameters.elements
        for beat in range(0, len(rows), elements):
            m.d.comb += [row.take.eq(captured) for row in rows[beat : beat + elements]]
            captured = delay(m, captured, 1, name=f"taken_{beat}", reset_less=False)
        return [
            reduce(or_, (row.sum.as_unsigned() for row in rows[i::elements])).as_signed()
            for i in range(elements)
        ]
