"""Reports of several builds: read, kept with the documents, and side by side."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hw.boards import Board, board, known, names
from hw.build import BuildError
from hw.build.estimate import estimate, expected_mhz, lacking
from hw.build.schema import CALLED, Report, SchemaError, from_json, to_json
from hw.families import capacity, of
from weights.files import write_file

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""
KEPT = Path("docs", "boards")
"""Where in it the reports of shipped boards are kept."""
TABLES = {Path("docs", "boards.md"): "all boards", Path("README.md"): "ulx3s_85f"}
"""Documents with a table that is made from these: of all boards, or of one."""

COLUMNS = (
    *("board", "price, $", "part", "lanes", "elements", "LUT4", "block RAM", "clock"),
    *("model", "tokens/s", "of all streams"),
)
RESOURCES = ("lut4", "bram")
"""Those of the table."""

Cycles = Sequence[tuple[int, int]]
"""Streams side by side, one and then all, and the cycles of a token in each by the timetable."""


def read_report(path: Path) -> Report:
    """The ``report.json`` of a routed board. Raises BuildError for anything else."""
    try:
        return from_json(path.read_bytes())
    except OSError as error:
        raise BuildError(f"{path}: {error.strerror}") from error
    except SchemaError as error:
        raise BuildError(f"{path}: {error}") from error


def is_present(report: Report) -> bool:
    """Whether a report is of the machine that its board has now."""
    board = known(report.board)
    return board is not None and board.machine_digest == report.machine


def kept_reports(root: Path = ROOT) -> dict[str, Report]:
    """The reports that are kept, by the names of their boards."""
    return {path.stem: read_report(path) for path in sorted((root / KEPT).glob("*.json"))}


def keep(report: Report, root: Path = ROOT) -> Path:
    """Keep a shipped board's report, without what is of one token or one computer; its path.

    Raises BuildError for a report that failed its timing, or whose board is not of this project.
    """
    if report.board not in names():
        raise BuildError(f"{report.board}: only reports of boards in hw/boards are kept")
    if report.passed is False:
        raise BuildError(
            f"{report.board}: routed at {report.clock_mhz:.1f} MHz of "
            f"{report.clock_required_mhz:g} MHz; a report is kept once its timing is met"
        )
    path = root / KEPT / f"{report.board}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, to_json(replace(report, profile=None, failures={})).encode())
    return path


def tables(cycles: Callable[[Board], Cycles], root: Path = ROOT) -> dict[Path, str]:
    """Documents as they should be, with tables of the reports that are kept now.

    Raises BuildError for a document that has no place for its table.
    """
    kept = kept_reports(root)
    found = {}
    for name, what in TABLES.items():
        one = what != "all boards"
        table = of_one(board(what), kept, cycles) if one else all_boards(kept, cycles)
        found[root / name] = _replaced((root / name).read_text("utf-8"), what, table, name)
    return found


def _replaced(text: str, what: str, table: str, where: Path) -> str:
    """A document with another table between its marks."""
    begin, end = f"<!-- {what}: python -m hw.build --record -->", "<!-- end -->"
    pattern = re.escape(begin) + r"\n.*?" + re.escape(end)
    new, found = re.subn(pattern, lambda _: f"{begin}\n\n{table}\n\n{end}", text, flags=re.DOTALL)
    if found != 1:
        raise BuildError(f"{where}: must have {begin} once, and {end} behind it")
    return new


def markdown(reports: Iterable[Report]) -> str:
    """A table with a row for each report; tokens/s are those at the clock of the bitstream."""
    return _table(COLUMNS, map(_routed, reports))


def all_boards(reports: Mapping[str, Report], cycles: Callable[[Board], Cycles]) -> str:
    """The same for all boards with hardware; those without a report as estimated and predicted."""
    targets = [each for each in map(board, names()) if not each.simulated]
    return _table(
        COLUMNS,
        (
            _routed(reports[each.name], cycles(each))
            if each.name in reports
            else _unrouted(each, cycles(each))
            for each in targets
        ),
    )


def of_one(target: Board, reports: Mapping[str, Report], cycles: Callable[[Board], Cycles]) -> str:
    """What one board's machine takes and how fast it is, beside the estimate."""
    report, guess = reports.get(target.name), estimate(target)
    has = capacity(target.device)
    rows: list[tuple[str, ...]] = []
    for name, called in CALLED.items():
        if name in guess:
            used = f"{report.resources[name].used:,}" if report else "not yet"
            rows.append((called, used, f"{has[name]:,}", f"{guess[name]:,}"))
    clock = f"{report.clock_mhz:.1f} MHz" if report and report.clock_mhz else "not yet"
    expected = expected_mhz(target)
    rows.append(
        (
            *("clock", clock, f"{target.clock_hz / 1e6:g} MHz required"),
            f"{expected:g} MHz" if expected else "-",
        )
    )
    return _table(
        (
            f"`{target.name}`",
            f"routed{_reserve(report, cycles(target)) if report else ''}",
            "available",
            "estimate",
        ),
        rows,
    )


def _table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    def row(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    return "\n".join([row(head), "|---" * len(head) + "|", *map(row, rows)])


def price_of(board: Board | None) -> str:
    """A board's price class."""
    return "{} to {}".format(*board.price) if board and board.price else "-"


def _reserve(report: Report, now: Cycles | None) -> str:
    """What must be said of a report's board, if anything; ``now`` is the timetable as it is."""
    target = known(report.board)
    if target is None:
        return ", not a board of hw/boards"
    then = [(each.contexts, each.cycles_predicted) for each in report.streams]
    same = now is None or report.model != target.model or then == list(now)
    return "" if same and is_present(report) else ", an older machine"


def _routed(report: Report, now: Cycles | None = None) -> Iterable[str]:
    """Cells of a report's row; see `_reserve`."""
    yield f"`{report.board}`{_reserve(report, now)}"
    yield price_of(known(report.board))
    yield report.device
    yield str(report.lanes)
    yield str(report.geometry["elements"])
    for resource in RESOURCES:
        use = report.resources[resource]
        yield f"{use.used:,}{_kind(report.device, resource)} ({use.share:.0%})"
    routed = "not routed" if report.clock_mhz is None else f"routed at {report.clock_mhz:.1f}"
    slow = ", too slow" if report.passed is False else ""
    yield f"{report.clock_required_mhz:g} MHz, {routed}{slow}"
    yield f"`{report.model}`" if report.model else "-"
    yield from _speeds([(each.contexts, each.tokens_per_s_as_built) for each in report.streams])


def _unrouted(target: Board, cycles: Cycles) -> Iterable[str]:
    """Cells of the row of a board without a report."""
    geometry, guess, has = target.geometry, estimate(target), capacity(target.device)
    yield f"`{target.name}`"
    yield price_of(target)
    yield str(target.device)
    yield str(geometry.lanes)
    yield str(geometry.elements)
    for resource in RESOURCES:
        share = guess[resource] / has[resource]
        yield f"about {guess[resource]:,}{_kind(target.device, resource)} ({share:.0%})"
    lacks = ", ".join(CALLED[resource] for resource in lacking(target))
    yield f"{target.clock_hz / 1e6:g} MHz, {f'too little {lacks}' if lacks else 'not routed'}"
    yield f"`{target.model}`"
    # There is no machine whose speed it would be where the part has too little.
    speeds = [] if lacks else [(n, n * target.clock_hz / each) for n, each in cycles]
    yield from _speeds(speeds)


def _kind(device: str | None, resource: str) -> str:
    """What is counted, where it is not what the head of the column says."""
    called = of(device).called.get(resource)
    return f" {called}" if called else ""


def _speeds(speeds: Sequence[tuple[int, float]]) -> tuple[str, str]:
    """Cells of one stream and of all, from how many each and their tokens per second."""
    if not speeds:
        return "-", "-"
    (_, one), *_, (contexts, every) = [*speeds, speeds[-1]]
    return f"{one:,.0f}", f"{every:,.0f}" + (f", of {contexts}" if contexts > 1 else "")
