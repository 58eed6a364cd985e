"""The recurrence as Triton kernels: each program scans some channels of one sequence.

A tile of times by channels is scanned in registers, and the state is carried to the next tile. The
gates are computed in the kernel, so that memory sees two preactivations and one state per channel
and token; the backward pass computes the gates again.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TIMES, CHANNELS, WARPS = 64, 32, 4


@triton.jit
def _compose(decay_1, addend_1, decay_2, addend_2):
    """First the map 1, then the map 2."""
    return decay_1 * decay_2, decay_2 * addend_1 + addend_2


@triton.jit
def _forward(
    input, forget, bound, state, time, hidden, TIMES: tl.constexpr, CHANNELS: tl.constexpr
):
    sequence = tl.program_id(0).to(tl.int64) * time * hidden
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < hidden
    low = tl.load(bound + channel, mask=inside, other=0.0)
    carry = tl.zeros((CHANNELS,), tl.float32)
    row = tl.arange(0, TIMES)
    for first in range(0, time, TIMES):
        at = sequence + (first + row)[:, None] * hidden + channel[None, :]
        there = ((first + row) < time)[:, None] & inside[None, :]
        i = tl.load(input + at, mask=there, other=0.0).to(tl.float32)
        z = tl.load(forget + at, mask=there, other=0.0).to(tl.float32)
        f = low[None, :] + (1 - low[None, :]) * tl.sigmoid(z)
        decay, addend = tl.associative_scan((f, (1 - f) * i * tl.sigmoid(i)), 0, _compose)
        s = decay * carry[None, :] + addend
        tl.store(state + at, s.to(state.dtype.element_ty), mask=there)
        carry = tl.sum(tl.where((row == TIMES - 1)[:, None], s, 0.0), axis=0)


@triton.jit
def _backward(
    gradient,
    input,
    forget,
    bound,
    state,
    of_input,
    of_forget,
    of_bound,
    time,
    hidden,
    TIMES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    sequence = tl.program_id(0).to(tl.int64) * time * hidden
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < hidden
    low = tl.load(bound + channel, mask=inside, other=0.0)[None, :]
    carry = tl.zeros((CHANNELS,), tl.float32)
    total = tl.zeros((CHANNELS,), tl.float32)
    row = tl.arange(0, TIMES)
    for index in range(0, tl.cdiv(time, TIMES)):
        moment = (tl.cdiv(time, TIMES) - 1 - index) * TIMES + row
        at = sequence + moment[:, None] * hidden + channel[None, :]
        there = (moment < time)[:, None] & inside[None, :]
        after = ((moment + 1) < time)[:, None] & inside[None, :]
        before = there & (moment > 0)[:, None]
        i = tl.load(input + at, mask=there, other=0.0).to(tl.float32)
        z = tl.load(forget + at, mask=there, other=0.0).to(tl.float32)
        z_next = tl.load(forget + at + hidden, mask=after, other=0.0).to(tl.float32)
        s_before = tl.load(state + at - hidden, mask=before, other=0.0).to(tl.float32)
        addend = tl.load(gradient + at, mask=there, other=0.0).to(tl.float32)
        decay = tl.where(after, low + (1 - low) * tl.sigmoid(z_next), 0.0)
        decay, addend = tl.associative_scan((decay, addend), 0, _compose, reverse=True)
        of_state = decay * carry[None, :] + addend
        carry = tl.sum(tl.where((row == 0)[:, None], of_state, 0.0), axis=0)
        sigmoid_z, sigmoid_i = tl.sigmoid(z), tl.sigmoid(i)
        f = low + (1 - low) * sigmoid_z
        of_gate = of_state * (s_before - i * sigmoid_i)
        total += tl.sum(tl.where(there, of_gate * (1 - sigmoid_z), 0.0), axis=0)
        d_forget = of_gate * (1 - low) * sigmoid_z * (1 - sigmoid_z)
        d_input = of_state * (1 - f) * sigmoid_i * (1 + i * (1 - sigmoid_i))
        tl.store(of_forget + at, d_forget.to(of_forget.dtype.element_ty), mask=there)
        tl.store(of_input + at, d_input.to(of_input.dtype.element_ty), mask=there)
    tl.store(of_bound + tl.program_id(0) * hidden + channel, total, mask=inside)


def _launch(batch: int, time: int, hidden: int) -> tuple[tuple[int, int], dict[str, int]]:
    settings = {
        "TIMES": min(TIMES, triton.next_power_of_2(time)),
        "CHANNELS": min(CHANNELS, triton.next_power_of_2(hidden)),
        "num_warps": WARPS,
    }
    return (batch, triton.cdiv(hidden, settings["CHANNELS"])), settings


def forward(input: Tensor, forget: Tensor, bound: Tensor) -> Tensor:
    """Hidden states; `input` and `forget` are contiguous (batch, time, hidden)."""
    state = torch.empty_like(input)
    grid, settings = _launch(*input.shape)
    _forward[grid](input, forget, bound, state, *input.shape[1:], **settings)
    return state


def backward(
    gradient: Tensor, input: Tensor, forget: Tensor, bound: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `input`, `forget` and, for each sequence, `bound`."""
    of_input, of_forget = torch.empty_like(input), torch.empty_like(forget)
    of_bound = bound.new_empty(input.shape[0], input.shape[2])
    grid, settings = _launch(*input.shape)
    results = (of_input, of_forget, of_bound)
    sizes = input.shape[1:]
    _backward[grid](gradient, input, forget, bound, state, *results, *sizes, **settings)
    return results
