"""What decides a bitstream: files, commands and their digest. Nothing runs here."""

import json
import warnings
from dataclasses import dataclass, field

from amaranth.hdl import UnusedElaboratable

from hw.arch.protocol import DIGEST_BYTES
from hw.boards import Board
from hw.build import BuildError
from hw.build.output_registers import OUTPUT_REGISTERS
from hw.pipeline import KEEP_SCRIPT

SETTINGS = {
    # No memory here uses what it reads from a row that is being written, so the tools may leave out
    # the logic that would define it: 43 flip-flops and 36 LUTs for a block RAM of 512 x 16.
    "script_after_read": (
        "setparam -set COLLISION_X_MASK 1'1"
        " t:$memrd_v2 r:CLK_ENABLE=1 %i r:COLLISION_X_MASK=1'0 %i r:TRANSPARENCY_MASK=1'0 %i; "
        + KEEP_SCRIPT
    ),
    "script_after_synth": OUTPUT_REGISTERS,
    # What the static placer makes converges with every seed that was tried, the default one's with
    # few. router1 takes many times as long. Timing is judged here, so that a failure has a report.
    "nextpnr_opts": "--placer static --router router2 --timing-allow-fail --report top.report",
}

SEED_FILES = ("top.tim", "top.report", "top.config", "top.bit", "top.svf")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides a bitstream, but the seed and the versions of the tools.

    Parameters
    ----------
    board : Board
    files : dict of str to str
        What the tools read.
    commands : tuple of lists of str
        What to run, in order; the first word is the tool's plain name.
    digest : bytes
        Of files and commands, with zeros where the machine's identity holds this very digest.
    """

    board: Board
    files: dict[str, str] = field(repr=False)
    commands: tuple[list[str], ...]
    digest: bytes

    def seeded(self, seed: int) -> tuple[list[str], ...]:
        """Commands for one seed of the placer, each seed with files of its own."""
        names = {name: f"seed-{seed}.{name.partition('.')[2]}" for name in SEED_FILES}
        words = [[names.get(word, word) for word in command] for command in self.commands]
        # The netlist says what each unit takes. It is not of the plan: it decides nothing.
        words[1] += ["--write", f"seed-{seed}.cells", "--seed", str(seed)]
        return tuple(words)


def plan(board: Board, core=None) -> Plan:
    """The build of a board: with its own machine, or with what ``core(digest)`` returns."""
    check_hardware(board)
    from hw.top import Top

    core = core or board.core

    def prepare(digest):
        # No places of sources: the text depends on the design alone. Nor Verilog to look at, which
        # needs a yosys.
        options = {"emit_src": False, "debug_verilog": False, **SETTINGS}
        try:
            platform = board.create_platform()
            return platform.prepare(Top(board, core(digest)), "top", **options)
        except (ValueError, NotImplementedError) as error:
            warnings.simplefilter("ignore", UnusedElaboratable)  # of what was made until then
            raise BuildError(f"{board.name}: {error}") from error

    digest = prepare(bytes(DIGEST_BYTES)).digest(size=DIGEST_BYTES)
    files = prepare(digest).files
    return Plan(
        board=board,
        files={name: files[name] for name in ("top.il", "top.ys", "top.lpf")},
        commands=tuple(json.loads(files["build_top.json"])["commands"]),
        digest=digest,
    )


def check_hardware(board: Board):
    """Raises BuildError for a simulated board."""
    if board.simulated:
        raise BuildError(f"{board.name} is a simulated board: there is no hardware to build it for")
