"""The MatMul-free LM (arXiv 2406.02528) in plain PyTorch, and a Transformer to compare it with.

Parameters have upstream's names and shapes, so that a state dictionary is an upstream checkpoint.
Ternary weights and int8 activations are trained by straight-through estimators (arXiv 2402.17764):
the forward pass runs on the rounded values, the backward pass takes rounding for the identity.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checkpoint import NORM_EPSILON
from .config import ModelConfig
from .recurrence import recurrence

CODE_MAX = 127
SMALLEST = 1e-5
"""Upstream takes this for a smaller peak of a vector and for a smaller mean of a matrix."""

ROTARY_BASE = 10000.0


def compute_type(tensor: Tensor) -> torch.dtype:
    """The type in which matrices are multiplied: autocast's, where it is on."""
    device = tensor.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return tensor.dtype


def ternarise(latent: Tensor) -> tuple[Tensor, Tensor]:
    """(trits, beta) of a matrix: sign where ``|w| > beta / 2``, else 0; beta = mean ``|w|``."""
    beta = latent.abs().mean().clamp(min=SMALLEST)
    return torch.sign(latent) * (latent.abs() > 0.5 * beta), beta


MARGIN = 1 / 64
"""How far from the threshold `settle` moves latents, relative: bfloat16 rounds by 1 / 512."""


@torch.no_grad()
def settle(latent: Tensor) -> None:
    """Moves latents away from the threshold, in place; trits and beta stay.

    Training gathers latents at the threshold: their trits alternate, until the learning rate's end
    leaves them within a rounding error of it. Then another order of summation in beta, or another
    type, gives other trits. After this none does.
    """
    trits, beta = ternarise(latent)
    low, high = beta / 2 * (1 - MARGIN), beta / 2 * (1 + MARGIN)
    size = latent.abs()
    size = torch.where(trits != 0, size.clamp(min=high), size.clamp(max=low))
    latent.copy_(size * latent.sign() * (beta / size.mean()))


class TernaryProduct(torch.autograd.Function):
    """int8 codes of the input times trits of the latent weights, times both scales.

    Codes and trits are small integers, which bfloat16 holds exactly; products accumulate in
    float32. The gradients are those of ``input @ weight.T`` at the rounded values.
    """

    @staticmethod
    def forward(context, values: Tensor, latent: Tensor) -> Tensor:
        kind = compute_type(values)
        peak = values.abs().amax(-1, keepdim=True).clamp(min=SMALLEST)
        codes = torch.round(values * (CODE_MAX / peak)).to(kind)
        trits, beta = ternarise(latent)
        trits = trits.to(kind)
        step = peak / CODE_MAX
        context.save_for_backward(codes, step, trits, beta)
        return ((codes @ trits.T) * (step * beta)).to(kind)

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, Tensor]:
        codes, step, trits, beta = context.saved_tensors
        kind = codes.dtype
        of_values = ((gradient.to(kind) @ trits) * beta).to(step.dtype)
        scaled = (gradient * step).to(kind)
        of_latent = scaled.flatten(0, -2).T @ codes.flatten(0, -2)
        return of_values, of_latent.to(beta.dtype)


class RMSNorm(nn.Module):
    """v * weight / sqrt(mean(v**2) + eps), in float32 whatever the input's type."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, values: Tensor) -> Tensor:
        values = values.float()
        mean_square = values.square().mean(-1, keepdim=True)
        return values * torch.rsqrt(mean_square + NORM_EPSILON) * self.weight


class BitLinear(nn.Module):
    """A matrix with a norm of its own on its input.

    Ternary, or, to compare with, with the quantisers left out.
    """

    def __init__(self, columns: int, rows: int, ternary: bool) -> None:
        super().__init__()
        self.ternary = ternary
        self.weight = nn.Parameter(torch.empty(rows, columns))
        self.norm = RMSNorm(columns)

    def forward(self, values: Tensor) -> Tensor:
        normed = self.norm(values)
        if self.ternary:
            return TernaryProduct.apply(normed, self.weight)
        return functional.linear(normed, self.weight)


def projection(columns: int, rows: int, config: ModelConfig) -> nn.Module:
    """A matrix of the model. A full-precision Transformer has no norms inside its layers."""
    if config.architecture == "transformer" and not config.ternary:
        return nn.Linear(columns, rows, bias=False)
    return BitLinear(columns, rows, config.ternary)


class Mixer(nn.Module):
    """The MLGRU token mixer. ``rms(g) * silu(s)``: the norm is on g, the silu on the state."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.hidden
        self.i_proj = projection(d, d, config)
        self.f_proj = projection(d, d, config)
        self.g_proj = projection(d, d, config)
        self.g_norm = RMSNorm(d)
        self.o_proj = projection(d, d, config)

    def forward(self, values: Tensor, bound: Tensor) -> Tensor:
        state = recurrence(self.i_proj(values), self.f_proj(values), bound)
        return self.o_proj(self.g_norm(self.g_proj(values)) * functional.silu(state.float()))


class Attention(nn.Module):
    """Causal self-attention with rotary positions (arXiv 2104.09864)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.width = config.head_width
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, projection(config.hidden, config.hidden, config))

    def forward(self, values: Tensor, rotation: Tensor) -> Tensor:
        heads = (*values.shape[:2], -1, self.width)
        q, k, v = (
            matrix(values).view(heads).transpose(1, 2)
            for matrix in (self.q_proj, self.k_proj, self.v_proj)
        )
        kind = v.dtype
        q, k = rotate(q.float(), rotation).to(kind), rotate(k.float(), rotation).to(kind)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


def rotate(values: Tensor, rotation: Tensor) -> Tensor:
    """Each pair (v[j], v[j + width / 2]) turned by its angle; rotation is (2, time, width / 2)."""
    first, second = values.chunk(2, -1)
    cosine, sine = rotation
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), -1)


class GatedUnit(nn.Module):
    """The channel mixer, ``down(silu(a) * b)``; a and b are the halves of one product."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = projection(config.hidden, 2 * config.intermediate, config)
        self.down_proj = projection(config.intermediate, config.hidden, config)

    def forward(self, values: Tensor) -> Tensor:
        gate, value = self.gate_proj(values).float().chunk(2, -1)
        return self.down_proj(functional.silu(gate) * value)


class Block(nn.Module):
    """One layer: token mixer, then channel mixer, each on a normed copy of the residual."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attn_norm = RMSNorm(config.hidden)
        self.attn = Mixer(config) if config.architecture == "matmul-free" else Attention(config)
        self.mlp_norm = RMSNorm(config.hidden)
        self.mlp = GatedUnit(config)

    def forward(self, residual: Tensor, context: Tensor) -> Tensor:
        """`context` is the mixer's: this layer's lower bound, or the rotation."""
        residual = residual + self.dropped(self.attn(self.attn_norm(residual), context))
        return residual + self.dropped(self.mlp(self.mlp_norm(residual)))

    def dropped(self, values: Tensor) -> Tensor:
        return functional.dropout(values, self.dropout, self.training) if self.dropout else values


class Layers(nn.Module):
    """Embedding, layers and final norm: upstream's ``model.`` part."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = nn.Embedding(config.vocabulary, config.hidden)
        if config.architecture == "matmul-free":
            self.lower_bounds = nn.Parameter(torch.zeros(config.layers, config.hidden))
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.hidden)

    def contexts(self, time: int) -> list[Tensor]:
        """For each layer its lower bound (hidden), or the rotation for so many tokens."""
        if self.config.architecture == "matmul-free":
            shares = self.lower_bounds.softmax(0)
            return list((shares.cumsum(0) - shares[0]).unbind())
        weight = self.norm.weight
        half = self.config.head_width // 2
        frequency = ROTARY_BASE ** (-torch.arange(half, device=weight.device) / half)
        angle = torch.arange(time, device=weight.device)[:, None] * frequency
        return [torch.stack((angle.cos(), angle.sin()))] * self.config.layers

    def forward(self, tokens: Tensor) -> Tensor:
        """The residual stream after the last layer, (batch, time) to (batch, time, hidden)."""
        residual = self.embeddings(tokens)
        for layer, context in zip(self.layers, self.contexts(tokens.shape[1]), strict=True):
            residual = layer(residual, context)
        return residual


class LanguageModel(nn.Module):
    """The whole model.

    ``model(tokens)`` gives logits after each token, ``model(tokens, targets)`` the mean loss in
    nats. The state is zero at the start of each row.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Layers(config)
        self.lm_head = projection(config.hidden, config.vocabulary, config)
        self.loss: Callable[[Tensor, Tensor], Tensor] = self._loss
        self.initialise()

    def initialise(self) -> None:
        """Normal weights; those that write to the residual smaller, for its sum over layers."""
        deviation = self.config.initial_deviation
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2 and name != "model.lower_bounds":
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                shrink = math.sqrt(2 * self.config.layers) if writes else 1.0
                nn.init.normal_(parameter, std=deviation / shrink)

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        residual = self.model(tokens)
        return self.logits(residual) if targets is None else self.loss(residual, targets)

    def logits(self, residual: Tensor) -> Tensor:
        return self.lm_head(self.model.norm(residual))

    def _loss(self, residual: Tensor, targets: Tensor) -> Tensor:
        logits = self.logits(residual).flatten(0, 1)
        return functional.cross_entropy(logits.float(), targets.flatten())

    def latents(self) -> list[nn.Parameter]:
        """The weights that the forward pass takes as trits."""
        parts = self.modules()
        return [part.weight for part in parts if isinstance(part, BitLinear) and part.ternary]

    def compile_parts(self) -> None:
        """Compiles one layer, for all layers, and the head with the loss.

        Smaller programs compile in less time than the whole model, and layers share one.
        """
        for layer in self.model.layers:
            layer.compile(fullgraph=True, dynamic=False)
        self.loss = torch.compile(self._loss, fullgraph=True, dynamic=False)
