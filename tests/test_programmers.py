"""Loading a board: what runs, and what its own words become, with programs that only talk."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from hw.boards import BoardError, board, names
from hw.build import BuildError
from hw.build.program import bitstream_of, command, explain, load, main, programmer_of
from hw.build.schema import to_json
from hw.programmers import Programmer, open_fpga_loader
from tests.test_reports import report_of

TOOL = """\
#!{python}
import sys
print("called", sys.argv[1:])
print({says!r}, file=sys.stderr)
sys.exit({status})
"""
BOARDS = [name for name in names() if not board(name).simulated]


class Bench:
    """A folder with built boards, and programs on the path."""

    def __init__(self, folder, monkeypatch):
        self.output, self.path = folder / "build", folder / "bin"
        self.path.mkdir()
        monkeypatch.setenv("PATH", str(self.path))
        for name in ("OPENFPGALOADER", "DFU_UTIL", "ICEPROG"):
            monkeypatch.delenv(name, raising=False)

    def build(self, name, file="top.bit", digest=None):
        (self.output / name).mkdir(parents=True)
        (self.output / name / file).write_bytes(b"bits")
        if digest:
            (self.output / name / "report.json").write_text(
                to_json(report_of("ulx3s_85f", digest=digest))
            )

    def tool(self, name, says="", status=0):
        path = self.path / name
        path.write_text(TOOL.format(python=sys.executable, says=says, status=status))
        path.chmod(0o755)
        return path

    def main(self, *arguments):
        return main([*arguments, "--output", str(self.output)])


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


def test_every_board_says_how_it_is_loaded():
    assert len(BOARDS) >= 12
    for name in BOARDS:
        assert isinstance(board(name).programmer, Programmer)


@pytest.mark.parametrize(
    ("name", "file", "tool", "flash", "options"),
    [
        ("ulx3s_85f", "top.bit", "openFPGALoader", False, ["--board", "ulx3s"]),
        ("ulx3s_85f", "top.bit", "openFPGALoader", True, ["--board", "ulx3s", "--write-flash"]),
        ("tang_primer_20k", "top.fs", "openFPGALoader", False, ["--board", "tangprimer20k"]),
        (
            *("orangecrab_85f", "top.bit", "dfu-util", False),
            ["--device", "1209:5af0", "--alt", "0", "--download"],
        ),
        ("icebreaker", "top.bin", "iceprog", True, []),
    ],
)
def test_the_board_s_own_program_runs(bench, capfd, name, file, tool, flash, options):
    bench.build(name, file, digest="12ab")
    bench.tool(tool)
    assert bench.main(name, *["--flash"] * flash) == 0
    output, _ = capfd.readouterr()
    bitstream = str(bench.output / name / file)
    first, called, *_, last = output.splitlines()
    assert first == " ".join([str(bench.path / tool), *options, bitstream])
    assert called == f"called {[*options, bitstream]}"
    stays = flash or board(name).programmer.load is None
    assert last == (
        f"{name}: loaded "
        f"{'in its flash, for every time it gets power' if stays else 'until its power goes'} "
        "(digest 12ab)"
    )


def test_a_variable_names_the_program_and_options(bench, monkeypatch):
    other = bench.tool("other")
    monkeypatch.setenv("OPENFPGALOADER", f"{other} --ftdi-serial D00042")
    words = [str(other), "--ftdi-serial", "D00042", "--board", "ulx3s"]
    assert command(open_fpga_loader("--board", "ulx3s"), keep=False) == words
    monkeypatch.setenv("OPENFPGALOADER", "nothing")
    with pytest.raises(BuildError, match=r"nothing is not there: install it \(apt install openfp"):
        command(open_fpga_loader("--board", "ulx3s"), keep=False)


NONE = "finds no board: connect it, and see that it has power"
RULE = "no permission for the board's USB device: docs/boards.md has a rule for udev"
WORDS = {
    "unable to open ftdi device: -3 (device not found)\nJTAG init failed with: unable": NONE,
    "JTAG init failed with: No device found": NONE,
    "cmsisDAP: No CMSIS-DAP v1 device found\nJTAG init failed with: Error: no USB": NONE,
    "No cable found\nJTAG init failed with: No cable found": NONE,
    "Error: no device found": NONE,
    "unable to open ftdi device: -4 (usb_open() failed)\nJTAG init failed with: unable to op": RULE,
    "unable to open ftdi device: -4 (libusb_open() failed)": RULE,
    "unable to open ftdi device: -8 (inappropriate permissions on device!)": RULE,
    "Couldn't open device. Check permissions for /dev/hidraw3\nError: no USB backend": RULE,
    "Error: cannot find board 'ulx3s'": "openFPGALoader does not know this board: it is too old",
    "unable to open ftdi device: -5 (unable to claim usb device. Make sure the default FTDI": (
        "another program uses the board's USB device; close that one"
    ),
    "cmsisDAP: more than one CMSIS-DAP v1 device. Please provides VID/PID or cable-index": (
        "finds several boards: leave one connected, or choose with its own options in "
        "OPENFPGALOADER"
    ),
    "mismatch between target's idcode and bitstream idcode\n\tbitstream has 0x41113043": (
        "the bitstream is for another part than this board has"
    ),
    "std::bad_alloc": "openFPGALoader ran out of memory",
    "Load SRAM: \nprogress 3 %\nError: Failed to program FPGA: std::exception\nbye": (
        "openFPGALoader failed: Error: Failed to program FPGA: std::exception"
    ),
}


@pytest.mark.parametrize("says", WORDS)
def test_a_failure_is_told_in_one_line(bench, capfd, says):
    bench.build("ulx3s_85f")
    bench.tool("openFPGALoader", says, status=1)
    with pytest.raises(BuildError) as failure:
        load(board("ulx3s_85f"), keep=False, output=bench.output)
    assert str(failure.value).startswith("ulx3s_85f: ")
    assert WORDS[says] in str(failure.value) and "\n" not in str(failure.value)
    assert says.partition("\n")[0] in capfd.readouterr().out
    assert bench.main("ulx3s_85f") == 1
    assert capfd.readouterr().err == f"{failure.value}\n"


def test_what_others_say():
    """The button of a board whose bootloader must be called, and words that mean two things."""
    orangecrab = programmer_of(board("orangecrab_85f"))
    none = explain(orangecrab, 74, "dfu-util: No DFU capable USB device available")
    assert none.endswith("dfu-util finds no board: hold its button while you plug it in, so that "
                         "its bootloader listens")  # fmt: skip
    refused = (
        "dfu-util: Cannot open DFU device 1209:5af0 found on devnum 7 (LIBUSB_ERROR_ACCESS)\n"
        "dfu-util: No DFU capable USB device available"
    )
    assert RULE in explain(orangecrab, 74, refused)
    both = "init..\nCan't find iCE FTDI USB device (vendor_id 0x0403, device_id 0x6010 or 0x6014)."
    assert "finds no board, or has no permission" in explain(
        programmer_of(board("icebreaker")), 2, both
    )
    assert "was killed (SIGKILL)" in explain(orangecrab, -9, "")


def test_nothing_runs_without_a_bitstream(bench):
    bench.tool("openFPGALoader")
    with pytest.raises(BuildError, match=r"there is no bitstream yet; make bitstream BOARD=ulx3s"):
        load(board("ulx3s_85f"), keep=True, output=bench.output)
    with pytest.raises(BuildError, match="sim_tiny is a simulated board"):
        bitstream_of(board("sim_tiny"), bench.output)


def test_a_program_that_is_missing_or_does_not_start(bench):
    bench.build("ulx3s_85f")
    with pytest.raises(
        BuildError, match=r"openFPGALoader is not there: install it .* OPENFPGALOADE"
    ):
        load(board("ulx3s_85f"), keep=False, output=bench.output)
    path = bench.tool("openFPGALoader")
    path.write_text("#!/nonexistent/python\n")
    with pytest.raises(BuildError, match="does not start"):
        load(board("ulx3s_85f"), keep=False, output=bench.output)


def test_a_board_without_a_programmer():
    with pytest.raises(BoardError, match="ulx3s_85f has no programmer"):
        programmer_of(replace(board("ulx3s_85f"), programmer=None))


def test_a_programmer_s_tool_is_a_known_one():
    with pytest.raises(ValueError, match=r"tool must be one of openFPGALoader, .* not 'hammer'"):
        Programmer(tool="hammer", load=(), flash=())
