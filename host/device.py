"""Devices that run a model, and the one code path for those behind a byte stream."""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from host.compiler import Image, compile_image
from host.compiler.layout import pack_states, unpack_states
from host.errors import DeviceError, FitError, HostError, LostError, UsageError
from host.link import Link
from host.ports import Port
from host.request import Request, Stop, check_state, check_tokens
from host.runs import Runs
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
    ) -> Generator[int, None, None]:
        """The tokens that follow a prompt, as they come, from the zero state.

        Ends after ``tokens`` tokens or with a token of ``stop``. Temperature 0 is greedy. Closing
        the iterator, or an exception such as KeyboardInterrupt within it, ends the run and
        leaves the device usable. A device has one state: whatever is started on it ends an answer
        that is under way, whose iterator then raises DeviceError.
        """

    def answer(self, request: Request) -> Generator[int, None, None]:
        """`generate` of a request that was made before, from the state that it names.

        Raises UsageError for one that resumes where the last answer was not taken to its end.
        """

    def state(self) -> np.ndarray:
        """What the last answer left: int32 (layers, hidden) in units of 2**-16.

        That is all that there is to go on from: of all tokens of a sequence but the last one
        chosen. Raises UsageError if the last answer was not taken to its end.
        """

    def restore(self, state: np.ndarray) -> None:
        """Give it such a state, of whatever device, for the next answer to resume."""

    def logits(self, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        """After each token of a sequence, from the zero state, the float64 logits of the next."""

    def verify(self, progress: Progress | None = None) -> None:
        """Raises DeviceError if it does not hold the model any more that was loaded.

        The message names the first place, by memory, half-word and bit. Ends a turn.
        """

    def check(self) -> None:
        """Raises DeviceError if it is gone or has lost its last answer's state; nothing may run."""

    def counters(self) -> list[tuple[str, int]]:
        """Name and cycles of each program step, over all of the last generate or logits."""

    def totals(self) -> Totals:
        """Cycles and tokens over all of the last generate or logits."""

    def stop(self) -> None:
        """End what is running after its current token, and wait for that."""

    def reset(self) -> None:
        """End what is running at once; the model stays loaded."""

    def close(self) -> None: ...


@dataclass
class _Sequence:
    """What has led to a device's state.

    Members
    -------
    origin : a state, None for the zero state
    tokens : what the device has read since
    passed : it went on beyond them: it knows but one token that ends a run, and was told late that
        another one did
    """

    origin: np.ndarray | None = None
    tokens: list[int] = field(default_factory=list)
    passed: bool = False


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
        self._runs = Runs(self._link)
        self._totals = Totals()
        self._counters: list[int] = []
        self._sequence = _Sequence()

    @property
    def link(self) -> Link:
        """The line to it, for what looks at the line and the memories alone."""
        return self._link

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
        step = _summed(image, progress)
        self._runs.claim()
        if self._link.fill(image.sections, step):
            self._compare(image, lambda size: None)  # what came last may have gone to the first
        self.image = image

    def verify(self, progress: Progress | None = None) -> None:
        """See `Device.verify`; nothing may run."""
        image = self._loaded()
        self._runs.begin()
        self._compare(image, _summed(image, progress))

    def _compare(self, image: Image, step: Callable[[int], None]) -> None:
        for space, content in image.sections.items():
            found = list(self._link.differences(space, content, step))
            if found:
                address, holds, wanted = found[0]
                bits = [str(bit) for bit in range(16) if (holds ^ wanted) >> bit & 1]
                self.image = None
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
        return self.answer(request)

    def answer(self, request: Request) -> Generator[int, None, None]:
        """The tokens that a request asks for; see `Device.answer` and `generate`."""
        image = self._loaded()
        if request.sampled and not self._has(Feature.SAMPLING):
            raise UsageError(
                f"{self.name}: its bitstream only chooses greedily; ask for a temperature of 0, or "
                "build it with SAMPLING among its machine's features"
            )
        return self._answer(image, request)

    def _answer(self, image: Image, request: Request) -> Generator[int, None, None]:
        turn = self._begin(image, resume=request.resume)
        if not request.resume:
            self._sequence = _Sequence()
        self._take_back(turn, image)
        left: Request | None = request
        while left:
            part = left.part(image.geometry.tokens - 1)
            chosen: list[int] = []
            with contextlib.closing(self._run(turn, image, part)) as run:
                for token in run:
                    chosen.append(token)
                    yield token
            self._sequence.tokens += [*part.prompt, *chosen[:-1]]
            self._sequence.passed = len(chosen) < part.tokens and chosen[-1] != part.stop[0]
            left = left.after(part, chosen)
        self._runs.turns.settle(turn)

    def _begin(self, image: Image | None = None, resume: bool = False) -> int:
        """A turn of its own on the device, on which nothing runs then."""
        if self.image is not image:
            raise DeviceError(
                f"{self.name}: another model was loaded before this answer began; start it again"
            )
        turn = self._runs.begin(resume)
        self._totals = Totals()
        self._counters = [0] * len(image.steps if image else ())
        return turn

    def _run(self, turn: int, image: Image, request: Request) -> Generator[int, None, None]:
        """A run of `Runs`, and then its numbers added to those of the answer."""
        with self._trusting():
            yield from self._runs.run(turn, image, request)
            self._account(image)

    def _take_back(self, turn: int, image: Image) -> None:
        """Make the device have the state of its sequence where it has passed that."""
        sequence = self._sequence
        if not sequence.passed:
            return
        if sequence.origin is not None:
            self._write_state(image, sequence.origin)
        left: Request | None = Request.reading(sequence.tokens, resume=sequence.origin is not None)
        while left:
            part = left.part(image.geometry.tokens - 1)
            with self._trusting():
                for _ in self._runs.run(turn, image, part):
                    pass
            left = left.after(part, ())
        sequence.passed = False

    @contextlib.contextmanager
    def _trusting(self) -> Iterator[None]:
        """Within, a device that turns out to hold something else has no model from then on."""
        try:
            yield
        except LostError:
            self.image = None
            raise

    def state(self) -> np.ndarray:
        """What the last answer left; see `Device.state`.

        Raises
        ------
        DeviceError
            Among others, the device was built without a way to read states.
        """
        image = self._loaded()
        self._runs.turns.check_state()
        self._require(Feature.STATES, "the state of a sequence")
        if self._sequence.tokens:
            turn = self._runs.begin(resume=True)
            self._take_back(turn, image)
            with self._trusting():
                content = self._runs.read(image, MemorySpace.STATES, 0, image.state_halfwords)
            state = unpack_states(content, image.state_shape, image.geometry.elements)
            self._sequence = _Sequence(origin=state)
            self._runs.turns.settle(turn)
        assert self._sequence.origin is not None
        return self._sequence.origin.copy()

    def restore(self, state: np.ndarray) -> None:
        """Give it a state to go on from; see `Device.restore`, and `state` for what is raised."""
        image = self._loaded()
        self._require(Feature.STATES, "the state of a sequence")
        check_state(state, image.state_shape)
        turn = self._runs.begin()
        self._write_state(image, state)
        self._sequence = _Sequence(origin=state.astype(np.int32))
        self._runs.turns.settle(turn)

    def _write_state(self, image: Image, state: np.ndarray) -> None:
        self._link.put(MemorySpace.STATES, 0, pack_states(state, image.geometry.elements))

    def _require(self, feature: Feature, what: str) -> None:
        if not self._has(feature):
            raise DeviceError(
                f"{self.name}: its bitstream keeps {what} to itself; "
                f"build it with {feature.name} among its machine's features"
            )

    def _has(self, feature: Feature) -> bool:
        return bool(self.identify().features & feature)

    def logits(self, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        """Logits after each token; see `Device.logits`."""
        image = self._loaded()
        self._require(Feature.RESULTS, "its results")
        return self._logits(image, check_tokens(tokens, image.vocabulary, "sequence"))

    def _logits(self, image: Image, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        turn = self._begin(image)
        for position, token in enumerate(tokens):
            for _ in self._run(turn, image, Request.reading([token], resume=position > 0)):
                pass
            sums = np.frombuffer(self._link.read(MemorySpace.SUMS, 0, 2 * image.vocabulary), "<i4")
            at = 2 * image.head_scale_register
            with self._trusting():
                register = self._runs.read(image, MemorySpace.REGISTERS, at, 2)
            mantissa, exponent = struct.unpack("<Hh", register)
            yield sums.astype(np.float64) * math.ldexp(mantissa, exponent)

    def _account(self, image: Image) -> None:
        """Add the numbers of the run that has ended; the next one clears them on the device.

        Of a device that counts nothing they stay zero.
        """
        if not self._has(Feature.COUNTERS):
            return
        steps = len(self._counters)
        counts = struct.unpack(f"<{steps}I", self._link.read(MemorySpace.COUNTERS, 0, 2 * steps))
        data = self._runs.read(image, MemorySpace.TOTALS, 0, Totals.LAYOUT.size // 2)
        run, sums = Totals.from_bytes(data), self._totals
        self._totals = Totals(
            cycles=sums.cycles + run.cycles,
            engine_cycles=sums.engine_cycles + run.engine_cycles,
            tokens=sums.tokens + run.tokens,
        )
        self._counters = [a + b for a, b in zip(self._counters, counts, strict=True)]

    def check(self) -> None:
        image = self._loaded()
        with self._trusting():
            self._runs.check(image)

    def counters(self) -> list[tuple[str, int]]:
        return list(zip(self._loaded().steps, self._counters, strict=False))

    def totals(self) -> Totals:
        return self._totals

    def stop(self) -> None:
        self._runs.stop()

    def reset(self) -> None:
        self._runs.reset()

    def close(self) -> None:
        """Stop what is running, if the device still listens, and close the port."""
        try:
            if self._runs.active:
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
