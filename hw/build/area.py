"""What a lane and an element of a machine take: ``python -m hw.build.area BOARD``.

The board's machine is synthesised as it is, with other elements, and with other rows of lanes and
as many trits in its store; what it then takes more or less is theirs, memories and all.
"""

from weights import early as early  # isort: split

import functools
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from hw.boards import Board
from hw.build.steps import synthesise, synthesised_board
from weights.commandline import OneLineParser, program
from weights.errors import ReportedError
from weights.files import user_path

ROW = "{:24}{:>10}{:>10}{:>8}{:>8}"


def with_elements(board: Board) -> tuple[Board, int]:
    """The board with twice or half the elements, and how many these are more."""
    elements = board.geometry.elements
    for other in (2 * elements, elements // 2):
        with suppress(ValueError):
            return _resized(board, elements=other), other - elements
    raise ReportedError(f"{board.name} has no machine of other elements: try another board")


def with_rows(board: Board) -> tuple[Board, int]:
    """The same with rows, and how many lanes these are more."""
    g = board.geometry
    other = _resized(board, rows=2 * g.rows, weight_rows=-(-g.weight_rows // 2))
    return other, other.geometry.lanes - g.lanes


def _resized(board: Board, **sizes: int) -> Board:
    machine = board.machine
    return replace(board, machine=replace(machine, geometry=replace(machine.geometry, **sizes)))


def slopes(
    board: Board, take: Callable[[Board], dict[str, int]]
) -> tuple[dict[str, int], dict[str, float], dict[str, float]]:
    """What a board's machine takes, and of that an element and a lane, by resource."""
    others = with_elements(board), with_rows(board)
    whole, *takes = map(take, (board, *(other for other, _ in others)))
    element, lane = (
        {name: (taken[name] - whole[name]) / more for name in whole}
        for taken, (_, more) in zip(takes, others, strict=True)
    )
    return whole, element, lane


def report(board: Board, take: Callable[[Board], dict[str, int]]) -> str:
    """A table of a board's machine, of 60 columns."""
    g = board.geometry
    whole, element, lane = slopes(board, take)
    rows = {
        "an element": {name: f"{value:,.0f}" for name, value in element.items()},
        "a lane": {name: f"{value:,.1f}" for name, value in lane.items()},
        "the rest": {
            name: f"{whole[name] - g.elements * element[name] - g.lanes * lane[name]:,.0f}"
            for name in whole
        },
        f"{g.elements} elements, {g.lanes} lanes": {n: f"{value:,}" for n, value in whole.items()},
    }
    head = ROW.format(board.name, *whole)
    return "\n".join([head, *(ROW.format(name, *row.values()) for name, row in rows.items())])


@program
def main(arguments: Sequence[str] | None = None) -> int:
    parser = OneLineParser(
        prog="python -m hw.build.area", description="Tell what a lane and an element take."
    )
    parser.add_argument("board", help="a name or a path")
    parser.add_argument("--output", type=user_path, default=Path("build"), help="default: build")
    options = parser.parse_args(arguments)
    say = functools.partial(print, file=sys.stderr, flush=True)
    take = functools.partial(synthesise, output=options.output, say=say)
    print(report(synthesised_board(options.board), take))
    return 0


if __name__ == "__main__":
    sys.exit(main())
