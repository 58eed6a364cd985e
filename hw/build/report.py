"""What tools say of a design: parsed, and as a table."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hw.boards import Board
from hw.build import BuildError
from hw.build.estimate import expected_mhz
from hw.build.floorplan import OTHER, unit_of
from hw.build.schema import Hop, Report
from hw.families import capacity, of
from hw.families.family import Family


def parse_utilisation(log: str) -> dict[str, tuple[int, int]]:
    """(used, available) of each kind of cell, from nextpnr's log; its report lacks failed runs."""
    lines = re.findall(r"^Info:\s+(\w+):\s+(\d+)/\s*(\d+)\s+\d+%", log, re.MULTILINE)
    return {cell: (int(used), int(available)) for cell, used, available in lines}


@dataclass(frozen=True, kw_only=True)
class Routing:
    """What nextpnr reports of a routed design.

    Parameters
    ----------
    taken : dict of str to (int, int)
        Used and available of each resource.
    clock_mhz, clock_required_mhz : float
        Of the machine.
    passed : bool
        Whether every clock meets its constraint.
    critical_path : tuple of Hop
        The slowest of the machine's clock.
    """

    taken: dict[str, tuple[int, int]]
    clock_mhz: float
    clock_required_mhz: float
    passed: bool
    critical_path: tuple[Hop, ...] = ()


def parse_report(text: str, clock_hz: int, family: Family) -> Routing:
    """What a build takes from nextpnr's report. Raises BuildError if it has no such clock."""
    report = json.loads(text)
    taken = {}
    for name, cells in family.cells.items():
        entries = [report["utilization"][cell] for cell in cells]
        taken[name] = sum(entry["used"] for entry in entries), entries[0]["available"]
    required = clock_hz / 1e6
    clocks = report["fmax"]
    ours = [n for n, c in clocks.items() if math.isclose(c["constraint"], required, rel_tol=1e-3)]
    if not ours:
        raise BuildError(f"nextpnr reports no clock of {required:g} MHz")
    name = min(ours, key=lambda n: clocks[n]["achieved"])
    edge = f"posedge {name}"
    paths = [
        path["path"]
        for path in report["critical_paths"]
        if path["path"] and path["from"] == path["to"] == edge
    ]
    return Routing(
        taken=taken,
        clock_mhz=round(clocks[name]["achieved"], 2),
        clock_required_mhz=required,
        passed=all(clock["achieved"] >= clock["constraint"] for clock in clocks.values()),
        critical_path=tuple(_hops(paths[-1])) if paths else (),
    )


def _hops(path: list[dict[str, Any]]) -> Iterator[Hop]:
    """The cells of a path, each with the wire that leads to it."""
    cell, wire, delay = path[0]["from"], 0.0, 0.0
    for part in path:
        if part["type"] == "routing":
            yield _hop(cell, wire, delay)
            cell, wire, delay = part["to"], part["delay"], 0.0
        else:
            delay += part["delay"]
    yield _hop(cell, wire, delay)


def _hop(cell: dict[str, Any], wire: float, delay: float) -> Hop:
    x, y = cell["loc"]
    return Hop(
        cell=cell["cell"],
        unit=unit_of(cell["cell"]) or OTHER,
        x=x,
        y=y,
        wire_ns=round(wire, 2),
        cell_ns=round(delay, 2),
    )


def count_cells(netlist: dict, family: Family) -> dict[str, int]:
    """What the cells of a synthesised netlist take of each resource, before they are packed."""
    kinds = Counter(cell["type"] for cell in netlist["modules"]["top"]["cells"].values())
    found = dict.fromkeys(family.synthesised, 0)
    for kind, count in kinds.items():
        for name, weight in family.takes(kind).items():
            found[name] += weight * count
    return found


def table(
    board: Board,
    guess: dict[str, int],
    report: Report | None = None,
    synthesised: dict[str, int] | None = None,
) -> str:
    """Estimate and measured figures, of a report or a count of cells, or else shares, as text."""
    available, called = capacity(board.device), of(board.device).called
    lines = [f"{board.name}, {board.device}: {board.geometry.lanes} lanes"]
    routed = report and report.clock_mhz is not None
    measured = "routed" if routed else "synthesised" if report or synthesised else "share"
    lines.append(f"{'':8}{'estimate':>10}{measured:>13}{'available':>11}")
    for name, value in guess.items():
        shown: int | str = f"{value / available[name]:.0%}"
        if synthesised:
            shown = synthesised[name]
        elif report:
            shown = report.resources[name].used
        lines.append(f"{called.get(name, name):8}{value:10}{shown:>13}{available[name]:>11}")
    return "\n".join([*lines, *(_speed(report) if report else _clock(board))])


def _clock(board: Board) -> Iterator[str]:
    """A line on the clock before anything is routed."""
    asked, expected = f"{board.clock_hz / 1e6:g} MHz asked for", expected_mhz(board)
    if expected is None:
        yield f"clock   {asked}; nothing of this family was routed"
    else:
        yield f"clock   {expected:10g} MHz expected, {asked}"


def _speed(report: Report) -> Iterator[str]:
    """Lines on the clock, the engine and the speed."""
    if report.clock_mhz is None:
        yield f"clock   {report.clock_required_mhz:g} MHz asked for; nothing was routed"
    else:
        yield (
            f"clock   {report.clock_mhz:10.2f} MHz routed, {report.clock_required_mhz:g} MHz "
            f"required, seed {report.seed}"
        )
        yield f"engine  {report.engine_lut4:10} LUT4 routed"
    for streams in report.streams:
        number = "" if streams.contexts == 1 else f" for {streams.contexts} streams"
        rate, clock = streams.tokens_per_s, "the routed clock"
        if rate is None:
            rate, clock = streams.tokens_per_s_as_built, "the clock asked for"
        yield (
            f"{report.model}: {streams.cycles:,.10g} cycles per token{number}, "
            f"{streams.utilization:.1%} of the engine's peak, "
            f"{rate:,.0f} tokens/s at {clock} ({streams.kind})"
        )
