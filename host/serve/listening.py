"""The server below the application: its socket, its connections, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
from collections.abc import Callable

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from host.errors import HostError
from host.serve.errors import ApiError
from host.serve.service import Limits

BACKLOG = 128
HEADER_BYTES = 1 << 14
"""Of one request's headers at most."""
KEEP_ALIVE_S = 5
LAST_S = 5
"""Seconds that answers under way have when the server ends."""
OTHER_FILES = 64
"""Files that the server has open beside connections."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on a TCP port of an address, 0 for any.

    Raises
    ------
    HostError
        There is no such address, or another program listens there.
    """
    if not 0 <= port <= 65535:
        raise HostError(f"port {port} cannot be listened on (it must be 0 to 65535)")
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error
        raise HostError(
            f"{host} port {port} cannot be listened on ({reason}); give another with --port"
        ) from error


def url_of(listener: socket.socket) -> str:
    """Where a browser finds a server that listens there."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only programs of this machine reach it."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def raise_file_limit(connections: int) -> int:
    """Have as many files open as may be. Returns for how many of these connections they suffice."""
    try:
        import resource
    except ImportError:  # no such limit
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, soft - OTHER_FILES))


class Connection(H11Protocol):
    """A connection whose client must send a request within a time, read its answer, and not be one
    too many."""

    limits = Limits()

    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # what the system does not take at once, waits
        if len(self.connections) > self.limits.connections:
            wait = {"Retry-After": "5"}
            self._refuse(ApiError(503, "too many connections", "too_many", headers=wait))
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.limits.send_s, self.transport.abort)

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.timeout_keep_alive_task:  # until something comes
            self._unwatch()

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError(400, "what came is no HTTP request", "invalid_http"))

    def _watch(self) -> None:
        """The time runs while a request has begun to come, or is due for the first time."""
        if self.transport.is_closing() or self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._unwatch()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.limits.request_s, self._too_slow)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self.conn.our_state is h11.IDLE:
            self._refuse(
                ApiError(
                    408,
                    f"the request did not come within {self.limits.request_s:g} seconds",
                    "too_slow",
                )
            )
        else:  # nothing can be told in the midst of a request, or of an answer
            self.transport.close()

    def _refuse(self, error: ApiError) -> None:
        """The last answer of a connection, written past the application."""
        body = error.json().encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
            *(error.headers or {}).items(),
        ]
        for event in (
            h11.Response(status_code=error.status, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Server(uvicorn.Server):
    """Serves an application until a signal or `stop`.

    Parameters
    ----------
    begun : callable
        Called once it listens.
    ended : callable
        Called in a thread of its own when nobody is taken any more; answers under way end with it.
    """

    def __init__(
        self,
        app: Starlette,
        limits: Limits,
        begun: Callable[[], None],
        ended: Callable[[], None],
    ):
        kind = type("Connection", (Connection,), {"limits": limits})
        super().__init__(
            uvicorn.Config(
                app,
                http=kind,
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=LAST_S,
                h11_max_incomplete_event_size=HEADER_BYTES,
            )
        )
        self._begun = begun
        self._ended = ended

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._begun()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        closing = asyncio.create_task(asyncio.to_thread(self._ended))
        await super().shutdown(sockets)
        await closing

    def stop(self) -> None:
        """End it, from any thread."""
        self.should_exit = True
