"""The C++ compiler of the machine, and what it is told to make shared libraries."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hw.tools import find_command, first_error, killed
from weights.errors import ReportedError

LIBRARY_FLAGS = ("-std=c++17", "-fPIC")


class SimulationError(ReportedError):
    """A library of the simulator cannot be made; the text says why in one line."""


def run(command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
    """A command that has ended, with all it said in ``stdout``. Raises ``OSError``."""
    return subprocess.run(
        command,
        check=False,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,
    )


def _named() -> str:
    return os.environ.get("CXX", "").strip() or "g++"


def compiler() -> list[str]:
    """Words of the command that ``$CXX`` names, else of g++."""
    named = _named()
    if (found := find_command(named)) is None:
        raise SimulationError(f"no C++ compiler {named!r}: install g++, or set CXX to one")
    return found


def recipe() -> tuple[str, ...]:
    """All that a library depends on, beside its sources and flags of its own.

    Not the version of the compiler: what is compiled can be used where there is none any more.
    """
    machine = (platform.system(), platform.machine(), str(sys.maxsize), *platform.libc_ver())
    return _named(), *machine, *LIBRARY_FLAGS


class Build:
    """Commands run in a folder, which log what they say.

    Parameters
    ----------
    folder : Path
    log : Path
        Begun anew.
    title : str
        Of what is made, for messages.
    environment : Mapping or None
        Of the commands; this process's unless given.
    """

    def __init__(
        self, folder: Path, log: Path, title: str, environment: Mapping[str, str] | None = None
    ):
        self.folder = folder
        self._log = log
        self._title = title
        self._environment = environment
        self._compiler = compiler()
        log.write_text("")

    def run(self, *command: str) -> None:
        """Raises `SimulationError` for a command that fails."""
        try:
            done = run(list(command), cwd=self.folder, env=self._environment)
            status, text = done.returncode, done.stdout
        except OSError as error:
            status, text = 1, f"{command[0]} does not run ({error.strerror})\n"
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(command)}\n{text}")
        if status:
            reason = killed(Path(command[0]).name, status, text) or first_error(text)
            raise SimulationError(f"{self._title} does not compile: {reason} (log: {self._log})")

    def compile(self, *arguments: str) -> None:
        self.run(*self._compiler, *LIBRARY_FLAGS, *arguments)

    def library(self, *arguments: str) -> Path:
        """A shared library made of these sources or objects, with these flags."""
        made = self.folder / "library.so"
        self.compile("-shared", "-o", made.name, *arguments)
        if not made.is_file():
            raise SimulationError(
                f"{' '.join(self._compiler)} is no C++ compiler: it makes no library "
                f"(log: {self._log}); set CXX"
            )
        return made
