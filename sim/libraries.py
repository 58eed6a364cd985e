"""Shared libraries of the simulator: each is compiled once, then found by what it was made from.

The name of a library is the digest of everything that went into it.
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
from dataclasses import dataclass
from pathlib import Path

from sim.compiler import SimulationError
from weights.commandline import one_line
from weights.files import cache_folder, make_cache, remove
from weights.locks import InUse, locked

KEPT_LIBRARIES = 8
BUILD_FOLDER = re.compile(r"([0-9a-f]{32})\.\w{8}")
"""Name of a folder in which a library is compiled: that of the library and a dot."""

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a library is made.

    Members
    -------
    title : what messages call it
    ingredients : all that it follows from
    compile : makes it in a folder, with a log at a path, and returns where it lies
    """

    title: str
    ingredients: tuple[str, ...]
    compile: Callable[[Path, Path], Path]

    @property
    def digest(self) -> str:
        return digest(*self.ingredients)


def announce(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def default_cache() -> Path:
    """Where libraries are kept. Raises ``ModelError`` where the user has no home."""
    return cache_folder() / "sim"


def library(recipe: Recipe, *, cache: Path | None = None, progress: Progress = announce) -> Path:
    """Return the library of that recipe; compile it if need be.

    Any number of processes may ask at once: one compiles, the others wait for it. A library that is
    there is used even if nothing can be written beside it; one that is damaged, of another recipe
    or of another machine is compiled anew.

    Raises
    ------
    SimulationError
        When it does not compile, with the path of the log, or cannot be kept.
    ModelError
        When there is no folder for it.
    """
    cache = default_cache() if cache is None else cache
    path = cache / f"{recipe.digest}.so"
    if _fault(path) is not None:
        make_cache(cache)
        try:
            with locked(
                path.with_suffix(".lock"),
                lambda: progress(f"waiting for the program that compiles {recipe.title} ..."),
            ):
                if _fault(path) is not None:
                    _make(path, recipe, progress)
        except OSError as error:
            raise SimulationError(
                f"{error.filename or cache}: cannot be written to ({error.strerror}); make room, "
                "or set XDG_CACHE_HOME to another folder"
            ) from error
    _note_use(path)
    return path


def digest(*texts: str) -> str:
    """A name for what follows from these texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


def noted(note: Path) -> Path | None:
    """The library that a note names, if it can be used."""
    path = _named_by(note)
    if path is None or _fault(path) is not None:
        return None
    _note_use(path)
    return path


def take_note(note: Path, path: Path) -> None:
    """Let a note name a library beside it, unless nothing can be written there."""
    with contextlib.suppress(OSError):
        note.write_text(f"{note.stem} {path.name}\n")


def _named_by(note: Path) -> Path | None:
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


def _make(path: Path, recipe: Recipe, progress: Progress) -> None:
    progress(f"compiling {recipe.title} (once, up to a minute) ...")
    start = time.monotonic()
    log = path.with_suffix(".log")
    with tempfile.TemporaryDirectory(prefix=f"{path.stem}.", dir=path.parent) as build:
        result = recipe.compile(Path(build), log)
        result = result.rename(result.with_name(path.name))
        for old in (path, path.with_suffix(".sha256")):
            remove(old)
        path.with_suffix(".sha256").write_bytes(_checksum(result))
        result.replace(path)
    log.unlink(missing_ok=True)
    if reason := _fault(path):
        raise SimulationError(
            f"{recipe.title} does not load ({one_line(reason)}); set XDG_CACHE_HOME to a "
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
        named = _named_by(note)
        if named is None or not named.exists():
            remove(note)


def _by_age(cache: Path, pattern: str) -> list[Path]:
    return sorted(cache.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
