"""Boards: data only. Every module of this package holds one, named ``BOARD``."""

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any

from hw.arch.geometry import Geometry
from hw.arch.protocol import DIGEST_BYTES
from hw.links.uart import Uart
from hw.links.usb import UsbSerial
from hw.machine import Machine
from hw.memory.sdram.store import Sdram
from hw.programmers import Programmer
from weights.errors import ReportedError


class BoardError(ReportedError, ValueError):
    """There is no such board, or not this of it, or what describes it is wrong."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """One board and the machine that is built for it.

    Parameters
    ----------
    name : str
        Name of the board's module in this package; what users type.
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
    seed : int
        Of the placer: one that met the timing.
    model : str
        Shipped model that the machine holds; a build's report has its cycles.
    programmer : Programmer or None
        What loads its bitstream; None if nobody has said so yet.
    """

    name: str
    machine: Machine
    clock_hz: int
    link: Uart | UsbSerial | None = None
    platform: str | None = None
    device: str | None = None
    seed: int = 1
    model: str = "stories-small"
    programmer: Programmer | None = None

    def __post_init__(self):
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

    def platform_class(self) -> Any:
        """The class of the board's platform, as its package has it."""
        if self.platform is None:
            raise BoardError(f"{self.name} is a simulated board: there is no hardware of it")
        module, _, name = self.platform.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except AttributeError as error:
            raise BoardError(
                f"platform must be a module and a class of it, not {self.platform!r}"
            ) from error

    def core(self, digest: bytes = bytes(DIGEST_BYTES)):
        """The board's machine, to simulate or to build; ``digest`` is what it says of its build."""
        from hw.core import Core

        return Core(
            machine=self.machine, board_name=self.name, clock_hz=self.clock_hz, digest=digest
        )


def names() -> list[str]:
    """All boards that there are, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def board(name: str) -> Board:
    """The board of that name.

    Raises
    ------
    BoardError
        When there is none, with the known ones, or what describes it is wrong.
    """
    if name not in names():
        raise BoardError(f"board must be one of {', '.join(names())}, not {name!r}")
    try:
        return importlib.import_module(f"{__name__}.{name}").BOARD
    except BoardError:
        raise
    except ValueError as error:
        raise BoardError(f"{__name__}.{name}: {error}") from error
