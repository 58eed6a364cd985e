"""Where the cycles of a token go: counted by a device, predicted from its program, side by side."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from host.compiler import Image, compile_image
from host.device import Device, LinkDevice
from host.errors import UsageError
from host.ports import READ_TIMEOUT
from host.urls import SIMULATED
from hw import boards
from hw.arch.geometry import Geometry
from hw.arch.protocol import ALL_FEATURES, Feature, Identity
from hw.control.sequencer import Sequencer
from hw.machine import Machine
from sim.device import SimulatedPort
from sim.libraries import announce
from sim.timeline import draw, operation
from sim.timing import TimedStep, Timing, predict
from weights.commandline import one_line
from weights.model import IntegerModel

MEASURED_TOKENS = 8
"""Tokens that are generated to measure a machine."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Steps of one name, or of one part of the program, in one token; cycles are sums over them.

    Parameters
    ----------
    name : str
    units : str
        Initials of their units.
    times : int
        How many are executed.
    counted : float or None
        Cycles that the sequencer spent at them, by the device's counters.
    predicted : int
        The same by the prediction.
    waited : int
        Those of the predicted ones in which they were kept from being issued.
    worked : int
        Cycles in which their units then worked.
    """

    name: str
    units: str
    times: int
    counted: float | None
    predicted: int
    waited: int
    worked: int


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The cycles of a generated token.

    Parameters
    ----------
    board, model : str
        Names.
    timing : Timing
        The prediction.
    counted : tuple of float, or None
        Cycles that a device counted in a token at each step of the program, in all layers together;
        None where none was asked.
    """

    board: str
    model: str
    timing: Timing
    counted: tuple[float, ...] | None = None

    @property
    def title(self) -> str:
        t = self.timing
        return (
            f"{one_line(self.model)} on {self.board}: {t.cycles:,} cycles per generated token, "
            f"{t.utilization:.1%} of the engine's peak (predicted from the program)"
        )

    def svg(self) -> str:
        """The timetable as a picture; bars are those of the prediction."""
        return draw(self.timing, self.title)

    def save_svg(self, folder: Path) -> Path:
        """Write ``profile.svg`` into a folder that is made if need be; the file's path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "profile.svg"
        path.write_text(self.svg(), encoding="utf-8")
        return path

    # Sums --------------------------------------------------------------------------------------

    @cached_property
    def _executed(self) -> dict[int, list[TimedStep]]:
        """By the number of a step in the program, how it is executed in a token."""
        executed: dict[int, list[TimedStep]] = {}
        for step in self.timing.steps:
            executed.setdefault(step.number, []).append(step)
        return executed

    @cached_property
    def predicted(self) -> tuple[int, ...]:
        """What ``counted`` should be."""
        return tuple(self.timing.counters(chosen=1))

    def _row(self, name: str, numbers: Iterable[int]) -> Row:
        numbers = list(numbers)
        steps = [step for number in numbers for step in self._executed[number]]
        units = {step.unit: step.unit.name[0] for step in steps}
        return Row(
            name=name,
            units="".join(units[unit] for unit in sorted(units)),
            times=len(steps),
            counted=None if self.counted is None else sum(self.counted[n] for n in numbers),
            predicted=sum(step.cycles for step in steps),
            waited=sum(step.waited for step in steps),
            worked=sum(step.worked for step in steps),
        )

    def _rows(self, name: Callable[[TimedStep], str]) -> list[Row]:
        """The program's steps by a name that those of one row share."""
        groups: dict[str, list[int]] = {}
        for number, (step, *_) in self._executed.items():
            groups.setdefault(name(step), []).append(number)
        return [self._row(name, numbers) for name, numbers in groups.items()]

    def kinds(self) -> list[Row]:
        """Steps of one name, those with most cycles first."""
        return sorted(self._rows(lambda step: step.kind), key=lambda row: -row.predicted)

    def parts(self) -> list[Row]:
        """The layers, and what is before and after them."""
        first = min(
            (step.number for step in self.timing.steps if step.layer is not None), default=0
        )

        def part(step: TimedStep) -> str:
            if step.layer is not None:
                return "layers"
            return "start" if step.number < first else "head"

        return self._rows(part)

    def engine_waits(self) -> list[tuple[str, str, int]]:
        """(unit, operation, cycles) that the engine's idle time is owed to, most first."""
        causes = Counter(
            {
                ("sequencer", "begin and end of a token"): Sequencer.TOKEN_CYCLES
                + Sequencer.END_CYCLES
            }
        )
        for span in self.timing.engine_waits():
            unit = span.step.unit.name.lower() if span.working else "sequencer"
            what = operation(span.step) if span.working else "fetch and issue"
            causes[unit, what] += span.end - span.start
        return [(unit, what, cycles) for (unit, what), cycles in causes.most_common()]

    def differences(self) -> int | None:
        """Steps of the program of which the device counted something else than is predicted."""
        if self.counted is None:
            return None
        return sum(map(operator.ne, self.counted, self.predicted))

    # Forms -------------------------------------------------------------------------------------

    def steps(self) -> list[list[Any]]:
        """Each step of the program as name, unit, how often it is executed in a token, and cycles
        counted and predicted, all times together."""
        counted: Sequence[float | None] = self.counted or [None] * len(self.predicted)
        return [
            [step.kind, step.unit.name.lower(), 1 + len(more), counts, cycles]
            for (step, *more), counts, cycles in zip(
                self._executed.values(), counted, self.predicted, strict=True
            )
        ]

    def timetable(self) -> list[list[Any]]:
        """Each step that is executed as its number in the program, layer, what it waited for, the
        cycle in which it is issued and the first one in which its unit is idle again."""
        return [[s.number, s.layer, s.waited_for, s.issued, s.idle] for s in self.timing.steps]

    def to_json(self) -> dict[str, Any]:
        """All of it as one object of plain values."""
        return {
            "cycles_per_token_predicted": self.timing.cycles,
            "cycles_per_prompt_token_predicted": self.timing.prefill_cycles,
            "engine_cycles": self.timing.engine_cycles,
            "utilization": self.timing.utilization,
            "engine_waits": [list(wait) for wait in self.engine_waits()],
            "steps": self.steps(),
            "timetable": self.timetable(),
        }

    def table(self) -> str:
        """Text of 80 columns."""
        return "\n".join(
            [
                f"{self.model} on {self.board}, cycles of one generated token",
                "",
                *self._engine_lines(),
                "",
                *_table("steps by part", self.parts()),
                "",
                *_table("steps by name", self.kinds()),
                "",
                *self._footnotes(),
            ]
        )

    def _engine_lines(self) -> Iterator[str]:
        t = self.timing
        waits = self.engine_waits()
        running = t.cycles - sum(cycles for *_, cycles in waits)

        def line(name: str, cycles: int) -> str:
            return f"{name:48}{cycles:>12,}{cycles / t.cycles:>9.1%}"

        yield line("a generated token takes", t.cycles)
        yield line("  the engine takes trits", t.engine_cycles)
        yield line("  it fills, drains, or ends a group", running - t.engine_cycles)
        yield line("  it waits", t.cycles - running)
        for unit, what, cycles in waits:
            yield line(f"    for {unit}: {what}", cycles)
        yield f"{'a prompt token that chooses nothing takes':48}{t.prefill_cycles:>12,}"

    def _footnotes(self) -> Iterator[str]:
        yield "Units: E engine, V vector, S scalar, C control. Counted: by the device, mean;"
        yield "predicted: from the program; waits: until it is issued; works: then its unit."
        match self.differences():
            case None:
                yield "Nothing was counted: all figures are predicted."
            case 0:
                yield "Every step was counted as predicted."
            case number:
                yield (
                    f"{number} of {len(self.predicted)} steps were not counted as predicted: "
                    "is the device of this version?"
                )


def _table(title: str, rows: list[Row]) -> Iterator[str]:
    yield f"{title:22}unit {'times':>6}{'counted':>11}{'predicted':>12}{'waits':>11}{'works':>11}"
    for row in rows:
        counted = "-" if row.counted is None else f"{row.counted:,.10g}"
        yield (
            f"{row.name:22.22}{row.units:5}{row.times:>6,}{counted:>11}{row.predicted:>12,}"
            f"{row.waited:>11,}{row.worked:>11,}"
        )


# Devices ----------------------------------------------------------------------------------------


def machine(device: Device) -> Identity:
    """What a device says of itself. Raises UsageError for one that has no program."""
    identity = device.identify()
    if identity is None:
        raise UsageError("this device has no program to profile; use sim://BOARD or a board")
    if not identity.features & Feature.COUNTERS:
        raise UsageError(
            f"{identity.board} counts no cycles to profile; "
            "build it with COUNTERS among its machine's features"
        )
    return identity


def _counted(device: Device, timing: Timing, chosen: int) -> tuple[float, ...]:
    """Mean cycles of each step in a token; ``chosen`` were chosen in what the device counted."""
    counters = [cycles for _, cycles in device.counters()]
    tokens, body = device.totals().tokens, timing.prefill[-1].number
    times = [tokens if number <= body else chosen for number in range(len(counters))]
    means = (cycles / max(n, 1) for cycles, n in zip(counters, times, strict=True))
    return tuple(map(_whole, means))


def of_run(
    device: Device,
    model: IntegerModel,
    name: str,
    *,
    prompt: int,
    generated: int,
    hardware: Machine | None = None,
) -> Profile:
    """The profile of what a device has just generated.

    Parameters
    ----------
    model : IntegerModel
        The one that is loaded, and ``name`` what to call it.
    prompt, generated : int
        Tokens of the prompt, and those that came.
    hardware : Machine or None
        What the device is, if it is not `hardware_of` what it says.

    Raises
    ------
    UsageError
        The device has no program, or is no machine that is known here.
    """
    identity = machine(device)
    hardware = hardware or hardware_of(identity.board, identity.geometry)
    timing = predict(compile_image(model, identity.geometry), hardware)
    # The driver takes a long prompt through in parts; each part chooses a token that is dropped.
    dropped = (prompt - 1) // max(identity.geometry.tokens - 1, 1)
    return Profile(
        board=identity.board,
        model=name,
        timing=timing,
        counted=_counted(device, timing, generated + dropped),
    )


def hardware_of(name: str, geometry: Geometry) -> Machine:
    """What a device is by what it says of itself: the board of that name, or the usual machine.

    Raises
    ------
    UsageError
        It has a memory beside its chip, of which only the board tells more.
    """
    board = boards.known(name)
    if board is not None and board.geometry == geometry:
        return board.machine
    try:
        return Machine(geometry=geometry)
    except ValueError as error:
        raise UsageError(f"{name}: no board of this name has its geometry: {error}") from error


def _whole(mean: float) -> float:
    """A mean that is whole as an int, which is how it is then printed."""
    return int(mean) if mean.is_integer() else mean


def build_folder(board: str) -> Path:
    """Where builds of a board lie, by the name that a device reports."""
    return Path("build") / (re.sub(r"[^\w.-]", "_", board).strip(".") or "device")


def unmeasured(image: Image, board: str, model: str, hardware: Machine | None = None) -> Profile:
    """The prediction alone; see `of_run` for ``hardware``."""
    hardware = hardware or hardware_of(board, image.geometry)
    return Profile(board=board, model=model, timing=predict(image, hardware))


def measure(
    board: Any,
    model: IntegerModel,
    name: str,
    *,
    tokens: int = MEASURED_TOKENS,
    progress: Callable[[str], None] = announce,
) -> tuple[Profile, float]:
    """Profile and cycles of a generated token on a board's own core, compiled and run.

    Parameters
    ----------
    board : hw.boards.Board
    tokens : int
        How many are generated.

    Raises
    ------
    SimulationError
        The simulated device cannot be made.
    HostError
        It does not run the model.
    """
    # With counters, which change no cycle.
    counted = replace(board, machine=replace(board.machine, features=ALL_FEATURES))
    port = SimulatedPort(counted.core(), timeout=READ_TIMEOUT, progress=progress)
    with LinkDevice(port, name=f"simulated {board.name}", **SIMULATED) as device:
        device.load(model)
        cycles = []
        # What a run costs beside its tokens is in both.
        for count in (1, 1 + tokens):
            generated = len(list(device.generate([model.start_token], count)))
            cycles.append(device.totals().cycles)
        profile = of_run(device, model, name, prompt=1, generated=generated, hardware=board.machine)
    return replace(profile, board=board.name), _whole((cycles[1] - cycles[0]) / tokens)
