"""Cycles and tokens per second of a board's machine, for the report of its build."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from host.image import compile_image
from host.infer import DEFAULT_MODEL
from hw.boards import Board
from sim.profile import Profile, measure, unmeasured
from weights.errors import ReportedError
from weights.model import IntegerModel
from weights.store_commands import find_model

CONTEXTS = 1
"""Sequences that a machine works at side by side."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a machine runs a model.

    Parameters
    ----------
    profile : Profile
    cycles : float or None
        Of a generated token, counted on the compiled core; None where that cannot be had.
    """

    profile: Profile
    cycles: float | None

    @property
    def utilization(self) -> float | None:
        """Share of the engine's peak in the counted cycles."""
        image = self.profile.timing.image
        if not self.cycles:
            return None
        return image.trits_per_token / (image.geometry.lanes * self.cycles)

    def tokens_per_s(self, clock_hz: float) -> float | None:
        return round(clock_hz / self.cycles, 1) if self.cycles else None


def speed_keys(speed: Speed | None, *, clock_mhz: float, clock_hz: int) -> dict[str, Any]:
    """What a report says of a speed; all None if there is none.

    ``cycles_per_token`` is simulated. ``tokens_per_s`` is the routed clock by it,
    ``tokens_per_s_as_built`` the same at the clock that the bitstream's PLL makes. ``profile`` has
    a list for each step: name, unit, cycles counted and predicted, what it waited for, the cycle in
    which it is issued, and the first one in which its unit is idle again.
    """
    timing = speed.profile.timing if speed else None
    return {
        "model": speed and speed.profile.model,
        "contexts": CONTEXTS,
        "trits_per_token": timing and timing.image.trits_per_token,
        "cycles_per_token": speed and speed.cycles,
        "cycles_per_token_predicted": timing and timing.cycles,
        "utilization": speed and speed.utilization,
        "tokens_per_s": speed and speed.tokens_per_s(1e6 * clock_mhz),
        "tokens_per_s_as_built": speed and speed.tokens_per_s(clock_hz),
        "profile": speed and speed.profile.steps(),
    }


def find_speed(board: Board, model: str | None, say: Callable[[str], None]) -> Speed | None:
    """The speed of a board's machine; a line says why what cannot be had is None.

    Parameters
    ----------
    model : str or None
        Shipped model or path; the one that ``host/infer.py`` takes by default unless given.

    Raises
    ------
    ReportedError, OSError
        A model that was given cannot be used.
    """
    try:
        path = find_model(model or DEFAULT_MODEL, offline=True)
        integers = IntegerModel.load(path)
        image = compile_image(integers, board.geometry)
    except (ReportedError, OSError) as error:
        if model is not None:
            raise
        say(f"no cycles per token: {error}; name another model with --model")
        return None
    try:
        profile, cycles = measure(board, integers, path.stem, progress=say)
    except ReportedError as error:
        say(f"cycles per token are only predicted: {error}")
        return Speed(profile=unmeasured(image, board.name, path.stem, board.machine), cycles=None)
    return Speed(profile=profile, cycles=cycles)
