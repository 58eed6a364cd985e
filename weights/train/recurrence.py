"""The MLGRU's recurrence, the one part of the model that goes along time.

    f[t] = bound + (1 - bound) * sigmoid(forget[t])
    s[t] = f[t] * s[t - 1] + (1 - f[t]) * silu(input[t]),   s[-1] = 0

Two ways to compute it: a parallel scan in plain PyTorch, for any device, and a Triton kernel, for
CUDA. Both keep the state in float32.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor
from torch.nn import functional


def parallel_scan(decay: Tensor, addend: Tensor) -> Tensor:
    """s[t] = decay[t] * s[t - 1] + addend[t] along axis 1, from zero, in log2(time) rounds.

    After round k, (decay, addend) is the map that 2**k steps make of the state (Hillis and Steele).
    """
    time, step = decay.shape[1], 1
    while step < time:
        # The map of the steps before: identity before the text's start.
        earlier_addend = functional.pad(addend[:, :-step], (0, 0, step, 0))
        addend = addend + decay * earlier_addend
        step *= 2
        if step < time:
            earlier_decay = functional.pad(decay[:, : -(step // 2)], (0, 0, step // 2, 0), value=1)
            decay = decay * earlier_decay
    return addend


def plain_recurrence(input: Tensor, forget: Tensor, bound: Tensor) -> Tensor:
    """Hidden states (batch, time, hidden) of preactivations; `bound` is (hidden)."""
    input, forget = input.float(), forget.float()
    gate = bound + (1 - bound) * torch.sigmoid(forget)
    return parallel_scan(gate, (1 - gate) * functional.silu(input))


HAVE_TRITON = torch.cuda.is_available() and importlib.util.find_spec("triton") is not None

if HAVE_TRITON:
    from . import kernel

    @torch.library.custom_op("tritstream::recurrence", mutates_args=(), device_types="cuda")
    def fused_recurrence(input: Tensor, forget: Tensor, bound: Tensor) -> Tensor:
        """`plain_recurrence` as one kernel; the result has the type of `input`."""
        return kernel.forward(input, forget, bound)

    @fused_recurrence.register_fake
    def _(input: Tensor, forget: Tensor, bound: Tensor) -> Tensor:
        return torch.empty_like(input, memory_format=torch.contiguous_format)

    @torch.library.custom_op("tritstream::recurrence_backward", mutates_args=())
    def fused_recurrence_backward(
        gradient: Tensor, input: Tensor, forget: Tensor, bound: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of input, forget and, for each sequence, bound (batch, hidden)."""
        return kernel.backward(gradient, input, forget, bound, state)

    @fused_recurrence_backward.register_fake
    def _(
        gradient: Tensor, input: Tensor, forget: Tensor, bound: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        contiguous = torch.contiguous_format
        return (
            torch.empty_like(input, memory_format=contiguous),
            torch.empty_like(input, memory_format=contiguous),
            bound.new_empty(input.shape[0], input.shape[2]),
        )

    def _keep(ctx, inputs, output):
        ctx.save_for_backward(*inputs, output)

    def _differentiate(ctx, gradient):
        of_input, of_forget, of_bound = fused_recurrence_backward(
            gradient.contiguous(), *ctx.saved_tensors
        )
        return of_input, of_forget, of_bound.sum(0)

    fused_recurrence.register_autograd(_differentiate, setup_context=_keep)


def recurrence(input: Tensor, forget: Tensor, bound: Tensor) -> Tensor:
    """Hidden states by the fastest way there is on the tensors' device."""
    if HAVE_TRITON and input.is_cuda:
        return fused_recurrence(input.contiguous(), forget.contiguous(), bound)
    return plain_recurrence(input, forget, bound)
