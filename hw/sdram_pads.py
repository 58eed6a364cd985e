"""The pads of an SDRAM: a register in each, and the clock that the part gets."""

from amaranth.hdl import Const, Module, Value
from amaranth.lib import io

from hw.links.pins import request_raw

CLOCK = "sdram"
"""Clock domain of the part."""

LEAD = 3.3e-9
"""Seconds, about, from an edge of the part's clock to the next one of the pads' registers.

So long what has left the pads stays there after the part took it, which needs 1 ns, and as much
less than a cycle it was there before, 2 ns. The part's data are captured so long after the edge
that ends them, and a cycle more after the one that brings them: later than their access time, 6 ns
or 5.4 ns at a CAS latency of 3, and the way to the part and back; earlier than that way and the
2.5 ns for which they are held. The way, through an ECP5, is taken to be 2 ns to 5 ns.
"""


def clock_phase(clock_hz: int) -> int:
    """Degrees by which a part's clock comes after the edges of the pads' registers.

    `LEAD` less than a cycle, to the eighth of it.

    Raises ValueError where no eighth leaves either side its time.
    """
    eighths = round(8 * LEAD * clock_hz)
    if not 1 <= eighths <= 4 or eighths / (8 * clock_hz) > 4.5e-9:
        raise ValueError(f"the clock of an SDRAM must be 28 MHz to 170 MHz, not {clock_hz / 1e6:g}")
    return 360 - 45 * eighths


def attach_sdram(m: Module, platform, pins) -> None:
    """Connect the ``pins`` of a core, of a `PinsSignature`, to the platform's ``sdram``."""
    ports = request_raw(platform, "sdram")
    twice = pins.signature.ratio == 2
    steady = {"ba": pins.bank, "a": pins.address}
    once = {"ras": pins.ras, "cas": pins.cas, "we": pins.we}
    always = {"cs": Const(1), "clk_en": Const(1)}
    # Where there are two of all, commands are in the first cycle of the part's alone.
    each = {name: value.replicate(2) for name, value in (steady | always).items()} if twice else {}
    outputs = steady | always | once | each | {"dqm": pins.mask}
    buffer = io.DDRBuffer if twice else io.FFBuffer
    for name, value in outputs.items():
        if hasattr(ports, name):
            m.submodules[f"sdram_{name}"] = pad = buffer("o", getattr(ports, name))
            m.d.comb += Value.cast(pad.o).eq(value)
    m.submodules.sdram_dq = dq = buffer("io", ports.dq)
    m.d.comb += [Value.cast(dq.o).eq(pins.dq.o), dq.oe.eq(pins.dq.oe), pins.dq.i.eq(dq.i)]
    m.submodules.sdram_clock = clock = io.DDRBuffer("o", ports.clk, o_domain=CLOCK)
    m.d.comb += [clock.o[0].eq(1), clock.o[1].eq(0)]
