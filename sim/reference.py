"""The float reference: upstream's forward pass in NumPy float32.

It is the arithmetic of ``HGRNBitForCausalLM`` as released with arXiv 2406.02528, in its unfused
form and with the recurrent state in float32: two norms before each ternary product, int8 codes
with one scale per token. Products of codes and trits are sums of integers below 2**24, so float32
matrix multiplication gives them exactly, in any order of summation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from weights.architectures.mmfree import EMBEDDING, LOWER_BOUNDS, Matrix, matrices, norms
from weights.checkpoint import NORM_EPSILON, Checkpoint
from weights.quantise import lower_bounds, mean_magnitude, ternarise

CODE_MAX = np.float32(127)
SMALLEST_PEAK = np.float32(1e-5)
"""Upstream takes this as the peak of an activation vector whose peak is smaller."""


def rms_norm(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Each row over its root mean square, times `weight`."""
    mean_square = np.einsum("bi,bi->b", values, values)[:, None] / np.float32(values.shape[1])
    return values / np.sqrt(mean_square + np.float32(NORM_EPSILON)) * weight


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Logistic function, as a tanh so that no argument overflows."""
    half = np.float32(0.5)
    return half + half * np.tanh(half * values)


def silu(values: np.ndarray) -> np.ndarray:
    """``v * sigmoid(v)``."""
    return values * sigmoid(values)


class BitLinear:
    """A ternary matrix with the norm and the int8 quantisation of its input.

    Members
    -------
    weight : float32 trits (columns, rows)
    beta : the matrix's scale
    norm : weight of the inner norm (columns)
    """

    def __init__(self, checkpoint: Checkpoint, matrix: Matrix) -> None:
        beta = mean_magnitude(checkpoint.blocks(matrix.weight))
        self.beta = np.float32(beta)
        self.norm = checkpoint.tensor(matrix.inner_norm)
        self.weight = np.empty((matrix.columns, matrix.rows), dtype=np.float32)
        for block, latents in checkpoint.blocks(matrix.weight):
            self.weight[:, block] = ternarise(latents, beta).T

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(batch, columns) to (batch, rows)."""
        normed = rms_norm(values, self.norm)
        peak = np.maximum(np.abs(normed).max(axis=1, keepdims=True), SMALLEST_PEAK)
        codes = np.rint(normed * (CODE_MAX / peak))
        return (codes @ self.weight) * (peak / CODE_MAX * self.beta)


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """One layer: the MLGRU token mixer, then the gated linear unit."""

    mixer_norm: np.ndarray
    input: BitLinear
    forget: BitLinear
    gate: BitLinear
    output: BitLinear
    gate_norm: np.ndarray
    lower_bound: np.ndarray
    channel_norm: np.ndarray
    expand: BitLinear
    contract: BitLinear

    @classmethod
    def read(cls, checkpoint: Checkpoint, index: int, lower_bound: np.ndarray) -> Block:
        """Layer `index` of a checkpoint."""
        known, tables = matrices(checkpoint.shape), norms(checkpoint.shape)

        def matrix(name: str) -> BitLinear:
            return BitLinear(checkpoint, known[f"layers.{index}.{name}"])

        def norm(name: str) -> np.ndarray:
            return checkpoint.tensor(tables[f"layers.{index}.{name}"])

        return cls(
            mixer_norm=norm("attn.norm"),
            input=matrix("attn.i"),
            forget=matrix("attn.f"),
            gate=matrix("attn.g"),
            output=matrix("attn.o"),
            gate_norm=norm("attn.o.norm"),
            lower_bound=lower_bound,
            channel_norm=norm("mlp.norm"),
            expand=matrix("mlp.gate"),
            contract=matrix("mlp.down"),
        )

    def __call__(self, residual: np.ndarray, state: np.ndarray) -> np.ndarray:
        """The residual (batch, hidden) after this layer; `state` (batch, hidden) is updated."""
        normed = rms_norm(residual, self.mixer_norm)
        forget = sigmoid(self.forget(normed))
        forget = self.lower_bound + (1 - self.lower_bound) * forget
        state[:] = forget * state + silu(self.input(normed)) * (1 - forget)
        gated = rms_norm(self.gate(normed), self.gate_norm) * silu(state)
        residual = residual + self.output(gated)
        expanded = self.expand(rms_norm(residual, self.channel_norm))
        gate, value = np.split(expanded, 2, axis=1)
        return residual + self.contract(silu(gate) * value)


class FloatModel:
    """The float reference of a checkpoint. Holds every trit as a float32.

    Raises
    ------
    ModelError
        When a tensor turns out to be damaged.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.shape = checkpoint.shape
        self.embeddings = checkpoint.tensor(EMBEDDING)
        bounds = lower_bounds(checkpoint.tensor(LOWER_BOUNDS))
        self.blocks = [Block.read(checkpoint, n, bounds[n]) for n in range(self.shape.layers)]
        self.norm = checkpoint.tensor(norms(self.shape)["head.norm"])
        self.head = BitLinear(checkpoint, matrices(self.shape)["head"])

    def start(self, batch: int) -> np.ndarray:
        """The zero state (layers, batch, hidden) before a text's first token."""
        return np.zeros((self.shape.layers, batch, self.shape.hidden), dtype=np.float32)

    def hidden_states(self, tokens: np.ndarray, state: np.ndarray) -> Iterator[np.ndarray]:
        """Takes one token (batch) per sequence; `state` is updated.

        Yields as upstream lists its hidden states, (batch, hidden) each: the embedding, the
        residual after each layer but the last, and the output of the final norm.
        """
        residual = self.embeddings[tokens]
        for block, layer_state in zip(self.blocks, state, strict=True):
            yield residual
            residual = block(residual, layer_state)
        yield rms_norm(residual, self.norm)

    def logits(self, tokens: np.ndarray) -> Iterator[np.ndarray]:
        """Logits (batch, vocabulary) after each of `tokens` (batch, time), from zero state."""
        state = self.start(tokens.shape[0])
        for column in tokens.T:
            *_, last = self.hidden_states(column, state)
            yield self.head(last)
