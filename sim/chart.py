"""Speeds of one model on several machines as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sim import svg
from sim.svg import words

WIDTH, LEFT, RIGHT = 560, 216, 74
"""Of the picture, of the names, and of the figures beside the last dot, in pixels."""
HEAD, GROUP, ROW, FOOT = 46, 30, 22, 34
"""Heights above all rows, of a model's name, of a row, and below all."""
STYLE = (
    f"text{{fill:{svg.INK}}}.faint{{fill:{svg.FAINT}}}.grid{{stroke:#cbd5e0}}"
    f".line{{stroke:{svg.FAINT};stroke-dasharray:1 4}}"
    f".value{{font-weight:bold;stroke:{svg.GROUND};stroke-width:4px;paint-order:stroke}}"
    ".cpu{fill:#2b6cb0}.board{fill:#c05621}"
    "@media(prefers-color-scheme:dark){rect{fill:#0d1117}text{fill:#e6edf3}.faint{fill:#9da7b3}"
    ".grid{stroke:#30363d}.line{stroke:#9da7b3}.value{stroke:#0d1117}"
    ".cpu{fill:#63a4e8}.board{fill:#f0883e}}"
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One machine's speed, in tokens per second."""

    name: str
    tokens_per_s: float
    board: bool = False


def draw(groups: Mapping[str, Sequence[Row]], title: str, notes: Sequence[str]) -> str:
    """A dot for each speed, on an axis of powers of ten.

    Dots, not bars: on such an axis a bar's length would say nothing.

    Parameters
    ----------
    groups : mapping
        Rows of each model, by its name.
    notes : sequence of str
        Lines below the axis.
    """
    speeds = [row.tokens_per_s for rows in groups.values() for row in rows]
    axis = _Axis(math.floor(math.log10(min(speeds))), math.ceil(math.log10(max(speeds))))
    bottom = HEAD + sum(GROUP + ROW * len(rows) for rows in groups.values())
    height = bottom + FOOT + 18 * len(notes)
    lines = [
        words(14, 24, title, font_size=16, font_weight="bold"),
        words(14, 43, "Each line of the axis is ten times the one before.", **{"class": "faint"}),
        *axis.lines(HEAD + GROUP - 8, bottom),
    ]
    y = HEAD
    for name, rows in groups.items():
        y += GROUP
        lines.append(words(14, y - 6, name, font_weight="bold"))
        for row in rows:
            y += ROW
            lines += _row(row, y - 7, axis.x(row.tokens_per_s))
    for number, note in enumerate(notes):
        lines.append(words(14, bottom + FOOT + 6 + 18 * number, note, **{"class": "faint"}))
    said = "; ".join(
        f"{name}: " + ", ".join(f"{row.name} {row.tokens_per_s:,.0f}" for row in rows)
        for name, rows in groups.items()
    )
    return svg.document(
        WIDTH,
        height,
        lines,
        title=title,
        description=f"{said}. {' '.join(notes)}",
        style=STYLE,
        font_family="sans-serif",
        font_size=13,
    )


@dataclass(frozen=True)
class _Axis:
    """From one power of ten to another."""

    first: int
    last: int

    def x(self, value: float) -> float:
        share = (math.log10(value) - self.first) / max(self.last - self.first, 1)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def lines(self, top: float, bottom: float) -> Iterator[str]:
        for power in range(self.first, self.last + 1):
            x = self.x(10**power)
            yield f'<path class="grid" d="M{x:.1f} {top:g}V{bottom:g}"/>'
            label = f"{10**power:,}" if power >= 0 else f"{10**power:g}"
            at = {"text_anchor": "middle", "font_size": 11, "class": "faint"}
            yield words(x, bottom + 14, label, **at)


def _row(row: Row, y: float, x: float) -> Iterator[str]:
    kind = "board" if row.board else "cpu"
    yield words(24, y + 4, row.name)
    yield f'<path class="line" d="M{LEFT} {y:g}H{x:.1f}"/>'
    yield svg.element("circle", cx=f"{x:.1f}", cy=f"{y:g}", r=5, **{"class": kind})
    yield words(x + 9, y + 4, f"{row.tokens_per_s:,.0f}", **{"class": "value"})
