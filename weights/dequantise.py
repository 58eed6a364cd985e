"""An integer model read as a checkpoint, so that the float reference runs it.

The trits are those of the checkpoint it was made from; embedding, norms, gains and scales are the
integer model's, rounded as they are there. A loss so measured differs from the checkpoint's own by
that rounding only, and from the golden model's by the integer arithmetic only.

Each matrix's scale holds the power of two of its norms' tables as well, so they come back in other
units than they had: the block norms lie below one and the scales of the matrices make up for it.
That changes nothing but the weight of the norms' epsilon, 1e-6, against mean squares near one.
"""

from __future__ import annotations

import math

import numpy as np

from .architectures.mmfree import EMBEDDING, LOWER_BOUNDS, Matrix, matrices, norms
from .checkpoint import NORM_EPSILON, Checkpoint
from .errors import ModelError
from .fixed import EMBEDDING_SHIFT, MODEL_GATED_FRACTION, Scale, sum_shift
from .model import IntegerModel
from .quantise import CODE_MAX, GATE_FRACTION

UNIT = 2.0**-15
"""Of tables whose exponent is part of a matrix's scale."""
LARGEST_VALUE = 2.0**60
"""Whose squares, summed, are within float32."""
SMALLEST_SHARE = 2.0**-30
"""For steps between lower bounds that are zero in integers: softmax has no zero."""


def _value(scale: Scale) -> float:
    return math.ldexp(scale.mantissa, scale.exponent)


class DequantisedCheckpoint(Checkpoint):
    """The checkpoint, in float32, that an integer model stands for. No file is read or written.

    Raises
    ------
    ModelError
        When the model's scales are too large for it, which those of no trained model are.
    """

    def __init__(self, model: IntegerModel) -> None:
        self.model = model
        self.shape = model.shape
        self.start_token, self.end_tokens = model.start_token, model.end_tokens
        self.tokenizer_json = model.tokenizer_json
        self._tensors: dict[str, np.ndarray] = {}
        self._fill()

    def digest(self) -> str:
        return self.model.source

    def _read(self, name: str, rows: slice | None) -> np.ndarray:
        return self._tensors[name][rows or ...]

    def _put(self, name: str, values: np.ndarray) -> None:
        if np.abs(values).max() > LARGEST_VALUE:
            raise ModelError(f"{name}: too large for floating point; use the golden backend")
        self._tensors[name] = values.astype(np.float32)

    def _fill(self) -> None:
        model, shape = self.model, self.shape
        step = np.ldexp(1.0, -(model.residual_fraction + EMBEDDING_SHIFT))
        rows = model["embedding.scale"][:, None] * step
        self._put(EMBEDDING, model["embedding.codes"] * rows)
        self._put(LOWER_BOUNDS, self._lower_bounds())
        units = {f"layers.{n}.attn.o.norm": self._gate_norm_unit(n) for n in range(shape.layers)}
        for name, upstream in norms(shape).items():
            self._put(upstream, model[name] * units.get(name, UNIT))
        for matrix in matrices(shape).values():
            self._matrix(matrix)

    def _gate_norm_unit(self, n: int) -> float:
        """The unit of layer n's table `o.norm`, which its epsilon tells exactly."""
        unit = math.sqrt(NORM_EPSILON / _value(self.model.scale(f"layers.{n}.attn.o.epsilon")))
        return 2.0 ** round(math.log2(unit) - (sum_shift(self.shape.hidden) - MODEL_GATED_FRACTION))

    def _matrix(self, matrix: Matrix) -> None:
        """Latents and inner norm of a matrix, whose gain the norm before it is part of."""
        trits = self.model.trits(matrix.name)
        gain = self.model[f"{matrix.name}.gain"].astype(np.float64)
        beta = _value(self.model.scale(f"{matrix.name}.scale")) * CODE_MAX / math.sqrt(gain.size)
        if matrix.norm is None:
            inner, beta = gain * UNIT, beta / UNIT
        else:
            norm = self.model[matrix.norm]
            inner = np.divide(gain, norm, out=np.zeros_like(gain), where=norm != 0)
        self._put(matrix.inner_norm, inner)
        # The mean magnitude of all, zeros included, is to be beta.
        size = beta / max(np.count_nonzero(trits) / trits.size, 1 / trits.size)
        self._put(matrix.weight, trits * size)

    def _lower_bounds(self) -> np.ndarray:
        """Logarithms of the steps from each layer's bound to the next; the first has the rest."""
        layers = range(self.shape.layers)
        codes = [self.model[f"layers.{n}.attn.lower_bound"] for n in layers]
        bounds = np.ldexp(np.stack(codes).astype(np.float64), -GATE_FRACTION)
        shares = np.diff(bounds, axis=0, prepend=0.0)
        shares[0] = 1 - bounds[-1]
        return np.log(np.maximum(shares, SMALLEST_SHARE))
