"""When steps may be issued: what each of them needs of those before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from host.compiler.layout import ceil_div
from hw.arch.geometry import Geometry
from hw.arch.operations import OPERATIONS, Statistic, Table, VectorOp
from hw.arch.program import ANY, UNITS, ControlOp, Descriptor, ScalarOp, Space, Unit, unroll

Span = tuple[str, int, int]
"""Words ``[start, end)`` of a memory, or registers."""


@dataclass(frozen=True, kw_only=True)
class Uses:
    """What a step reads and what it writes.

    Parameters
    ----------
    unit : Unit
    reads, writes : tuple of Span
    late : tuple of Span
        What the vector unit reads late, beat by beat: so late that a step before it has written it,
        if it writes the very same span.
    """

    unit: Unit
    reads: tuple[Span, ...]
    writes: tuple[Span, ...]
    late: tuple[Span, ...] = ()

    @classmethod
    def of(cls, step: Descriptor, geometry: Geometry) -> Uses:
        by_unit = {Unit.ENGINE: _engine, Unit.VECTOR: _vector, Unit.SCALAR: _scalar}
        reads, writes = by_unit[step.unit](step, geometry)
        late = _late(step, geometry) if step.unit == Unit.VECTOR else []
        return cls(unit=step.unit, reads=tuple(reads), writes=tuple(writes), late=tuple(late))

    def must_follow(self, earlier: Uses) -> bool:
        """Whether it must not be issued before an earlier step's end.

        Steps of one unit read and write in order; only what one of them has yet to write must not
        be read by the next.
        """
        late = [s for s in self.late if self.unit != earlier.unit or s not in earlier.writes]
        if _meet((*self.reads, *late), earlier.writes):
            return True
        # Registers are read when a step is issued, memories as long as it is under way.
        read = [span for span in (*earlier.reads, *earlier.late) if span[0] != "registers"]
        return self.unit != earlier.unit and _meet(self.writes, (*earlier.writes, *read))


def _meet(some: Iterable[Span], others: Iterable[Span]) -> bool:
    return any(
        place == where and start < last and first < end
        for place, start, end in some
        for where, first, last in others
    )


def _register(number: int) -> Span:
    return ("registers", number, number + 1)


def _engine(step: Descriptor, geometry: Geometry) -> tuple[list[Span], list[Span]]:
    beats = step.length * geometry.drain_beats
    return (
        [("activations", step.source, step.source + step.operand)],
        [(Space(step.space).name.lower(), step.dest, step.dest + beats)],
    )


def _vector(step: Descriptor, geometry: Geometry) -> tuple[list[Span], list[Span]]:
    row = OPERATIONS[VectorOp(step.op)]
    beats = ceil_div(step.length, geometry.elements)
    reads, writes = [], []
    if row.table != Table.ROW:
        reads.append((Space(step.space).name.lower(), step.source, step.source + beats))
        reads.append(_register(step.a))
    if row.scaled or step.b_register:
        reads.append(_register(step.b))
    if row.writes == "activations":
        beats = ceil_div(step.length, geometry.columns)
    if row.writes is not None:
        writes.append((row.writes, step.dest, step.dest + beats))
    if row.measured:
        writes.append(_register(step.result))
    if row.statistic == Statistic.BOTH:
        writes.append(_register(step.result + 1))
    return reads, writes


def _late(step: Descriptor, geometry: Geometry) -> list[Span]:
    beats = ceil_div(step.length, geometry.elements)
    starts = {m: getattr(step, field) for m, field in OPERATIONS[VectorOp(step.op)].reads.items()}
    return [(memory, start, start + beats) for memory, start in starts.items()]


def _scalar(step: Descriptor, geometry: Geometry) -> tuple[list[Span], list[Span]]:
    reads = []
    if step.op in (ScalarOp.MUL, ScalarOp.DIV, ScalarOp.ADD):
        reads.append(_register(step.a))
    if step.b_register:
        reads.append(_register(step.b))
    return reads, [_register(step.result)]


def ordered(program: Sequence[Descriptor], geometry: Geometry) -> list[Descriptor]:
    """The program, each step with how many steps of each unit it may leave under way.

    Two layers tell what a layer needs of the one before it. A control step that ends a token leaves
    none, which all steps before the first one of the next token have therefore passed.
    """
    left = [dict.fromkeys(UNITS, ANY) for _ in program]
    short = [
        replace(step, length=min(2, step.length)) if step.unit == Unit.CONTROL else step
        for step in program
    ]
    under_way: list[Uses] = []
    for number, _, step in unroll(short):
        if step.unit == Unit.CONTROL:
            if step.op != ControlOp.REPEAT:
                left[number] = dict.fromkeys(UNITS, 0)
                under_way.clear()
            continue
        uses, allowed = Uses.of(step, geometry), left[number]
        later: Counter[Unit] = Counter()
        for earlier in reversed(under_way):
            if uses.must_follow(earlier):
                allowed[earlier.unit] = min(allowed[earlier.unit], later[earlier.unit], ANY - 1)
            later[earlier.unit] += 1
        for unit in UNITS:
            for _ in range(later[unit] - allowed[unit] if allowed[unit] < ANY else 0):
                under_way.remove(next(earlier for earlier in under_way if earlier.unit == unit))
        under_way.append(uses)
    return [step.leaving(allowed) for step, allowed in zip(program, left, strict=True)]
