"""The learning rate over the steps of a run."""

from __future__ import annotations

import math


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """The paper's schedule (arXiv 2406.02528, section 4.1): a cosine to zero, halved midway.

    Linear warm-up over the first `warmup` steps; from the middle of the run on, half the cosine.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    cosine = peak * 0.5 * (1 + math.cos(math.pi * progress))
    return cosine / 2 if 2 * step >= steps else cosine
