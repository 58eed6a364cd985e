"""What a build leaves where no router is at hand: a folder that a vendor's tool goes on from."""

from collections.abc import Mapping
from pathlib import Path

from hw.boards import Board
from hw.build import BuildError
from hw.build.plan import Plan
from hw.build.tools import Workplace, reading
from hw.families import of
from hw.families.family import Project
from weights.files import write_file

README = """\
{board}, {part}, at {clock:g} MHz
plan {digest}, netlist by yosys {yosys}

This folder is complete, and can be taken to where {tool} is. In it

    {command}

places, routes and packs the netlist. It leaves {bitstream}, if every path is fast enough, and what
{tool} says of the design; otherwise it ends with status 1.
"""


def project_of(plan: Plan) -> Project:
    """Raises BuildError for a family that has none."""
    if plan.family.project is None:
        raise BuildError(f"{plan.board.name}: a router is at hand, so that there is no project")
    return plan.family.project


def command(board: Board, folder: Path) -> str:
    """What a user runs, where the vendor's tool is, once a board's folder is complete."""
    project = of(board.device).project
    assert project is not None
    return project.command.format(folder / project.folder / project.script)


def readme(plan: Plan, versions: Mapping[str, str]) -> str:
    """Text beside the files; no two projects have the same."""
    project = project_of(plan)
    return README.format(
        board=plan.board.name,
        part=plan.board.device,
        clock=plan.board.clock_hz / 1e6,
        digest=plan.digest.hex(),
        yosys=versions["yosys"],
        tool=project.tool,
        command=project.command.format(project.script),
        bitstream=Path(plan.family.bitstream).name,
    )


def clear_other(plan: Plan, place: Workplace, folder: Path) -> None:
    """Remove the project that a board's ``folder`` has, and its bitstream, unless it is this."""
    project, path = project_of(plan), folder / project_of(plan).folder / "README"
    if path.is_file() and path.read_text(errors="replace") == readme(plan, place.versions):
        return
    for name in (plan.family.bitstream, *(f"{project.folder}/{n}" for n in project.files)):
        (folder / name).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def write(plan: Plan, place: Workplace, folder: Path) -> None:
    """Write the project of a plan that was synthesised; the README, which says so, is last."""
    project = project_of(plan)
    (folder / project.folder).mkdir(exist_ok=True)
    for name in project.files:
        with reading(place.path / name):
            content = (place.path / name).read_bytes()
        write_file(folder / project.folder / name, content)
    write_file(folder / project.folder / "README", readme(plan, place.versions).encode())
