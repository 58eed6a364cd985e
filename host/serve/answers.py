"""One answer: what is asked for, checked, and the text that a session's tokens say, as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import anyio.to_thread

from host.request import Request
from host.serve.errors import ApiError
from host.serve.messages import MOST_SEED, Finish, Generation, PromptDetails, Timings, Usage
from host.serve.scheduler import Ending, Figures, Reason
from host.serve.service import Service
from host.serve.stops import StopText
from hw.arch.protocol import Identity
from weights.commandline import one_line
from weights.errors import ReportedError
from weights.text import TextStream, decode, encode_prompt


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a client wants, once it is known that it can be had.

    Members
    -------
    text : of the prompt
    request : as the device takes it
    stops : strings before which the text ends
    seed : of the sampling
    """

    text: str
    request: Request
    stops: tuple[str, ...]
    seed: int


async def take_order(service: Service, asked: Generation, prompt: str | list[int]) -> Order:
    """The order that a request is, of a text or of tokens as they are.

    Raises
    ------
    ApiError
        It cannot be had.
    """
    if asked.model not in (None, service.name):
        raise ApiError(
            404,
            f"there is no model {asked.model!r} here; it is {service.name!r}",
            "model_not_found",
            param="model",
        )
    limits, model = service.limits, service.model
    wanted = asked.most or min(limits.default_tokens, limits.tokens)
    if wanted > limits.tokens:
        told = f"max_tokens must be at most {limits.tokens} here, not {wanted}"
        raise ApiError(400, told, "invalid_value", param="max_tokens")
    seed = secrets.randbelow(MOST_SEED + 1) if asked.seed is None else asked.seed
    try:
        tokens = await anyio.to_thread.run_sync(_tokens, service, prompt)
        request = Request.of(
            tokens,
            wanted,
            temperature=1.0 if asked.temperature is None else asked.temperature,
            seed=seed,
            stop=() if asked.ignore_eos else model.end_tokens,
            vocabulary=model.shape.vocabulary,
        )
    except ReportedError as error:  # the rest of the request has been checked
        raise ApiError(400, one_line(error), "invalid_value", param="prompt") from error
    if len(tokens) > limits.prompt_tokens:
        raise ApiError(
            400,
            f"the prompt must have at most {limits.prompt_tokens} tokens here, not {len(tokens)}",
            "context_length_exceeded",
            param="prompt",
        )
    text = prompt if isinstance(prompt, str) else decode(service.tokenizer, tokens)
    return Order(text=text, request=request, stops=asked.stops, seed=seed)


def _tokens(service: Service, prompt: str | list[int]) -> list[int]:
    """Those of a text follow the token that begins one."""
    if not isinstance(prompt, str):
        return prompt
    model = service.model
    size = model.shape.vocabulary
    return [model.start_token, *(encode_prompt(service.tokenizer, prompt, size) if prompt else ())]


class Mailbox:
    """Takes a session's tokens from the device's thread to the server's."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[int | Ending] = asyncio.Queue()

    def token(self, token: int) -> None:
        self._put(token)

    def end(self, ending: Ending) -> None:
        self._put(ending)

    def _put(self, item: int | Ending) -> None:
        with contextlib.suppress(RuntimeError):  # the server has ended, and nobody waits any more
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    async def take(self) -> list[int | Ending]:
        """All that has come, at least one."""
        items = [await self._queue.get()]
        while not self._queue.empty():
            items.append(self._queue.get_nowait())
        return items


class Answer:
    """A session under way, and its text.

    Raises
    ------
    QueueFullError, UnavailableError
        From the constructor.

    Members
    -------
    name : of its own, by which it is shown
    order : what is answered
    finish : why the text ended; None until it has
    """

    def __init__(self, service: Service, order: Order):
        self._service = service
        self.name = uuid.uuid4().hex
        self.order = order
        self.finish: Finish | None = None
        self._mailbox = Mailbox()
        self._text = TextStream(service.tokenizer, order.request.prompt)
        self._stops = StopText(order.stops)
        self._taken = 0
        self._session = service.scheduler.submit(order.request, self._mailbox)
        service.stories.begin(self.name, order.text)

    async def pieces(self) -> AsyncIterator[str]:
        """The text, never an empty piece.

        Raises
        ------
        ApiError
            The session was cancelled, as at the server's end.
        HostError
            The device failed.
        """
        while self.finish is None:
            ending, piece = self._read(await self._mailbox.take())
            if piece:
                self._service.stories.piece(self.name, piece)
                yield piece
            if self._stops.stopped:
                self._end("stop")
            elif ending:
                self._conclude(ending)

    def _read(self, items: list[int | Ending]) -> tuple[Ending | None, str]:
        """The ending, if it is among these, and the text that they complete."""
        piece = ""
        for item in items:
            if isinstance(item, Ending):
                return item, piece + self._stops.feed(self._text.finish()) + self._stops.finish()
            self._taken += 1
            if item not in self.order.request.stop:
                piece += self._stops.feed(self._text.feed(item))
            if self._stops.stopped:
                break
        return None, piece

    def _conclude(self, ending: Ending) -> None:
        match ending.reason:
            case Reason.STOP:
                self._end("stop")
            case Reason.LENGTH:
                self._end("length")
            case Reason.FAILED if ending.error:
                self._close("failed")
                raise ending.error
            case _:
                self._close("cancelled")
                raise ApiError(503, "the server ends", "cancelled", headers={"Retry-After": "5"})

    def _end(self, finish: Finish) -> None:
        self.finish = finish
        self._close(finish)

    def close(self) -> None:
        """End it if it has not come to its end; whoever asked for it has gone."""
        self._close("cancelled")

    def _close(self, reason: str) -> None:
        self._session.cancel()
        self._service.stories.end(self.name, reason)

    @property
    def usage(self) -> Usage:
        return usage(self._session.figures, self._taken)

    @property
    def timings(self) -> Timings:
        identity = self._service.scheduler.status().identity
        return timings(self._session.figures, self._taken, identity)


def usage(figures: Figures, chosen: int) -> Usage:
    """Of a session of which so many tokens count."""
    return Usage(
        prompt_tokens=figures.prompt,
        completion_tokens=chosen,
        total_tokens=figures.prompt + chosen,
        prompt_tokens_details=PromptDetails(cached_tokens=figures.reused),
    )


def timings(figures: Figures, chosen: int, identity: Identity | None) -> Timings:
    """Of a session of which so many tokens count, on a device that says this of itself."""
    pace = share = speed = None
    if identity and figures.cycles and figures.tokens:
        pace = figures.cycles / figures.tokens
        share = figures.engine_cycles / figures.cycles
        speed = identity.clock_hz / pace
    seconds = figures.chosen_s
    return Timings(
        cache_n=figures.reused,
        prompt_n=figures.prompt - figures.reused,
        prompt_ms=1e3 * figures.prompt_s,
        predicted_n=chosen,
        predicted_ms=1e3 * seconds,
        predicted_per_second=(figures.chosen - 1) / seconds if seconds > 0 else None,
        wait_ms=1e3 * figures.waited_s,
        cycles_per_token=pace,
        engine_share=share,
        board_tokens_per_second=speed,
    )
