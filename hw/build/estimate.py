"""What a machine will take of a device, without tools.

Block RAM and DSP blocks are counted, memory by memory and multiplier by multiplier. LUTs and
flip-flops are a linear model of lanes, rows, elements, and what lies beside them. Its constants are
those of the units of machines of 16 to 512 lanes and 1 to 8 elements, synthesised for ECP5 by
yosys 0.70 and packed by nextpnr: each that of the unit that it is of, the fixed part what is left.
`hw.build.compare` tells how far a routed board is from it; boards that were are within 5 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hw.arch.arithmetic import CODE_BITS, SUM_BITS, TRIT_BITS
from hw.arch.memories import Kind
from hw.arch.protocol import Feature
from hw.boards import Board
from hw.families import capacity, of
from hw.families.family import Family
from hw.families.term_adders import LONGEST
from hw.links.usb import UsbSerial
from hw.machine import BlockRam, Machine
from hw.memory.narrow import LARGE
from hw.memory.ram import parts, registers
from hw.memory.sdram.store import Sdram
from hw.units.cascade import row_widths, skew, sum_bits
from hw.units.commands import EngineCommand, ScalarCommand, VectorCommand
from hw.units.engine import EngineParameters

NEAR = 0.97
"""Share of a resource from which on placing and routing are likely to be in trouble."""

REMEDIES = {
    "lut4": "rows, columns or elements",
    "ff": "rows, columns or elements",
    "bram": "weight_rows, table_words or another depth",
    "dsp": "elements",
    "spram": "weight_rows, table_words or another depth",
}
"""What of a geometry makes each resource smaller."""

LUTS_PER_ELEMENT, LUTS_PER_LANE, LUTS_PER_ROW = 1100, 23.2, 42
FLIP_FLOPS_PER_ELEMENT, FLIP_FLOPS_PER_LANE, FLIP_FLOPS_PER_ROW = 1350, 13.4, 34.5
# Of memories that are deeper than one block RAM, or made of parts: what chooses among these.
LUTS_PER_BANK_BIT, FLIP_FLOPS_PER_BANK_BIT = 1.2, 0.3
FLIP_FLOPS_PER_WEIGHT_BIT = 1
LUTS_PER_CHAIN = 4  # of carry cells: where it begins and ends
LUTS_PER_DECODED_BYTE = FLIP_FLOPS_PER_DECODED_BYTE = 10  # of `hw.memory.dense`
LUTS_OF_SDRAM, FLIP_FLOPS_OF_SDRAM = 950, 420
LUTS_OF_USB, FLIP_FLOPS_OF_USB = 1500, 870  # beside what a UART takes
# States and results share their way to the host, and were measured together.
LUTS_OF_FEATURES = {
    **{Feature.COUNTERS: 600, Feature.STATES: 130, Feature.RESULTS: 130},
    Feature.SAMPLING: 140,
}
FLIP_FLOPS_OF_FEATURES = {
    **{Feature.COUNTERS: 200, Feature.STATES: 40, Feature.RESULTS: 40},
    Feature.SAMPLING: 100,
}
LUTS_OF_LOADER, FLIP_FLOPS_OF_LOADER, FLIP_FLOPS_PER_LOADED_BIT = 55, 100, 2
FIXED_LUTS, FIXED_FLIP_FLOPS = 5000, 3000
LUTS_OF_CONTEXTS = 400  # of their turns, where there are several
LUTS_OF_SPEED, FLIP_FLOPS_OF_SPEED = (
    260,
    2070,
)  # which a compact machine of one element does without


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


def _row(engine: EngineParameters, family: Family) -> tuple[float, float]:
    """LUTs, of ECP5, and flip-flops of a row of lanes. Cascades are counted."""
    columns, chain = engine.columns, engine.chain
    if chain == 1:
        return (
            LUTS_PER_LANE * columns + LUTS_PER_ROW,
            FLIP_FLOPS_PER_LANE * columns + FLIP_FLOPS_PER_ROW,
        )
    bits = sum_bits(engine.activation_rows * columns)
    terms, sums = row_widths(columns, chain=chain, bits=bits)
    widths = [*terms, *sums]
    cascades = columns // chain
    halves = sum(widths) + len(widths)
    if family.choosing:
        luts = halves + LUTS_PER_CHAIN * -(-halves // LONGEST) + CODE_BITS * cascades + bits / 3
    else:  # and a LUT for each bit of a term
        luts = halves + CODE_BITS * columns
    luts /= family.luts  # there is one for each bit of an adder, as anywhere
    waits = sum(1 + skew(lane) for lane in range(chain)) * cascades
    flip_flops = sum(widths) + 2 * bits + (chain - 1) * cascades  # sums, and carries that wait
    return luts, flip_flops + (TRIT_BITS + CODE_BITS / engine.fanout) * waits


def _contexts(machine: Machine, family: Family) -> float:
    """LUTs, of ECP5, of what holds something of every context beside the memories."""
    g, made_of = machine.geometry, family.memories
    per_bit = made_of.luts / 4 if made_of.luts else g.contexts

    def kept(bits: int, depth: int) -> float:
        return per_bit * bits * -(-depth // 16)

    luts: float = LUTS_OF_CONTEXTS * (g.contexts > 1)
    if machine.shared:  # an accumulator each
        luts += g.rows * kept(SUM_BITS, g.contexts)
    if machine.queued:
        commands = (EngineCommand, VectorCommand, ScalarCommand)
        luts += sum(kept(command.size, machine.queued) for command in commands)
    return luts


def large_memories(board: Board) -> frozenset[str]:
    """Names of the memories that lie in large ones of the board's part, if that has any."""
    if board.device is None or not of(board.device).memories.large:
        return frozenset()
    memories = board.machine.memories
    return frozenset(name for name in board.machine.narrow if memories[name].words >= LARGE)


def estimate(board: Board) -> dict[str, int]:
    """``lut4``, ``ff``, ``bram`` and ``dsp`` of a board's machine and link, and large memories.

    Raises ``PartError`` for a board whose device no family has.
    """
    machine, family = board.machine, of(board.device)
    made_of = family.memories
    g, store = machine.geometry, machine.weights
    beside = (machine.stores.weights, machine.stores.embedding)
    sdrams = any(isinstance(memory, Sdram) for memory in beside)
    usb = isinstance(board.link, UsbSerial)
    row_luts, row_flip_flops = _row(machine.engine, family)
    luts: float = FIXED_LUTS + LUTS_OF_SDRAM * sdrams + LUTS_OF_USB * usb
    luts += LUTS_PER_ELEMENT * g.elements + row_luts * g.rows
    luts += LUTS_PER_DECODED_BYTE * store.decoded + _contexts(machine, family)
    luts -= sum(n for each, n in LUTS_OF_FEATURES.items() if each not in machine.features)
    luts -= LUTS_OF_SPEED * machine.compact
    flip_flops: float = FIXED_FLIP_FLOPS + FLIP_FLOPS_OF_SDRAM * sdrams + FLIP_FLOPS_OF_USB * usb
    flip_flops += FLIP_FLOPS_PER_ELEMENT * g.elements + row_flip_flops * g.rows
    flip_flops += FLIP_FLOPS_PER_WEIGHT_BIT * store.kept_width
    flip_flops -= SUM_BITS * g.rows * machine.shared  # accumulators that are none
    flip_flops -= FLIP_FLOPS_OF_SPEED * machine.compact
    if isinstance(machine.stores.weights, BlockRam):
        *_, late = registers(machine.stores.weights.latency)
        flip_flops += late * store.kept_width
    flip_flops += FLIP_FLOPS_PER_DECODED_BYTE * store.decoded
    flip_flops -= sum(
        n for each, n in FLIP_FLOPS_OF_FEATURES.items() if each not in machine.features
    )
    block_rams = large = bank_bits = 0
    in_large = large_memories(board)
    for name, memory in machine.memories.items():
        if memory.kind == Kind.FLIP_FLOPS or name == "embedding":  # which lies beside the chip
            continue
        narrow = name in machine.narrow
        if narrow:
            luts -= LUTS_OF_LOADER
            flip_flops -= FLIP_FLOPS_OF_LOADER + FLIP_FLOPS_PER_LOADED_BIT * memory.bits
        if name in in_large:
            large += memory.items * -(-memory.words // made_of.large)
            continue
        granularity = memory.item if narrow else None
        whole = narrow or memory.kind != Kind.STORE
        words, bits = memory.words, memory.bits
        if name == "weights":
            words, bits = store.kept, store.kept_width
        depths = [words] if whole else [len(part) for part in parts(words, bits)]
        bank_bits += memory.copies * bits * (len(depths) - 1)
        for depth in depths:
            blocks, banks = arrange(made_of.shapes, depth, bits, granularity)
            deep = -(-depth // 16)
            lut_rams = deep * -(-bits // 4)
            # What chooses one of several costs as much as half a bit of memory, to synthesis.
            lut_cost = lut_rams * made_of.lut_cost + bits * (deep - 1) / 2
            if made_of.luts and lut_cost < blocks * made_of.block_cost:
                luts += memory.copies * made_of.luts * lut_rams
            else:
                block_rams += memory.copies * blocks
                bank_bits += memory.copies * bits * (banks - 1)
    luts += LUTS_PER_BANK_BIT * bank_bits
    flip_flops += FLIP_FLOPS_PER_BANK_BIT * bank_bits
    return {
        "lut4": round(family.luts * luts + family.alone * flip_flops),
        "ff": round(flip_flops),
        "bram": block_rams,
        # An element's products, which share a multiplier in a compact unit, and the table's.
        "dsp": ((1 if machine.compact else 3) * family.dsp_per_product + 1) * g.elements,
        **({"spram": large} if made_of.large else {}),
    }


def expected_mhz(board: Board) -> float | None:
    """The clock that a board's machine is likely to reach; None if none of its family was routed.

    Whatever its size: what is slowest lies in the control that all machines share.
    """
    family = of(board.device)
    return family.routed_mhz.get(board.speed or family.usual_speed)


def lacking(board: Board) -> dict[str, tuple[int, int]]:
    """What a board needs of its device, and what that has, of resources that it has too few of."""
    has = capacity(board.device)
    return {name: (need, has[name]) for name, need in estimate(board).items() if need > has[name]}


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
    has, called = capacity(device), of(device).called
    lacks, warnings = [], []
    for name, need in guess.items():
        available, what = has[name], called.get(name, name)
        if need > available:
            lacks.append(f"{what} needs about {need} of {available}: reduce {REMEDIES[name]}")
        elif need >= NEAR * available:
            warnings.append(
                f"{what} needs about {need} of {available} ({need / available:.0%}) of {device}: "
                f"it may not route; a smaller {REMEDIES[name]} would help"
            )
    return Fit(lacks=tuple(lacks), warnings=tuple(warnings))
