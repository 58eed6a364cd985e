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
from hw.arch.arithmetic import (
    CODE_PLACE,
    PRODUCT_PLACE,
    block_shift,
    coefficient,
    place,
    round_shift,
    saturate,
)
from weights.fixed import (
    FULL_SCALE,
    GAIN_SHIFT,
    KEY_FRACTION,
    NORM_SHIFT,
    PLAIN_SHIFT,
    PREACTIVATION_FRACTION,
    ROW_SCALE_SHIFT,
    SUM_PEAKS,
    Scale,
    operand_shift,
)
from weights.model import IntegerModel
from weights.noise import NOISE_STEP, xorshift
from weights.units import MachineUnits


def _per_sequence(values: list[int]) -> np.ndarray | int:
    """One integer per sequence, shaped to broadcast over (batch, elements)."""
    return values[0] if len(values) == 1 else np.array(values, dtype=np.int64)[:, None]


def _shifted(vectors: np.ndarray, shifts: list[int]) -> np.ndarray:
    """Each to the right by its shift, to the left by a negative one."""
    left, right = (np.maximum(each, 0) for each in (-np.array(shifts), np.array(shifts)))
    return vectors << left[:, None] >> right[:, None]


def _peak(vectors: np.ndarray) -> list[int]:
    """What no magnitude exceeds: one more than the largest of ``v`` and ``~v``."""
    return (np.maximum(vectors, ~vectors).max(axis=1) + 1).tolist()


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
    """Gate (units of 2**-15) of preactivations (units of 2**-12)."""
    magnitude = np.maximum(z, ~z)
    half = _SIGMOID(magnitude >> arithmetic.FRACTION_BITS, magnitude & arithmetic.FRACTION_MASK)
    return arithmetic.GATE_HALF + np.where(z < 0, ~half, half)


def gumbel(t: np.ndarray) -> np.ndarray:
    """Gumbel noise (units of 2**-9) of non-zero uniform 32-bit integers."""
    upper = (t >> arithmetic.DRAW_BITS).astype(np.int64)
    octave = arithmetic.LAST_OCTAVE - np.frexp(upper.astype(np.float64))[1]
    mantissa = t.astype(np.int64) & arithmetic.DRAW_MASK
    segment = octave << arithmetic.OCTAVE_BITS | mantissa >> arithmetic.FRACTION_BITS
    return _GUMBEL(segment, mantissa & arithmetic.FRACTION_MASK)


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
        self.shift = operand_shift(len(self.gain))
        self.constant = model.scale(f"{name}.scale")

    def product(self, codes: np.ndarray) -> np.ndarray:
        return (codes.astype(np.float32) @ self.weights).astype(np.int64)


class _Normed:
    """A block-scaled vector per sequence: ``values * 2**shift`` are the vector's integers."""

    def __init__(self, vectors: np.ndarray, peaks: list[Scale]):
        self.shifts = [block_shift(peak.exponent) for peak in peaks]
        self.values = _shifted(vectors, self.shifts)

    def energy(self, table: np.ndarray | None) -> list[Scale]:
        """Sum of squares, gained by a table if there is one."""
        shift = PLAIN_SHIFT if table is None else NORM_SHIFT
        gained = (self.values if table is None else self.values * table) >> shift
        sums = np.einsum("bi,bi->b", gained, gained).tolist()
        return [Scale.from_int(e, 2 * (shift + s)) for e, s in zip(sums, self.shifts, strict=True)]

    def quantise(self, gain: np.ndarray) -> tuple[np.ndarray, list[Scale]]:
        """Int8 codes of the gained vector, and its peak."""
        gained = (self.values * gain) >> GAIN_SHIFT
        exponents = [GAIN_SHIFT + s for s in self.shifts]
        peaks = [Scale.from_int(p, e) for p, e in zip(_peak(gained), exponents, strict=True)]
        inverse = [FULL_SCALE / peak for peak in peaks]
        amounts = [-e - r.exponent for r, e in zip(inverse, exponents, strict=True)]
        return round_shift(*_product(gained, inverse, amounts, CODE_PLACE)), peaks


def _product(
    operand: np.ndarray, scales: list[Scale], amounts: list[int], first: int
) -> tuple[np.ndarray, np.ndarray | int]:
    """A vector times the mantissas of scales, and the shift that is left to do."""
    both = list(zip(scales, amounts, strict=True))
    factors = _per_sequence([coefficient(scale.mantissa, a, first) for scale, a in both])
    return operand * factors, _per_sequence([place(a, first) for _, a in both])


def _scaled(
    sums: np.ndarray, shift: int, sigma: list[Scale], fraction: int
) -> tuple[np.ndarray, np.ndarray | int]:
    """Shifted sums times a scale, and the shift that makes it a number of that fraction."""
    amounts = [-fraction - shift - scale.exponent for scale in sigma]
    return _product(sums >> shift, sigma, amounts, PRODUCT_PLACE)


def _sigma(peaks: list[Scale], square: list[Scale], constant: Scale) -> list[Scale]:
    return [(a / d.sqrt()) * constant for a, d in zip(peaks, square, strict=True)]


class _Layer:
    def __init__(self, model: IntegerModel, units: MachineUnits, index: int):
        name = f"layers.{index}"
        middle = model.shape.intermediate
        self.norm = model[f"{name}.attn.norm"].astype(np.int64)
        self.i, self.f, self.g, self.o = (_Matrix(model, f"{name}.attn.{m}") for m in "ifgo")
        self.rest = arithmetic.rest(model[f"{name}.attn.lower_bound"].astype(np.int64))
        self.o_norm = model[f"{name}.attn.o.norm"].astype(np.int64)
        self.o_epsilon = units.epsilon(model.scale(f"{name}.attn.o.epsilon"))
        self.mlp_norm = model[f"{name}.mlp.norm"].astype(np.int64)
        self.gate = _Matrix(model, f"{name}.mlp.gate")
        self.down = _Matrix(model, f"{name}.mlp.down")
        self.down_epsilon = units.epsilon(model.scale(f"{name}.mlp.down.epsilon"))
        self.middle = middle

    def _gated(self, z: np.ndarray, sums: np.ndarray) -> np.ndarray:
        return arithmetic.gated(arithmetic.silu(z, sigmoid(z)), sums >> self.g.shift)

    def recurrence(
        self, normed: _Normed, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, list[Scale]]:
        """MLGRU: new state, o_proj's sums and their scale."""
        square = normed.energy(self.norm)
        codes, peaks = normed.quantise(self.i.gain)
        z = _preactivation(self.i, self.i.product(codes), _sigma(peaks, square, self.i.constant))
        candidate = arithmetic.candidate(arithmetic.silu(z, sigmoid(z)))
        codes, peaks = normed.quantise(self.f.gain)
        z = _preactivation(self.f, self.f.product(codes), _sigma(peaks, square, self.f.constant))
        share = (self.rest * (arithmetic.GATE_MAX - sigmoid(z))) >> arithmetic.GATE_BITS
        state = arithmetic.recur(state, candidate, share)
        codes, _ = normed.quantise(self.g.gain)
        sums = self.g.product(codes)
        plain = _Normed(sums, [SUM_PEAKS[self.g.shift]] * len(sums))

        gated = self._gated(state >> arithmetic.HIDDEN_EXTRA, sums)
        normed = _Normed(gated, [Scale.from_int(p) for p in _peak(gated)])
        square = [
            e + g * self.o_epsilon
            for e, g in zip(normed.energy(self.o_norm), plain.energy(None), strict=True)
        ]
        codes, peaks = normed.quantise(self.o.gain)
        return state, self.o.product(codes), _sigma(peaks, square, self.o.constant)

    def glu(self, normed: _Normed) -> tuple[np.ndarray, list[Scale]]:
        """Gated linear unit: down_proj's sums and their scale."""
        square = normed.energy(self.mlp_norm)
        codes, peaks = normed.quantise(self.gate.gain)
        sums = self.gate.product(codes)
        sigma = _sigma(peaks, square, self.gate.constant)
        z = _preactivation(self.gate, sums[:, : self.middle], sigma)
        gated = self._gated(z, sums[:, self.middle :])
        normed = _Normed(gated, [Scale.from_int(p) for p in _peak(gated)])
        square = [
            e + self.down_epsilon / (s * s) for e, s in zip(normed.energy(None), sigma, strict=True)
        ]
        codes, peaks = normed.quantise(self.down.gain)
        return self.down.product(codes), _sigma(peaks, square, self.down.constant)


def _preactivation(matrix: _Matrix, sums: np.ndarray, sigma: list[Scale]) -> np.ndarray:
    product, shift = _scaled(sums, matrix.shift, sigma, PREACTIVATION_FRACTION)
    return saturate(product >> shift, arithmetic.OPERAND_BITS)


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
        MLGRU states in units of 2**-18.
    head_shift : int
        That of the head's sums before they are compared, `operand_shift`.
    """

    def __init__(self, model: IntegerModel, batch: int = 1):
        self.shape = model.shape
        units = MachineUnits.of(model)
        self._fraction = units.residual_fraction
        self._codes = model["embedding.codes"]
        self._row_scale = units.row_scales(model).astype(np.int64)
        self._layers = [_Layer(model, units, n) for n in range(model.shape.layers)]
        self._head_norm = model["head.norm"].astype(np.int64)
        self._head = _Matrix(model, "head")
        self.head_shift = self._head.shift
        self.start(batch)

    def start(self, batch: int = 1) -> None:
        """Forget everything: hidden states of ``batch`` sequences become zero."""
        self.states = np.zeros((self.shape.layers, batch, self.shape.hidden), dtype=np.int64)
        self._residual: _Normed | None = None

    def step(self, tokens) -> None:
        """Take one token per sequence through all layers."""
        tokens = np.asarray(tokens)
        x = round_shift(
            self._codes[tokens].astype(np.int64) * self._row_scale[tokens][:, None],
            ROW_SCALE_SHIFT,
        )
        for index, layer in enumerate(self._layers):
            self.states[index], sums, sigma = layer.recurrence(self._normed(x), self.states[index])
            x = self._add(x, layer.o, sums, sigma)
            x = self._add(x, layer.down, *layer.glu(self._normed(x)))
        self._residual = self._normed(x)

    def head(self) -> tuple[np.ndarray, list[Scale]]:
        """Sums of the head, int64 (batch, vocabulary), and their scale per sequence."""
        if self._residual is None:
            raise ValueError("no token yet: call step() before head()")
        square = self._residual.energy(self._head_norm)
        codes, peaks = self._residual.quantise(self._head.gain)
        return self._head.product(codes), _sigma(peaks, square, self._head.constant)

    def logits(self) -> np.ndarray:
        """Real logits, float64 (batch, vocabulary)."""
        sums, sigma = self.head()
        return sums * np.array([float(s) for s in sigma])[:, None]

    @staticmethod
    def _normed(x: np.ndarray) -> _Normed:
        return _Normed(x, [Scale.from_int(p) for p in _peak(x)])

    def _add(
        self, x: np.ndarray, matrix: _Matrix, sums: np.ndarray, sigma: list[Scale]
    ) -> np.ndarray:
        term = round_shift(*_scaled(sums, matrix.shift, sigma, self._fraction))
        return saturate(x + term, arithmetic.RESIDUAL_BITS)


def choose(
    sums: np.ndarray,
    sigma: Scale,
    inverse_temperature: Scale | None,
    state: int,
    shift: int = 0,
) -> int:
    """Next token of one sequence: greedy without a temperature, else Gumbel-max from ``state``.

    ``shift`` is the head's `operand_shift`.
    """
    if inverse_temperature is None:
        return int((sums >> shift).argmax())
    keys = round_shift(*_scaled(sums, shift, [sigma * inverse_temperature], KEY_FRACTION))
    keys = keys + gumbel(noise(state, len(sums)))
    return int(saturate(keys, arithmetic.RESIDUAL_BITS).argmax())
