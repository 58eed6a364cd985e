"""What a page is told: stories to everyone at their own pace, what the device does, what its engine
waits for."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from host.errors import DeviceError
from host.serve import stories, watch
from host.serve.application import application
from host.serve.scheduler import Scheduler, State, Status, Work
from host.serve.service import Service
from host.serve.stories import Begin, End, Piece, Reader, Stories
from hw.arch.protocol import Identity
from hw.boards import board
from sim.golden_device import GoldenDevice
from weights.text import open_tokenizer

IDENTITY = Identity(
    board="ulx3s_85f",
    geometry=board("ulx3s_85f").machine.geometry,
    clock_hz=70_000_000,
    digest=bytes(16),
)


# Stories ------------------------------------------------------------------------------------------


def piece(name: str, text: str, skipped: bool = False) -> Piece:
    return Piece(id=name, text=text, skipped=skipped)


def test_a_watcher_reads_what_came_since_it_last_looked():
    shown = Stories(shared=True)
    reader = Reader(shown)
    assert list(reader.news()) == []
    shown.begin("a", "Once")
    shown.piece("a", " upon")
    shown.piece("a", " a")
    assert list(reader.news()) == [Begin(id="a", prompt="Once"), piece("a", " upon a")]
    shown.begin("b", "The")
    shown.piece("a", " time")
    assert list(reader.news()) == [piece("a", " time"), Begin(id="b", prompt="The")]
    shown.piece("b", " end")
    shown.end("b", "stop")
    assert list(reader.news()) == [piece("b", " end"), End(id="b", reason="stop")]
    assert list(reader.news()) == []


def test_watchers_do_not_take_from_each_other_and_late_ones_read_all():
    shown = Stories(shared=True)
    first = Reader(shown)
    shown.begin("a", "Once")
    shown.piece("a", " upon")
    assert len(list(first.news())) == 2
    shown.piece("a", " a time")
    shown.end("a", "length")
    late = [Begin(id="a", prompt="Once"), piece("a", " upon a time"), End(id="a", reason="length")]
    assert list(Reader(shown).news()) == late
    assert list(first.news()) == [piece("a", " a time"), late[-1]]


def test_what_a_slow_watcher_left_is_a_gap_and_no_memory():
    shown = Stories(shared=True)
    slow, fast = Reader(shown), Reader(shown)
    shown.begin("a", "Once")
    shown.piece("a", "first")
    assert list(slow.news()) == list(fast.news())
    for number in range(stories.KEPT_PIECES + 2):
        shown.piece("a", f" {number}")
        assert list(fast.news()) == [piece("a", f" {number}")]
    kept = "".join(f" {number}" for number in range(2, stories.KEPT_PIECES + 2))
    assert list(slow.news()) == [piece("a", kept, skipped=True)]
    assert [len(story._pieces) for story in shown] == [stories.KEPT_PIECES]


def test_a_story_is_told_to_its_end_after_it_is_no_longer_kept():
    shown = Stories(shared=True)
    reader = Reader(shown)
    shown.begin("old", "Once")
    assert list(reader.news()) == [Begin(id="old", prompt="Once")]
    shown.piece("old", " more")
    shown.end("old", "cancelled")
    for number in range(stories.KEPT_STORIES):
        shown.begin(f"{number}", "")
        shown.end(f"{number}", "stop")
    assert [story.name for story in shown] == [f"{n}" for n in range(stories.KEPT_STORIES)]
    assert list(reader.news())[:2] == [piece("old", " more"), End(id="old", reason="cancelled")]
    assert list(reader.news()) == []
    assert not reader._read


def test_a_watcher_may_take_news_slowly_while_more_come():
    shown = Stories(shared=True)
    reader = Reader(shown)
    shown.begin("a", "Once")
    news = reader.news()
    assert next(news) == Begin(id="a", prompt="Once")
    shown.piece("a", " upon")
    shown.begin("b", "The")
    shown.end("a", "stop")
    assert list(news) == [piece("a", " upon"), End(id="a", reason="stop")]
    assert list(reader.news()) == [Begin(id="b", prompt="The")]


def test_of_private_stories_nothing_is_kept():
    shown = Stories(shared=False)
    shown.begin("a", "Once")
    shown.piece("a", " upon")
    shown.end("a", "stop")
    assert list(shown) == []
    assert list(Reader(shown).news()) == []


def test_a_long_prompt_is_shown_by_its_end():
    shown = Stories(shared=True)
    shown.begin("a", "x" * stories.KEPT_PROMPT + "end")
    (begin,) = Reader(shown).news()
    assert begin.prompt == "x" * (stories.KEPT_PROMPT - 3) + "end"


# The stream of events ----------------------------------------------------------------------------


@pytest.fixture
def service(stories_nano) -> Service:
    """One whose device is being loaded for ever."""
    return Service(
        name="stories-nano",
        created=0,
        model=stories_nano,
        tokenizer=open_tokenizer(stories_nano.tokenizer_json, "stories-nano"),
        scheduler=Scheduler(GoldenDevice, stories_nano, slots=3),
        device="golden://",
        stories=Stories(shared=True),
    )


def test_a_stream_tells_the_device_first_and_ends_with_the_server(service):
    async def read() -> list[tuple[str, dict]]:
        stream = watch._events(service)
        told = [await anext(stream), await anext(stream)]
        assert service.stories.watchers == 1
        service.stories.begin("a", "Once")
        service.stories.piece("a", "\n upon")
        told += [await anext(stream), await anext(stream)]
        service.stories.end("a", "stop")
        told.append(await anext(stream))
        service.stories.close()
        assert [event async for event in stream if event["event"] != "activity"] == []
        return [(event["event"], json.loads(event["data"])) for event in told]

    machine, activity, *story = asyncio.run(read())
    nothing = {"board": None, "clock_hz": None, "timetable": None}
    assert machine == ("machine", {"model": "stories-nano", "shared": True, **nothing})
    assert activity[0] == "activity"
    assert [activity[1][name] for name in ("state", "streams", "slots")] == ["loading", 0, 3]
    assert story == [
        ("begin", {"id": "a", "prompt": "Once"}),
        ("piece", {"id": "a", "text": "\n upon", "skipped": False}),
        ("end", {"id": "a", "reason": "stop"}),
    ]
    assert service.stories.watchers == 0


def test_there_may_be_too_many_watchers(service):
    client = TestClient(application(service))
    service.stories.watchers = watch.WATCHERS
    answer = client.get("/events")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "too_many_watchers"
    assert int(answer.headers["Retry-After"]) > 0


def test_the_page_needs_no_key_and_its_events_do(service):
    client = TestClient(application(replace(service, keys=("right",))))
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["Content-Security-Policy"] == watch.page_policy(page.text)
    assert client.get("/events").status_code == 401


# Figures ------------------------------------------------------------------------------------------


def status(identity: Identity | None = IDENTITY, **work: float) -> Status:
    return Status(
        state=State.READY,
        error=None,
        identity=identity,
        sessions=(),
        slots=8,
        contexts=1,
        slice_s=0.02,
        swap_s=0.001,
        totals=Work(**work),  # type: ignore[arg-type]
    )


def test_the_activity_is_that_of_the_last_seconds():
    meter = watch.Meter()
    before = dict(chosen=1000, tokens=1000, cycles=9_000_000, engine_cycles=1_000_000, seconds=50.0)
    idle = meter.activity(0.0, status(**before))
    assert (idle.state, idle.error, idle.streams, idle.slots) == ("ok", None, 0, 8)
    assert idle.tokens_per_second is idle.cycles_per_token is idle.engine_share is None
    after = dict(chosen=1040, tokens=1050, cycles=9_700_000, engine_cycles=1_140_000, seconds=52.0)
    busy = meter.activity(1.0, status(**after))
    assert busy.tokens_per_second == 20.0
    assert busy.cycles_per_token == 14_000
    assert busy.engine_share == 0.2
    assert busy.board_tokens_per_second == 5000
    assert meter.activity(1.0 + watch.WINDOW_S, status(**after)).tokens_per_second is None


def test_a_device_that_counts_no_cycles_has_a_pace_alone():
    meter = watch.Meter()
    meter.activity(0.0, status(None, chosen=0, tokens=0, seconds=0.0))
    activity = meter.activity(1.0, status(None, chosen=30, tokens=40, seconds=0.5))
    assert activity.tokens_per_second == 60
    assert activity.cycles_per_token is activity.board_tokens_per_second is None


def test_the_timetable_accounts_for_every_cycle(stories_nano):
    table = watch.timetable(stories_nano, IDENTITY)
    assert table is not None
    assert table.engine_cycles + sum(cycles for *_, cycles in table.waits) == table.cycles
    assert {unit for unit, *_ in table.waits} == {"engine", "vector", "scalar", "sequencer"}
    assert [cycles for *_, cycles in table.waits] == sorted(
        (cycles for *_, cycles in table.waits), reverse=True
    )
    assert min(cycles for *_, cycles in table.waits) > 0


def test_there_is_no_timetable_of_a_memory_that_nobody_knows(stories_nano):
    assert watch.timetable(stories_nano, replace(IDENTITY, board="somebody_s")) is None


def test_there_is_no_timetable_where_it_cannot_be_predicted(stories_nano, monkeypatch):
    def missing(name: str) -> None:
        raise DeviceError(f"{name} is not here")

    monkeypatch.setattr(watch, "simulation", missing)
    watch.timetable.cache_clear()
    assert watch.timetable(stories_nano, IDENTITY) is None
    watch.timetable.cache_clear()


def test_only_the_page_s_own_script_and_style_run():
    text = "<style>p {}</style><script>one();</script><script src=evil></script>"
    digest = base64.b64encode(hashlib.sha256(b"one();").digest()).decode()
    assert f"script-src 'sha256-{digest}';" in watch.page_policy(text)
    policy = watch.page_policy(watch.PAGE.read_text("utf-8"))
    assert len(re.findall("'sha256-", policy)) == 2
    assert "unsafe" not in policy
