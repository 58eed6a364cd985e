"""Devices that run a model, and the one code path for those behind a byte stream."""

from __future__ import annotations

import contextlib
import math
import random
import struct
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from host.compiler import Image, compile_image
from host.errors import DeviceError, FitError, HostError, RefusedError, UsageError
from host.link import Link
from host.ports import Port
from host.request import Request, Stop, Turns, check_tokens
from host.sampling import next_noise
from hw.arch.memories import spaces
from hw.arch.protocol import (
    POLL_CYCLES,
    SLOWEST_HZ,
    Command,
    Identity,
    MemorySpace,
    PollReply,
    Reason,
    RunRequest,
    Totals,
    argument_struct,
)
from weights.fixed import ONE, Scale
from weights.model import IntegerModel

STALLED_SECONDS = 60.0
"""Time without a token after which a device that answers late is given up, beside that for the
token itself at `SLOWEST_HZ`."""

CONTEXT = 0
"""The one sequence that a device has."""

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and the bytes in all."""


class Device(Protocol):
    """What runs a model. `HostError` is all that its methods raise for faults of the outside."""

    def identify(self) -> Identity | None:
        """What the device says of itself; None for one that is no machine."""

    def load(self, model: IntegerModel, progress: Progress | None = None) -> None:
        """Put a model into the device. Raises FitError for one that is too large."""

    def generate(
        self,
        prompt_ids: Sequence[int],
        tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        stop: Stop = None,
    ) -> Iterator[int]:
        """The tokens that follow a prompt, as they come, from the zero state.

        Ends after ``tokens`` tokens or with a token of ``stop``. Temperature 0 is greedy. Closing
        the iterator, or an exception such as KeyboardInterrupt within it, ends the run and
        leaves the device usable. A device has one state: whatever is started on it ends an answer
        that is under way, whose iterator then raises DeviceError.
        """

    def logits(self, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        """After each token of a sequence, from the zero state, the float64 logits of the next."""

    def counters(self) -> list[tuple[str, int]]:
        """Name and cycles of each program step, over all of the last generate or logits."""

    def totals(self) -> Totals:
        """Cycles and tokens over all of the last generate or logits."""

    def stop(self) -> None:
        """End what is running after its current token, and wait for that."""

    def reset(self) -> None:
        """End what is running at once; the model stays loaded."""

    def close(self) -> None: ...


class LinkDevice:
    """A device that speaks ``hw.arch.protocol`` over a port.

    Parameters
    ----------
    port : Port
        Closed by `close`.
    options
        Of the `Link`.
    """

    def __init__(self, port: Port, **options: Any):
        self._link = Link(port, **options)
        self.name = self._link.name
        self.image: Image | None = None
        self._session = 0
        self._run_id = random.randrange(1, 1 << 32)
        self._running = False
        self._turns = Turns(self.name)
        self._totals = Totals()
        self._counters: list[int] = []

    def identify(self) -> Identity:
        return self._link.identify()

    def load(self, model: IntegerModel, progress: Progress | None = None) -> None:
        """Put a model into the device and check it there by checksums.

        What the device already holds, from the last time, is not sent again.

        Raises
        ------
        FitError
            The model is too large.
        DeviceError
            Among others, the memory does not keep what was written.
        """
        geometry = self.identify().geometry
        self.image = None
        self._begin()
        image = compile_image(model, geometry)
        for space, content in image.sections.items():
            size = spaces(geometry)[space].size
            if len(content) > 2 * size:
                raise FitError(
                    f"model does not fit {self.name}: {space.name.lower()} need "
                    f"{len(content) // 2} half-words, it has {size}; "
                    "use a smaller model or a larger device"
                )
        total = sum(map(len, image.sections.values()))
        done = 0

        def step(size: int) -> None:
            nonlocal done
            done += size
            if progress:
                progress(done, total)

        step(0)
        self._session = random.randrange(1, 1 << 32)
        self._link.exchange(Command.CLAIM, argument_struct(Command.CLAIM).pack(self._session))
        for space, content in image.sections.items():
            self._link.fill(space, content, step)
        self.image = image

    def generate(
        self,
        prompt_ids: Sequence[int],
        tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        stop: Stop = None,
    ) -> Iterator[int]:
        """The tokens that follow a prompt, as they come; see `Device.generate`.

        Prompt and tokens may be longer than the device's token buffer: runs of that length follow
        each other, with the state left where it is.

        Raises
        ------
        UsageError
            At once, for an argument that cannot be used.
        DeviceError
            From the iterator; among others, the device has lost the model or its state, or
            something else was started on it.
        """
        image = self._loaded()
        request = Request.of(
            prompt_ids, tokens, temperature, seed, stop, vocabulary=image.vocabulary
        )
        return self._generate(image, request)

    def _generate(self, image: Image, request: Request) -> Iterator[int]:
        capacity = image.geometry.tokens
        turn = self._begin(image)
        prompt, left, noise, reset = list(request.prompt), request.tokens, request.noise, True
        while len(prompt) >= capacity:  # a part that is only read; its one choice is dropped
            part, prompt = prompt[: capacity - 1], prompt[capacity - 1 :]
            for _ in self._run(turn, part, 1, reset=reset):
                pass
            reset = False
        while left:
            last = None
            run = self._run(
                turn,
                prompt,
                min(left, capacity - len(prompt)),
                reset=reset,
                sampled=request.sampled,
                scale=request.inverse_temperature,
                noise=noise,
                stop=request.stop,
            )
            with contextlib.closing(run):
                for token in run:
                    last = token
                    left -= 1
                    if request.sampled:
                        noise = next_noise(noise)
                    yield token
            if last is None or last in request.stop:
                return
            prompt, reset = [last], False

    def _begin(self, image: Image | None = None) -> int:
        """A turn of its own on the device, on which nothing runs then."""
        if self.image is not image:
            raise DeviceError(
                f"{self.name}: another model was loaded before this answer began; start it again"
            )
        turn = self._turns.begin()
        if self._running:
            self.stop()
        self._totals = Totals()
        self._counters = [0] * len(image.steps if image else ())
        return turn

    def _run(
        self,
        turn: int,
        prompt: list[int],
        generate: int,
        *,
        reset: bool,
        sampled: bool = False,
        scale: Scale = ONE,
        noise: int = 1,
        stop: tuple[int, ...] = (),
    ) -> Generator[int, None, None]:
        """One run; the tokens that it chooses, the last one being of ``stop`` if one is."""
        self._turns.check(turn)
        self._link.write(MemorySpace.TOKENS, 0, struct.pack(f"<{len(prompt)}H", *prompt))
        self._run_id = self._run_id % 0xFFFFFFFF + 1
        request = RunRequest(
            context=CONTEXT,
            session=self._session,
            run_id=self._run_id,
            prompt_length=len(prompt),
            generate=generate,
            reset=reset,
            sampled=sampled,
            inverse_temperature=scale,
            noise=noise,
            stop_token=stop[0] if stop else None,
        )
        self._running = True
        try:
            self._start(request)
            at, end, ahead, token = len(prompt), len(prompt) + generate, len(prompt), -1
            while self._running:
                reply = self._next_tokens(at, ahead)
                if not self._sensible(reply, at, end):
                    raise self._given_up(self._link.nonsense(Command.POLL))
                for token in reply.tokens:
                    at, ahead = at + 1, 1
                    yield token
                    self._turns.check(turn)
                    if token in stop[1:]:  # the device does not know that it ends the answer
                        self.stop()
                        break
                else:
                    self._running = reply.running or at < reply.produced
            if at < end and token not in stop:
                raise DeviceError(f"{self.name}: the run ended too early; start it again")
        except HostError:
            if self._turns.has(turn):
                self._running = False  # nothing to be stopped, or nobody listens
            raise
        finally:
            if self._running and self._turns.has(turn):
                self.stop()
        self._account()

    def _start(self, request: RunRequest) -> None:
        try:
            self._link.exchange(Command.RUN, request.to_bytes())
        except RefusedError as error:
            if error.reason == Reason.LOST:
                raise self._lost("model") from None
            raise

    def _lost(self, what: str) -> DeviceError:
        """The device does not hold what this host put there: the model is not to be trusted."""
        self.image = None
        return DeviceError(
            f"{self.name}: it no longer holds the {what}: it lost power, was reset, or is used by "
            "another program; load the model again"
        )

    def _next_tokens(self, start: int, ahead: int) -> PollReply:
        """What the run under way has chosen from the buffer's entry ``start`` on, or its end.

        ``ahead`` is how many tokens the device may have to take before it chooses one.
        """
        most = 2 * ahead * self._loaded().token_cycles + 2 * POLL_CYCLES
        reply = self._poll(start, most)
        if reply is None:
            raise self._given_up(
                DeviceError(
                    f"{self.name}: it runs, but chose no token in {most:,} cycles, more than its "
                    "program can take; load the model again, or reset the board"
                )
            )
        return self._of_this_run(reply)

    def _given_up(self, error: DeviceError) -> DeviceError:
        """The error, once the run that it is about is ended: nobody follows it any more."""
        self._link.exchange(Command.RESET)
        return error

    def _sensible(self, reply: PollReply, start: int, end: int) -> bool:
        """Whether a reply on the buffer from ``start`` on fits a run that fills it up to ``end``.

        One that did not could make an answer without end.
        """
        chosen, vocabulary = reply.tokens, self._loaded().vocabulary
        return (
            reply.produced <= end
            and len(chosen) <= max(0, reply.produced - start)
            and bool(chosen) == (reply.produced > start)
            and all(token < vocabulary for token in chosen)
        )

    def _of_this_run(self, reply: PollReply) -> PollReply:
        """The reply. Raises DeviceError if the device's last run is not this host's last one."""
        if reply.run_id != self._run_id:
            raise self._lost("run")
        return reply

    def _poll(self, start: int, most: int) -> PollReply | None:
        """What there is from the buffer's entry ``start`` on, once that is something or nothing
        runs; None if that takes more than ``most`` cycles.

        Polls that the device answers with nothing count its cycles. One that it does not answer in
        time does not: a device slower than it says is well as long as it answers the rest, until
        it were too slow even at `SLOWEST_HZ`.
        """
        payload = argument_struct(Command.POLL).pack(CONTEXT, start)
        deadline = time.monotonic() + STALLED_SECONDS + most / SLOWEST_HZ
        while most > 0 and time.monotonic() < deadline:
            answer = self._link.attempt(Command.POLL, payload, POLL_CYCLES)
            if answer is None:
                self._link.exchange(Command.IDENTIFY)
                continue
            try:
                reply = PollReply.from_bytes(answer)
            except ValueError:
                raise self._given_up(self._link.nonsense(Command.POLL)) from None
            if reply.tokens or not reply.running or reply.run_id != self._run_id:
                return reply
            most -= POLL_CYCLES
        return None

    def logits(self, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        """Logits after each token; see `Device.logits`."""
        image = self._loaded()
        return self._logits(image, check_tokens(tokens, image.vocabulary, "sequence"))

    def _logits(self, image: Image, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        turn = self._begin(image)
        for position, token in enumerate(tokens):
            for _ in self._run(turn, [token], 1, reset=position == 0):
                pass
            sums = np.frombuffer(self._link.read(MemorySpace.SUMS, 0, 2 * image.vocabulary), "<i4")
            register = self._read_of_run(MemorySpace.REGISTERS, 2 * image.head_scale_register, 2)
            mantissa, exponent = struct.unpack("<Hh", register)
            yield sums.astype(np.float64) * math.ldexp(mantissa, exponent)

    def _read_of_run(self, space: MemorySpace, address: int, count: int) -> bytes:
        """What the last run left in a memory; it and what was read before are proven to be that."""
        data = self._link.read(space, address, count)
        self._next_tokens(0xFFFF, 1)
        return data

    def _account(self) -> None:
        """Add the numbers of the run that has ended; the next one clears them on the device."""
        steps = len(self._counters)
        counts = struct.unpack(f"<{steps}I", self._link.read(MemorySpace.COUNTERS, 0, 2 * steps))
        data = self._read_of_run(MemorySpace.TOTALS, 0, Totals.LAYOUT.size // 2)
        run, sums = Totals.from_bytes(data), self._totals
        self._totals = Totals(
            cycles=sums.cycles + run.cycles,
            engine_cycles=sums.engine_cycles + run.engine_cycles,
            tokens=sums.tokens + run.tokens,
        )
        self._counters = [a + b for a, b in zip(self._counters, counts, strict=True)]

    def counters(self) -> list[tuple[str, int]]:
        return list(zip(self._loaded().steps, self._counters, strict=False))

    def totals(self) -> Totals:
        return self._totals

    def stop(self) -> None:
        self._link.exchange(Command.STOP)
        if self._poll(0xFFFF, self._link.attempts * POLL_CYCLES) is None:
            self._link.exchange(Command.RESET)
        self._running = False

    def reset(self) -> None:
        self._turns.begin()
        self._link.exchange(Command.RESET)
        self._running = False

    def close(self) -> None:
        """Stop what is running, if the device still listens, and close the port."""
        try:
            if self._running:
                self.reset()
        except HostError:
            pass
        finally:
            self._link.close()

    def __enter__(self) -> LinkDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _loaded(self) -> Image:
        if self.image is None:
            raise UsageError(f"{self.name}: no model is loaded; load one first")
        return self.image
