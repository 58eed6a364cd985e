"""The simulated device with a stand-in core: the port, the cache of libraries, and the server."""

import contextlib
import errno
import fcntl
import multiprocessing
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import serial
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw import boards
from hw.memory.sdram.parts import ULX3S
from hw.memory.sdram.pins import PinsSignature
from sim import compiler, cores, libraries, serve, verilator
from sim.compiler import SimulationError
from sim.device import SimulatedPort
from sim.device.__main__ import main as time_idle
from sim.verilator import Verilator
from weights.errors import ReportedError
from weights.locks import locked

pytestmark = pytest.mark.whole


class Echo(wiring.Component):
    """Sends every byte back plus ``step``, ``delay`` cycles after it came."""

    rx: In(stream.Signature(8))
    tx: Out(stream.Signature(8))

    def __init__(self, step=1, delay=3):
        self.step = step
        self.delay = delay
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        busy = Signal()
        left = Signal(range(self.delay + 1))
        m.d.comb += [self.rx.ready.eq(~busy), self.tx.valid.eq(busy & (left == 0))]
        with m.If(left != 0):
            m.d.sync += left.eq(left - 1)
        with m.If(self.rx.valid & self.rx.ready):
            m.d.sync += [
                self.tx.payload.eq(self.rx.payload + self.step),
                busy.eq(1),
                left.eq(self.delay),
            ]
        with m.If(self.tx.valid & self.tx.ready):
            m.d.sync += busy.eq(0)
        return m


class Hasty(Echo):
    """Opens a row of an SDRAM that has not had the time to start."""

    sdram: Out(PinsSignature(ULX3S))

    def __init__(self):
        super().__init__()
        parameters = SimpleNamespace(part=ULX3S, clock_hz=100_000_000, ratio=1)
        self.beside = SimpleNamespace(parameters=parameters)

    def elaborate(self, platform):
        m = super().elaborate(platform)
        m.d.comb += self.sdram.ras.eq(1)
        return m


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def compiled(cache):
    """Path of the echo's library in ``cache``."""
    return cores.library(cores.core_verilog(Echo()), cache=cache)


@pytest.fixture
def port(cache, compiled):
    with SimulatedPort(Echo(), timeout=0.1, cache=cache) as port:
        yield port


def no_progress(text):
    raise AssertionError(f"must not compile, but says {text!r}")


def test_words_that_are_zero_are_a_loop():
    text = "  initial begin\n    \\a b [0] = 8'h01;\n"
    text += "".join(f"    \\a [{row}] = 8'h00;\n" for row in (1, 2, 3))
    text += "    c[0] = 4'h0;\n    c[1] = 4'h0;\n    c[2] = 4'h1;\n    c[3] = 4'h0;\n  end\n"
    assert cores.with_loops(text) == (
        "  initial begin\n    \\a b [0] = 8'h01;\n"
        "    for (int row = 1; row < 4; row = row + 1) \\a [row] = 8'h0;\n"
        "    for (int row = 0; row < 2; row = row + 1) c[row] = 4'h0;\n"
        "    c[2] = 4'h1;\n    c[3] = 4'h0;\n  end\n"
    )


def test_misuse_of_an_sdram_ends_the_simulation(cache):
    with SimulatedPort(Hasty(), timeout=0.1, cache=cache) as port:
        with pytest.raises(SimulationError, match=r"SDRAM was misused in cycle 1: power-up; "):
            port.run(100)


def test_bytes_come_back_in_order(port):
    data = os.urandom(3000)
    assert port.write(data) == 3000
    assert port.read(3000) == bytes((byte + 1) % 256 for byte in data)
    assert port.cycles == 3000 * 5


def test_clock_stands_still_unless_asked(port):
    port.write(b"abc")
    assert (port.cycles, port.in_waiting, port.out_waiting) == (0, 0, 3)
    assert port.run(3) == port.cycles == 3
    assert (port.in_waiting, port.out_waiting) == (0, 2)
    assert port.run(100) == 100
    assert (port.in_waiting, port.out_waiting) == (3, 0)
    before = port.cycles
    assert port.read(2) == b"bc"
    assert port.cycles == before


def test_flush_runs_only_until_input_is_taken(port):
    port.write(b"ab")
    port.flush()
    assert (port.cycles, port.out_waiting) == (6, 0)


def test_run_stops_at_the_wanted_byte(port):
    port.write(b"abc")
    assert port.run(1000, wanted=2) == 10
    assert port.in_waiting == 2


def test_read_returns_what_came_before_the_timeout(port):
    assert port.read(1) == b""
    port.write(b"ab")
    assert port.read(3) == b"bc"
    assert port.cycles > 10


def test_two_devices_do_not_share_state(cache, port):
    with SimulatedPort(Echo(), timeout=0.1, cache=cache, progress=no_progress) as other:
        port.write(b"a")
        assert other.read(1) == b""
        assert port.read(1) == b"b"


def test_closed_port_says_so(port):
    port.close()
    port.close()
    with pytest.raises(ValueError, match="must be open"):
        port.read(1)


def test_library_is_found_again(cache, compiled):
    before = compiled.stat().st_ino
    assert cores.library(cores.core_verilog(Echo()), cache=cache, progress=no_progress) == compiled
    assert compiled.stat().st_ino == before


def test_another_design_is_another_library(cache, compiled):
    with SimulatedPort(Echo(step=7), timeout=0.1, cache=cache, progress=lambda text: None) as port:
        port.write(b"\x00")
        assert port.read(1) == b"\x07"


def test_damaged_library_is_compiled_anew(cache, compiled):
    whole = compiled.read_bytes()
    compiled.unlink()  # never write into a library that is loaded
    compiled.write_bytes(whole[: len(whole) // 2])
    lines = []
    with SimulatedPort(Echo(), timeout=0.1, cache=cache, progress=lines.append) as port:
        port.write(b"a")
        assert port.read(1) == b"b"
    assert len(lines) == 2 and "compiling" in lines[0] and "compiled in" in lines[1]


def _ask(cache, start, answers):
    lines = []
    start.wait()
    with SimulatedPort(Echo(delay=5), timeout=0.1, cache=cache, progress=lines.append) as port:
        port.write(b"a")
        answers.put((port.read(1), sum("compil" in line for line in lines)))


def test_two_processes_at_once_compile_once(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    start, answers = spawn.Barrier(2), spawn.Queue()
    processes = [spawn.Process(target=_ask, args=(tmp_path, start, answers)) for _ in range(2)]
    for process in processes:
        process.start()
    results = sorted(answers.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    assert [byte for byte, _ in results] == [b"b", b"b"]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".sha256", ".so"]


def test_old_libraries_are_forgotten(tmp_path, monkeypatch):
    for age in range(10):
        path = tmp_path / f"{age}.so"
        path.touch()
        path.with_suffix(".sha256").touch()
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "folder.so" / "inner").mkdir(parents=True)
    os.utime(tmp_path / "folder.so", (0, 0))
    libraries._forget_old(tmp_path)
    kept = {str(age) for age in range(libraries.KEPT_LIBRARIES)}
    assert {path.stem for path in tmp_path.iterdir()} == kept


def test_failure_names_the_log_in_one_line(tmp_path):
    with pytest.raises(SimulationError) as caught:
        cores.library("module core(;", cache=tmp_path, progress=lambda text: None)
    text = str(caught.value)
    (log,) = tmp_path.glob("*.log")
    assert "\n" not in text and str(log) in text and "syntax error" in text
    assert "syntax error" in log.read_text()
    assert not list(tmp_path.glob("*.so"))


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def echo_verilog():
    return cores.core_verilog(Echo())


def refused(verilog, cache, match):
    """The device is not compiled, for a reason in one line, and nothing but a log is left."""
    with pytest.raises(ReportedError, match=match) as caught:
        cores.library(verilog, cache=cache, progress=lambda text: None)
    assert "\n" not in str(caught.value) and caught.value.status == 1
    if cache.is_dir():
        assert {path.suffix for path in cache.iterdir()} <= {".lock", ".log"}


def test_missing_compiler_is_a_failure_too(tmp_path, monkeypatch, echo_verilog):
    for name in ("no-such-compiler", "'g++"):
        monkeypatch.setenv("CXX", name)
        refused(
            echo_verilog, tmp_path, rf"no C\+\+ compiler .*{re.escape(name)}.*: install g\+\+, or"
        )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("kill -9 $$", r"was killed \(SIGKILL\), often because memory ran out"),
        (
            "echo 'g++: fatal error: Killed signal terminated program cc1plus'; exit 1",
            r"was killed \(SIGKILL\), often because memory ran out",
        ),
        ("echo 'out of memory allocating 65536 bytes'; exit 1", "ran out of memory"),
        ("echo 'x.s: No space left on device'; exit 1", "found no space left on the disk"),
        ("echo working; echo 'a.cpp:1: error: why'; exit 1", "a.cpp:1: error: why"),
    ],
)
def test_compiler_that_fails_says_why(tmp_path, monkeypatch, echo_verilog, text, reason):
    monkeypatch.setenv("CXX", str(script(tmp_path / "bin" / "cxx", text)))
    refused(echo_verilog, tmp_path / "cache", f"does not compile: .*{reason}.* \\(log: ")


def test_compiler_that_cannot_start_is_named(tmp_path, monkeypatch, echo_verilog):
    broken = script(tmp_path / "bin" / "cxx", "")
    broken.write_text("#!/nonexistent/shell\n")
    monkeypatch.setenv("CXX", str(broken))
    refused(echo_verilog, tmp_path / "cache", r"bin/cxx does not run \(No such file")


def test_compilers_as_people_name_them(tmp_path, monkeypatch):
    real = shutil.which("g++")
    wrapper = script(tmp_path / "my tools" / "cxx", 'exec "$@"')
    for text, words in [
        ("", [real]),
        ("  ", [real]),
        ("g++ -m64", [real, "-m64"]),
        (str(wrapper), [str(wrapper)]),
        (f"'{wrapper}' g++", [str(wrapper), "g++"]),
    ]:
        monkeypatch.setenv("CXX", text)
        assert compiler.compiler() == words
    monkeypatch.delenv("CXX")
    assert compiler.compiler() == [real]


def test_compiler_that_makes_nothing_is_named(tmp_path, monkeypatch, echo_verilog):
    nothing = script(tmp_path / "bin" / "cxx", "")
    monkeypatch.setenv("CXX", str(nothing))
    refused(
        echo_verilog,
        tmp_path / "cache",
        r"bin/cxx is no C\+\+ compiler: it makes no library \(log: ",
    )


def test_device_that_does_not_load_is_refused(tmp_path, monkeypatch, echo_verilog):
    nothing = script(
        tmp_path / "bin" / "cxx", 'while [ "$1" != -o ]; do shift; done; echo x > "$2"'
    )
    monkeypatch.setenv("CXX", str(nothing))
    with pytest.raises(SimulationError, match=r"does not load .*set XDG_CACHE_HOME .*or CXX"):
        cores.library(echo_verilog, cache=tmp_path / "cache", progress=lambda text: None)


def test_verilator_that_is_not_there(monkeypatch):
    monkeypatch.setenv("VERILATOR", "no-such-verilator")
    with pytest.raises(SimulationError, match="VERILATOR must be a program"):
        Verilator.find()


def native_verilator(path, root):
    """A Verilator that, as the real one, answers the root of its environment if there is one."""
    (root / "include").mkdir(parents=True)
    (root / "include" / "verilated.cpp").touch()
    text = (
        f'[ "$1" = --version ] && echo Verilator 5.040 && exit\necho "${{VERILATOR_ROOT:-{root}}}"'
    )
    return script(path, text)


def test_verilator_knows_its_own_root(tmp_path, monkeypatch):
    program = native_verilator(tmp_path / "my bin" / "verilator", tmp_path / "root")
    monkeypatch.setenv("VERILATOR_ROOT", "/usr/share/another")
    for text, options in ((str(program), ()), (f"'{program}' --threads 1", ("--threads", "1"))):
        monkeypatch.setenv("VERILATOR", text)
        found = Verilator.find()
        assert (found.program, found.options) == (program, options)
        assert found.root == tmp_path / "root"
        assert found.environment["VERILATOR_ROOT"] == str(tmp_path / "root")


def test_verilator_that_is_not_whole(tmp_path, monkeypatch):
    program = native_verilator(tmp_path / "verilator", tmp_path / "root")
    (tmp_path / "root" / "include" / "verilated.cpp").unlink()
    monkeypatch.setenv("VERILATOR", str(program))
    with pytest.raises(SimulationError, match=r"verilator has no sources in .*root"):
        Verilator.find()
    program.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(SimulationError, match="verilator --version fails: no message"):
        Verilator.find()


def test_empty_verilator_is_none(monkeypatch):
    monkeypatch.delenv("VERILATOR", raising=False)
    found = Verilator.find()
    monkeypatch.setenv("VERILATOR", " ")
    assert Verilator.find() == found


def test_verilator_that_is_too_old(tmp_path, monkeypatch):
    old = tmp_path / "verilator"
    old.write_text("#!/bin/sh\necho Verilator 5.006 2023-01-22\n")
    old.chmod(0o755)
    monkeypatch.setenv("VERILATOR", str(old))
    with pytest.raises(SimulationError, match=r"must be Verilator 5\.036 or newer, not .*5\.006"):
        Verilator.find()


def test_board_is_elaborated_once(cache, compiled, monkeypatch):
    made = []

    class Board:
        def core(self):
            made.append(self)
            return Echo()

    sources = ["one version"]
    monkeypatch.setattr("hw.boards.board", lambda name: Board())
    monkeypatch.setattr(cores, "_sources", lambda: sources[0])
    for _ in range(2):
        assert cores.board_library("echo", cache=cache, progress=no_progress) == compiled
    assert len(made) == 1
    sources[0] = "another version that makes the same core"
    assert cores.board_library("echo", cache=cache, progress=no_progress) == compiled
    assert len(made) == 2


def test_board_of_ones_own_is_elaborated_when_its_file_changes(
    cache, compiled, tmp_path, monkeypatch
):
    """What a file holds is what its library is found by, as are the sources of the project."""
    made = []
    path = tmp_path / "mine.py"
    text = "from dataclasses import replace\nfrom hw.boards.sim_tiny import BOARD\n"
    text += "BOARD = replace(BOARD, name='mine', clock_hz={})\n"
    monkeypatch.setattr(cores, "_sources", lambda: "one version")
    monkeypatch.setattr(boards.Board, "core", lambda self: made.append(self.clock_hz) or Echo())
    for clock_hz in (10_000_000, 10_000_000, 20_000_000, 20_000_000, 10_000_000):
        path.write_text(text.format(clock_hz))
        found = cores.board_library(str(path), cache=cache, progress=no_progress)
        assert found == compiled
    assert made == [10_000_000, 20_000_000]


def test_sources_are_read():
    assert "class Core" in cores._sources()


def test_unknown_board_is_refused(capsys):
    with pytest.raises(ValueError, match="board must be one of"):
        SimulatedPort("no_such_board")
    for main in (time_idle, serve.main):
        assert main(["no_such_board"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        known = ", ".join(boards.names())
        assert line == f"board must be one of {known}, or the path of a file, not 'no_such_board'"


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "x"])
def test_seconds_are_checked(capsys, seconds):
    with pytest.raises(SystemExit) as exit:
        time_idle(["sim_tiny", f"--seconds={seconds}"])
    assert exit.value.code == 2
    assert "--seconds" in capsys.readouterr().err


# Caches as users have them --------------------------------------------------------------------


def files(folder):
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


@pytest.fixture
def filled(cache, compiled, tmp_path, monkeypatch):
    """A cache with the echo as a board, in which nothing can be written or locked any more."""
    folder = shutil.copytree(cache, tmp_path / "filled")
    monkeypatch.setattr("hw.boards.board", lambda name: SimpleNamespace(core=Echo))
    monkeypatch.setattr(cores, "_sources", lambda: "sources")
    cores.board_library("echo", cache=folder, progress=no_progress)

    def read_only(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(libraries, "locked", read_only)
    monkeypatch.setattr(os, "utime", read_only)
    monkeypatch.setattr(Path, "write_text", read_only)
    monkeypatch.setattr(Path, "write_bytes", read_only)
    return folder


def test_read_only_cache_is_used(filled, monkeypatch, echo_verilog):
    before = files(filled)
    path = cores.board_library("echo", cache=filled, progress=no_progress)
    assert cores.library(echo_verilog, cache=filled, progress=no_progress) == path
    monkeypatch.setattr(cores, "_sources", lambda: "others that make the same core")
    assert cores.board_library("echo", cache=filled, progress=no_progress) == path
    assert files(filled) == before


def test_read_only_cache_without_the_device_is_named(filled, echo_verilog):
    for path in filled.glob("*.so"):
        path.unlink()
    with pytest.raises(SimulationError, match=r"filled: cannot be .* \(Read-only.*XDG_CACHE_HOME"):
        cores.library(echo_verilog, cache=filled, progress=no_progress)


def test_cache_that_cannot_be_made_is_named(tmp_path, echo_verilog):
    (tmp_path / "file").touch()
    refused(echo_verilog, tmp_path / "file" / "sim", r"file/sim: cannot be made .*XDG_CACHE_HOME")


def test_user_without_a_home_is_told(monkeypatch):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(ReportedError, match="set XDG_CACHE_HOME to a folder"):
        SimulatedPort("sim_tiny")


def test_compiled_device_needs_no_compiler(cache, compiled, echo_verilog, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert cores.library(echo_verilog, cache=cache, progress=no_progress) == compiled


def test_full_disk_is_named(tmp_path, monkeypatch, echo_verilog):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(verilator, "compile_library", full)
    refused(
        echo_verilog, tmp_path, r"cannot be written to \(No space left.*make room, or set XDG_C"
    )


def test_cache_without_locks_is_used(tmp_path, monkeypatch, echo_verilog):
    def none(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    path = cores.library(echo_verilog, cache=tmp_path, progress=lambda text: None)
    assert cores.library(echo_verilog, cache=tmp_path, progress=no_progress) == path


@pytest.fixture
def made(compiled, monkeypatch):
    """A list that grows with each library that would be compiled; the echo's stands in."""
    count = []

    def stand_in(source, verilator, title, build, log):
        count.append(source)
        return shutil.copy(compiled, build / "library.so")

    monkeypatch.setattr(verilator, "compile_library", stand_in)
    return count


@pytest.mark.parametrize("suffix", [".so", ".sha256"])
@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "flipped", "folder"])
def test_damage_is_mended(cache, compiled, tmp_path, echo_verilog, made, suffix, damage):
    folder = shutil.copytree(cache, tmp_path / "cache")
    path = folder / compiled.name
    damaged = path.with_suffix(suffix)
    whole = damaged.read_bytes()
    damaged.unlink()
    if damage == "folder":
        (damaged / "inner").mkdir(parents=True)
    elif damage != "missing":
        flipped = bytes([whole[0] ^ 1]) + whole[1:]
        damaged.write_bytes({"empty": b"", "garbage": b"\xff\0", "flipped": flipped}[damage])
    assert cores.library(echo_verilog, cache=folder, progress=lambda text: None) == path
    assert len(made) == 1 and damaged.read_bytes() == whole
    cores.library(echo_verilog, cache=folder, progress=no_progress)


def test_library_of_another_core_is_not_used(cache, compiled, tmp_path, echo_verilog, made):
    folder = shutil.copytree(cache, tmp_path / "cache")
    source = f"{echo_verilog}// another\n"
    digest = libraries.digest(source, *verilator.recipe(Verilator.find()))
    for suffix in (".so", ".sha256"):
        shutil.copy(compiled.with_suffix(suffix), folder / f"{digest}{suffix}")
    path = cores.library(source, cache=folder, progress=lambda text: None)
    assert path == folder / f"{digest}.so" and made == [source]


def test_note_of_another_board_is_not_followed(cache, compiled, tmp_path, monkeypatch):
    folder = shutil.copytree(cache, tmp_path / "cache")
    designs = {"one": Echo(), "two": Echo(step=7)}
    monkeypatch.setattr("hw.boards.board", lambda name: SimpleNamespace(core=lambda: designs[name]))
    monkeypatch.setattr(cores, "_sources", lambda: "sources")
    paths, notes = {}, {}
    for name in designs:
        before = set(folder.glob("*.board"))
        paths[name] = cores.board_library(name, cache=folder, progress=lambda text: None)
        (notes[name],) = set(folder.glob("*.board")) - before
    assert paths["one"] != paths["two"]
    whole = notes["one"].read_bytes()
    for damage in (notes["two"].read_bytes(), b"", b"\xff\0", paths["two"].name.encode(), b"a b"):
        notes["one"].write_bytes(damage)
        designs["one"] = Echo()
        assert cores.board_library("one", cache=folder, progress=no_progress) == paths["one"]
        assert notes["one"].read_bytes() == whole


def test_what_killed_runs_left_goes(cache, compiled, tmp_path, echo_verilog):
    folder = shutil.copytree(cache, tmp_path / "cache")
    dead, alive = "d" * 32, "a" * 32
    for digest in (compiled.stem, dead, alive):
        (folder / f"{digest}.abcd_123").mkdir()
        (folder / f"{digest}.abcd_123" / "core.o").touch()
        (folder / f"{digest}.log").touch()
    with locked(folder / f"{alive}.lock"):
        cores.library(echo_verilog, cache=folder, progress=no_progress)
    left = {path.name for path in [*folder.glob("*.log"), *folder.glob("*/")]}
    assert {name for name in left if (folder / name).is_dir()} == {f"{alive}.abcd_123"}
    assert {path.stem for path in folder.glob("*.log")} == {alive}


def test_another_machine_has_another_library(monkeypatch):
    found = Verilator.find()
    here = verilator.recipe(found)
    monkeypatch.setattr(compiler.platform, "machine", lambda: "riscv64")
    assert verilator.recipe(found) != here


def test_verilog_is_of_the_built_in_yosys(tmp_path, monkeypatch, echo_verilog):
    script(tmp_path / "yosys", '[ "$1" = -V ] && echo Yosys 0.60 && exit; echo ERROR >&2; exit 1')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for choice in (None, "system", "nonsense"):
        monkeypatch.delenv("AMARANTH_USE_YOSYS", raising=False)
        if choice:
            monkeypatch.setenv("AMARANTH_USE_YOSYS", choice)
        assert cores.core_verilog(Echo()) == echo_verilog
        assert os.environ.get("AMARANTH_USE_YOSYS") == choice


def test_yosys_that_fails_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    code = "from tests.test_sim_device import *; cores.core_verilog(Echo())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "file")},
        capture_output=True,
        text=True,
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("hw.verilog.VerilogError: yosys cannot make its cache")
    assert "set XDG_CACHE_HOME" in last


# The server -----------------------------------------------------------------------------------


def test_client_on_a_socket(port):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def once():
            client, _ = listener.accept()
            with client:
                readable = serve._readable(client.fileno())
                serve.serve(port, readable, lambda: client.recv(100), client.sendall)

        server = threading.Thread(target=once)
        server.start()
        address = f"socket://127.0.0.1:{listener.getsockname()[1]}"
        with serial.serial_for_url(address, timeout=10) as client:
            client.write(bytes(200))
            assert client.read(200) == bytes([1] * 200)
        server.join(timeout=10)
        assert not server.is_alive()


def test_second_client_is_turned_away(port):
    with serve.listen(0) as listener:

        def run():
            with contextlib.suppress(OSError):  # once the listener is shut
                serve.serve_socket(port, listener)

        server = threading.Thread(target=run)
        server.start()
        address = listener.getsockname()
        for _ in range(2):  # the next one is served as soon as the first has gone
            with socket.create_connection(address, timeout=10) as first:
                first.sendall(b"a")
                assert first.recv(1) == b"b"
                for _ in range(2):
                    with socket.create_connection(address, timeout=10) as second:
                        assert second.recv(1) == b""
                first.sendall(b"x")
                assert first.recv(1) == b"y"
        listener.shutdown(socket.SHUT_RDWR)
        server.join(10)


def test_port_that_cannot_be_had_is_named(capsys):
    with serve.listen(0) as taken:
        number = taken.getsockname()[1]
        for asked, reason in ((number, "Address already in use"), (70000, "it must be 0 to 65535")):
            assert serve.main(["sim_tiny", "--port", str(asked)]) == 1
            assert capsys.readouterr().err == f"port {asked} cannot be listened on ({reason})\n"


def test_client_on_a_terminal(port, monkeypatch):
    monkeypatch.setattr(serve, "REST_CYCLES", 0)
    master, slave, path = serve.open_terminal()
    stop, stopped = os.pipe()

    def wait(seconds):
        ready = serve.select.select([master, stop], [], [], seconds)[0]
        return bool(ready)

    def receive():
        ready = serve.select.select([master, stop], [], [])[0]
        return b"" if stop in ready else os.read(master, 100)

    server = threading.Thread(
        target=serve.serve, args=(port, wait, receive, lambda data: os.write(master, data))
    )
    server.start()
    with serial.Serial(path, timeout=10) as client:
        client.write(b"\x00\x0a\x0d\x11\x13\x7f\xff")
        assert client.read(7) == b"\x01\x0b\x0e\x12\x14\x80\x00"
    os.write(stopped, b"x")
    server.join(timeout=10)
    assert not server.is_alive()
    for descriptor in (master, slave, stop, stopped):
        os.close(descriptor)
