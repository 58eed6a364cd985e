"""What tools say of a design: parsed, as JSON, and as a table."""

import json
import math
import re
from collections import Counter
from typing import Any

from hw.boards import Board
from hw.build import BuildError
from hw.families import capacity
from hw.families.family import Family

CONTEXTS = 1
"""Sequences that a machine works at side by side."""


def parse_utilisation(log: str) -> dict[str, tuple[int, int]]:
    """(used, available) of each kind of cell, from nextpnr's log; its report lacks failed runs."""
    lines = re.findall(r"^Info:\s+(\w+):\s+(\d+)/\s*(\d+)\s+\d+%", log, re.MULTILINE)
    return {cell: (int(used), int(available)) for cell, used, available in lines}


def parse_report(text: str, clock_hz: int, family: Family) -> dict:
    """What ``report.json`` takes from nextpnr's: resources and the clock.

    ``clock_mhz`` is that of the machine, ``critical_path`` its slowest path with the nanoseconds
    spent in cells and in wires, ``passed`` whether every clock meets its constraint.
    """
    report = json.loads(text)
    result: dict[str, Any] = {}
    for name, cells in family.cells.items():
        entries = [report["utilization"][cell] for cell in cells]
        result[name] = {
            "used": sum(entry["used"] for entry in entries),
            "available": entries[0]["available"],
        }
    required = clock_hz / 1e6
    clocks = report["fmax"]
    ours = [n for n, c in clocks.items() if math.isclose(c["constraint"], required, rel_tol=1e-3)]
    if not ours:
        raise BuildError(f"nextpnr reports no clock of {required:g} MHz")
    name = min(ours, key=lambda n: clocks[n]["achieved"])
    result["clock_mhz"] = round(clocks[name]["achieved"], 2)
    result["clock_required_mhz"] = required
    result["passed"] = all(clock["achieved"] >= clock["constraint"] for clock in clocks.values())
    for critical in report["critical_paths"]:
        path = critical["path"]
        if path and {critical["from"], critical["to"]} == {f"posedge {name}"}:
            wires = sum(part["delay"] for part in path if part["type"] == "routing")
            result["critical_path"] = {
                "from": path[0]["from"]["cell"],
                "to": path[-1]["to"]["cell"],
                "cells_ns": round(sum(part["delay"] for part in path) - wires, 2),
                "wires_ns": round(wires, 2),
            }
    return result


def count_cells(netlist: dict, family: Family) -> dict[str, int]:
    """What the cells of a synthesised netlist take of each resource, before they are packed."""
    kinds = Counter(cell["type"] for cell in netlist["modules"]["top"]["cells"].values())
    return {
        name: sum(
            weight * kinds[kind]
            for pattern, weight in patterns.items()
            for kind in kinds
            if re.fullmatch(pattern, kind)
        )
        for name, patterns in family.synthesised.items()
    }


def lut4_by_unit(netlist: dict, family: Family) -> dict[str, int]:
    """LUTs of each unit of the core in the netlist that nextpnr writes, by the names of cells.

    ``other`` is what belongs to none. Carry chains begin and end in LUTs that nextpnr adds without
    a name; they count for the unit of their chain.
    """
    (top,) = netlist["modules"].values()
    units: dict[str, str | None] = {}
    carries: dict[int | str, list[str]] = {}
    for name, cell in top["cells"].items():
        if cell["type"] in family.cells["lut4"]:
            match = re.match(r"core\.([a-z]+)\.", name)
            units[name] = match[1] if match else None
            for port in family.chains:
                for net in cell["connections"].get(port, ()):
                    carries.setdefault(net, []).append(name)
    neighbours: dict[str, list[str]] = {}
    for cells in carries.values():
        for name in cells:
            neighbours.setdefault(name, []).extend(cells)
    known = [name for name, unit in units.items() if unit]
    while known:
        name = known.pop()
        for other in neighbours.get(name, ()):
            if units[other] is None and other.startswith("$nextpnr"):
                units[other] = units[name]
                known.append(other)
    return dict(sorted(Counter(unit or "other" for unit in units.values()).items()))


def speed_keys(speed, *, clock_mhz: float, clock_hz: int) -> dict[str, Any]:
    """What a report says of a `sim.speed.Speed`; all None if there is none.

    ``cycles_per_token`` is simulated. ``tokens_per_s`` is the routed clock by it,
    ``tokens_per_s_as_built`` the same at the clock that the bitstream's PLL makes. ``profile`` has
    a list for each step of the program: name, unit, times in a token, and cycles counted and
    predicted, all times together.
    """
    timing = speed.profile.timing if speed else None
    return {
        "model": speed and speed.profile.model,
        "contexts": CONTEXTS,
        "trits_per_token": timing and timing.image.trits_per_token,
        "cycles_per_token": speed and speed.cycles,
        "cycles_per_token_predicted": timing and timing.cycles,
        "utilization": speed and speed.utilization,
        "tokens_per_s": speed and speed.tokens_per_s(1e6 * clock_mhz),
        "tokens_per_s_as_built": speed and speed.tokens_per_s(clock_hz),
        "profile": speed and speed.profile.steps(),
    }


def compact_json(value: dict) -> str:
    """Indented, but with each list that holds neither lists nor objects in a line of its own."""

    def join(found):
        return "[" + re.sub(r"\n *", " ", found[1]) + "]"

    text = json.dumps(value, indent=2)
    return re.sub(r"\[\n\s+([^][{}]*?)\n\s+\]", join, text) + "\n"


def table(
    board: Board, guess: dict, report: dict | None = None, synthesised: dict | None = None
) -> str:
    """Estimate and measured figures, of a report or a count of cells, or else shares, as text."""
    available = capacity(board.device)
    lines = [f"{board.name}, {board.device}: {board.geometry.lanes} lanes"]
    measured = "synthesised" if synthesised else "routed" if report else "share"
    lines.append(f"{'':8}{'estimate':>10}{measured:>13}{'available':>11}")
    for name, value in guess.items():
        share = f"{value / available[name]:.0%}"
        used = synthesised[name] if synthesised else report[name]["used"] if report else share
        lines.append(f"{name:8}{value:10}{used:>13}{available[name]:>11}")
    if report:
        lines.append(
            f"clock   {report['clock_mhz']:10.2f} MHz routed, {report['clock_required_mhz']:g} MHz "
            f"required, seed {report['seed']}"
        )
        if report["engine_lut4"] is not None:
            lines.append(f"engine  {report['engine_lut4']:10} LUT4 routed")
        if report["cycles_per_token"]:
            lines.append(
                f"{report['model']}: {report['cycles_per_token']:,.10g} cycles per token, "
                f"{report['utilization']:.1%} of the engine's peak, "
                f"{report['tokens_per_s']:,.0f} tokens/s at the routed clock (simulated)"
            )
    return "\n".join(lines)
