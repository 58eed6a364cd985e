"""Boards without a router here: a folder for a vendor's tool, and reports of a netlist."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hw import sweep
from hw.boards import board
from hw.build import BuildError, compare, steps
from hw.build import __main__ as program
from hw.build.estimate import estimate
from hw.build.plan import plan
from hw.build.program import bitstream_of
from hw.build.program import main as load
from hw.build.reports import all_boards, keep, kept_reports, markdown, read_report
from hw.build.schema import Report, Streams
from hw.families import xilinx
from sim.speed import predict_speed
from tests.test_build import Echo

pytest.importorskip("amaranth_boards")

NAME = "arty_a7_100"
KINDS = {
    **{"LUT6": 30, "LUT1": 2, "INV": 1, "RAM32M": 2, "FDRE": 40, "FDSE": 3, "CARRY4": 9},
    **{"RAMB18E1": 3, "RAMB36E1": 2, "DSP48E1": 4, "BUFG": 1},
}
NETLIST = json.dumps(
    {
        "modules": {
            "top": {
                "cells": {
                    f"core.engine.{kind}_{n}" if n else kind: {"type": kind}
                    for kind, count in KINDS.items()
                    for n in range(count)
                }
            }
        }
    }
)
TOOL = """\
#!{python}
import os, pathlib, sys
if "--version" in sys.argv:
    sys.exit(print(os.environ.get("VERSION", "0.99")))
if "FAILS" in os.environ:
    sys.exit("ERROR: out of luck")
pathlib.Path("top.json").write_text({netlist!r})
pathlib.Path("top.edif").write_text("edif of " + pathlib.Path("top.il").read_text()[-99:])
"""
FILES = {"top.edif", "top.xdc", "top.tcl", "README"}


@pytest.fixture
def target():
    return board(NAME)


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """A stand-in for yosys."""
    path = tmp_path / "yosys"
    path.write_text(TOOL.format(python=sys.executable, netlist=NETLIST))
    path.chmod(0o755)
    monkeypatch.setenv("YOSYS", str(path))


def build(target, output: Path, **options) -> Report:
    options = {"core": Echo, "measure": lambda *_: None, **options}
    return steps.build(target, output=output, say=lambda _: None, **options)


# What Vivado reads


def test_scripts_and_constraints_are_complete(target):
    planned = plan(target, Echo)
    assert [command[0] for command in planned.commands] == ["yosys"]
    project = planned.family.project
    script, pins = planned.files["top.tcl"], planned.files["top.xdc"]
    read = re.findall(r"^read_(?:edif|xdc) (\S+)$", script, re.MULTILINE)
    assert set(read) == set(project.files) - {project.script}
    for name in set(project.files) - planned.files.keys():
        assert re.search(rf"^write_\w+ .*\b{name}$", planned.files["top.ys"], re.MULTILINE)
    assert "link_design -top top -part xc7a100ticsg324-1L" in script
    order = ["link_design", "place_design", "route_design", "SLACK", "exit 1", "write_bitstream"]
    assert sorted(order, key=script.index) == order
    assert f"write_bitstream -force {Path(planned.family.bitstream).name}" in script
    for pin, port in {
        "E3": "clk100_0__io",
        "A9": "uart_0__rx__io",
        "D10": "uart_0__tx__io",
    }.items():
        assert f'set_property PACKAGE_PIN {pin} [get_ports "{port}"]' in pins
        assert f'set_property IOSTANDARD "LVCMOS33" [get_ports "{port}"]' in pins
    assert 'create_clock -name clk100_0__io -period 10.0 [get_ports "clk100_0__io"]' in pins
    for text in planned.files.values():
        assert "placeholder" not in text and "{{" not in text


def test_the_design_has_a_clock_that_begins_when_it_is_settled(target):
    design = plan(target, Echo).files["top.il"]
    for kind, count in {"PLLE2_BASE": 1, "BUFG": 2, "BUFGCTRL": 1, "IBUF": 2, "OBUFT": 2}.items():
        assert len(re.findall(rf"cell \\{kind} ", design)) == count
    divisors = {
        name: int(re.search(rf"parameter \\{name} (\d+)", design)[1])
        for name in ("DIVCLK_DIVIDE", "CLKFBOUT_MULT", "CLKOUT0_DIVIDE")
    }
    made = 100e6 * divisors["CLKFBOUT_MULT"] / divisors["DIVCLK_DIVIDE"]
    assert made / divisors["CLKOUT0_DIVIDE"] == target.clock_hz
    assert 'parameter real \\CLKIN1_PERIOD "10.0"' in design


# Builds


def test_a_build_leaves_a_project_and_a_report(target, tool, tmp_path, capsys, monkeypatch):
    report = build(target, tmp_path / "out")
    place = tmp_path / "out" / NAME
    folder = place / "vivado"
    assert {path.name for path in folder.iterdir()} == FILES
    planned = plan(target, Echo)
    assert (folder / "top.xdc").read_text() == planned.files["top.xdc"]
    assert (folder / "top.edif").read_text().startswith("edif of ")
    readme = (folder / "README").read_text()
    assert planned.digest.hex() in readme and "    vivado -mode batch -source top.tcl\n" in readme
    assert read_report(place / "report.json") == report
    used = {name: use.used for name, use in report.resources.items()}
    assert used == {"lut4": 30 + 2 + 1 + 2 * 4, "ff": 43, "bram": 3 + 2 * 2, "dsp": 4}
    assert report.cells_by_unit["engine"] == {"lut4": 34, "ff": 41, "bram": 4, "dsp": 3}
    assert (report.clock_mhz, report.passed, report.seed) == (None, None, None)
    assert not report.critical_path and not report.seeds and set(report.seconds) == {"yosys"}
    assert report.clock_required_mhz == target.clock_hz / 1e6

    monkeypatch.setattr(
        program, "build", lambda target, **options: build(target, options["output"])
    )
    assert program.main([NAME, "--output", str(tmp_path / "out")]) == 0
    *_, page, last = capsys.readouterr().out.splitlines()
    assert page == str(place / "report.html")
    assert last == (
        f"{folder} is complete, nothing is routed yet; go on where Vivado is: "
        f"vivado -mode batch -source {folder / 'top.tcl'}"
    )


def test_a_bitstream_stays_with_its_project_alone(target, tool, tmp_path, monkeypatch):
    """What Vivado took long to make is there after the same build, and not after another one."""
    place = tmp_path / "out" / NAME
    bitstream = place / "vivado/top.bit"

    def leave():
        build(target, tmp_path / "out")
        bitstream.write_text("bits")

    leave()
    build(target, tmp_path / "out")
    assert bitstream_of(target, tmp_path / "out") == bitstream
    build(replace(target, clock_hz=100_000_000), tmp_path / "out")
    assert not bitstream.exists() and {path.name for path in bitstream.parent.iterdir()} == FILES
    leave()
    monkeypatch.setenv("VERSION", "1.00")
    build(target, tmp_path / "out")
    assert not bitstream.exists()
    monkeypatch.delenv("VERSION")
    leave()
    monkeypatch.setenv("FAILS", "yes")
    with pytest.raises(BuildError, match="yosys failed: out of luck"):
        build(replace(target, clock_hz=50_000_000), tmp_path / "out")
    assert not list(bitstream.parent.iterdir()) and not (place / "report.json").exists()


def test_a_netlist_that_is_too_large_is_no_project(target, tool, tmp_path, monkeypatch):
    small = {"lut4": 20, "ff": 86, "bram": 100, "dsp": 90}
    monkeypatch.setitem(xilinx.FAMILY.parts, "xc7a100ti", small)
    monkeypatch.setattr(steps, "check_size", lambda *_: None)
    with pytest.raises(BuildError, match=r"does not fit xc7a100ti: LUT6 41 of 20 \(2\.0 times\)$"):
        build(target, tmp_path / "out")
    assert not list((tmp_path / "out" / NAME).glob("vivado/*"))


def test_loading_says_where_the_bitstream_comes_from(target, tool, tmp_path, capsys):
    words, out = [NAME, "--output", str(tmp_path / "out")], tmp_path / "out" / NAME
    assert load(words) == 1
    assert capsys.readouterr().err.endswith(f"no bitstream yet; make bitstream BOARD={NAME}\n")
    build(target, tmp_path / "out")
    assert load(words) == 1
    assert capsys.readouterr().err == (
        f"{out}/vivado/top.bit: there is no bitstream yet; Vivado leaves it there: "
        f"vivado -mode batch -source {out}/vivado/top.tcl\n"
    )


def test_a_sweep_refuses_it_in_one_line(capsys, tmp_path):
    assert sweep.main([NAME, "--output", str(tmp_path / "out.jsonl")]) == 1
    assert capsys.readouterr().err == (
        f"{NAME}: there is no router for its xc7a100ti here, so that it has no seeds to try; "
        f"make bitstream BOARD={NAME} writes a project for Vivado\n"
    )
    assert not (tmp_path / "out.jsonl").exists()


# Reports


@pytest.fixture
def report(target, tool, tmp_path) -> Report:
    return replace(
        build(target, tmp_path / "out"),
        model="stories-small",
        trits_per_token=901632,
        streams=(
            Streams(
                contexts=1,
                cycles_predicted=8000,
                cycles_simulated=None,
                utilization=0.2,
                tokens_per_s=None,
                tokens_per_s_as_built=10000,
            ),
        ),
    )


def test_a_report_without_a_route_invents_none(report, target):
    row = markdown([report]).splitlines()[-1]
    assert "| 41 LUT6 (0%) | 7 RAMB18 (3%) |" in row
    assert f"| {target.clock_hz / 1e6:g} MHz, not routed | `stories-small` | 10,000 |" in row
    lines = program.table(target, estimate(target), report).splitlines()
    assert lines[1].split() == ["estimate", "synthesised", "available"]
    assert lines[2].split()[::2] == ["LUT6", "41"] and lines[4].split()[::2] == ["RAMB18", "7"]
    assert lines[6] == f"clock   {target.clock_hz / 1e6:g} MHz asked for; nothing was routed"
    assert lines[7].endswith("10,000 tokens/s at the clock asked for (predicted)")
    assert not any("routed" in line for line in (*lines[:6], *lines[7:]))


def test_its_page_says_so(report, tmp_path):
    text = re.sub(r"\s+", " ", steps.page(report, None, None))
    assert "Nothing was routed: no router of this part is at hand." in text
    assert "goes to Vivado, which tells whether the clock can be had" in text
    assert "asked for, which nothing has confirmed, by predicted cycles" in text
    assert "LUT6</span>" in text and "<th>synthesised</th>" in text
    assert "clock asked for, nothing routed, predicted cycles" in text
    for word in ("MHz as routed", "<th>routed", "at the routed clock", "timing failed", "Seeds:"):
        assert word not in text
    assert "Where it is on the chip" not in text and "</span>engine</th><td>34</td>" in text


def test_a_kept_report_is_one_of_a_netlist(report, target, tmp_path, capsys):
    path = keep(report, tmp_path)
    assert kept_reports(tmp_path) == {NAME: replace(report, profile=None)}
    table = all_boards(kept_reports(tmp_path), lambda _: [(1, 8000)])
    assert "| 41 LUT6 (0%) |" in table
    assert f"| about {estimate(target)['lut4']:,} LUT6 (" in all_boards({}, lambda _: [(1, 8000)])
    assert compare.main([str(path)]) == 1
    out = capsys.readouterr().out
    assert "estimated, 41 synthesised, " in out and "MHz" not in out
    assert out.splitlines()[0].split()[1] == "LUT6"


def test_reports_of_the_first_version_are_read(report, tmp_path):
    value = json.loads((tmp_path / "out" / NAME / "report.json").read_text())
    path = tmp_path / "x.json"
    path.write_text(json.dumps(value | {"schema": 1}))
    assert read_report(path).digest == report.digest


def test_speeds_are_at_the_clock_asked_for(target, tool, tmp_path):
    speed = predict_speed(target)
    built = build(target, tmp_path / "out", measure=lambda *_: speed)
    assert built.streams and built.model == target.model
    for streams, together in zip(built.streams, speed.together(), strict=True):
        assert streams.tokens_per_s is None and streams.kind == "predicted"
        assert streams.tokens_per_s_as_built == together.tokens_per_s(target.clock_hz) > 0


# Synthesis


@pytest.mark.slow
@pytest.mark.whole
def test_a_small_machine_is_synthesised_as_estimated(target, tmp_path):
    sizes = {"rows": 8, "columns": 8, "elements": 1, "weight_rows": 512, "table_words": 1024}
    geometry = replace(target.geometry, **sizes)
    small = replace(target, machine=replace(target.machine, geometry=geometry))
    cells, guess = steps.synthesise(small, output=tmp_path), estimate(small)
    assert cells["bram"] == guess["bram"] and cells["dsp"] == guess["dsp"]
    assert cells["lut4"] == pytest.approx(guess["lut4"], rel=0.1)
