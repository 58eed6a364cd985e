"""The server's clients as people have them: OpenAI's own, programs, a web interface."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import httpx2
import openai
import pytest

from host.errors import DeviceError
from tests.services import LONG, NAME, PROMPT, gated, listening, ready, service_of, wait_for


def talking(address, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url="http://{}:{}/v1".format(*address), api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def address(stories_nano):
    with service_of(stories_nano) as service, listening(service) as address:
        ready(service)
        yield address


# OpenAI's --------------------------------------------------------------------------------------


@pytest.fixture
def client(address):
    with talking(address) as client:
        yield client


def test_openai_gets_models_and_texts(client):
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "tritstream"
    fields = {"model": NAME, "prompt": PROMPT, "max_tokens": 30, "temperature": 0}
    whole = client.completions.create(**fields)
    assert whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == 30
    parts = list(client.completions.create(**fields, stream=True))
    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text


def test_openai_chats(client):
    messages = [{"role": "user", "content": PROMPT}]
    fields = {"model": NAME, "max_tokens": 20, "temperature": 0.8, "seed": 5, "stop": ["Lily"]}
    whole = client.chat.completions.create(messages=messages, **fields)
    content = whole.choices[0].message.content
    stream = client.chat.completions.create(
        messages=messages, **fields, stream=True, stream_options={"include_usage": True}
    )
    parts = list(stream)
    assert parts[-1].usage.total_tokens == whole.usage.total_tokens
    text = "".join(choice.delta.content or "" for part in parts for choice in part.choices)
    assert text == content != ""
    # What was answered goes back as it came.
    answer = whole.choices[0].message.model_dump()
    again = [*messages, answer, {"role": "user", "content": "Then"}]
    more = client.chat.completions.create(messages=again, **fields)
    assert more.usage.prompt_tokens > whole.usage.total_tokens - 1
    assert more.usage.prompt_tokens_details.cached_tokens > 0


def test_openai_raises_what_is_refused(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=NAME, prompt=PROMPT, top_p=0.5)
    assert (caught.value.param, caught.value.code) == ("top_p", "unsupported_value")
    with pytest.raises(openai.NotFoundError, match=NAME):
        client.completions.create(model="other", prompt=PROMPT)


def test_openai_raises_what_goes_wrong_in_a_stream(stories_nano):
    with gated(stories_nano) as (service, device), listening(service) as address:
        with talking(address) as client:
            stream = client.completions.create(model=NAME, prompt=PROMPT, stream=True)
            device.fault = DeviceError("the board: lost; plug it in")
            device.open.set()
            with pytest.raises(openai.APIError, match=r"the board: lost; plug it in"):
                list(stream)


def test_openai_raises_a_wrong_key_and_no_place(stories_nano):
    with (
        gated(stories_nano, slots=1, keys=("right",)) as (service, device),
        listening(service) as address,
    ):
        with talking(address, "wrong") as client, pytest.raises(openai.AuthenticationError):
            client.models.list()
        with talking(address, "right") as client:
            fields = {"model": NAME, "prompt": PROMPT, "max_tokens": 3}
            with client.completions.create(**fields, stream=True) as stream:
                wait_for(lambda: service.scheduler.status().sessions)
                with pytest.raises(openai.RateLimitError, match="all 1 places") as caught:
                    client.completions.create(**fields)
                assert int(caught.value.response.headers["retry-after"]) >= 1
                device.open.set()
                assert list(stream)[-1].choices[0].finish_reason == "length"


# Others ----------------------------------------------------------------------------------------


def test_a_stream_that_is_cut_in_the_middle(stories_nano):
    """The place is free at once, and the device within a token."""
    fields = {"prompt": PROMPT, "max_tokens": 300, "stream": True, "ignore_eos": True}
    with gated(stories_nano) as (service, device), listening(service) as address:
        scheduler = service.scheduler
        device.open.set()
        url = "http://{}:{}/v1/completions".format(*address)
        with httpx2.Client() as client, client.stream("POST", url, json=fields) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: {")
            device.open.clear()
        wait_for(lambda: not scheduler.status().sessions)
        chosen = scheduler.status().totals.chosen
        assert chosen < 300
        device.open.set()
        wait_for(lambda: scheduler.status().totals.cancelled == 1)
        assert scheduler.status().totals.chosen <= chosen + 1


def test_a_web_interface_sends_more_than_it_means(address):
    """The fields that Open WebUI and others send with neutral values."""
    fields = {
        "model": NAME,
        "stream": False,
        "messages": [
            {"role": "system", "content": "You tell stories."},
            {"role": "user", "content": [{"type": "text", "text": PROMPT}]},
        ],
        "max_tokens": 5,
        "temperature": 0,
        "top_p": 1,
        "n": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "logit_bias": {},
        "logprobs": False,
        "tools": [],
        "user": "somebody",
        "metadata": {"chat": "1"},
        "stop": None,
    }
    url = "http://{}:{}/v1/chat/completions".format(*address)
    answer = httpx2.post(url, json=fields)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
    for field, value in (("n", 2), ("logprobs", True), ("top_p", 0.5), ("tools", [{}])):
        refused = httpx2.post(url, json={**fields, field: value})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)


@pytest.mark.parametrize("options", [(), ("--no-stream",)])
def test_llm_on_the_command_line(address, tmp_path, options):
    """Simon Willison's `llm`, by the model file that its manual has."""
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: board\n  model_name: {NAME}\n  api_base: http://{{}}:{{}}/v1\n".format(
            *address
        )
    )
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"}
    given = ("-o", "temperature", "0", "-o", "max_tokens", "12", "--no-log")
    done = subprocess.run(
        [sys.executable, "-m", "llm", "prompt", "-m", "board", *given, *options, PROMPT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    assert done.returncode == 0, done.stderr
    with contextlib.closing(talking(address)) as client:
        messages = [{"role": "user", "content": PROMPT}]
        fields = {"model": NAME, "max_tokens": 12, "temperature": 0}
        answer = client.chat.completions.create(messages=messages, **fields)
    assert done.stdout.strip() == answer.choices[0].message.content.strip() != ""
