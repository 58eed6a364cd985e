"""One thread that owns a device, and sessions that share it slice by slice."""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from host.device import Device, Slot
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
CHAINED_GAIN = 2.0
"""How many times faster all contexts must read a prompt than one does, for them to do so."""
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
    contexts : how many of them the device runs side by side
    slice_s : seconds of a slice while others wait; with the swaps it bounds a session's wait for
        its first one to ``(len(sessions) - 1) // contexts * (slice_s + contexts * swap_s)``, or
        `ALONE_SECONDS` if that is more, and a token
    swap_s : seconds in which one session's state takes another's place
    """

    state: State
    error: str | None
    identity: Identity | None
    sessions: tuple[Session, ...]
    slots: int
    contexts: int
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
        self.prepared = False  # for its first slice
        self.read = 0  # tokens that its state has seen
        self.reused = 0
        self.branch = 0  # where the state is to be kept, if it lies ahead
        self.state: np.ndarray | None = None  # unless the device has it, or it is zero
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
    """How many tokens a slice has, from how long tokens and swaps took, with so many contexts.

    All contexts read a prompt ``gain`` times faster than one does.
    """

    def __init__(self, contexts: int = 1) -> None:
        self.contexts = contexts
        self.gain = 1.0
        self.token_s = math.nan
        self.swap_s = math.nan

    @staticmethod
    def _mean(old: float, new: float) -> float:
        return new if math.isnan(old) else old + (new - old) / 4

    def took(self, tokens: int, seconds: float, chained: bool = False) -> None:
        alike = tokens / self.gain if chained else tokens
        self.token_s = self._mean(self.token_s, seconds / alike)

    def swapped(self, seconds: float) -> None:
        self.swap_s = self._mean(self.swap_s, seconds)

    @property
    def slice_s(self) -> float:
        return max(SLICE_SECONDS, SLICE_SWAPS * self.contexts * self.swap_s)

    def tokens(self, alone: bool) -> int:
        seconds = max(self.slice_s, ALONE_SECONDS) if alone else self.slice_s
        return max(1, self._within(seconds))

    def chained(self, prompt: int) -> int:
        """How many of so many tokens of a prompt all contexts are to read at once, 0 for none.

        A piece of it has the time of a slice while nobody waits, as whoever comes waits for its
        end, but the tokens of a pass at least.
        """
        if self.gain < CHAINED_GAIN or prompt <= self.contexts:
            return 0
        return min(prompt, max(self._within(self.gain * ALONE_SECONDS), self.contexts))

    def _within(self, seconds: float) -> int:
        """Tokens that one context takes in that time, as many as a slice may have."""
        return min(SLICE_TOKENS, int(seconds / max(self.token_s, 1e-9)))

    def worth_keeping(self, tokens: int) -> bool:
        """Whether it takes longer to read so many tokens than to keep their state."""
        return tokens * self.token_s > self.swap_s

    def worth_waiting(self, tokens: int) -> bool:
        """Whether it takes longer to read so many tokens than until nothing runs."""
        return tokens * self.token_s > ALONE_SECONDS


@dataclass(kw_only=True)
class _Part:
    """What runs of a session's answer.

    Members
    -------
    request, answer : it, and its tokens as they come; ``chosen`` are those that have
    left : tokens of the slice that follow it
    chained : all contexts read its prompt, and nothing begins beside it
    start, totals : the time, and what the device had counted, at its begin
    """

    session: Session
    request: Request
    answer: Generator[int | None, None, None]
    left: int
    chained: bool
    totals: Totals
    start: float = field(default_factory=time.monotonic)
    chosen: list[int] = field(default_factory=list)


@dataclass
class _Place:
    """A slot of the device: what runs there, and whose state it has.

    Members
    -------
    kept : a session whose state is to be kept once nothing runs, if it is still there
    """

    slot: Slot
    part: _Part | None = None
    resident: Session | None = None
    kept: Session | None = None


class Scheduler:
    """Shares one device among sessions.

    As many as the device has contexts run side by side. If there are more, those under way have a
    context in turn for a slice of some tokens; a short one never waits for a long one's end. While
    nothing runs, states are swapped through the host. The prompt of one that has the device to
    itself is read by all contexts, in pieces of a slice, where that is much faster. A session's
    tokens are those of its request alone on the device, to the bit.

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
        self._counted = Totals()  # of the device, as far as it is in the work
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
                contexts=self._pace.contexts,
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
                    self._serve(device)
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
        self._pace = pace = _Pace(len(device.slots))
        token, slot = self._model.start_token, device.slots[-1]
        for _ in range(2):  # the first time something may be made that is there from then on
            start = time.monotonic()
            list(slot.answer(Request.reading([token], resume=False)))
            pace.token_s = time.monotonic() - start
            start = time.monotonic()
            slot.restore(slot.state())
            pace.swap_s = time.monotonic() - start
        if pace.contexts > 1:
            pace.gain = self._gain(device, Request.reading([token] * pace.contexts, resume=False))
        device.recount()
        self._counted = Totals()
        with self._changed:
            self._identity = device.identify()
            self._state, self._error = State.READY, None

    @staticmethod
    def _gain(device: Device, reading: Request) -> float:
        """How many times faster all contexts read than one, by the device's cycles; 1 if it counts
        none."""
        cycles = []
        for chained in (False, True):
            device.recount()
            list(device.slots[-1].answer(reading, chained))
            cycles.append(device.totals().cycles)
        return cycles[0] / cycles[1] if cycles[1] else 1.0

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

    def _serve(self, device: Device) -> None:
        places = [_Place(slot) for slot in device.slots]
        try:
            while not self._closing:
                self._fill(device, places)
                busy = [place for place in places if place.part is not None]
                if not busy:
                    self._wait(device)
                start = time.monotonic()
                for place in busy:
                    self._advance(device, places, place)
                with self._changed:
                    self._work.seconds += time.monotonic() - start if busy else 0.0
        finally:
            if any(place.part for place in places):
                with contextlib.suppress(HostError):
                    device.reset()
            for place in places:
                if place.part is not None:
                    place.part.answer.close()
        for session in list(self._sessions.values()):
            self._end(session, Ending(reason=Reason.CANCELLED))

    def _wait(self, device: Device) -> None:
        """Until there is a session; a device with nothing to do is looked after."""
        with self._changed:
            if not self._waiting and not self._closing:
                self._changed.wait(CHECK_SECONDS)
            if self._waiting or self._closing:
                return
        device.check()

    def _fill(self, device: Device, places: list[_Place]) -> None:
        """Give free places to those who wait, in their order, as far as that can be."""
        while free := self._free(places):
            if len(free) == len(places):
                self._keep(places)
            with self._changed:
                session = self._waiting[0] if self._waiting else None
            if session is None:
                return
            place = None
            if not session.cancelled.is_set():
                place = self._place(session, free, alone=len(free) == len(places))
                if place is None:
                    return  # its turn comes when nothing runs
            with self._changed:
                self._waiting.popleft()
            if place is None:
                self._end(session, Ending(reason=Reason.CANCELLED))
                continue
            alone = len(self._sessions) <= len(places)
            sole = len(free) == len(places) and len(self._sessions) == 1
            may_chain = sole and place is places[-1]
            together = self._pace.chained(len(session.left.prompt)) if may_chain else 0
            most = together or self._pace.tokens(alone=alone)
            self._start(device, place, session, most, chained=together > 0)

    @staticmethod
    def _free(places: list[_Place]) -> list[_Place]:
        """Those in which a part may begin."""
        if any(place.part is not None and place.part.chained for place in places):
            return []
        return [place for place in places if place.part is None]

    def _place(self, session: Session, free: list[_Place], *, alone: bool) -> _Place | None:
        """A free place that has the session's state, None if it cannot yet: states are moved only
        if it is alone there, that is while nothing runs."""
        for place in free:
            if place.resident is session:
                return place
        if not session.prepared:
            self._prepare(session, alone)
        place = min(reversed(free), key=self._value)  # the last one is read by all contexts
        other = place.resident if self._value(place) > 1 else None
        if other is None and session.state is None:
            return place
        if not alone:
            return None
        start = time.monotonic()
        if other is not None:
            other.state = place.slot.state()
        place.resident = place.kept = None
        if session.state is not None:
            place.slot.restore(session.state)
            session.state, place.resident = None, session
            if other is not None:
                self._pace.swapped(time.monotonic() - start)
                with self._changed:
                    self._work.swaps += 1
        return place

    def _value(self, place: _Place) -> int:
        """Of what a free place has, for whoever takes it: nothing, a state that may be kept, that
        of a session that waits, the more the sooner its turn comes."""
        other = place.resident
        with self._changed:
            if other in self._waiting and other is not None and not other.cancelled.is_set():
                return 2 + len(self._waiting) - self._waiting.index(other)
        return int(place.kept is not None)

    def _keep(self, places: list[_Place]) -> None:
        """Keep the states of those that have ended, or come to where their beginning parts from
        that of others."""
        for place in places:
            if place.kept is not None:
                self._prefixes.keep(place.kept.sequence, place.slot.state())
                place.kept = None

    def _start(
        self, device: Device, place: _Place, session: Session, most: int, chained: bool = False
    ) -> None:
        """Take a session so many tokens further, in the place that has its state.

        If it is ``chained`` they are of its prompt, and the states of all other places are lost.
        """
        session.first_slice()
        with self._changed:
            longest = max(self._work.longest_wait_s, session.figures.waited_s)
            self._work.longest_wait_s = longest
        ahead = session.branch - session.read
        here = ahead if 0 < ahead < most else most
        part = session.left.part(here)
        place.resident = place.kept = None  # until the part has come to its end
        try:
            answer = place.slot.answer(part, chained)
        except UsageError as error:  # of this session's, not of the device
            self._end(session, Ending(reason=Reason.FAILED, error=error))
            return
        place.part = _Part(
            session=session,
            request=part,
            answer=answer,
            left=most - here,
            chained=chained,
            totals=device.totals(),
        )

    def _advance(self, device: Device, places: list[_Place], place: _Place) -> None:
        """The next token of what runs in a place, if there is one."""
        part = place.part
        assert part is not None
        session, ending = part.session, None
        try:
            token = next(part.answer)
        except StopIteration:
            place.part = None
            self._finish(device, places, place, part)
            return
        except UsageError as error:  # of this session's, not of the device
            ending = Ending(reason=Reason.FAILED, error=error)
        else:
            if session.cancelled.is_set():
                ending = Ending(reason=Reason.CANCELLED)
            elif token is not None:
                part.chosen.append(token)
                self._work.chosen += 1
                session.choose(token)
        if ending is not None:
            place.part = None
            part.answer.close()
            self._end(session, ending)

    def _finish(self, device: Device, places: list[_Place], place: _Place, part: _Part) -> None:
        """A part has come to its end: its session goes on, waits for its next slice, or ends."""
        session, chosen = part.session, part.chosen
        place.resident = session
        reading = len(session.chosen) == len(chosen)
        taken = len(part.request.prompt) + max(len(chosen) - 1, 0)
        session.read += taken
        self._pace.took(taken, time.monotonic() - part.start, part.chained)
        self._account(part, device.totals(), taken, len(part.request.prompt) if reading else 0)
        left = session.left.after(part.request, chosen)
        if left is None:
            stopped = chosen[-1] in session.request.stop
            self._end(session, Ending(reason=Reason.STOP if stopped else Reason.LENGTH))
            place.kept = session if self._pace.worth_keeping(session.read) else None
            return
        session.left = left
        place.kept = session if session.read == session.branch else None
        if not any(other.part for other in places):
            self._keep([place])
        if part.left:
            self._start(device, place, session, part.left, part.chained)
            return
        with self._changed:
            self._waiting.append(session)

    def _prepare(self, session: Session, alone: bool) -> None:
        """Before a session's first slice: what of its prompt need not be read."""
        session.prepared = True
        prompt = session.request.prompt
        reused, state = self._prefixes.longest(prompt)
        if not alone and not self._pace.worth_waiting(reused):
            reused, state = 0, None
        branch = self._prefixes.branch(prompt)
        if branch > reused and self._pace.worth_keeping(branch - reused):
            session.branch = branch
        if state is not None:
            session.state = state
            session.left = replace(session.left, prompt=prompt[reused:], resume=True)
            session.read = session.reused = reused
            with self._changed:
                self._work.reused += reused

    def _account(self, part: _Part, totals: Totals, taken: int, read: int) -> None:
        """What a part's session took: of what the device counted meanwhile, as much as of the
        tokens."""
        session, meanwhile = part.session, totals - part.totals
        if meanwhile.tokens:
            session.tokens += taken
            session.cycles += meanwhile.cycles * taken // meanwhile.tokens
            session.engine_cycles += meanwhile.engine_cycles * taken // meanwhile.tokens
        new, self._counted = totals - self._counted, totals
        with self._changed:
            work = self._work
            work.read += read
            work.tokens += new.tokens
            work.cycles += new.cycles
            work.engine_cycles += new.engine_cycles
