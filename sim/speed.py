"""How fast a model runs: a board's machine, in cycles; any device, by the clock on the wall."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from host.compiler import Image, compile_image
from host.device import Device
from host.errors import FitError
from hw.boards import Board
from sim.profile import Profile, measure, unmeasured
from sim.timing import Timing, predict
from weights.errors import ReportedError
from weights.model import IntegerModel
from weights.store_commands import find_model


@dataclass(frozen=True, kw_only=True)
class Together:
    """How fast a machine runs a model in some of its contexts at once.

    Parameters
    ----------
    timing : Timing
        Of a token in each of them.
    simulated : float or None
        The same cycles, counted on the compiled core; None where nobody counted.
    """

    timing: Timing
    simulated: float | None = None

    @property
    def contexts(self) -> int:
        return self.timing.contexts

    @property
    def predicted(self) -> int:
        """Cycles by the timetable."""
        return self.timing.cycles

    @property
    def cycles(self) -> float:
        """Counted if they were, or else predicted."""
        return self.simulated or self.predicted

    @property
    def utilization(self) -> float:
        """Share of the engine's peak in these cycles."""
        image = self.timing.image
        return image.geometry.utilization(self.contexts * image.trits_per_token, self.cycles)

    def tokens_per_s(self, clock_hz: float) -> float:
        """Of all contexts."""
        return round(self.contexts * clock_hz / self.cycles, 1)


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a machine runs a model.

    Parameters
    ----------
    profile : Profile
        Of a token of one stream.
    cycles : float or None
        Of such a token, counted on the compiled core; None where that cannot be had.
    all_streams : Timing or None
        Of a token in each of the machine's contexts; None if it has one.
    """

    profile: Profile
    cycles: float | None
    all_streams: Timing | None = None

    def together(self) -> Iterator[Together]:
        """For one stream, and for all if the machine has contexts for more."""
        yield Together(timing=self.profile.timing, simulated=self.cycles)
        if self.all_streams:
            yield Together(timing=self.all_streams)


def predict_speed(board: Board, model: str | None = None) -> Speed:
    """The speed of a board's machine by its timetable alone; see `find_speed`."""
    path = find_model(model or board.model, offline=True)
    return _predict(board, path.stem, IntegerModel.load(path))


def find_speed(board: Board, model: str | None, say: Callable[[str], None]) -> Speed | None:
    """The speed of a board's machine; a line says why what cannot be had is None.

    Parameters
    ----------
    model : str or None
        Shipped model or path; the board's unless given.

    Raises
    ------
    ReportedError, OSError
        A model that was given cannot be used.
    """
    try:
        path = find_model(model or board.model, offline=True)
        integers = IntegerModel.load(path)
        speed = _predict(board, path.stem, integers)
    except (ReportedError, OSError) as error:
        if model is not None:
            raise
        say(f"no cycles per token: {error}; name another model with --model")
        return None
    try:
        profile, cycles = measure(board, integers, path.stem, progress=say)
    except ReportedError as error:
        say(f"cycles per token are only predicted: {error}")
        return speed
    return replace(speed, profile=profile, cycles=cycles)


def _predict(board: Board, name: str, model: IntegerModel) -> Speed:
    image = _compile(model, name, board)
    contexts = board.geometry.contexts
    return Speed(
        profile=unmeasured(image, board.name, name, board.machine),
        cycles=None,
        all_streams=predict(image, board.machine, contexts=contexts) if contexts > 1 else None,
    )


def _compile(integers: IntegerModel, name: str, board: Board) -> Image:
    try:
        return compile_image(integers, board.geometry)
    except FitError as error:
        raise FitError(f"{name}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Generated tokens per second of some runs: of time that passed, and of a processor's time.

    Other programs take none of the latter; of a device that is another program it says nothing.
    """

    walls: tuple[float, ...]
    processors: tuple[float, ...]

    @property
    def tokens_per_s(self) -> float:
        """The median, by the clock on the wall."""
        return statistics.median(self.walls)

    @property
    def fastest(self) -> float:
        """Of the run that other programs disturbed least."""
        return max(self.walls)

    @property
    def tokens_per_processor_s(self) -> float:
        """The median, of a processor's time."""
        return statistics.median(self.processors)


def pace(run: Callable[[int], object], *, tokens: int, runs: int) -> Pace:
    """Times runs of so many tokens, each with a number of its own as seed, all but a first one."""
    walls, processors = [], []
    for seed in range(runs + 1):
        wall, processor = time.perf_counter(), time.process_time()
        run(seed)
        walls.append(tokens / (time.perf_counter() - wall))
        processors.append(tokens / max(time.process_time() - processor, 1e-9))
    return Pace(walls=tuple(walls[1:]), processors=tuple(processors[1:]))


def pace_of_device(
    device: Device, model: IntegerModel, *, tokens: int, runs: int, temperature: float = 0.0
) -> Pace:
    """The pace at which a device generates from a model's start token; the model is loaded."""
    device.load(model)

    def run(seed: int) -> None:
        start = [model.start_token]
        for _ in device.generate(start, tokens, temperature=temperature, seed=seed):
            pass

    return pace(run, tokens=tokens, runs=runs)
