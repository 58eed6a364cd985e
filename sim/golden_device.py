"""``golden://``: the golden model behind the interface of ``host.device.Device``."""

from __future__ import annotations

import numpy as np

from sim.golden import GoldenModel, choose
from sim.software_device import SoftwareDevice
from weights.fixed import Scale
from weights.model import IntegerModel


class _Golden:
    """One sequence of the golden model."""

    def __init__(self, model: IntegerModel):
        self.vocabulary = model.shape.vocabulary
        self._model = GoldenModel(model)

    @property
    def state(self) -> np.ndarray:
        return self._model.states[:, 0].astype(np.int32)

    @state.setter
    def state(self, state: np.ndarray) -> None:
        self._model.start()
        self._model.states[:, 0] = state

    def start(self) -> None:
        self._model.start()

    def step(self, token: int) -> None:
        self._model.step([token])

    def choose(self, inverse_temperature: Scale | None, noise: int) -> int:
        sums, sigma = self._model.head()
        return choose(sums[0], sigma[0], inverse_temperature, noise, self._model.head_shift)

    def logits(self) -> np.ndarray:
        return self._model.logits()[0]


class GoldenDevice(SoftwareDevice):
    def __init__(self) -> None:
        super().__init__("golden://", _Golden)
