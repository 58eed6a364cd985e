"""A program's output as it came, and a picture in which it comes at that speed again."""

from __future__ import annotations

import codecs
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from host.errors import DeviceError
from sim import svg

COLUMNS = 80
LETTER, LINE, FONT = 7.8, 19, 13
"""Width of a letter, heights of a line and of its letters, in pixels."""
MARGIN, HEAD = 16, 34
"""Around the lines, and above them for the title."""
LEAD = 0.8
"""Seconds before the first output, in which the command can be read."""
FONTS = "ui-monospace,SFMono-Regular,Menlo,Consolas,DejaVu Sans Mono,monospace"

# What has not come yet is hidden until its delay is over. A reader that moves nothing, or is asked
# to move nothing, shows all of it.
STYLE = (
    "rect{fill:#0d1117}.bar{fill:#21262d}text{fill:#e6edf3;white-space:pre}"
    ".title,.command{fill:#8b949e}"
    "@keyframes come{from{visibility:hidden}}.later{animation:come 1ms step-end backwards}"
    "@media(prefers-reduced-motion:reduce){.later{animation:none}}"
)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Output that came at once.

    Parameters
    ----------
    at : float
        Seconds since the first output.
    """

    at: float
    text: str


def record(command: Sequence[str], folder: str | os.PathLike[str]) -> tuple[Piece, ...]:
    """Runs a command in a folder; what it prints, errors included, as it comes.

    Raises
    ------
    DeviceError
        It failed; the message ends with the last that it said.
    """
    pieces: list[Piece] = []
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        start = None
        while data := os.read(process.stdout.fileno(), 1 << 16):
            now = time.perf_counter()
            start = now if start is None else start
            if text := decode(data):
                pieces.append(Piece(at=now - start, text=text))
    if process.returncode:
        last = "".join(piece.text for piece in pieces).strip().rpartition("\n")[2]
        raise DeviceError(f"{' '.join(command)}: ended with {process.returncode}: {last}")
    return tuple(pieces)


def draw(pieces: Sequence[Piece], command: str, title: str, description: str) -> str:
    """A terminal of 80 columns in which a command's output comes when it came.

    Lines are broken between words, so that nothing moves once it is there.
    """
    text = "".join(piece.text for piece in pieces).rstrip("\n")
    lines = [
        svg.rectangle(0, 0, _WIDTH, HEAD - 8, **{"class": "bar"}),
        svg.words(MARGIN, 18, title, **{"class": "title"}),
        svg.words(MARGIN, HEAD + LINE, f"$ {command}", **{"class": "command"}),
    ]
    rows = list(_rows(text))
    for number, (start, end) in enumerate(rows):
        spans = "".join(
            svg.element(
                "tspan",
                text[max(start, begin) : min(end, until)],
                **{"class": "later", "style": f"animation-delay:{piece.at + LEAD:.2f}s"},
            )
            for piece, begin, until in _placed(pieces)
            if max(start, begin) < min(end, until)
        )
        y = HEAD + LINE * (number + 2)
        lines.append(f'<text x="{MARGIN}" y="{y}" xml:space="preserve">{spans}</text>')
    height = HEAD + LINE * (len(rows) + 1) + MARGIN
    return svg.document(
        _WIDTH,
        height,
        lines,
        title=title,
        description=description,
        style=STYLE,
        font_family=FONTS,
        font_size=FONT,
    )


_WIDTH = COLUMNS * LETTER + 2 * MARGIN


def _placed(pieces: Sequence[Piece]) -> Iterator[tuple[Piece, int, int]]:
    """Pieces, and where in the whole text each begins and ends."""
    ends = accumulate(len(piece.text) for piece in pieces)
    return ((piece, end - len(piece.text), end) for piece, end in zip(pieces, ends, strict=True))


def _rows(text: str) -> Iterator[tuple[int, int]]:
    """Where the terminal's rows begin and end in a text; a space at which one is broken ends it."""
    start = 0
    for line in text.splitlines(keepends=True):
        end, after = start + len(line.rstrip("\r\n")), start + len(line)
        while end - start > COLUMNS:
            space = text.rfind(" ", start, start + COLUMNS + 1)
            cut = space + 1 if space > start else start + COLUMNS
            yield start, cut
            start = cut
        yield start, end
        start = after
