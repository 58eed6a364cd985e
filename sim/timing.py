"""How long a token takes, from the program alone.

The sequencer issues steps in order, those of a layer once for each, every one of them once for each
context that runs, and no step's duration depends on data, so that a token is a fixed timetable:
this replays it with the cycles that each unit states of itself. Where weights come from a memory
beside the chip, they are late by what it needs on average. All units are idle between tokens, hence
every token that chooses takes the same time, and every prompt token before them takes that of the
program's first part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from host.compiler import Image
from hw.arch.operations import OPERATIONS, VectorOp, which
from hw.arch.program import ANY, UNITS, ControlOp, Descriptor, ScalarOp, Unit, unroll
from hw.arch.protocol import Totals
from hw.control.sequencer import READ_CYCLES, Sequencer
from hw.machine import Machine, RowStoreParameters


@dataclass(frozen=True, kw_only=True)
class TimedStep:
    """When a step happens; cycles count from the first one of its token.

    Parameters
    ----------
    number : int
        Of the step in the program.
    layer : int or None
        The layer for which it is executed, if it is one of a layer.
    kind : str
        Name of the step in the program.
    descriptor : Descriptor
        What is executed: the program's one, moved on to its layer.
    fetched : int
        Its first cycle: the one before it was issued in the cycle before.
    ready : int
        It could be issued if every unit were idle.
    issued : int
        It is issued.
    begun : int
        Its unit begins with it, and works from the cycle after: as it is issued, later where it was
        queued, before that where a compact unit takes it only when it is done.
    idle : int
        First cycle in which all that it does is done and its result can be used.
    freed : int
        First cycle in which what it waited for was over: the blocker's ``idle``, or that in which
        the unit, or the queue before it, could take the step while the blocker was under way.
    blocker : TimedStep or None
        The step that it waited for longest.
    context : int
        Whose it is, counted from 0 among those that run; the first one's, if it is for several.
    contexts : int
        That it is for.
    """

    number: int
    layer: int | None
    kind: str
    descriptor: Descriptor
    fetched: int
    ready: int
    issued: int
    begun: int
    idle: int
    freed: int
    blocker: TimedStep | None = field(repr=False, compare=False)  # a chain as long as the program
    context: int = 0
    contexts: int = 1

    @property
    def unit(self) -> Unit:
        return self.descriptor.unit

    @property
    def cycles(self) -> int:
        """What the sequencer's counter of this step counts each time."""
        return self.issued - self.fetched + 1

    @property
    def worked(self) -> int:
        """Cycles in which its unit works on it."""
        return self.idle - self.begun - 1

    @property
    def waited(self) -> int:
        """Cycles that it was kept from being issued, or a compact unit from beginning with it."""
        return min(self.issued, self.begun) - self.ready

    @property
    def waited_for(self) -> str:
        """Why: ``own unit``, ``engine``, ``vector``, ``scalar``, or ``nothing``."""
        if self.blocker is None:
            return "nothing"
        own = self.blocker.unit == self.unit
        return "own unit" if own else self.blocker.unit.name.lower()

    @property
    def section(self) -> str:
        """``layer N``, or an empty text for a step of no layer."""
        return "" if self.layer is None else f"layer {self.layer}"

    @property
    def name(self) -> str:
        """Its kind, with the layer if it is one of a layer."""
        return f"{self.section} {self.kind}".strip()


@dataclass(frozen=True, kw_only=True)
class Span:
    """Cycles ``[start, end)`` that a token owes to one step.

    Either the step's unit works while the next step on the path waits for it (``working``), or the
    sequencer fetches and issues the step.
    """

    start: int
    end: int
    step: TimedStep
    working: bool


class Supply:
    """When the rows of a store are there, as far as their times on average tell.

    Rows come at one pace, and go on coming while nobody takes them, as long as there is room.

    Parameters
    ----------
    store : RowStoreParameters
    """

    def __init__(self, store: RowStoreParameters):
        self._store = store
        self._next: int | None = None  # the row that comes next
        self._ahead = 0.0  # rows that are there, at a cycle; less than none while they are sought
        self._cycle = 0.0

    def take(self, first: int, rows: int, cycle: int, least: int) -> int:
        """Cycles that rows take, which are asked for at a cycle, and ``least`` if none is late."""
        pace = self._store.row_cycles
        if not pace:
            return least
        if first == self._next:
            self._ahead += (cycle - self._cycle) / pace
        else:
            self._ahead = 1 - self._store.seek_cycles / pace
        self._ahead = min(self._ahead, self._store.kept)
        took = max(least, math.ceil((rows - self._ahead) * pace))
        self._ahead += took / pace - rows
        self._next, self._cycle = first + rows, cycle + took
        return took


@dataclass
class Flight:
    """A step that was issued.

    Parameters
    ----------
    number : int
        In the order in which steps are executed.
    begun : int
        The unit takes it.
    idle : int
        First cycle in which all that it does is done.
    ready : function of Descriptor
        First cycle in which its unit can take that step next.
    to_register : bool
        The vector unit's scale for a register is the last thing that it does.
    """

    number: int
    begun: int
    idle: int
    ready: Callable[[Descriptor], int]
    to_register: bool = False


class UnitClock:
    """When the units of a machine are busy, as steps are issued to them.

    Parameters
    ----------
    machine : Machine
    """

    def __init__(self, machine: Machine):
        self._machine = machine
        self._supply = Supply(machine.weights)
        self.flights: dict[Unit, list[Flight]] = {unit: [] for unit in UNITS}

    def left(self, unit: Unit, steps: int | None) -> Flight | None:
        """The step of a unit that must be over so that no more than some are under way."""
        flights = self.flights[unit]
        return flights[-1 - steps] if steps is not None and steps < len(flights) else None

    def place(self, step: Descriptor, cycle: int) -> tuple[int, Flight | None]:
        """First cycle from this one on in which a step is taken, by its unit or by the queue before
        that, or in which a compact unit begins with it, and the step that is in the way."""
        flights, queued = self.flights.get(step.unit, ()), self._machine.queued
        if len(flights) <= max(0, queued - 1):
            return cycle, None
        before = flights[-max(1, queued)]
        free = before.begun + 1 if queued else before.ready(step)
        return (free, before) if free > cycle else (cycle, None)

    def holding(self, step: Descriptor) -> int:
        """Cycles from that until a compact unit takes it, which is when it is done."""
        if step.unit != Unit.VECTOR:
            return 0
        return self._machine.vector.holding(step.length, VectorOp(step.op), step.operand)

    def issue(self, number: int, step: Descriptor, cycle: int, contexts: int = 1) -> int:
        """A step for some contexts goes to its unit or to the queue before that; the cycle in which
        the unit takes it."""
        units = self._machine
        if step.unit not in UNITS:
            return cycle
        if units.queued:
            waiting = self.flights[step.unit]
            cycle = max([cycle + 1, *(flight.ready(step) for flight in waiting[-1:])])
        match step.unit:
            case Unit.ENGINE:
                engine = units.engine
                shape = step.length, step.operand, contexts
                least = engine.taking(*shape)
                rows = step.length * step.operand
                late = self._supply.take(step.address, rows, cycle, least) - least
                free = cycle + late + engine.spacing(*shape)
                flight = Flight(
                    number=number,
                    begun=cycle,
                    idle=cycle + late + least + engine.latency,
                    ready=lambda _: free,
                )
            case Unit.SCALAR:
                idle = cycle + units.scalar.cycles(ScalarOp(step.op))
                flight = Flight(number=number, begun=cycle, idle=idle, ready=lambda _: idle)
                # The register file takes the scalar unit's result first.
                for other in self.flights[Unit.VECTOR]:
                    other.idle += other.to_register and other.idle == idle
            case _:
                op = VectorOp(step.op)
                vector = units.vector
                idle = cycle + vector.cycles(step.length, op, step.operand) + 1
                if OPERATIONS[op].measured:
                    # The last cycle hands the statistic over; its scale goes to the registers.
                    idle += units.normaliser.latency
                    idle += any(other.idle == idle for other in self.flights[Unit.SCALAR])
                flight = Flight(
                    number=number,
                    begun=cycle,
                    idle=idle,
                    ready=lambda following: (
                        cycle + vector.period(step.length, op, step.operand, following)
                    ),
                    to_register=OPERATIONS[op].measured,
                )
        self.flights[step.unit].append(flight)
        return cycle


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The timetable of a token, or of one in each of several contexts.

    Parameters
    ----------
    image : Image
    steps : tuple of TimedStep
        Of a token after which one is chosen, in order; those of a layer are there for each, and
        those of a unit for each context.
    contexts : int
        That run side by side, or of which each takes a token of one prompt.
    chained : bool
        Whether they do the latter; a token is chosen after the last of them alone.
    """

    image: Image
    steps: tuple[TimedStep, ...]
    contexts: int = 1
    chained: bool = False

    @property
    def _end(self) -> int:
        """Cycles after the last step."""
        return (1 if self.chained else self.contexts) * Sequencer.END_CYCLES

    @property
    def cycles(self) -> int:
        """Cycles of a token after which one is chosen, in each context."""
        return self.steps[-1].issued + 1 + self._end

    @cached_property
    def prefill(self) -> tuple[TimedStep, ...]:
        """Steps of a prompt token after which nothing is chosen."""
        end = (Unit.CONTROL, ControlOp.PREFILL_END)
        kinds = [(step.unit, step.descriptor.op) for step in self.steps]
        return self.steps[: kinds.index(end) + 1] if end in kinds else self.steps

    @property
    def prefill_cycles(self) -> int:
        """Cycles of a prompt token after which nothing is chosen."""
        return self.prefill[-1].issued + 1 + self._end

    @property
    def engine_cycles(self) -> int:
        """Cycles of a token in which a chunk enters the engine's lanes."""
        return _active(self.steps)

    @property
    def utilization(self) -> float:
        """Ternary weights of a token to what the lanes could take in its time."""
        trits = self.contexts * self.image.trits_per_token
        return self.image.geometry.utilization(trits, self.cycles)

    def counters(self, *, chosen: int, read: int = 0) -> list[int]:
        """What the device counts at each step of the program in runs of so many tokens.

        Parameters
        ----------
        chosen : int
            Tokens after which one is chosen.
        read : int
            Prompt tokens before them.
        """
        body = self.prefill[-1].number
        counts = [0] * len(self.image.steps)
        for step in self.steps:
            counts[step.number] += step.cycles * (chosen + read * (step.number <= body))
        return counts

    def totals(self, *, chosen: int, read: int = 0, runs: int = 1) -> Totals:
        """The device's totals of such runs, all of which ended by themselves.

        Runs of several contexts begin and end together here.
        """
        return Totals(
            cycles=runs * Sequencer.run_cycles(self.image.geometry)
            + chosen * self.cycles
            + read * self.prefill_cycles,
            engine_cycles=chosen * self.engine_cycles + read * _active(self.prefill),
            tokens=self.contexts * (chosen + read),
        )

    def critical_path(self) -> list[Span]:
        """What the token's time is owed to, in order, from its first fetch to its last issue.

        Work that is not on this path could take longer at no cost, as long as it stays off it.
        """
        spans: list[Span] = []
        position = len(self.steps) - 1
        numbers = {id(step): number for number, step in enumerate(self.steps)}
        step, end = self.steps[-1], self.steps[-1].issued + 1
        while True:
            if step.blocker is None:
                spans += _own(step, step.fetched, end)
                if not position:
                    return spans[::-1]
                position -= 1
                end = step.fetched
            else:
                start = step.freed
                spans += _own(step, start, end)
                position, end = numbers[id(step.blocker)], step.blocker.issued + 1
                spans.append(Span(start=end, end=start, step=step.blocker, working=True))
            step = self.steps[position]

    def engine_waits(self) -> Iterator[Span]:
        """The parts of the critical path in which the engine runs nothing.

        A product in a queue before it is on its way, and nobody works.
        """
        running = [(s.begun + 1, s.idle) for s in self.steps if s.unit == Unit.ENGINE]
        for span in self.critical_path():
            start, working = span.start, span.working and span.step.unit != Unit.ENGINE
            for begin, end in [*running, (span.end, span.end)]:
                if begin > start and start < span.end:
                    yield Span(
                        start=start, end=min(begin, span.end), step=span.step, working=working
                    )
                start = max(start, end)


def _own(step: TimedStep, start: int, end: int) -> Iterator[Span]:
    """Fetch and issue of a step, the latter part of which is work in a compact unit, last first."""
    begins = min(step.begun + 1, end)
    if begins < end:
        yield Span(start=begins, end=end, step=step, working=True)
    yield Span(start=start, end=begins, step=step, working=False)


def _active(steps: tuple[TimedStep, ...]) -> int:
    products = [step for step in steps if step.unit == Unit.ENGINE]
    return sum(
        step.contexts * step.descriptor.length * step.descriptor.operand for step in products
    )


def predict(
    image: Image, machine: Machine | None = None, contexts: int = 1, chained: bool = False
) -> Timing:
    """The timetable of an image on a machine, by default the usual one of its geometry.

    Of a token in each of some contexts, or of as many tokens of a prompt in one pass.

    Raises
    ------
    ValueError
        The machine has another geometry, or not so many contexts.
    """
    machine = machine or Machine(geometry=image.geometry)
    if machine.geometry != image.geometry:
        raise ValueError(f"machine must have the image's {image.geometry}, not {machine.geometry}")
    if not 1 <= contexts <= image.geometry.contexts:
        raise ValueError(
            f"contexts must be from 1 to the machine's {image.geometry.contexts}, not {contexts!r}"
        )
    clock = UnitClock(machine)
    rows: list[dict] = []
    fetched = contexts * Sequencer.TOKEN_CYCLES
    once = {Unit.CONTROL, Unit.ENGINE} if machine.shared else {Unit.CONTROL}
    members = contexts
    for number, layer, descriptor in unroll(image.program()):
        looked = fetched + machine.fetch.cycles
        if descriptor.unit == Unit.SCALAR and descriptor.layered:
            looked += machine.fetch.constant_cycles
        of_all = descriptor.unit in once
        goes_on = descriptor.unit == Unit.VECTOR and descriptor.op in which(writes="states")
        for context in range(1 if of_all else members):
            after = 0 if of_all else members - 1 - context
            left = {
                unit: _left_beside(descriptor, unit, after, 1 if unit in once else members)
                for unit in UNITS
            }
            if chained and goes_on and context:
                left[Unit.VECTOR] = 0
            # Of steps that end together, one of its own unit is the reason.
            free, blocker = looked, None
            for unit in sorted(UNITS, key=lambda unit: unit == descriptor.unit):
                flight = clock.left(unit, left[unit])
                if flight is not None and flight.idle >= free and flight.idle > looked:
                    free, blocker = flight.idle, flight.number
            placed, before = clock.place(descriptor, free + READ_CYCLES)
            if before is not None:
                free, blocker = placed, before.number
            holding = clock.holding(descriptor)
            issued = placed + holding
            taken = clock.issue(len(rows), descriptor, issued, members if of_all else 1)
            rows.append(
                {
                    "number": number,
                    "layer": layer,
                    "kind": image.steps[number],
                    "descriptor": descriptor,
                    "fetched": fetched,
                    "ready": looked + READ_CYCLES,
                    "issued": issued,
                    "begun": taken - holding,
                    "idle": issued + 1,
                    "freed": free,
                    "blocker": blocker,
                    "context": context,
                    "contexts": members if of_all else 1,
                }
            )
            fetched = looked = issued + 1
        if chained and (descriptor.unit, descriptor.op) == (Unit.CONTROL, ControlOp.PREFILL_END):
            members = 1
    # Only now is it known when each step was over: a later one may delay an earlier one's result.
    for flights in clock.flights.values():
        for flight in flights:
            rows[flight.number]["idle"] = flight.idle
    steps: list[TimedStep] = []
    for row in rows:
        blocker = row.pop("blocker")
        steps.append(TimedStep(**row, blocker=None if blocker is None else steps[blocker]))
    return Timing(image=image, steps=tuple(steps), contexts=contexts, chained=chained)


def _left_beside(step: Descriptor, unit: Unit, after: int, contexts: int) -> int | None:
    """How many steps of a unit may be under way when a step is issued for a context.

    Of the steps that it need not wait for there is one for each of the contexts, and those of its
    last one's that were issued for others since: for all, or for as many as come ``after``.
    """
    left = step.left[unit]
    if left == ANY:
        return None
    return left * contexts + (contexts - 1 if unit == step.unit else min(after, contexts - 1))
