"""Where the units of a design are on its chip, by the netlist that nextpnr writes."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hw.families.family import Family

OTHER = "other"
"""What belongs to no unit of the core: pads, clocks, the link's line."""

Places = dict[str, list[tuple[int, int]]]


@dataclass(frozen=True, kw_only=True)
class Floorplan:
    """Cells of each unit, and where they are.

    Parameters
    ----------
    cells : dict
        By unit, how many of each resource.
    logic, bram, dsp : dict
        By unit, columns and rows of the tiles of which it has most LUTs and flip-flops, and of its
        block RAMs and multipliers.
    """

    cells: dict[str, dict[str, int]]
    logic: Places
    bram: Places
    dsp: Places

    def to_json(self) -> str:
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> "Floorplan":
        value = json.loads(text)
        kinds = ("logic", "bram", "dsp")
        places = {
            kind: {unit: [(x, y) for x, y in all_] for unit, all_ in value[kind].items()}
            for kind in kinds
        }
        return cls(cells=value["cells"], **places)


def unit_of(cell: str) -> str | None:
    """The unit of the core that a cell's name tells, whose queue belongs to it; None if it is of
    none."""
    match = re.match(r"core\.([a-z]+)(_queue)?\.", cell)
    return match[1] if match else None


def floorplan(netlist: Mapping[str, Any], family: Family) -> Floorplan:
    """The floorplan of a netlist as nextpnr writes it.

    Carry chains begin and end in LUTs that nextpnr adds without a name; they count for the unit of
    their chain.
    """
    (top,) = netlist["modules"].values()
    kinds = {kind: _resources(kind, family) for kind in {c["type"] for c in top["cells"].values()}}
    units = _units(top["cells"], kinds, family.chains)
    cells: dict[str, Counter[str]] = {}
    tiles: dict[tuple[int, int], Counter[str]] = {}
    blocks: dict[str, set[tuple[str, int, int]]] = {"bram": set(), "dsp": set()}
    for name, cell in top["cells"].items():
        unit = units[name] or OTHER
        resources = kinds[cell["type"]]
        cells.setdefault(unit, Counter()).update(resources)
        place = re.match(r"X(\d+)/?Y(\d+)/", cell.get("attributes", {}).get("NEXTPNR_BEL", ""))
        if not place:
            continue
        x, y = int(place[1]), int(place[2])
        for resource in resources:
            if resource in blocks:
                blocks[resource].add((unit, x, y))
            elif resource in ("lut4", "ff"):
                tiles.setdefault((x, y), Counter())[unit] += 1
    return Floorplan(
        cells={unit: dict(cells[unit]) for unit in sorted(cells) if cells[unit]},
        logic=_by_unit((max(sorted(c), key=c.__getitem__), *at) for at, c in tiles.items()),
        bram=_by_unit(blocks["bram"]),
        dsp=_by_unit(blocks["dsp"]),
    )


def cells_by_unit(netlist: Mapping[str, Any], family: Family) -> dict[str, dict[str, int]]:
    """What each unit's cells take of a netlist that yosys leaves, and has named after its nets."""
    found: dict[str, Counter[str]] = {}
    for name, cell in netlist["modules"]["top"]["cells"].items():
        if takes := family.takes(cell["type"]):
            found.setdefault(unit_of(name) or OTHER, Counter()).update(takes)
    return {unit: dict(found[unit]) for unit in sorted(found)}


def _by_unit(places: Any) -> Places:
    found: Places = {}
    for unit, x, y in sorted(places):
        found.setdefault(unit, []).append((x, y))
    return found


def _resources(kind: str, family: Family) -> list[str]:
    """What a placed cell of a type is counted for; some keep the type that synthesis gave them."""
    return [
        name
        for name, types in family.cells.items()
        if kind in types or any(re.fullmatch(each, kind) for each in family.synthesised[name])
    ]


def _units(
    cells: Mapping[str, Any], kinds: Mapping[str, Sequence[str]], chains: Sequence[str]
) -> dict[str, str | None]:
    """The unit of each cell."""
    units = {name: unit_of(name) for name in cells}
    carries: dict[int | str, list[str]] = {}
    for name, cell in cells.items():
        if "lut4" in kinds[cell["type"]]:
            for port in chains:
                for net in cell["connections"].get(port, ()):
                    carries.setdefault(net, []).append(name)
    neighbours: dict[str, list[str]] = {}
    for chained in carries.values():
        for name in chained:
            neighbours.setdefault(name, []).extend(chained)
    known = [name for name in neighbours if units[name]]
    while known:
        name = known.pop()
        for other in neighbours.get(name, ()):
            if units[other] is None and other.startswith("$nextpnr"):
                units[other] = units[name]
                known.append(other)
    return units
