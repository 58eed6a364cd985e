"""The pins of an SDRAM, as the fabric sees them."""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.memory.sdram.parts import Part

PAD_LATENCY = {1: (1, 1), 2: (3, 2)}
"""Cycles that data take through a pad, out and in, by the ratio of the clocks: one register, or
those of a pad that has two data in a cycle."""


class PinsSignature(wiring.Signature):
    """A controller's side of an SDRAM that is always selected and whose clock is always enabled.

    Each pin has registers in its pad, whose clock is the controller's. The part's own clock is
    late against them, by what `hw.sdram_pads` says: it sees what has just left the registers, and
    its data are valid, and captured in a pad, just after the edge that its CAS latency means.

    A part may have ``ratio`` cycles in one of the controller's. Commands come in the first of
    them, in the others there is none. Data and their masks are those of all, the first in the
    lowest bits; what comes from the part was captured at a cycle's beginning and in its middle.

    Members
    -------
    ras, cas, we : ``Out(1)``
        High where the pin is asserted; no command is none of them.
    bank : ``Out(range(part.banks))``
    address : ``Out(row_bits)``
    mask : ``Out(ratio * width // 8)``
        High for a byte that is not to be written, or not to be driven two cycles of the part later.
    dq : ``o``, ``oe``, ``i``
        Data; ``oe`` while they are driven from here.
    """

    def __init__(self, part: Part, ratio: int = 1):
        self.ratio = ratio
        width = ratio * part.width
        dq = {"o": Out(width), "oe": Out(1), "i": In(width)}
        super().__init__(
            {
                "ras": Out(1),
                "cas": Out(1),
                "we": Out(1),
                "bank": Out(exact_log2(part.banks)),
                "address": Out(part.row_bits),
                "mask": Out(width // 8),
                "dq": Out(wiring.Signature(dq)),
            }
        )
