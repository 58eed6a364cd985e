"""SDRAM beside a simulated core: chips as their data sheets describe them, behind pads.

What a machine believes of its part is in `hw.memory.sdram.parts`; here is what the chips that may
be on the board are like, so that neither follows from the other. ``sdram.v`` holds a core to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

MODEL = Path(__file__).with_name("sdram.v")


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A chip, by its data sheet; times in nanoseconds.

    Parameters
    ----------
    width, row_bits, column_bits : int
        Data pins, and bits of addresses.
    bank_bits : int
        1 or 2.
    clock_cl2, clock_cl3 : float
        tCK at CAS latencies of 2 and 3.
    rcd, rp, ras, rc, rrd, rfc, wr, mrd : float
        tRCD, tRP, tRAS, tRC, tRRD, tRFC, tWR, tMRD; tMRD and tWR are two cycles at least.
    rrd_clocks : int
        Least cycles of tRRD.
    masked : bool
        Whether its mask pins are driven; else they are tied low.
    ras_most : float
        tRAS, the most.
    refresh : float
        tREF, in which ``1 << rows_refreshed`` rows must be refreshed.
    power_up : float
        From power to the first command.
    """

    width: int
    row_bits: int
    column_bits: int
    clock_cl2: float
    clock_cl3: float
    rcd: float
    rp: float
    ras: float
    rc: float
    rrd: float
    rfc: float
    wr: float
    mrd: float
    bank_bits: int = 2
    rrd_clocks: int = 1
    masked: bool = True
    ras_most: float = 100_000
    refresh: float = 64e6
    rows_refreshed: int = 13
    power_up: float = 200_000

    def parameters(self, clock_hz: int, ratio: int = 1) -> dict[str, int]:
        """Of the module ``sdram``, times in picoseconds, for a clock ``ratio`` times as fast."""
        clock = 1e9 / (ratio * clock_hz)
        times = {
            "CLOCK": clock,
            "CLOCK_CL2": self.clock_cl2,
            "CLOCK_CL3": self.clock_cl3,
            "RCD": self.rcd,
            "RP": self.rp,
            "RAS": self.ras,
            "RC": self.rc,
            "RRD": max(self.rrd, self.rrd_clocks * clock),
            "RFC": self.rfc,
            "WR": max(self.wr, 2 * clock),
            "MRD": self.mrd,
            "RAS_MOST": self.ras_most,
            "POWER_UP": self.power_up,
            "REFI": self.refresh / (1 << self.rows_refreshed),
        }
        sizes = {
            "WIDTH": self.width,
            "BANK_BITS": self.bank_bits,
            "ROW_BITS": self.row_bits,
            "COLUMN_BITS": self.column_bits,
            "BOTH_EDGES": ratio - 1,
        }
        return sizes | {name: int(1000 * time) for name, time in times.items()}


CHIPS = {
    "IS42S16160G-7": Chip(
        width=16, row_bits=13, column_bits=9, clock_cl2=10, clock_cl3=7,
        rcd=15, rp=15, ras=37, rc=60, rrd=14, rfc=67, wr=14, mrd=14,
    ),
    "MT48LC16M16A2-75": Chip(
        width=16, row_bits=13, column_bits=9, clock_cl2=10, clock_cl3=7.5,
        rcd=20, rp=20, ras=44, rc=66, rrd=15, rfc=66, wr=15, mrd=15, ras_most=120_000,
    ),
    "AS4C32M16SB-7": Chip(
        width=16, row_bits=13, column_bits=10, clock_cl2=10, clock_cl3=7,
        rcd=21, rp=21, ras=42, rc=63, rrd=14, rfc=63, wr=14, mrd=14, ras_most=120_000,
    ),
    "W9825G6KH-6": Chip(
        width=16, row_bits=13, column_bits=9, clock_cl2=10, clock_cl3=6, rrd_clocks=2,
        rcd=18, rp=18, ras=42, rc=60, rrd=12, rfc=60, wr=12, mrd=12,
    ),
    "IS42S16160B-7": Chip(
        width=16, row_bits=13, column_bits=9, clock_cl2=10, clock_cl3=7,
        rcd=20, rp=20, ras=45, rc=67.5, rrd=14, rfc=67.5, wr=14, mrd=14,
    ),
    "EM638325-7": Chip(
        width=32, row_bits=11, column_bits=8, clock_cl2=10, clock_cl3=7,
        rcd=20, rp=20, ras=49, rc=70, rrd=14, rfc=70, wr=20, mrd=14, rows_refreshed=12,
    ),
}  # fmt: skip

CHIPS["EM638325-7 without masks"] = replace(CHIPS["EM638325-7"], masked=False)

# Two side by side on one address are a chip of twice the width.
CHIPS |= {
    f"two {name}": Chip(
        width=32, row_bits=11, column_bits=8, bank_bits=1, clock_cl2=10, clock_cl3=7, rrd=14,
        wr=14, mrd=14, masked=False, rows_refreshed=11, refresh=32e6, **times,
    )
    for name, times in {
        "M12L16161A-7": {"rcd": 20, "rp": 20, "ras": 42, "rc": 63, "rfc": 63},
        "W9816G6IH-7": {"rcd": 20, "rp": 20, "ras": 45, "rc": 65, "rfc": 65},
        "EM636165-7": {"rcd": 21, "rp": 21, "ras": 42, "rc": 63, "rfc": 70},
    }.items()
}  # fmt: skip

PARTS = {
    "ulx3s": ("MT48LC16M16A2-75", "IS42S16160G-7", "AS4C32M16SB-7"),
    "x16": ("W9825G6KH-6", "IS42S16160B-7", "MT48LC16M16A2-75", "IS42S16160G-7"),
    "em638325": ("EM638325-7",),
    "colorlight_5a": ("two M12L16161A-7", "two W9816G6IH-7", "two EM636165-7"),
    "colorlight": ("EM638325-7 without masks",),
}
"""Chips that may be where a machine believes a part of `hw.memory.sdram.parts`, by its name."""


def chip_of(part: str) -> Chip:
    """The chip beside a simulated machine that has the part of that name."""
    return CHIPS[PARTS[part][0]]


def instance(chip: Chip, clock_hz: int, name: str, ratio: int = 1) -> str:
    """What an instance of the module ``sdram`` begins with, before its ports."""
    parameters = chip.parameters(clock_hz, ratio).items()
    return f"sdram #({', '.join(f'.{key}({value})' for key, value in parameters)}) {name}"


def pads_verilog(chips: Sequence[Chip], clock_hz: int, *, pins: str, ratio: int = 1) -> str:
    """Pads, and chips that lie side by side on the same pins, of which one alone may be there.

    Verilog for inside a module that has the wires ``pins__ras`` and so on of a `PinsSignature`,
    and ``fault``: what one of the chips says of how it is used. What is read is what all agree on.

    At a ratio of 1 there is a register in each pad. At 2 there are those of an ECP5 for two data
    in a cycle: three on the way out, the last of them at both edges of the clock, and on the way in
    one at each edge and one behind both. The chips' clock is late by a part of a cycle, so that at
    an edge they see what left the pads at the one before.
    """
    width, row_bits = chips[0].width, max(chip.row_bits for chip in chips)
    (bank_bits,) = {chip.bank_bits for chip in chips}
    steady = {"bank": bank_bits, "address": row_bits, "dq__oe": 1}
    each = {"mask": width // 8, "dq__o": width}
    pads = []
    for one, bits in ({"ras": 1, "cas": 1, "we": 1} | steady | each).items():
        driven = f"{pins}__{one}"
        if ratio == 2 and one not in each:
            second = driven if one in steady else "1'b0"
            driven = f"{{{second}, {driven}}}"
        pads.append((_PAD, _PAD_TWICE)[ratio - 1].format(name=one, bits=bits, driven=driven))
    agreed, faults = f"driven[0 +: {width}]", "64'b0"
    for number, chip in enumerate(chips):
        driven, said = f"driven[{width * number} +: {width}]", f"said[{64 * number} +: 64]"
        mask = "pad_mask" if chip.masked else f"{width // 8}'b0"
        pads.append(
            f"{instance(chip, clock_hz, f'chip_{number}', ratio)} ("
            ".clk(clk), .cke(1'b1), .cs_n(1'b0), .ras_n(~pad_ras), .cas_n(~pad_cas), "
            ".we_n(~pad_we), .ba(pad_bank), .a(pad_address), "
            f".dqm({mask}), .dq_i(pad_dq__o), .dq_oe(pad_dq__oe), .dq_o({driven}), .fault({said}));"
        )
        agreed += f" ^ (driven[0 +: {width}] ^ {driven})"
        faults = f"{said} != 0 ? {said} : {faults}"
    return "\n".join(
        (
            f"wire [{width * len(chips) - 1}:0] driven; wire [{64 * len(chips) - 1}:0] said;",
            f"wire [{width - 1}:0] agreed = {agreed};",
            (_CAPTURE, _CAPTURE_TWICE)[ratio - 1].format(bits=width),
            f"assign {pins}__dq__i = captured; assign fault = {faults};",
            *pads,
        )
    )


RESET = "reg reset = 1; always @(posedge clk) reset <= rst;"
"""A machine's reset as a register. What depends on an input, as nearly all does on the reset, is
evaluated at both edges of the clock."""


_PAD = "reg [{bits}-1:0] pad_{name} = 0; always @(posedge clk) pad_{name} <= {driven};"

_PAD_TWICE = """\
reg [{bits}-1:0] pad_{name} = 0, late_{name} = 0;
reg [2*{bits}-1:0] one_{name} = 0, two_{name} = 0;
always @(posedge clk) begin
    one_{name} <= {driven};
    two_{name} <= one_{name};
    late_{name} <= two_{name}[{bits} +: {bits}];
end
always @(posedge clk or negedge clk) pad_{name} <= clk ? two_{name}[0 +: {bits}] : late_{name};"""

_CAPTURE = "reg [{bits}-1:0] captured = 0; always @(posedge clk) captured <= agreed;"

_CAPTURE_TWICE = """\
reg [{bits}-1:0] first = 0, second = 0; reg [2*{bits}-1:0] captured = 0;
always @(posedge clk) begin
    first <= agreed;
    captured <= {{second, first}};
end
always @(negedge clk) second <= agreed;"""


def with_chip(chip: Chip, clock_hz: int, ratio: int = 1) -> str:
    """The module ``core``: a module ``machine``, which is a core with ``sdram``, and its chip."""
    width = ratio * chip.width
    machine = {"ras": 1, "cas": 1, "we": 1, "bank": chip.bank_bits}
    machine |= {"address": chip.row_bits}
    machine |= {"mask": width // 8, "dq__o": width, "dq__oe": 1, "dq__i": width}
    wires = "\n".join(f"wire [{bits - 1}:0] sdram__{name};" for name, bits in machine.items())
    return f"""{MODEL.read_text(encoding="utf-8")}
module core (
    input clk, rst, input rx__valid, input [7:0] rx__payload, output rx__ready,
    output tx__valid, output [7:0] tx__payload, input tx__ready, output [63:0] fault
);
{wires}
{pads_verilog([chip], clock_hz, pins="sdram", ratio=ratio)}
{RESET}
machine machine (
    .clk(clk), .rst(reset), .rx__valid(rx__valid), .rx__payload(rx__payload), .rx__ready(rx__ready),
    .tx__valid(tx__valid), .tx__payload(tx__payload), .tx__ready(tx__ready),
    {", ".join(f".sdram__{name}(sdram__{name})" for name in machine)}
);
endmodule
"""


def fault_name(fault: int) -> str:
    """What ``fault`` says; empty where nothing is wrong."""
    return fault.to_bytes(8, "big").lstrip(b"\0").decode("ascii")
