"""What synthesis makes of a plan for an ECP5: cells, before any of them has a place."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from hw.build import BuildError
from hw.build.plan import Plan
from hw.build.tools import Workplace, reading
from hw.families import ecp5

COSTS = {
    "LUT4": ("lut4", 1),
    "CCU2C": ("lut4", 2),
    "TRELLIS_DPR16X4": ("lut4", 6),  # two of them for its write port
    "TRELLIS_FF": ("ff", 1),
    "DP16KD": ("bram", 1),
    "MULT18X18D": ("dsp", 1),
}
"""What each kind of cell takes of which resource; multiplexers come with the LUTs before them."""


def synthesise(plan: Plan, output: Path, say=print) -> tuple[Workplace, dict[str, Any]]:
    """The plan's place in ``output/BOARD`` and its netlist, the module ``top`` of yosys's JSON.

    It is the synthesis of a build, which does not run again. Raises BuildError, also for a board
    of another family.
    """
    if plan.family is not ecp5.FAMILY:
        raise BuildError(f"{plan.board.name}: only netlists for an ECP5 can be read")
    place = Workplace(plan, Path(output) / plan.board.name, say)
    netlist = place.path / plan.family.netlist
    place.run("synthesis", plan.commands[0], "top.rpt", outputs=[netlist.name])
    with reading(netlist):
        return place, json.loads(netlist.read_text())["modules"]["top"]


def count(cells: dict[str, dict]) -> dict[str, int]:
    """``lut4``, ``ff``, ``bram`` and ``dsp`` of a netlist's cells, before packing."""
    total: Counter[str] = Counter(lut4=0, ff=0, bram=0, dsp=0)
    for cell in cells.values():
        if cell["type"] in COSTS:
            resource, cost = COSTS[cell["type"]]
            total[resource] += cost
    return dict(total)
