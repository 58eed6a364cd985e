"""Sessions that share a device: every one as if alone, in turn, and none hurt by another."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from dataclasses import replace

import pytest

from host.device import Device, LinkDevice
from host.errors import DeviceError, FitError, HostError, UsageError
from host.request import Request
from host.serve import scheduler
from host.serve.prefixes import Prefixes
from host.serve.scheduler import (
    Ending,
    QueueFullError,
    Reason,
    Scheduler,
    State,
    UnavailableError,
)
from hw.arch.protocol import Command, RunFlag, Totals
from sim.golden_device import GoldenDevice
from sim.models import random_model
from tests.fake_device import GEOMETRY, IDENTITY, FakeDevice, FakePort
from weights.checkpoint import ModelShape

SHAPE = ModelShape(hidden=16, layers=2, intermediate=24, vocabulary=101)
LONG = 30.0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("model"), SHAPE, 5)


def request(prompt, tokens, temperature=0.0, seed=0, stop=None) -> Request:
    return Request.of(prompt, tokens, temperature, seed, stop, vocabulary=SHAPE.vocabulary)


class Collector:
    """A sink that keeps what comes, and sees that nothing comes after the end."""

    def __init__(self):
        self.tokens: list[int] = []
        self.came = queue.SimpleQueue()
        self.ending: Ending | None = None
        self._ended = threading.Event()

    def token(self, token: int) -> None:
        assert self.ending is None
        self.tokens.append(token)
        self.came.put(token)

    def end(self, ending: Ending) -> None:
        assert self.ending is None
        self.ending = ending
        self._ended.set()

    def result(self) -> list[int]:
        assert self._ended.wait(LONG)
        return self.tokens


class Gate:
    """A golden device that gives a token only when it may, or fails."""

    def __init__(self):
        self.device = GoldenDevice()
        self.open = threading.Event()
        self.open.set()
        self.fault: HostError | None = None
        self.read: list[tuple[int, ...]] = []
        self.closed = 0

    def __getattr__(self, name):
        return getattr(self.device, name)

    @property
    def slots(self):
        return [GateSlot(self, slot) for slot in self.device.slots]

    def check(self):
        if self.fault:
            raise self.fault

    def close(self):
        self.closed += 1


class GateSlot:
    """A slot of a `Gate`."""

    def __init__(self, gate, slot):
        self.gate, self.slot = gate, slot
        self.state, self.restore = slot.state, slot.restore

    def answer(self, request, chained=False):
        self.gate.read.append(request.prompt)
        return self._answer(request)

    def _answer(self, request):
        for token in self.slot.answer(request):
            assert self.gate.open.wait(LONG)
            if self.gate.fault:
                raise self.gate.fault
            yield token


def ready(server: Scheduler) -> Scheduler:
    end = time.monotonic() + LONG
    while server.status().state != State.READY:
        assert time.monotonic() < end, server.status()
        time.sleep(0.005)
    return server


@contextlib.contextmanager
def serving(device: Device, model, **options):
    server = Scheduler(lambda: device, model, **options)
    server.start()
    try:
        yield ready(server)
    finally:
        server.close()
        assert not server._thread.is_alive()


def alone(model, request: Request) -> list[int]:
    device = GoldenDevice()
    device.load(model)
    return list(device.answer(request))


REQUESTS = [
    request([(7 * n + i) % 101 for i in range(1 + n % 9)], 1 + 3 * n, 0.5 * (n % 3), seed=n)
    for n in range(24)
]


@pytest.mark.parametrize("tokens", [1, 2, 5, 4096])
def test_each_session_is_as_if_alone(model, monkeypatch, tokens):
    """Slices of any length, all sessions at once."""
    monkeypatch.setattr(scheduler._Pace, "tokens", lambda self, alone: tokens)
    with serving(GoldenDevice(), model) as server:
        sinks = [Collector() for _ in REQUESTS]
        sessions = [server.submit(r, sink) for r, sink in zip(REQUESTS, sinks, strict=True)]
        for wanted, sink, session in zip(REQUESTS, sinks, sessions, strict=True):
            assert sink.result() == alone(model, wanted)
            assert sink.ending == Ending(reason=Reason.LENGTH)
            figures = session.figures
            assert (figures.prompt, figures.chosen) == (len(wanted.prompt), wanted.tokens)
            read = figures.prompt - figures.reused + figures.chosen - 1
            assert figures.tokens == read
            assert min(figures.waited_s, figures.prompt_s, figures.chosen_s) >= 0
        status = server.status()
        assert status.sessions == () and status.totals.sessions == 24
        assert status.totals.chosen == sum(r.tokens for r in REQUESTS)
        assert status.totals.read + status.totals.reused == sum(len(r.prompt) for r in REQUESTS)
        assert status.totals.longest_wait_s >= max(s.figures.waited_s for s in sessions)
        swaps = status.totals.swaps
        assert swaps == 0 if tokens == 4096 else swaps > 24


def test_stop_token_ends_a_session(model):
    free = alone(model, request([3, 4], 40, 1.0, 8))
    wanted = request([3, 4], 40, 1.0, 8, stop=[free[17]])
    with serving(GoldenDevice(), model) as server:
        sink = Collector()
        server.submit(wanted, sink)
        assert sink.result() == free[: free.index(free[17]) + 1]
        assert sink.ending == Ending(reason=Reason.STOP)


def test_a_short_one_does_not_wait_for_a_long_one(model, monkeypatch):
    monkeypatch.setattr(scheduler._Pace, "tokens", lambda self, alone: 3)
    with serving(GoldenDevice(), model) as server:
        long, short = Collector(), Collector()
        server.submit(request([1], 100_000), long)
        long.came.get(timeout=LONG)
        server.submit(request([2, 3], 8), short)
        assert short.result() == alone(model, request([2, 3], 8))
        assert long.ending is None
        (session,) = server.status().sessions
        session.cancel()
        long.result()
        assert long.ending == Ending(reason=Reason.CANCELLED)
    assert long.tokens == alone(model, request([1], len(long.tokens)))


def test_who_goes_away_frees_the_place_within_a_token(model):
    gate = Gate()
    with serving(gate, model, slots=2) as server:
        gate.open.clear()
        gone, second = Collector(), Collector()
        session = server.submit(request([1], 1000), gone)
        server.submit(request([5], 3), second)
        with pytest.raises(QueueFullError, match="all 2 places at the device are taken") as full:
            server.submit(request([6], 3), Collector())
        assert full.value.retry_after >= 1
        session.cancel()
        assert len(server.status().sessions) == 1
        server.submit(request([6], 3), third := Collector())
        gate.open.set()
        assert second.result() == alone(model, request([5], 3))
        assert third.result() == alone(model, request([6], 3))
        assert gone.result() == [] and gone.ending.reason == Reason.CANCELLED
        assert server.status().totals.cancelled == 1


def test_a_device_that_fails_ends_sessions_and_comes_back(model, monkeypatch):
    monkeypatch.setattr(scheduler, "RETRY_SECONDS", (0.05, 0.05))
    gate, away = Gate(), threading.Event()

    def open_device():
        if away.is_set():
            raise DeviceError("x: no such device")
        return gate

    server = Scheduler(open_device, model)
    server.start()
    with contextlib.closing(ready(server)):
        sinks = [Collector() for _ in range(3)]
        for n, sink in enumerate(sinks):
            server.submit(request([n], 1_000_000), sink)
        for sink in sinks:
            sink.came.get(timeout=LONG)
        away.set()
        gate.fault = DeviceError("x: connection lost; connect it again")
        for sink in sinks:
            sink.result()
            assert sink.ending == Ending(reason=Reason.FAILED, error=gate.fault)
        with pytest.raises(UnavailableError, match=r"^x: (connection lost|no such device)"):
            server.submit(request([1], 1), Collector())
        assert server.status().state == State.LOST and server.status().totals.failed == 3
        gate.fault = None
        away.clear()
        ready(server)
        server.submit(REQUESTS[7], again := Collector())
        assert again.result() == alone(model, REQUESTS[7])
        assert gate.closed == 1


def test_a_device_with_nothing_to_do_is_looked_after(model, monkeypatch):
    monkeypatch.setattr(scheduler, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(scheduler, "RETRY_SECONDS", (0.01, 0.01))
    gate = Gate()
    with serving(gate, model) as server:
        gate.fault = DeviceError("x: gone")
        end = time.monotonic() + LONG
        while server.status().error != "x: gone":
            assert time.monotonic() < end
        gate.fault = None
        ready(server)
        assert server.status().error is None


def test_what_waiting_cannot_mend_is_told(model):
    """At the first opening everything; later what is wrong with the device that came back."""

    class Small(GoldenDevice):
        def load(self, model, progress=None):
            raise FitError("model does not fit")

    for open_device, message in (
        (lambda: (_ for _ in ()).throw(DeviceError("x: no such device")), "no such device"),
        (Small, "model does not fit"),
    ):
        failures: list[HostError] = []
        server = Scheduler(open_device, model, fail=failures.append)
        server.start()
        server._thread.join(LONG)
        (failure,) = failures
        assert message in str(failure) and message in server.status().error
        with pytest.raises(UnavailableError, match=message):
            server.submit(request([1], 1), Collector())
        server.close()


def test_what_is_wrong_with_one_session_hurts_no_other(model):
    class Picky(GateSlot):
        def answer(self, request, chained=False):
            if 13 in request.prompt:
                raise UsageError("x: not this one")
            return super().answer(request)

    class Choosy(Gate):
        @property
        def slots(self):
            return [Picky(self, slot) for slot in self.device.slots]

    with serving(Choosy(), model) as server:
        first, second = Collector(), Collector()
        server.submit(request([13], 3), first)
        server.submit(request([1], 3), second)
        assert second.result() == alone(model, request([1], 3))
        assert first.result() == [] and str(first.ending.error) == "x: not this one"
        assert server.status().state == State.READY


def test_closing_ends_all(model):
    gate = Gate()
    with serving(gate, model) as server:
        sinks = [Collector() for _ in range(3)]
        for sink in sinks:
            server.submit(request([1], 1_000_000), sink)
        sinks[0].came.get(timeout=LONG)
    assert [sink.ending.reason for sink in sinks] == [Reason.CANCELLED] * 3
    assert gate.closed == 1
    with pytest.raises(UnavailableError):
        server.submit(request([1], 1), Collector())


# Prompts with a common beginning -----------------------------------------------------------------


def test_a_common_beginning_is_read_once(model):
    """The second prompt that has it makes its state be kept, the third one need not read it."""
    common = list(range(30, 60))
    gate = Gate()
    with serving(gate, model) as server:
        sessions = []
        for n in range(4):
            wanted = request([*common, n, n + 1], 6)
            sessions.append(server.submit(wanted, sink := Collector()))
            assert sink.result() == alone(model, wanted)
        assert [s.figures.reused for s in sessions] == [0, 0, 30, 30]
        assert server.status().totals.reused == 60
        gate.read.clear()
        # A conversation goes on: what was asked and answered is not read again.
        asked = request([90, 91, 92, *range(20)], 10)
        server.submit(asked, sink := Collector())
        answer = sink.result()
        more = request([*asked.prompt, *answer, 5, 6], 10)
        session = server.submit(more, sink := Collector())
        assert sink.result() == alone(model, more)
        assert session.figures.reused == len(asked.prompt) + 9
        assert gate.read[-1] == (answer[-1], 5, 6)


def test_a_state_that_is_kept_costs_no_turn(model, monkeypatch):
    """The slice in which one is kept goes on to the first token, before anyone else's second."""
    monkeypatch.setattr(scheduler._Pace, "tokens", lambda self, alone: 8)
    monkeypatch.setattr(scheduler._Pace, "worth_keeping", lambda self, tokens: True)
    gate = Gate()
    with serving(gate, model) as server:
        gate.open.clear()
        gate.read.clear()
        wanted = [request([50, 51, 52, n], 20) for n in (1, 2, 3)]
        sinks = [Collector() for _ in wanted]
        for each, sink in zip(wanted, sinks, strict=True):
            server.submit(each, sink)
        gate.open.set()
        for each, sink in zip(wanted, sinks, strict=True):
            assert sink.result() == alone(model, each)
    kept = [(50, 51, 52), (2,)]
    assert gate.read[:4] == [(50, 51, 52, 1), *kept, (3,)]
    assert [len(prompt) for prompt in gate.read[4:]] == [1] * 6


def test_prefixes():
    kept = Prefixes(capacity=2, recent=3)
    assert kept.longest((1, 2, 3)) == (0, None)
    assert kept.branch((1, 2, 3, 4)) == 0
    assert kept.branch((1, 2, 9, 9)) == 2
    assert kept.branch((1, 2, 3, 4)) == 3  # the last one is always read
    assert kept.branch((5,)) == kept.branch((5,)) == 0
    a, b, c = object(), object(), object()
    kept.keep([1, 2], a)
    kept.keep([1, 2, 3], b)
    assert kept.longest((1, 2, 3, 4)) == (3, b)
    assert kept.longest((1, 2, 3)) == (2, a)
    assert kept.longest((1, 2)) == (0, None)
    assert kept.longest((1, 9, 3)) == (0, None)
    kept.keep([7], c)
    assert len(kept) == 2
    assert kept.longest((1, 2, 3, 4)) == (2, a)  # b was of no use for longest
    assert kept.longest((7, 7)) == (1, c)


def test_figures_of_a_device_that_counts(model):
    class Counting(GoldenDevice):
        def totals(self):
            tokens = super().totals().tokens
            return Totals(tokens=tokens, cycles=100 * tokens, engine_cycles=30 * tokens)

    with serving(Counting(), model) as server:
        session = server.submit(request([1, 2, 3], 12), sink := Collector())
        sink.result()
        figures = session.figures
        assert (figures.tokens, figures.cycles, figures.engine_cycles) == (14, 1400, 420)
        totals = server.status().totals
        assert (totals.tokens, totals.cycles, totals.engine_cycles) == (14, 1400, 420)
        assert totals.seconds > 0


# Several contexts --------------------------------------------------------------------------------

WIDE = replace(
    GEOMETRY,
    weight_rows=512,
    table_words=1024,
    embedding_words=1024,
    descriptors=256,
    sums=256,
    activations=64,
    multiplicands=256,
    vectors=64,
    states=64,
    tokens=16,
)


def linked(contexts: int, pace: int | None = 1) -> LinkDevice:
    """A device of so many contexts on a line."""
    identity = replace(IDENTITY, geometry=replace(WIDE, contexts=contexts))
    port = FakePort(FakeDevice(identity, pace=pace, vocabulary=SHAPE.vocabulary))
    return LinkDevice(port, patience=0.01, attempts=10, clock_hz=1e10)


def toy_alone(model, request: Request) -> list[int]:
    with linked(1) as device:
        device.load(model)
        return list(device.answer(request))


@pytest.mark.parametrize("tokens", [1, 3, 20, 4096])
@pytest.mark.parametrize("contexts", [2, 4])
def test_each_session_is_as_if_alone_beside_others(model, monkeypatch, contexts, tokens):
    """Slices of any length, more sessions than contexts, beginnings that are kept or not."""
    monkeypatch.setattr(scheduler._Pace, "tokens", lambda self, alone: tokens)
    monkeypatch.setattr(scheduler._Pace, "worth_keeping", lambda self, tokens: True)
    monkeypatch.setattr(scheduler._Pace, "worth_waiting", lambda self, tokens: tokens % 2 == 0)
    common = [70, 71, 72, 73]
    requests = [
        replace(each, prompt=(*common[: n % 5], *each.prompt)) for n, each in enumerate(REQUESTS)
    ]
    with serving(linked(contexts), model) as server:
        assert server.status().contexts == contexts
        sinks = [Collector() for _ in requests]
        sessions = [server.submit(r, sink) for r, sink in zip(requests, sinks, strict=True)]
        for wanted, sink, session in zip(requests, sinks, sessions, strict=True):
            assert sink.result() == toy_alone(model, wanted)
            assert sink.ending == Ending(reason=Reason.LENGTH)
            figures = session.figures
            read = figures.prompt - figures.reused + figures.chosen - 1
            assert (figures.tokens, figures.cycles) == (read, 100 * read)
        totals = server.status().totals
        assert totals.chosen == sum(r.tokens for r in requests)
        assert totals.read + totals.reused == sum(len(r.prompt) for r in requests)
        assert totals.swaps == 0 if tokens == 4096 else totals.swaps > 0
        assert totals.cycles == 100 * totals.tokens


def test_as_many_sessions_as_contexts_run_at_once(model, monkeypatch):
    """None waits for another one's slice, nor for its end, and no state moves."""
    monkeypatch.setattr(scheduler, "ALONE_SECONDS", LONG)
    with serving(linked(4), model) as server:
        sinks = [Collector() for _ in range(4)]
        wanted = [request([n], 1_000_000) for n in range(3)] + [request([9], 8)]
        sessions = [server.submit(r, sink) for r, sink in zip(wanted, sinks, strict=True)]
        for sink in sinks:
            sink.came.get(timeout=LONG)
        assert sinks[3].result() == toy_alone(model, wanted[3])
        server.submit(request([8, 8], 8), late := Collector())
        assert late.result() == toy_alone(model, request([8, 8], 8))
        assert len(server.status().sessions) == 3
        for session, sink in zip(sessions[:3], sinks[:3], strict=True):
            session.cancel()
            tokens = sink.result()
            assert sink.ending == Ending(reason=Reason.CANCELLED)
            assert tokens[:50] == toy_alone(model, replace(session.request, tokens=50))
        assert server.status().totals.swaps == 0


@pytest.mark.parametrize("worth", [True, False])
def test_a_beginning_that_is_kept_while_others_run(model, monkeypatch, worth):
    """Its state is put into a context once nothing runs, unless reading it again is sooner done."""
    monkeypatch.setattr(scheduler._Pace, "tokens", lambda self, alone: 20)
    monkeypatch.setattr(scheduler._Pace, "worth_waiting", lambda self, tokens: worth)
    with serving(linked(4), model) as server:
        asked = request([5, 6, 7], 12)
        server.submit(asked, sink := Collector())
        more = request([*asked.prompt, *sink.result(), 8, 9], 30)
        others = [request([n], 1_000_000) for n in range(3)]
        sinks = [Collector() for _ in others]
        sessions = [server.submit(r, sink) for r, sink in zip(others, sinks, strict=True)]
        for other in sinks:
            other.came.get(timeout=LONG)
        session = server.submit(more, sink := Collector())
        assert sink.result() == toy_alone(model, more)
        assert session.figures.reused == (14 if worth else 0)
        for other, sink in zip(sessions, sinks, strict=True):
            other.cancel()
            assert sink.result()[:80] == toy_alone(model, replace(other.request, tokens=80))


def test_a_device_of_several_contexts_that_fails(model, monkeypatch):
    monkeypatch.setattr(scheduler, "RETRY_SECONDS", (0.05, 0.05))
    device = linked(4)
    with serving(device, model) as server:
        sinks = [Collector() for _ in range(6)]
        for n, sink in enumerate(sinks):
            server.submit(request([n], 1_000_000), sink)
        for sink in sinks:
            sink.came.get(timeout=LONG)
        device.link._port.device.lose_power()
        for sink in sinks:
            sink.result()
            assert sink.ending.reason == Reason.FAILED
            assert "no longer holds the" in str(sink.ending.error)
        ready(server)
        server.submit(REQUESTS[7], again := Collector())
        assert again.result() == toy_alone(model, REQUESTS[7])


def test_closing_ends_all_that_run_beside_each_other(model):
    device = linked(4)
    with serving(device, model) as server:
        sinks = [Collector() for _ in range(6)]
        for sink in sinks:
            server.submit(request([1], 1_000_000), sink)
        sinks[0].came.get(timeout=LONG)
    assert [sink.ending.reason for sink in sinks] == [Reason.CANCELLED] * 6
    assert not device.link._port.device.running and device.link._port.closed


# A prompt that all contexts read ------------------------------------------------------------------


def chains(monkeypatch, most: int = 4096) -> None:
    """All contexts read four times as fast, so many tokens at a time."""
    monkeypatch.setattr(Scheduler, "_gain", staticmethod(lambda device, reading: 4.0))
    monkeypatch.setattr(scheduler, "ALONE_SECONDS", LONG)
    chained = scheduler._Pace.chained
    monkeypatch.setattr(
        scheduler._Pace, "chained", lambda self, prompt: min(most, chained(self, prompt))
    )


def runs_of(device: LinkDevice) -> list[tuple[bool, int, int]]:
    """Of each run: whether all contexts read its prompt, its tokens, and those that it chooses."""
    return [(bool(run[3] & RunFlag.CHAINED), *run[4:6]) for run in device.link._port.device.runs]


def test_a_prompt_alone_is_read_by_all_contexts(model, monkeypatch):
    """Up to the first token, from a beginning that is kept, too; what follows is as any other."""
    chains(monkeypatch)
    monkeypatch.setattr(scheduler._Pace, "worth_keeping", lambda self, tokens: True)
    device, common = linked(4), list(range(30, 42))
    with serving(device, model) as server:
        for n, (kept, pieces) in enumerate(((0, [15, 2]), (0, [12, 6]), (12, [7]))):
            wanted = request([*common, n, n + 1] + [9] * (3 + n), 6, 0.5 * n, seed=n)
            device.link._port.device.runs.clear()
            session = server.submit(wanted, sink := Collector())
            assert sink.result() == toy_alone(model, wanted)
            assert session.figures.reused == kept
            assert session.figures.tokens == len(wanted.prompt) - kept + 5
            together = [(True, length, 1) for length in pieces]  # each run chooses, at least one
            assert runs_of(device) == [*together, (False, 1, 5)]


@pytest.mark.parametrize("contexts", [1, 4])
def test_who_has_no_more_than_a_few_tokens_or_one_context_reads_alone(model, monkeypatch, contexts):
    chains(monkeypatch)
    device = linked(contexts)
    with serving(device, model) as server:
        for length in (1, 4, 14):
            wanted = request([length] * length, 6)
            server.submit(wanted, sink := Collector())
            assert sink.result() == toy_alone(model, wanted)
    chained = [length for chained, length, _ in runs_of(device) if chained]
    assert chained == ([14] if contexts == 4 else [])


def test_who_comes_while_all_contexts_read_waits_for_a_piece(model, monkeypatch):
    """Nobody's state is lost: from then on both have a context, and nothing is read together."""
    chains(monkeypatch, most=8)
    device, reading, go = linked(4), threading.Event(), threading.Event()
    port = device.link._port

    def hold(frame):
        if frame.command == Command.POLL and port.device.running and port.device.chained:
            reading.set()
            assert go.wait(LONG)

    with serving(device, model) as server:
        port.device.runs.clear()
        port.intercept = hold
        long, short = request(list(range(50)), 12, 1.0, 3), request([5] * 9, 7)
        server.submit(long, first := Collector())
        assert reading.wait(LONG)
        server.submit(short, second := Collector())
        go.set()
        assert first.result() == toy_alone(model, long)
        assert second.result() == toy_alone(model, short)
        assert server.status().totals.swaps == 0
    (piece, *later), (_, own) = runs_of(device), sorted({run[0] for run in port.device.runs})
    assert piece == (True, 8, 1) and own == 3
    assert not any(chained for chained, _, _ in later)
    assert [run[0] for run in port.device.runs[:3]] == [3, 2, 3]


def test_pieces_that_all_contexts_read_take_no_longer_than_others_are_to_wait():
    pace = scheduler._Pace(4)
    pace.token_s, pace.swap_s, pace.gain = 0.005, 0.3, 4.0
    assert pace.chained(4) == 0 and pace.chained(5) == 5
    assert pace.chained(10_000) == 200  # of 1.25 ms
    pace.took(200, 0.5, chained=True)  # as long as 50 others, of 10 ms
    assert pace.token_s == pytest.approx(0.00625)
    assert pace.chained(10_000) == 160
    pace.token_s = 3.0
    assert pace.chained(10_000) == 4  # one pass
    pace.gain = 1.6
    assert pace.chained(10_000) == 0


@pytest.mark.parametrize("most", [1, 5, 4096])
def test_each_session_is_as_if_alone_whoever_reads(model, monkeypatch, most):
    """They come one after the other, more and more before the others end, then fewer."""
    chains(monkeypatch, most)
    monkeypatch.setattr(scheduler._Pace, "tokens", lambda self, alone: 9)
    monkeypatch.setattr(scheduler._Pace, "worth_keeping", lambda self, tokens: True)
    device, under_way = linked(4), deque()
    requests = [replace(each, prompt=each.prompt * (1 + n % 5)) for n, each in enumerate(REQUESTS)]
    beside = [0, 0, 1, 2, 0, 3, 6, 6, 0, 0, 1, 1]
    with serving(device, model) as server:
        for n, wanted in enumerate(requests):
            under_way.append((wanted, sink := Collector()))
            server.submit(wanted, sink)
            while len(under_way) > beside[n % len(beside)]:
                expected, sink = under_way.popleft()
                assert sink.result() == toy_alone(model, expected)
        for expected, sink in under_way:
            assert sink.result() == toy_alone(model, expected)
        totals = server.status().totals
        assert totals.read + totals.reused == sum(len(r.prompt) for r in requests)
        assert totals.cycles == 100 * totals.tokens
    assert any(chained for chained, _, _ in runs_of(device)) == (most > 1)
