"""Devices that run a model, and the one code path for those behind a byte stream."""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from host.compiler import Image, compile_image
from host.errors import DeviceError, FitError, HostError
from host.hold import Counts, Hold
from host.link import Link
from host.ports import Port
from host.request import Request, Stop, check_tokens
from host.slot import LinkSlot
from hw.arch.memories import spaces
from hw.arch.protocol import (
    Feature,
    Identity,
    MemorySpace,
    Totals,
)
from weights.model import IntegerModel

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and the bytes in all."""


class Slot(Protocol):
    """One of a device's contexts: a sequence of its own beside those of the others.

    All that a device has are used in one thread.
    """

    def answer(self, request: Request, chained: bool = False) -> Generator[int | None, None, None]:
        """The tokens that a request asks for, from the state that it names, as they come.

        None says that there is none yet while others may have some: answers of several slots are
        taken in turn. Ends after ``tokens`` tokens or with a token of ``stop``. Closing the
        iterator, or an exception such as KeyboardInterrupt within it, ends the run and leaves the
        device usable. A slot has one state: whatever is started on it ends an answer that is
        under way, whose iterator then raises DeviceError.

        All contexts of the device read the prompt of an answer of the last slot that is
        ``chained``: until its end nothing else can run, and the states of the others are lost.

        Raises UsageError for a request that resumes where the last answer was not taken to its end.
        """

    def state(self) -> np.ndarray:
        """What the last answer left: int32 (layers, hidden) in units of 2**-16.

        That is all that there is to go on from: of all tokens of a sequence but the last one
        chosen. Raises UsageError if the last answer was not taken to its end, or if something runs
        in another slot.
        """

    def restore(self, state: np.ndarray) -> None:
        """Give it such a state, of whatever slot and device, for the next answer to resume.

        Raises UsageError if something runs in another slot.
        """


class Device(Protocol):
    """What runs a model. `HostError` is all that its methods raise for faults of the outside.

    Answers and states of the device itself are those of its last slot; all contexts read its
    prompts if nothing is kept or runs in another one.
    """

    @property
    def slots(self) -> Sequence[Slot]:
        """Its contexts. Raises UsageError before a model is loaded."""

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
    ) -> Generator[int, None, None]:
        """The tokens that follow a prompt, as they come, from the zero state.

        Ends after ``tokens`` tokens or with a token of ``stop``. Temperature 0 is greedy; else as
        `Slot.answer`.
        """

    def answer(self, request: Request) -> Generator[int, None, None]:
        """`Slot.answer`, which waits for each token."""

    def state(self) -> np.ndarray:
        """See `Slot.state`."""

    def restore(self, state: np.ndarray) -> None:
        """See `Slot.restore`."""

    def logits(self, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        """After each token of a sequence, from the zero state, the float64 logits of the next.

        It ends all answers.
        """

    def verify(self, progress: Progress | None = None) -> None:
        """Raises DeviceError if it does not hold the model any more that was loaded.

        The message names the first place, by memory, half-word and bit. It ends all answers.
        """

    def check(self) -> None:
        """Raises DeviceError if it is gone or has lost a state; nothing may run."""

    def counters(self) -> list[tuple[str, int]]:
        """Name and cycles of each program step, as `totals`; after answers of several slots at
        once, only since a time at which nothing ran."""

    def totals(self) -> Totals:
        """Cycles and tokens of the last answer or logits of the device itself, or of all answers
        of its slots since `recount`."""

    def recount(self) -> None:
        """Count cycles and tokens from zero on; nothing may run."""

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
        self._hold = Hold(self._link)
        self._slots: tuple[LinkSlot, ...] = ()  # until it is asked how many it has

    @property
    def link(self) -> Link:
        """The line to it, for what looks at the line and the memories alone."""
        return self._link

    @property
    def image(self) -> Image | None:
        """The model that it holds."""
        return self._hold.image

    @property
    def slots(self) -> tuple[LinkSlot, ...]:
        self._hold.loaded()
        return self._slots

    def identify(self) -> Identity:
        return self._link.identify()

    def load(self, model: IntegerModel, progress: Progress | None = None) -> None:
        """Put a model into the device and check it there by checksums.

        What the device already holds, from the last time, is not sent again. A memory that lacks
        some is tested before, so that a broken line is known by its name and at once.

        Raises
        ------
        FitError
            The model is too large.
        DeviceError
            Among others, the memory does not keep what was written.
        """
        geometry = self.identify().geometry
        self._hold.image = None
        self._slots = self._slots or tuple(
            LinkSlot(self._hold, context) for context in range(geometry.contexts)
        )
        self._begin(None)
        image = compile_image(model, geometry)
        for space, content in image.sections.items():
            size = spaces(geometry)[space].size
            if len(content) > 2 * size:
                raise FitError(
                    f"model does not fit {self.name}: {space.name.lower()} need "
                    f"{len(content) // 2} half-words, it has {size}; "
                    "use a smaller model or a larger device"
                )
        step = _summed(image, progress)
        self._hold.claim()
        if self._link.fill(image.sections, step):
            self._compare(image, lambda size: None)  # what came last may have gone to the first
        self._hold.image, self._hold.counts = image, Counts(len(image.steps))

    def verify(self, progress: Progress | None = None) -> None:
        """See `Device.verify`; nothing may run."""
        image = self._hold.loaded()
        for slot in self._slots:
            slot.runs.begin()
        self._compare(image, _summed(image, progress))

    def _compare(self, image: Image, step: Callable[[int], None]) -> None:
        for space, content in image.sections.items():
            found = list(self._link.differences(space, content, step))
            if found:
                address, holds, wanted = found[0]
                bits = [str(bit) for bit in range(16) if (holds ^ wanted) >> bit & 1]
                self._hold.image = None
                raise DeviceError(
                    f"{self.name}: {space.name.lower()} do not keep what was loaded: half-word "
                    f"{address} holds 0x{holds:04x} instead of 0x{wanted:04x} (bit "
                    f"{', '.join(bits)}), {len(found)} differ; load again, check clock and power"
                )

    def generate(
        self,
        prompt_ids: Sequence[int],
        tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        stop: Stop = None,
    ) -> Generator[int, None, None]:
        """The tokens that follow a prompt, as they come; see `Device.generate`.

        Raises
        ------
        UsageError
            At once, for an argument that cannot be used.
        DeviceError
            From the iterator; see `LinkSlot.answer`.
        """
        request = Request.of(
            prompt_ids, tokens, temperature, seed, stop, vocabulary=self._hold.loaded().vocabulary
        )
        return self.answer(request)

    def answer(self, request: Request) -> Generator[int, None, None]:
        """The tokens that a request asks for; see `LinkSlot.answer`."""
        *others, own = self.slots
        chained = len(others) > 0 and not any(s.kept or s.runs.active for s in others)
        return self._alone(own.answer(request, chained))

    def _alone(self, answer: Generator[int | None, None, None]) -> Generator[int, None, None]:
        self.recount()
        with contextlib.closing(answer):
            for token in answer:
                if token is not None:
                    yield token

    def state(self) -> np.ndarray:
        """What the last answer left; see `LinkSlot.state`."""
        return self.slots[-1].state()

    def restore(self, state: np.ndarray) -> None:
        """Give it a state to go on from; see `LinkSlot.restore`."""
        self.slots[-1].restore(state)

    def _begin(self, image: Image | None) -> int:
        """A turn of the last slot on a device on which nothing runs then."""
        *_, own = (slot.begin(image) for slot in self._slots)
        return own

    def logits(self, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        """Logits after each token; see `Device.logits`."""
        image = self._hold.loaded()
        self._hold.require(Feature.RESULTS, "its results")
        return self._logits(image, check_tokens(tokens, image.vocabulary, "sequence"))

    def _logits(self, image: Image, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        turn, slot = self._begin(image), self._slots[-1]
        self.recount()
        for position, token in enumerate(tokens):
            for _ in slot.run(turn, image, Request.reading([token], resume=position > 0)):
                pass
            at = slot.part(image, MemorySpace.SUMS)
            sums = np.frombuffer(self._link.read(MemorySpace.SUMS, at, 2 * image.vocabulary), "<i4")
            at = slot.part(image, MemorySpace.REGISTERS) + 2 * image.head_scale_register
            with self._hold.trusting():
                register = slot.runs.read(image, MemorySpace.REGISTERS, at, 2)
            mantissa, exponent = struct.unpack("<Hh", register)
            yield sums.astype(np.float64) * math.ldexp(mantissa, exponent)

    def check(self) -> None:
        image = self._hold.loaded()
        with self._hold.trusting():
            for slot in self._slots:
                slot.runs.check(image)

    def counters(self) -> list[tuple[str, int]]:
        return list(zip(self._hold.loaded().steps, self._hold.counts.steps, strict=False))

    def totals(self) -> Totals:
        return self._hold.counts.totals

    def recount(self) -> None:
        self._hold.counts.clear()

    def stop(self) -> None:
        for slot in self._slots:
            if slot.runs.active:
                slot.runs.stop()

    def reset(self) -> None:
        for slot in self._slots:
            slot.runs.turns.begin()
        self._hold.reset()

    def close(self) -> None:
        """Stop what is running, if the device still listens, and close the port."""
        try:
            if self._hold.ahead:
                self.reset()
        except HostError:
            pass
        finally:
            self._link.close()

    def __enter__(self) -> LinkDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _summed(image: Image, progress: Progress | None) -> Callable[[int], None]:
    """What takes the bytes of one piece of an image after the other, for a ``progress``."""
    total = sum(map(len, image.sections.values()))
    done = 0

    def step(size: int) -> None:
        nonlocal done
        done += size
        if progress:
            progress(done, total)

    step(0)
    return step
