"""Models that this machine computes itself, behind the interface of `host.device.Device`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Protocol

import numpy as np

from host.device import Progress
from host.errors import UsageError
from host.request import Request, Stop, Turns, check_state, check_tokens
from host.sampling import next_noise
from hw.arch.protocol import Totals
from weights.fixed import Scale
from weights.model import IntegerModel


class Runner(Protocol):
    """A model that takes one token at a time.

    Members
    -------
    vocabulary : number of tokens
    state : what it has of all tokens since the start, int32 (layers, hidden), as of
        `host.device.Device.state`; may be set
    """

    vocabulary: int
    state: np.ndarray

    def start(self) -> None:
        """Go to the zero state."""

    def step(self, token: int) -> None:
        """Take a token through all layers."""

    def choose(self, inverse_temperature: Scale | None, noise: int) -> int:
        """The next token: greedy without a temperature, else sampled with that noise state."""

    def logits(self) -> np.ndarray:
        """Real logits of the next token, float64 (vocabulary)."""


class _Slot:
    """See `host.device.Slot`: the one sequence of a `SoftwareDevice`."""

    def __init__(self, device: SoftwareDevice):
        self._device = device
        self.state, self.restore = device.state, device.restore

    def answer(self, request: Request, chained: bool = False) -> Generator[int | None, None, None]:
        return self._device.answer_on(request)


class SoftwareDevice:
    """Runs any model, one sequence at a time; it has no geometry, no cycles and no program.

    Parameters
    ----------
    name : str
        What messages call the device.
    prepare : callable
        Makes a `Runner` of a model; raises `HostError` where that cannot be.
    """

    def __init__(self, name: str, prepare: Callable[[IntegerModel], Runner]):
        self.name = name
        self._prepare = prepare
        self._runner: Runner | None = None
        self._tokens = 0
        self._turns = Turns(name)
        self._slot = _Slot(self)
        self._lock = threading.Lock()  # a turn does not end within a token

    @property
    def slots(self) -> tuple[_Slot]:
        self._loaded()
        return (self._slot,)

    def identify(self) -> None:
        """There is no machine to report."""

    def load(self, model: IntegerModel, progress: Progress | None = None) -> None:
        self._turns.begin()
        self._runner = None  # makes room for the next one
        self._runner = self._prepare(model)
        if progress:
            progress(1, 1)

    def generate(
        self,
        prompt_ids: Sequence[int],
        tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        stop: Stop = None,
    ) -> Generator[int, None, None]:
        runner = self._loaded()
        request = Request.of(
            prompt_ids, tokens, temperature, seed, stop, vocabulary=runner.vocabulary
        )
        return self.answer(request)

    def answer(self, request: Request) -> Generator[int, None, None]:
        return self._alone(self.answer_on(request))

    def _alone(self, answer: Generator[int, None, None]) -> Generator[int, None, None]:
        self.recount()
        with contextlib.closing(answer):
            yield from answer

    def answer_on(self, request: Request) -> Generator[int, None, None]:
        """`answer`, counted beside what was before."""
        return self._answer(self._loaded(), request)

    def _answer(self, runner: Runner, request: Request) -> Generator[int, None, None]:
        turn = self._begin(runner, request.resume)
        noise = request.noise
        scale = request.inverse_temperature if request.sampled else None
        *first, token = request.prompt
        for read in first if request.tokens else request.prompt:
            with self._lock:
                self._step(runner, read, turn)
        for _ in range(request.tokens):
            with self._lock:
                self._step(runner, token, turn)
                token = runner.choose(scale, noise)
            noise = next_noise(noise)
            yield token
            if token in request.stop:
                break
            self._turns.check(turn)
        self._turns.settle(turn)

    def state(self) -> np.ndarray:
        runner = self._loaded()
        with self._lock:
            self._turns.check_state()
            return runner.state

    def restore(self, state: np.ndarray) -> None:
        runner = self._loaded()
        with self._lock:
            check_state(state, runner.state.shape)
            turn = self._turns.begin()
            runner.state = state
            self._turns.settle(turn)

    def logits(self, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        runner = self._loaded()
        return self._logits(runner, check_tokens(tokens, runner.vocabulary, "sequence"))

    def _logits(self, runner: Runner, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        turn = self._begin(runner)
        self.recount()
        for token in tokens:
            with self._lock:
                self._step(runner, token, turn)
                logits = runner.logits()
            yield logits

    def _begin(self, runner: Runner, resume: bool = False) -> int:
        """A turn of its own on the model, in its zero state unless it resumes."""
        with self._lock:
            turn = self._turns.begin(resume)
            if not resume:
                runner.start()
        return turn

    def verify(self, progress: Progress | None = None) -> None:
        """It has no memory of its own."""

    def check(self) -> None:
        """It cannot be lost."""

    def counters(self) -> list[tuple[str, int]]:
        return []

    def totals(self) -> Totals:
        return Totals(tokens=self._tokens)

    def recount(self) -> None:
        self._tokens = 0

    def stop(self) -> None:
        """Nothing runs between two calls."""

    def reset(self) -> None:
        self._turns.begin()

    def close(self) -> None:
        self._turns.begin()
        self._runner = None

    def _step(self, runner: Runner, token: int, turn: int) -> None:
        self._turns.check(turn)
        runner.step(token)
        self._tokens += 1

    def _loaded(self) -> Runner:
        if self._runner is None:
            raise UsageError(f"{self.name}: no model is loaded; load one first")
        return self._runner
