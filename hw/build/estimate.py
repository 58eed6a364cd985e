"""What a machine will take of a device, without tools.

Block RAM and DSP blocks are counted, memory by memory and multiplier by multiplier. LUTs and
flip-flops are a linear model of lanes, rows and elements. Its constants are those of engines of 16
to 1,024 lanes and vector units of 1 to 8 elements synthesised for ECP5 by yosys 0.70 on their own;
what is left of the whole ULX3S-85F machine (256 lanes, 2 elements) is the fixed part.
"""

from dataclasses import dataclass

from hw.arch.memories import Kind, memories
from hw.boards import BoardError
from hw.machine import Machine

CELLS = {"lut4": "TRELLIS_COMB", "ff": "TRELLIS_FF", "bram": "DP16KD", "dsp": "MULT18X18D"}
"""Resources by the names of reports, and of the cells that nextpnr counts for them."""

CAPACITY = {"LFE5U-85F": {"lut4": 83640, "ff": 83640, "bram": 208, "dsp": 156}}
"""Of devices, by part number."""

NEAR = 0.97
"""Share of a resource from which on placing and routing are likely to be in trouble."""

REMEDIES = {
    "lut4": "rows, columns or elements",
    "ff": "rows, columns or elements",
    "bram": "weight_rows, table_words or another depth",
    "dsp": "elements",
}
"""What of a geometry makes each resource smaller."""

SHAPES = ((16384, 1), (8192, 2), (4096, 4), (2048, 9), (1024, 18), (512, 36))
"""Depth and width that one block RAM can have."""

BLOCK_RAM_COST, LUT_RAM_COST = 128, 4
"""Weights by which synthesis chooses between a block RAM and LUTs as 16 x 4 bits of memory."""

LUTS_PER_LUT_RAM = 6
LUTS_PER_BANK_BIT = 0.6  # of the multiplexer behind block RAMs that are not deep enough
LUTS_PER_ELEMENT, LUTS_PER_LANE, LUTS_PER_ROW, LUTS_PER_WEIGHT_BIT = 1970, 19.1, 39, 1.1
FLIP_FLOPS_PER_ELEMENT, FLIP_FLOPS_PER_LANE, FLIP_FLOPS_PER_ROW = 1324, 13.2, 34
FIXED_LUTS, FIXED_FLIP_FLOPS = 5140, 3650
PACKING = 1.08  # LUTs after packing, where carry chains begin and end, to LUTs before
DSP_PER_ELEMENT = 7


def arrange(depth: int, width: int, granularity: int | None = None) -> tuple[int, int]:
    """(block RAMs, banks) of a memory in the shape that needs fewest; banks share the outputs.

    ``granularity`` is the width that has a write enable of its own.
    """
    part = granularity or width
    choices = []
    for d, w in SHAPES:
        if granularity and w >= granularity:
            across = -(-(width // part) // (w // granularity))
        else:
            across = width // part * -(-part // w)
        banks = -(-depth // d)
        choices.append((across * banks, banks))
    return min(choices)


def estimate(machine: Machine) -> dict[str, int]:
    """``lut4``, ``ff``, ``bram`` and ``dsp`` of a machine."""
    g = machine.geometry
    luts = FIXED_LUTS + LUTS_PER_ELEMENT * g.elements
    luts += LUTS_PER_LANE * g.lanes + LUTS_PER_ROW * g.rows + LUTS_PER_WEIGHT_BIT * 2 * g.lanes
    flip_flops = FIXED_FLIP_FLOPS + FLIP_FLOPS_PER_ELEMENT * g.elements
    flip_flops += FLIP_FLOPS_PER_LANE * g.lanes + FLIP_FLOPS_PER_ROW * g.rows
    block_rams = 0
    for memory in memories(g).values():
        if memory.kind == Kind.FLIP_FLOPS:
            continue
        blocks, banks = arrange(memory.words, memory.bits, memory.item if memory.parts else None)
        lut_rams = -(-memory.words // 16) * -(-memory.bits // 4)
        if lut_rams * LUT_RAM_COST < blocks * BLOCK_RAM_COST:
            luts += memory.copies * LUTS_PER_LUT_RAM * lut_rams
        else:
            block_rams += memory.copies * blocks
            luts += memory.copies * LUTS_PER_BANK_BIT * memory.bits * (banks - 1)
    return {
        "lut4": round(PACKING * luts),
        "ff": round(flip_flops),
        "bram": block_rams,
        "dsp": DSP_PER_ELEMENT * g.elements,
    }


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Whether an estimate fits a device: complaints in one line each.

    Parameters
    ----------
    lacks : tuple of str
        Resources of which the device has too little.
    warnings : tuple of str
        Resources of which nearly nothing is left.
    """

    lacks: tuple[str, ...]
    warnings: tuple[str, ...]


def check_fit(guess: dict[str, int], device: str) -> Fit:
    """What an `estimate` means for a device of ``CAPACITY``; ``BoardError`` for another one."""
    if device not in CAPACITY:
        raise BoardError(f"device must be one of {', '.join(CAPACITY)}, not {device!r}")
    lacks, warnings = [], []
    for name, need in guess.items():
        available = CAPACITY[device][name]
        if need > available:
            lacks.append(f"{name} needs about {need} of {available}: reduce {REMEDIES[name]}")
        elif need >= NEAR * available:
            warnings.append(
                f"{name} needs about {need} of {available} ({need / available:.0%}) of {device}: "
                f"it may not route; a smaller {REMEDIES[name]} would help"
            )
    return Fit(lacks=tuple(lacks), warnings=tuple(warnings))
