"""The native model against the golden one: sums, scales, choices and states, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from sim.golden import GoldenModel, choose
from sim.native import NativeModel
from weights.errors import ReportedError
from weights.fixed import Scale
from weights.model import IntegerModel

WAYS = (None, Scale.from_float(1.0), Scale.from_float(1 / 3), Scale.from_float(100.0))
"""In which tokens are chosen in turn: greedily, and by inverse temperatures."""
NOISE, NOISE_STEP = 0x12345678, 0x9E3779B
"""Of the first token, and from one to the next: any numbers, but none that repeat soon."""


class DifferenceError(ReportedError):
    """The native model is not the golden one."""


def compare(ours: Sequence[NativeModel], model: IntegerModel, steps: int, seed: int = 1) -> None:
    """A generation on each native model, and on the golden one for all of them together.

    Every sequence goes from the zero state and the start token its own way, that of its noise.

    Raises
    ------
    DifferenceError
        At the first number that differs.
    """
    golden = GoldenModel(model, len(ours))
    tokens = [model.start_token] * len(ours)
    noise = NOISE + seed
    for native in ours:
        native.start()
    for step in range(steps):
        golden.step(tokens)
        expected, scales = golden.head()
        for number, native in enumerate(ours):
            where = f"token {step} of sequence {number}"
            native.step(tokens[number])
            sums, scale = native.head()
            way = WAYS[(step + number) % len(WAYS)]
            tokens[number] = choose(expected[number], scales[number], way, noise, golden.head_shift)
            _same(f"sums of the head at {where}", sums, expected[number])
            _same(f"scale of the head at {where}", _parts(scale), _parts(scales[number]))
            _same(f"choice after {where}", native.choose(way, noise), tokens[number])
            noise = (noise + NOISE_STEP) % (1 << 32) or 1
    for number, native in enumerate(ours):
        where = f"state of sequence {number} after {steps} tokens"
        _same(where, native.state, golden.states[:, number])


def _parts(scale: Scale) -> tuple[int, int]:
    return scale.mantissa, scale.exponent


def _same(what: str, ours: ArrayLike, expected: ArrayLike) -> None:
    ours, expected = np.ravel(ours), np.ravel(expected)
    for index in np.flatnonzero(ours != expected):
        raise DifferenceError(
            f"{what}: number {index} is {ours[index]}, golden {expected[index]}; "
            "either sim/native/model.cpp or sim/golden.py is not docs/arithmetic.md"
        )


def check(
    model: IntegerModel, library: Path, tokens: int, *, sequences: int, threads: int = 1
) -> int:
    """Compares at least so many tokens, of so many sequences; the number that there were.

    Raises
    ------
    DifferenceError
        There is a difference.
    DeviceError
        There is no memory, or no thread, to be had.
    """
    sequences = min(sequences, tokens)
    steps = -(-tokens // sequences)
    compare([NativeModel(model, library, threads) for _ in range(sequences)], model, steps)
    return steps * sequences
