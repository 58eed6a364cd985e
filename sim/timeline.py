"""A token's timetable as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from hw.arch.operations import VectorOp
from hw.arch.program import ScalarOp, Unit
from hw.control.sequencer import READ_CYCLES
from sim import svg
from sim.svg import FAINT, GROUND, INK, words
from sim.timing import TimedStep, Timing

WIDTH, MARGIN, RIGHT = 1500, 86, 14
"""Of the picture, and left and right of its lanes, in pixels."""
LANES = {Unit.ENGINE: "engine", Unit.VECTOR: "vector", Unit.SCALAR: "scalar"}
LANE, BAR, STRIP = 19, 15, 4
"""Heights of a lane, of a bar in it, and of what the engine waits for."""
TITLE, FOOT, HEAD = 20, 26, 76
"""Heights above and below a band's lanes, and above the first band."""
LETTER = 5.6
"""Width of a letter at most, for names in bars."""
TICKS = 20
"""Of a band's axis, at most."""

COLOURS = {
    "product": "#2b6cb0",
    "embed": "#8d6e63",
    "norm": "#2f855a",
    "peak": "#68a04c",
    "measure": "#8fbc5a",
    "quant": "#b7a122",
    "silu": "#c05621",
    "update": "#9b2c2c",
    "gate": "#b83280",
    "residual": "#6b46c1",
    "choose": "#2c7a7b",
    "mul": "#718096",
    "div": "#4a5568",
    "add": "#90a4ae",
    "sqrt": "#37474f",
    "move": "#a0aec0",
}
ISSUE = "#cbd5e0"
"""Of the sequencer while it fetches and issues."""


def operation(step: TimedStep) -> str:
    """Name of what a step's unit does; a key of ``COLOURS``, or ``control``."""
    match step.unit:
        case Unit.ENGINE:
            return "product"
        case Unit.VECTOR:
            return VectorOp(step.descriptor.op).name.lower()
        case Unit.SCALAR:
            return ScalarOp(step.descriptor.op).name.lower()
        case _:
            return "control"


@dataclass(frozen=True, kw_only=True)
class Section:
    """Steps of one layer, or before or after all layers, and the cycles from the first one on."""

    name: str
    steps: tuple[TimedStep, ...]
    start: int
    end: int


def sections(timing: Timing) -> list[Section]:
    """The program's parts in order; each lasts until the next one's first fetch."""
    groups = [
        (name, tuple(steps)) for name, steps in groupby(timing.steps, lambda step: step.section)
    ]
    starts = [0, *(steps[0].fetched for _, steps in groups[1:]), timing.cycles]
    return [
        Section(
            name=name or ("start" if not number else "head"),
            steps=steps,
            start=starts[number],
            end=starts[number + 1],
        )
        for number, (name, steps) in enumerate(groups)
    ]


def draw(timing: Timing, title: str) -> str:
    """SVG of a token's timetable.

    One band for each section of the program, all in one scale, with a lane for each unit and one
    for the sequencer. Under the engine's lane a strip shows what it waits for; in the sequencer's,
    hatched, for what the step at its head waits. Bars have their cycles as tooltips.
    """
    parts = sections(timing)
    scale = (WIDTH - MARGIN - RIGHT) / max(part.end - part.start for part in parts)
    height = TITLE + (len(LANES) + 1) * LANE + STRIP + FOOT
    total = HEAD + height * len(parts) + 8
    lines = [
        '<defs><pattern id="wait" width="5" height="5" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect width="2" height="5" fill="#fff"/></pattern></defs>',
        words(12, 24, title, font_size=16, font_weight="bold"),
        *_legend(timing),
    ]
    for number, part in enumerate(parts):
        lines += _Band(timing, part, HEAD + number * height, scale).lines()
    return svg.document(
        WIDTH, total, lines, title=title, font_family="sans-serif", font_size=11, fill=INK
    )


def _legend(timing: Timing) -> Iterator[str]:
    used = {operation(step) for step in timing.steps}
    entries = [(name, colour) for name, colour in COLOURS.items() if name in used]
    x = 12.0
    for name, colour in [*entries, ("fetch and issue", ISSUE), ("waits for it", None)]:
        yield from _rectangle(x, 38, 12, 12, colour or COLOURS["norm"], hatched=colour is None)
        yield words(x + 16, 48, name)
        x += 28 + LETTER * len(name) + 6
    yield words(
        12,
        66,
        "Axis: cycles since the token began. Strip under the engine: the operation that it waits "
        "for. Point at a bar for its name and cycles.",
        fill=FAINT,
    )


def _rectangle(
    x: float, y: float, width: float, height: float, colour: str, *, note: str = "", hatched=False
) -> Iterator[str]:
    at = (x, y, max(width, 0.3), height)
    yield svg.rectangle(*at, note=note, fill=colour)
    if hatched:
        yield svg.rectangle(*at, fill="url(#wait)", pointer_events="none")


class _Band:
    """One section with its lanes."""

    def __init__(self, timing: Timing, section: Section, top: float, scale: float):
        self._timing = timing
        self._section = section
        self._top = top
        self._scale = scale
        self._lanes = {unit: top + TITLE + LANE * row for row, unit in enumerate(LANES)}
        for unit in LANES:
            if unit != Unit.ENGINE:
                self._lanes[unit] += STRIP
        self._sequencer = top + TITLE + LANE * len(LANES) + STRIP

    def lines(self) -> Iterator[str]:
        part = self._section
        yield words(12, self._top + 14, part.name, font_weight="bold")
        yield words(MARGIN, self._top + 14, f"{part.end - part.start:,} cycles", fill=FAINT)
        yield from self._frame()
        for step in self._timing.steps:
            yield from self._work(step)
            yield from self._issue(step)
        for span in self._timing.engine_waits():
            why = span.step.name if span.working else f"issue of {span.step.name}"
            colour = COLOURS[operation(span.step)] if span.working else ISSUE
            y = self._lanes[Unit.ENGINE] + BAR + 1
            note = f"engine waits for {why}: {span.end - span.start} cycles"
            yield from self._bar(span.start, span.end, y, colour, note, height=STRIP)

    def _x(self, cycle: int) -> float:
        return MARGIN + (cycle - self._section.start) * self._scale

    def _frame(self) -> Iterator[str]:
        """Names of the lanes, their ground, and the axis."""
        part, width = self._section, self._x(self._section.end) - MARGIN
        bottom = self._sequencer + LANE
        for y, name in [(self._lanes[u], n) for u, n in LANES.items()] + [
            (self._sequencer, "sequencer")
        ]:
            yield words(12, y + 12, name)
            yield from _rectangle(MARGIN, y, width, BAR, "#f1f5f9")
        step = _tick((WIDTH - MARGIN - RIGHT) / self._scale / TICKS)
        yield f'<path d="M{MARGIN} {bottom:g}h{width:.1f}" stroke="{FAINT}"/>'
        for cycle in range(-(-part.start // step) * step, part.end + 1, step):
            x = self._x(cycle)
            yield f'<path d="M{x:.1f} {bottom:g}v4" stroke="{FAINT}"/>'
            yield words(
                x, bottom + 14, f"{cycle:,}", text_anchor="middle", fill=FAINT, font_size=10
            )

    def _bar(
        self, start: int, end: int, y: float, colour: str, note: str, *, label="", **options
    ) -> Iterator[str]:
        """What of a bar lies in this band."""
        start, end = max(start, self._section.start), min(end, self._section.end)
        if start >= end:
            return
        width = (end - start) * self._scale
        height = options.pop("height", BAR)
        yield from _rectangle(self._x(start), y, width, height, colour, note=note, **options)
        if label and len(label) * LETTER + 4 <= width:
            at = (self._x(start) + 3, y + 11)
            yield words(*at, label, font_size=10, fill=GROUND, pointer_events="none")

    def _work(self, step: TimedStep) -> Iterator[str]:
        if step.unit == Unit.CONTROL:
            return
        start = step.begun + 1
        note = (
            f"{step.name} ({operation(step)}): cycles {start:,} to {step.idle - 1:,}, "
            f"{step.worked:,} in all"
        )
        colour = COLOURS[operation(step)]
        yield from self._bar(
            start, step.idle, self._lanes[step.unit], colour, note, label=step.kind
        )

    def _issue(self, step: TimedStep) -> Iterator[str]:
        note = f"{step.name}: {step.cycles} cycles until it was issued"
        y = self._sequencer
        yield from self._bar(step.fetched, step.issued + 1, y, ISSUE, note)
        if step.blocker is None:
            return
        end = step.ready + step.waited - READ_CYCLES
        note = f"{step.name} waits {step.waited} cycles for {step.blocker.name}"
        colour = COLOURS[operation(step.blocker)]
        yield from self._bar(end - step.waited, end, y, colour, note, hatched=True)


def _tick(cycles: float) -> int:
    """The round number of cycles between ticks that is at least ``cycles``."""
    unit = 1
    while True:
        for factor in (1, 2, 5):
            if factor * unit >= cycles:
                return factor * unit
        unit *= 10
