"""``/v1/completions`` and ``/v1/chat/completions``, whole and as streams."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from host.serve.answers import Answer, take_order
from host.serve.endpoints import Endpoint, EventResponse, json_response
from host.serve.errors import ApiError, api_error
from host.serve.messages import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatRequest,
    Completion,
    CompletionRequest,
    Delta,
    DeltaChoice,
    Finish,
    Reply,
    ReplyChoice,
    TextChoice,
    joined,
)
from host.serve.service import Service

JSON = "application/json"
END_OF_STREAM = "[DONE]"
GOODBYE_S = 2.0
"""Seconds that a stream has for its last words when the server ends."""

Asked = TypeVar("Asked", bound=BaseModel)


# Requests -------------------------------------------------------------------------------------


async def read(service: Service, request: Request, kind: type[Asked]) -> Asked:
    """A request's body.

    Raises
    ------
    ApiError, ValidationError, ClientDisconnect
        It is too long, of another type, or none of these.
    """
    content = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content != JSON or "content-encoding" in request.headers:
        raise ApiError(415, f"the body must be {JSON}, and be said to be", "unsupported_media")
    most = service.limits.body_bytes
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise ApiError(413, f"the body must have at most {most:,} bytes", "body_too_large")
    return kind.model_validate_json(body)


# Two shapes of the same -----------------------------------------------------------------------


class Shape(ABC):
    """How an answer is written, whole and in parts."""

    prefix: str

    def __init__(self, service: Service, answer: Answer):
        self._answer = answer
        self._facts: dict[str, Any] = {
            "id": f"{self.prefix}-{answer.name}",
            "created": int(time.time()),
            "model": service.name,
            "system_fingerprint": service.fingerprint,
        }

    @property
    def _last_facts(self) -> dict[str, Any]:
        """What is known when an answer has come to its end."""
        answer = self._answer
        return {**self._facts, "timings": answer.timings, "seed": answer.order.seed}

    def first(self) -> BaseModel | None:
        """The part of a stream that comes before all text, if there is one."""
        return None

    @abstractmethod
    def part(self, text: str) -> BaseModel: ...

    @abstractmethod
    def last(self) -> BaseModel: ...

    @abstractmethod
    def usage(self) -> BaseModel:
        """The part after the last one, where it was asked for."""

    @abstractmethod
    def whole(self, text: str) -> BaseModel: ...


class TextShape(Shape):
    prefix = "cmpl"

    def _of(
        self, text: str, finish: Finish | None = None, facts: dict[str, Any] | None = None
    ) -> Completion:
        choice = TextChoice(text=text, finish_reason=finish)
        return Completion(choices=[choice], **(facts or self._facts))

    def part(self, text: str) -> Completion:
        return self._of(text)

    def last(self) -> Completion:
        return self._of("", self._answer.finish, self._last_facts)

    def usage(self) -> Completion:
        return Completion(choices=[], usage=self._answer.usage, **self._facts)

    def whole(self, text: str) -> Completion:
        facts = {**self._last_facts, "usage": self._answer.usage}
        return self._of(text, self._answer.finish, facts)


class EchoShape(TextShape):
    """With the prompt before what follows it."""

    def first(self) -> Completion:
        return self._of(self._answer.order.text)

    def whole(self, text: str) -> Completion:
        return super().whole(self._answer.order.text + text)


class ChatShape(Shape):
    prefix = "chatcmpl"

    def _of(
        self, delta: Delta, finish: Finish | None = None, facts: dict[str, Any] | None = None
    ) -> ChatCompletionChunk:
        choice = DeltaChoice(delta=delta, finish_reason=finish)
        return ChatCompletionChunk(choices=[choice], **(facts or self._facts))

    def first(self) -> ChatCompletionChunk:
        return self._of({"role": "assistant", "content": ""})

    def part(self, text: str) -> ChatCompletionChunk:
        return self._of({"content": text})

    def last(self) -> ChatCompletionChunk:
        return self._of({}, self._answer.finish, self._last_facts)

    def usage(self) -> ChatCompletionChunk:
        return ChatCompletionChunk(choices=[], usage=self._answer.usage, **self._facts)

    def whole(self, text: str) -> ChatCompletion:
        assert self._answer.finish
        choice = ReplyChoice(message=Reply(content=text), finish_reason=self._answer.finish)
        return ChatCompletion(choices=[choice], usage=self._answer.usage, **self._last_facts)


# Answers --------------------------------------------------------------------------------------


async def whole(request: Request, answer: Answer, shape: Shape) -> Response:
    """The answer at once; the session ends early if the client goes."""

    async def client_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        answer.close()

    gone = asyncio.create_task(client_gone())
    try:
        text = "".join([piece async for piece in answer.pieces()])
        return json_response(shape.whole(text))
    finally:
        gone.cancel()
        answer.close()


async def events(
    answer: Answer, shape: Shape, include_usage: bool
) -> AsyncIterator[dict[str, str]]:
    """A stream's events. What goes wrong is one, too, and the last one."""
    try:
        if first := shape.first():
            yield {"data": first.model_dump_json()}
        async for piece in answer.pieces():
            yield {"data": shape.part(piece).model_dump_json()}
        yield {"data": shape.last().model_dump_json()}
        if include_usage:
            yield {"data": shape.usage().model_dump_json()}
        yield {"data": END_OF_STREAM}
    except Exception as error:
        yield {"data": api_error(error).json()}


class StreamResponse(EventResponse):
    """An answer as it comes; the session ends early if the client goes."""

    def __init__(self, service: Service, answer: Answer, shape: Shape, include_usage: bool):
        content = events(answer, shape, include_usage)
        headers = {"X-Request-ID": answer.name}  # there before the first token is
        super().__init__(service, content, headers=headers, shutdown_grace_period=GOODBYE_S)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.close()


async def complete_text(service: Service, request: Request) -> Response:
    asked = await read(service, request, CompletionRequest)
    answer = Answer(service, await take_order(service, asked, asked.one_prompt))
    shape = (EchoShape if asked.echo else TextShape)(service, answer)
    if asked.stream:
        return StreamResponse(service, answer, shape, asked.include_usage)
    return await whole(request, answer, shape)


async def complete_chat(service: Service, request: Request) -> Response:
    asked = await read(service, request, ChatRequest)
    answer = Answer(service, await take_order(service, asked, joined(asked.messages)))
    shape = ChatShape(service, answer)
    if asked.stream:
        return StreamResponse(service, answer, shape, asked.include_usage)
    return await whole(request, answer, shape)


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/completions",
        handler=complete_text,
        summary="The text that follows a prompt",
        asks=CompletionRequest,
        answers=Completion,
        media="text/event-stream",
    ),
    Endpoint(
        method="POST",
        path="/v1/chat/completions",
        handler=complete_chat,
        summary="The text that follows messages",
        asks=ChatRequest,
        answers=ChatCompletion,
        media="text/event-stream",
    ),
)
