"""What is where when in a lane of the vector unit, and what it needs to know there."""

import enum

from amaranth.hdl import signed
from amaranth.lib import data

from hw.arch.arithmetic import BLOCK_SHIFTS, OPERAND_BITS
from hw.units.tables import DrawNormaliser, TableUnit


class Stage(enum.IntEnum):
    """When what belongs to one element is where: cycles after its main operand comes."""

    MAIN = 0  # main operand and coefficient come
    OPERAND = 1  # both are chosen
    NORMAL = 2  # the operand is shifted by its block's amount
    PRODUCT = 3
    SHIFTED = 4
    TERM = 5  # limited to an operand: argument of the gate
    WORD = TERM - DrawNormaliser.LATENCY  # the random word comes
    VALUE = TERM + TableUnit.LATENCY  # half the sigmoid, or noise; the lower bound's rest comes
    LATE = VALUE + 1  # the factors of the second product; late operands come
    GATED = LATE + 1  # the second product; late operands are held
    LAST_FACTORS = GATED + 1  # of the last product, and what its result is added to
    LAST = LAST_FACTORS + 1  # the last product
    SUM = LAST + 1
    RESULT = SUM + 1


COMPACT = {
    Stage.MAIN: 0,
    Stage.OPERAND: 0,
    Stage.NORMAL: 0,
    Stage.PRODUCT: 1,
    Stage.SHIFTED: 1,
    Stage.TERM: 1,
    Stage.WORD: 1,
    Stage.VALUE: 2,
    Stage.LATE: 2,
    Stage.GATED: 3,
    Stage.LAST_FACTORS: 3,
    Stage.LAST: 4,
    Stage.SUM: 4,
    Stage.RESULT: 4,
}
"""The same of a compact lane, whose inputs are held: its registers are those of the product and the
table alone."""


def stages(compact: bool) -> dict[Stage, int]:
    """Cycles after an element's main operand comes."""
    return COMPACT if compact else {stage: int(stage) for stage in Stage}


class Products(enum.IntFlag):
    """Which product of an element is formed in a cycle."""

    MAIN = enum.auto()
    GATED = enum.auto()
    LAST = enum.auto()


class Factor(enum.IntEnum):
    """What the second product's operand is multiplied by."""

    GATE = 0
    CONSTANT = 1
    ITSELF = 2


PLACES = 4

LaneControl = data.StructLayout(
    {
        "embed": 1,  # the main operand is a code
        "space": 2,
        "tabled": 1,  # the coefficient comes from the table, else it is ``constant``
        "constant": signed(OPERAND_BITS),  # QUANT's factor, whose coefficient is from the table
        "block": range(len(BLOCK_SHIFTS)),  # which shift of the main operand
        "place": range(PLACES),  # which shift of its product
        "squares": 1,  # the operand itself is squared, not its product
        "draw": 1,  # the table is that of the noise
        "update": 1,
        "factor": Factor,
        "code_place": range(PLACES),
        "first": 1,  # hidden states read as zero
        "narrow": 1,  # multiplicands are shifted
        "plain": 1,  # the last product is by one
        "add_vector": 1,
        "add_noise": 1,
        "last": 1,  # the result has the last product, else the first one
        "rounded": 1,  # in which the first one is rounded
    }
)
"""What is the same for all elements of a step."""

USES = {
    Stage.MAIN: ("embed", "space", "tabled", "constant"),
    Stage.OPERAND: ("block",),
    Stage.PRODUCT: ("place",),
    Stage.SHIFTED: ("rounded", "squares"),
    Stage.TERM: ("draw",),
    Stage.VALUE: ("update", "factor", "constant"),
    Stage.LATE: ("first", "narrow"),
    Stage.GATED: ("update", "plain", "add_vector", "add_noise", "code_place"),
    Stage.LAST: ("last",),
}
"""What a lane needs to know at each stage."""

ControlLayout = data.StructLayout(
    {
        stage.name: data.StructLayout({name: LaneControl.members[name] for name in names})
        for stage, names in USES.items()
    }
)
"""Of the step whose element is at that stage."""
