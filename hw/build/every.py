"""Builds of all boards, one after the other."""

from collections.abc import Callable
from pathlib import Path

from hw.boards import Board, board, names
from hw.build.estimate import lacking
from hw.build.reports import markdown, read_report
from weights.commandline import report_failure
from weights.errors import ReportedError


def build_all(output: Path, build: Callable[[Board], object]) -> int:
    """Build each board with hardware that has room for its machine, past one that fails.

    Prints a table of the reports that are then below ``output``; returns 0 if nothing failed, or 1.
    """
    built, failed = [], 0
    for target in map(board, names()):
        if target.simulated:
            continue
        if lacks := ", ".join(lacking(target)):
            print(f"{target.name}: left out, as its {target.device} has too little {lacks}")
            continue
        try:
            build(target)
            built.append(read_report(output / target.name / "report.json"))
        except (ReportedError, OSError) as error:
            report_failure(error)
            failed = 1
    print(markdown(built))
    return failed
