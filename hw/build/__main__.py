"""Builds a board's bitstream."""

from weights import early as early  # isort: split

import argparse
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hw.boards import Board, board
from hw.build import project
from hw.build.estimate import estimate
from hw.build.every import build_all
from hw.build.plan import check_hardware
from hw.build.report import table
from hw.build.reports import ROOT, Cycles, keep, markdown, read_report, tables
from hw.build.steps import LIMIT_MINUTES, build, check_cells, check_size, draw_seeds, synthesise
from hw.families import of
from sim.speed import find_speed, predict_speed
from weights.commandline import OneLineParser, program
from weights.files import naming, user_path, write_file

LONGEST_LIMIT = 7 * 24 * 60
SAY = partial(print, flush=True)


def _build(options: argparse.Namespace, target: Board) -> None:
    """Build a board and print what came of it."""
    first = target.seed if options.seed is None else options.seed
    report = build(
        target,
        seeds=draw_seeds(first, options.seeds),
        output=options.output,
        force=options.force,
        limit=options.limit,
        jobs=options.jobs,
        model=options.model,
        measure=find_speed,
        say=SAY,
    )
    print(table(target, estimate(target), report))
    folder, family = options.output / target.name, of(target.device)
    print(folder / "report.html")
    if family.project is None:
        print(folder / family.bitstream)
    else:
        print(
            f"{folder / family.project.folder} is complete, nothing is routed yet; go on where "
            f"{family.project.tool} is: {project.command(target, folder)}"
        )


def _predicted(target: Board) -> Cycles:
    """By the timetable of a board's model on its machine."""
    return [(each.contexts, each.predicted) for each in predict_speed(target).together()]


def _record(reports: Sequence[Path]) -> None:
    """Keep reports with the documents, and write the tables that are made from all of these."""
    for path in reports:
        SAY(keep(read_report(path), ROOT))
    for path, text in tables(_predicted, ROOT).items():
        with naming(path):
            write_file(path, text.encode())
        SAY(path)


@program
def main(arguments=None) -> int:
    parser = OneLineParser(prog="python -m hw.build", description="Build a board's bitstream.")
    parser.add_argument("board", nargs="?", help="a name, or the path of a board's file")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--all", action="store_true", help="all boards, and a table of their reports")
    parser.add_argument("--seeds", type=int, default=1, help="how many to try (default 1)")
    parser.add_argument("--seed", type=int, help="the first one (default: the board's)")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time (default 1)")
    parser.add_argument(
        "--limit",
        type=float,
        default=LIMIT_MINUTES,
        metavar="MINUTES",
        help="for placing and routing one seed (default %(default)g)",
    )
    parser.add_argument("--model", help="of the report's cycles (default: the board's)")
    what.add_argument("--estimate-only", action="store_true", help="run no tools")
    what.add_argument(
        "--synthesis-only",
        action="store_true",
        help="stop after yosys, and say what it takes, even if that is too much",
    )
    what.add_argument(
        "--table", nargs="+", type=user_path, metavar="REPORT", help="print reports side by side"
    )
    what.add_argument(
        "--record",
        nargs="*",
        type=user_path,
        metavar="REPORT",
        help="keep reports in docs/boards, and write the tables of documents from all of these",
    )
    parser.add_argument("--force", action="store_true", help="build again what is there")
    parser.add_argument("--output", type=user_path, default=Path("build"), help="default: build")
    options = parser.parse_args(arguments)
    if options.table:
        print(markdown(map(read_report, options.table)))
        return 0
    if options.record is not None:
        _record(options.record)
        return 0
    if (options.board is None) != options.all:
        parser.error("a board is needed, or --all of them")
    if options.seeds < 1:
        parser.error(f"--seeds must be at least 1, not {options.seeds}")
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, not {options.jobs}")
    if not 0 < options.limit <= LONGEST_LIMIT:
        parser.error(
            f"--limit must be more than 0 minutes and at most {LONGEST_LIMIT}, "
            f"not {options.limit:g}"
        )
    if options.all:
        return build_all(options.output, partial(_build, options))
    target = board(options.board)
    check_hardware(target)
    guess = estimate(target)
    if options.estimate_only:
        print(table(target, guess))
        check_size(target)
        return 0
    if options.synthesis_only:
        cells = synthesise(target, output=options.output, force=options.force, say=SAY)
        print(table(target, guess, synthesised=cells))
        check_cells(target, cells)
        return 0
    _build(options, target)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the tools end, too
    sys.exit(main())
