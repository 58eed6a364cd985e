"""The server by its endpoints: what programs get is what the device says; refusals are clear."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from host.errors import DeviceError
from host.serve.application import ENDPOINTS, application
from host.serve.guard import host_name
from host.serve.messages import ChatRequest, CompletionRequest, Message, joined
from host.serve.service import Limits
from host.serve.stops import StopText
from host.urls import open_device
from hw.boards import board
from sim.cores import board_library
from sim.golden_device import GoldenDevice
from sim.models import random_model
from tests.services import (
    LIMITS,
    LONG,
    NAME,
    PROMPT,
    Gated,
    gated,
    ready,
    service_of,
    wait_for,
)
from weights.checkpoint import ModelShape
from weights.text import decode

SERVING = Path(__file__).resolve().parents[1] / "docs" / "serving.md"


@pytest.fixture(scope="module")
def service(stories_nano):
    with service_of(stories_nano) as service:
        ready(service)
        yield service


@pytest.fixture(scope="module")
def client(service):
    with TestClient(application(service)) as client:
        yield client


def text(client, **fields):
    answer = client.post("/v1/completions", json={"prompt": PROMPT, "temperature": 0, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(answer) -> list[dict]:
    """What a stream carried, which ends as it must."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.splitlines() if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def expected(service, prompt, tokens, temperature=0.0, seed=0) -> tuple[str, list[int]]:
    """The text that a device of its own says, and its tokens."""
    device = GoldenDevice()
    device.load(service.model)
    ids = [service.model.start_token, *service.tokenizer.encode(prompt).ids]
    chosen = list(device.generate(ids, tokens, temperature, seed, service.model.end_tokens))
    whole = decode(service.tokenizer, [*ids, *chosen])
    return whole.removeprefix(decode(service.tokenizer, ids)), chosen


# Texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "seed"), [(0, 0), (1, 7), (0.6, 4_294_967_295)])
def test_text_is_that_of_the_device(service, client, temperature, seed):
    said, chosen = expected(service, PROMPT, 40, temperature, seed)
    answer = text(client, max_tokens=40, temperature=temperature, seed=seed)
    (choice,) = answer["choices"]
    assert choice == {"index": 0, "text": said, "finish_reason": "length", "logprobs": None}
    assert answer["seed"] == seed and answer["model"] == NAME
    prompt = 1 + len(service.tokenizer.encode(PROMPT).ids)
    usage, timings = answer["usage"], answer["timings"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (prompt, len(chosen))
    assert usage["total_tokens"] == prompt + 40
    assert timings["prompt_n"] + timings["cache_n"] == prompt
    assert timings["cache_n"] == usage["prompt_tokens_details"]["cached_tokens"]
    assert timings["predicted_n"] == 40 and timings["predicted_per_second"] > 0
    assert timings["cycles_per_token"] is None  # the golden model counts none


def test_a_text_ends_with_its_end_token_unless_it_is_ignored(service, client):
    prompt, seed = "The end.", 9
    said, chosen = expected(service, prompt, 300, 1.0, seed)
    assert chosen[-1] in service.model.end_tokens
    fields = {"prompt": prompt, "temperature": 1, "seed": seed}
    answer = text(client, max_tokens=300, **fields)
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == (said, "stop")
    assert answer["usage"]["completion_tokens"] == len(chosen)
    longer = text(client, max_tokens=len(chosen) + 5, ignore_eos=True, **fields)
    assert longer["usage"]["completion_tokens"] == len(chosen) + 5
    assert longer["choices"][0]["finish_reason"] == "length"


def test_a_random_seed_is_told_and_repeats_the_text(client):
    first = text(client, temperature=1, max_tokens=30)
    other = text(client, temperature=1, max_tokens=30)
    again = text(client, temperature=1, max_tokens=30, seed=first["seed"])
    assert again["choices"] == first["choices"]
    assert (first["seed"], first["choices"]) != (other["seed"], other["choices"])


@pytest.mark.parametrize("include_usage", [False, True])
def test_a_stream_is_the_text_in_parts(client, include_usage):
    whole = text(client, max_tokens=60)
    fields = {"prompt": PROMPT, "temperature": 0, "max_tokens": 60, "stream": True}
    fields["stream_options"] = {"include_usage": include_usage}
    parts = events(client.post("/v1/completions", json=fields))
    if include_usage:
        usage = parts.pop()
        assert usage["choices"] == []
        counts = ("prompt_tokens", "completion_tokens", "total_tokens")
        assert [usage["usage"][n] for n in counts] == [whole["usage"][n] for n in counts]
    assert all(part["usage"] is None for part in parts)
    choices = [part["choices"][0] for part in parts]
    assert "".join(choice["text"] for choice in choices) == whole["choices"][0]["text"]
    assert [c["finish_reason"] for c in choices] == [None] * (len(choices) - 1) + ["length"]
    assert len({part["id"] for part in parts}) == 1
    assert parts[-1]["timings"]["predicted_n"] == 60 and parts[-1]["seed"] is not None


def test_a_chat_is_a_text_of_its_messages(client):
    messages = [
        {"role": "system", "content": "A story."},
        {"role": "user", "content": [{"type": "text", "text": t} for t in ("Once upon", " a")]},
        {"role": "assistant", "content": None, "tool_calls": [], "refusal": None},
        {"role": "user", "content": "time", "name": "Tim"},
    ]  # fmt: skip
    fields = {"messages": messages, "temperature": 0, "max_completion_tokens": 20}
    answer = client.post("/v1/chat/completions", json=fields).json()
    said = text(client, prompt="A story. Once upon a time", max_tokens=20)
    (choice,) = answer["choices"]
    assert answer["object"] == "chat.completion"
    content = said["choices"][0]["text"]
    assert choice["message"] == {"role": "assistant", "content": content, "refusal": None}
    assert choice["finish_reason"] == "length"
    parts = events(client.post("/v1/chat/completions", json={**fields, "stream": True}))
    deltas = [part["choices"][0]["delta"] for part in parts]
    assert deltas[0] == {"role": "assistant", "content": ""} and deltas[-1] == {}
    assert "".join(delta["content"] for delta in deltas[:-1]) == content
    assert parts[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("texts", "whole"),
    [
        (["a", "b"], "a b"),
        (["a ", "b"], "a b"),
        (["a", "\nb"], "a\nb"),
        (["", "a", "", "b", ""], "a b"),
        ([" a"], " a"),
    ],
)
def test_messages_are_joined_with_one_blank(texts, whole):
    assert joined([Message(role="user", content=text) for text in texts]) == whole


def test_prompts_of_every_kind(service, client):
    ids = [service.model.start_token, *service.tokenizer.encode(PROMPT).ids]
    said = text(client)["choices"][0]["text"]
    for prompt in ([PROMPT], ids, [ids]):
        assert text(client, prompt=prompt)["choices"][0]["text"] == said
    for prompt in (PROMPT, ids):
        whole = text(client, prompt=prompt, echo=True)
        assert whole["choices"][0]["text"] == PROMPT + said
    fields = {"prompt": PROMPT, "echo": True, "stream": True, "temperature": 0}
    parts = events(client.post("/v1/completions", json=fields))
    assert "".join(part["choices"][0]["text"] for part in parts) == PROMPT + said
    begun = text(client, prompt="")
    assert begun["usage"]["prompt_tokens"] == 1
    assert begun["choices"][0]["text"] == expected(service, "", 12)[0]


# Stop strings ---------------------------------------------------------------------------------


def test_a_text_ends_before_a_stop_string(client):
    whole = text(client, max_tokens=60)["choices"][0]["text"]
    for stop in (whole[20:26], [whole[30:32], whole[11:16]]):
        stops = [stop] if isinstance(stop, str) else stop
        cut = whole[: min(whole.find(each) for each in stops)]
        answer = text(client, max_tokens=60, stop=stop)
        assert answer["choices"][0]["text"] == cut
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["usage"]["completion_tokens"] < 60
        fields = {"prompt": PROMPT, "temperature": 0, "max_tokens": 60, "stop": stop}
        parts = events(client.post("/v1/completions", json={**fields, "stream": True}))
        assert "".join(part["choices"][0]["text"] for part in parts) == cut
        assert parts[-1]["choices"][0]["finish_reason"] == "stop"


LETTERS = st.text("ab", min_size=1, max_size=4)


def first_stop(text: str, stops: list[str]) -> str:
    """The text before the first stop string, letter by letter."""
    for end in range(1, len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            return text[: end - max(map(len, ended))]
    return text


@given(st.lists(st.text("abc", max_size=5), max_size=8), st.lists(LETTERS, min_size=1, max_size=4))
def test_where_a_text_is_cut_does_not_depend_on_its_pieces(pieces, stops):
    whole, out = "".join(pieces), ""
    stopped = StopText(stops)
    for piece in pieces:
        out += stopped.feed(piece)
        assert first_stop(whole, stops).startswith(out)
    out += stopped.finish()
    assert out == first_stop(whole, stops)
    assert stopped.stopped == any(stop in whole for stop in stops)


def test_text_is_held_back_only_while_it_may_be_a_stop_string():
    stop = StopText(["\n\nEnd"])
    assert [stop.feed(piece) for piece in ("one", "\n", "two\n\nE", "nough")] == [
        "one", "", "\ntwo", "\n\nEnough",
    ]  # fmt: skip


# What is taken and what is refused ------------------------------------------------------------

TEXT_NEUTRAL = {
    "n": 1, "best_of": 1, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "typical_p": 1,
    "presence_penalty": 0, "frequency_penalty": 0.0, "repeat_penalty": 1.0, "repetition_penalty": 1,
    "logit_bias": {}, "logprobs": None, "suffix": None, "user": "somebody", "stream": None,
    "stream_options": None, "seed": None, "stop": None, "cache_prompt": True, "model": NAME,
    "max_tokens": None,
}  # fmt: skip
CHAT_NEUTRAL = {
    "tools": [], "tool_choice": "none", "functions": None, "parallel_tool_calls": True,
    "logprobs": False, "top_logprobs": 0, "response_format": {"type": "text"}, "store": False,
    "metadata": {"a": "b"}, "service_tier": "auto", "modalities": ["text"], "n": 1, "top_p": 1,
}  # fmt: skip


def test_fields_that_ask_for_nothing_are_taken(client):
    said = text(client)["choices"][0]["text"]
    assert text(client, **TEXT_NEUTRAL)["choices"][0]["text"] == said
    assert text(client, max_tokens=12.0, seed=5.0)["choices"][0]["text"] == said
    fields = {"messages": [{"role": "user", "content": PROMPT}], "temperature": 0, **CHAT_NEUTRAL}
    answer = client.post("/v1/chat/completions", json=fields)
    assert answer.json()["choices"][0]["message"]["content"] == said


def refused(answer, status, param=None, code=None) -> str:
    """The message of an error in OpenAI's shape."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    (error,) = answer.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert code is None or error["code"] == code
    assert error["message"] and "\n" not in error["message"]
    wanted = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}
    assert error["type"] == wanted.get(status, "invalid_request_error")
    return error["message"]


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"top_p": 0.9}, "top_p", "can only be 1 here, not 0.9"),
        ({"n": 2}, "n", "can only be 1"),
        ({"top_k": 40}, "top_k", "can only be 0 or -1"),
        ({"logprobs": 0}, "logprobs", "must be null"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "at most 0"),
        ({"presence_penalty": 0.1}, "presence_penalty", "can only be 0"),
        ({"nonsense": None}, "nonsense", "not known"),
        ({"my field": 1}, "my field", "my field is not known"),
        ({"max_tokens": "5"}, "max_tokens", "valid integer"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 301}, "max_tokens", "at most 300"),
        ({"max_tokens": True}, "max_tokens", "valid integer"),
        ({"temperature": -1}, "temperature", "must be 0 (greedy) or from 0.01 to 100, not -1"),
        ({"temperature": 1e999}, "temperature", "must be 0 (greedy)"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"seed": 1 << 32}, "seed", "less than or equal to 4294967295"),
        ({"seed": 1.5}, "seed", "valid integer"),
        ({"stop": ["a"] * 5}, "stop", "at most 4"),
        ({"stop": ""}, "stop", "at least 1"),
        ({"stop": ["a", ""]}, "stop.1", "at least 1"),
        ({"stop": 5}, "stop", "valid string"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "left out"),
        ({"stream": "yes"}, "stream", "valid boolean"),
        ({"prompt": ["a", "b"]}, "prompt", "at most 1"),
        ({"prompt": []}, "prompt", "at least 1"),
        ({"prompt": [[1], [2]]}, "prompt", "at most 1"),
        ({"prompt": [1, "a"]}, "prompt.1", "valid integer"),
        ({"prompt": None}, "prompt", "valid string"),
        ({"prompt": {"a": 1}}, "prompt", "valid string"),
        ({"prompt": [448]}, "prompt", "tokens must be from 0 to 447, not 448"),
        ({"prompt": [[]]}, "prompt", "at least one token"),
        ({"prompt": [1] * 201}, "prompt", "at most 200 tokens here, not 201"),
        ({"prompt": "a<|endoftext|>b"}, "prompt", "special tokens"),
    ],
)
def test_what_cannot_be_had_is_refused(client, fields, param, told):
    body = json.dumps({"prompt": PROMPT, **fields}).replace("Infinity", "1e999")
    answer = client.post("/v1/completions", content=body, headers=JSON)
    message = refused(answer, 400, param)
    assert told in message
    assert param is None or param.partition(".")[0] in message


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role", "'system'"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages.0.content", "valid string"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content.0.type",
            "can only be 'text'",
        ),
        ({"tools": [{"type": "function"}]}, "tools", "at most 0"),
        ({"response_format": {"type": "json_object"}}, "response_format.type", "'text'"),
        ({"logprobs": True}, "logprobs", "can only be false here, not True"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens", "max_tokens"),
        ({"prompt": "a"}, "prompt", "not known"),
    ],
)
def test_what_a_chat_cannot_have_is_refused(client, fields, param, told):
    body = {"messages": [{"role": "user", "content": PROMPT}], **fields}
    assert told in refused(client.post("/v1/chat/completions", json=body), 400, param)


def test_another_model_is_not_found(client):
    for answer in (
        client.post("/v1/completions", json={"prompt": PROMPT, "model": "gpt-4"}),
        client.get("/v1/models/gpt-4"),
    ):
        assert NAME in refused(answer, 404, "model", "model_not_found")


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        ("{", JSON, 400, "invalid_json"),
        ("", JSON, 400, "invalid_json"),
        ("[]", JSON, 400, "invalid_json"),
        ("{}", JSON, 400, "missing_parameter"),
        ('{"prompt": "\\ud800"}', JSON, 400, "invalid_json"),
        (b'{"prompt": "\xff"}', JSON, 400, "invalid_json"),
        ("[" * 2000, JSON, 400, "invalid_json"),
        ("{}", {}, 415, "unsupported_media"),
        ("{}", {"content-type": "text/plain"}, 415, "unsupported_media"),
        ("{}", {**JSON, "content-encoding": "gzip"}, 415, "unsupported_media"),
        (" " * 3001, JSON, 413, "body_too_large"),
    ],
)
def test_bodies_that_are_no_request(client, body, headers, status, code):
    answer = client.post("/v1/completions", content=body, headers=headers)
    refused(answer, status, "prompt" if code == "missing_parameter" else None, code)


def test_addresses_that_are_none(client):
    refused(client.get("/v1/nothing"), 404)
    refused(client.get("/v1/models/"), 404, "model")
    answer = client.get("/v1/completions")
    refused(answer, 405)
    assert answer.headers["allow"] == "POST"


# Keys and names -------------------------------------------------------------------------------


def test_a_key_is_needed_but_for_health(stories_nano):
    with service_of(stories_nano, keys=("first-key", "second")) as service:
        ready(service)
        client = TestClient(application(service))
        assert client.get("/health").status_code == 200
        for path in ("/v1/models", "/metrics", "/slots", "/props", "/openapi.json", "/nothing"):
            answer = client.get(path)
            refused(answer, 401, None, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer third", "Bearer ", "Basic second", "second", "Bearer first-keys"):
            refused(client.get("/v1/models", headers={"authorization": wrong}), 401)
        refused(client.get("/v1/models", headers={"authorization": b"Bearer \xe9"}), 401)
        for right in ("Bearer first-key", "bearer second"):
            headers = {"authorization": right}
            assert client.get("/v1/models", headers=headers).status_code == 200


def test_a_server_of_this_machine_is_called_by_its_name(service):
    client = TestClient(application(replace(service, hosts=frozenset({"localhost", "::1"}))))
    for host in ("localhost", "LOCALHOST:8080", "[::1]:80"):
        assert client.get("/health", headers={"host": host}).status_code == 200
    for host in ("evil.example", "localhost.evil.example:8080", "", "[::2]"):
        refused(client.get("/health", headers={"host": host}), 403, None, "wrong_host")


@pytest.mark.parametrize(
    ("header", "name"), [("A.b:1", "a.b"), ("[::1]:8080", "::1"), ("[::1]", "::1"), ("", "")]
)
def test_host_name(header, name):
    assert host_name(header) == name


def test_every_answer_is_guarded(client):
    for answer in (client.get("/health"), client.get("/nothing")):
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers


# The device -----------------------------------------------------------------------------------


@contextlib.contextmanager
def asking(client, **fields):
    """A request in a thread of its own; a list that gets its answer at the end."""
    answers = []

    def ask():
        answers.append(client.post("/v1/completions", json={"prompt": PROMPT, **fields}))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        thread.join(LONG)


def test_one_request_too_many_is_told_when_to_come_again(stories_nano):
    with gated(stories_nano, slots=1) as (service, device):
        client = TestClient(application(service))
        with asking(client) as answers:
            wait_for(lambda: service.scheduler.status().sessions)
            answer = client.post("/v1/completions", json={"prompt": PROMPT})
            refused(answer, 429, None, "queue_full")
            assert int(answer.headers["retry-after"]) >= 1
            (slot,) = client.get("/slots").json()["sessions"]
            assert slot["max_tokens"] == LIMITS.default_tokens and slot["sampled"]
            assert slot["usage"]["completion_tokens"] == 0
            device.open.set()
        assert answers[0].status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_device_that_fails_is_an_error_that_says_why(stories_nano, stream):
    with gated(stories_nano) as (service, device):
        client = TestClient(application(service))
        with asking(client, stream=stream) as answers:
            wait_for(lambda: service.scheduler.status().sessions)
            device.fault = DeviceError("the board: lost; plug it in")
            device.open.set()
        if stream:
            (line,) = [line for line in answers[0].text.splitlines() if line]
            error = json.loads(line.removeprefix("data: "))["error"]
            assert error["message"] == "the board: lost; plug it in"
            assert (error["type"], error["code"]) == ("server_error", "device_failed")
        else:
            assert refused(answers[0], 503) == "the board: lost; plug it in"
            assert answers[0].headers["retry-after"] == "5"


def test_a_lost_device_is_told_until_it_is_back(stories_nano):
    there = threading.Event()
    there.set()
    device = Gated()

    def open_device():
        if not there.is_set():
            raise DeviceError("the board: is not there")
        device.fault = None
        return device

    with service_of(stories_nano, open_device) as service:
        ready(service)
        there.clear()
        device.fault = DeviceError("the board: lost")
        client = TestClient(application(service))
        refused(client.post("/v1/completions", json={"prompt": PROMPT}), 503)
        answer = client.get("/health")
        assert "the board" in refused(answer, 503, None, "lost")
        assert answer.headers["retry-after"]
        refused(client.post("/v1/completions", json={"prompt": PROMPT}), 503)
        there.set()
        ready(service)
        assert client.get("/health").json() == {"status": "ok"}
        assert text(client)["choices"][0]["text"]


def test_a_device_that_is_being_loaded_is_told(stories_nano):
    there = threading.Event()

    def open_device():
        assert there.wait(LONG)
        return GoldenDevice()

    with service_of(stories_nano, open_device) as service:
        client = TestClient(application(service))
        refused(client.get("/health"), 503, None, "loading")
        refused(client.post("/v1/completions", json={"prompt": PROMPT}), 503)
        there.set()
        ready(service)
        assert client.get("/health").status_code == 200


def test_a_fault_of_the_server_is_told_to_its_operator(service, capsys):
    broken = replace(service, tokenizer=None)
    answer = TestClient(application(broken)).post("/v1/completions", json={"prompt": PROMPT})
    assert "NoneType" not in refused(answer, 500, None, "internal_error")
    (line,) = capsys.readouterr().err.splitlines()
    assert "a fault of this program" in line


# What it tells of itself ----------------------------------------------------------------------


def test_models(client):
    entry = {"id": NAME, "object": "model", "created": 1_700_000_000, "owned_by": "tritstream"}
    assert client.get("/v1/models").json() == {"object": "list", "data": [entry]}
    assert client.get(f"/v1/models/{NAME}").json() == entry


def test_props(service, client):
    props = client.get("/props").json()
    assert props["model"]["shape"]["hidden"] == service.model.shape.hidden
    assert props["device"]["url"] == "golden://" and props["device"]["state"] == "ok"
    assert props["limits"]["max_tokens"] == LIMITS.tokens
    assert props["total_slots"] == 64 and props["shared"] is False
    assert "blank" in props["chats"]


def numbers(client) -> dict[str, float]:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.text)
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_metrics_count(client):
    before = numbers(client)
    answer = text(client, prompt="The metrics", max_tokens=7)
    after = numbers(client)
    grown = {name: after[name] - before[name] for name in after}
    assert grown["tritstream_tokens_predicted_total"] == 7
    read = grown["tritstream_prompt_tokens_total"] + grown["tritstream_prompt_tokens_cached_total"]
    assert read == answer["usage"]["prompt_tokens"]
    assert grown["tritstream_sessions_total"] == 1
    assert after["tritstream_up"] == 1 and after["tritstream_slots"] == 64
    assert after["tritstream_requests_processing"] == 0


def references(value) -> Iterator[str]:
    if isinstance(value, dict):
        yield from ([value["$ref"]] if isinstance(value.get("$ref"), str) else [])
        value = list(value.values())
    for item in value if isinstance(value, list) else []:
        yield from references(item)


def test_the_document_has_every_endpoint(client):
    document = client.get("/openapi.json").json()
    described = {(m.upper(), p) for p, methods in document["paths"].items() for m in methods}
    assert described == {(e.method, e.path.replace(":path", "")) for e in ENDPOINTS}
    schemas = document["components"]["schemas"]
    found = set(references(document))
    assert found == {f"#/components/schemas/{name}" for name in schemas}
    assert schemas["CompletionRequest"]["additionalProperties"] is False
    assert "top_p" in schemas["ChatRequest"]["properties"]


def test_the_documents_have_every_endpoint():
    rows = [line for line in SERVING.read_text().splitlines() if line.startswith("| `")]
    told = {
        each for row in rows for each in re.findall("`((?:GET|POST) [^`]*)`", row.split("|")[1])
    }
    assert told == {f"{e.method} {e.path.replace(':path', '')}" for e in ENDPOINTS}


def test_the_documents_have_the_limits():
    limits, text = Limits(), SERVING.read_text()
    for wanted in (
        f"{limits.body_bytes // 1024} KiB",
        f"`--max-prompt` ({limits.prompt_tokens:,}), `--max-tokens` ({limits.tokens:,})",
        f"| {limits.request_s:g} s, headers and body |",
        f"| {limits.send_s:g} s |",
        f"| {limits.connections:,}, or",
    ):
        assert wanted in text


# Whatever comes -------------------------------------------------------------------------------

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = sorted({*CompletionRequest.model_fields, *ChatRequest.model_fields})
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool"]) | VALUES},
        optional={"content": st.text(max_size=8) | VALUES, "tool_calls": VALUES, "name": VALUES},
    ),
    max_size=3,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["/v1/completions", "/v1/chat/completions"]),
    st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), VALUES, max_size=4),
    st.fixed_dictionaries({}, optional={"prompt": st.text(max_size=8), "messages": MESSAGES}),
)
def test_whatever_comes_is_answered_or_refused(client, path, fields, more):
    body = json.dumps({"max_tokens": 1, **fields, **more}).encode("utf-8", "surrogatepass")
    answer = client.post(path, content=body, headers=JSON)
    if answer.status_code != 200:
        assert answer.status_code in (400, 404, 413)
        refused(answer, answer.status_code, answer.json()["error"]["param"])


@pytest.mark.whole
def test_a_simulated_board_counts_its_cycles(tmp_path_factory):
    board_library("sim_tiny")  # made here, so that nobody waits for it below
    shape = ModelShape(hidden=16, layers=1, intermediate=16, vocabulary=64)
    made = random_model(tmp_path_factory.mktemp("model"), shape, 3)
    with service_of(made, lambda: open_device("sim://sim_tiny")) as service:
        ready(service)
        answer = text(
            TestClient(application(service)), prompt=[1, 2, 3], max_tokens=4, ignore_eos=True
        )
    timings, clock = answer["timings"], board("sim_tiny").clock_hz
    assert timings["cycles_per_token"] > 100
    assert 0 < timings["engine_share"] < 1
    assert timings["board_tokens_per_second"] == pytest.approx(clock / timings["cycles_per_token"])
