"""How long the vector unit takes, and of what shape it is."""

from dataclasses import dataclass, fields

from amaranth.utils import bits_for, exact_log2

from hw.arch.operations import LATE, OPERATIONS, Table, VectorOp
from hw.memory.signatures import READ_LATENCY
from hw.parameters import require_positive
from hw.turns import of_context
from hw.units.commands import INDEX_BITS, TOKEN_BITS
from hw.units.embedding import EmbeddingParameters
from hw.units.lane import ENERGY_BITS
from hw.units.stages import Stage, stages
from hw.units.statistics import CompactStatistics, Statistics
from hw.units.vector_model import Outcome, compute

EMBED_CYCLES = TOKEN_BITS + 1
"""Cycles that EMBED takes before its first beat: the row's address and its scale."""

STATISTIC_CYCLES = 7
"""Least cycles from a step's statistic to that of the next: the way of one to its register, where
the scalar unit and a run's beginning go first. A compact unit waits until it is ``ready``."""


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
        Elements of the memories, for each context.
    read_latency : int
        Cycles from an address to its data, of all memories; at least 3, 1 in a compact unit.
    contexts : int
        Parts of those memories, one after the other.
    embedding : EmbeddingParameters or None
        The memory of embedding rows, where they do not lie in the table store.
    compact : bool
        One step at a time, whose command stays offered until all is done, and one beat of it at a
        time: so hardly anything needs a register.
    statistic_cycles : int
        From a statistic of a compact unit until the next one is taken.
    """

    elements: int
    columns: int
    table_words: int
    sums: int
    multiplicands: int
    vectors: int
    states: int
    activations: int
    read_latency: int = READ_LATENCY
    contexts: int = 1
    embedding: EmbeddingParameters | None = None
    compact: bool = False
    statistic_cycles: int = STATISTIC_CYCLES

    def __post_init__(self):
        require_positive(self)
        if self.elements not in (1, 2, 4, 8):
            raise ValueError(f"elements must be 1, 2, 4 or 8, not {self.elements!r}")
        if self.read_latency < (least := 1 if self.compact else 3):
            raise ValueError(f"read_latency must be at least {least}, not {self.read_latency!r}")
        if self.columns & (self.columns - 1) or self.columns < self.elements:
            raise ValueError(
                f"columns must be a power of two and at least elements ({self.elements}), "
                f"not {self.columns!r}"
            )

    @classmethod
    def from_geometry(cls, geometry, **options) -> "VectorParameters":
        names = {f.name for f in fields(cls)} & {f.name for f in fields(geometry)}
        return cls(**{name: getattr(geometry, name) for name in names}, **options)

    def words(self, memory: str) -> int:
        """Of a memory, for each context."""
        return getattr(self, memory) // self.elements

    def address_of(self, memory: str, context, address):
        """A context's address of a memory."""
        return of_context(address, self.words(memory), context)

    @property
    def dest_bits(self) -> int:
        """Of an address in beats, of any written memory."""
        return max(bits_for(self.contexts * self.words("activations") - 1), INDEX_BITS)

    @property
    def index_bits(self) -> int:
        """Of an element's number, and of a length less one: no step has more than a memory."""
        beats = max(self.sums, self.multiplicands, self.vectors, self.states) // self.elements
        return bits_for(beats - 1) + exact_log2(self.elements)

    @property
    def statistic_bits(self) -> int:
        """Of the largest sum of squares."""
        return ENERGY_BITS + self.index_bits

    def at(self, stage: Stage) -> int:
        """Cycles from the address of a beat's main operand until it is at a stage."""
        return self.read_latency + stages(self.compact)[stage]

    @property
    def write_delay(self) -> int:
        """Cycles from the address of a beat's main operand to the write of its result."""
        return self.at(Stage.RESULT)

    @property
    def earlier(self) -> int:
        """Cycles from an element's energy to its result."""
        return self.at(Stage.RESULT) - self.at(Stage.GATED)

    @property
    def pace(self) -> int:
        """Cycles of a beat: the next one's address comes when its result was written."""
        return self.write_delay + 1 if self.compact else 1

    @property
    def latency(self) -> int:
        """Cycles of a step beside one per beat."""
        statistics = CompactStatistics if self.compact else Statistics
        return self.write_delay + statistics.latency(self.elements)

    @property
    def handover(self) -> int:
        """Cycles from a step's first beat until what is left of its command moves on."""
        return self.latency // 2

    @property
    def spacing(self) -> int:
        """Least cycles from a step's first beat to that of the next.

        Each of the two places of a command has to last for the cycles that lie behind it, late
        reads begin with what the first one holds, and find what the step before has written.
        """
        written = self.write_delay + 1 - Stage.LATE
        return max(self.handover, self.latency - self.handover, Stage.LATE, written)

    def period(
        self,
        length: int,
        op: VectorOp = VectorOp.NORM,
        operand: int = 0,
        following=None,
    ) -> int:
        """Cycles from the acceptance of a command until the next one can be accepted.

        Operands that are needed late are read late, through ports that a step of another operation
        might need. A short step must not end too soon after this one. A compact unit begins with
        the next command at once, or when a statistic would be taken, and takes it when it is
        `holding` it no longer.

        Parameters
        ----------
        following
            The next command, with ``op`` and ``length``; by default long, and of another one.
        """
        if self.compact:
            free = self.statistic_cycles if OPERATIONS[op].measured else 1
            return max(1, free + min(0, self._behind(op)))
        beats = after = -(-length // self.elements)
        if op in LATE and (following is None or following.op != op):
            after = beats + Stage.LATE + 1
        if following is not None:
            after = max(after, beats + self.apart(op) - -(-following.length // self.elements))
        return max(after, self.spacing) + self._before(op, operand)

    def holding(self, length: int, op: VectorOp = VectorOp.NORM, operand: int = 0) -> int:
        """Cycles for which a command is offered to a compact unit that is idle before it is taken.

        ``operand`` is that of the command, which counts for EMBED alone.
        """
        if not self.compact:
            return 0
        beats = self.pace * (-(-length // self.elements) - 1)
        return 1 + beats + self.latency + self._before(op, operand) + max(0, self._behind(op))

    def cycles(self, length: int, op: VectorOp = VectorOp.NORM, operand: int = 0) -> int:
        """Cycles from the acceptance of a command until all is written and the statistic is given.

        A compact unit takes it when that is done, after an energy that nothing follows.
        ``operand`` is that of the command, which counts for EMBED alone.
        """
        if self.compact:
            return min(0, self._behind(op))
        beats = -(-length // self.elements) + self.latency
        return beats + self._before(op, operand) + self._behind(op)

    def apart(self, op: VectorOp) -> int:
        """Least cycles from the end of an operation's beats to that of any next one's.

        One statistic has to be in its register before the next one comes, and steps end in order.
        """
        return max(0, self._behind(op)) + self.statistic_cycles + self.earlier

    def _behind(self, op: VectorOp) -> int:
        """Cycles of a command more than others have: an energy is there early, a peak beside it
        waits until that is in its register."""
        if not OPERATIONS[op].energy:
            return 0
        return self.statistic_cycles * OPERATIONS[op].peak - self.earlier

    def _before(self, op: VectorOp, operand: int) -> int:
        """Cycles of a command before its first beat."""
        if OPERATIONS[op].table != Table.ROW:
            return 0
        return EMBED_CYCLES + (self.embedding.cycles(operand) if self.embedding else 0)

    def compute(self, command, memories) -> Outcome:
        """What a step does, as `vector_model.compute` has it."""
        rows = "embedding" if self.embedding else "tables"
        return compute(command, memories, self.elements, rows)
