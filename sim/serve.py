"""Serve a simulated board on a socket or a pseudo-terminal, as if it were at the end of a cable.

``python -m sim.serve sim_small`` prints the address; the host's programs take it as their device.
"""

from weights import early as early  # isort: split

import contextlib
import functools
import os
import pty
import select
import socket
import sys
import tty
from collections.abc import Callable, Sequence
from typing import Any

from sim.compiler import SimulationError
from sim.device import STEP_CYCLES, SimulatedPort
from weights.commandline import OneLineParser, program

REST_CYCLES = 20_000_000
"""Cycles without a byte in or out after which the clock stops until the next byte comes in."""
CHUNK = 65_536
SIGNAL_SECONDS = 0.5
"""Longest wait at once: a signal that comes right before a wait without end would not end it."""


def serve(
    port: SimulatedPort,
    wait: Callable[[float | None], bool],
    receive: Callable[[], bytes],
    send: Callable[[bytes], None],
) -> None:
    """Move bytes between ``port`` and one client until the client goes.

    ``wait`` returns whether input is there within so many seconds, ``receive`` returns it (nothing
    when the client has gone), and ``send`` delivers all it is given.
    """
    idle = 0
    while True:
        resting = idle >= REST_CYCLES and not port.out_waiting
        if wait(None if resting else 0):
            data = receive()
            if not data:
                return
            port.write(data)
            idle = 0
        idle += port.run(STEP_CYCLES, wanted=CHUNK)
        if port.in_waiting:
            send(port.read(port.in_waiting))
            idle = 0


def serve_socket(port: SimulatedPort, listener: socket.socket) -> None:
    """Serve one client after the other; the device keeps its state between them.

    Whoever comes while another is served is turned away at once.
    """
    while True:
        _ready([listener], None)
        client, _ = listener.accept()
        with client, contextlib.suppress(ConnectionError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            receive = functools.partial(client.recv, CHUNK)
            serve(port, _alone(client, listener), receive, client.sendall)


def _alone(client: socket.socket, listener: socket.socket) -> Callable[[float | None], bool]:
    """`wait` of `serve` for a client, while others are turned away."""

    def wait(seconds: float | None) -> bool:
        ready = _ready([client, listener], seconds)
        # The client first: it may have gone, and the next one come.
        if client in ready:
            return True
        if listener in ready:
            listener.accept()[0].close()
        return False

    return wait


def listen(number: int) -> socket.socket:
    """A socket that listens on a TCP port of this machine, 0 for any."""
    if not 0 <= number <= 65535:
        raise SimulationError(f"port {number} cannot be listened on (it must be 0 to 65535)")
    try:
        return socket.create_server(("127.0.0.1", number))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise SimulationError(f"port {number} cannot be listened on ({reason})") from error


def serve_terminal(port: SimulatedPort, master: int) -> None:
    """Serve whoever has the terminal open; without end, since clients come and go unseen."""

    def send(data: bytes) -> None:
        while data:
            data = data[os.write(master, data) :]

    serve(port, _readable(master), lambda: os.read(master, CHUNK), send)


def _readable(descriptor: int) -> Callable[[float | None], bool]:
    return lambda seconds: bool(_ready([descriptor], seconds))


def _ready(sources: list[Any], seconds: float | None) -> list[Any]:
    """Those of ``sources`` that have input within so many seconds; None waits for it."""
    while True:
        most = SIGNAL_SECONDS if seconds is None else seconds
        found: list[Any] = select.select(sources, [], [], most)[0]
        if found or seconds is not None:
            return found


def open_terminal() -> tuple[int, int, str]:
    """A new raw pseudo-terminal: our end, the clients' end (kept open), and the latter's path."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    return master, slave, os.ttyname(slave)


@program
def main(arguments: Sequence[str] | None = None) -> int:
    parser = OneLineParser(prog="python -m sim.serve", description="Serve a simulated board.")
    parser.add_argument("board")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--port", type=int, default=0, help="TCP port on this machine (default: any)")
    way.add_argument("--pty", action="store_true", help="a pseudo-terminal instead of a socket")
    options = parser.parse_args(arguments)
    if options.pty:
        with SimulatedPort(options.board) as port:
            master, _, path = open_terminal()
            print(path, flush=True)
            serve_terminal(port, master)
    else:
        with listen(options.port) as listener, SimulatedPort(options.board) as port:
            print(f"socket://127.0.0.1:{listener.getsockname()[1]}", flush=True)
            serve_socket(port, listener)
    return 0


if __name__ == "__main__":
    sys.exit(main())
