"""Loads a board with its bitstream: ``python -m hw.build.program BOARD [--flash]``.

The program that does it, and its options, are the board's `Programmer`; a variable as
``OPENFPGALOADER`` may name another one, or add options, such as those that tell two boards apart.
"""

from weights import early as early  # isort: split

import codecs
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hw.boards import Board, BoardError, board
from hw.build import BuildError, project
from hw.build.plan import check_hardware
from hw.build.reports import read_report
from hw.build.tools import tool_variable
from hw.families import of
from hw.programmers import SOURCES, Programmer
from hw.tools import find_command, first_error, killed
from weights.commandline import OneLineParser, program
from weights.files import user_path

CAUSES = {
    re.compile(pattern, re.IGNORECASE): cause
    for pattern, cause in {
        r"cannot find board|unrecogni[sz]ed option|option .* does not exist": (
            "{tool} does not know this board: it is too old, install a newer one"
        ),
        r"mismatch between target's idcode": (
            "the bitstream is for another part than this board has: build it for the board's own"
        ),
        r"LIBUSB_ERROR_ACCESS|permission|usb_open\(\) failed|operation not permitted": (
            "no permission for the board's USB device: docs/boards.md has a rule for udev; "
            "then plug the board in again"
        ),
        r"LIBUSB_ERROR_BUSY|unable to claim|resource busy": (
            "another program uses the board's USB device; close that one"
        ),
        r"more than one": (
            "{tool} finds several boards: leave one connected, or choose with its own options in "
            "{variable}"
        ),
        r"can't find iCE FTDI": (
            "{tool} finds no board, or has no permission for its USB device: connect it; "
            "docs/boards.md has a rule for udev"
        ),
        r"device not found|no (?:\S+ ){0,3}device (?:found|available)|no cable found|no device\b": (
            "{tool} finds no board: {ready}"
        ),
    }.items()
}
"""Why a tool failed, by its own words; the first of these that it says."""

READY = "connect it, and see that it has power"


def bitstream_of(target: Board, output: Path) -> Path:
    """The bitstream that was built for a board.

    Raises
    ------
    BuildError
        There is none, or there is no hardware of the board.
    """
    check_hardware(target)
    folder, family = output / target.name, of(target.device)
    path = folder / family.bitstream
    if path.is_file():
        return path
    if family.project and (folder / family.project.folder / "README").is_file():
        raise BuildError(
            f"{path}: there is no bitstream yet; {family.project.tool} leaves it there: "
            f"{project.command(target, folder)}"
        )
    raise BuildError(f"{path}: there is no bitstream yet; make bitstream BOARD={target.name}")


def programmer_of(target: Board) -> Programmer:
    """What loads the board. Raises BoardError if nobody has said that yet."""
    if target.programmer is None:
        raise BoardError(f"{target.name} has no programmer: docs/boards.md says how it gets one")
    return target.programmer


def command(programmer: Programmer, *, keep: bool) -> list[str]:
    """What loads a board, but for the bitstream; to ``keep`` it, its flash is written.

    Raises BuildError if the program is not there.
    """
    options = programmer.flash if keep or programmer.load is None else programmer.load
    variable = tool_variable(programmer.tool)
    if wanted := os.environ.get(variable, "").strip():
        found = find_command(wanted)
    else:
        path = shutil.which(programmer.tool)
        found = [path] if path else None
    if found is None:
        raise BuildError(
            f"{wanted or programmer.tool} is not there: install it ({SOURCES[programmer.tool]}), "
            f"or set {variable} to its path"
        )
    return [*found, *options]


def explain(programmer: Programmer, status: int, output: str) -> str:
    """Why the program that loads a board failed, in one line."""
    tool, ready = programmer.tool, programmer.ready or READY
    if reason := killed(tool, status, output):
        return reason
    for pattern, cause in CAUSES.items():
        if pattern.search(output):
            return cause.format(tool=tool, variable=tool_variable(tool), ready=ready)
    return f"{tool} failed: {first_error(output)}"


def load(target: Board, *, keep: bool, output: Path = Path("build")) -> str:
    """Load a board with its bitstream, as of `command`, and show what the program says meanwhile.

    Returns what the board then holds. Raises BuildError if that failed; see `explain`.
    """
    bitstream = bitstream_of(target, output)
    programmer = programmer_of(target)
    words = [*command(programmer, keep=keep), str(bitstream)]
    print(" ".join(words), flush=True)
    try:
        status, said = _run(words)
    except OSError as error:
        raise BuildError(
            f"{words[0]} does not start ({error.strerror}): install it again, or set "
            f"{tool_variable(programmer.tool)} to another"
        ) from error
    if status:
        raise BuildError(f"{target.name}: {explain(programmer, status, said)}")
    stays = keep or programmer.load is None
    duration = "in its flash, for every time it gets power" if stays else "until its power goes"
    return f"{target.name}: loaded {duration}{_digest(output / target.name)}"


def _run(words: Sequence[str]) -> tuple[int, str]:
    """Exit status and output of a program, which is shown as it comes."""
    said = []
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    with process.stdout as stream:
        try:
            while data := os.read(stream.fileno(), 4096):
                said.append(decoder.decode(data))
                print(said[-1], end="", flush=True)
            return process.wait(), "".join(said)
        except BaseException:
            process.kill()
            process.wait()
            raise


def _digest(folder: Path) -> str:
    """What a device that holds a board's bitstream will say of its build, if a report tells."""
    try:
        return f" (digest {read_report(folder / 'report.json').digest})"
    except BuildError:
        return ""


@program
def main(arguments: Sequence[str] | None = None) -> int:
    parser = OneLineParser(
        prog="python -m hw.build.program", description="Load a board with its bitstream."
    )
    parser.add_argument("board")
    parser.add_argument("--flash", action="store_true", help="keep it in the board's flash")
    parser.add_argument("--output", type=user_path, default=Path("build"), help="default: build")
    options = parser.parse_args(arguments)
    print(load(board(options.board), keep=options.flash, output=options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
