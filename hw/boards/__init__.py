"""Boards: data only. Every module of this package holds one, named ``BOARD``."""

import importlib
import pkgutil
from dataclasses import dataclass

from hw.arch.geometry import Geometry
from hw.arch.protocol import DIGEST_BYTES
from hw.machine import Machine
from weights.errors import ReportedError, UsageError


class BoardError(ReportedError, ValueError):
    """There is not this of a board, or what describes it is wrong."""


class UnknownBoardError(UsageError, BoardError):
    """There is no board of that name."""


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
    baud : int or None
        Rate of the board's UART; must divide the clock to within 2 %.
    platform : str or None
        ``module:class`` of the amaranth-boards platform. None for a simulated board, which
        needs neither that package nor any tool.
    device : str or None
        Part number, the key of ``hw.build.estimate.CAPACITY``.
    seed : int
        Of the placer: one that met the timing.
    model : str
        Shipped model that the machine holds; a build's report has its cycles.
    """

    name: str
    machine: Machine
    clock_hz: int
    baud: int | None = None
    platform: str | None = None
    device: str | None = None
    seed: int = 1
    model: str = "stories-small"

    def __post_init__(self):
        if (self.platform is None) != (self.baud is None):
            raise BoardError(f"a board with a platform, and no other, must have a baud: {self!r}")
        if self.baud is not None and not 0.98 < self.divisor * self.baud / self.clock_hz < 1.02:
            raise BoardError(
                f"baud must divide a clock of {self.clock_hz} Hz to within 2 %, not {self.baud!r}"
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
    def divisor(self) -> int:
        """Clock cycles per bit of the UART."""
        return round(self.clock_hz / self.baud)

    def create_platform(self):
        """A new platform object of amaranth-boards; a platform serves one build."""
        if self.simulated:
            raise BoardError(f"{self.name} is a simulated board: there is no hardware of it")
        module, _, name = self.platform.partition(":")
        try:
            return getattr(importlib.import_module(module), name)()
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
    UnknownBoardError
        When there is none, with the known ones.
    BoardError
        What describes it is wrong.
    """
    if name not in names():
        raise UnknownBoardError(f"board must be one of {', '.join(names())}, not {name!r}")
    try:
        return importlib.import_module(f"{__name__}.{name}").BOARD
    except BoardError:
        raise
    except ValueError as error:
        raise BoardError(f"{__name__}.{name}: {error}") from error
