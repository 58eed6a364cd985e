"""Servers for tests: a small model on the golden device, or on one that waits and fails at will."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from host.device import Device
from host.errors import DeviceError
from host.serve.application import application
from host.serve.listening import Server, listen, url_of
from host.serve.scheduler import Scheduler, State
from host.serve.service import Limits, Service
from sim.golden_device import GoldenDevice
from sim.native import NativeDevice
from weights.model import IntegerModel
from weights.text import open_tokenizer

ROOT = Path(__file__).resolve().parents[1]
NAME = "stories-nano"
PROMPT = "Once upon a time"
LONG = 30.0
"""Seconds that nothing takes."""
LIMITS = Limits(body_bytes=3000, prompt_tokens=200, tokens=300, default_tokens=12)


def wait_for(condition: Callable[[], object], seconds: float = LONG) -> None:
    """Until something is so that another thread makes so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def ready(service: Service) -> None:
    """Until the device is there."""
    wait_for(lambda: service.scheduler.status().state is State.READY)


@contextlib.contextmanager
def service_of(
    model: IntegerModel,
    open_device: Callable[[], Device] = GoldenDevice,
    slots: int = 64,
    **options: object,
) -> Iterator[Service]:
    """A service of `stories-nano`, whose scheduler has started."""
    scheduler = Scheduler(open_device, model, slots=slots)
    service = Service(
        name=NAME,
        created=1_700_000_000,
        model=model,
        tokenizer=open_tokenizer(model.tokenizer_json, NAME),
        scheduler=scheduler,
        device="golden://",
        **{"limits": LIMITS, **options},
    )
    scheduler.start()
    try:
        yield service
    finally:
        scheduler.close()


class Gated(GoldenDevice):
    """Gives a token only when it may, or fails.

    Members
    -------
    slow : whether it waits for `open` before each token
    fault : what it fails with
    """

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.fault: DeviceError | None = None
        self.slow = False

    def answer_on(self, request):
        for token in super().answer_on(request):
            if self.slow:
                assert self.open.wait(LONG)
            if self.fault:
                raise self.fault
            yield token


@contextlib.contextmanager
def gated(model: IntegerModel, **options: object) -> Iterator[tuple[Service, Gated]]:
    """A service whose device waits from its first token on, and that device."""
    device = Gated()
    with service_of(model, lambda: device, **options) as service:
        ready(service)
        device.slow = True
        try:
            yield service, device
        finally:
            device.open.set()


@contextlib.contextmanager
def listening(
    service: Service, buffer: int | None = None, port: int = 0
) -> Iterator[tuple[str, int]]:
    """The address of a server of this service, in a thread of its own.

    ``buffer`` is how many bytes the system keeps of what a client does not read.
    """
    begun = threading.Event()
    with listen("127.0.0.1", port) as listener:
        if buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        server = Server(application(service), service.limits, begun=begun.set, ended=service.close)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert begun.wait(LONG)
            assert url_of(listener).startswith("http://127.0.0.1:")
            yield listener.getsockname()[:2]
        finally:
            server.stop()
            thread.join(LONG)
            assert not thread.is_alive()


@contextlib.contextmanager
def program(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    """The server of `stories-nano` as users start it; the process, and its address."""
    if "native://" in arguments:
        NativeDevice(1).close()  # compiled here, where that is needed, and not told of there
    process = subprocess.Popen(
        [sys.executable, "-m", "host.serve", "--model", NAME, "--port", "0", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        host, port = re.search(r"http://(.*):(\d+)$", line.strip()).groups()
        yield process, (host, int(port))
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=LONG)
