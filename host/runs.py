"""Runs on a device: started, followed to their ends, and proven to be this host's own."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Generator, Iterator
from dataclasses import replace

from host.compiler import Image
from host.errors import DeviceError, HostError, LostError, RefusedError
from host.hold import Hold
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


class Runs:
    """Runs in one context of a device, one at a time, each in the turn that was begun last.

    Methods raise DeviceError: LostError once the device does not hold what this host put there.

    Members
    -------
    context : its number
    turns : whose turn the context's is
    """

    def __init__(self, hold: Hold, context: int):
        self.context = context
        self.turns = hold.turns[context] = Turns(hold.name)
        self._hold = hold
        self._link = hold.link

    @property
    def active(self) -> bool:
        """Whether a run of this host may be under way here."""
        return self.context in self._hold.ahead

    @property
    def beside(self) -> bool:
        """Whether one may be in another context."""
        return bool(self._hold.ahead.keys() - {self.context})

    @property
    def _ahead(self) -> int:
        """Tokens that the device may have to take before it chooses the run's next one."""
        return self._hold.ahead.get(self.context, 1)

    def begin(self, resume: bool = False) -> int:
        """A turn of its own in the context, in which nothing runs then; see `Turns.begin`."""
        turn = self.turns.begin(resume)
        if self.active:
            self.stop()
        return turn

    def start(self, turn: int, image: Image, request: Request, chained: bool = False) -> None:
        """Start one run of the model of ``image``: a request that fits the token buffer.

        Its prompt is read by all contexts if it is ``chained``, whose states are then lost.
        """
        self.turns.check(turn)
        prompt, stop = request.prompt, request.stop
        at = self.context * image.geometry.tokens
        self._link.write(MemorySpace.TOKENS, at, struct.pack(f"<{len(prompt)}H", *prompt))
        run_id = self._hold.run_ids[self.context] = self._hold.next_id()
        order = RunRequest(
            context=self.context,
            session=self._hold.session,
            run_id=run_id,
            prompt_length=len(prompt),
            generate=max(1, request.tokens),  # there is no run that chooses none
            reset=not request.resume,
            sampled=request.sampled,
            inverse_temperature=request.inverse_temperature,
            noise=request.noise,
            stop_token=stop[0] if stop else None,
            chained=chained and len(prompt) > 1,
        )
        if order.chained:
            for context in self._hold.turns.keys() - {self.context}:
                self._hold.turns[context].begin()
        self._hold.ahead[self.context] = len(prompt)
        with self._ending(turn):
            try:
                self._link.exchange(Command.RUN, order.to_bytes())
            except RefusedError as error:
                if error.reason == Reason.LOST:
                    raise self._lost("model") from None
                raise

    def follow(
        self, turn: int, image: Image, request: Request
    ) -> Generator[int | None, None, None]:
        """The tokens that the run that was started chooses, the last one being of ``stop`` if one
        is; None where there is none yet, and there may be of runs beside it.

        Closing the iterator ends the run.
        """
        stop, at = request.stop, len(request.prompt)
        end, token = at + max(1, request.tokens), -1
        with self._ending(turn):
            while self.active:
                if min(self._hold.ahead.values()) < self._ahead:  # of another one, first
                    reply = self._so_far(at)
                    if not reply.tokens and reply.running:
                        yield None
                        self.turns.check(turn)
                        continue
                else:
                    reply = self._chosen(image, at)
                if not _sensible(image, reply, at, end):
                    raise self._given_up(self._link.nonsense(Command.POLL))
                for token in reply.tokens:
                    at, self._hold.ahead[self.context] = at + 1, 1
                    if request.tokens:
                        yield token
                    self.turns.check(turn)
                    if token in stop[1:]:  # the device does not know that it ends the answer
                        self.stop()
                        break
                else:
                    if not reply.running and at >= reply.produced:
                        self._hold.ahead.pop(self.context, None)
            if at < end and token not in stop:
                raise DeviceError(f"{self._link.name}: the run ended too early; start it again")

    @contextlib.contextmanager
    def _ending(self, turn: int) -> Iterator[None]:
        """Within, whatever ends the turn's run here ends it on the device, too."""
        try:
            yield
        except HostError:
            if self.turns.has(turn):
                self._hold.ahead.pop(self.context, None)  # nothing to be stopped, or nobody listens
            raise
        except BaseException:
            if self.active and self.turns.has(turn):
                self.stop()
            raise

    def _lost(self, what: str) -> LostError:
        return LostError(
            f"{self._link.name}: it no longer holds the {what}: it lost power, was reset, or is "
            "used by another program; load the model again"
        )

    def _so_far(self, start: int) -> PollReply:
        """What the run under way has chosen from the buffer's entry ``start`` on, without waiting:
        there always is the entry before it."""
        answer = self._link.exchange(Command.POLL, self._poll_payload(start - 1))
        reply = self._own(self._understood(answer))
        return replace(reply, tokens=reply.tokens[1:])

    def _chosen(self, image: Image, start: int) -> PollReply:
        """What the run under way has chosen from the buffer's entry ``start`` on, or its end."""
        tokens = self._ahead * image.geometry.contexts
        most = 2 * tokens * image.token_cycles + 2 * POLL_CYCLES
        reply = self._poll(start, most)
        if reply is None:
            raise self._given_up(
                DeviceError(
                    f"{self._link.name}: it runs, but chose no token in {most:,} cycles, more than "
                    "its program can take; load the model again, or reset the board"
                )
            )
        return self._own(reply)

    def _own(self, reply: PollReply) -> PollReply:
        """A reply that tells of this host's last run here."""
        if reply.run_id != self._run_id:
            raise self._lost("run")
        return reply

    @property
    def _run_id(self) -> int:
        return self._hold.run_ids.get(self.context, 0)

    def _given_up(self, error: DeviceError) -> DeviceError:
        """The error, once the run that it is about is ended: nobody follows it any more."""
        self._hold.reset()
        return error

    def _poll(self, start: int, most: int) -> PollReply | None:
        """What there is from the buffer's entry ``start`` on, once that is something or nothing
        runs; None if that takes more than ``most`` cycles.

        Polls that the device answers with nothing count its cycles. One that it does not answer in
        time does not: a device slower than it says is well as long as it answers the rest, until
        it were too slow even at `SLOWEST_HZ`.
        """
        deadline = time.monotonic() + STALLED_SECONDS + most / SLOWEST_HZ
        while most > 0 and time.monotonic() < deadline:
            answer = self._link.attempt(Command.POLL, self._poll_payload(start), POLL_CYCLES)
            if answer is None:
                self._link.exchange(Command.IDENTIFY)
                continue
            reply = self._understood(answer)
            if reply.tokens or not reply.running or reply.run_id != self._run_id:
                return reply
            most -= POLL_CYCLES
        return None

    def _poll_payload(self, start: int) -> bytes:
        return argument_struct(Command.POLL).pack(self.context, start)

    def _understood(self, answer: bytes) -> PollReply:
        try:
            return PollReply.from_bytes(answer)
        except ValueError:
            raise self._given_up(self._link.nonsense(Command.POLL)) from None

    def read(self, image: Image, space: MemorySpace, address: int, count: int) -> bytes:
        """What the last run left in a memory; it and what was read before are proven to be that."""
        data = self._link.read(space, address, count)
        self.check(image)
        return data

    def check(self, image: Image) -> None:
        """Raises DeviceError unless the device is there, and its last run here is this host's."""
        self._chosen(image, 0xFFFF)

    def stop(self) -> None:
        """End what is running here after its current token, and wait for that."""
        self._link.exchange(Command.STOP, argument_struct(Command.STOP).pack(self.context))
        if self._poll(0xFFFF, self._link.attempts * POLL_CYCLES) is None:
            self._hold.reset()
        self._hold.ahead.pop(self.context, None)


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
