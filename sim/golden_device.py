"""``golden://``: the golden model behind the interface of ``host.driver.Device``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from host.driver import Progress, check_tokens
from host.errors import UsageError
from host.protocol import Totals
from host.sampling import initial_noise, inverse_temperature, next_noise
from sim.golden import GoldenModel, choose
from weights.fixed import Scale
from weights.model import IntegerModel


class GoldenDevice:
    """Runs any model; it has no geometry, no cycles and no program."""

    name = "golden://"

    def __init__(self) -> None:
        self._model: GoldenModel | None = None
        self._tokens = 0

    def identify(self) -> None:
        """There is no machine to report."""

    def load(self, model: IntegerModel, progress: Progress | None = None) -> None:
        self._model = GoldenModel(model)
        if progress:
            progress(1, 1)

    def generate(
        self,
        prompt_ids: Sequence[int],
        tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        stop: int | None = None,
    ) -> Iterator[int]:
        model = self._loaded()
        vocabulary = model.shape.vocabulary
        prompt = check_tokens(prompt_ids, vocabulary, "prompt")
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
            raise UsageError(f"tokens must be a positive integer, not {tokens!r}")
        if stop is not None:
            check_tokens([stop], vocabulary, "stop")
        scale = inverse_temperature(temperature) if temperature else None
        return self._generate(model, prompt, tokens, scale, initial_noise(seed), stop)

    def _generate(
        self,
        model: GoldenModel,
        prompt: list[int],
        tokens: int,
        scale: Scale | None,
        noise: int,
        stop: int | None,
    ) -> Iterator[int]:
        model.start()
        self._tokens = 0
        for token in prompt[:-1]:
            self._step(model, token)
        token = prompt[-1]
        for _ in range(tokens):
            self._step(model, token)
            sums, sigma = model.head()
            token = choose(sums[0], sigma[0], scale, noise)
            noise = next_noise(noise)
            yield token
            if token == stop:
                return

    def logits(self, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        model = self._loaded()
        return self._logits(model, check_tokens(tokens, model.shape.vocabulary, "sequence"))

    def _logits(self, model: GoldenModel, tokens: list[int]) -> Iterator[np.ndarray]:
        model.start()
        self._tokens = 0
        for token in tokens:
            self._step(model, token)
            yield model.logits()[0]

    def counters(self) -> list[tuple[str, int]]:
        return []

    def totals(self) -> Totals:
        return Totals(tokens=self._tokens)

    def stop(self) -> None:
        """Nothing runs between two calls."""

    reset = close = stop

    def _step(self, model: GoldenModel, token: int) -> None:
        model.step([token])
        self._tokens += 1

    def _loaded(self) -> GoldenModel:
        if self._model is None:
            raise UsageError(f"{self.name}: no model is loaded; load one first")
        return self._model
