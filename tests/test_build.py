"""Build plan, tools and reports of bitstreams; no real tool runs here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from host.geometry import Geometry
from host.protocol import DIGEST_BYTES
from hw import boards, build
from hw.estimate import CAPACITY, arrange, estimate
from hw.top import EcpPll, Top

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
                    "to": {"cell": "receiver.bytes", "loc": [3, 53], "port": "A"},
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
if os.environ.get("FAILS") == tool:
    print(os.environ["SAYS"])
    sys.exit(1)
if tool == "nextpnr":
    report = os.environ.get("REPORT_OF_SEED_" + after("--seed"), os.environ["REPORT"])
    pathlib.Path(after("--report")).write_text(report)
    pathlib.Path(after("--textcfg")).write_text("config " + after("--seed"))
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
    """The board that the recorded report is of."""
    return boards.board("ulx3s_85f")


@pytest.fixture
def board():
    pytest.importorskip("amaranth_boards")
    return recorded_board()


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Stand-ins for the tools; returns a function that lists which ran since it was last called."""
    for name in ("yosys", "nextpnr", "ecppack"):
        path = tmp_path / name
        path.write_text(TOOL.format(python=sys.executable))
        path.chmod(0o755)
    monkeypatch.setenv("YOSYS", str(tmp_path / "yosys"))
    monkeypatch.setenv("NEXTPNR_ECP5", str(tmp_path / "nextpnr"))
    monkeypatch.setenv("ECPPACK", str(tmp_path / "ecppack"))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("REPORT", report(78.15))

    def calls():
        path = tmp_path / "calls"
        text = path.read_text() if path.exists() else ""
        path.unlink(missing_ok=True)
        return text.split()

    return calls


def report(clock):
    fmax = {**REPORT["fmax"], "clk": {"achieved": clock, "constraint": 50.00125122070312}}
    return json.dumps({**REPORT, "fmax": fmax})


def run(board, output, **options):
    said = []
    options = {"core": Echo, "measure": lambda *_: None, **options}
    result = build.build(board, output=output, say=said.append, **options)
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
    assert board.simulated or board.device in CAPACITY


def test_baud_must_divide_the_clock():
    geometry = boards.board("sim_small").geometry
    with pytest.raises(ValueError, match="baud must divide"):
        boards.Board(
            name="x", geometry=geometry, clock_hz=10_000_000, baud=3_000_000, platform="a:B"
        )
    with pytest.raises(ValueError, match="must have a baud"):
        boards.Board(name="x", geometry=geometry, clock_hz=10_000_000, platform="a:B")


# Clock


@pytest.mark.parametrize("output", [50e6, 62.5e6, 65e6, 68.75e6, 70e6, 75e6, 80e6, 100e6])
def test_pll_makes_the_clock_exactly(output):
    pll = EcpPll.solve(25_000_000, int(output))
    assert 25e6 * pll.feedback == output * pll.output_divisor * pll.input_divisor
    assert 25e6 / pll.input_divisor >= 10e6
    assert 400e6 <= output * pll.output_divisor <= 800e6


def test_pll_refuses_a_clock_it_cannot_make():
    with pytest.raises(ValueError, match="must be one that a PLL can make from 25000000 Hz"):
        EcpPll.solve(25_000_000, 66_666_667)


def test_other_families_are_refused(board):
    class Platform:
        family = "other"

    with pytest.raises(NotImplementedError, match="family 'other'"):
        Top(board, Echo(bytes(DIGEST_BYTES))).elaborate(Platform())


# Plan


def test_plan_is_pure(board):
    first = build.plan(board, Echo)
    assert build.plan(board, Echo) == first
    assert str(REPOSITORY) not in "".join(first.files.values())
    code = (
        "from hw import build; from tests.test_build import Echo, recorded_board;"
        "print(build.plan(recorded_board(), Echo).digest.hex())"
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


def test_digest_names_the_design_and_is_inside(board):
    class Silent(Echo):
        def elaborate(self, platform):
            return Module()

    plan = build.plan(board, Echo)
    assert build.plan(board, Silent).digest != plan.digest
    assert f"8'{plan.digest[0]:08b}" in plan.files["top.il"]


def test_plan_applies_the_settings(board):
    plan = build.plan(board, Echo)
    assert "COLLISION_X_MASK" in plan.files["top.ys"]
    assert 'LOCATE COMP "uart_0__rx__io"' in plan.files["top.lpf"]
    synthesis, route, pack = plan.seeded(7)
    assert (synthesis[0], route[0], pack[0]) == ("yosys", "nextpnr-ecp5", "ecppack")
    assert "router2" in route and route[-2:] == ["--seed", "7"]
    assert route[route.index("--textcfg") + 1] == pack[pack.index("--input") + 1] == "seed-7.config"


def test_simulated_board_has_no_build():
    with pytest.raises(build.BuildError, match="sim_small is a simulated board: there is no hard"):
        build.plan(boards.board("sim_small"))


# Reports


def test_report_of_nextpnr():
    result = build.parse_report(json.dumps(REPORT), 50_000_000)
    assert result["lut4"] == {"used": 118, "available": 83640}
    assert result["ff"] == {"used": 87, "available": 83640}
    assert result["bram"] == {"used": 190, "available": 208}
    assert result["dsp"] == {"used": 9, "available": 156}
    assert result["clock_mhz"] == 78.15
    assert result["clock_required_mhz"] == 50
    assert result["passed"]
    assert result["critical_path"] == {
        "from": "receiver.timer",
        "to": "receiver.bytes",
        "cells_ns": 0.53,
        "wires_ns": 1.15,
    }
    assert not build.parse_report(report(49.9), 50_000_000)["passed"]
    with pytest.raises(build.BuildError, match="no clock of 60 MHz"):
        build.parse_report(json.dumps(REPORT), 60_000_000)


def test_failures_are_explained_in_one_line():
    assert build.explain("nextpnr-ecp5", LOG) == "design does not fit: DP16KD 231 of 208"
    fits = LOG.replace("231/", "201/")
    assert build.explain("nextpnr-ecp5", fits).startswith("nextpnr-ecp5 failed: Unable to place")
    assert build.explain("yosys", "top.ys:3: ERROR: no such\n") == "yosys failed: no such"
    assert build.explain("yosys", "killed") == "yosys failed"


# Build


def test_build_leaves_bitstream_and_report(board, tools, tmp_path):
    result, said = run(board, tmp_path / "out")
    assert tools() == ["yosys", "nextpnr", "ecppack"]
    place = tmp_path / "out" / board.name
    assert (place / "top.bit").read_text() == "bitstream of config 1"
    assert json.loads((place / "report.json").read_text()) == result
    assert {
        "board": "ulx3s_85f",
        "clock_mhz": 78.15,
        "lanes": board.geometry.lanes,
        "seed": 1,
        "digest": build.plan(board, Echo).digest.hex(),
        "estimate": estimate(board.geometry),
        "tools": {"yosys": "0.99", "nextpnr-ecp5": "0.99", "ecppack": "0.99"},
    }.items() <= result.items()
    assert set(result["seconds"]) == {"yosys", "nextpnr", "ecppack"}
    assert "already built" not in said


def test_nothing_is_built_twice(board, tools, tmp_path):
    first, _ = run(board, tmp_path / "out")
    tools()
    again, said = run(board, tmp_path / "out")
    assert again == first
    assert not tools()
    assert f"already built: digest {first['digest']}" in said
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
    assert result["tools"]["yosys"] == "1.00"


def test_best_seed_is_kept(board, tools, tmp_path, monkeypatch):
    monkeypatch.setenv("REPORT_OF_SEED_4", report(81.5))
    result, _ = run(board, tmp_path / "out", seeds=(3, 4, 5))
    assert result["seed"] == 4
    assert result["seeds"] == {"3": 78.15, "4": 81.5, "5": 78.15}
    assert (tmp_path / "out" / board.name / "top.bit").read_text() == "bitstream of config 4"


def test_failed_timing_leaves_a_report_but_no_bitstream(board, tools, tmp_path, monkeypatch):
    run(board, tmp_path / "out")
    monkeypatch.setenv("REPORT_OF_SEED_2", report(45.25))
    with pytest.raises(build.BuildError, match=r"timing failed: 45.25 MHz of 50 MHz \(log"):
        run(board, tmp_path / "out", seeds=(2,))
    place = tmp_path / "out" / board.name
    assert not (place / "top.bit").exists()
    assert not json.loads((place / "report.json").read_text())["passed"]


@pytest.mark.parametrize("tool", ["yosys", "nextpnr", "ecppack"])
def test_failed_tool_leaves_nothing_stale(board, tools, tmp_path, monkeypatch, tool):
    run(board, tmp_path / "out")
    monkeypatch.setenv("FAILS", tool)
    monkeypatch.setenv("SAYS", "ERROR: out of luck")
    with pytest.raises(build.BuildError, match=rf"{tool}.* failed: out of luck \(log: ") as failure:
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


def test_design_that_does_not_fit_says_so(board, tools, tmp_path, monkeypatch):
    monkeypatch.setenv("FAILS", "nextpnr")
    monkeypatch.setenv("SAYS", LOG)
    with pytest.raises(build.BuildError, match="does not fit: DP16KD 231 of 208"):
        run(board, tmp_path / "out")


def test_missing_tool_is_named(board, tools, tmp_path, monkeypatch):
    monkeypatch.setenv("YOSYS", str(tmp_path / "nowhere"))
    with pytest.raises(build.BuildError, match=r"nowhere is not there: install .* or set YOSYS"):
        run(board, tmp_path / "out")


# Command line


def test_errors_are_one_line(capsys, tmp_path):
    assert build.main(["ulx4m", "--output", str(tmp_path)]) == 1
    assert build.main(["sim_small", "--output", str(tmp_path)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert errors[0].startswith("error: board must be one of")
    assert errors[1].startswith("error: sim_small is a simulated board")


def test_estimate_needs_no_tools(capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert build.main(["ulx3s_85f", "--estimate-only"]) == 0
    out = capsys.readouterr().out
    for name, value in estimate(boards.board("ulx3s_85f").geometry).items():
        assert any(line.split()[:2] == [name, str(value)] for line in out.splitlines())


# Estimate


@pytest.mark.parametrize(
    ("depth", "width", "granularity", "expected"),
    [
        (512, 36, None, (1, 1)),
        (512, 37, None, (2, 1)),
        (1024, 18, None, (1, 1)),
        (16384, 1, None, (1, 1)),
        (1, 1, None, (1, 1)),
        # What yosys 0.70 takes.
        (3584, 512, 16, (112, 7)),
        (2048, 512, 16, (64, 1)),
        (512, 512, 16, (16, 1)),
        (3584, 128, 16, (28, 7)),
        (1024, 32, 16, (2, 1)),
        (512, 64, None, (2, 1)),
    ],
)
def test_block_rams_of_a_memory(depth, width, granularity, expected):
    assert arrange(depth, width, granularity) == expected


def test_block_rams_and_dsp_of_a_machine_that_was_built():
    geometry = Geometry(
        rows=16,
        columns=16,
        elements=2,
        weight_rows=3584,
        table_words=36864,
        descriptors=256,
        sums=1024,
        multiplicands=512,
        vectors=1024,
        states=384,
        activations=512,
        tokens=1024,
    )
    result = estimate(geometry)
    assert (result["bram"], result["dsp"]) == (200, 14)
    assert result["lut4"] == pytest.approx(18990, rel=0.1)
    assert result["ff"] == pytest.approx(9711, rel=0.1)


def test_board_fits_by_estimate():
    for name in boards.names():
        board = boards.board(name)
        if not board.simulated:
            for resource, value in estimate(board.geometry).items():
                assert value <= CAPACITY[board.device][resource]
