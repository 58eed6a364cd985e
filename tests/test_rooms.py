"""Who may import whom: the rooms of the project, and the arrows between them."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from sim.cores import SOURCE_PACKAGES

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("weights", "host", "hw", "sim", "tests")

GROUND = (
    *("hw.arch", "hw.parameters", "hw.pipeline", "hw.turns"),
    *("hw.memory.signatures", "hw.units.commands", "hw.control.run"),
    *("weights.fixed", "weights.noise", "weights.packing"),
)
"""What parts of the machine know of each other: formulas, ports and payloads, never a part."""

RULES: dict[str, tuple[str, ...]] = {
    "weights": ("weights",),
    "host": ("host", "hw.arch", "weights"),
    "hw": ("hw", "weights"),
    "hw.families": ("hw.families", "weights.errors"),
    "hw.arch": ("hw.arch", "weights.fixed", "weights.noise", "weights.packing"),
    "hw.parameters": (),
    "hw.pipeline": (),
    "hw.turns": ("hw.arch",),
    "hw.units": ("hw.units", *GROUND),
    "hw.memory": ("hw.memory", *GROUND),
    "hw.control": ("hw.control", *GROUND),
    "hw.links": ("hw.links", *GROUND),
    "sim": ("sim", "hw", "host", "weights"),
    "tests": ROOMS,
}
"""What a room, or a part of one, may import. The most exact rule holds for a module."""

PROGRAMS = ("weights", "host", "hw", "sim")
"""What programs may import, wherever they lie. Only tests import a program."""


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Every module of the project, by its name."""
    found = {}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text("utf-8"))
    return found


def is_program(name: str, tree: ast.Module) -> bool:
    """Whether users start a module."""
    return name.endswith(".__main__") or any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        for node in tree.body
    )


@functools.cache
def programs() -> set[str]:
    return {name for name, tree in modules().items() if is_program(name, tree)}


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def imports(name: str, tree: ast.Module) -> Iterator[str]:
    """Modules of the project that one of them imports, wherever in it."""
    is_package = any(module.startswith(f"{name}.") for module in modules())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = name.split(".")
            above = parts[: len(parts) - node.level + is_package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            whole = [f"{base}.{alias.name}" for alias in node.names]
            found = [module if module in modules() else base for module in whole]
        else:
            continue
        yield from (module for module in found if module.split(".")[0] in ROOMS)


def wrong_arrows(name: str, tree: ast.Module) -> set[tuple[str, str]]:
    """Imports of a module that no rule allows, as pairs of who imports and what."""
    rule = RULES[max((room for room in RULES if within(name, room)), key=len)]
    if is_program(name, tree):
        rule = PROGRAMS
    return {
        (name, module)
        for module in imports(name, tree)
        if not any(within(module, room) for room in rule)
        or (module in programs() and not within(name, "tests"))
    }


def test_rooms_import_what_they_may():
    found = {arrow for name, tree in modules().items() for arrow in wrong_arrows(name, tree)}
    assert found == set()


def test_the_build_alone_asks_a_family():
    """A board names its part; what that means is for the build and the top to find out."""
    asking = {
        name
        for name, tree in modules().items()
        if any(within(module, "hw.families") for module in imports(name, tree))
    }
    rooms = ("hw.families", "hw.build", "hw.top", "tests")
    assert not [name for name in asking if not any(within(name, room) for room in rooms)]


START = "if __name__ == '__main__':\n    main()"


@pytest.mark.parametrize(
    ("name", "text", "module"),
    [
        ("hw.units.made_up", "from hw.memory.block import BlockStore", "hw.memory.block"),
        ("hw.units.made_up", "from hw.memory import bank", "hw.memory.bank"),
        ("hw.units.made_up", "from ..memory import bank", "hw.memory.bank"),
        ("hw.units.made_up", "from . import engine as e\nimport hw.core as c", "hw.core"),
        ("hw.control.made_up", "def late():\n    from hw.links.link import Link", "hw.links.link"),
        ("hw.memory.made_up", "import hw.units.engine, hw.pipeline", "hw.units.engine"),
        ("hw.links.made_up", "from host.device import LinkDevice", "host.device"),
        ("hw.made_up", "from sim.golden import Golden", "sim.golden"),
        ("hw.made_up", "from host.compiler import Image", "host.compiler"),
        ("host.made_up", "from sim import device", "sim.device"),
        ("host.made_up", "from hw.boards import board", "hw.boards"),
        ("hw.arch.made_up", "from hw.pipeline import delay", "hw.pipeline"),
        (
            "weights.made_up",
            "if True:\n    from hw.arch.protocol import Command",
            "hw.arch.protocol",
        ),
        ("weights.made_up", "from weights.__main__ import main", "weights.__main__"),
        ("sim.made_up", "from hw.build.__main__ import main", "hw.build.__main__"),
        ("sim.made_up", "from sim.serve import serve", "sim.serve"),
        ("sim.made_up", "from tests import fake_device", "tests.fake_device"),
        ("weights.made_up", "from sim.losses import evaluate", "sim.losses"),
        ("weights.made_up.__main__", "from tests import fake_device", "tests.fake_device"),
        ("hw.made_up", f"from sim.evaluate import main\n{START}", "sim.evaluate"),
    ],
)
def test_a_new_wrong_arrow_is_seen(name, text, module):
    assert wrong_arrows(name, ast.parse(text)) == {(name, module)}


@pytest.mark.parametrize("name", ["weights.made_up.__main__", "host.made_up"])
def test_a_program_imports_every_room(name):
    text = f"from sim.losses import evaluate\nfrom hw.core import Core\nimport host.device\n{START}"
    assert wrong_arrows(name, ast.parse(text)) == set()


def reached(names: Iterable[str]) -> set[str]:
    """Modules, and all of the project that is imported with them."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += imports(name, modules()[name])
    return found


def test_a_simulated_core_is_made_from_what_names_its_library():
    """Whatever a core follows from is in the digest by which its library is found again."""
    boards = {name for name in modules() if within(name, "hw.boards")}
    made_from = reached({*boards, "hw.core", "hw.verilog"})
    assert {name.split(".")[0] for name in made_from} == set(SOURCE_PACKAGES)


def test_what_the_rules_name_exists():
    """A room that moves takes its rule along."""
    named = {*RULES, *(module for rule in RULES.values() for module in rule)}
    assert named - {"tests"} <= modules().keys()  # whose folder is no package
