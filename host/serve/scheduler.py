"""One thread that owns a device, and sessions that share it slice by slice."""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from host.device import Device
from host.errors import DeviceError, HostError, UsageError
from host.request import Request
from host.serve.prefixes import Prefixes
from hw.arch.protocol import Identity, Totals
from weights.errors import ReportedError
from weights.model import IntegerModel

SLICE_SECONDS = 0.02
"""Least length of a slice."""
SLICE_SWAPS = 5
"""Length of a slice in swaps, so that no more than a sixth of the time goes to them."""
ALONE_SECONDS = 0.25
"""Length of a slice while nobody waits; whoever comes then waits for no more than that."""
SLICE_TOKENS = 4096
"""Most tokens of a slice, whatever the device's speed."""
CHECK_SECONDS = 2.0
"""Between two looks at a device that has nothing to do."""
RETRY_SECONDS = 0.5, 5.0
"""From a device's loss to the first attempt to have it back, and between later ones at most."""


class State(enum.Enum):
    """Of the device."""

    LOADING = "loading"
    READY = "ok"
    LOST = "lost"


class Reason(enum.Enum):
    """Why a session ended."""

    STOP = enum.auto()  # with a stop token, which was delivered
    LENGTH = enum.auto()
    CANCELLED = enum.auto()
    FAILED = enum.auto()


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a session ended; ``error`` is there for one that failed."""

    reason: Reason
    error: HostError | None = None


class Sink(Protocol):
    """Where a session's tokens go. Called in the device's thread: it may not block, nor raise."""

    def token(self, token: int) -> None: ...

    def end(self, ending: Ending) -> None:
        """Called once, last of all."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One session so far.

    Members
    -------
    prompt, reused, chosen : tokens of its prompt, those of them that need not be read, its answer's
    waited_s, prompt_s, chosen_s : seconds by the clock from its coming to its first slice, from
        there to its first token, from there to its last
    tokens, cycles, engine_cycles : as of `hw.arch.protocol.Totals`, over all its slices
    """

    prompt: int
    reused: int
    chosen: int
    waited_s: float
    prompt_s: float
    chosen_s: float
    tokens: int
    cycles: int
    engine_cycles: int


@dataclass(kw_only=True)
class Work:
    """What a server has done; counts only grow.

    Members
    -------
    sessions, failed, cancelled : that have come, and those of them that ended so
    read, reused, chosen : tokens of prompts that were read, that need not be, and of answers
    swaps : how often one session's state took another's place
    seconds : in which the device worked
    tokens, cycles, engine_cycles : as of `hw.arch.protocol.Totals`
    longest_wait_s : of all sessions from their coming to their first slice
    """

    sessions: int = 0
    failed: int = 0
    cancelled: int = 0
    read: int = 0
    reused: int = 0
    chosen: int = 0
    swaps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    cycles: int = 0
    engine_cycles: int = 0
    longest_wait_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Status:
    """A scheduler at one moment.

    Members
    -------
    state : of the device; ``error`` says why it is lost
    identity : of the device; None for one that is no machine, or not there yet
    sessions : under way, in the order of their coming; ``slots`` is how many there may be
    slice_s : seconds of a slice while others wait; with a swap it bounds a session's wait for its
        first one to ``(len(sessions) - 1) * (slice_s + swap_s)`` and a token
    swap_s : seconds in which one session's state takes another's place
    """

    state: State
    error: str | None
    identity: Identity | None
    sessions: tuple[Session, ...]
    slots: int
    slice_s: float
    swap_s: float
    totals: Work


class BusyError(HostError):
    """There is no place for a session at present.

    Members
    -------
    retry_after : seconds after which there may be
    """

    def __init__(self, text: str, retry_after: int):
        super().__init__(text)
        self.retry_after = retry_after


class QueueFullError(BusyError):
    """All slots are taken."""


class UnavailableError(BusyError):
    """There is no device."""


class Session:
    """One answer under way.

    Members
    -------
    number : 1, 2, ... in the order of their coming
    request : what is asked for
    """

    def __init__(self, number: int, request: Request, sink: Sink):
        self.number = number
        self.request = request
        self.cancelled = threading.Event()
        self.sink = sink
        self.left = request
        self.read = 0  # tokens that its state has seen
        self.reused = 0
        self.branch = 0  # where the state is to be kept, if it lies ahead
        self.state: np.ndarray | None = None  # unless the device has it
        self.chosen: list[int] = []
        self.tokens = self.cycles = self.engine_cycles = 0
        self._moments = {"came": time.monotonic()}

    def cancel(self) -> None:
        """End it, after the token that is under way if it has the device; from any thread."""
        self.cancelled.set()

    def first_slice(self) -> None:
        """It has the device from now on, if it had not before."""
        self._moments.setdefault("started", time.monotonic())

    def choose(self, token: int) -> None:
        self.chosen.append(token)
        self._moments["last"] = time.monotonic()
        self._moments.setdefault("first", self._moments["last"])
        self.sink.token(token)

    @property
    def sequence(self) -> tuple[int, ...]:
        """The tokens that its state has seen."""
        return (*self.request.prompt, *self.chosen)[: self.read]

    @property
    def figures(self) -> Figures:
        now, moments = time.monotonic(), self._moments
        started = moments.get("started", now)
        first = moments.get("first", now)
        return Figures(
            prompt=len(self.request.prompt),
            reused=self.reused,
            chosen=len(self.chosen),
            waited_s=started - moments["came"],
            prompt_s=first - started,
            chosen_s=moments.get("last", first) - first,
            tokens=self.tokens,
            cycles=self.cycles,
            engine_cycles=self.engine_cycles,
        )


class _Pace:
    """How many tokens a slice has, from how long tokens and swaps took."""

    def __init__(self) -> None:
        self.token_s = math.nan
        self.swap_s = math.nan

    @staticmethod
    def _mean(old: float, new: float) -> float:
        return new if math.isnan(old) else old + (new - old) / 4

    def took(self, tokens: int, seconds: float) -> None:
        self.token_s = self._mean(self.token_s, seconds / tokens)

    def swapped(self, seconds: float) -> None:
        self.swap_s = self._mean(self.swap_s, seconds)

    @property
    def slice_s(self) -> float:
        return max(SLICE_SECONDS, SLICE_SWAPS * self.swap_s)

    def tokens(self, alone: bool) -> int:
        seconds = max(self.slice_s, ALONE_SECONDS) if alone else self.slice_s
        return max(1, min(SLICE_TOKENS, int(seconds / max(self.token_s, 1e-9))))

    def worth_keeping(self, tokens: int) -> bool:
        """Whether it takes longer to read so many tokens than to keep their state."""
        return tokens * self.token_s > self.swap_s


@dataclass
class _Place:
    """The device, and whose state it has."""

    device: Device
    resident: Session | None = None


class Scheduler:
    """Shares one device among sessions.

    Those under way have the device in turn for a slice of some tokens; a short one never waits for
    a long one's end. Between slices states are swapped through the host. A session's tokens are
    those of its request alone on the device, to the bit.

    A device that fails is opened and loaded anew until it is back; sessions under way end with its
    error.

    Parameters
    ----------
    open : callable
        Opens the device, identified and idle; as of `host.urls.open_device`.
    model : IntegerModel
        What it is loaded with.
    slots : int
        Sessions under way at most.
    fail : callable
        Called in the device's thread, which ends then, with what cannot be mended by waiting: the
        first opening or loading fails, or the device has become one that cannot run the model.
    """

    def __init__(
        self,
        open: Callable[[], Device],
        model: IntegerModel,
        *,
        slots: int = 64,
        fail: Callable[[HostError], None] = lambda error: None,
    ):
        self._open = open
        self._model = model
        self._slots = slots
        self._fail = fail
        self._changed = threading.Condition()
        self._closing = False
        self._state = State.LOADING
        self._error: str | None = None
        self._identity: Identity | None = None
        self._pace = _Pace()
        self._prefixes = Prefixes()
        self._sessions: dict[int, Session] = {}
        self._waiting: deque[Session] = deque()
        self._work = Work()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    # Any thread ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the device and serve, in a thread of its own."""
        self._thread.start()

    def close(self, seconds: float = 10.0) -> None:
        """End all sessions and the thread, and close the device; wait so long for it at most."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        for session in self.status().sessions:
            session.cancel()
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def submit(self, request: Request, sink: Sink) -> Session:
        """Begin a session.

        Raises
        ------
        QueueFullError
            All slots are taken.
        UnavailableError
            The device is not there, or not yet.
        """
        with self._changed:
            if self._state != State.READY or self._closing:
                raise UnavailableError(self._error or "the device is being loaded; wait", 2)
            if len(self._present()) >= self._slots:
                wait = math.ceil(self._slots * self._pace.slice_s)
                raise QueueFullError(
                    f"all {self._slots} places at the device are taken; try again later", wait
                )
            self._work.sessions += 1
            session = Session(self._work.sessions, request, sink)
            self._sessions[session.number] = session
            self._waiting.append(session)
            self._changed.notify()
        return session

    def status(self) -> Status:
        with self._changed:
            return Status(
                state=self._state,
                error=self._error,
                identity=self._identity,
                sessions=self._present(),
                slots=self._slots,
                slice_s=self._pace.slice_s,
                swap_s=self._pace.swap_s,
                totals=replace(self._work),
            )

    def _present(self) -> tuple[Session, ...]:
        """Sessions that take a place; one whose client has gone does not."""
        return tuple(s for s in self._sessions.values() if not s.cancelled.is_set())

    # The device's thread -------------------------------------------------------------------------

    def _run(self) -> None:
        wait, longest = RETRY_SECONDS
        was_ready = False
        while not self._closing:
            try:
                with contextlib.closing(self._open()) as device:
                    self._load(device)
                    was_ready, wait = True, RETRY_SECONDS[0]
                    self._serve(_Place(device))
            except ReportedError as error:
                lost = error if isinstance(error, HostError) else HostError(str(error))
                self._lose(lost)
                if not (was_ready and isinstance(lost, DeviceError)):
                    self._fail(lost)
                    return
            except Exception as error:  # whatever is wrong here, others are served again
                logging.getLogger(__name__).exception("the device's thread")
                self._lose(DeviceError(f"the server failed ({error!r}); please report this"))
            with self._changed:
                self._changed.wait_for(lambda: self._closing, wait)
            wait = min(2 * wait, longest)

    def _load(self, device: Device) -> None:
        """Load the model, and see that it runs, how fast, and that states can be kept."""
        device.load(self._model)
        self._pace = pace = _Pace()
        token = self._model.start_token
        for _ in range(2):  # the first time something may be made that is there from then on
            start = time.monotonic()
            list(device.answer(Request.reading([token], resume=False)))
            pace.token_s = time.monotonic() - start
            start = time.monotonic()
            device.restore(device.state())
            pace.swap_s = time.monotonic() - start
        with self._changed:
            self._identity = device.identify()
            self._state, self._error = State.READY, None

    def _lose(self, error: HostError) -> None:
        """The device is gone, and with it what all sessions had there."""
        with self._changed:
            self._state, self._error = State.LOST, str(error)
            self._waiting.clear()
            sessions = list(self._sessions.values())
        for session in sessions:
            self._end(session, Ending(reason=Reason.FAILED, error=error))

    def _end(self, session: Session, ending: Ending) -> None:
        if session.cancelled.is_set():
            ending = Ending(reason=Reason.CANCELLED)
        with self._changed:
            del self._sessions[session.number]
            self._work.failed += ending.reason == Reason.FAILED
            self._work.cancelled += ending.reason == Reason.CANCELLED
        session.sink.end(ending)

    def _serve(self, place: _Place) -> None:
        while (session := self._next(place.device)) is not None:
            ending: Ending | None
            try:
                ending = self._slice(place, session)
            except UsageError as error:  # of this session's, not of the device
                ending = Ending(reason=Reason.FAILED, error=error)
            if ending is None:
                with self._changed:
                    self._waiting.append(session)
                continue
            self._end(session, ending)
            if place.resident is session and self._pace.worth_keeping(session.read):
                self._prefixes.keep(session.sequence, place.device.state())
        for session in list(self._sessions.values()):
            self._end(session, Ending(reason=Reason.CANCELLED))

    def _next(self, device: Device) -> Session | None:
        """The session whose turn it is, once there is one; None at the end of all."""
        while True:
            with self._changed:
                if not self._waiting and not self._closing:
                    self._changed.wait(CHECK_SECONDS)
                if self._closing:
                    return None
                if self._waiting:
                    return self._waiting.popleft()
            device.check()

    def _slice(self, place: _Place, session: Session) -> Ending | None:
        """Take a session a slice further; its ending, if that was the last one."""
        if session.cancelled.is_set():
            return Ending(reason=Reason.CANCELLED)
        if session.read == 0:
            self._first(session)
        most = self._pace.tokens(alone=not self._waiting)
        self._bring(place, session)
        ahead = session.branch - session.read
        if 0 < ahead < most:  # a part ends where a state is to be kept, but no slice does
            ending = self._part(place, session, ahead)
            if ending is not None:
                return ending
            most -= ahead
        return self._part(place, session, most)

    def _part(self, place: _Place, session: Session, most: int) -> Ending | None:
        """Take the session whose state the device has so many tokens further."""
        device, pace = place.device, self._pace
        part = session.left.part(most)
        start = time.monotonic()
        reading = not session.chosen
        chosen = []
        place.resident = None  # until the part has come to its end
        with contextlib.closing(device.answer(part)) as answer:
            for token in answer:
                if session.cancelled.is_set():
                    return Ending(reason=Reason.CANCELLED)
                chosen.append(token)
                self._work.chosen += 1
                session.choose(token)
        place.resident = session
        taken = len(part.prompt) + max(len(chosen) - 1, 0)
        session.read += taken
        seconds = time.monotonic() - start
        pace.took(taken, seconds)
        self._account(session, device.totals(), seconds, len(part.prompt) if reading else 0)
        if session.read == session.branch:
            self._prefixes.keep(session.sequence, device.state())
        left = session.left.after(part, chosen)
        if left is not None:
            session.left = left
            return None
        stopped = chosen[-1] in session.request.stop
        return Ending(reason=Reason.STOP if stopped else Reason.LENGTH)

    def _first(self, session: Session) -> None:
        """Before a session's first slice: what of its prompt need not be read."""
        session.first_slice()
        prompt = session.request.prompt
        reused, session.state = self._prefixes.longest(prompt)
        branch = self._prefixes.branch(prompt)
        if branch > reused and self._pace.worth_keeping(branch - reused):
            session.branch = branch
        if reused:
            session.left = replace(session.left, prompt=prompt[reused:], resume=True)
            session.read = session.reused = reused
        with self._changed:
            work = self._work
            work.reused += reused
            work.longest_wait_s = max(work.longest_wait_s, session.figures.waited_s)

    def _bring(self, place: _Place, session: Session) -> None:
        """Have a session's state in the device, and that of the one before it here."""
        if place.resident is session:
            return
        start = time.monotonic()
        other = place.resident
        swapped = other is not None and other.number in self._sessions
        if other is not None and swapped:
            other.state = place.device.state()
        if session.state is not None:
            place.device.restore(session.state)
            session.state = None
            if swapped:
                self._pace.swapped(time.monotonic() - start)
                with self._changed:
                    self._work.swaps += 1

    def _account(self, session: Session, totals: Totals, seconds: float, read: int) -> None:
        session.tokens += totals.tokens
        session.cycles += totals.cycles
        session.engine_cycles += totals.engine_cycles
        with self._changed:
            work = self._work
            work.read += read
            work.seconds += seconds
            work.tokens += totals.tokens
            work.cycles += totals.cycles
            work.engine_cycles += totals.engine_cycles
