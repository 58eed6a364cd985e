"""The page, and the stream of what it shows: ``GET /`` and ``GET /events``.

Events are `Machine`, first and whenever the device is another; `Activity`, every second; and the
news of `host.serve.stories`. Their names are those of the classes in lower case.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from host.compiler import compile_image
from host.errors import HostError
from host.ports import simulation
from host.serve.endpoints import Endpoint, EventResponse
from host.serve.errors import ApiError
from host.serve.scheduler import Status, Work
from host.serve.service import Service
from hw.arch.protocol import Identity
from weights.model import IntegerModel

PAGE = Path(__file__).with_name("page.html")
WATCHERS = 100
"""How many may watch at a time; each of them holds a connection for as long as its page is open."""
LOOK_S = 0.1
"""Seconds between two looks of a watcher: what came meanwhile goes out together."""
ACTIVITY_S = 1.0
WINDOW_S = 4.0
"""Seconds over which an activity is counted."""


@dataclass(frozen=True, kw_only=True)
class Timetable:
    """Cycles of a generated token, predicted from its program.

    Members
    -------
    cycles, engine_cycles : all, and those in which the engine takes trits
    waits : what it is owed to that the engine takes none in the others: (unit, operation, cycles),
        most first
    """

    cycles: int
    engine_cycles: int
    waits: tuple[tuple[str, str, int], ...]


@functools.lru_cache(maxsize=4)
def timetable(model: IntegerModel, identity: Identity) -> Timetable | None:
    """The timetable of a model on a device; None where this installation cannot predict it."""
    try:
        profiles = simulation("sim.profile")
        image = compile_image(model, identity.geometry)
        profile = profiles.unmeasured(image, identity.board, "")
    except HostError:
        return None
    cycles, engine, waits = (
        profile.timing.cycles,
        profile.timing.engine_cycles,
        [*profile.engine_waits()],
    )
    own = cycles - engine - sum(cycles for *_, cycles in waits)
    waits.append(("engine", "fill, drain, end of a group", own))
    waits.sort(key=lambda wait: -wait[2])
    return Timetable(cycles=cycles, engine_cycles=engine, waits=tuple(waits))


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What runs here; a device that is no machine has neither board nor clock nor timetable."""

    model: str
    board: str | None
    clock_hz: int | None
    shared: bool
    timetable: Timetable | None


@dataclass(frozen=True, kw_only=True)
class Activity:
    """The device at present, and what it did in the last seconds.

    Members
    -------
    state, error, slots, contexts : as of `host.serve.scheduler.Status`; ``streams`` are under way
    tokens_per_second : chosen in a second in which the device worked; None if none were
    cycles_per_token, engine_share, board_tokens_per_second : mean over all tokens, part of the
        cycles in which the engine took trits, and clock by mean; None where no cycles are counted
    """

    state: str
    error: str | None
    streams: int
    slots: int
    contexts: int
    tokens_per_second: float | None = None
    cycles_per_token: float | None = None
    engine_share: float | None = None
    board_tokens_per_second: float | None = None


class Meter:
    """What was done over the last `WINDOW_S` seconds, from a scheduler's counts."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Work]] = deque()

    def activity(self, now: float, status: Status) -> Activity:
        """The activity until ``now``, in seconds of any steady clock."""
        samples, work = self._samples, status.totals
        samples.append((now, work))
        while len(samples) > 2 and samples[1][0] <= now - WINDOW_S:
            samples.popleft()
        _, first = samples[0]
        figures: dict[str, float] = {}
        if seconds := work.seconds - first.seconds:
            figures["tokens_per_second"] = (work.chosen - first.chosen) / seconds
        tokens, cycles = work.tokens - first.tokens, work.cycles - first.cycles
        if status.identity and tokens and cycles:
            figures["cycles_per_token"] = cycles / tokens
            figures["engine_share"] = (work.engine_cycles - first.engine_cycles) / cycles
            figures["board_tokens_per_second"] = status.identity.clock_hz * tokens / cycles
        return Activity(
            state=status.state.value,
            error=status.error,
            streams=len(status.sessions),
            slots=status.slots,
            contexts=status.contexts,
            **figures,
        )


# Two endpoints ------------------------------------------------------------------------------------


def page_policy(page: str) -> str:
    """The Content-Security-Policy of a page: its own script and style run, and no other."""

    def own(tag: str) -> str:
        texts = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = (hashlib.sha256(text.encode()).digest() for text in texts)
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {own('script')}; style-src {own('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


async def page(service: Service, request: Request) -> Response:
    text = PAGE.read_text("utf-8")
    headers = {"Content-Security-Policy": page_policy(text), "Cache-Control": "no-cache"}
    return HTMLResponse(text, headers=headers)


async def events(service: Service, request: Request) -> Response:
    if service.stories.watchers >= WATCHERS:
        raise ApiError(
            503,
            f"{WATCHERS} pages watch already; try again later",
            "too_many_watchers",
            headers={"Retry-After": "10"},
        )
    return EventResponse(service, _events(service))


def _event(told: Any) -> dict[str, str]:
    return {"event": type(told).__name__.lower(), "data": json.dumps(asdict(told))}


async def _events(service: Service) -> AsyncIterator[dict[str, str]]:
    with service.stories.watched() as reader:
        machine: Machine | None = None
        meter, due = Meter(), time.monotonic()
        while not service.stories.closed:
            if (now := time.monotonic()) >= due:
                due = now + ACTIVITY_S
                status = service.scheduler.status()
                if machine != (machine := await _machine(service, status.identity)):
                    yield _event(machine)
                yield _event(meter.activity(now, status))
            for news in reader.news():
                yield _event(news)
            await anyio.sleep(LOOK_S)


async def _machine(service: Service, identity: Identity | None) -> Machine:
    table = None
    if identity:
        table = await anyio.to_thread.run_sync(timetable, service.model, identity)
    return Machine(
        model=service.name,
        board=identity.board if identity else None,
        clock_hz=identity.clock_hz if identity else None,
        shared=service.stories.shared,
        timetable=table,
    )


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/",
        handler=page,
        summary="A page that writes stories",
        media="text/html",
        open=True,
    ),
    Endpoint(
        method="GET",
        path="/events",
        handler=events,
        summary="What the page shows: the device, its activity, and stories as they come",
        media="text/event-stream",
    ),
)
