"""Build plan, tools and reports of bitstreams; no real tool runs here."""

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.build import ResourceError
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from host.compiler import compile_image
from hw import boards
from hw.arch.protocol import DIGEST_BYTES
from hw.build import BuildError, steps
from hw.build import __main__ as program
from hw.build.estimate import check_fit, estimate, expected_mhz
from hw.build.floorplan import Floorplan, floorplan, unit_of
from hw.build.plan import plan
from hw.build.report import count_cells, parse_report
from hw.build.reports import read_report
from hw.build.schema import Hop, Step, Streams
from hw.build.tools import Workplace, explain, find_tool, tool_version
from hw.families import PartError, ecp5, gowin, ice40
from hw.links.pins import request_raw
from hw.links.uart import Uart
from hw.machine import Machine
from sim.profile import unmeasured
from sim.speed import Speed, find_speed
from weights.files import ZOO
from weights.model import IntegerModel

REPOSITORY = Path(__file__).parents[1]

# Of a real run, without the cells that are not looked at and most parts of the path.
REPORT = {
    "critical_paths": [
        {
            "from": "posedge clk",
            "to": "posedge clk",
            "path": [
                {
                    "type": "clk-to-q",
                    "delay": 0.525,
                    "from": {"cell": "receiver.timer", "loc": [2, 52], "port": "Q"},
                    "to": {"cell": "receiver.timer", "loc": [2, 52], "port": "Q"},
                },
                {
                    "type": "routing",
                    "delay": 1.147,
                    "from": {"cell": "receiver.timer", "loc": [2, 52], "port": "Q"},
                    "to": {"cell": "core.link.bytes", "loc": [3, 53], "port": "A"},
                },
                {
                    "type": "logic",
                    "delay": 0.236,
                    "from": {"cell": "core.link.bytes", "loc": [3, 53], "port": "A"},
                    "to": {"cell": "core.link.bytes", "loc": [3, 53], "port": "F"},
                },
                {
                    "type": "setup",
                    "delay": 0.1,
                    "from": {"cell": "core.link.bytes", "loc": [3, 53], "port": "F"},
                    "to": {"cell": "core.link.bytes", "loc": [3, 53], "port": "F"},
                },
            ],
        },
        {"from": "<async>", "to": "posedge clk", "path": []},
    ],
    "fmax": {
        "$glbnet$locked.reference_clk": {"achieved": 255.42784118652344, "constraint": 25},
        "clk": {"achieved": 78.14865112304688, "constraint": 50.00125122070312},
    },
    "utilization": {
        "DP16KD": {"available": 208, "used": 190},
        "MULT18X18D": {"available": 156, "used": 9},
        "TRELLIS_COMB": {"available": 83640, "used": 118},
        "TRELLIS_FF": {"available": 83640, "used": 87},
    },
}

# As nextpnr writes it, with the keys that are looked at; a chain of the engine begins and ends in
# LUTs of nextpnr's own.
COMB = "TRELLIS_COMB"
NETLIST = {
    "modules": {
        "top": {
            "cells": {
                "core.engine.row_0.held_LUT4_Z": {
                    "type": COMB,
                    "connections": {"FCI": []},
                    "attributes": {"NEXTPNR_BEL": "X3/Y5/SLICEA.K0"},
                },
                "core.engine.row_0.x_CCU2C_S0$CCU2_COMB0": {
                    "type": COMB,
                    "connections": {"FCI": [2], "FCO": [3]},
                },
                "core.engine.row_0.held": {
                    "type": "TRELLIS_FF",
                    "connections": {},
                    "attributes": {"NEXTPNR_BEL": "X3/Y5/SLICEA.FF0"},
                },
                "core.vector.table": {
                    "type": "DP16KD",
                    "connections": {},
                    "attributes": {"NEXTPNR_BEL": "X7/Y10/EBR2"},
                },
                "$nextpnr_CCU2C_7$CCU2_COMB0": {
                    "type": COMB,
                    "connections": {"FCI": [], "FCO": [1]},
                },
                "$nextpnr_CCU2C_7$CCU2_COMB1": {
                    "type": COMB,
                    "connections": {"FCI": [1], "FCO": [2]},
                },
                "$nextpnr_CCU2C_8$CCU2_COMB0": {"type": COMB, "connections": {"FCI": [3]}},
                "$nextpnr_CCU2C_9$CCU2_COMB0": {"type": COMB, "connections": {"FCI": [9]}},
                "core.vector.lane_0.x_LUT4_Z": {
                    "type": COMB,
                    "connections": {},
                    "attributes": {"NEXTPNR_BEL": "X4/Y5/SLICEB.K1"},
                },
                "core.engine__like_LUT4_Z": {"type": COMB, "connections": {}},
                "receiver.timer_LUT4_Z": {"type": COMB, "connections": {}},
            }
        }
    }
}

LOG = """\
Info: Logic utilisation before packing:
Info:     Total LUT4s:       100/83640     0%
Info: Device utilisation:
Info: \t              DP16KD:     231/    208   111%
Info: \t        TRELLIS_COMB:     118/  83640     0%

ERROR: Unable to place cell 'core.weights', no BELs remaining to implement cell type 'DP16KD'
"""

TOOL = """\
#!{python}
import os, pathlib, sys
tool = pathlib.Path(sys.argv[0]).name
if "--version" in sys.argv:
    print("0.99")
    sys.exit()
here = pathlib.Path.cwd()
with open(os.environ["CALLS"], "a") as calls:
    calls.write(tool + "\\n")
def after(option):
    return sys.argv[sys.argv.index(option) + 1]
if tool == "nextpnr" and after("--seed") in os.environ.get("HANGS", "").split():
    import subprocess, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    pathlib.Path(os.environ["CALLS"] + ".hung").write_text(f"{{os.getpid()}} {{child.pid}}")
    time.sleep(60)
if os.environ.get("FAILS") == tool:
    print(os.environ["SAYS"])
    sys.exit(1)
if tool == "yosys":
    pathlib.Path("top.json").write_text("netlist")
if tool == "nextpnr":
    report = os.environ.get("REPORT_OF_SEED_" + after("--seed"), os.environ["REPORT"])
    pathlib.Path(after("--report")).write_text(report)
    pathlib.Path(after("--textcfg")).write_text("config " + after("--seed"))
    pathlib.Path(after("--write")).write_text(os.environ["NETLIST"])
if tool == "ecppack":
    config = pathlib.Path(after("--input")).read_text()
    pathlib.Path(after("--bit")).write_text("bitstream of " + config)
"""


class Echo(wiring.Component):
    """What is received, mixed with the digest."""

    rx: In(stream.Signature(8))
    tx: Out(stream.Signature(8))

    def __init__(self, digest):
        assert len(digest) == DIGEST_BYTES
        self.digest = digest
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        mask = Signal(8, init=self.digest[0])
        m.d.sync += mask.eq(mask)
        m.d.comb += [
            self.tx.valid.eq(self.rx.valid),
            self.tx.payload.eq(self.rx.payload ^ mask),
            self.rx.ready.eq(self.tx.ready),
        ]
        return m


def recorded_board():
    """The board that the recorded report is of, at the clock of that report."""
    machine = boards.board("ecpix5_85").machine  # has no SDRAM with a clock of its own
    return replace(boards.board("ulx3s_85f"), machine=machine, clock_hz=50_000_000)


@pytest.fixture
def board():
    pytest.importorskip("amaranth_boards")
    return recorded_board()


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """`stand_in` for the tools."""
    return stand_in(tmp_path, monkeypatch)


def stand_in(folder, monkeypatch):
    """Stand-ins for the tools; returns a function that lists which ran since it was last called."""
    for name in ("yosys", "nextpnr", "ecppack"):
        path = folder / name
        path.write_text(TOOL.format(python=sys.executable))
        path.chmod(0o755)
    monkeypatch.setenv("YOSYS", str(folder / "yosys"))
    monkeypatch.setenv("NEXTPNR_ECP5", str(folder / "nextpnr"))
    monkeypatch.setenv("ECPPACK", str(folder / "ecppack"))
    monkeypatch.setenv("CALLS", str(folder / "calls"))
    monkeypatch.setenv("REPORT", report(78.15))
    monkeypatch.setenv("NETLIST", json.dumps(NETLIST))

    def calls():
        path = folder / "calls"
        text = path.read_text() if path.exists() else ""
        path.unlink(missing_ok=True)
        return text.split()

    return calls


def report(clock):
    fmax = {**REPORT["fmax"], "clk": {"achieved": clock, "constraint": 50.00125122070312}}
    return json.dumps({**REPORT, "fmax": fmax})


def resized(board, **sizes):
    """A board with a machine of other sizes."""
    return replace(board, machine=Machine(geometry=replace(board.geometry, **sizes)))


def run(board, output, **options):
    said = []
    options = {"core": Echo, "measure": lambda *_: None, **options}
    result = steps.build(board, output=output, say=said.append, **options)
    return result, "\n".join(said)


# Boards


def test_unknown_board_names_the_known_ones():
    with pytest.raises(ValueError, match=r"must be one of .*sim_small.*ulx3s_85f.*, not 'ulx4m'"):
        boards.board("ulx4m")


@pytest.mark.parametrize("name", boards.names())
def test_boards_are_what_their_names_say(name):
    board = boards.board(name)
    assert board.name == name
    assert board.simulated == (board.device is None)


def test_baud_must_divide_the_clock():
    machine = boards.board("sim_small").machine
    with pytest.raises(ValueError, match="baud must divide"):
        boards.Board(
            name="x",
            machine=machine,
            clock_hz=10_000_000,
            link=Uart(baud=3_000_000),
            platform="a:B",
        )
    with pytest.raises(ValueError, match="must have a link"):
        boards.Board(name="x", machine=machine, clock_hz=10_000_000, platform="a:B")


# Plan


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # LUNA's, of Amaranth
@pytest.mark.parametrize("name", ["recorded", "orangecrab_25f", "arty_a7_100"])
def test_plan_is_pure(name):
    """The same in every process, and of a board with USB, and of one without a router."""
    pytest.importorskip("amaranth_boards")
    made = "recorded_board()" if name == "recorded" else f"boards.board({name!r})"
    first = plan(eval(made), Echo)
    assert plan(eval(made), Echo) == first
    assert str(REPOSITORY) not in "".join(first.files.values())
    code = (
        "from hw import boards; from hw.build.plan import plan;"
        "from tests.test_build import Echo, recorded_board;"
        f"print(plan({made}, Echo).digest.hex())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == first.digest.hex()


def test_the_speed_grade_is_the_platforms():
    """By it the clock is expected."""
    pytest.importorskip("amaranth_boards")
    for speed, said in (("6", "6"), (None, "6")):
        slow = replace(boards.board("ecpix5_85"), speed=speed)
        with pytest.raises(BuildError) as raised:
            plan(slow, Echo)
        assert str(raised.value) == f"ecpix5_85: speed must be its platform's, '8', not '{said}'"
    assert expected_mhz(boards.board("ecpix5_85")) > expected_mhz(slow)


def test_digest_names_the_design_and_is_inside(board):
    class Silent(Echo):
        def elaborate(self, platform):
            return Module()

    planned = plan(board, Echo)
    assert plan(board, Silent).digest != planned.digest
    assert f"8'{planned.digest[0]:08b}" in planned.files["top.il"]


def test_plan_applies_the_settings(board):
    planned = plan(board, Echo)
    assert "COLLISION_X_MASK" in planned.files["top.ys"]
    assert 'LOCATE COMP "uart_0__rx__io"' in planned.files["top.lpf"]
    assert [command[0] for command in planned.commands] == ["yosys", "nextpnr-ecp5", "ecppack"]
    route, pack = planned.seeded(7)
    assert {"top.json", "top.lpf"} <= set(route)  # which all seeds share
    assert {"static", "router1"} <= set(route) and route[-2:] == ["--seed", "7"]
    assert route[route.index("--textcfg") + 1] == pack[pack.index("--input") + 1] == "seed-7.config"


def test_simulated_board_has_no_build():
    with pytest.raises(BuildError, match="sim_small is a simulated board: there is no hard"):
        plan(boards.board("sim_small"))


# Reports


def test_report_of_nextpnr():
    result = parse_report(json.dumps(REPORT), 50_000_000, ecp5.FAMILY)
    assert result.taken == {
        **{"lut4": (118, 83640), "ff": (87, 83640), "bram": (190, 208), "dsp": (9, 156)}
    }
    assert (result.clock_mhz, result.clock_required_mhz, result.passed) == (78.15, 50, True)
    assert result.critical_path == (
        Hop(cell="receiver.timer", unit="other", x=2, y=52, wire_ns=0, cell_ns=0.53),
        Hop(cell="core.link.bytes", unit="link", x=3, y=53, wire_ns=1.15, cell_ns=0.34),
    )
    assert not parse_report(report(49.9), 50_000_000, ecp5.FAMILY).passed
    with pytest.raises(BuildError, match="no clock of 60 MHz"):
        parse_report(json.dumps(REPORT), 60_000_000, ecp5.FAMILY)


def test_cells_belong_to_the_units_that_name_them():
    plan = floorplan(NETLIST, ecp5.FAMILY)
    assert plan == Floorplan(
        cells={
            "engine": {"lut4": 5, "ff": 1},
            "other": {"lut4": 3},
            "vector": {"lut4": 1, "bram": 1},
        },
        logic={"engine": [(3, 5)], "vector": [(4, 5)]},
        bram={"vector": [(7, 10)]},
        dsp={},
    )
    assert Floorplan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("cell", "unit"),
    [
        ("core.vector.beats_TRELLIS_FF_Q", "vector"),
        ("core.vector_queue.storage.0.3", "vector"),
        ("core.reset_TRELLIS_FF_Q", None),
        ("receiver.timer", None),
    ],
)
def test_a_unit_has_its_queue(cell, unit):
    assert unit_of(cell) == unit


@pytest.mark.parametrize(
    ("family", "kind", "bel", "counted", "place"),
    [
        (gowin.FAMILY, "LUT3", "X47Y32/LUT7", {"lut4": 1}, {"logic": (47, 32)}),
        (gowin.FAMILY, "DFFRE", "X40Y26/DFF0", {"ff": 1}, {"logic": (40, 26)}),
        (gowin.FAMILY, "SDP", "X10Y9/BSRAM", {"bram": 1}, {"bram": (10, 9)}),
        (ice40.FAMILY, "ICESTORM_LC", "X1/Y2/lc0", {"lut4": 1, "ff": 1}, {"logic": (1, 2)}),
    ],
)
def test_places_of_other_families(family, kind, bel, counted, place):
    cell = {"type": kind, "connections": {}, "attributes": {"NEXTPNR_BEL": bel}}
    plan = floorplan({"modules": {"top": {"cells": {"core.link.x": cell}}}}, family)
    assert plan.cells == {"link": counted}
    found = {name: getattr(plan, name) for name in ("logic", "bram", "dsp")}
    assert found == {n: {"link": [place[n]]} if n in place else {} for n in found}


def test_cells_of_a_netlist():
    cells = {"LUT4": 5, "CCU2C": 2, "TRELLIS_DPR16X4": 1, "TRELLIS_FF": 4, "DP16KD": 3, "DCCA": 1}
    named = {f"{kind}_{n}": {"type": kind} for kind, count in cells.items() for n in range(count)}
    netlist = {"modules": {"top": {"cells": named}}}
    assert count_cells(netlist, ecp5.FAMILY) == {"lut4": 15, "ff": 4, "bram": 3, "dsp": 0}


def test_failures_are_explained_in_one_line():
    assert explain("nextpnr-ecp5", LOG) == "design does not fit: DP16KD 231 of 208"
    fits = LOG.replace("231/", "201/")
    assert explain("nextpnr-ecp5", fits).startswith("nextpnr-ecp5 failed: Unable to place")
    assert explain("yosys", "top.ys:3: ERROR: no such\n") == "yosys failed: no such"
    assert explain("yosys", "no word") == "yosys failed"
    python = "Traceback:\nPermissionError: [Errno 13] Permission denied: '/x'\n"
    assert explain("yosys", python).startswith("yosys failed: [Errno 13] Permission denied")


# Build


def test_build_leaves_bitstream_and_report(board, tools, tmp_path):
    result, said = run(board, tmp_path / "out")
    assert tools() == ["yosys", "nextpnr", "ecppack"]
    place = tmp_path / "out" / board.name
    assert (place / "top.bit").read_text() == "bitstream of config 1"
    assert read_report(place / "report.json") == result
    assert {name: use.estimate for name, use in result.resources.items()} == estimate(board)
    assert {
        "board": "ulx3s_85f",
        "machine": board.machine_digest,
        "clock_mhz": 78.15,
        "lanes": board.geometry.lanes,
        "seed": 1,
        "digest": plan(board, Echo).digest.hex(),
        "tools": {"yosys": "0.99", "nextpnr-ecp5": "0.99", "ecppack": "0.99"},
    }.items() <= vars(result).items()
    assert set(result.seconds) == {"yosys", "nextpnr", "ecppack"}
    assert "already built" not in said


def test_nothing_is_built_twice(board, tools, tmp_path):
    first, _ = run(board, tmp_path / "out")
    tools()
    again, said = run(board, tmp_path / "out")
    assert again == first
    assert not tools()
    assert f"already built: digest {first.digest}" in said
    assert (tmp_path / "out" / board.name / "top.bit").exists()
    run(board, tmp_path / "out", seeds=(1, 2))
    assert tools() == ["nextpnr"]
    run(board, tmp_path / "out", force=True)
    assert tools() == ["yosys", "nextpnr", "ecppack"]


def test_other_tools_build_anew(board, tools, tmp_path):
    run(board, tmp_path / "out")
    tools()
    path = tmp_path / "yosys"
    path.write_text(path.read_text().replace("0.99", "1.00"))
    result, _ = run(board, tmp_path / "out")
    assert tools() == ["yosys", "nextpnr", "ecppack"]
    assert result.tools["yosys"] == "1.00"


def test_best_seed_is_kept(board, tools, tmp_path, monkeypatch):
    monkeypatch.setenv("REPORT_OF_SEED_4", report(81.5))
    result, _ = run(board, tmp_path / "out", seeds=(3, 4, 5))
    assert result.seed == 4
    assert result.seeds == {"3": 78.15, "4": 81.5, "5": 78.15}
    assert (tmp_path / "out" / board.name / "top.bit").read_text() == "bitstream of config 4"


def test_failed_timing_leaves_a_report_but_no_bitstream(board, tools, tmp_path, monkeypatch):
    run(board, tmp_path / "out")
    monkeypatch.setenv("REPORT_OF_SEED_2", report(45.25))
    with pytest.raises(BuildError, match=r"timing failed: 45.25 MHz of 50 MHz \(log"):
        run(board, tmp_path / "out", seeds=(2,))
    place = tmp_path / "out" / board.name
    assert not (place / "top.bit").exists()
    assert not read_report(place / "report.json").passed


@pytest.mark.parametrize("tool", ["yosys", "nextpnr", "ecppack"])
def test_failed_tool_leaves_nothing_stale(board, tools, tmp_path, monkeypatch, tool):
    run(board, tmp_path / "out")
    monkeypatch.setenv("FAILS", tool)
    monkeypatch.setenv("SAYS", "ERROR: out of luck")
    with pytest.raises(BuildError, match=rf"{tool}.* failed: out of luck \(log: ") as failure:
        run(board, tmp_path / "out", force=True)
    log = Path(str(failure.value).rpartition("log: ")[2][:-1])
    assert "out of luck" in log.read_text()
    place = tmp_path / "out" / board.name
    assert not (place / "top.bit").exists()
    assert not (place / "report.json").exists()
    monkeypatch.delenv("FAILS")
    tools()
    run(board, tmp_path / "out")
    assert tool in tools()


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("os.kill(os.getpid(), 9)", r"was killed \(SIGKILL\), often because memory ran out"),
        ("sys.exit(137)", r"was killed \(SIGKILL\), often because memory ran out"),
        ("os.kill(os.getpid(), 11)", r"was killed \(SIGSEGV\)"),
        ("print('std::bad_alloc', flush=True); os.abort()", r"ran out of memory \(SIGABRT\)"),
        ("sys.exit('write: No space left on device')", "found no space left on the disk"),
    ],
)
@pytest.mark.parametrize("tool", ["yosys", "nextpnr", "ecppack"])
def test_killed_tool_is_said_to_be(board, tools, tmp_path, tool, end, words):
    path = tmp_path / tool
    head, mark, rest = path.read_text().partition("here = ")
    path.write_text(f"{head}{end}\n{mark}{rest}")
    with pytest.raises(BuildError, match=rf"^{tool}[-a-z0-9]* {words}.*\(log: .*\)$"):
        run(board, tmp_path / "out")


def test_tool_that_does_not_start_is_named(board, tools, tmp_path):
    (tmp_path / "yosys").write_text("#!/nonexistent/python\n")
    with pytest.raises(BuildError, match=r"yosys does not start \(No such file.*set YOSYS"):
        run(board, tmp_path / "out")


def test_tools_as_people_name_them(monkeypatch, tmp_path):
    folder = tmp_path / "my tools"
    folder.mkdir()
    (folder / "yosys").write_text("#!/bin/sh\necho 0.42 $*\n")
    (folder / "yosys").chmod(0o755)
    monkeypatch.setenv("YOSYS", str(folder / "yosys"))
    assert find_tool("yosys", ecp5.FAMILY) == [str(folder / "yosys")]
    monkeypatch.setenv("YOSYS", f"'{folder / 'yosys'}' -q")
    assert find_tool("yosys", ecp5.FAMILY) == [str(folder / "yosys"), "-q"]
    assert tool_version("yosys", find_tool("yosys", ecp5.FAMILY), "") == "0.42"
    (folder / "yosys").write_text("#!/bin/sh\necho usage; exit 2\n")
    installed = importlib.metadata.version("amaranth")
    assert tool_version("yosys", [str(folder / "yosys")], "amaranth") == installed
    assert tool_version("yosys", [str(folder / "yosys")], "no-such-package") == "unknown"
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("YOSYS", "")
    assert find_tool("yosys", ecp5.FAMILY) == [str(folder / "yosys")]


def test_a_tool_that_is_slow_to_start_is_waited_for_aloud(board, tools, tmp_path, monkeypatch):
    said: list[str] = []
    the_plan = plan(board)
    Workplace(the_plan, tmp_path / "out", say=said.append)
    assert said == []
    monkeypatch.setattr("hw.build.tools.PATIENCE_SECONDS", 0.01)
    Workplace(the_plan, tmp_path / "out", say=said.append)
    assert [line.split(":")[0] for line in said] == ["yosys", "nextpnr-ecp5", "ecppack"]
    assert "made ready for this processor, once" in said[0]


def damage(path: Path, content: bytes | None) -> None:
    path.unlink() if content is None else path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("top.json", "yosys"),
        ("synthesis.seconds", "yosys"),
        ("seed-1.config", "nextpnr"),
        ("seed-1.report", "nextpnr"),
        ("seed-1.floorplan", "nextpnr"),
        ("seed-1.seconds", "nextpnr"),
        ("seed-1.bit", "ecppack"),
        ("pack-1.seconds", "ecppack"),
    ],
)
@pytest.mark.parametrize("content", [None, b"", b"\xff{", b"12.5", b"[1, 2]", b"[null, {}]"])
@pytest.mark.whole
def test_damaged_step_runs_again(board, tools, tmp_path, name, step, content):
    first, _ = run(board, tmp_path / "out")
    (path,) = (tmp_path / "out" / board.name).rglob(name)
    damage(path, content)
    tools()
    again, _ = run(board, tmp_path / "out")
    assert tools() == [step]
    assert replace(again, seconds={}) == replace(first, seconds={})
    place = tmp_path / "out" / board.name
    assert (place / "top.bit").read_text() == "bitstream of config 1"


def test_report_that_is_none_is_said_to_be(board, tools, tmp_path, monkeypatch):
    for report in ("", "{", "[]", "{}"):
        monkeypatch.setenv("REPORT", report)
        with pytest.raises(BuildError, match=r"seed-1\.report cannot be read"):
            run(board, tmp_path / "out", force=True)


def test_builds_in_one_folder_wait_for_each_other(board, tools, tmp_path):
    said = []
    entered = threading.Event()
    with steps.folder_of(tmp_path / "out" / board.name, steps.PUBLISHED, said.append):
        other = threading.Thread(
            target=lambda: (
                entered.set(),
                steps.build(
                    board,
                    output=tmp_path / "out",
                    core=Echo,
                    measure=lambda *_: None,
                    say=said.append,
                ),
            )
        )
        other.start()
        deadline = time.monotonic() + 30
        while not said and time.monotonic() < deadline:
            time.sleep(0.02)
        assert said == [f"another build works in {tmp_path / 'out' / board.name}: waiting for it"]
        assert not tools()
    other.join(60)
    assert tools() == ["yosys", "nextpnr", "ecppack"]


def test_output_that_cannot_be_written_is_named(tools, tmp_path):
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "b"):
        with pytest.raises(BuildError, match=r"ulx3s_85f: cannot be written to \(.*--output"):
            run(recorded_board(), output)


def test_what_a_killed_build_left_goes(board, tools, tmp_path):
    place = tmp_path / "out" / board.name
    place.mkdir(parents=True)
    for name in ("top.bit", "report.json"):
        (place / f".{name}.123.part").touch()
    run(board, tmp_path / "out")
    assert not list(place.glob(".*.part"))


def test_plan_needs_no_yosys(board, tmp_path, monkeypatch):
    whole = plan(board, Echo)
    (tmp_path / "yosys").write_text("#!/bin/sh\necho ERROR >&2; exit 1\n")
    (tmp_path / "yosys").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("AMARANTH_USE_YOSYS", "system")
    assert plan(board, Echo) == whole


def test_design_that_does_not_fit_says_so(board, tools, tmp_path, monkeypatch):
    monkeypatch.setenv("FAILS", "nextpnr")
    monkeypatch.setenv("SAYS", LOG)
    with pytest.raises(BuildError, match="does not fit: DP16KD 231 of 208"):
        run(board, tmp_path / "out")


def test_board_that_cannot_be_made_is_refused(board, tmp_path):
    def core(digest):
        raise ValueError("elements must be 1, 2, 4 or 8, not 3")

    with pytest.raises(BuildError, match="ulx3s_85f: elements must be 1, 2, 4 or 8, no"):
        plan(board, core)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            "amaranth_boards.ulx3s:ULX3S_85_Platform",
            ": amaranth_boards.ulx3s has no class ULX3S_85_Platform, but a ULX3S_85F_Platform",
        ),
        ("amaranth_boards.ulx3s:NoSuch", ": amaranth_boards.ulx3s has no class NoSuch"),
        ("amaranth_boards.ulx3:NoSuch", ": there is no module amaranth_boards.ulx3"),
        ("amaranth_boards.ulx3s.ULX3S_85F_Platform", ""),
        (":ULX3S_85F_Platform", ""),
    ],
)
def test_a_platform_that_is_none_is_refused(board, said, why):
    pytest.importorskip("amaranth_boards")
    with pytest.raises(BuildError) as raised:
        plan(replace(board, platform=said), Echo)
    wanted = f"ulx3s_85f: platform must be 'module:class', not {said!r}{why}"
    assert str(raised.value) == wanted


def test_a_resource_that_the_platform_lacks_is_refused(board):
    pytest.importorskip("amaranth_boards")
    platform = board.platform_class()()
    with pytest.raises(ResourceError, match=r"^resource must be one of .*, uart, .*, not serial 0"):
        request_raw(platform, "serial")


def test_unknown_part_is_refused(board):
    with pytest.raises(PartError, match=r"as LFE5U-12F, .*, not 'LFE5U-13F'; one more is"):
        check_fit({"lut4": 1}, "LFE5U-13F")
    with pytest.raises(PartError, match="not 'LFE5U-13F'"):
        plan(replace(board, device="LFE5U-13F"), Echo)


def test_missing_tool_is_named(board, tools, tmp_path, monkeypatch):
    monkeypatch.setenv("YOSYS", str(tmp_path / "nowhere"))
    with pytest.raises(BuildError, match=r"nowhere is not there: install .* or set YOSYS"):
        run(board, tmp_path / "out")


def test_report_has_the_luts_of_the_engine(board, tools, tmp_path):
    for _ in range(2):
        result, _ = run(board, tmp_path / "out")
        assert result.engine_lut4 == 5
        assert result.cells_by_unit["vector"] == {"lut4": 1, "bram": 1}
    assert not list((tmp_path / "out").rglob("*.cells"))


def test_failed_seeds_are_in_the_report(board, tools, tmp_path, monkeypatch):
    monkeypatch.setenv("HANGS", "1")
    result, said = run(board, tmp_path / "out", seeds=(1, 3), limit=0.05)
    assert result.seed == 3
    assert result.seeds == {"1": None, "3": 78.15}
    assert set(result.failures) == {"1"}
    assert "was not done after 0.05 minutes: try another seed" in result.failures["1"]
    assert f"seed-1: {result.failures['1']}" in said


def gone(process: int) -> bool:
    """Whether a process has ended; one that nobody waited for has, too."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_nothing_runs_after_the_limit(board, tools, tmp_path, monkeypatch):
    monkeypatch.setenv("HANGS", "1")
    with pytest.raises(BuildError, match=r"nextpnr.* was not done after 0.02 minutes"):
        run(board, tmp_path / "out", limit=0.02)
    assert not (tmp_path / "out" / board.name / "report.json").exists()
    pids = (tmp_path / "calls.hung").read_text().split()
    deadline = time.monotonic() + 10
    while not all(gone(int(pid)) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert all(gone(int(pid)) for pid in pids)
    monkeypatch.delenv("HANGS")
    assert run(board, tmp_path / "out")[0].seeds == {"1": 78.15}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_runs_after_an_interrupt(board, tools, tmp_path, number):
    code = (
        "import signal, sys; from pathlib import Path; from hw.boards import board;"
        "from hw.build.steps import build; from tests.test_build import Echo;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143));"
        "build(board('ulx3s_85f'), core=Echo, measure=lambda *_: None,"
        "            output=Path(sys.argv[1]), seeds=(1, 2), jobs=2)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out")],
        cwd=REPOSITORY,
        env={**os.environ, "HANGS": "1"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    hung = tmp_path / "calls.hung"
    while not hung.exists() or len(hung.read_text().split()) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(20) != 0
    assert all(gone(int(pid)) for pid in hung.read_text().split())


def test_seeds_run_side_by_side(board, tools, tmp_path, monkeypatch):
    running, most = [], []

    def route(place, plan, seed, minutes):
        running.append(seed)
        most.append(len(running))
        time.sleep(0.2)
        running.remove(seed)
        return real(place, plan, seed, minutes)

    real = steps.route
    monkeypatch.setattr(steps, "route", route)
    result, _ = run(board, tmp_path / "out", seeds=(3, 4, 5, 6), jobs=2)
    assert list(result.seeds) == ["3", "4", "5", "6"]
    assert max(most) == 2


def test_machine_too_large_is_refused_before_any_tool_runs(board, tools, tmp_path):
    large = resized(board, weight_rows=4096, rows=64)
    with pytest.raises(BuildError) as failure:
        run(large, tmp_path / "out")
    text = str(failure.value)
    assert re.fullmatch(
        r"ulx3s_85f does not fit LFE5U-85F: bram needs about \d+ of 208: "
        r"reduce weight_rows, table_words or another depth",
        text,
    )
    assert not tools()
    large = resized(board, rows=256, columns=16, weight_rows=128)
    with pytest.raises(BuildError, match=r"lut4 needs about \d+ of 83640: reduce rows, col"):
        run(large, tmp_path / "out")
    assert not tools()


def test_nearly_full_device_is_warned_of(board, tools, tmp_path):
    guess = {"lut4": 83640, "ff": 81130, "bram": 203, "dsp": 1}
    fit = check_fit(guess, "LFE5U-85F")
    assert not fit.lacks
    assert [line.split()[0] for line in fit.warnings] == ["lut4", "bram"]
    used = estimate(board)["bram"]
    _, said = run(board, tmp_path / "out")
    warned = f"warning: bram needs about {used} of 208" in said
    assert warned == (used >= 0.97 * 208)


# Speed


@pytest.fixture(scope="module")
def predicted():
    path = ZOO / "stories-tiny.safetensors"
    image = compile_image(IntegerModel.load(path), boards.board("sim_tiny").geometry)
    return unmeasured(image, "sim_tiny", path.stem)


def test_report_has_the_speed(board, tools, tmp_path, predicted):
    speed = Speed(profile=predicted, cycles=25_000.0)
    result, _ = run(board, tmp_path / "out", measure=lambda *_: speed)
    timing = predicted.timing
    assert (result.model, result.trits_per_token) == ("stories-tiny", timing.image.trits_per_token)
    assert result.streams == (
        Streams(
            contexts=1,
            cycles_predicted=timing.cycles,
            cycles_simulated=25_000,
            utilization=timing.image.trits_per_token / (16 * 25_000),
            tokens_per_s=3126,
            tokens_per_s_as_built=2000,
        ),
    )
    assert [step.name for step in result.profile] == list(timing.image.steps)
    assert result.profile[0] == Step(
        **{"name": timing.image.steps[0], "unit": "vector", "times": 1},
        **{"cycles_simulated": None, "cycles_predicted": predicted.predicted[0]},
    )
    place = tmp_path / "out" / board.name
    assert read_report(place / "report.json") == result
    assert (place / "profile.svg").read_text() == predicted.svg()
    assert predicted.svg() in (place / "report.html").read_text()


@pytest.mark.whole
def test_build_without_a_simulator_says_so(board, tools, tmp_path, monkeypatch):
    monkeypatch.setenv("VERILATOR", "no-such-verilator")
    result, said = run(board, tmp_path / "out", measure=find_speed)
    assert "cycles per token are only predicted: VERILATOR must be a program" in said
    (streams,) = result.streams
    assert streams.cycles_simulated is None and streams.cycles_predicted == streams.cycles > 0
    assert result.model == "stories-small"
    assert (tmp_path / "out" / board.name / "top.bit").exists()


@pytest.mark.whole
def test_speed_is_simulated():
    board = boards.board("sim_tiny")
    speed = find_speed(board, "stories-tiny", lambda text: None)
    assert speed.cycles == speed.profile.timing.cycles
    assert speed.profile.differences() == 0


def test_model_that_does_not_fit(board, tools, tmp_path):
    said = []
    assert find_speed(boards.board("sim_tiny"), None, said.append) is None
    assert said[0].startswith("no cycles per token: stories-small: model does not fit the device")
    for model in ("stories-base", "no-such-model"):
        with pytest.raises(BuildError, match=model):
            run(board, tmp_path / "out", measure=find_speed, model=model)
    result, _ = run(board, tmp_path / "out")
    assert result.model is result.profile is None and result.streams == ()


# Command line


def test_errors_are_one_line(capsys, tmp_path):
    assert program.main(["ulx4m", "--output", str(tmp_path)]) == 1
    assert program.main(["sim_small", "--output", str(tmp_path)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert errors[0].startswith("board must be one of")
    assert errors[1].startswith("sim_small is a simulated board")


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--seeds", "0"], ["--jobs", "0"]),
        *(["--limit", "0"], ["--limit", "nan"], ["--limit", "inf"]),
    ],
)
def test_wrong_usage(capsys, arguments):
    with pytest.raises(SystemExit) as exit:
        program.main(["ulx3s_85f", *arguments])
    assert exit.value.code == 2
    assert f"{arguments[0]} must be" in capsys.readouterr().err


def test_command_line_begins_at_the_seed_of_the_board(board, tools, tmp_path, monkeypatch, capsys):
    real, seen = steps.build, {}

    def record(target, **options):
        seen.update(options)
        return real(target, core=Echo, **{**options, "measure": lambda *_: None})

    monkeypatch.setattr(program, "build", record)
    monkeypatch.setattr(program, "board", lambda name: replace(board, seed=5))
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = ["ulx3s_85f", "--seeds", "2", "--limit", "3", "--jobs", "2"]
    assert program.main([*arguments, "--output", "~/out"]) == 0
    assert seen["output"] == tmp_path / "out"
    first, second = seen["seeds"]
    assert first == 5 and 1 << 32 < second < 1 << 63
    assert steps.draw_seeds(5, 2) == seen["seeds"] and seen["limit"] == 3 and seen["jobs"] == 2
    assert "5 LUT4 routed" in capsys.readouterr().out


def test_synthesis_says_by_how_much_a_machine_is_too_large(
    tools, too_large, tmp_path, monkeypatch, capsys
):
    """Where the estimate says so a build does not begin, but its synthesis can be asked for."""
    kinds = {"SB_LUT4": 7920, "SB_DFFE": 10, "SB_RAM40_4K": 45, "SB_MAC16": 8}
    cells = {f"{kind}_{n}": {"type": kind} for kind, count in kinds.items() for n in range(count)}
    netlist = json.dumps({"modules": {"top": {"cells": cells}}})
    (tmp_path / "yosys").write_text(
        f"#!{sys.executable}\nimport pathlib, sys\n"
        "if '--version' in sys.argv: sys.exit(print('0.99'))\n"
        f"pathlib.Path('top.json').write_text({netlist!r})"
    )
    for name in ("NEXTPNR_ICE40", "ICEPACK"):
        monkeypatch.setenv(name, str(tmp_path / "nextpnr"))
    options = [too_large, "--output", str(tmp_path / "out")]
    monkeypatch.setattr(steps, "plan", lambda board, core: plan(board, Echo))
    assert program.main([*options, "--synthesis-only"]) == 1
    captured = capsys.readouterr()
    assert captured.err == (
        "icebreaker does not fit iCE40UP5K: lut4 7920 of 5280 (1.5 times), "
        "bram 45 of 30 (1.5 times)\n"
    )
    assert ["dsp", "10", "8", "8"] in [line.split() for line in captured.out.splitlines()]
    assert not tools()
    assert program.main(options) == 1
    assert re.fullmatch(
        r"icebreaker does not fit iCE40UP5K: lut4 .*; dsp needs about 10 of 8: .*\n",
        capsys.readouterr().err,
    )


def test_estimate_of_what_does_not_fit_is_a_failure(board, monkeypatch, capsys):
    large = resized(board, weight_rows=1 << 14)
    monkeypatch.setattr(program, "board", lambda name: large)
    assert program.main(["ulx3s_85f", "--estimate-only"]) == 1
    assert capsys.readouterr().err.startswith("ulx3s_85f does not fit LFE5U-85F: bram needs")


def test_estimate_needs_no_tools(capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert program.main(["ulx3s_85f", "--estimate-only"]) == 0
    out = capsys.readouterr().out
    for name, value in estimate(boards.board("ulx3s_85f")).items():
        assert any(line.split()[:2] == [name, str(value)] for line in out.splitlines())
