"""A model's numbers in the units of the machine, which the file does not depend on.

``docs/arithmetic.md`` has what follows from the multipliers' width and what is the file's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .fixed import (
    EMBEDDING_SHIFT,
    GATED_FRACTION,
    MANTISSA_BITS,
    MODEL_GATED_FRACTION,
    ROW_SCALE_SHIFT,
    Scale,
    operand_shift,
    sum_shift,
)
from .model import IntegerModel

MOST_GAIN = 2
"""Of row scales, so that a residual sum's shift is one that the machine has."""


@dataclass(frozen=True)
class MachineUnits:
    """What a machine takes for a model's own numbers.

    Members
    -------
    residual_fraction : fraction bits of the machine's residual stream
    hidden_shift, middle_shift : right shift of sums of ``hidden`` and ``intermediate`` codes
    epsilon_exponent : exponent of what the constants K of `o` and `down` are multiplied by
    """

    residual_fraction: int
    hidden_shift: int
    middle_shift: int
    epsilon_exponent: int
    _gain: int

    @classmethod
    def of(cls, model: IntegerModel) -> MachineUnits:
        shape = model.shape
        hidden, middle = operand_shift(shape.hidden), operand_shift(shape.intermediate)
        room = MANTISSA_BITS - int(model["embedding.scale"].max()).bit_length()
        gain = min(room, MOST_GAIN - max(hidden, middle))
        file_unit = sum_shift(shape.hidden) - MODEL_GATED_FRACTION
        return cls(
            residual_fraction=model.residual_fraction + EMBEDDING_SHIFT - ROW_SCALE_SHIFT + gain,
            hidden_shift=hidden,
            middle_shift=middle,
            epsilon_exponent=2 * (file_unit - (hidden - GATED_FRACTION)),
            _gain=gain,
        )

    def row_scales(self, model: IntegerModel) -> np.ndarray:
        """Those of the embedding, int16: as large as 15 bits hold, and `MOST_GAIN` allows."""
        scales = model["embedding.scale"].astype(np.int64)
        scales = scales << self._gain if self._gain >= 0 else scales >> -self._gain
        return scales.astype(np.int16)

    def epsilon(self, constant: Scale) -> Scale:
        """K of `o` or `down`, for gated vectors in the machine's unit."""
        return Scale(constant.mantissa, constant.exponent + self.epsilon_exponent)

    def residual_exponent(self, shift: int) -> int:
        """Of what a C of `o` or `down` is multiplied by: its sums are so shifted, and what is told
        to be of the model's residual fraction is of the machine's."""
        return shift + self._gain - (ROW_SCALE_SHIFT - EMBEDDING_SHIFT)
