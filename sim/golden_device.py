"""``golden://``: the golden model behind the interface of ``host.device.Device``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from host.device import Progress
from host.errors import UsageError
from host.request import Request, Stop, Turns, check_tokens
from host.sampling import next_noise
from hw.arch.protocol import Totals
from sim.golden import GoldenModel, choose
from weights.model import IntegerModel


class GoldenDevice:
    """Runs any model; it has no geometry, no cycles and no program."""

    name = "golden://"

    def __init__(self) -> None:
        self._model: GoldenModel | None = None
        self._tokens = 0
        self._turns = Turns(self.name)

    def identify(self) -> None:
        """There is no machine to report."""

    def load(self, model: IntegerModel, progress: Progress | None = None) -> None:
        self._turns.begin()
        self._model = GoldenModel(model)
        if progress:
            progress(1, 1)

    def generate(
        self,
        prompt_ids: Sequence[int],
        tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        stop: Stop = None,
    ) -> Iterator[int]:
        model = self._loaded()
        vocabulary = model.shape.vocabulary
        request = Request.of(prompt_ids, tokens, temperature, seed, stop, vocabulary=vocabulary)
        return self._generate(model, request)

    def _generate(self, model: GoldenModel, request: Request) -> Iterator[int]:
        turn = self._begin(model)
        noise = request.noise
        scale = request.inverse_temperature if request.sampled else None
        for token in request.prompt[:-1]:
            self._step(model, token)
        token = request.prompt[-1]
        for _ in range(request.tokens):
            self._step(model, token)
            sums, sigma = model.head()
            token = choose(sums[0], sigma[0], scale, noise)
            noise = next_noise(noise)
            yield token
            if token in request.stop:
                return
            self._turns.check(turn)

    def logits(self, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        model = self._loaded()
        return self._logits(model, check_tokens(tokens, model.shape.vocabulary, "sequence"))

    def _logits(self, model: GoldenModel, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        turn = self._begin(model)
        for token in tokens:
            self._turns.check(turn)
            self._step(model, token)
            yield model.logits()[0]

    def _begin(self, model: GoldenModel) -> int:
        """A turn of its own on the model, in its zero state."""
        turn = self._turns.begin()
        model.start()
        self._tokens = 0
        return turn

    def counters(self) -> list[tuple[str, int]]:
        return []

    def totals(self) -> Totals:
        return Totals(tokens=self._tokens)

    def stop(self) -> None:
        """Nothing runs between two calls."""

    close = stop

    def reset(self) -> None:
        self._turns.begin()

    def _step(self, model: GoldenModel, token: int) -> None:
        model.step([token])
        self._tokens += 1

    def _loaded(self) -> GoldenModel:
        if self._model is None:
            raise UsageError(f"{self.name}: no model is loaded; load one first")
        return self._model
