"""Boards: data only.

Every module of this package holds one, named ``BOARD``; a file elsewhere may, too.
"""

import difflib
import hashlib
import importlib
import json
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin

from hw.arch.geometry import Geometry
from hw.arch.protocol import DIGEST_BYTES
from hw.links.uart import Uart
from hw.links.usb import UsbSerial
from hw.machine import Machine
from hw.memory.sdram.store import Sdram
from hw.programmers import Programmer
from weights.commandline import explain
from weights.errors import ReportedError
from weights.files import user_path


class BoardError(ReportedError, ValueError):
    """There is no such board, or not this of it, or what describes it is wrong."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """One board and the machine that is built for it.

    Parameters
    ----------
    name : str
        That of the board's module; what users type, and what a device says.
    machine : Machine
    clock_hz : int
        Clock of the machine, made from the board's own by a PLL.
    link : Uart, UsbSerial or None
        How the board talks to its host.
    platform : str or None
        ``module:class`` of an Amaranth platform, most often of amaranth-boards. None for a
        simulated board, which needs neither that package nor any tool.
    device : str or None
        Part, as a family of `hw.families` names it.
    speed : str or None
        Speed grade of the part, if not the usual one of its family's boards.
    seed : int
        Of the placer: one that met the timing.
    model : str
        Shipped model that the machine holds; a build's report has its cycles.
    programmer : Programmer or None
        What loads its bitstream; None if nobody has said so yet.
    price : (int, int) or None
        Its price class: US dollars, of 25, 50, 100, 200 and 400, between which such a board usually
        costs new, one piece, without tax and shipping. To choose boards by, not an offer: prices
        move, and nobody keeps these up to date. None if nobody has said so yet.
    """

    name: str
    machine: Machine
    clock_hz: int
    link: Uart | UsbSerial | None = None
    platform: str | None = None
    device: str | None = None
    speed: str | None = None
    seed: int = 1
    model: str = "stories-small"
    programmer: Programmer | None = None
    price: tuple[int, int] | None = None

    def __post_init__(self):
        for each in fields(self):
            kinds = tuple(get_origin(kind) or kind for kind in get_args(each.type) or (each.type,))
            value = getattr(self, each.name)
            if not isinstance(value, kinds):
                wanted = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
                raise BoardError(f"{each.name} must be {wanted}, not {value!r}")
        if (self.platform is None) != (self.link is None):
            raise BoardError(f"a board with a platform, and no other, must have a link: {self!r}")
        if self.link is not None:
            self.link.check(self.clock_hz)
        for memory in (self.machine.stores.weights, self.machine.stores.embedding):
            if isinstance(memory, Sdram) and memory.clock_hz != self.clock_hz:
                raise BoardError(
                    f"clock_hz of the SDRAM must be the machine's {self.clock_hz}, "
                    f"not {memory.clock_hz}"
                )

    @property
    def geometry(self) -> Geometry:
        """Size of the machine."""
        return self.machine.geometry

    @property
    def simulated(self) -> bool:
        """Whether the board exists in simulation only."""
        return self.platform is None

    @property
    def machine_digest(self) -> str:
        """What tells machines apart: of all that this board says of machine, clock, link and part.

        What is as usual does not count, so that an option more changes nobody's. It is not of the
        gateware that these words stand for; see `hw.build.plan` for that.
        """

        def plain(value: Any) -> list:
            said = {each.name: (getattr(value, each.name), each.default) for each in fields(value)}
            return [type(value).__name__, {n: v for n, (v, usual) in said.items() if v != usual}]

        said = json.dumps([self.machine, self.clock_hz, self.link, self.device], default=plain)
        return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()

    def platform_class(self) -> Any:
        """The class of the board's platform, as its package has it."""
        if self.platform is None:
            raise BoardError(f"{self.name} is a simulated board: there is no hardware of it")
        path, _, name = self.platform.partition(":")
        wrong = f"platform must be 'module:class', not {self.platform!r}"
        if not (path and name):
            raise BoardError(wrong)
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError as error:
            package = path.partition(".")[0]
            if error.name == package or not f"{path}.".startswith(f"{error.name}."):
                raise
            raise BoardError(f"{wrong}: there is no module {error.name}") from error
        if not isinstance(found := getattr(module, name, None), type):
            near = difflib.get_close_matches(name, dir(module), n=1)
            hint = "".join(f", but a {other}" for other in near)
            raise BoardError(f"{wrong}: {path} has no class {name}{hint}")
        return found

    def core(self, digest: bytes = bytes(DIGEST_BYTES)):
        """The board's machine, to simulate or to build; ``digest`` is what it says of its build."""
        from hw.core import Core

        return Core(
            machine=self.machine, board_name=self.name, clock_hz=self.clock_hz, digest=digest
        )


def names() -> list[str]:
    """All boards of this package, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def outside(name: str) -> bool:
    """Whether what a user writes for a board is the path of a file, not a name."""
    return name.endswith(".py") or os.sep in name


def known(name: str) -> Board | None:
    """The board of that name, if it is of this package or was read by its path before."""
    if name in names():
        return board(name)
    return getattr(sys.modules.get(f"{__name__}.{name}"), "BOARD", None)


def board(name: str) -> Board:
    """The board of that name, or the one in the file at that path, which is read anew.

    A file elsewhere is a module ``hw.boards.NAME`` like those that are here, so that the platform
    of its board may be a class in it: ``platform=f"{__name__}:MyPlatform"``.

    Raises
    ------
    BoardError
        When there is none, or what describes it is wrong, with the file and the line.
    """
    if not outside(name):
        if name not in names():
            raise BoardError(
                f"board must be one of {', '.join(names())}, or the path of a file, not {name!r}"
            )
        module = f"{__name__}.{name}"
        file = f"{module.replace('.', '/')}.py"
        return _found(name, lambda: importlib.import_module(module), file)
    path = user_path(name)
    if not path.is_file():
        raise BoardError(f"{path}: there is no such file of a board")
    if path.stem in names():
        if path.resolve().parent in (Path(folder).resolve() for folder in __path__):
            return board(path.stem)
        raise BoardError(f"{path}: hw/boards has a {path.stem}; give file and board another name")
    return _found(path.stem, lambda: _read(path), str(path))


def _read(path: Path) -> ModuleType:
    """Run a file as a module of this package."""
    name = f"{__name__}.{path.stem}"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _found(name: str, read: Callable[[], ModuleType], file: str) -> Board:
    """What a board's module holds; everything that is wrong with it is a `BoardError`."""
    try:
        found = getattr(read(), "BOARD", None)
    except (Exception, SystemExit) as error:
        raise BoardError(f"{file}{_line(error, f'{name}.py')}: {_reason(error)}") from error
    if not isinstance(found, Board):
        what = "nothing" if found is None else repr(found)
        raise BoardError(f"{file}: BOARD must be a Board of hw.boards, not {what}")
    if found.name != name:
        raise BoardError(f"{file}: name of the board must be its file's, {name}, not {found.name}")
    return found


def _line(error: BaseException, file: str) -> str:
    """``:LINE``, the last of a file of that name on the way to an exception."""
    lines = [
        line
        for frame, line in traceback.walk_tb(error.__traceback__)
        if Path(frame.f_code.co_filename).name == file
    ]
    if isinstance(error, SyntaxError) and error.lineno and Path(error.filename or "").name == file:
        lines.append(error.lineno)
    return f":{lines[-1]}" if lines else ""


def _reason(error: BaseException) -> str:
    """What went wrong; values that this project refuses are told as they are refused."""
    match error:
        case ModuleNotFoundError() | OSError():
            return explain(error)
        case SyntaxError():
            return f"{type(error).__name__}: {error.msg}"
        case ValueError():
            return str(error)
    return f"{type(error).__name__}: {error}"
