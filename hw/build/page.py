"""A build's report as a page to read: one file that needs neither a network nor a script."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hw.boards import known
from hw.build.estimate import expected_mhz
from hw.build.field import FIELD, of_report
from hw.build.floorplan import OTHER, Floorplan, Places
from hw.build.schema import CALLED, Hop, Report
from hw.families import of

GROUPS = {
    "engine": ("engine",),
    "weights": ("weights", "embedding"),
    "vector": ("vector",),
    "memories": ("activations", "multiplicands", "states", "sums", "tables", "vectors"),
    "scalar": ("scalar", "normaliser", "registers"),
    "sequencer": ("sequencer", "program", "tokens"),
    "link": ("link",),
}
"""Units of one colour. What is in none of them is `OTHER`."""

BLOCK_RAM_WIDTH = 1.8
"""Of one on the map, in tiles."""


def page(report: Report, floorplan: Floorplan | None, timetable: str | None) -> str:
    """The page of a report: HTML, less than 1 MB for the largest part.

    Parameters
    ----------
    report : Report
    floorplan : Floorplan or None
        Of the routed netlist; None if nothing was routed.
    timetable : str or None
        A token's time as SVG, trusted as it is; everything else is escaped.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, share=_share)
    target = known(report.board)
    return environment.get_template("page.html").render(
        report=report,
        called={**CALLED, **of(report.device).called},
        routed=report.clock_mhz is not None,
        project=of(report.device).project,
        expected_mhz=target and expected_mhz(target),
        group_of=group_of,
        map=floorplan and Map.of(report, floorplan),
        legend=list(legend(report.cells_by_unit)),
        stretches=list(stretches(report.critical_path)),
        longest=_longest_wire(report.critical_path),
        field=[(each, True) for each in of_report(report)] + [(each, False) for each in FIELD],
        timetable=timetable and Markup(timetable),
    )


def group_of(unit: str) -> str:
    """The colour of a unit."""
    return next((group for group, units in GROUPS.items() if unit in units), OTHER)


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _share(value: float) -> str:
    return f"{100 * value:.1f}" if value < 0.1 else f"{100 * value:.0f}"


# Map -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Map:
    """Paths of SVG in tiles, by colour: rows of logic, block RAMs, multipliers.

    A row of tiles is a line that is dashed once a tile, so that a map of many thousand stays small.
    """

    width: int
    height: int
    logic: dict[str, str]
    bram: dict[str, str]
    dsp: dict[str, str]
    critical: str

    @classmethod
    def of(cls, report: Report, plan: Floorplan) -> "Map":
        logic, bram, dsp = map(_grouped, (plan.logic, plan.bram, plan.dsp))
        path = [(hop.x, hop.y) for hop in report.critical_path]
        every = [at for places in (logic, bram, dsp) for each in places.values() for at in each]
        return cls(
            width=2 + max((x for x, _ in [*every, *path]), default=0),
            height=1 + max((y for _, y in [*every, *path]), default=0),
            logic={group: "".join(_runs(places)) for group, places in logic.items()},
            bram={group: _boxes(places, BLOCK_RAM_WIDTH) for group, places in bram.items()},
            dsp={group: _boxes(places, 0.8) for group, places in dsp.items()},
            critical=" ".join(f"{x + 0.45:g},{y + 0.45:g}" for x, y in path),
        )


def _grouped(places: Places) -> Places:
    found: Places = {}
    for unit, each in places.items():
        found.setdefault(group_of(unit), []).extend(each)
    return found


def _runs(places: list[tuple[int, int]]) -> Iterator[str]:
    """Tiles that follow each other in a row, as lines through their middles."""
    rows = sorted((y, x) for x, y in places)
    for _, run in groupby(enumerate(rows), lambda each: (each[1][0], each[1][1] - each[0])):
        (_, (y, x)), *more = run
        yield f"M{x} {y + 0.45:g}h{1 + len(more)}"


def _boxes(places: list[tuple[int, int]], width: float) -> str:
    boxes = sorted(places)
    return "".join(f"M{x} {y}h{width:g}v.9h-{width:g}z" for x, y in boxes)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Cells of a unit, by resource, and their colour."""

    unit: str
    group: str
    cells: Mapping[str, int]


def legend(units_cells: Mapping[str, Mapping[str, int]]) -> Iterator[Entry]:
    """Units in the order of their colours; within one, the largest first."""
    order = [*GROUPS, OTHER]
    units = units_cells.items()
    for unit, cells in sorted(
        units, key=lambda each: (order.index(group_of(each[0])), -sum(each[1].values()), each[0])
    ):
        yield Entry(unit=unit, group=group_of(unit), cells=cells)


# Critical path ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Cells of one unit that follow each other on a path, with the wires that lead to them."""

    unit: str
    cells: int
    wires_ns: float
    cells_ns: float


def stretches(path: tuple[Hop, ...]) -> Iterator[Stretch]:
    """A path by units."""
    for unit, hops in groupby(path, lambda hop: hop.unit):
        each = list(hops)
        yield Stretch(
            unit=unit,
            cells=len(each),
            wires_ns=sum(hop.wire_ns for hop in each),
            cells_ns=sum(hop.cell_ns for hop in each),
        )


def _longest_wire(path: tuple[Hop, ...]) -> tuple[Hop, Hop, int] | None:
    """The slowest wire of a path: its ends, and tiles between them, across and down."""
    wires = [(a, b, abs(a.x - b.x) + abs(a.y - b.y)) for a, b in pairwise(path)]
    return max(wires, key=lambda wire: wire[1].wire_ns, default=None)
