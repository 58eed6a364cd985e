"""Reports of several builds side by side, against estimates, and of all boards in one go."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from hw.boards import board, names
from hw.build import BuildError, compare, reports
from hw.build.__main__ import _predicted
from hw.build.__main__ import main as build
from hw.build.estimate import estimate, lacking
from hw.build.every import build_all
from hw.build.reports import all_boards, kept_reports, markdown, of_one, read_report, tables
from hw.build.schema import SCHEMA, Hop, Report, Step, Streams, Use, document, to_json
from weights.commandline import INTERRUPTED

DOCUMENTS = Path(__file__).parents[1] / "docs"


def report_of(name: str, **changes: object) -> Report:
    """As a build of a board writes it, routed as estimated."""
    target = board(name)
    have = {"lut4": 83640, "ff": 83640, "bram": 208, "dsp": 156, "spram": 4}
    resources = {
        name: Use(used=count, available=have[name], estimate=count)
        for name, count in estimate(target).items()
    }
    report = Report(
        **{"board": name, "device": str(target.device), "digest": "00" * 16},
        machine=target.machine_digest,
        geometry=asdict(target.geometry),
        lanes=target.geometry.lanes,
        resources=resources,
        cells_by_unit={"engine": {"lut4": 7000, "ff": 9000}, "other": {"lut4": 20}},
        **{"clock_mhz": 74.19, "clock_required_mhz": 70.0, "passed": True},
        critical_path=(
            Hop(cell="core.link.a[3]", unit="link", x=2, y=3, wire_ns=0, cell_ns=0.5),
            Hop(cell="pad", unit="other", x=12, y=3, wire_ns=12.75, cell_ns=0.25),
        ),
        **{"seed": 1, "seeds": {"1": 74.19, "5": None}, "failures": {"5": "late (log: /tmp/x)"}},
        tools={"yosys": "0.70", "nextpnr-ecp5": "0.11.1"},
        seconds={"yosys": 60, "nextpnr-ecp5": 300.5},
        **{"model": "stories-small", "trits_per_token": 901632},
        streams=(streams(1, 22786, 22786), streams(4, 25000, None)),
        profile=(Step(name="a", unit="engine", times=3, cycles_simulated=9, cycles_predicted=9),),
    )
    return replace(report, **changes)


def streams(contexts: int, predicted: int, simulated: float | None) -> Streams:
    return Streams(
        contexts=contexts,
        cycles_predicted=predicted,
        cycles_simulated=simulated,
        utilization=0.25,
        tokens_per_s=contexts * 3256.0,
        tokens_per_s_as_built=contexts * 3072.1,
    )


def taken(**used: int) -> dict[str, Use]:
    """Resources of `report_of` ulx3s_85f, but for some."""
    found = report_of("ulx3s_85f").resources
    return found | {name: replace(found[name], used=count) for name, count in used.items()}


LUTS, BLOCK_RAMS = (estimate(board("ulx3s_85f"))[name] for name in ("lut4", "bram"))
FEW = round(BLOCK_RAMS / 1.06)
OVER = BLOCK_RAMS / FEW - 1


@pytest.fixture
def write(tmp_path):
    def written(report: Report) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        path.write_text(to_json(report))
        return str(path)

    return written


# Schema


def test_what_is_written_is_read(write):
    report = report_of("ulx3s_85f")
    path = Path(write(report))
    assert read_report(path) == report
    assert json.loads(path.read_text())["schema"] == SCHEMA
    lines = path.read_text().splitlines()
    assert '    "lut4": {' in path.read_text() and len(lines) < 50
    assert any(line.strip().startswith('{"cell": "core.link.a[3]", "unit"') for line in lines)


@pytest.mark.parametrize(
    "content", ["", "[" * 100_000, "[]", "{}", '{"board": "x", "geometry": 3}', "\xff"]
)
def test_what_is_no_report_is_told(tmp_path, capsys, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    assert build(["--table", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        rf"{path}: is no (JSON|report of hw\.build); give the report\.json of a build", line
    )
    with pytest.raises(BuildError, match="No such file"):
        read_report(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"schema": SCHEMA + 1},
            f"is a report of version {SCHEMA + 1}, not {SCHEMA}: take the version of Tritstream "
            "that made it",
        ),
        ({"schema": 0}, f"is a report of version 0, not {SCHEMA}: build the board again"),
        ({"schema": "1"}, f"is a report of version '1', not {SCHEMA}: build the board again"),
        ({"schema": True}, f"is a report of version True, not {SCHEMA}: build the board again"),
        ({"schema": None}, "is of a build from before reports had versions; build the board again"),
        ({"extra": 1}, "extra is unknown"),
        ({"board": None}, "board must be text, not None"),
        ({"lanes": True}, "lanes must be integer, not True"),
        ({"lanes": 1.0}, "lanes must be integer, not 1.0"),
        ({"clock_mhz": float("nan")}, "clock_mhz must be number, not nan"),
        ({"geometry": {"rows": "16"}}, "geometry.rows must be integer, not '16'"),
        ({"streams": [{}]}, "streams[0].contexts is missing"),
        ({"geometry": {"rows": 16, "columns": 8}}, "geometry.elements is missing"),
        ({"resources": {}}, "resources.lut4 is missing"),
        ({"profile": [3]}, "profile[0] must be object, not 3"),
        ({"critical_path": {}}, "critical_path must be list, not {}"),
        ({"model": 3}, "model must be text, not 3"),
        ({"seeds": {"1": "x"}}, "seeds.1 must be number, not 'x'"),
    ],
)
def test_only_reports_of_this_version_are_read(tmp_path, changes, says):
    value = json.loads(to_json(report_of("ulx3s_85f"))) | changes
    path = tmp_path / "x.json"
    path.write_text(json.dumps(value))
    with pytest.raises(BuildError) as raised:
        read_report(path)
    text = str(raised.value).removeprefix(f"{path}: ")
    assert text.removeprefix(f"is no report of version {SCHEMA}: ") == says
    del value["lanes"], value["schema"]
    path.write_text(json.dumps(value | {"schema": SCHEMA}))
    with pytest.raises(BuildError, match=r"x\.json: is no report of version \d+: \w+ is "):
        read_report(path)


def test_the_keys_are_documented():
    text = (DOCUMENTS / "reports.md").read_text()
    assert document() in text, "write what hw.build.schema.document returns into docs/reports.md"


# Tables


def test_reports_side_by_side(write, capsys):
    routed = report_of("ulx3s_85f", resources=taken(lut4=18886, bram=129))
    slow = report_of(
        "orangecrab_85f",
        **{"model": None, "streams": (), "profile": None, "passed": False, "clock_mhz": 60.0},
        **{"resources": taken(lut4=20011, bram=192), "machine": "0011"},
    )
    mine = replace(routed, board="mine")
    assert build(["--table", write(routed), write(slow), write(mine)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| board | price, $ | part | lanes | elements | LUT4 | block RAM |")
    assert lines[2:] == [
        "| `ulx3s_85f` | 100 to 200 | LFE5U-85F | 512 | 8 | 18,886 (23%) | 129 (62%) "
        "| 70 MHz, routed at 74.2 | `stories-small` | 3,072 | 12,288, of 4 |",
        "| `orangecrab_85f`, an older machine | 100 to 200 | LFE5U-85F | 256 | 4 | 20,011 (24%) "
        "| 192 (92%) | 70 MHz, routed at 60.0, too slow | - | - | - |",
        "| `mine`, not a board of hw/boards | - | LFE5U-85F | 512 | 8 | 18,886 (23%) | 129 (62%) "
        "| 70 MHz, routed at 74.2 | `stories-small` | 3,072 | 12,288, of 4 |",
    ]
    assert {line.count("|") for line in lines} == {12}


def test_all_boards_have_a_row():
    """Those without a report as estimated, and so marked."""
    cycles = [(1, 22786), (4, 25000)]  # as the reports', but for one
    kept = {name: report_of(name) for name in ("ulx3s_85f", "ecpix5_85")}
    kept["ecpix5_85"] = replace(kept["ecpix5_85"], streams=(streams(1, 22785, 22785),))
    table = all_boards(kept, lambda target: cycles)
    rows = dict(re.findall(r"^\| `(\w+)`(.*) \|$", table, re.MULTILINE))
    assert list(rows) == [name for name in names() if not board(name).simulated]
    assert rows["ulx3s_85f"].endswith(
        "| 70 MHz, routed at 74.2 | `stories-small` | 3,072 | 12,288, of 4"
    )
    guess = estimate(board("ulx3s_45f"))
    assert f"| about {guess['lut4']:,} (" in rows["ulx3s_45f"]
    assert rows["ulx3s_45f"].endswith("80 MHz, not routed | `stories-tiny` | 3,511 | 12,800, of 4")
    assert rows["tang_nano_9k"].endswith("| 27 MHz, too little block RAM | `stories-nano` | - | -")
    assert rows["ulx3s_85f"].startswith(" | 100 to 200 ")
    assert rows["ecpix5_85"].startswith(", an older machine | 100 to 200 ")  # by its timetable


BEGIN, END = "<!-- {}: python -m hw.build --record -->\n", "<!-- end -->\n"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of its own, with tables to write."""
    (tmp_path / "docs").mkdir()
    for path, what in reports.TABLES.items():
        (tmp_path / path).write_text(f"before\n{BEGIN.format(what)}old\n{END}after\n")
    monkeypatch.setattr("hw.build.__main__.ROOT", tmp_path)
    monkeypatch.setattr("hw.build.__main__._predicted", lambda target: [(1, 99)])
    return tmp_path


def test_a_report_is_kept_and_tabulated(write, checkout, capsys):
    report = report_of("ulx3s_85f")
    assert build(["--record", write(report)]) == 0
    kept, *documents = map(Path, capsys.readouterr().out.splitlines())
    assert kept == checkout / "docs/boards/ulx3s_85f.json"
    assert documents == [checkout / "docs/boards.md", checkout / "README.md"]
    assert read_report(kept) == replace(report, profile=None, failures={})
    assert "/tmp" not in kept.read_text()
    texts = [path.read_text() for path in documents]
    begins = [BEGIN.format("all boards") + "\n| board |", BEGIN.format("ulx3s_85f") + "\n| `ulx3s"]
    for text, begin in zip(texts, begins, strict=True):
        assert text.startswith(f"before\n{begin}") and text.endswith(f"|\n\n{END}after\n")
    assert "| 70 MHz, routed at 74.2 |" in texts[0]
    assert build(["--record"]) == 0
    assert [path.read_text() for path in documents] == texts


def test_one_board_beside_its_estimate():
    target = board("ulx3s_85f")
    kept = {target.name: report_of(target.name, resources=taken(lut4=18374))}

    def now(_):
        return [(1, 22786), (4, 25000)]

    lines = of_one(target, kept, now).splitlines()
    assert lines[0] == "| `ulx3s_85f` | routed | available | estimate |"
    assert f"| LUT4 | 18,374 | 83,640 | {LUTS:,} |" in lines
    assert lines[-1] == f"| clock | 74.2 MHz | {target.clock_hz / 1e6:g} MHz required | 81 MHz |"
    assert f"| LUT4 | not yet | 83,640 | {LUTS:,} |" in of_one(target, {}, now)
    older = {target.name: replace(kept[target.name], machine="0011")}
    assert "| routed, an older machine |" in of_one(target, older, now)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"board": "mine"}, "mine: only reports of boards in hw/boards are kept"),
        (
            {"passed": False},
            "ulx3s_85f: routed at 74.2 MHz of 70 MHz; a report is kept once its timing is met",
        ),
    ],
)
def test_what_is_not_kept(write, checkout, capsys, changes, says):
    assert build(["--record", write(report_of("ulx3s_85f", **changes))]) == 1
    assert capsys.readouterr().err == f"{says}\n"
    assert not (checkout / "docs/boards").exists()
    (checkout / "docs/boards.md").write_text("no place")
    assert build(["--record"]) == 1
    assert capsys.readouterr().err.startswith("docs/boards.md: must have <!-- all boards: python")


def test_tables_are_those_of_the_kept_reports():
    for path, text in tables(_predicted).items():
        assert path.read_text() == text, "run python -m hw.build --record"


def test_estimates_are_near_what_was_routed():
    """Of the kept reports whose boards have that machine still."""
    far = {
        name: (called, figures)
        for name, report in kept_reports().items()
        if reports.is_present(report)
        for called, figures, near in compare.compare(report)
        if not near
    }
    assert not far


# Estimates


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        ({"streams": ()}, []),
        (
            {"passed": False, "clock_mhz": 74.0, "clock_required_mhz": 75.0},
            ["timing     75 MHz required, 74.0 MHz routed: too far"],
        ),
        (
            {"clock_mhz": 100.0},
            ["clock      81 MHz expected, 100.0 MHz routed, -19.0%: too far"],
        ),
        (
            {"streams": (streams(1, 22786, 22787),)},
            ["cycles     22,786 predicted, 22,787 simulated: too far"],
        ),
        (
            {"resources": taken(bram=FEW)},
            [f"block RAM  {BLOCK_RAMS} estimated, {FEW} routed, {OVER:+.1%}: too far"],
        ),
        ({"resources": taken(bram=round(BLOCK_RAMS / 1.04))}, []),
        (
            {"resources": taken(lut4=2 * LUTS)},
            [f"LUT4       {LUTS:,} estimated, {2 * LUTS:,} routed, -50.0%: too far"],
        ),
    ],
)
def test_estimates_are_compared_with_reports(write, capsys, changes, lines):
    near = write(report_of("ulx3s_45f"))
    assert compare.main([near, write(report_of("ulx3s_85f", **changes))]) == bool(lines)
    told = capsys.readouterr().out.splitlines()
    assert [line.removeprefix("ulx3s_85f        ") for line in told if "too far" in line] == lines
    assert told[0].startswith("ulx3s_45f        LUT4 ") and told[0].endswith(" routed, +0.0%")
    assert len(told) == 9 + (changes.get("streams") != ())


def test_cycles_of_late_weights_are_nearly_exact(write, capsys):
    """A timetable has the mean pace of an SDRAM, not each refresh."""
    near, far = (
        report_of("icepi_zero", streams=(streams(1, 306164, n),)) for n in (305999, 305800)
    )
    assert compare.main([write(near)]) == 0 and compare.main([write(far)]) == 1
    assert "306,164 predicted, 305,800 simulated: too far" in capsys.readouterr().out


@pytest.mark.parametrize("changes", [{"board": "other"}, {"machine": "0011"}])
def test_a_report_of_another_machine_is_not_compared(write, capsys, changes):
    assert compare.main([write(report_of("ulx3s_85f", **changes))]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("the report is of an older machine; build the board again")


def test_kept_reports_are_compared(monkeypatch, capsys):
    """But for those of older machines."""
    kept = {n: report_of(n) for n in ("ulx3s_45f", "ulx3s_85f")}
    kept["ulx3s_85f"] = replace(kept["ulx3s_85f"], machine="0011", passed=False)
    monkeypatch.setattr(compare, "kept_reports", lambda: kept)
    assert compare.main([]) == 0
    *near, last = capsys.readouterr().out.splitlines()
    assert len(near) == 5 and all(line.startswith("ulx3s_45f ") for line in near)
    assert last == "ulx3s_85f        left out: an older machine"


# All boards


def test_all_boards_are_built_past_one_that_fails(too_large, tmp_path, capsys):
    built = []

    def build_one(target):
        built.append(target.name)
        if target.name == "ecpix5_85":
            raise BuildError("timing failed")
        (tmp_path / target.name).mkdir()
        (tmp_path / target.name / "report.json").write_text(to_json(report_of(target.name)))

    assert build_all(tmp_path, build_one) == 1
    out, err = capsys.readouterr()
    hardware = [name for name in names() if not board(name).simulated]
    assert built == [name for name in hardware if not lacking(board(name))]
    assert too_large in hardware and too_large not in built
    assert err == "timing failed\n"
    assert f"{too_large}: left out, as its iCE40UP5K has too little lut4, dsp\n" in out
    routed = [report_of(name) for name in built if name != "ecpix5_85"]
    assert out.endswith(f"{markdown(routed)}\n")


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
