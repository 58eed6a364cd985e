"""The host's end of the link, against the device in Python on lines of all kinds."""

import gc
import itertools
import math
import random
import re
import socket
import struct
import threading
from dataclasses import replace

import numpy as np
import pytest
import serial

import host.device
import host.link
import host.runs
from host.compiler import Image
from host.device import LinkDevice
from host.errors import DeviceError, FitError, UsageError
from host.link import Link
from host.request import Request
from host.sampling import initial_noise, inverse_temperature, next_noise
from host.side_by_side import side_by_side
from host.urls import open_device
from hw.arch.frames import Frame
from hw.arch.protocol import (
    POLL_CYCLES,
    RESPONSE,
    VERSION,
    Command,
    MemorySpace,
    PollReply,
    Reason,
    RunFlag,
    Totals,
)
from tests.fake_device import (
    GEOMETRY,
    IDENTITY,
    SEVERAL,
    VOCABULARY,
    FakeDevice,
    FakePort,
    ToyModel,
    error_frame,
    terminal,
)
from weights.fixed import ONE

SECTIONS = {
    MemorySpace.PROGRAM: random.Random(1).randbytes(12 * 16),
    MemorySpace.TABLES: random.Random(2).randbytes(2 * 333),
    MemorySpace.WEIGHTS: random.Random(3).randbytes(96 * 16),
}
STATE_SHAPE = (3, 6)
"""With two elements of padding at the end of each layer."""


@pytest.fixture(autouse=True)
def image(monkeypatch):
    """Images whose content does not matter, of a model that does not either."""

    def compile_image(model, geometry):
        return Image(
            geometry=geometry,
            sections=SECTIONS,
            depths={},
            steps=tuple(f"step {i}" for i in range(12)),
            head_scale_register=14,
            trits_per_token=100,
            vocabulary=VOCABULARY,
            state_shape=STATE_SHAPE,
            token_cycles=1_000_000,
        )

    monkeypatch.setattr(host.device, "compile_image", compile_image)


def loaded(port: FakePort, **options) -> LinkDevice:
    device = LinkDevice(port, **({"patience": 0.002, "attempts": 150, "clock_hz": 1e10} | options))
    device.load(None)
    return device


def expected(prompt, tokens, temperature=0.0, seed=0, stop=None):
    model, noise, result = ToyModel(), initial_noise(seed), []
    for token in prompt:
        model.step(token)
    for _ in range(tokens):
        result.append(model.choose(noise if temperature else None))
        noise = next_noise(noise)
        model.step(result[-1])
        if result[-1] == stop:
            break
    return result


def test_load():
    port = FakePort(FakeDevice())
    device = LinkDevice(port)
    calls = []
    device.load(None, lambda done, total: calls.append((done, total)))
    for space, content in SECTIONS.items():
        memory = port.device.memory[space]
        assert struct.pack(f"<{len(memory)}H", *memory)[: len(content)] == content
    total = sum(map(len, SECTIONS.values()))
    assert calls[0] == (0, total) and calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    writes = port.device.writes
    device.load(None)  # all there already
    assert port.device.writes == writes
    port.device.memory[MemorySpace.TABLES][7] ^= 1
    port.frames.clear()
    device.load(None)  # only the block that was lost
    written = {frame.payload[0] for frame in port.frames if frame.command == Command.WRITE}
    assert written == {MemorySpace.TABLES} and writes < port.device.writes < 2 * writes


def test_weights_are_written_in_whole_rows():
    """A store needs to merge none of them."""
    link = Link(port := FakePort(FakeDevice()))
    link.write(MemorySpace.WEIGHTS, 0, SECTIONS[MemorySpace.WEIGHTS])
    sizes = [len(frame.payload) - 5 for frame in port.frames if frame.command == Command.WRITE]
    assert len(sizes) > 1 and not any(size % (GEOMETRY.lanes // 4) for size in sizes)


@pytest.mark.parametrize("prompt", [1, 5, 22, 23, 24, 60])
@pytest.mark.parametrize("tokens, pace", [(1, None), (7, 1), (70, 3), (70, None)])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_generate_of_any_length(prompt, tokens, pace, temperature):
    device = loaded(FakePort(FakeDevice(pace=pace)))
    ids = [(5 * i + 1) % VOCABULARY for i in range(prompt)]
    result = list(device.generate(ids, tokens, temperature=temperature, seed=5))
    assert result == expected(ids, tokens, temperature, 5)
    totals = device.totals()
    assert totals.tokens == prompt + tokens - 1
    assert totals.cycles == 100 * totals.tokens
    assert device.counters()[2] == ("step 2", 2 * totals.tokens)


def test_stop_token():
    device = loaded(FakePort(FakeDevice(pace=2)))
    free = expected([3], 60)
    stop = free[30]
    result = list(device.generate([3], 60, stop=stop))
    assert result == expected([3], 60, stop=stop) == free[: free.index(stop) + 1]


def test_logits():
    port = FakePort(FakeDevice())
    device = loaded(port)
    tokens = [4, 9, 30, 0]
    model = ToyModel()
    rows = list(device.logits(tokens))
    assert len(rows) == 4
    for token, row in zip(tokens, rows, strict=True):
        model.step(token)
        assert row.dtype == np.float64
        assert np.array_equal(row, np.array(model.sums()) * 0.25)
    assert [bool(run[3] & RunFlag.RESET) for run in port.device.runs] == [True, False, False, False]


@pytest.mark.parametrize("fault", ["drop", "repeat", "flip"])
def test_noisy_line(fault):
    """A byte in 400 is damaged: everything is repeated until it is right."""
    for seed in range(3):
        port = FakePort(FakeDevice(pace=2), seed=seed, **{fault: 1 / 400})
        device = loaded(port)
        assert list(device.generate([1, 2], 40, temperature=1.0)) == expected([1, 2], 40, 1.0)
        (row,) = device.logits([7])
        model = ToyModel()
        model.step(7)
        assert np.array_equal(row, np.array(model.sums()) * 0.25)
        assert port.deframer.dropped > 0


def test_silent_device():
    device = LinkDevice(FakePort(FakeDevice(), silent=True), name="x", patience=0.01, attempts=3)
    with pytest.raises(DeviceError, match=r"^x: no answer to IDENTIFY after 3 tries, check that"):
        device.identify()


def test_wrong_baud_rate():
    port = FakePort(FakeDevice(), flip=1.0)
    port.write = lambda data: port.output.extend(b"\x00\xf0")
    device = LinkDevice(port, name="x", patience=0.01, attempts=3)
    with pytest.raises(DeviceError, match="only 6 bytes of noise; check baud rate"):
        device.identify()


def test_device_that_falls_silent():
    port = FakePort(FakeDevice(pace=1))
    device = loaded(port, attempts=3)
    tokens = device.generate([1], 20)
    next(tokens)
    port.silent = True
    with pytest.raises(
        DeviceError, match="no answer to IDENTIFY after 3 tries, though it answered"
    ):
        list(tokens)
    port.silent = False
    device.reset()
    assert list(device.generate([1], 20)) == expected([1], 20)


def test_slow_device():
    """One that answers no poll in time, but lives, is waited for."""
    port = FakePort(FakeDevice())
    device = loaded(port, attempts=2)
    lost = []

    def intercept(frame):
        if frame.command == Command.POLL and len(lost) < 7:
            lost.append(frame)
            return Frame(command=0x80, sequence=0)
        return None

    port.intercept = intercept
    assert list(device.generate([1], 4)) == expected([1], 4)


def test_run_without_end():
    """A device that runs and never chooses a token is given up after a known number of polls."""
    port = FakePort(FakeDevice(pace=0))
    device = loaded(port)
    polls = []

    def intercept(frame):
        polls.append(frame.command == Command.POLL)
        return None

    port.intercept = intercept
    with pytest.raises(DeviceError, match=r"chose no token in [\d,]+ cycles, more than"):
        list(device.generate([1, 2, 3], 4))
    most = 2 * 3 * device.image.token_cycles + 2 * POLL_CYCLES
    assert sum(polls) == math.ceil(most / POLL_CYCLES) <= 10
    assert not port.device.running
    port.device.pace = None
    assert list(device.generate([1], 4)) == expected([1], 4)


def test_run_whose_polls_are_never_answered(monkeypatch):
    monkeypatch.setattr(host.runs, "STALLED_SECONDS", 0.05)
    monkeypatch.setattr(host.runs, "SLOWEST_HZ", 1e9)
    port = FakePort(FakeDevice(pace=0))
    device = loaded(port)
    port.intercept = lambda frame: (
        Frame(command=0x80, sequence=0) if frame.command == Command.POLL else None
    )
    with pytest.raises(DeviceError, match="chose no token"):
        list(device.generate([1], 4))


@pytest.mark.parametrize(
    "reply",
    [
        None,  # no reply at all
        {"running": True, "produced": 24, "tokens": (5,) * 20},  # more than were asked for
        {"running": True, "produced": 3, "tokens": (5, 5)},
        {"running": True, "produced": 3, "tokens": (VOCABULARY,)},
        {"running": False, "produced": 12, "tokens": ()},
    ],
)
def test_polls_that_make_no_sense(reply):
    """The run is given up, and the device is free for the next one."""
    port = FakePort(device := FakeDevice(pace=1))
    link = loaded(port)

    def intercept(frame):
        if frame.command != Command.POLL:
            return None
        run_id = device.contexts[0].run_id
        payload = b"?" if reply is None else PollReply(run_id=run_id, **reply).to_bytes()
        return Frame(command=RESPONSE | Command.POLL, sequence=frame.sequence, payload=payload)

    port.intercept = intercept
    with pytest.raises(DeviceError, match="its answer to POLL makes no sense"):
        list(itertools.islice(link.generate([1, 2], 10), 100))
    assert not device.running
    port.intercept = None
    assert list(link.generate([1, 2], 10)) == expected([1, 2], 10)


@pytest.mark.parametrize("after", [None, 0, 5, 23, 24, 45])
def test_board_that_loses_its_power(after):
    """Its tokens are right or there is an error, wherever in an answer that happens."""
    port = FakePort(FakeDevice(pace=1))
    device = loaded(port)
    if after is None:
        port.device.lose_power()
    tokens, got = device.generate([1], 60), []
    with pytest.raises(DeviceError, match=r"no longer holds the (model|run)"):
        for token in tokens:
            got.append(token)
            if len(got) == (after or 1):
                port.device.lose_power()
    assert got == expected([1], 60)[: len(got)] and len(got) <= (after or 1)
    with pytest.raises((DeviceError, UsageError), match=r"load (the model again|one first)"):
        list(device.generate([1], 3))
    device.load(None)
    assert list(device.generate([1], 3)) == expected([1], 3)


def test_power_lost_before_logits_are_read():
    port = FakePort(FakeDevice())
    device = loaded(port)
    rows = device.logits([4, 9])
    next(rows)

    def intercept(frame):
        if frame.command == Command.READ and frame.payload[0] == MemorySpace.SUMS:
            port.intercept = None
            port.device.lose_power()
        return None

    port.intercept = intercept
    with pytest.raises(DeviceError, match="no longer holds the run"):
        next(rows)


def test_another_program_takes_the_device_over():
    port = FakePort(FakeDevice(pace=1))
    device = loaded(port)
    tokens = device.generate([1], 60)
    first = [next(tokens) for _ in range(23)]  # the first run is at its end
    other = loaded(FakePort(port.device))
    assert list(other.generate([2], 3)) == expected([2], 3)
    with pytest.raises(DeviceError, match="used by another program; load the model again"):
        list(tokens)
    assert first == expected([1], 23)
    assert list(other.generate([2], 3)) == expected([2], 3)


def test_reset_does_not_hide_that_the_model_is_lost():
    port = FakePort(FakeDevice())
    device = loaded(port)
    port.device.lose_power()
    device.reset()
    with pytest.raises(DeviceError, match="no longer holds the model"):
        list(device.generate([1], 3))


@pytest.mark.parametrize("first", [1, 22, 23, 30])
@pytest.mark.parametrize("between", ["generate", "logits", "load", "reset"])
def test_one_answer_at_a_time(first, between):
    """What is started in an answer ends it: the old iterator says so, the new one is right."""
    device = loaded(FakePort(FakeDevice(pace=1)))
    tokens = device.generate([1], 60)
    got = [next(tokens) for _ in range(first)]
    match between:
        case "generate":
            assert list(device.generate([2], 5)) == expected([2], 5)
        case "logits":
            assert len(list(device.logits([2, 3]))) == 2
        case "load":
            device.load(None)
        case "reset":
            device.reset()
    with pytest.raises(DeviceError, match="something else was started"):
        got += tokens
    assert got == expected([1], first)
    assert list(device.generate([3], 30)) == expected([3], 30)


def test_two_answers_in_turn():
    """The second ends the first, which does not end the second by being closed."""
    port = FakePort(FakeDevice(pace=1))
    device = loaded(port)
    one, two = device.generate([1], 20), device.generate([2], 20)
    assert next(one) == expected([1], 1)[0]
    assert next(two) == expected([2], 1)[0]
    with pytest.raises(DeviceError, match="something else was started"):
        next(one)
    stops = port.device.stops
    one.close()
    assert port.device.stops == stops == 1  # for the second's sake
    assert list(two) == expected([2], 20)[1:]
    pairs = zip(device.logits([1, 2]), device.logits([3, 4]), strict=True)
    next(pairs)
    with pytest.raises(DeviceError, match="something else was started"):
        next(pairs)


def test_answer_that_begins_after_another_load():
    device = loaded(FakePort(FakeDevice()))
    tokens = device.generate([1], 3)
    device.load(None)
    with pytest.raises(DeviceError, match="another model was loaded"):
        next(tokens)


def test_several_stop_tokens():
    """The device knows the first; the host ends the answer at any other."""
    port = FakePort(FakeDevice(pace=3))
    device = loaded(port)
    free = expected([3], 60)
    absent = next(token for token in range(VOCABULARY) if token not in free)
    stop = free[30]
    until = free[: free.index(stop) + 1]
    assert list(device.generate([3], 60, stop=(absent, stop))) == until
    assert not port.device.running
    assert device.totals().tokens > 0
    assert list(device.generate([3], 60, stop=(stop, absent))) == until
    assert list(device.generate([3], 60, stop=[])) == free


def test_other_version():
    port = FakePort(FakeDevice(replace(IDENTITY, version=VERSION + 1)))
    with pytest.raises(
        DeviceError, match=f"speaks version {VERSION + 1} of the protocol, not {VERSION}; use"
    ):
        LinkDevice(port).identify()


def test_another_kind_of_device():
    port = FakePort(FakeDevice())
    port.intercept = lambda frame: Frame(
        command=frame.command | RESPONSE, sequence=frame.sequence, payload=b"OK"
    )
    with pytest.raises(DeviceError, match="not a Tritstream device"):
        LinkDevice(port).identify()


def test_busy_device():
    port = FakePort(FakeDevice())
    device = LinkDevice(port, patience=0.05, attempts=8, clock_hz=1e9)
    device.identify()
    times = []

    def intercept(frame):
        times.append(frame)
        if len(times) < 5:
            return error_frame(frame.sequence, frame.command, Reason.BUSY)
        return None

    port.intercept = intercept
    device.load(None)
    assert len(times) > 5
    port.intercept = lambda f: error_frame(f.sequence, f.command, Reason.BUSY)
    with pytest.raises(DeviceError, match="still busy"):
        device.reset()


def test_refusal():
    port = FakePort(FakeDevice())
    port.intercept = lambda f: error_frame(f.sequence, f.command, Reason.BAD_COMMAND)
    with pytest.raises(DeviceError, match=r"refuses IDENTIFY \(bad command\)"):
        LinkDevice(port).identify()


def test_memory_that_forgets():
    port = FakePort(FakeDevice())
    memory = port.device.memory[MemorySpace.WEIGHTS]

    def intercept(frame):
        memory[300] = 0
        return None

    port.intercept = intercept
    with pytest.raises(DeviceError, match="weights do not keep what is written to half-words 0"):
        loaded(port)


def test_too_large_a_model(monkeypatch):
    monkeypatch.setitem(SECTIONS, MemorySpace.TABLES, bytes(1000))
    with pytest.raises(FitError, match="tables need 500 half-words, it has 400; use a smaller"):
        loaded(FakePort(FakeDevice()))


def test_stopped_in_the_middle():
    port = FakePort(FakeDevice(pace=1))
    device = loaded(port)
    tokens = device.generate([1], 1000)
    first = [next(tokens) for _ in range(50)]
    tokens.close()
    assert port.device.stops == 1 and not port.device.running
    assert first == expected([1], 50)

    def interrupt(frame):
        if frame.command == Command.POLL:
            port.intercept = None
            raise KeyboardInterrupt
        return None

    tokens = device.generate([2], 10)
    next(tokens)
    port.intercept = interrupt
    with pytest.raises(KeyboardInterrupt):
        next(tokens)
    assert port.device.stops == 2 and not port.device.running
    assert list(device.generate([1], 30)) == expected([1], 30)


def test_run_that_does_not_stop_is_reset():
    port = FakePort(FakeDevice(pace=0))
    device = loaded(port, attempts=3)
    tokens = device.generate([1], 10)
    port.device._execute = lambda command, payload, was=port.device._execute: (
        (None, b"") if command == Command.STOP else was(command, payload)
    )

    def interrupt(frame):
        if frame.command == Command.POLL:
            port.intercept = None
            raise KeyboardInterrupt
        return None

    port.intercept = interrupt
    with pytest.raises(KeyboardInterrupt):
        next(tokens)
    assert port.frames[-1].command == Command.RESET and not port.device.running


def test_arguments():
    device = LinkDevice(FakePort(FakeDevice()))
    with pytest.raises(UsageError, match="no model is loaded"):
        device.generate([1], 1)
    device.load(None)
    for arguments, message in (
        (([], 1), "prompt must hold at least one token"),
        (([VOCABULARY], 1), "prompt: tokens must be from 0 to 30, not 31"),
        (([-1], 1), "tokens must be from 0 to 30, not -1"),
        (([1], 0), "tokens must be a positive integer, not 0"),
        (([1], 1, 0.009), "temperature must be 0 .greedy. or from 0.01 to 100, not 0.009"),
        (([1], 1, float("nan")), "temperature must be"),
        (([1], 1, float("inf")), "temperature must be"),
        (([1], 1, -1.0), "temperature must be"),
        (([1], 1, 1.0, -1), "seed must be an integer from 0 to 4294967295, not -1"),
        (([1], 1, 1.0, 1 << 32), "seed must be"),
        (([1], 1, 1.0, 0, 99), "stop: tokens must be from 0 to 30, not 99"),
    ):
        with pytest.raises(UsageError, match=message):
            device.generate(*arguments)


def test_seeds_and_temperatures():
    states = [initial_noise(seed) for seed in (0, 1, 2, 0xFFFFFFFF)]
    assert len(set(states)) == 4 and 0 not in states
    assert initial_noise(1) == 0x514E28B7  # MurmurHash3's fmix32(1)
    for state in states:
        assert next_noise(state) not in (0, state)
    assert inverse_temperature(0) == inverse_temperature(1) == ONE
    assert float(inverse_temperature(0.01)) == pytest.approx(100, rel=1e-4)


# Lines of the operating system ------------------------------------------------------------------


def test_serial_port():
    fake = FakeDevice(pace=4)
    with terminal(fake) as path:
        device = open_device(f"{path}?baud=115200")
        try:
            device.load(None)
            assert list(device.generate([3, 1], 50)) == expected([3, 1], 50)
            with pytest.raises(DeviceError, match=f"{path}: another program uses this port"):
                open_device(path)
            assert list(device.generate([3, 1], 5)) == expected([3, 1], 5)
        finally:
            device.close()
        again = open_device(path)
        assert again.identify() == IDENTITY
        again.close()


def test_short_answers_come_at_once(monkeypatch):
    """Where the port can be told that."""
    told = []
    monkeypatch.setattr(
        serial.Serial, "set_low_latency_mode", lambda port, mode: told.append(mode), raising=False
    )
    with terminal(FakeDevice()) as path:
        open_device(path).close()
    assert told == [True]


@pytest.mark.parametrize(
    "url, kind, message",
    [
        ("/dev/nonsense", DeviceError, "there is no such serial port"),
        ("/dev/null", DeviceError, "cannot open this serial port"),
        ("", UsageError, "must be a path"),
        ("/dev/ttyUSB0?baud=fast", UsageError, "must be a path, as in"),
        ("/dev/ttyUSB0?speed=9600", UsageError, "must be a path, as in"),
        ("sim://ulx3s", DeviceError, "^sim://ulx3s: board must be one of "),
        ("http://example", UsageError, "must be sim://BOARD, native://, golden://"),
        ("sim://", UsageError, "needs the name of a board"),
        ("golden://ulx3s_85f", UsageError, "leave out 'ulx3s_85f'"),
        ("native://sim_tiny", UsageError, "must be native:// or native://.threads=N"),
        ("native://?threads=0", UsageError, "with N of 1 to 256"),
        ("native://?threads=257", UsageError, "with N of 1 to 256"),
        ("native://?threads=", UsageError, "with N of 1 to 256"),
        ("native://?cores=2", UsageError, "must be native:// or native://.threads=N"),
        ("socket://127.0.0.1:1", DeviceError, "cannot connect"),
        ("socket://nonsense", UsageError, "must be socket://HOST:PORT with a port of 1 to 65535"),
        ("socket://127.0.0.1", UsageError, "must be socket://HOST:PORT"),
        ("socket://127.0.0.1:0", UsageError, "must be socket://HOST:PORT"),
        ("socket://127.0.0.1:99999", UsageError, "must be socket://HOST:PORT"),
        ("socket://:2000", UsageError, "must be socket://HOST:PORT"),
        ("socket://[::1", UsageError, "must be socket://HOST:PORT"),
    ],
)
def test_urls(url, kind, message):
    with pytest.raises(kind, match=message):
        open_device(url)


def test_lost_connection():
    port = FakePort(FakeDevice())
    device = loaded(port)

    def broken(size):
        raise OSError("device reports readiness to read but returned no data")

    port.read = broken
    with pytest.raises(DeviceError, match=r"connection lost .* connect it again"):
        device.reset()
    device.close()
    assert port.closed
    assert device.totals() == Totals()


class Unplugged(FakePort):
    """A port whose ``in_waiting`` asks a system that has no such port any more."""

    @property
    def in_waiting(self):
        raise OSError(5, "Input/output error")


def test_unplugged():
    device = LinkDevice(Unplugged(FakeDevice()), name="/dev/ttyX")
    with pytest.raises(DeviceError, match=r"^/dev/ttyX: connection lost .*; connect it again"):
        device.identify()


# pyserial leaves the socket of a connection that has ended to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("greeting", "message"),
    [(b"", "another program may be using it"), (b"HTTP/1.1 400\r\n\r\n", "no Tritstream device")],
)
def test_server_that_closes_the_connection(greeting, message):
    """It serves somebody else, or is of another kind."""

    def serve():
        client, _ = listener.accept()
        with client:
            client.recv(10)
            client.sendall(greeting)
            client.shutdown(socket.SHUT_WR)
            while client.recv(100):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(DeviceError, match=f"connection lost .*{message}"):
            open_device(f"socket://127.0.0.1:{listener.getsockname()[1]}")
        thread.join(timeout=5)
    gc.collect()  # while the filter holds


def test_line_that_garbles_long_frames():
    """It is not the power's fault: the device has answered."""
    port = FakePort(FakeDevice())
    device = LinkDevice(port, name="x", patience=0.01, attempts=3)
    device.identify()
    write = port.write
    port.write = lambda data: write(data if len(data) < 200 else data[:100] + data[101:])
    with pytest.raises(DeviceError, match=r"no answer to WRITE .*it answered before; check the c"):
        device.load(None)


def test_lost_connection_while_running():
    port = FakePort(FakeDevice(pace=1))
    device = loaded(port)
    tokens = device.generate([1], 9)
    next(tokens)

    def broken(size):
        raise OSError("gone")

    port.read = broken
    with pytest.raises(DeviceError, match="connection lost"):
        next(tokens)
    device.close()
    assert port.closed
    assert device.totals() == Totals()


def test_an_answer_goes_on_from_the_last_one():
    port = FakePort(FakeDevice(pace=3))
    device = loaded(port)
    expected_tokens = expected([2, 3, 4], 9, 1.0, 7)
    whole = Request.of([2, 3, 4], 9, 1.0, 7, None, vocabulary=VOCABULARY)
    left, chosen = whole, []
    while left:
        part = left.part(2)
        chosen += (got := list(device.answer(part)))
        left = left.after(part, got)
    assert chosen == expected_tokens
    resets = [bool(run[3] & RunFlag.RESET) for run in port.device.runs]
    assert resets == [True, *[False] * (len(resets) - 1)] and len(resets) == 6
    device.reset()
    with pytest.raises(UsageError, match="it has no state to go on from"):
        list(device.answer(Request.reading([1], resume=True)))


def test_a_device_is_looked_after_while_nothing_runs():
    port = FakePort(FakeDevice())
    device = loaded(port, attempts=2)
    device.check()
    list(device.generate([1], 3))
    device.check()
    device.reset()
    device.check()
    list(device.generate([1], 3))
    port.device = FakeDevice()  # it lost its power
    with pytest.raises(DeviceError, match="it no longer holds the run"):
        device.check()
    with pytest.raises(UsageError, match="no model is loaded"):
        device.check()
    device.load(None)
    device.check()
    port.silent = True
    with pytest.raises(DeviceError, match="no answer"):
        device.check()


def request(prompt, tokens, stop=None, resume=False) -> Request:
    made = Request.of(prompt, tokens, 0.0, 0, stop, vocabulary=VOCABULARY)
    return replace(made, resume=resume)


def test_a_state_is_kept_and_given_back():
    """Exchanges, too: a known state is not read again, one that is written is proven by a sum."""
    port = FakePort(FakeDevice(pace=3))
    device = loaded(port)
    whole = expected([2, 3, 4], 50)
    first = list(device.answer(request([2, 3, 4], 30)))
    port.frames.clear()
    kept = device.state()
    assert kept.dtype == np.int32 and kept.shape == STATE_SHAPE
    assert [frame.command for frame in port.frames] == [Command.READ, Command.POLL]
    assert (device.state() == kept).all() and len(port.frames) == 2
    list(device.generate([9], 70))
    device.reset()  # forgets which state is there
    port.frames.clear()
    device.restore(kept)
    assert [frame.command for frame in port.frames] == [Command.WRITE, Command.CHECKSUM]
    assert (device.state() == kept).all() and len(port.frames) == 2
    rest = list(device.answer(request([first[-1]], 20, resume=True)))
    assert first + rest == whole
    kept[:] = 0  # a copy
    assert device.state()[0, 0] != 0


def test_every_element_of_a_state_has_its_place():
    device = loaded(port := FakePort(FakeDevice()))
    state = np.arange(18, dtype=np.int32).reshape(STATE_SHAPE) - (1 << 23)
    device.restore(state)
    memory = port.device.memory[MemorySpace.STATES]
    halves = struct.pack(f"<{len(memory)}H", *memory)
    layers = np.frombuffer(halves, "<i4")[:24].reshape(3, 8)
    assert (layers[:, :6] == state).all() and not layers[:, 6:].any()
    list(device.answer(request([5], 1, resume=True)))
    expected_state = state.copy()
    model = ToyModel()
    model.state = int(state[0, 0]) & 0xFFFF
    model.step(5)
    expected_state[0, 0] = model.state
    assert (device.state() == expected_state).all()


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("read", [False, True])
def test_a_state_is_that_of_the_tokens_even_if_the_device_went_on(resume, read):
    """It does after a stop token that it does not know, and is brought back when that matters."""
    device = loaded(port := FakePort(FakeDevice(pace=7)))
    free = expected([3], 60)
    start = []
    if resume:
        start = list(device.answer(request([3], 2)))
        device.restore(device.state())
        start += list(device.answer(request(start[-1:], 2, resume=True)))
    prompt = start[-1:] or [3]
    at = next(i for i in range(30, 60) if free[i] not in free[len(start) : i])
    absent = next(token for token in range(VOCABULARY) if token not in free)
    stops = request(prompt, 60, stop=(absent, free[at]), resume=resume)
    assert start + list(device.answer(stops)) == free[: at + 1]
    model = ToyModel()
    for token in [3, *free[:at]]:
        model.step(token)
    assert port.device.memory[MemorySpace.STATES][0] != model.state
    totals = device.totals()
    if read:
        assert device.state()[0, 0] == model.state
    assert device.totals() == totals
    assert list(device.answer(request([free[at]], 5, resume=True))) == free[at + 1 : at + 6]


@pytest.mark.parametrize("fault", ["drop", "repeat", "flip"])
def test_states_over_a_noisy_line(fault):
    whole = expected([1, 2], 16)
    for seed in range(3):
        device = loaded(FakePort(FakeDevice(pace=2), seed=seed, **{fault: 1 / 400}))
        got = list(device.answer(request([1, 2], 8)))
        kept = device.state()
        list(device.generate([5], 3))
        device.restore(kept)
        assert got + list(device.answer(request(got[-1:], 8, resume=True))) == whole


def test_a_device_that_keeps_its_state_to_itself():
    """It goes on from where it is, as any, and does not tell."""
    old = FakeDevice(replace(IDENTITY, features=0), pace=3)
    device = loaded(port := FakePort(old))
    whole = expected([7], 9)
    absent = next(token for token in range(VOCABULARY) if token not in whole)
    first = list(device.answer(request([7], 20, stop=(absent, whole[3]))))
    rest = list(device.answer(request(first[-1:], 9 - len(first), resume=True)))
    assert first + rest == whole
    message = "device: its bitstream keeps the state of a sequence to itself; build it with STATES"
    with pytest.raises(DeviceError, match=message):
        device.state()
    with pytest.raises(DeviceError, match=message):
        device.restore(np.zeros(STATE_SHAPE, np.int32))
    with pytest.raises(DeviceError, match="device: its bitstream keeps its results to itself"):
        next(device.logits([1, 2]))
    assert device.totals() == Totals() and {cycles for _, cycles in device.counters()} == {0}
    assert old.memory[MemorySpace.STATES][0] and MemorySpace.TOKENS in old.spaces
    read = {frame.payload[0] for frame in port.frames if frame.command == Command.READ}
    assert read <= set(old.spaces)


def test_states_that_are_lost():
    device = loaded(port := FakePort(FakeDevice()))
    list(device.answer(request([7], 3)))
    port.device.lose_power()
    with pytest.raises(DeviceError, match="it no longer holds the run"):
        device.state()
    device.load(None)
    device.restore(np.ones(STATE_SHAPE, np.int32))
    port.device.lose_power()
    with pytest.raises(DeviceError, match="it no longer holds the model"):
        list(device.answer(request([7], 3, resume=True)))
    device.load(None)
    with pytest.raises(UsageError, match="it has no state to go on from"):
        list(device.answer(request([7], 3, resume=True)))


def test_a_memory_that_does_not_keep_a_state():
    device = loaded(port := FakePort(FakeDevice()))
    list(device.answer(request([7], 3)))

    def intercept(frame):
        if frame.command == Command.CHECKSUM:
            port.device.memory[MemorySpace.STATES][9] ^= 1
        return None

    port.intercept = intercept
    message = "states do not keep what is written to half-words 0 to 47; reset the board"
    with pytest.raises(DeviceError, match=message):
        device.restore(np.ones(STATE_SHAPE, np.int32))
    with pytest.raises(UsageError, match="it has no state to go on from"):
        device.state()


LARGE = replace(IDENTITY, geometry=replace(GEOMETRY, weight_rows=1 << 14))


class CountingPort(FakePort):
    """Counts what the host sends, and loses frames of it by their number."""

    def __init__(self, device, lost=()):
        super().__init__(device)
        self.sent, self.number, self.lost = 0, 0, lost

    def write(self, data):
        self.sent += len(data)
        self.number += 1
        super().write(data[:-9] if self.number in self.lost else data)


@pytest.fixture
def large(monkeypatch) -> int:
    """A model of eight blocks and some more; its bytes."""
    monkeypatch.setitem(SECTIONS, MemorySpace.WEIGHTS, random.Random(3).randbytes(1 << 18))
    return sum(map(len, SECTIONS.values()))


def test_loading_goes_on_where_the_line_broke(large):
    """What is there already is not sent again, but for the block that was under way."""
    device = FakeDevice(LARGE)
    cable = CountingPort(device)
    first = LinkDevice(cable, patience=0.002, attempts=2, clock_hz=1e10)

    def progress(done, total):
        cable.silent = done > 0.6 * total

    with pytest.raises(DeviceError, match="no answer to WRITE"):
        first.load(None, progress)
    again = loaded(port := CountingPort(device))  # by another program
    block = 2 * host.link.VERIFY_HALFWORDS
    assert 0.4 * large < port.sent < 1.05 * (0.4 * large + block)
    assert list(again.generate([1], 20)) == expected([1], 20)
    port.sent = 0
    again.load(None)  # all there: two checksums a memory
    assert port.sent < 200


def test_a_line_that_breaks_in_the_memory_test_costs_no_more(large):
    """What the test has written over is put right by that of the next load, without its blocks."""
    loaded(CountingPort(device := FakeDevice(LARGE)))
    weights = list(device.memory[MemorySpace.WEIGHTS])
    broken = 0
    for frames in range(3, 90, 7):
        device.memory[MemorySpace.WEIGHTS][-1] ^= 1
        cable = CountingPort(device, lost=range(frames, 1000))
        try:
            loaded(cable, attempts=2)
        except DeviceError:
            broken += device.memory[MemorySpace.WEIGHTS] != weights
            loaded(port := CountingPort(device))
            assert port.sent < 1.2 * 2 * host.link.VERIFY_HALFWORDS
        assert device.memory[MemorySpace.WEIGHTS] == weights
    assert broken > 5


def test_frames_that_are_lost_in_a_load_are_sent_again(large):
    loaded(clean := CountingPort(FakeDevice(LARGE)))
    port = CountingPort(FakeDevice(LARGE), lost=(100, 101, 200))
    device = loaded(port)
    assert (port.number, port.deframer.dropped > 0) == (clean.number + 3, True)
    assert 2000 < port.sent - clean.sent < 3 * 1100
    assert list(device.generate([1], 20)) == expected([1], 20)


def test_a_memory_of_which_two_parts_are_one(large):
    """It keeps each block as it comes; only the last of them are there in the end."""
    device = FakeDevice(LARGE)

    def intercept(frame):
        if frame.command == Command.WRITE and frame.payload[0] == MemorySpace.WEIGHTS:
            at = int.from_bytes(frame.payload[1:5], "little")
            if at > 1 << 16 and len(frame.payload) > 500:
                device.put(MemorySpace.TABLES, 9, 0xDEAD)
        return None

    port = FakePort(device)
    port.intercept = intercept
    with pytest.raises(DeviceError, match="tables do not keep what was loaded: half-word 9 holds"):
        loaded(port)


def test_a_flipped_bit_is_named():
    port = FakePort(FakeDevice())
    device = loaded(port)
    calls = []
    device.verify(lambda done, total: calls.append((done, total)))
    total = sum(map(len, SECTIONS.values()))
    assert calls[0] == (0, total) and calls[-1] == (total, total)
    list(device.generate([1], 3))
    weights = port.device.memory[MemorySpace.WEIGHTS]
    was = weights[5]
    weights[5] ^= 0x0210
    weights[6] ^= 0x8000
    message = (
        f"weights do not keep what was loaded: half-word 5 holds 0x{was ^ 0x210:04x} instead of "
        f"0x{was:04x} (bit 4, 9), 2 differ; load again"
    )
    with pytest.raises(DeviceError, match=re.escape(message)):
        device.verify()
    with pytest.raises(UsageError, match="no model is loaded"):
        device.generate([1], 1)
    device.load(None)
    device.verify()
    assert list(device.generate([1], 20)) == expected([1], 20)


# Several contexts -------------------------------------------------------------------------------


def several(pace: int | None = 1, **options) -> tuple[LinkDevice, FakePort]:
    port = FakePort(FakeDevice(SEVERAL, pace=pace))
    return loaded(port, **options), port


def wanted(prompt, tokens, temperature=0.0, seed=0, stop=None) -> Request:
    return Request.of(prompt, tokens, temperature, seed, stop, vocabulary=VOCABULARY)


def collected(answers) -> dict[int, list[int]]:
    """Tokens by number; each answer is told to have come to its end, and nothing follows that."""
    tokens: dict[int, list[int]] = {}
    ended = set()
    for number, token in answers:
        assert number not in ended
        if token is None:
            ended.add(number)
        else:
            tokens.setdefault(number, []).append(token)
    assert ended == set(tokens)
    return tokens


@pytest.mark.parametrize("pace", [1, 2, None])
def test_requests_side_by_side(pace):
    """Each is answered as it is alone, whatever the others are, and whenever they come and go."""
    device, port = several(pace)
    rng = random.Random(pace)
    cases = [
        (
            [rng.randrange(VOCABULARY) for _ in range(rng.randrange(1, 40))],
            rng.randrange(1, 50),
            rng.choice((0.0, 0.8)),
            seed,
        )
        for seed in range(11)
    ]
    tokens = collected(side_by_side(device, [wanted(*case) for case in cases]))
    assert [tokens[number] for number in range(11)] == [expected(*case) for case in cases]
    assert {run[0] for run in port.device.runs} == {0, 1, 2, 3}
    assert device.totals().tokens == sum(len(ids) + count - 1 for ids, count, _, _ in cases)
    device.check()
    assert list(device.generate([1, 2], 20)) == expected([1, 2], 20)
    assert device.totals().tokens == 21


def test_totals_of_answers_side_by_side():
    """Also where the device ends one run before it gets the next."""
    for pace in (1, None):
        device, _ = several(pace)
        requests = [wanted([1, 2, 3], 10), wanted([4], 12), wanted([5] * 9, 6)]
        assert len(collected(side_by_side(device, requests))) == 3
        totals = device.totals()
        assert totals.tokens == 12 + 12 + 14
        assert totals.cycles == 100 * totals.tokens


def test_answers_come_while_another_context_reads():
    """A long prompt keeps nobody from its tokens."""
    device, port = several()
    port.device.advance = lambda number, tokens, was=port.device.advance: (
        None if number == 1 else was(number, tokens)
    )
    answers = [
        slot.answer(wanted([5] * (9 if at == 1 else 1), 5)) for at, slot in enumerate(device.slots)
    ]
    took = [[next(answer) for _ in range(4)] for answer in answers[:1]]
    assert [next(answers[1]) for _ in range(9)] == [None] * 9
    took += [[next(answer) for _ in range(4)] for answer in answers[2:]]
    assert took == 3 * [expected([5], 5)[:4]]
    del port.device.advance
    assert [token for token in answers[1] if token is not None] == expected([5] * 9, 5)
    assert [list(answer) for answer in answers[2:]] == 2 * [expected([5], 5)[4:]]


def test_one_answer_of_several_is_ended():
    """The others know nothing of it, and one stopped late goes back where it was to be."""
    device, port = several()
    first, second, third, _ = device.slots
    running = first.answer(wanted([7], 60))
    got = [next(running) for _ in range(3)]
    left = second.answer(wanted([8], 60))
    next(left)
    left.close()
    free = expected([3], 60)
    absent = next(token for token in range(VOCABULARY) if token not in free)
    stops = third.answer(wanted([3], 60, stop=(absent, free[20])))
    until = free[: free.index(free[20]) + 1]
    assert [token for token in stops if token is not None] == until
    again = third.answer(wanted([1], 1))
    got += [next(running) for _ in range(3)]
    assert list(again) == expected([1], 1)
    assert got + list(running) == expected([7], 60)
    assert not port.device.running


def test_states_of_contexts():
    """What one leaves, any of them goes on from; they are moved while nothing runs."""
    device, _ = several()
    first, _, third, last = device.slots
    assert collected(side_by_side(device, [wanted([n], 9) for n in range(4)])).keys() == {*range(4)}
    whole = expected([2, *expected([2], 8), 4], 12)  # what follows the third context's tokens
    kept = third.state()
    for slot in (last, first):
        slot.restore(kept)
        assert (slot.state() == kept).all()
    rest = replace(wanted([4], 12), resume=True)
    answers = [slot.answer(rest) for slot in (last, first)]
    assert [next(answer) for answer in answers] == whole[:1] * 2
    second = device.slots[1]
    for move in (second.state, lambda: second.restore(kept)):
        with pytest.raises(UsageError, match="states are read and written while nothing runs"):
            move()
    assert [list(answer) for answer in answers] == [whole[1:]] * 2
    device.reset()
    with pytest.raises(UsageError, match="it has no state to go on from"):
        next(last.answer(rest))


def test_all_contexts_read_a_prompt():
    """For which nothing else may run; it takes their states, and leaves its own as ever."""
    device, port = several()
    first, *_, last = device.slots
    started = port.device.runs
    assert list(first.answer(wanted([3, 4], 9))) == expected([3, 4], 9)
    state = first.state()
    running = first.answer(wanted([3, 4], 9))
    got = [next(running)]
    with pytest.raises(UsageError, match="all contexts read a prompt while nothing runs"):
        next(last.answer(wanted([1] * 5, 3), chained=True))
    assert got + list(running) == expected([3, 4], 9)
    first.restore(state)
    started.clear()
    prompt = [n % VOCABULARY for n in range(40)]  # of several runs
    assert list(last.answer(wanted(prompt, 4), chained=True)) == expected(prompt, 4)
    assert [bool(run[3] & RunFlag.CHAINED) for run in started] == [True] * 3
    for lost in (first.state, lambda: next(first.answer(replace(wanted([1], 1), resume=True)))):
        with pytest.raises(UsageError, match="it has no state to go on from"):
            lost()
    assert list(first.answer(wanted([6], 5))) == expected([6], 5)
    whole = [*prompt, *expected(prompt, 4)[:3]]
    last.restore(last.state())
    further = replace(wanted([5] * 6, 8), resume=True)
    assert list(last.answer(further, chained=True)) == expected([*whole, *further.prompt], 8)
    started.clear()
    assert list(device.generate([1, 2], 3)) == expected([1, 2], 3)  # nothing else is kept by now
    assert started[-1][3] & RunFlag.CHAINED


@pytest.mark.parametrize("after", [1, 9, 33])
def test_power_lost_while_several_run(after):
    device, port = several()
    tokens: dict[int, list[int]] = {n: [] for n in range(4)}
    with pytest.raises(DeviceError, match=r"no longer holds the (model|run)"):
        for count, (number, token) in enumerate(
            side_by_side(device, [wanted([n], 40) for n in range(4)])
        ):
            tokens[number].append(token)
            if count == after:
                port.device.lose_power()
    for number, got in tokens.items():
        assert got == expected([number], 40)[: len(got)] and len(got) < 40
    device.load(None)
    assert list(device.generate([1], 3)) == expected([1], 3)


def test_everything_ends_with_a_failure():
    """A run of several that chooses nothing is given up, and nothing runs then."""
    device, port = several(0)
    with pytest.raises(DeviceError, match="chose no token in"):
        collected(side_by_side(device, [wanted([n], 3) for n in range(4)]))
    assert not port.device.running
    port.device.pace = 1
    tokens = collected(side_by_side(device, [wanted([n], 3) for n in range(4)]))
    assert tokens == {n: expected([n], 3) for n in range(4)}
    answers = side_by_side(device, [wanted([n], 30) for n in range(4)])
    for _ in range(7):
        next(answers)
    answers.close()
    assert not port.device.running
