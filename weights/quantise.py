"""Makes the integer model of a checkpoint.

The formulas are those of ``docs/arithmetic.md``, "The scale of a matrix's output" and "The integer
model". Constants are computed in float64 and rounded once. Latents pass through in blocks of rows,
so memory holds the packed model and one block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from .architectures.mmfree import EMBEDDING, LOWER_BOUNDS, Matrix, matrices, norms
from .checkpoint import NORM_EPSILON, Checkpoint
from .errors import ModelError
from .fixed import (
    COEFFICIENT_MAX,
    EMBEDDING_SHIFT,
    MODEL_GATED_FRACTION,
    RESIDUAL_FRACTIONS,
    Scale,
    sum_shift,
)
from .model import IntegerModel
from .packing import pack

SMALLEST_MEAN = 1e-5
"""Upstream takes this for a matrix whose mean magnitude is smaller."""

CODE_MAX = 127
GATE_FRACTION = 15
LARGEST_FRACTION = 16  # of a residual stream that nothing limits

Progress = Callable[[int, int], None]
"""Called with (weights done, weights in all)."""


def mean_magnitude(blocks: Iterator[tuple[slice, np.ndarray]]) -> float:
    """Mean of ``|w|`` over a whole matrix: ``beta``, the matrix's scale."""
    total, count = 0.0, 0
    for _, block in blocks:
        total += float(np.abs(block).sum(dtype=np.float64))
        count += block.size
    return max(total / count, SMALLEST_MEAN)


def ternarise(latents: np.ndarray, beta: float) -> np.ndarray:
    """``int8`` trits of latents: the sign where ``|w| > beta / 2``, else 0."""
    threshold = np.float32(beta / 2)
    return (latents > threshold).view(np.int8) - (latents < -threshold).view(np.int8)


def table(values: np.ndarray) -> tuple[np.ndarray, int]:
    """(``int16`` codes, exponent e) with ``values`` near ``codes * 2**e``.

    The largest magnitude lies in 2**14..32767, unless all are zero.
    """
    peak = float(np.abs(values).max())
    exponent = math.frexp(peak)[1] - GATE_FRACTION
    if round(math.ldexp(peak, -exponent)) > COEFFICIENT_MAX:
        exponent += 1
    return np.rint(np.ldexp(values, -exponent)).astype(np.int16), exponent


def lower_bounds(latents: np.ndarray) -> np.ndarray:
    """Lower bounds (layers, hidden) of the forget gates, in the type of `latents`.

    ``softmax`` over the layers, summed up to each layer without the first one's share: zero in the
    first layer, below one in the last.
    """
    shares = np.exp(latents - latents.max(axis=0))
    shares /= shares.sum(axis=0)
    return np.cumsum(shares, axis=0) - shares[0]


def gate_codes(values: np.ndarray) -> np.ndarray:
    """``int16`` codes of values from 0 to 1, in units of 2**-15."""
    return np.minimum(np.rint(np.ldexp(values, GATE_FRACTION)), COEFFICIENT_MAX).astype(np.int16)


def embedding_fraction(peak: float) -> int | None:
    """Largest residual fraction that keeps the row scale of a row of that peak within 15 bits."""
    if peak == 0:
        return None
    # frexp gives the bit length of the scale at fraction 0, one bit too many after rounding up.
    fraction = 15 - EMBEDDING_SHIFT - math.frexp(peak / CODE_MAX)[1]
    return fraction if row_scales(np.float64(peak), fraction) <= COEFFICIENT_MAX else fraction - 1


def row_scales(peaks: np.ndarray, residual_fraction: int) -> np.ndarray:
    """Integer scale of embedding rows with these peaks, in units of ``2**-(F + 3)``."""
    return np.rint(np.ldexp(peaks / CODE_MAX, residual_fraction + EMBEDDING_SHIFT))


def quantise_embedding(
    checkpoint: Checkpoint, peaks: np.ndarray, residual_fraction: int
) -> tuple[np.ndarray, np.ndarray]:
    """(``int8`` codes (vocabulary, hidden), ``int16`` row scales) of the embedding."""
    scales = row_scales(peaks, residual_fraction)
    steps = np.ldexp(scales, -(residual_fraction + EMBEDDING_SHIFT))
    codes = np.zeros((checkpoint.shape.vocabulary, checkpoint.shape.hidden), dtype=np.int8)
    for rows, block in checkpoint.blocks(EMBEDDING):
        step = steps[rows, None]
        ratio = np.divide(block, step, out=np.zeros(block.shape), where=step > 0)
        codes[rows] = np.rint(ratio).clip(-CODE_MAX, CODE_MAX)
    return codes, scales.astype(np.int16)


def convert(checkpoint: Checkpoint, progress: Progress | None = None) -> IntegerModel:
    """The integer model of a checkpoint.

    Raises
    ------
    ModelError
        When a tensor turns out to be damaged, or holds values that no integer model can.
    """
    try:
        return _Conversion(checkpoint, progress or (lambda done, total: None)).run()
    except (ValueError, OverflowError) as error:
        raise ModelError(
            f"{checkpoint.directory}: makes no integer model ({error}); fetch it again, "
            "or train it with other settings"
        ) from error


class _Conversion:
    """The integer model's tensors as they come into being."""

    def __init__(self, checkpoint: Checkpoint, progress: Progress) -> None:
        self.checkpoint = checkpoint
        self.shape = checkpoint.shape
        self.matrices, self.norms = matrices(self.shape), norms(self.shape)
        self.progress = progress
        self.tensors: dict[str, np.ndarray] = {}
        self.weights_done = 0
        self.residual_fractions: list[int] = []  # upper limits, each from one tensor
        self.sum_shift = sum_shift(self.shape.hidden)

    def run(self) -> IntegerModel:
        checkpoint = self.checkpoint
        bounds = gate_codes(lower_bounds(self.read(LOWER_BOUNDS)))
        for n in range(self.shape.layers):
            self.tensors[f"layers.{n}.attn.lower_bound"] = bounds[n]
            self.mixer(n)
            self.channel_mixer(n)
        self.normed_input("head.norm")
        peaks = np.concatenate(
            [np.abs(block).max(axis=1) for _, block in checkpoint.blocks(EMBEDDING)]
        ).astype(np.float64)
        limit = embedding_fraction(float(peaks.max()))
        if limit is not None:
            self.residual_fractions.append(limit)
        limits = self.residual_fractions or [LARGEST_FRACTION]
        residual_fraction = min(*limits, RESIDUAL_FRACTIONS[-1])
        codes, scales = quantise_embedding(checkpoint, peaks, residual_fraction)
        self.tensors["embedding.codes"], self.tensors["embedding.scale"] = codes, scales
        self.tensors["tokenizer"] = np.frombuffer(
            checkpoint.tokenizer_json.encode(), dtype=np.uint8
        )
        return IntegerModel(
            shape=self.shape,
            residual_fraction=residual_fraction,
            start_token=checkpoint.start_token,
            end_token=checkpoint.end_token,
            more_end_tokens=checkpoint.end_tokens[1:],
            source=checkpoint.digest(),
            tensors=self.tensors,
        )

    def read(self, name: str) -> np.ndarray:
        """A small tensor as float64, for constants."""
        return self.checkpoint.tensor(name).astype(np.float64)

    def mixer(self, n: int) -> None:
        """Layer n's token mixer: its four matrices and their norms."""
        name = f"layers.{n}.attn"
        output, norm = self.matrices[f"{name}.o"], f"{name}.o.norm"
        self.normed_input(f"{name}.norm")
        gate_norm = self.read(self.norms[norm])
        inner = self.read(output.inner_norm)
        self.tensors[norm], norm_exponent = table(gate_norm)
        beta = self.matrix(output, gate_norm * inner, norm_exponent)
        self.limit_residual(inner, beta)
        unit = 2 * (self.sum_shift - MODEL_GATED_FRACTION + norm_exponent)
        self.scale(f"{output.name}.epsilon", math.ldexp(NORM_EPSILON, -unit))

    def channel_mixer(self, n: int) -> None:
        """Layer n's gated linear unit: its two matrices and their norms."""
        down = self.matrices[f"layers.{n}.mlp.down"]
        self.normed_input(f"layers.{n}.mlp.norm")
        inner = self.read(down.inner_norm)
        beta = self.matrix(down, inner, 0)
        self.limit_residual(inner, beta)
        unit = 2 * (self.sum_shift - MODEL_GATED_FRACTION)
        self.scale(f"{down.name}.epsilon", math.ldexp(NORM_EPSILON * inner.size, -unit))

    def normed_input(self, norm: str) -> None:
        """A block norm's table, and the matrices whose doubly normed input starts from it."""
        outer = self.read(self.norms[norm])
        self.tensors[norm], norm_exponent = table(np.sqrt(outer**2 + NORM_EPSILON))
        for matrix in self.matrices.values():
            if matrix.norm == norm:
                self.matrix(matrix, outer * self.read(matrix.inner_norm), norm_exponent)

    def matrix(self, matrix: Matrix, gain: np.ndarray, norm_exponent: int) -> float:
        """Trits, gain table and output scale of a matrix. Returns its ``beta``."""
        checkpoint, name = self.checkpoint, matrix.name
        beta = mean_magnitude(checkpoint.blocks(matrix.weight))
        packed = []
        for _, latents in checkpoint.blocks(matrix.weight):
            packed.append(pack(ternarise(latents, beta)))
            self.weights_done += latents.size
            self.progress(self.weights_done, self.shape.ternary_weights)
        self.tensors[f"{name}.trits"] = np.concatenate(packed)
        self.tensors[f"{name}.gain"], gain_exponent = table(gain)
        unit = math.ldexp(math.sqrt(gain.size), gain_exponent - norm_exponent)
        self.scale(f"{name}.scale", unit * beta / CODE_MAX)
        return beta

    def scale(self, name: str, value: float) -> None:
        try:
            scale = Scale.from_float(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        self.tensors[name] = np.array([scale.mantissa, scale.exponent], dtype=np.int32)

    def limit_residual(self, inner: np.ndarray, beta: float) -> None:
        """Keeps the residual's unit so small that a sum's scale needs no left shift of it."""
        largest = math.sqrt(inner.size) * float(np.abs(inner).max()) * beta / CODE_MAX
        if largest > 0:
            self.residual_fractions.append(14 - (math.frexp(largest)[1] - 1))
