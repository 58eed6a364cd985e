"""One context of a device behind a link: a sequence, from answer to answer."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass, field

import numpy as np

from host.compiler import Image
from host.compiler.layout import pack_states, unpack_states
from host.errors import DeviceError, UsageError
from host.hold import Hold
from host.request import Request, check_state
from host.runs import Runs
from hw.arch.memories import spaces
from hw.arch.protocol import Feature, MemorySpace


@dataclass
class _Sequence:
    """What has led to a context's state.

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


class LinkSlot:
    """See `host.device.Slot`.

    Parameters
    ----------
    hold : Hold
        Of the device.
    context : int
        Its number.
    """

    def __init__(self, hold: Hold, context: int):
        self.runs = Runs(hold, context)
        self._hold = hold
        self._sequence = _Sequence()

    def begin(self, image: Image | None, resume: bool = False) -> int:
        """A turn of its own on the context, in which nothing runs then."""
        if self._hold.image is not image:
            raise DeviceError(
                f"{self._hold.name}: another model was loaded before this answer began; "
                "start it again"
            )
        if image is None:  # nor will there be anything to go on from
            self._sequence = _Sequence()
        return self.runs.begin(resume)

    @property
    def kept(self) -> bool:
        """Whether there is a state that somebody may go on from."""
        return self.runs.turns.settled

    def answer(self, request: Request, chained: bool = False) -> Generator[int | None, None, None]:
        """The tokens that a request asks for; see `host.device.Slot.answer`.

        Prompt and tokens may be longer than the token buffer: runs of that length follow each
        other, with the state left where it is.

        Raises
        ------
        UsageError
            At once, for what the device cannot do; from the iterator, for one that is ``chained``
            while something runs in another slot.
        DeviceError
            From the iterator; among others, the device has lost the model or its state, or
            something else was started here.
        """
        image = self._hold.loaded()
        if request.sampled and not self._hold.has(Feature.SAMPLING):
            raise UsageError(
                f"{self._hold.name}: its bitstream only chooses greedily; ask for a temperature of "
                "0, or build it with SAMPLING among its machine's features"
            )
        return self._answer(image, request, chained)

    def _answer(
        self, image: Image, request: Request, chained: bool
    ) -> Generator[int | None, None, None]:
        turn = self.begin(image, resume=request.resume)
        if not request.resume:
            self._sequence = _Sequence()
        self._take_back(turn, image)
        left: Request | None = request
        while left:
            part = left.part(image.geometry.tokens - 1)
            chosen: list[int] = []
            with contextlib.closing(self.run(turn, image, part, chained)) as run:
                for token in run:
                    if token is not None:
                        chosen.append(token)
                    yield token
            self._sequence.tokens += [*part.prompt, *chosen[:-1]]
            self._sequence.passed = len(chosen) < part.tokens and chosen[-1] != part.stop[0]
            left = left.after(part, chosen)
        self.runs.turns.settle(turn)

    def run(
        self, turn: int, image: Image, request: Request, chained: bool = False
    ) -> Generator[int | None, None, None]:
        """One run, and what it took counted."""
        with self._hold.trusting():
            # Where others run the device counts on, unless they have ended by now.
            beside = self.runs.beside
            if beside:
                self._hold.count()
            if chained:
                self._check_alone("all contexts read a prompt")
            self.runs.start(turn, image, request, chained)
            if beside:
                self._hold.count()
            yield from self.runs.follow(turn, image, request)
            self._hold.count()
            self.runs.check(image)

    def _take_back(self, turn: int, image: Image) -> None:
        """Make the device have the state of the sequence where it has passed that."""
        sequence = self._sequence
        if not sequence.passed:
            return
        if sequence.origin is not None:
            self._write_state(image, sequence.origin)
        left: Request | None = Request.reading(sequence.tokens, resume=sequence.origin is not None)
        while left:
            part = left.part(image.geometry.tokens - 1)
            with self._hold.trusting():
                self.runs.start(turn, image, part)
                for _ in self.runs.follow(turn, image, part):
                    pass
            left = left.after(part, ())
        sequence.passed = False

    def state(self) -> np.ndarray:
        """What the last answer left; see `host.device.Slot.state`.

        Raises
        ------
        DeviceError
            Among others, the device was built without a way to read states.
        """
        image = self._hold.loaded()
        self.runs.turns.check_state()
        self._hold.require(Feature.STATES, "the state of a sequence")
        if self._sequence.tokens:
            self._check_alone()
            turn = self.runs.begin(resume=True)
            self._take_back(turn, image)
            with self._hold.trusting():
                content = self.runs.read(
                    image,
                    MemorySpace.STATES,
                    self.part(image, MemorySpace.STATES),
                    image.state_halfwords,
                )
            state = unpack_states(content, image.state_shape, image.geometry.elements)
            self._sequence = _Sequence(origin=state)
            self.runs.turns.settle(turn)
        assert self._sequence.origin is not None
        return self._sequence.origin.copy()

    def restore(self, state: np.ndarray) -> None:
        """Give it a state to go on from; see `host.device.Slot.restore`, and `state` for what is
        raised."""
        image = self._hold.loaded()
        self._hold.require(Feature.STATES, "the state of a sequence")
        check_state(state, image.state_shape)
        self._check_alone()
        turn = self.runs.begin()
        self._write_state(image, state)
        self._sequence = _Sequence(origin=state.astype(np.int32))
        self.runs.turns.settle(turn)

    def _check_alone(self, what: str = "states are read and written") -> None:
        if self.runs.beside:
            raise UsageError(
                f"{self._hold.name}: {what} while nothing runs; "
                "take the other answers to their ends first"
            )

    def _write_state(self, image: Image, state: np.ndarray) -> None:
        content = pack_states(state, image.geometry.elements)
        self._check_alone()
        self._hold.link.put(MemorySpace.STATES, self.part(image, MemorySpace.STATES), content)

    def part(self, image: Image, space: MemorySpace) -> int:
        """Where the context's part of a memory begins."""
        memory = spaces(image.geometry)[space]
        return self.runs.context * memory.own * memory.half_words
