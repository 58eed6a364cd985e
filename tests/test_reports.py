"""Reports of several builds side by side, against estimates, and of all boards in one go."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from hw.boards import board, names
from hw.build import BuildError, compare
from hw.build.__main__ import main as build
from hw.build.estimate import estimate
from hw.build.every import build_all
from hw.build.reports import markdown, read_report
from weights.commandline import INTERRUPTED


def report_of(name: str, **changes: object) -> dict[str, object]:
    """As a build of a board writes it, as far as tables read it, routed as estimated."""
    target = board(name)
    have = {"lut4": 83640, "ff": 83640, "bram": 208, "dsp": 156}
    used = {n: {"used": v, "available": have[n]} for n, v in estimate(target).items()}
    return {
        "board": name,
        "device": target.device,
        **used,
        **{"clock_mhz": 74.19, "clock_required_mhz": 70.0, "passed": True},
        "lanes": target.geometry.lanes,
        "geometry": asdict(target.geometry),
        **{"model": "stories-small", "cycles_per_token": 22786, "tokens_per_s_as_built": 3072.1},
        "cycles_per_token_predicted": 22786,
        **changes,
    }


def used(count: int, available: int) -> dict[str, int]:
    return {"used": count, "available": available}


LUTS, BLOCK_RAMS = (estimate(board("ulx3s_85f"))[name] for name in ("lut4", "bram"))
FEW = round(BLOCK_RAMS / 1.06)
OVER = BLOCK_RAMS / FEW - 1


@pytest.fixture
def write(tmp_path):
    def written(report: object) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps(report))
        return str(path)

    return written


def test_reports_side_by_side(write, capsys):
    routed = report_of("ulx3s_85f", lut4=used(18886, 83640), bram=used(129, 208))
    nothing = dict.fromkeys(
        ("model", "cycles_per_token", "cycles_per_token_predicted", "tokens_per_s_as_built")
    )
    slow = report_of("orangecrab_85f", **nothing, passed=False, clock_mhz=60.0)
    slow |= {"lut4": used(20011, 83640), "bram": used(192, 208)}
    del slow["device"]
    assert build(["--table", write(routed), write(slow)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| board | part | lanes | elements | LUT4 | block RAM | clock |")
    assert lines[2:] == [
        "| `ulx3s_85f` | LFE5U-85F | 512 | 4 | 18,886 (23%) | 129 (62%) | 70 MHz | 74.2 MHz "
        "| `stories-small` | 22,786 | 3,072 |",
        "| `orangecrab_85f` | LFE5U-85F | 256 | 2 | 20,011 (24%) | 192 (92%) | 70 MHz "
        "| 60.0 MHz, too slow | - | - | - |",
    ]
    assert {line.count("|") for line in lines} == {12}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"board": "x", "geometry": 3}', "\xff"])
def test_what_is_no_report_is_told(tmp_path, capsys, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    assert build(["--table", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{path}: is no report of hw.build; give its report.json"
    with pytest.raises(BuildError, match="No such file"):
        read_report(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        ({"cycles_per_token": None}, []),
        ({"cycles_per_token": 22787}, ["cycles     22,786 predicted, 22,787 simulated: too far"]),
        (
            {"bram": used(FEW, 208)},
            [f"block RAM  {BLOCK_RAMS} estimated, {FEW} routed, {OVER:+.1%}: too far"],
        ),
        ({"bram": used(round(BLOCK_RAMS / 1.04), 208)}, []),
        (
            {"lut4": used(2 * LUTS, 83640)},
            [f"LUT4       {LUTS:,} estimated, {2 * LUTS:,} routed, -50.0%: too far"],
        ),
    ],
)
def test_estimates_are_compared_with_reports(write, capsys, changes, lines):
    near = write(report_of("ecpix5_85"))
    assert compare.main([near, write(report_of("ulx3s_85f", **changes))]) == bool(lines)
    told = capsys.readouterr().out.splitlines()
    assert [line.removeprefix("ulx3s_85f        ") for line in told if "too far" in line] == lines
    assert told[0].startswith("ecpix5_85        LUT4 ") and told[0].endswith(" routed, +0.0%")
    assert len(told) == 5 + (changes.get("cycles_per_token", 1) is not None)


@pytest.mark.parametrize("changes", [{"board": "other"}, {"geometry": {"elements": 2}}])
def test_a_report_of_another_machine_is_not_compared(write, capsys, changes):
    assert compare.main([write(report_of("ulx3s_85f", **changes))]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("the report is not of the board as it is now; build it again")


def test_all_boards_are_built_past_one_that_fails(tmp_path, capsys):
    built = []

    def build_one(target):
        built.append(target.name)
        if target.name == "ecpix5_85":
            raise BuildError("timing failed")
        (tmp_path / target.name).mkdir()
        (tmp_path / target.name / "report.json").write_text(json.dumps(report_of(target.name)))

    assert build_all(tmp_path, build_one) == 1
    out, err = capsys.readouterr()
    hardware = [name for name in names() if not board(name).simulated]
    assert built == [name for name in hardware if name != "icebreaker"]
    assert err == "timing failed\n"
    assert "icebreaker: left out, as its iCE40UP5K has too little dsp\n" in out
    reports = [report_of(name) for name in built if name != "ecpix5_85"]
    assert out.endswith(f"{markdown(reports)}\n")


def test_an_interrupt_ends_the_building_of_all(tmp_path, monkeypatch):
    """Options are those of one board."""
    built = []

    def interrupted(target, **options):
        built.append((target.name, options["limit"], len(options["seeds"])))
        raise KeyboardInterrupt

    monkeypatch.setattr("hw.build.__main__.build", interrupted)
    words = ["--all", "--output", str(tmp_path), "--seeds", "2", "--limit", "7"]
    assert build(words) == INTERRUPTED
    assert len(built) == 1 and built[0][1:] == (7, 2)


def test_a_board_or_all(capsys):
    for words in ([], ["ulx3s_85f", "--all"]):
        with pytest.raises(SystemExit, match="2"):
            build(words)
        assert "a board is needed, or --all of them" in capsys.readouterr().err
