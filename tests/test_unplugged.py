"""A server whose board goes and comes back: power, cable, another program, another board."""

from __future__ import annotations

import contextlib
import functools
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing

import httpx2
import openai
import pytest

from host.urls import open_device
from sim.serve import listen
from tests.services import LONG, NAME, PROMPT, ROOT, program, wait_for
from weights.files import ZOO
from weights.model import IntegerModel

pytestmark = pytest.mark.whole


class Board:
    """A simulated board at a TCP port, whose power can be taken."""

    def __init__(self, name: str):
        self._port = 0
        self.plug_in(name)

    def plug_in(self, name: str) -> None:
        command = [sys.executable, "-m", "sim.serve", name, "--port", str(self._port)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self.url = self._process.stdout.readline().strip()
        self._port = int(self.url.rpartition(":")[2])

    def unplug(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=LONG)

    close = unplug


class Cable:
    """Leads a port of its own to a board's, and can be cut."""

    def __init__(self, board: Board):
        self._to = ("127.0.0.1", int(board.url.rpartition(":")[2]))
        self._port = 0
        self.mend()

    def mend(self) -> None:
        self._listener = listen(self._port)
        self._port = self._listener.getsockname()[1]
        self.url = f"socket://127.0.0.1:{self._port}"
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._lead, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        for end in (self._listener, *self._ends):
            _close(end)

    close = cut

    def _lead(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._to)
                self._ends += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=_copy, args=ends, daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    """Until either end goes; then the other does, too."""
    with contextlib.suppress(OSError):
        while data := source.recv(4096):
            sink.sendall(data)
    for end in (source, sink):
        _close(end)


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


class Client:
    """What a user's program does at the server."""

    def __init__(self, address: tuple[str, int]):
        self._url = "http://{}:{}".format(*address)
        self._openai = openai.OpenAI(base_url=f"{self._url}/v1", api_key="none", max_retries=0)
        self.ask = functools.partial(
            self._openai.completions.create, model=NAME, prompt=PROMPT, temperature=0
        )

    def text(self) -> str:
        return self.ask(max_tokens=20).choices[0].text

    def endless(self) -> openai.Stream:
        """A stream that has begun."""
        stream = self.ask(max_tokens=4000, stream=True, extra_body={"ignore_eos": True})
        assert next(iter(stream)).choices[0].text
        return stream

    def health(self) -> str:
        """``ok``, or why the device is not there."""
        answer = httpx2.get(f"{self._url}/health")
        if answer.status_code == 200:
            return answer.json()["status"]
        assert answer.status_code == 503 and answer.headers["retry-after"]
        error = answer.json()["error"]
        assert error["type"] == "server_error" and error["code"] in ("lost", "loading")
        return error["message"]

    def wait(self, there: bool) -> None:
        wait_for(lambda: (self.health() == "ok") is there, 4 * LONG)


def ends_with_the_reason(stream: openai.Stream, url: str) -> None:
    with pytest.raises(openai.APIError, match=re.escape(url)) as caught:
        list(stream)
    assert caught.value.code == "device_failed" and caught.value.type == "server_error"


def test_power_that_fails_and_comes_back():
    with (
        closing(Board("sim_small")) as device,
        program("--device", device.url) as (process, address),
    ):
        client = Client(address)
        client.wait(there=True)
        text = client.text()
        streams = [client.endless() for _ in range(3)]
        device.unplug()
        for stream in streams:
            ends_with_the_reason(stream, device.url)
        client.wait(there=False)
        assert device.url in client.health()
        with pytest.raises(openai.InternalServerError, match=re.escape(device.url)) as caught:
            client.text()
        assert caught.value.status_code == 503 and caught.value.response.headers["retry-after"]
        device.plug_in("sim_small")
        client.wait(there=True)
        assert client.text() == text
        device.unplug()  # while nobody asks
        client.wait(there=False)
        device.plug_in("sim_small")
        client.wait(there=True)
        assert client.text() == text
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=LONG) == ("", "")
        assert process.returncode == 130


def test_another_program_at_the_board_meanwhile():
    with closing(Board("sim_small")) as device, closing(Cable(device)) as line:
        with program("--device", line.url) as (_, address):
            client = Client(address)
            client.wait(there=True)
            text = client.text()
            stream = client.endless()
            line.cut()
            ends_with_the_reason(stream, line.url)
            other = IntegerModel.load(ZOO / "stories-tiny.safetensors")
            with closing(open_device(device.url)) as taken:
                taken.load(other)
                assert len(list(taken.generate([other.start_token], 5))) == 5
            line.mend()
            client.wait(there=True)
            assert client.text() == text


def test_a_board_that_is_too_small_in_its_place():
    """Waiting does not mend that: the server ends, and says why."""
    with closing(Board("sim_small")) as device:
        options = ("--device", device.url, "--model", "stories-fixture")
        with program(*options) as (process, address):
            Client(address).wait(there=True)
            device.unplug()
            device.plug_in("sim_tiny")
            _, errors = process.communicate(timeout=LONG)
            (line,) = errors.splitlines()
            assert "does not fit" in line and process.returncode == 1
