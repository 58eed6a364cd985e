"""Boards in files of one's own: read, planned, timed, and told what is wrong with them."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from hw import boards
from hw.boards import BoardError, board
from hw.build import BuildError
from hw.build.__main__ import main as build
from hw.build.estimate import check_fit, estimate
from hw.build.plan import plan
from sim.profile import hardware_of
from tests.test_build import Echo
from weights.__main__ import main as weights

TINY = """\
from hw.boards import Board
from hw.boards.sim_tiny import BOARD as TINY

BOARD = Board(name="mine", clock_hz=50_000_000, machine=TINY.machine)
"""

WITH_PLATFORM = """\
from dataclasses import replace

from amaranth.build import Attrs, Clock, Pins, Resource
from amaranth.vendor import LatticeECP5Platform
from amaranth_boards.resources import LEDResources, UARTResource

from hw.boards.colorlight_i5 import BOARD as I5
from hw.boards.sim_tiny import BOARD as TINY


class MyPlatform(LatticeECP5Platform):
    device, package, speed, default_clk = "LFE5U-25F", "BG381", "6", "clk25"
    resources = [
        Resource("clk25", 0, Pins("P3", dir="i"), Clock(25e6), Attrs(IO_TYPE="LVCMOS33")),
        *LEDResources(pins="U16", attrs=Attrs(IO_TYPE="LVCMOS33")),
        UARTResource(0, rx="H18", tx="J17", attrs=Attrs(IO_TYPE="LVCMOS33")),
    ]
    connectors = []


BOARD = replace(I5, name="mine", platform=f"{__name__}:MyPlatform", machine=TINY.machine)
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes a board's file and returns its path."""

    def written(text: str | bytes, name: str = "mine") -> str:
        monkeypatch.delitem(boards.sys.modules, f"hw.boards.{name}", raising=False)
        path = tmp_path / f"{name}.py"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    yield written
    boards.sys.modules.pop("hw.boards.mine", None)


def test_a_file_is_read_by_its_path_and_then_known_by_its_name(write, monkeypatch):
    path = write(TINY)
    assert boards.known("mine") is None and "mine" not in boards.names()
    mine = board(path)
    assert (mine.name, mine.machine) == ("mine", board("sim_tiny").machine)
    assert boards.known("mine") == mine
    assert boards.known("sim_tiny") == board("sim_tiny")
    write(TINY.replace("50_000_000", "40_000_000"))
    assert board(path).clock_hz == 40_000_000
    monkeypatch.chdir(os.path.dirname(path))
    assert board("mine.py") == board("./mine.py") == board(path)


def test_a_file_of_the_package_is_the_board_of_that_name():
    assert board(os.path.join(boards.__path__[0], "sim_tiny.py")) is board("sim_tiny")


def test_machines_are_told_apart_by_their_digests():
    """By what a build is made of, not by its name, its price or what is as usual."""
    tiny = board("sim_tiny")
    machine = tiny.machine
    same = [
        replace(tiny, name="other", price=(25, 50), model="stories-nano", seed=7),
        replace(tiny, machine=replace(machine, fanout=type(machine).fanout)),
    ]
    assert {each.machine_digest for each in same} == {tiny.machine_digest}
    others = [
        replace(tiny, clock_hz=tiny.clock_hz + 1),
        replace(tiny, device="LFE5U-25F"),
        replace(tiny, machine=replace(machine, fanout=machine.fanout + 1)),
        replace(tiny, machine=replace(machine, features=machine.features & ~1)),
        replace(
            tiny, machine=replace(machine, geometry=replace(machine.geometry, weight_rows=4096))
        ),
    ]
    assert len({each.machine_digest for each in [tiny, *others]}) == 1 + len(others)


def test_the_memory_of_a_board_elsewhere_is_timed(write):
    """What a device says of itself does not tell of it."""
    text = "from dataclasses import replace\nfrom hw.boards.ulx3s_85f import BOARD as B\n"
    mine = board(write(text + "BOARD = replace(B, name='mine')\n"))
    assert hardware_of("mine", mine.geometry) == mine.machine


def test_a_platform_of_ones_own(write):
    """In the board's own file, planned with its pins; a simulated machine tells what it takes."""
    pytest.importorskip("amaranth_boards")
    planned = plan(board(write(WITH_PLATFORM)), Echo)
    assert "--25k" in planned.commands[1]
    assert 'LOCATE COMP "uart_0__rx__io" SITE "H18"' in planned.files["top.lpf"]
    assert 'LOCATE COMP "led_0__io" SITE "U16"' in planned.files["top.lpf"]


def test_a_board_has_the_part_of_its_platform(write):
    pytest.importorskip("amaranth_boards")
    mine = board(write(WITH_PLATFORM.replace('name="mine"', 'name="mine", device="LFE5U-45F"')))
    with pytest.raises(
        BuildError, match=r"^mine: device must be its platform's, LFE5U-25F, not LFE"
    ):
        plan(mine, Echo)


def test_the_board_that_the_documentation_adds_fits(write):
    text = Path(__file__).parents[1].joinpath("docs/boards.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    mine = board(write(code))
    fit = check_fit(estimate(mine), mine.device)
    assert fit.lacks == fit.warnings == ()


def test_programs_take_a_path(write, capsys):
    path = write(
        "from dataclasses import replace\nfrom hw.boards.ecpix5_85 import BOARD as B\n"
        "BOARD = replace(B, name='mine')\n"
    )
    assert build([path, "--estimate-only"]) == 0
    assert capsys.readouterr().out.startswith("mine, LFE5UM5G-85F: 256 lanes\n")
    assert weights(["plan", "stories-small", "--board", path]) == 0
    assert capsys.readouterr().out.startswith("stories-small on mine: fits\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mine.py: BOARD must be a Board of hw.boards, not nothing"),
        ("BOARD = 3", "mine.py: BOARD must be a Board of hw.boards, not 3"),
        ("\n\nBOARD = [", "mine.py:3: SyntaxError: '[' was never closed"),
        ("\nBOARD = {}['x']", "mine.py:2: KeyError: 'x'"),
        ("def f():\n    return 1 / 0\n\nBOARD = f()", "mine.py:2: ZeroDivisionError: division by"),
        ("import no_such_thing", "mine.py:1: needs no_such_thing, which "),
        ("import sys\nsys.exit(0)", "mine.py:2: SystemExit: 0"),
        (b"\xff", "mine.py:1: SyntaxError: (unicode error) 'utf-8' codec"),
        (TINY.replace('"mine"', '"other"'), "mine.py: name of the board must be its file's, mine"),
        (
            TINY.replace("50_000_000", "50_000_000, platform='a:b'"),
            "mine.py:4: a board with a platform, and no other, must have a link",
        ),
        (TINY.replace("50_000_000", "5e7"), "mine.py:4: clock_hz must be int, not 50000000.0"),
        (
            TINY.replace("50_000_000", "50_000_000, link='uart'"),
            "mine.py:4: link must be Uart or UsbSerial, not 'uart'",
        ),
        (
            TINY + "from hw.links.uart import Uart\nUart(baud=0).check(50_000_000)",
            "mine.py:6: baud must be a positive integer, not 0",
        ),
        (
            "from hw.boards.sim_tiny import BOARD\n"
            "type(BOARD.machine)(geometry=BOARD.geometry, fanout=0)",
            "mine.py:2: fanout must be a positive integer, not 0",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line_with_its_place(write, capsys, text, message):
    path = write(text)
    with pytest.raises(BoardError) as raised:
        board(path)
    folder = path.removesuffix("mine.py")
    assert str(raised.value).startswith(f"{folder}{message}")
    assert build([path, "--estimate-only"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{folder}{message}")


def test_files_that_are_none_or_are_called_as_a_board_is(write, tmp_path):
    with pytest.raises(BoardError, match=r"no/such\.py: there is no such file of a board"):
        board("no/such.py")
    with pytest.raises(BoardError, match="there is no such file of a board"):
        board(f"{tmp_path}/")
    path = write(TINY, "sim_tiny")
    with pytest.raises(BoardError, match="hw/boards has a sim_tiny; give file and board another"):
        board(path)
    with pytest.raises(BoardError, match=r"one of .*sim_tiny.*, or the path of a file, not 'mine'"):
        board("mine")
