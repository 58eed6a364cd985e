"""The server on a socket: clients that go, are slow or are too many, and its end."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from host.errors import FitError
from host.serve.__main__ import main
from sim.golden_device import GoldenDevice
from tests.services import (
    LIMITS,
    LONG,
    NAME,
    PROMPT,
    ROOT,
    gated,
    listening,
    program,
    ready,
    service_of,
    wait_for,
)


@pytest.fixture(scope="module")
def address(stories_nano):
    with service_of(stories_nano) as service, listening(service) as address:
        ready(service)
        yield address


def connect(address) -> socket.socket:
    return socket.create_connection(address, timeout=LONG)


def request(path: str, fields: dict | None = None, *headers: str) -> bytes:
    """A request as it goes over the line."""
    body = b"" if fields is None else json.dumps(fields).encode()
    lines = [f"{'GET' if fields is None else 'POST'} {path} HTTP/1.1", "Host: localhost", *headers]
    if fields is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def asked(**fields) -> bytes:
    return request("/v1/completions", {"prompt": PROMPT, "temperature": 0, **fields})


def to_end(client: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    with contextlib.closing(client):
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(4096):
                data += part
        return data


def until(client: socket.socket, wanted: bytes) -> bytes:
    data = b""
    while wanted not in data:
        part = client.recv(4096)
        assert part, data
        data += part
    return data


def status(answer: bytes) -> int:
    return int(re.match(rb"HTTP/1.1 (\d+) ", answer)[1])


def error(answer: bytes) -> dict:
    return json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


# Clients that go ------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_frees_its_place(stories_nano, stream):
    with gated(stories_nano, slots=1) as (service, device), listening(service) as address:
        with connect(address) as client:
            client.sendall(asked(stream=stream))
            wait_for(lambda: service.scheduler.status().sessions)
        wait_for(lambda: not service.scheduler.status().sessions)
        device.open.set()
        wait_for(lambda: service.scheduler.status().totals.cancelled == 1)
        with connect(address) as client:
            client.sendall(asked(max_tokens=2))
            assert status(until(client, b"\r\n\r\n")) == 200


def test_a_client_that_does_not_read_is_given_up(stories_nano):
    limits = replace(LIMITS, send_s=0.2, tokens=100_000)
    with service_of(stories_nano, limits=limits) as service, listening(service, 4096) as address:
        ready(service)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(address)
            client.sendall(asked(stream=True, max_tokens=100_000, ignore_eos=True))
            wait_for(lambda: service.scheduler.status().totals.cancelled == 1)


def test_a_stream_shows_that_it_lives(stories_nano):
    limits = replace(LIMITS, ping_s=0.05)
    with gated(stories_nano, limits=limits) as (service, device), listening(service) as address:
        with connect(address) as client:
            client.sendall(asked(stream=True))
            until(client, b": ping")
            device.open.set()
            until(client, b"[DONE]")


# Clients that are slow, or too many -----------------------------------------------------------


@pytest.fixture(scope="module")
def hasty(stories_nano):
    limits = replace(LIMITS, request_s=0.3, connections=3)
    with service_of(stories_nano, limits=limits) as service, listening(service) as address:
        ready(service)
        yield address


@pytest.mark.parametrize("sent", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: a\r\n"])
def test_a_client_that_is_slow_with_its_headers_is_told_and_cut(hasty, sent):
    client = connect(hasty)
    client.sendall(sent)
    answer = to_end(client)
    assert status(answer) == 408 and error(answer)["code"] == "too_slow"


@pytest.mark.parametrize("first", [b"", request("/health")])
def test_a_client_that_sends_byte_by_byte_is_cut(hasty, first):
    client = connect(hasty)
    client.sendall(first)
    if first:
        until(client, b"ok")
    start = time.monotonic()
    with contextlib.suppress(ConnectionError):
        for byte in request("/health", None, *[f"X-{n}: n" for n in range(999)]):
            client.sendall(bytes((byte,)))
            time.sleep(0.01)
    assert time.monotonic() - start < 5
    assert b" 408 " in to_end(client)


def test_a_client_that_is_slow_with_its_body_is_cut(hasty):
    client = connect(hasty)
    client.sendall(asked()[:-1])
    assert to_end(client) == b""


def test_a_client_that_waits_between_requests_is_not_slow(hasty):
    with connect(hasty) as client:
        for _ in range(2):
            client.sendall(request("/health"))
            until(client, b"ok")
            time.sleep(0.5)


def test_an_answer_may_take_longer_than_its_request(stories_nano):
    limits = replace(LIMITS, request_s=0.2)
    with gated(stories_nano, limits=limits) as (service, device), listening(service) as address:
        with connect(address) as client:
            client.sendall(asked())
            wait_for(lambda: service.scheduler.status().sessions)
            time.sleep(0.5)
            device.open.set()
            assert status(until(client, b"length")) == 200


def test_a_connection_too_many_is_told(hasty):
    with connect(hasty), connect(hasty), connect(hasty):
        answer = to_end(connect(hasty))
    assert status(answer) == 503 and b"Retry-After: 5" in answer
    assert error(answer)["code"] == "too_many"
    wait_for(lambda: status(to_end_of_health(hasty)) == 200)


def to_end_of_health(address) -> bytes:
    client = connect(address)
    client.sendall(request("/health", None, "Connection: close"))
    return to_end(client)


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"]
)
def test_what_is_no_request_is_told(address, sent):
    client = connect(address)
    client.sendall(sent)
    answer = to_end(client)
    assert status(answer) == 400 and error(answer)["code"] == "invalid_http"


def test_headers_without_end_are_refused(address):
    client = connect(address)
    with contextlib.suppress(ConnectionError):
        client.sendall(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000)
    assert status(to_end(client)) == 400


def test_a_body_that_is_too_long_is_refused_before_it_has_come(address):
    client = connect(address)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    client.sendall(head + b"Content-Length: 1000000000\r\n\r\n" + b" " * 4000)
    assert status(until(client, b"body_too_large")) == 413
    client.close()


# The end --------------------------------------------------------------------------------------


def healthy(address) -> bool:
    return status(to_end_of_health(address)) == 200


@pytest.mark.parametrize(
    ("number", "end"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_a_signal_ends_it_and_all_streams(number, end):
    options = ("--device", "golden://", "--max-tokens", "1000000")
    with program(*options) as (process, address):
        wait_for(lambda: healthy(address))
        streaming, waiting = connect(address), connect(address)
        streaming.sendall(asked(stream=True, max_tokens=1_000_000, ignore_eos=True))
        until(streaming, b"text_completion")
        waiting.sendall(asked(max_tokens=1_000_000, ignore_eos=True))
        time.sleep(0.2)
        process.send_signal(number)
        assert b'"the server ends"' in to_end(streaming)
        answer = to_end(waiting)
        assert status(answer) == 503 and error(answer)["message"] == "the server ends"
        output, errors = process.communicate(timeout=LONG)
        assert (process.returncode, output, errors) == (end, "", "")


@pytest.mark.parametrize(
    ("arguments", "end", "told"),
    [
        (["--device", "nowhere://"], 2, "nowhere://"),
        (["--device", "/dev/nowhere"], 1, "no such serial port"),
        (["--model", "./none.safetensors"], 1, "none.safetensors"),
        (["--port", "70000"], 1, "port 70000 cannot be listened on"),
        (["--host", "192.0.2.1"], 1, "192.0.2.1"),
        (["--host", "no such host"], 1, "no such host"),
        (["--api-key-file", "/none"], 2, "/none"),
    ],
)
def test_what_cannot_be_served_is_one_line(capsys, arguments, end, told):
    assert main(["--port", "0", *arguments]) == end
    output, errors = capsys.readouterr()
    assert told in errors and len(errors.splitlines()) == 1
    assert output == ""


def test_a_model_that_does_not_fit_ends_it(monkeypatch, capsys):
    class Small(GoldenDevice):
        def load(self, model, progress=None):
            raise FitError("the model does not fit; use a smaller one")

    monkeypatch.setattr("host.serve.__main__.open_device", lambda url: Small())
    assert main(["--port", "0", "--model", NAME]) == 1
    assert capsys.readouterr().err == "the model does not fit; use a smaller one\n"


WITHOUT_STARLETTE = """
import runpy, sys
sys.modules["starlette"] = None
runpy.run_module("host.serve", run_name="__main__", alter_sys=True)
"""


def test_without_its_packages_it_names_the_extra():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_STARLETTE], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "needs starlette, which is not installed: pip install -e '.[serve]'\n"


def test_a_port_that_is_taken_is_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"port {port} cannot be listened on" in line and "--port" in line


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"\n \n", "has no key"), (b"a\nb c\n", "line 2"), (b"\xff", "cannot be read")],
)
def test_keys_that_cannot_be_used_are_told(tmp_path, capsys, content, told):
    keys = tmp_path / "keys"
    keys.write_bytes(content)
    assert main(["--port", "0", "--api-key-file", str(keys)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line and str(keys) in line


def test_an_option_that_cannot_be(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--slots", "0"])
    assert ended.value.code == 2
    assert "--slots must be at least 1" in capsys.readouterr().err


def test_keys_of_a_file_are_asked_for_and_an_open_address_without_is_told(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("one\ntwo \n\n")
    options = ("--device", "golden://", "--host", "0.0.0.0")
    with program(*options, "--api-key-file", str(keys)) as (process, (_, port)):
        for key, code in (("one", 200), ("two", 200), ("three", 401)):
            client = connect(("127.0.0.1", port))
            head = (f"Authorization: Bearer {key}", "Connection: close", "Host: any.example")
            client.sendall(request("/v1/models", None, *head[:2]))
            assert status(to_end(client)) == code
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=LONG)[1] == ""
    with program(*options) as (process, _):
        process.send_signal(signal.SIGINT)
        (line,) = process.communicate(timeout=LONG)[1].splitlines()
        assert "--api-key-file" in line
