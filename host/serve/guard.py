"""Who may call the server at all, and what every answer says to browsers."""

from __future__ import annotations

import hmac
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from host.serve.errors import ApiError
from host.serve.service import Service

BROWSERS = {
    # The one page has its style and script within it, and needs nothing from elsewhere.
    "content-security-policy": (
        "default-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
"""Headers of every answer."""


class Guard:
    """Refuses requests by another name than the server's, and those without a key.

    The first keeps web sites out that have their own name lead to this machine.

    Parameters
    ----------
    open_paths : collection of str
        What needs no key.
    """

    def __init__(self, app: ASGIApp, service: Service, open_paths: Collection[str]):
        self._app = app
        self._service = service
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in BROWSERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope["path"], Headers(scope=scope))
        answer = refusal.response() if refusal else self._app
        await answer(scope, receive, send_guarded)

    def _refusal(self, path: str, headers: Headers) -> ApiError | None:
        hosts = self._service.hosts
        if hosts is not None and host_name(headers.get("host", "")) not in hosts:
            return ApiError(
                403,
                f"this server is only for this machine; call it {' or '.join(sorted(hosts))}",
                "wrong_host",
            )
        if path in self._open_paths or not self._service.keys:
            return None
        kind, _, key = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and has_key(self._service.keys, key.strip()):
            return None
        return ApiError(
            401,
            "a key is needed: send it as 'Authorization: Bearer KEY'",
            "invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


def host_name(header: str) -> str:
    """The name that a Host header has, lower case, without port and brackets."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]


def has_key(keys: Collection[str], key: str) -> bool:
    """Whether it is one of these, in a time that tells nothing of them."""
    given = key.encode()
    return sum(hmac.compare_digest(given, each.encode()) for each in keys) > 0
