"""What a run leaves for people: lines of metrics and a plot of the curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

METRICS, PLOT = "metrics.jsonl", "curves.png"


class Metrics:
    """One JSON object per line, appended as the run goes.

    After a kill the file may be ahead of the state: lines after `step` are taken back, so that an
    interrupted run's file ends up as an uninterrupted one's. So is the closing evaluation after the
    last of `steps`, which comes after its state.
    """

    def __init__(self, directory: Path, step: int, steps: int) -> None:
        self.path = directory / METRICS
        lines = read_metrics(directory)
        kept = [
            line
            for line in lines
            if line["step"] <= step and not (line["step"] == steps and "validation" in line)
        ]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def add(self, **values: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics; a last one that a kill cut short is left out."""
    path = directory / METRICS
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


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
    points = [(line["tokens"], line["learning_rate"]) for line in lines if "loss" in line]
    if points:
        rates.plot(*zip(*points, strict=True), color="lightgrey", label="learning rate")
    losses.set(xlabel="tokens", ylabel="nats per token")
    rates.set(ylabel="learning rate")
    if losses.lines:  # none in a run that was stopped at once
        losses.legend()
    figure.savefig(directory / PLOT, dpi=120)
    pyplot.close(figure)
