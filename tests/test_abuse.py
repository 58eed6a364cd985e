"""The server among clients that mean it no good: nobody is served wrongly, nobody is hurt."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from host.serve.listening import raise_file_limit
from host.serve.service import Limits
from tests.services import LONG, PROMPT, program, wait_for

pytestmark = pytest.mark.whole
KEY = "the-right-key"
IDLE = 1000
SLOW = 40
MOST_MEMORY = 100 << 20
"""Bytes by which the server may grow with all of these connections open."""
JSON = "Content-Type: application/json"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY)
    with program("--device", "native://", "--api-key-file", str(keys)) as (process, address):
        wait_for(lambda: httpx2.get("http://{}:{}/health".format(*address)).status_code == 200)
        yield process, address
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=LONG)[1] == ""
        assert process.returncode == 130


def raw(method: str, path: str, *headers: str, body: bytes = b"", host: str = "localhost") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {KEY}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def post(body: bytes, *headers: str) -> bytes:
    length = f"Content-Length: {len(body)}"
    return raw("POST", "/v1/completions", JSON, length, *headers, body=body)


def asked(text: str) -> bytes:
    """A request with something in it as it is."""
    return post(f'{{"prompt": "a", "max_tokens": 2, {text}}}'.encode())


REFUSED = {
    "a long body": (post(b" " * 70_000), 413),
    "a body without end": (
        raw("POST", "/v1/completions", JSON, "Transfer-Encoding: chunked")
        + b"1000\r\n"
        + b" " * 4096
        + (b"\r\n1000\r\n" + b" " * 4096) * 20,
        413,
    ),
    "a wrong key": (raw("GET", "/v1/models").replace(KEY.encode(), b"the-wrong-key"), 401),
    "another's name": (raw("GET", "/v1/models", host="evil.example"), 403),
    "no JSON": (post(b"{'prompt': 1}"), 400),
    "bytes": (post(bytes(range(256))), 400),
    "another type": (raw("POST", "/v1/completions", "Content-Length: 2", body=b"{}"), 415),
    "no number": (asked('"temperature": NaN'), 400),
    "an infinity": (asked('"temperature": -Infinity'), 400),
    "a large number": (asked('"temperature": 1e400'), 400),
    "a long number": (asked(f'"seed": {"9" * 6000}'), 400),
    "many tokens": (asked(f'"best_of": 1, "ignore_eos": {"1" * 4000}'), 400),
    "deep lists": (asked(f'"stop": {"[" * 30_000}{"]" * 30_000}'), 400),
    "deep objects": (asked(f'"stop": {"{" * 1}{"a" * 9}'), 400),
    "half a letter": (asked('"user": "\\ud800"'), 400),
    "half a letter as a prompt": (post(b'{"prompt": "\\udfff\\ud800"}'), 400),
    "many stop strings": (asked(f'"stop": {json.dumps(["s"] * 10_000)}'), 400),
    "many prompts": (post(json.dumps({"prompt": ["a"] * 10_000}).encode()), 400),
    "long headers": (raw("GET", "/health", *[f"X-{n}: {'x' * 90}" for n in range(4000)]), 400),
    "no HTTP": (b"\x00" * 5000 + b"\r\n\r\n", 400),
    "two lengths": (post(b"{}", "Content-Length: 5"), 400),
    "another address": (raw("GET", "/../../etc/passwd"), 404),
    "another method": (raw("DELETE", "/v1/models"), 405),
}  # fmt: skip


def status_of(address, sent: bytes) -> int:
    with socket.create_connection(address, timeout=LONG) as client:
        with contextlib.suppress(ConnectionError):  # it may be refused before all of it came
            client.sendall(sent)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while b"\r\n\r\n" not in answer and (part := client.recv(4096)):
                answer += part
    return int(re.match(rb"HTTP/1.1 (\d+) ", answer)[1])


class Good:
    """A client that asks all the time; its text must always be the same."""

    def __init__(self, address):
        self._url = "http://{}:{}/v1/completions".format(*address)
        self.answers: list[str] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def ask(self) -> str:
        fields = {"prompt": PROMPT, "temperature": 0, "max_tokens": 30}
        answer = httpx2.post(
            self._url, json=fields, headers={"Authorization": f"Bearer {KEY}"}, timeout=LONG
        )
        return answer.json()["choices"][0]["text"] if answer.status_code == 200 else answer.text

    def _run(self) -> None:
        while not self._done.is_set():
            self.answers.append(self.ask())
            self._done.wait(0.02)

    def __enter__(self) -> Good:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(LONG)


@contextlib.contextmanager
def served_well(address) -> Iterator[None]:
    """A good client is there meanwhile, and is never hurt."""
    good = Good(address)
    right = good.ask()
    assert len(right) > 30 and not right.startswith("{")
    with good:
        yield
        seen = len(good.answers)
        wait_for(lambda: len(good.answers) > seen + 1)
    assert set(good.answers) == {right}


def memory(process: subprocess.Popen[str], name: str) -> int:
    """Bytes of ``VmRSS``, or at most ever (``VmHWM``)."""
    lines = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * int(re.search(rf"{name}:\s*(\d+) kB", lines)[1])


def test_what_is_refused_hurts_nobody(server):
    process, address = server
    before = memory(process, "VmRSS")
    with served_well(address):
        found = {name: status_of(address, sent) for name, (sent, _) in REFUSED.items()}
    assert found == {name: wanted for name, (_, wanted) in REFUSED.items()}
    assert memory(process, "VmHWM") - before < MOST_MEMORY


def test_what_comes_behind_a_request_hurts_nobody(server):
    _, address = server
    with served_well(address), socket.create_connection(address, timeout=LONG) as client:
        client.sendall(raw("GET", "/v1/models") + b"\x01garbage\r\n\r\n" * 100)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while part := client.recv(4096):
                answer += part
    assert re.findall(rb"HTTP/1.1 (\d+) ", answer) == [b"200", b"400"]


def test_many_that_say_nothing_and_some_that_never_read_hurt_nobody(server):
    process, address = server
    assert raise_file_limit(IDLE + SLOW + 100) >= IDLE + SLOW + 100
    assert Limits().connections > IDLE + SLOW
    before = memory(process, "VmRSS")
    body = {"prompt": PROMPT, "max_tokens": 4000, "ignore_eos": True, "stream": True}
    with contextlib.ExitStack() as stack, served_well(address):
        start = time.monotonic()

        def connect(sent: bytes) -> socket.socket:
            client = stack.enter_context(socket.create_connection(address, timeout=LONG))
            client.sendall(sent)
            return client

        deaf = [connect(post(json.dumps(body).encode())) for _ in range(8)]
        slow = [connect(post(b"{}")[:-1]) for _ in range(SLOW)]
        idle = [connect(b"") for _ in range(IDLE)]
        wait_for(lambda: not memory_grows(process))
        assert memory(process, "VmHWM") - before < MOST_MEMORY
        for client in (*slow, *idle):  # each is cut, told why where that can be told
            with contextlib.suppress(ConnectionError):
                answer = client.recv(4096)
                assert answer.startswith(b"HTTP/1.1 408 ") or answer == b""
        assert time.monotonic() - start < 2 * Limits().request_s + 5
        assert len(deaf) == 8


def memory_grows(process: subprocess.Popen[str]) -> bool:
    now = memory(process, "VmRSS")
    time.sleep(0.3)
    return memory(process, "VmRSS") > now + (1 << 20)
