"""Libraries of simulated cores: Amaranth's Verilog through Verilator."""

import re
from functools import partial
from pathlib import Path

from amaranth.lib import wiring

from hw.verilog import verilog_of, versions
from sim import libraries, verilator
from sim.libraries import Progress, Recipe, announce
from sim.sdram import MODEL, RESET, chip_of, with_chip
from sim.verilator import Verilator
from weights.files import make_cache, user_path

ZEROS = re.compile(
    r"^    (\S+ ?)\[(\d+)\] = (\d+'h)0+;\n(?:    \1\[\d+\] = \3(?:0+;\n))+", re.MULTILINE
)
"""Words of a memory that begin with zero, one behind the other, a line each."""

ALONE = f"""\
module core (
    input clk, rst, input rx__valid, input [7:0] rx__payload, output rx__ready,
    output tx__valid, output [7:0] tx__payload, input tx__ready
);
{RESET}
machine machine (
    .clk(clk), .rst(reset), .rx__valid(rx__valid), .rx__payload(rx__payload), .rx__ready(rx__ready),
    .tx__valid(tx__valid), .tx__payload(tx__payload), .tx__ready(tx__ready)
);
endmodule
"""
"""The module ``core`` of a machine with nothing beside it."""

SOURCE_PACKAGES = ("hw", "weights")
"""What a board's core is made from."""


def core_verilog(core: wiring.Component) -> str:
    """Verilog of a core, and of the memory beside it, if it has one.

    The text depends on the design alone, not on where its sources lie.
    """
    machine = with_loops(verilog_of(core, "machine"))
    if not hasattr(core, "sdram"):
        return "\n".join((ALONE, machine))
    memory = core.beside.parameters
    chip = chip_of(memory.part.name)
    return "\n".join((with_chip(chip, memory.clock_hz, memory.ratio), machine))


def with_loops(verilog: str) -> str:
    """The same with a loop for words of memories that are zero, which are most of the text."""

    def loop(lines: re.Match) -> str:
        name, first, zero = lines.groups()
        end = int(first) + lines[0].count("\n")
        return f"    for (int row = {first}; row < {end}; row = row + 1) {name}[row] = {zero}0;\n"

    return ZEROS.sub(loop, verilog)


def library(
    source: str,
    *,
    name: str = "core",
    cache: Path | None = None,
    progress: Progress = announce,
) -> Path:
    """Return the library for the core whose Verilog is ``source``, as `libraries.library` does."""
    return libraries.library(_recipe(source, name), cache=cache, progress=progress)


def _recipe(source: str, name: str) -> Recipe:
    found = Verilator.find()
    title = f"the simulated device {name}"
    return Recipe(
        title=title,
        ingredients=(source, *verilator.recipe(found)),
        compile=partial(verilator.compile_library, source, found, title),
    )


def board_library(name: str, *, cache: Path | None = None, progress: Progress = announce) -> Path:
    """Return the library for the core of the board of that name, or in the file at that path.

    A core follows from the sources of this project and that file, so that while they are the same
    as the last time the core is not even made. Raises as `library` does, and ``BoardError``.
    """
    from hw.boards import board, outside  # not needed for a core of one's own

    chosen = board(name)
    own = (user_path(name).read_text("utf-8", "replace"),) if outside(name) else ()
    cache = libraries.default_cache() if cache is None else cache
    digest = libraries.digest(name, *own, _sources(), *verilator.recipe(Verilator.find()))
    note = cache / f"{digest}.board"
    if path := libraries.noted(note):
        return path
    make_cache(cache)
    path = library(core_verilog(chosen.core()), name=name, cache=cache, progress=progress)
    libraries.take_note(note, path)
    return path


def _sources() -> str:
    """All that the Verilog of a board depends on."""
    root = Path(__file__).parents[1]
    files = [path for package in SOURCE_PACKAGES for path in (root / package).rglob("*.py")]
    files += [MODEL, MODEL.with_suffix(".py")]
    whole = [path for path in sorted(files) if path.is_file()]  # not an editor's dangling link
    return "\0".join([*versions(), *(path.read_text("utf-8", "replace") for path in whole)])
