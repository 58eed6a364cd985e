"""What decides a bitstream: files, commands and their digest. Nothing runs here."""

import json
import warnings
from dataclasses import dataclass, field
from typing import Any

from amaranth.build import ResourceError
from amaranth.hdl import UnusedElaboratable

from hw.arch.protocol import DIGEST_BYTES
from hw.boards import Board
from hw.build import BuildError
from hw.families import of
from hw.families.family import Family
from hw.pipeline import KEEP_SCRIPT

SCRIPT = (
    # No memory of ours uses what it reads from a row that is being written, so the tools may leave
    # out the logic that would define it: 43 flip-flops and 36 LUTs for a block RAM of 512 x 16.
    "setparam -set COLLISION_X_MASK 1'1"
    " t:$memrd_v2 r:CLK_ENABLE=1 %i r:COLLISION_X_MASK=1'0 %i r:TRANSPARENCY_MASK=1'0 %i"
    " top.usb* %d; " + KEEP_SCRIPT
)
"""What yosys does right after it has read the design."""

CELLS = "top.cells"


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

    @property
    def family(self) -> Family:
        return of(self.board.device)

    def seeded(self, seed: int) -> tuple[list[str], list[str]]:
        """Commands that route and pack with one seed of the placer, which has its own files."""

        def named(word):
            return word if word in shared else seed_file(seed, word)

        shared = {*self.files, self.family.netlist}
        _, route, pack = ([named(word) for word in command] for command in self.commands)
        if "--write" not in route:
            # This netlist says what each unit takes. It is not of the plan: it decides nothing.
            route += ["--write", seed_file(seed, CELLS)]
        return [*route, "--seed", str(seed)], pack


def seed_file(seed: int, name: str) -> str:
    """A seed's name of a file ``top.*`` of the plan; other words are left as they are."""
    stem, dot, rest = name.partition(".")
    return f"seed-{seed}.{rest}" if stem == "top" and dot else name


def plan(board: Board, core=None) -> Plan:
    """The build of a board: with its own machine, or with what ``core(digest)`` returns."""
    check_hardware(board)
    from hw.top import Top

    core = core or board.core
    family = of(board.device)

    def prepare(digest):
        # No places of sources: the text depends on the design alone. Nor Verilog to look at, which
        # needs a yosys.
        options = {"emit_src": False, "debug_verilog": False, "script_after_read": SCRIPT}
        options |= family.options(board.clock_hz)
        try:
            of_board = board.platform_class()
            check_part(board, of_board)
            platform = family.platform(of_board)()
            return platform.prepare(Top(board, core(digest)), "top", **options)
        except (ValueError, NotImplementedError, ResourceError) as error:
            warnings.simplefilter("ignore", UnusedElaboratable)  # of what was made until then
            raise BuildError(f"{board.name}: {error}") from error

    digest = prepare(bytes(DIGEST_BYTES)).digest(size=DIGEST_BYTES)
    files = prepare(digest).files
    commands = json.loads(files["build_top.json"])["commands"]
    return Plan(
        board=board,
        files={name: files[name] for name in family.files},
        # Boards may have more, to program them.
        commands=tuple(command for command in commands if command[0] in family.tools),
        digest=digest,
    )


def check_hardware(board: Board):
    """Raises BuildError for a simulated board."""
    if board.simulated:
        raise BuildError(f"{board.name} is a simulated board: there is no hardware to build it for")


def check_routable(board: Board):
    """Raises BuildError for a board whose part no router is at hand for."""
    if project := of(board.device).project:
        raise BuildError(
            f"{board.name}: there is no router for its {board.device} here, so that it has no "
            f"seeds to try; make bitstream BOARD={board.name} writes a project for {project.tool}"
        )


def check_part(board: Board, platform: Any):
    """Raises BuildError if the platform of a board is for another part, or speed grade of it."""
    part = (
        platform.family if isinstance(getattr(platform, "family", None), str) else platform.device
    )
    if part != board.device:
        raise BuildError(f"{board.name}: device must be its platform's, {part}, not {board.device}")
    usual = of(board.device).usual_speed
    speed, grade = board.speed or usual, getattr(platform, "speed", None)
    if usual and grade is not None and grade != speed:
        raise BuildError(f"{board.name}: speed must be its platform's, {grade!r}, not {speed!r}")
