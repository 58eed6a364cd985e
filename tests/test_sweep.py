"""Sweeps: results that stay, seeds that are left, workers that are killed; no real tool runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from hw import sweep
from hw.build import BuildError
from hw.build.trial import ENDED, FAILED, ROUTED, Result, wire_length
from tests.test_build import stand_in

ROOT = Path(__file__).parents[1]

BOARD = """\
from dataclasses import replace

from hw.boards.sim_tiny import BOARD as TINY
from hw.boards.ulx3s_85f import BOARD as ULX3S

BOARD = replace(ULX3S, name="mine", machine=TINY.machine, clock_hz=50_000_000)
"""

NEXTPNR = """\
#!{python}
import json, os, pathlib, signal, sys, time
if "--version" in sys.argv:
    print("0.99")
    sys.exit()
def after(option):
    return sys.argv[sys.argv.index(option) + 1]
seed, folder = after("--seed"), pathlib.Path(os.environ["SEEDS"])
with open(folder / "tried", "a") as tried:
    tried.write(seed + "\\n")
length = 2000 if seed == os.environ.get("LONG") else 1000
log = pathlib.Path(after("--log"))
log.write_text(
    "Info:   at iteration #1: temp = 0.0, timing cost = 84, wirelen = 9000\\n"
    f"Info:   at iteration #2: temp = 0.0, timing cost = 80, wirelen = {{length}} \\n"
    "Info: SA placement time 43.52s\\nInfo: Routing globals...\\n"
)
if seed == os.environ.get("KILLS") and not (folder / "killed").exists():
    (folder / "killed").write_text(f"{{os.getpid()}} {{os.getppid()}}")
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(120)
if seed == os.environ.get("LONG"):
    while not (folder / "done").exists():  # first another one is placed, and is the shortest
        time.sleep(0.1)
    time.sleep(400)
if seed == os.environ.get("FAILS"):
    print("ERROR: no place")
    sys.exit(1)
pathlib.Path(after("--report")).write_text(os.environ["REPORT"])
pathlib.Path(after("--textcfg")).write_text("config " + seed)
pathlib.Path(after("--write")).write_text(os.environ["NETLIST"])
(folder / "done").touch()
"""


def lines(path: Path) -> dict[int, Result]:
    """Results by their seeds."""
    found = [Result.from_line(line) for line in path.read_bytes().splitlines()]
    assert len({result.seed for result in found}) == len(found)
    return {result.seed: result for result in found}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that sweeps over seeds of a small machine, with two workers."""
    pytest.importorskip("amaranth_boards")
    pytest.importorskip("distributed")
    stand_in(tmp_path, monkeypatch)
    path = tmp_path / "nextpnr"
    path.write_text(NEXTPNR.format(python=sys.executable))
    monkeypatch.setenv("SEEDS", str(tmp_path))
    (tmp_path / "mine.py").write_text(BOARD)

    def started(*options: str, **environment: str) -> subprocess.CompletedProcess:
        words = [sys.executable, "-m", "hw.sweep", str(tmp_path / "mine.py"), "--jobs", "2"]
        words += ["--output", str(tmp_path / "out.jsonl"), "--folder", str(tmp_path / "build")]
        return subprocess.run(
            [*words, *options],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=500,
        )

    return started


def tried(tmp_path: Path) -> list[str]:
    path = tmp_path / "tried"
    found = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def gone(pid: int) -> bool:
    """Whether a process ended, be it still waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="tools end with their worker on Linux alone")
def test_a_killed_worker_costs_one_attempt_and_a_sweep_goes_on_where_it_was(run, tmp_path):
    seeds = [str(seed) for seed in sweep.draw_seeds(1, 4)]
    done = run("--seeds", "4", KILLS=seeds[2], FAILS=seeds[3])
    assert done.returncode == 0, done.stderr
    found = lines(tmp_path / "out.jsonl")
    assert [str(seed) for seed in sorted(found, key=lambda s: seeds.index(str(s)))] == seeds
    outcomes = [found[int(seed)].outcome for seed in seeds]
    assert outcomes == [ROUTED, ROUTED, ROUTED, FAILED]
    assert found[1].clock_mhz == 78.15 and found[1].passed and found[1].wire_length == 1000
    assert found[1].taken["bram"] == 190 and found[1].tools["nextpnr-ecp5"] == "0.99"
    assert "no place" in (found[int(seeds[3])].reason or "")
    counts = Counter(tried(tmp_path))
    # A result that died with its worker was made again, but what was routed was not routed again.
    assert [counts[seed] for seed in seeds[:3]] == [1, 1, 2] and counts[seeds[3]] in (1, 2)
    # What the killed worker had started is gone, too, or two would route the same seed.
    tool, worker = map(int, (tmp_path / "killed").read_text().split())
    assert gone(tool) and gone(worker)
    assert f"seed 1: {78.15:.2f} MHz" in done.stdout and "3, 0, 1" in done.stdout.splitlines()[-1]

    assert run("--seeds", "4").returncode == 0
    assert tried(tmp_path) == []
    # A line that was being written when everything ended is tried again, and others are kept.
    path = tmp_path / "out.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert run("--seeds", "4").returncode == 0
    assert len(tried(tmp_path)) <= 1 and set(lines(path)) == set(found)


def test_a_seed_with_long_wires_is_ended(run, tmp_path):
    seeds = sweep.draw_seeds(1, 2)
    done = run("--seeds", "2", LONG=str(seeds[1]))
    assert done.returncode == 0, done.stderr
    found = lines(tmp_path / "out.jsonl")
    assert (found[seeds[0]].outcome, found[seeds[1]].outcome) == (ROUTED, ENDED)
    assert found[seeds[1]].wire_length == 2000
    assert found[seeds[1]].reason == "its wires are 100% longer than those of another seed"


def test_wire_length_is_that_of_the_placement_that_was_done():
    placing = "Info:   at iteration #5: temp = 0.0, timing cost = 83, wirelen = 103932\n"
    legal = "Info:     at iteration #26, type ALL: wirelen solved = 76835, spread = 111976\n"
    assert wire_length(legal + placing) is None
    last = placing.replace("103932", "89026 ")
    assert wire_length(legal + placing + last + "Info: Routing globals...\n" + placing) == 89026
    assert wire_length("Info: Setting up routing resources...\n") is None


RESULT = Result(digest="ab", seed=3, board="mine", sizes={"rows": 8}, outcome=ROUTED)


def test_results_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "deep" / "out.jsonl"
    with sweep.results(path) as found:
        found.add(RESULT)
        with pytest.raises(BuildError, match=r"another sweep writes it; wait, or give another"):
            with sweep.results(path):
                pass
    with sweep.results(path) as found:
        assert found.of("ab") == [RESULT] and found.of("cd") == []
    assert Result.from_line(RESULT.line()) == RESULT


@pytest.mark.parametrize(
    "line",
    [b"{", b"[]", b'{"seed": 3}', b"\xff", RESULT.line().replace(b"routed", b"routes").strip(),
     RESULT.line().replace(b": 3", b': "3"').strip()],
)  # fmt: skip
def test_a_line_that_is_no_result_is_named(tmp_path, line):
    path = tmp_path / "out.jsonl"
    path.write_bytes(RESULT.line() + line + b"\n")
    with pytest.raises(BuildError, match=r"out\.jsonl:2: .*; remove the line, or give another"):
        with sweep.results(path):
            pass
    assert path.read_bytes() == RESULT.line() + line + b"\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0", "sim_tiny"], "--seeds must be positive, not 0"),
        (["--lead", "-1", "sim_tiny"], "--lead must not be negative, not -1"),
        (["--lead", "nan", "sim_tiny"], "--lead must not be negative, not nan"),
        (["--sizes", "rows:3", "sim_tiny"], "sizes must be as rows=16,columns=32, not 'rows:3'"),
        (["sim_tiny"], "sim_tiny is a simulated board: there is no hardware"),
        (["ulx4m"], "board must be one of "),
        (["--sizes", "rows=7", "ulx3s_85f"], "ulx3s_85f rows=7: rows and columns must be mult"),
        (["--sizes", "row=8", "ulx3s_85f"], "ulx3s_85f row=8: .*unexpected keyword argument 'row'"),
        (["--sizes", "weight_rows=90000", "ulx3s_85f"], "does not fit LFE5U-85F: bram"),
    ],
)
def test_what_cannot_be_swept_is_said_first(capsys, tmp_path, words, message):
    try:
        status = sweep.main([*words, "--output", str(tmp_path / "out.jsonl")])
    except SystemExit as error:
        status = error.code
    assert status in (1, 2)
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert re.search(message, said), said
    assert not (tmp_path / "out.jsonl").exists()
