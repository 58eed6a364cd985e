"""Runs on a device: started, followed to their ends, and proven to be this host's own."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Generator

from host.compiler import Image
from host.errors import DeviceError, HostError, LostError, RefusedError
from host.link import Link
from host.request import Request, Turns
from hw.arch.protocol import (
    POLL_CYCLES,
    SLOWEST_HZ,
    Command,
    MemorySpace,
    PollReply,
    Reason,
    RunRequest,
    argument_struct,
)

STALLED_SECONDS = 60.0
"""Time without a token after which a device that answers late is given up, beside that for the
token itself at `SLOWEST_HZ`."""

CONTEXT = 0
"""The one sequence that a device has."""


class Runs:
    """Runs on the device behind a link, one at a time, each in the turn that was begun last.

    Methods raise DeviceError: LostError once the device does not hold what this host put there.

    Members
    -------
    active : whether a run of this host may be under way
    turns : whose turn the device's is
    """

    def __init__(self, link: Link):
        self.active = False
        self._link = link
        self.turns = Turns(link.name)
        self._session = 0
        self._count = random.randrange(1 << 32)  # so that runs of two hosts differ
        self._run_id = 0  # of the run that the device had last

    def claim(self) -> None:
        """Take the device over for this host, before a model is put into it."""
        self._session = random.randrange(1, 1 << 32)
        self._link.exchange(Command.CLAIM, argument_struct(Command.CLAIM).pack(self._session))
        self._run_id = 0

    def begin(self, resume: bool = False) -> int:
        """A turn of its own on the device, on which nothing runs then; see `Turns.begin`."""
        turn = self.turns.begin(resume)
        if self.active:
            self.stop()
        return turn

    def run(self, turn: int, image: Image, request: Request) -> Generator[int, None, None]:
        """One run of the model of ``image``: a request that fits the token buffer.

        The tokens that it chooses, the last one being of ``stop`` if one is. Closing the iterator
        ends the run.
        """
        self.turns.check(turn)
        prompt, stop = request.prompt, request.stop
        self._link.write(MemorySpace.TOKENS, 0, struct.pack(f"<{len(prompt)}H", *prompt))
        self._count += 1
        self._run_id = self._count % 0xFFFFFFFF + 1
        order = RunRequest(
            context=CONTEXT,
            session=self._session,
            run_id=self._run_id,
            prompt_length=len(prompt),
            generate=max(1, request.tokens),  # there is no run that chooses none
            reset=not request.resume,
            sampled=request.sampled,
            inverse_temperature=request.inverse_temperature,
            noise=request.noise,
            stop_token=stop[0] if stop else None,
        )
        self.active = True
        try:
            self._start(order)
            at, ahead, token = len(prompt), len(prompt), -1
            end = at + order.generate
            while self.active:
                reply = self._chosen(image, at, ahead)
                if not _sensible(image, reply, at, end):
                    raise self._given_up(self._link.nonsense(Command.POLL))
                for token in reply.tokens:
                    at, ahead = at + 1, 1
                    if request.tokens:
                        yield token
                    self.turns.check(turn)
                    if token in stop[1:]:  # the device does not know that it ends the answer
                        self.stop()
                        break
                else:
                    self.active = reply.running or at < reply.produced
            if at < end and token not in stop:
                raise DeviceError(f"{self._link.name}: the run ended too early; start it again")
        except HostError:
            if self.turns.has(turn):
                self.active = False  # nothing to be stopped, or nobody listens
            raise
        finally:
            if self.active and self.turns.has(turn):
                self.stop()

    def _start(self, order: RunRequest) -> None:
        try:
            self._link.exchange(Command.RUN, order.to_bytes())
        except RefusedError as error:
            if error.reason == Reason.LOST:
                raise self._lost("model") from None
            raise

    def _lost(self, what: str) -> LostError:
        return LostError(
            f"{self._link.name}: it no longer holds the {what}: it lost power, was reset, or is "
            "used by another program; load the model again"
        )

    def _chosen(self, image: Image, start: int, ahead: int) -> PollReply:
        """What the run under way has chosen from the buffer's entry ``start`` on, or its end.

        ``ahead`` is how many tokens the device may have to take before it chooses one.
        """
        most = 2 * ahead * image.token_cycles + 2 * POLL_CYCLES
        reply = self._poll(start, most)
        if reply is None:
            raise self._given_up(
                DeviceError(
                    f"{self._link.name}: it runs, but chose no token in {most:,} cycles, more than "
                    "its program can take; load the model again, or reset the board"
                )
            )
        if reply.run_id != self._run_id:
            raise self._lost("run")
        return reply

    def _given_up(self, error: DeviceError) -> DeviceError:
        """The error, once the run that it is about is ended: nobody follows it any more."""
        self._reset()
        return error

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

    def read(self, image: Image, space: MemorySpace, address: int, count: int) -> bytes:
        """What the last run left in a memory; it and what was read before are proven to be that."""
        data = self._link.read(space, address, count)
        self.check(image)
        return data

    def check(self, image: Image) -> None:
        """Raises DeviceError unless the device is there, and its last run is this host's."""
        self._chosen(image, 0xFFFF, 1)

    def stop(self) -> None:
        """End what is running after its current token, and wait for that."""
        self._link.exchange(Command.STOP, argument_struct(Command.STOP).pack(CONTEXT))
        if self._poll(0xFFFF, self._link.attempts * POLL_CYCLES) is None:
            self._reset()
        self.active = False

    def reset(self) -> None:
        """End what is running at once, and with it all turns."""
        self.turns.begin()
        self._reset()
        self.active = False

    def _reset(self) -> None:
        self._link.exchange(Command.RESET)
        self._run_id = 0


def _sensible(image: Image, reply: PollReply, start: int, end: int) -> bool:
    """Whether a reply on the buffer from ``start`` on fits a run that fills it up to ``end``.

    One that did not could make an answer without end.
    """
    chosen = reply.tokens
    return (
        reply.produced <= end
        and len(chosen) <= max(0, reply.produced - start)
        and bool(chosen) == (reply.produced > start)
        and all(token < image.vocabulary for token in chosen)
    )
