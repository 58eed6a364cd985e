"""Libraries of simulated cores: each is compiled once, then found by what it was made from.

A core goes through Amaranth's Verilog and Verilator into a shared library, whose name is the digest
of everything that went into it.
"""

import contextlib
import ctypes
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from amaranth.lib import wiring

from hw.verilog import verilog_of, versions
from sim.verilator import SimulationError, Verilator, compile_library, recipe
from weights.commandline import one_line
from weights.files import cache_folder, make_cache, remove
from weights.locks import InUse, locked

SOURCE_PACKAGES = ("hw", "weights")
"""What a board's core is made from."""

KEPT_LIBRARIES = 8
BUILD_FOLDER = re.compile(r"([0-9a-f]{32})\.\w{8}")
"""Name of a folder in which a library is compiled: that of the library and a dot."""

Progress = Callable[[str], None]


def announce(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def default_cache() -> Path:
    """Where compiled devices are kept. Raises ``ModelError`` where the user has no home."""
    return cache_folder() / "sim"


def core_verilog(core: wiring.Component) -> str:
    """Verilog of a core; the text depends on the design alone, not on where its sources lie."""
    return verilog_of(core, "core")


def library(
    source: str,
    *,
    name: str = "core",
    cache: Path | None = None,
    progress: Progress = announce,
) -> Path:
    """Return the shared library for the core whose Verilog is ``source``; compile it if need be.

    Any number of processes may ask at once: one compiles, the others wait for it. A library that is
    there is used even if nothing can be written beside it; one that is damaged, of another core or
    of another machine is compiled anew.

    Raises
    ------
    SimulationError
        When it does not compile, with the path of the log, or cannot be kept.
    ModelError
        When there is no folder for it.
    """
    cache = default_cache() if cache is None else cache
    verilator = Verilator.find()
    digest = _digest(source, *recipe(verilator))
    path = cache / f"{digest}.so"
    if _fault(path) is not None:
        make_cache(cache)
        try:
            with locked(
                cache / f"{digest}.lock",
                lambda: progress(f"waiting for the program that compiles {name} ..."),
            ):
                if _fault(path) is not None:
                    _make(path, source, name, verilator, progress)
        except OSError as error:
            raise SimulationError(
                f"{error.filename or cache}: cannot be written to ({error.strerror}); make room, "
                "or set XDG_CACHE_HOME to another folder"
            ) from error
    _note_use(path)
    return path


def board_library(name: str, *, cache: Path | None = None, progress: Progress = announce) -> Path:
    """Return the shared library for the core of the board ``name``.

    A core follows from the sources of this project, so that while they are the same as the last
    time the core is not even made. Raises as `library` does, and ``BoardError``.
    """
    from hw.boards import board  # not needed for a core of one's own

    chosen = board(name)
    cache = default_cache() if cache is None else cache
    note = cache / f"{_digest(name, _sources(), *recipe(Verilator.find()))}.board"
    path = _noted(note)
    if path is not None and _fault(path) is None:
        _note_use(path)
        return path
    make_cache(cache)
    path = library(core_verilog(chosen.core()), name=name, cache=cache, progress=progress)
    with contextlib.suppress(OSError):  # the library may be there where nothing can be written
        note.write_text(f"{note.stem} {path.name}\n")
    return path


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


def _sources() -> str:
    """All that the Verilog of a board depends on."""
    root = Path(__file__).parents[1]
    files = [path for package in SOURCE_PACKAGES for path in (root / package).rglob("*.py")]
    whole = [path for path in sorted(files) if path.is_file()]  # not an editor's dangling link
    return "\0".join([*versions(), *(path.read_text("utf-8", "replace") for path in whole)])


def _noted(note: Path) -> Path | None:
    """The library that a note names; it has its own name, too, so that none stands for another."""
    try:
        own, _, name = note.read_bytes().decode("ascii", "replace").strip().partition(" ")
    except OSError:
        return None
    return note.with_name(name) if own == note.stem and re.fullmatch(r"\w+\.so", name) else None


def _checksum(path: Path) -> bytes:
    """Of a library and of its name, so that none passes for another."""
    return hashlib.sha256(path.name.encode() + path.read_bytes()).hexdigest().encode()


def _fault(path: Path) -> str | None:
    """Why a library cannot be used, None if it can."""
    try:
        if path.with_suffix(".sha256").read_bytes() != _checksum(path):
            return f"{path} is damaged"
        ctypes.CDLL(str(path))
    except OSError as error:
        return str(error)
    return None


def _make(path: Path, source: str, name: str, verilator: Verilator, progress: Progress) -> None:
    progress(f"compiling the simulated device {name} (once, up to a minute) ...")
    start = time.monotonic()
    log = path.with_suffix(".log")
    with tempfile.TemporaryDirectory(prefix=f"{path.stem}.", dir=path.parent) as build:
        result = compile_library(source, Path(build), verilator, log)
        result = result.rename(result.with_name(path.name))
        for old in (path, path.with_suffix(".sha256")):
            remove(old)
        path.with_suffix(".sha256").write_bytes(_checksum(result))
        result.replace(path)
    log.unlink(missing_ok=True)
    if fault := _fault(path):
        raise SimulationError(
            f"the simulated device does not load ({one_line(fault)}); set XDG_CACHE_HOME to a "
            "folder that libraries can be loaded from, or CXX to a compiler for this machine"
        )
    progress(f"compiled in {time.monotonic() - start:.0f} s")
    _forget_old(path.parent)


def _note_use(path: Path) -> None:
    """Keep a library as one of those used last, and remove what killed processes left beside it."""
    with contextlib.suppress(OSError):
        os.utime(path)
        for folder in path.parent.iterdir():
            if found := BUILD_FOLDER.fullmatch(folder.name):
                _remove_left(folder, path.with_name(f"{found[1]}.lock"))


def _remove_left(folder: Path, lock: Path) -> None:
    if folder.is_dir():
        with contextlib.suppress(InUse), locked(lock, wait=False):
            shutil.rmtree(folder, ignore_errors=True)
            lock.with_suffix(".log").unlink(missing_ok=True)


def _forget_old(cache: Path) -> None:
    """Keep the libraries that were used last. Lock files stay: others may wait on them."""
    for path in _by_age(cache, "*.so")[KEPT_LIBRARIES:]:
        remove(path)
        remove(path.with_suffix(".sha256"))
    for path in _by_age(cache, "*.log")[KEPT_LIBRARIES:]:
        remove(path)
    for note in cache.glob("*.board"):
        named = _noted(note)
        if named is None or not named.exists():
            remove(note)


def _by_age(cache: Path, pattern: str) -> list[Path]:
    return sorted(cache.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
