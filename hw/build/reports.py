"""Reports of several builds: read, and side by side."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hw.boards import known
from hw.build import BuildError

COLUMNS = (
    *("board", "part", "lanes", "elements", "LUT4", "block RAM", "clock", "routed"),
    *("model", "cycles a token", "tokens/s"),
)


def read_report(path: Path) -> dict[str, Any]:
    """The ``report.json`` of a routed board. Raises BuildError for anything else."""
    try:
        report = json.loads(path.read_bytes())
        report["board"], report["geometry"]["elements"], report["clock_mhz"], report["lut4"]["used"]
    except OSError as error:
        raise BuildError(f"{path}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise BuildError(f"{path}: is no report of hw.build; give its report.json") from error
    return report


def part_of(report: dict[str, Any]) -> str:
    """What a report's board is built for; reports that were made before do not tell."""
    board = known(report["board"])
    return report.get("device") or (board and board.device) or "-"


def markdown(reports: Iterable[dict[str, Any]]) -> str:
    """A table with a row for each report; tokens/s are those at the clock of the bitstream."""

    def row(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    return "\n".join(
        [row(COLUMNS), "|---" * len(COLUMNS) + "|", *(row(_cells(r)) for r in reports)]
    )


def _cells(report: dict[str, Any]) -> Iterable[str]:
    def number(name: str) -> str:
        return "-" if report[name] is None else f"{report[name]:,.0f}"

    yield f"`{report['board']}`"
    yield part_of(report)
    yield str(report["lanes"])
    yield str(report["geometry"]["elements"])
    for resource in ("lut4", "bram"):
        entry = report[resource]
        yield f"{entry['used']:,} ({entry['used'] / entry['available']:.0%})"
    yield f"{report['clock_required_mhz']:g} MHz"
    yield f"{report['clock_mhz']:.1f} MHz{'' if report['passed'] else ', too slow'}"
    yield f"`{report['model']}`" if report["model"] else "-"
    yield number("cycles_per_token")
    yield number("tokens_per_s_as_built")
