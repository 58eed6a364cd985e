"""The golden model: integers only, NumPy, batched over sequences, equal to the gateware to the bit.

It follows ``docs/arithmetic.md`` layer by layer and knows nothing of programs, geometries or
memories: a token that the gateware computes from a compiled program and this model computes from
the integer model agree only if both are right. Formulas come from :mod:`hw.arch.arithmetic`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from hw.arch import arithmetic
from hw.arch.arithmetic import block_shift, round_shift, saturate, shift_amount
from weights.fixed import (
    EMBEDDING_SHIFT,
    FULL_SCALE,
    GAIN_SHIFT,
    HIDDEN_FRACTION,
    NORM_SHIFT,
    ONE,
    Scale,
    sum_shift,
)
from weights.model import IntegerModel
from weights.noise import NOISE_STEP, xorshift


def _per_sequence(values: list[int]) -> np.ndarray | int:
    """One integer per sequence, shaped to broadcast over (batch, elements)."""
    return values[0] if len(values) == 1 else np.array(values, dtype=np.int64)[:, None]


def _peak(vectors: np.ndarray) -> list[int]:
    return np.abs(vectors).max(axis=1).tolist()


@dataclass(frozen=True)
class _Table:
    base: np.ndarray
    delta: np.ndarray

    @classmethod
    def of(cls, entries: tuple[tuple[int, int], ...]) -> _Table:
        base, delta = np.array(entries, dtype=np.int64).T
        return cls(np.ascontiguousarray(base), np.ascontiguousarray(delta))

    def __call__(self, segment: np.ndarray, fraction: np.ndarray) -> np.ndarray:
        return arithmetic.interpolate(self.base[segment], self.delta[segment], fraction)


_SIGMOID = _Table.of(arithmetic.sigmoid_table())
_GUMBEL = _Table.of(arithmetic.gumbel_table())


def sigmoid(z: np.ndarray) -> np.ndarray:
    """Gate (units of 2**-15) of preactivations (units of 2**-16)."""
    magnitude = np.minimum(np.abs(z), (1 << 20) - 1)
    y = _SIGMOID(magnitude >> arithmetic.FRACTION_BITS, magnitude & 0xFFF)
    return arithmetic.sigmoid_gate(y, z < 0)


def gumbel(t: np.ndarray) -> np.ndarray:
    """Gumbel noise (units of 2**-12) of non-zero uniform 32-bit integers."""
    t = t.astype(np.int64)
    zeros = 32 - np.frexp(t.astype(np.float64))[1]
    mantissa = (t << zeros) & 0x7FFFFFFF
    octave = np.minimum(zeros, 15)
    y = _GUMBEL(16 * octave + (mantissa >> 27), (mantissa >> 15) & 0xFFF)
    return y + (zeros - octave) * arithmetic.LN2


@functools.lru_cache(maxsize=4)
def _noise_basis(count: int) -> np.ndarray:
    """xorshift is linear over GF(2): row i has the ``count`` draws that follow state ``1 << i``."""
    state = 1 << np.arange(32, dtype=np.int64)
    rows = np.empty((count, 32), dtype=np.uint32)
    for j in range(count):
        state = xorshift(state, NOISE_STEP)
        rows[j] = state
    return np.ascontiguousarray(rows.T)


def noise(state: int, count: int) -> np.ndarray:
    """The ``count`` 32-bit draws that follow a stream's state."""
    bits = [i for i in range(32) if state >> i & 1]
    return np.bitwise_xor.reduce(_noise_basis(count)[bits], axis=0)


class _Matrix:
    """A ternary matrix with what norms, quantises and scales its input."""

    def __init__(self, model: IntegerModel, name: str, rows: slice = slice(None)):
        # Sums stay below 2**24, so float32 products and sums of them are exact integers.
        trits = model.trits(name)[rows]
        self.weights = np.ascontiguousarray(trits.T.astype(np.float32))
        self.gain = model[f"{name}.gain"].astype(np.int64)
        self.constant = model.scale(f"{name}.scale")

    def product(self, codes: np.ndarray) -> np.ndarray:
        return (codes.astype(np.float32) @ self.weights).astype(np.int64)


class _Normed:
    """A block-scaled vector per sequence: ``values << shift`` are the vector's integers."""

    def __init__(self, vectors: np.ndarray, peaks: list[Scale]):
        self.shifts = [block_shift(peak.exponent) for peak in peaks]
        self.values = vectors >> _per_sequence(self.shifts)

    def energy(self, table: np.ndarray | None, shift: int) -> list[Scale]:
        """Sum of squares, gained by a table, or by one if there is none."""
        if table is None:
            amount = shift_amount(shift, ONE.exponent)
            gained = round_shift(self.values * ONE.mantissa, amount)
        else:
            gained = round_shift(self.values * table, shift)
        sums = np.einsum("bi,bi->b", gained, gained).tolist()
        return [Scale.from_int(e, 2 * (shift + s)) for e, s in zip(sums, self.shifts, strict=True)]

    def quantise(self, gain: np.ndarray) -> tuple[np.ndarray, list[Scale]]:
        """Int8 codes of the gained vector, and its peak."""
        gained = round_shift(self.values * gain, GAIN_SHIFT)
        exponents = [GAIN_SHIFT + s for s in self.shifts]
        peaks = [Scale.from_int(p, e) for p, e in zip(_peak(gained), exponents, strict=True)]
        inverse = [FULL_SCALE / peak for peak in peaks]
        amounts = [shift_amount(-e, r.exponent) for r, e in zip(inverse, exponents, strict=True)]
        codes = round_shift(
            gained * _per_sequence([r.mantissa for r in inverse]), _per_sequence(amounts)
        )
        return codes, peaks


def _scaled(sums: np.ndarray, sigma: list[Scale], fraction: int) -> np.ndarray:
    amounts = [shift_amount(-fraction, s.exponent) for s in sigma]
    return round_shift(sums * _per_sequence([s.mantissa for s in sigma]), _per_sequence(amounts))


def _sigma(peaks: list[Scale], square: list[Scale], constant: Scale) -> list[Scale]:
    return [(a / d.sqrt()) * constant for a, d in zip(peaks, square, strict=True)]


class _Layer:
    def __init__(self, model: IntegerModel, index: int):
        name = f"layers.{index}"
        middle = model.shape.intermediate
        self.norm = model[f"{name}.attn.norm"].astype(np.int64)
        self.i, self.f, self.g, self.o = (_Matrix(model, f"{name}.attn.{m}") for m in "ifgo")
        self.lower_bound = model[f"{name}.attn.lower_bound"].astype(np.int64)
        self.o_norm = model[f"{name}.attn.o.norm"].astype(np.int64)
        self.o_epsilon = model.scale(f"{name}.attn.o.epsilon")
        self.mlp_norm = model[f"{name}.mlp.norm"].astype(np.int64)
        self.gate = _Matrix(model, f"{name}.mlp.gate")
        self.down = _Matrix(model, f"{name}.mlp.down")
        self.down_epsilon = model.scale(f"{name}.mlp.down.epsilon")
        self.middle = middle
        self.sum_shift = sum_shift(model.shape.hidden)

    def _gated(self, z: np.ndarray, sums: np.ndarray) -> np.ndarray:
        factor = arithmetic.silu(z, sigmoid(z))
        return round_shift(factor * (sums >> self.sum_shift), arithmetic.PRODUCT_SHIFT)

    def recurrence(
        self, normed: _Normed, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, list[Scale]]:
        """MLGRU: new state, o_proj's sums and their scale."""
        square = normed.energy(self.norm, NORM_SHIFT)
        codes, peaks = normed.quantise(self.i.gain)
        z = _preactivation(self.i.product(codes), _sigma(peaks, square, self.i.constant))
        candidate = arithmetic.silu(z, sigmoid(z))
        codes, peaks = normed.quantise(self.f.gain)
        z = _preactivation(self.f.product(codes), _sigma(peaks, square, self.f.constant))
        state = arithmetic.recur(state, candidate, arithmetic.forget(sigmoid(z), self.lower_bound))
        codes, _ = normed.quantise(self.g.gain)
        sums = self.g.product(codes)
        energy = _Normed(sums, [ONE] * len(sums)).energy(None, self.sum_shift)

        gated = self._gated(state, sums)
        normed = _Normed(gated, [Scale.from_int(p) for p in _peak(gated)])
        square = [
            e + g * self.o_epsilon
            for e, g in zip(normed.energy(self.o_norm, NORM_SHIFT), energy, strict=True)
        ]
        codes, peaks = normed.quantise(self.o.gain)
        return state, self.o.product(codes), _sigma(peaks, square, self.o.constant)

    def glu(self, normed: _Normed) -> tuple[np.ndarray, list[Scale]]:
        """Gated linear unit: down_proj's sums and their scale."""
        square = normed.energy(self.mlp_norm, NORM_SHIFT)
        codes, peaks = normed.quantise(self.gate.gain)
        sums = self.gate.product(codes)
        sigma = _sigma(peaks, square, self.gate.constant)
        z = _preactivation(sums[:, : self.middle], sigma)
        gated = self._gated(z, sums[:, self.middle :])
        normed = _Normed(gated, [Scale.from_int(p) for p in _peak(gated)])
        square = [
            e + self.down_epsilon / (s * s)
            for e, s in zip(normed.energy(None, NORM_SHIFT + ONE.exponent), sigma, strict=True)
        ]
        codes, peaks = normed.quantise(self.down.gain)
        return self.down.product(codes), _sigma(peaks, square, self.down.constant)


def _preactivation(sums: np.ndarray, sigma: list[Scale]) -> np.ndarray:
    return saturate(_scaled(sums, sigma, HIDDEN_FRACTION), arithmetic.HIDDEN_BITS)


class GoldenModel:
    """Runs an integer model token by token for a batch of sequences.

    Parameters
    ----------
    model : IntegerModel
    batch : int
        Sequences that advance together; each equals its own single run.

    Attributes
    ----------
    states : int64 array (layers, batch, hidden)
        MLGRU states in units of 2**-16.
    """

    def __init__(self, model: IntegerModel, batch: int = 1):
        self.shape = model.shape
        self._fraction = model.residual_fraction
        self._codes = model["embedding.codes"]
        self._row_scale = model["embedding.scale"].astype(np.int64)
        self._layers = [_Layer(model, n) for n in range(model.shape.layers)]
        self._head_norm = model["head.norm"].astype(np.int64)
        self._head = _Matrix(model, "head")
        self.start(batch)

    def start(self, batch: int = 1) -> None:
        """Forget everything: hidden states of ``batch`` sequences become zero."""
        self.states = np.zeros((self.shape.layers, batch, self.shape.hidden), dtype=np.int64)
        self._residual: _Normed | None = None

    def step(self, tokens) -> None:
        """Take one token per sequence through all layers."""
        tokens = np.asarray(tokens)
        x = round_shift(
            self._codes[tokens].astype(np.int64) * self._row_scale[tokens][:, None], EMBEDDING_SHIFT
        )
        for index, layer in enumerate(self._layers):
            self.states[index], sums, sigma = layer.recurrence(self._normed(x), self.states[index])
            x = self._add(x, sums, sigma)
            x = self._add(x, *layer.glu(self._normed(x)))
        self._residual = self._normed(x)

    def head(self) -> tuple[np.ndarray, list[Scale]]:
        """Sums of the head, int64 (batch, vocabulary), and their scale per sequence."""
        if self._residual is None:
            raise ValueError("no token yet: call step() before head()")
        square = self._residual.energy(self._head_norm, NORM_SHIFT)
        codes, peaks = self._residual.quantise(self._head.gain)
        return self._head.product(codes), _sigma(peaks, square, self._head.constant)

    def logits(self) -> np.ndarray:
        """Real logits, float64 (batch, vocabulary)."""
        sums, sigma = self.head()
        return sums * np.array([float(s) for s in sigma])[:, None]

    @staticmethod
    def _normed(x: np.ndarray) -> _Normed:
        return _Normed(x, [Scale.from_int(p) for p in _peak(x)])

    def _add(self, x: np.ndarray, sums: np.ndarray, sigma: list[Scale]) -> np.ndarray:
        return saturate(x + _scaled(sums, sigma, self._fraction), arithmetic.RESIDUAL_BITS)


def choose(sums: np.ndarray, sigma: Scale, inverse_temperature: Scale | None, state: int) -> int:
    """Next token of one sequence: greedy without a temperature, else Gumbel-max from ``state``."""
    if inverse_temperature is None:
        return int(sums.argmax())
    keys = _scaled(sums, [sigma * inverse_temperature], HIDDEN_FRACTION)
    keys = keys + (gumbel(noise(state, len(sums))) << (HIDDEN_FRACTION - arithmetic.GUMBEL_UNIT))
    return int(saturate(keys, arithmetic.RESIDUAL_BITS).argmax())
