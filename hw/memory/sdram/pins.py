"""The pins of an SDRAM, as the fabric sees them."""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.memory.sdram.parts import BANKS, Part

PAD_LATENCY = 1
"""Cycles of the register in each pad, either way."""


class PinsSignature(wiring.Signature):
    """A controller's side of an SDRAM that is always selected and whose clock is always enabled.

    Each pin has one register in its pad, whose clock is the controller's. The part's own clock
    comes later than that by a part of a cycle, and earlier than the next: it sees what has just
    left the registers, and its data are valid, and captured in a pad, just after the edge that its
    CAS latency means. A phase of 270 degrees leaves both sides their time.

    Members
    -------
    ras, cas, we : ``Out(1)``
        High where the pin is asserted; no command is none of them.
    bank : ``Out(range(BANKS))``
    address : ``Out(row_bits)``
    mask : ``Out(width // 8)``
        High for a byte that is not to be written, or not to be driven two cycles later.
    dq : ``o``, ``oe``, ``i``
        Data; ``oe`` while they are driven from here.
    """

    def __init__(self, part: Part):
        dq = {"o": Out(part.width), "oe": Out(1), "i": In(part.width)}
        super().__init__(
            {
                "ras": Out(1),
                "cas": Out(1),
                "we": Out(1),
                "bank": Out(exact_log2(BANKS)),
                "address": Out(part.row_bits),
                "mask": Out(part.width // 8),
                "dq": Out(wiring.Signature(dq)),
            }
        )
