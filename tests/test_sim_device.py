"""The simulated device with a stand-in core: the port, the cache of libraries, and the server."""

import multiprocessing
import os
import socket
import threading

import pytest
import serial
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from sim import device, serve
from sim.device import SimulatedPort, SimulationError


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


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def compiled(cache):
    """Path of the echo's library in ``cache``."""
    return device.library(device.core_verilog(Echo()), cache=cache)


@pytest.fixture
def port(cache, compiled):
    with SimulatedPort(Echo(), timeout=0.1, cache=cache) as port:
        yield port


def no_progress(text):
    raise AssertionError(f"must not compile, but says {text!r}")


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
    assert (
        device.library(device.core_verilog(Echo()), cache=cache, progress=no_progress) == compiled
    )
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
    device._forget_old(tmp_path)
    kept = {str(age) for age in range(device.KEPT_LIBRARIES)}
    assert {path.stem for path in tmp_path.iterdir()} == kept


def test_failure_names_the_log_in_one_line(tmp_path):
    with pytest.raises(SimulationError) as caught:
        device.library("module core(;", cache=tmp_path, progress=lambda text: None)
    text = str(caught.value)
    (log,) = tmp_path.glob("*.log")
    assert "\n" not in text and str(log) in text
    assert "syntax error" in log.read_text()
    assert not list(tmp_path.glob("*.so"))


def test_missing_compiler_is_a_failure_too(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SimulationError, match="no C\\+\\+ compiler 'no-such-compiler': install g"):
        device.library(device.core_verilog(Echo()), cache=tmp_path, progress=lambda text: None)


def test_verilator_that_is_not_there(monkeypatch):
    monkeypatch.setenv("VERILATOR", "no-such-verilator")
    with pytest.raises(SimulationError, match="VERILATOR must be a program"):
        device.Verilator.find()


def test_verilator_that_is_too_old(tmp_path, monkeypatch):
    old = tmp_path / "verilator"
    old.write_text("#!/bin/sh\necho Verilator 5.006 2023-01-22\n")
    old.chmod(0o755)
    monkeypatch.setenv("VERILATOR", str(old))
    with pytest.raises(SimulationError, match=r"must be Verilator 5\.036 or newer, not .*5\.006"):
        device.Verilator.find()


def test_board_is_elaborated_once(cache, compiled, monkeypatch):
    made = []

    class Board:
        def core(self):
            made.append(self)
            return Echo()

    sources = ["one version"]
    monkeypatch.setattr("hw.boards.board", lambda name: Board())
    monkeypatch.setattr(device, "_sources", lambda: sources[0])
    for _ in range(2):
        assert device.board_library("echo", cache=cache, progress=no_progress) == compiled
    assert len(made) == 1
    sources[0] = "another version that makes the same core"
    assert device.board_library("echo", cache=cache, progress=no_progress) == compiled
    assert len(made) == 2


def test_sources_are_read():
    assert "class Core" in device._sources()


def test_unknown_board_is_refused():
    with pytest.raises(ValueError, match="board must be one of"):
        SimulatedPort("no_such_board")


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
