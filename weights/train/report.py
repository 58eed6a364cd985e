"""What a run leaves for people: lines of metrics and a plot of the curves."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..files import atomic_file, naming, parse_json, read_text, write_file
from .output import METRICS, PLOT

REMEDY = "bring the file again, or delete it to go on without the curve so far"


class Metrics:
    """One JSON object per line, appended as the run goes.

    After a kill the file may be ahead of the state: lines after `step` are taken back, so that an
    interrupted run's file ends up as an uninterrupted one's. So is the closing evaluation after the
    last of `steps`, which comes after its state.

    Raises
    ------
    ModelError
        As `read_metrics` does.
    """

    def __init__(self, directory: Path, step: int, steps: int) -> None:
        self.path = directory / METRICS
        kept = [
            line
            for line in read_metrics(directory)
            if line["step"] <= step and not (line["step"] == steps and "validation" in line)
        ]
        write_file(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def add(self, **values: Any) -> None:
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics; a last one that a kill cut short is left out.

    Raises
    ------
    ModelError
        When another line is damaged.
    """
    path = directory / METRICS
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    *whole, rest = read_text(path, REMEDY).split("\n")
    for number, text in enumerate(whole, start=1):
        lines.append(_line(text, f"{path}: line {number}"))
    with suppress(ModelError):  # nothing, mostly
        lines.append(_line(rest, path))
    return lines


def _line(text: str, where: object) -> dict[str, Any]:
    line = parse_json(text, where, REMEDY)
    counted = type(line.get("step")) is int and type(line.get("tokens")) is int
    if not counted or not all(type(value) in (int, float) for value in line.values()):
        raise ModelError(f"{where}: not a line of metrics; {REMEDY}")
    return line


def plot(directory: Path) -> None:
    """Draws losses and learning rate over tokens. Without matplotlib there is no plot."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = read_metrics(directory)
    figure, losses = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for key, label in (("loss", "training"), ("validation", "validation")):
        points = [(line["tokens"], line[key]) for line in lines if key in line]
        if points:
            losses.plot(*zip(*points, strict=True), label=label)
    rates = losses.twinx()
    points = [(line["tokens"], line["learning_rate"]) for line in lines if "learning_rate" in line]
    if points:
        rates.plot(*zip(*points, strict=True), color="lightgrey", label="learning rate")
    losses.set(xlabel="tokens", ylabel="nats per token")
    rates.set(ylabel="learning rate")
    if losses.lines:  # none in a run that was stopped at once
        losses.legend()
    with atomic_file(directory / PLOT) as file:
        figure.savefig(file, format="png", dpi=120)
    pyplot.close(figure)
