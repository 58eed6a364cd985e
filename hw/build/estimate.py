"""What a machine will take of a device, without tools.

Block RAM and DSP blocks are counted, memory by memory and multiplier by multiplier. LUTs and
flip-flops are a linear model of lanes, rows and elements. Its constants are those of engines of 16
to 1,024 lanes and vector units of 1 to 8 elements synthesised for ECP5 by yosys 0.70 on their own;
what is left of the whole ULX3S-85F machine (256 lanes, 2 elements) is the fixed part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hw.arch.memories import Kind, memories
from hw.families import capacity, of
from hw.families.family import Family
from hw.machine import Machine
from hw.memory.ram import parts

NEAR = 0.97
"""Share of a resource from which on placing and routing are likely to be in trouble."""

REMEDIES = {
    "lut4": "rows, columns or elements",
    "ff": "rows, columns or elements",
    "bram": "weight_rows, table_words or another depth",
    "dsp": "elements",
}
"""What of a geometry makes each resource smaller."""

LUTS_PER_BANK_BIT = 0.6  # of the multiplexer behind block RAMs that are not deep enough
LUTS_PER_ELEMENT, LUTS_PER_LANE, LUTS_PER_ROW, LUTS_PER_WEIGHT_BIT = 1970, 19.1, 39, 1.1
FLIP_FLOPS_PER_ELEMENT, FLIP_FLOPS_PER_LANE, FLIP_FLOPS_PER_ROW = 1324, 13.2, 34
LUTS_PER_DECODED_BYTE = FLIP_FLOPS_PER_DECODED_BYTE = 10  # of `hw.memory.dense`
FIXED_LUTS, FIXED_FLIP_FLOPS = 5140, 3650
PACKING = 1.08  # LUTs after packing, where carry chains begin and end, to LUTs before


def arrange(
    shapes: Sequence[tuple[int, int]], depth: int, width: int, granularity: int | None = None
) -> tuple[int, int]:
    """(block RAMs, banks) of a memory in the shape that needs fewest; banks share the outputs.

    ``granularity`` is the width that has a write enable of its own, ``shapes`` are those of a block
    RAM.
    """
    part = granularity or width
    choices = []
    for d, w in shapes:
        if granularity and w >= granularity:
            across = -(-(width // part) // (w // granularity))
        else:
            across = width // part * -(-part // w)
        banks = -(-depth // d)
        choices.append((across * banks, banks))
    return min(choices)


def estimate(machine: Machine, family: Family) -> dict[str, int]:
    """``lut4``, ``ff``, ``bram`` and ``dsp`` of a machine."""
    made_of = family.memories
    g, store = machine.geometry, machine.weights
    luts: float = FIXED_LUTS + LUTS_PER_ELEMENT * g.elements
    luts += LUTS_PER_LANE * g.lanes + LUTS_PER_ROW * g.rows + LUTS_PER_WEIGHT_BIT * 8 * g.row_bytes
    luts += LUTS_PER_DECODED_BYTE * store.decoded
    flip_flops: float = FIXED_FLIP_FLOPS + FLIP_FLOPS_PER_ELEMENT * g.elements
    flip_flops += FLIP_FLOPS_PER_LANE * g.lanes + FLIP_FLOPS_PER_ROW * g.rows
    flip_flops += FLIP_FLOPS_PER_DECODED_BYTE * store.decoded
    block_rams = 0
    for name, memory in memories(g).items():
        if memory.kind == Kind.FLIP_FLOPS or name == "embedding":  # which lies beside the chip
            continue
        granularity = memory.item if memory.parts else None
        whole = memory.kind != Kind.STORE
        words, bits = memory.words, memory.bits
        if name == "weights":
            words, bits = store.kept, store.kept_width
        depths = [words] if whole else [len(part) for part in parts(words)]
        luts += memory.copies * LUTS_PER_BANK_BIT * bits * (len(depths) - 1)
        for depth in depths:
            blocks, banks = arrange(made_of.shapes, depth, bits, granularity)
            lut_rams = -(-depth // 16) * -(-bits // 4)
            if made_of.luts and lut_rams * made_of.lut_cost < blocks * made_of.block_cost:
                luts += memory.copies * made_of.luts * lut_rams
            else:
                block_rams += memory.copies * blocks
                luts += memory.copies * LUTS_PER_BANK_BIT * bits * (banks - 1)
    return {
        "lut4": round(family.luts * PACKING * luts),
        "ff": round(flip_flops),
        "bram": block_rams,
        "dsp": family.dsp_per_element * g.elements,
    }


def lacking(machine: Machine, device: str) -> dict[str, tuple[int, int]]:
    """What a machine needs of a device, and what that has, of resources that it has too few of."""
    has = capacity(device)
    guess = estimate(machine, of(device))
    return {name: (need, has[name]) for name, need in guess.items() if need > has[name]}


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


def check_fit(guess: dict[str, int], device: str | None) -> Fit:
    """What an `estimate` means for a device of a family; ``PartError`` for another one."""
    has = capacity(device)
    lacks, warnings = [], []
    for name, need in guess.items():
        available = has[name]
        if need > available:
            lacks.append(f"{name} needs about {need} of {available}: reduce {REMEDIES[name]}")
        elif need >= NEAR * available:
            warnings.append(
                f"{name} needs about {need} of {available} ({need / available:.0%}) of {device}: "
                f"it may not route; a smaller {REMEDIES[name]} would help"
            )
    return Fit(lacks=tuple(lacks), warnings=tuple(warnings))
