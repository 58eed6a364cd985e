"""What boards would do, in seconds, with no tool: ``python -m sim.explore [BOARD] [--model NAME]``.

Of one board what its machine takes, where the model lies, and how fast it runs, or with
``--geometries`` what machines of other sizes would do there; without a board a line for each.
"""

from __future__ import annotations

from weights import early as early  # isort: split

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from textwrap import fill as wrapped

from host.errors import FitError
from hw.boards import Board, board, names
from hw.build.estimate import check_fit, estimate, lacking
from hw.build.report import table
from sim.geometries import best, candidates, most_together
from sim.placement import Placement
from weights.commandline import WIDTH, OneLineParser, program
from weights.errors import ReportedError
from weights.model import IntegerModel
from weights.store_commands import find_model

fill = partial(wrapped, width=WIDTH)
Find = Callable[[str], tuple[str, IntegerModel]]

ROW = "{:17}{:13}{:>5}{:>3}{:>7}{:>4}{:>4} {:9.9}{:>8}{:>9}"
GEOMETRY = "{:1}{:>5}{:>9}{:>10}{:>8}{:>5}{:>5}{:>10}{:>10}{:>5}{:>11}"
GEOMETRY_HEAD = (
    *("rows", "columns", "elements", "LUT4", "RAM", "DSP"),
    *("cycles", "tokens/s", "ctx", "of all"),
)
HEAD = ("board", "part", "lanes", "el", "LUT4", "RAM", "MHz", "model", "cycles", "tokens/s")


@cache
def _find(name: str) -> tuple[str, IntegerModel]:
    path = find_model(name, offline=True)
    return path.stem, IntegerModel.load(path)


def details(target: Board, model: str, find: Find = _find) -> str:
    """Text of 80 columns on a board with a model. Raises `ReportedError` without such a model."""
    name, integers = find(model)
    placed = Placement(model=integers, name=name, board=target).report()
    if target.simulated:
        return placed
    guess = estimate(target)
    fit = check_fit(guess, target.device)
    verdict = [f"machine does not fit: {line}" for line in fit.lacks] + list(fit.warnings)
    return "\n".join([table(target, guess), *map(fill, verdict), "", placed])


def overview(model: str | None = None, find: Find = _find) -> Iterator[str]:
    """Lines of 80 columns, one for each board, with its own model unless one is given."""
    yield ROW.format(*HEAD)
    for target in map(board, names()):
        name, integers = find(model or target.model)
        guess = {"lut4": "-", "bram": "-"} if target.simulated else estimate(target)
        g = target.geometry
        yield ROW.format(
            *(target.name, target.device or "-", g.lanes, g.elements, guess["lut4"]),
            *(guess["bram"], f"{target.clock_hz / 1e6:g}", name.removeprefix("stories-")),
            *_speed(Placement(model=integers, name=name, board=target)),
        )


def geometries(target: Board, model: str, find: Find = _find) -> Iterator[str]:
    """Lines of 80 columns: machines that fit the board's part, the fastest first.

    None that is both slower and larger than another, but for the board's own. Each with the
    contexts that it has to have to make most tokens in all, if there is room, and with these.

    Raises
    ------
    ReportedError
        There is no such model, or no part, or no machine of it fits.
    """
    if target.simulated:
        raise ReportedError(f"{target.name} has no part that a machine has to fit: name a board")
    name, integers = find(model)
    found = candidates(target, integers)
    if not found:
        raise ReportedError(
            f"{name} fits no machine on {target.name} ({target.device}): use a smaller model, "
            f"or see python -m weights plan {model} --board {target.name}"
        )
    mhz = f"{target.clock_hz / 1e6:g} MHz"
    yield f"{name} on {target.name}, {target.device}, at {mhz}; * is the board's own machine"
    yield GEOMETRY.format("", *GEOMETRY_HEAD)
    own = target.geometry
    front = best(found)
    for candidate in found:
        g, takes = candidate.image.geometry, candidate.takes
        is_own = (g.rows, g.columns, g.elements) == (own.rows, own.columns, own.elements)
        if candidate not in front and not is_own:
            continue
        several = most_together(candidate, integers)
        yield GEOMETRY.format(
            "*" if is_own else "",
            *(g.rows, g.columns, g.elements, takes["lut4"], takes["bram"], takes["dsp"]),
            *(f"{candidate.timing.cycles:,}", f"{candidate.tokens_per_second:,.0f}"),
            *(several.machine.geometry.contexts, f"{several.together:,.0f}"),
        )


def _speed(placement: Placement) -> tuple[str, str]:
    """Cycles of a token and tokens per second, or what is in the way."""
    target = placement.board
    if not target.simulated and lacking(target):
        return "too", "large"  # the machine is, for the part
    try:
        if not placement.fits:
            return "-", "-"
    except FitError:
        return "-", "-"
    return f"{placement.timing.cycles}", f"{placement.tokens_per_second:,.0f}"


@program
def main(arguments: Sequence[str] | None = None) -> int:
    parser = OneLineParser(
        prog="python -m sim.explore", description="Tell what boards would do, without any tool."
    )
    parser.add_argument("board", nargs="?", help="a name or a path; all boards unless given")
    parser.add_argument("--model", metavar="MODEL", help="a name or a path (default: the board's)")
    parser.add_argument(
        "--geometries", action="store_true", help="machines of other sizes that fit the board"
    )
    options = parser.parse_args(arguments)
    if options.board is None and options.geometries:
        parser.error("--geometries needs a board")
    if options.board is None:
        for line in overview(options.model):
            print(line, flush=True)
        return 0
    target = board(options.board)
    if options.geometries:
        for line in geometries(target, options.model or target.model):
            print(line, flush=True)
        return 0
    print(details(target, options.model or target.model))
    return 0


if __name__ == "__main__":
    sys.exit(main())
