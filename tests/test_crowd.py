"""Many clients at the server of a simulated board: equal texts, short waits, and a command."""

from __future__ import annotations

import contextlib
import http.client
import json
from urllib.parse import urlsplit

import pytest

from sim import crowd
from tests.services import LONG, NAME, PROMPT, wait_for
from weights.files import ZOO

pytestmark = pytest.mark.whole
CLIENTS = 32
TOKENS = 32
"""More than a slice has, which is about 15 here."""


@pytest.fixture(scope="module")
def server():
    with crowd.server("sim://sim_small", ZOO / f"{NAME}.safetensors", CLIENTS) as url:
        yield url


def test_orders_differ():
    orders = crowd.orders(crowd.MOST_CLIENTS, TOKENS)
    assert len({order.prompt for order in orders}) == crowd.MOST_CLIENTS
    assert {order.temperature for order in orders} == {0.0, 1.0}


def test_each_of_a_crowd_gets_the_text_that_it_would_get_alone(server, stories_nano):
    orders = crowd.orders(CLIENTS, TOKENS)
    found = crowd.gather(crowd.Caller(server), orders)
    texts = crowd.expected(stories_nano, orders)
    assert [one.text for one in found.served] == texts
    assert len(set(texts)) > CLIENTS // 2
    # Everyone had a turn before anyone had two, and an answer takes at least two.
    assert max(one.turn_s for one in found.served) < min(one.all_s for one in found.served)
    assert found.swaps >= CLIENTS
    report = crowd.report(found, texts)
    assert f"{CLIENTS} of {CLIENTS}" in report and f"{found.swaps} swaps" in report
    assert f"{CLIENTS - 1} of {CLIENTS}" in crowd.report(found, ["another", *texts[1:]])


@contextlib.contextmanager
def long_stream(url: str):
    """A stream without end that has begun, until its client goes."""
    line = http.client.HTTPConnection(urlsplit(url).netloc, timeout=LONG)
    body = {"prompt": PROMPT, "max_tokens": 4000, "ignore_eos": True, "stream": True}
    line.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = line.getresponse()
    assert json.loads(answer.readline().removeprefix(b"data: "))["choices"][0]["text"]
    with contextlib.closing(line), contextlib.closing(answer):
        yield


def test_a_short_request_is_not_behind_long_ones(server, stories_nano):
    caller = crowd.Caller(server)
    (short,) = crowd.orders(1, 3)
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(long_stream(server))
        assert caller.tell(short).text == crowd.expected(stories_nano, [short])[0]
        assert len(caller.fetch("/slots")["sessions"]) == 6
    wait_for(lambda: not caller.fetch("/slots")["sessions"])


def test_the_command_says_what_it_found(capsys):
    options = ["--device", "native://", "--model", NAME, "--clients", "3", "--tokens", "20"]
    assert crowd.main(options) == 0
    assert "3 of 3 as the golden model says them alone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--url", "http://127.0.0.1:1"], "http://127.0.0.1:1: Connection refused"),
        (["--url", "ftp://here"], "must be http://HOST:PORT"),
        (["--device", "nowhere://"], "the server did not begin"),
    ],
)
def test_what_is_no_server_is_told(capfd, arguments, told):
    assert crowd.main(["--model", NAME, *arguments]) == 1
    assert told in capfd.readouterr().err


def test_a_server_of_another_model_is_told(server, capsys):
    assert crowd.main(["--url", server, "--model", "stories-tiny"]) == 1
    assert f"serves '{NAME}'; say so with --model" in capsys.readouterr().err
