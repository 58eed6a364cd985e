"""The pads of an SDRAM: a register in each, and the clock that the part gets."""

from amaranth.hdl import Const, Module
from amaranth.lib import io

from hw.links.pins import request_raw

CLOCK = "sdram"
"""Clock domain of the part."""

CLOCK_PHASE = 270
"""Degrees by which it comes after that of the machine. What leaves the pads has three quarters of a
cycle until the part takes it, and a quarter after that; the part's data have a cycle and a quarter
from its edge to the one that captures them, for their access time and for both ways."""


def attach_sdram(m: Module, platform, pins) -> None:
    """Connect the ``pins`` of a core, of a `PinsSignature`, to the platform's ``sdram``."""
    ports = request_raw(platform, "sdram")
    outputs = {
        "cs": Const(1),
        "clk_en": Const(1),
        "ras": pins.ras,
        "cas": pins.cas,
        "we": pins.we,
        "ba": pins.bank,
        "a": pins.address,
        "dqm": pins.mask,
    }
    for name, value in outputs.items():
        if hasattr(ports, name):
            m.submodules[f"sdram_{name}"] = pad = io.FFBuffer("o", getattr(ports, name))
            m.d.comb += pad.o.eq(value)
    m.submodules.sdram_dq = dq = io.FFBuffer("io", ports.dq)
    m.d.comb += [dq.o.eq(pins.dq.o), dq.oe.eq(pins.dq.oe), pins.dq.i.eq(dq.i)]
    m.submodules.sdram_clock = clock = io.DDRBuffer("o", ports.clk, o_domain=CLOCK)
    m.d.comb += [clock.o[0].eq(1), clock.o[1].eq(0)]
