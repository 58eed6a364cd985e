"""``python -m weights.train.study``: MatMul-free LMs against Transformers of the same size.

Every trial is a whole run of the trainer; equal numbers of tokens, and for each kind of model a
range of learning rates that goes on both sides of the best one. Results go to ``study.jsonl``, a
line each, and trials that are there do not run again.
"""

from __future__ import annotations

from weights import early as early  # isort: split

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..commandline import OneLineParser, program
from ..errors import ModelError
from ..files import atomic_file, parse_json, read_text, user_path, write_file
from ..locks import InUse, locked
from .config import Config, ModelConfig, TrainingConfig

RESULTS = Path(__file__).resolve().parents[1] / "study.jsonl"
PLOT = RESULTS.with_suffix(".svg")
PLOTS = (".svg", ".png", ".pdf")

SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "small": (
        {"hidden": 128, "layers": 5, "intermediate": 224, "vocabulary": 1024},
        {"steps": 3000, "batch": 128},
    ),
    "base": (
        {"hidden": 256, "layers": 6, "intermediate": 704, "vocabulary": 4096, "dropout": 0.1},
        {"steps": 1500, "batch": 96},
    ),
}
RATES = {
    ("small", "matmul-free", True): (0.015, 0.03, 0.06),
    ("small", "matmul-free", False): (0.004, 0.008, 0.016, 0.03),
    ("small", "transformer", True): (0.004, 0.008, 0.016, 0.03),
    ("small", "transformer", False): (0.002, 0.004, 0.008, 0.016),
    ("base", "matmul-free", True): (0.006, 0.012, 0.024, 0.048),
    ("base", "matmul-free", False): (0.002, 0.004, 0.008),
    ("base", "transformer", True): (0.003, 0.006, 0.012, 0.024),
    ("base", "transformer", False): (0.001, 0.002, 0.004, 0.008),
}
"""Peak learning rates tried, by size, architecture and whether weights are ternary."""
MEMBERS: dict[str, tuple[type, ...]] = {
    "size": (str,),
    "architecture": (str,),
    "ternary": (bool,),
    "learning_rate": (float, int),
    "parameters": (int,),
    "tokens": (int,),
    "validation": (float, int),
    "bits_per_byte": (float, int),
    "seconds": (float, int),
}
"""Of a line of the results, and their types."""
REMEDY = "correct or delete it"


def trials() -> Iterator[tuple[str, Config]]:
    """Size and configuration of every trial."""
    for (size, architecture, ternary), rates in RATES.items():
        shape, length = SIZES[size]
        for rate in rates:
            model = ModelConfig(**shape, architecture=architecture, ternary=ternary)
            training = TrainingConfig(
                **length, learning_rate=rate, warmup=200, weight_decay=0.3 if ternary else 0.1
            )
            yield size, Config(model=model, training=training)


def key(result: dict[str, Any]) -> tuple[Any, ...]:
    """What tells a trial from all others."""
    return tuple(result[name] for name in ("size", "architecture", "ternary", "learning_rate"))


def read_results(path: Path) -> list[dict[str, Any]]:
    """The results in a file, which need not be there.

    Raises
    ------
    ModelError
        When a line is not the result of a trial.
    """
    if not path.exists():
        return []
    lines = read_text(path, REMEDY).splitlines()
    return [_result(text, f"{path}: line {number}") for number, text in enumerate(lines, start=1)]


def _result(text: str, where: str) -> dict[str, Any]:
    result = parse_json(text, where, REMEDY)
    for name, kinds in MEMBERS.items():
        if type(result.get(name)) not in kinds:
            raise ModelError(f"{where}: {name} is missing or damaged; {REMEDY}")
    if key(result)[:3] not in RATES:
        raise ModelError(f"{where}: of no trial of this study; {REMEDY}")
    return result


def run(data: str, output: Path, path: Path) -> None:
    """Runs the trials that ``path`` lacks, each in a directory of its own under ``output``.

    Raises
    ------
    ModelError, OSError
        As `weights.train.loop.train` does, and when another process writes to ``path``.
    KeyboardInterrupt
        When a trial was asked to end; it goes on the next time.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path.with_name(f".{path.name}.lock"), wait=False))
        except InUse as error:
            raise ModelError(f"{path}: in use by another study; give another --results") from error
        from .loop import Options, train  # PyTorch, which drawing needs not

        results = read_results(path)
        done = {key(result) for result in results}
        for size, config in trials():
            model, training = config.model, config.training
            name = {
                "size": size,
                "architecture": model.architecture,
                "ternary": model.ternary,
                "learning_rate": training.learning_rate,
            }
            if key(name) in done:
                continue
            directory = output / "-".join(str(value) for value in name.values())
            result = asdict(train(config, Options(data=data, output=directory)))
            if not result["finished"]:
                raise KeyboardInterrupt
            results.append({member: (name | result)[member] for member in MEMBERS})
            lines = "".join(json.dumps(result) + "\n" for result in results)
            write_file(path, lines.encode())


def best(results: list[dict[str, Any]]) -> dict[tuple[str, str, bool], dict[str, Any]]:
    """The result with the lowest loss of each size, architecture and kind of weights."""
    found: dict[tuple[str, str, bool], dict[str, Any]] = {}
    for result in sorted(results, key=lambda result: -result["validation"]):
        found[result["size"], result["architecture"], result["ternary"]] = result
    return found


def table(results: list[dict[str, Any]]) -> str:
    """The best trials as a table in Markdown."""
    lines = [
        "| size | weights | model | parameters | learning rate | nats per token | bits per byte |",
        "|---|---|---|---|---|---|---|",
    ]
    for (size, architecture, ternary), result in sorted(best(results).items(), reverse=True):
        weights = "ternary" if ternary else "full precision"
        lines.append(
            f"| {size} | {weights} | {architecture} | {result['parameters']:,} "
            f"| {result['learning_rate']:g} | {result['validation']:.4f} "
            f"| {result['bits_per_byte']:.4f} |"
        )
    return "\n".join(lines)


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Bits per byte over the learning rate, a panel per size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(SIZES), figsize=(9, 4), layout="constrained")
    colours = {"matmul-free": "tab:blue", "transformer": "tab:orange"}
    for size, panel in zip(SIZES, panels, strict=True):
        for _, architecture, ternary in (kind for kind in RATES if kind[0] == size):
            points = sorted(
                (result["learning_rate"], result["bits_per_byte"])
                for result in results
                if key(result)[:3] == (size, architecture, ternary)
            )
            if not points:
                continue
            panel.plot(
                *zip(*points, strict=True),
                marker="o",
                color=colours[architecture],
                linestyle="-" if ternary else "--",
                label=f"{architecture}, {'ternary' if ternary else 'full precision'}",
            )
        counts = [result["parameters"] for result in results if result["size"] == size]
        title = f"{size}: {round(max(counts) / 1e6)} M parameters" if counts else size
        panel.set(xscale="log", xlabel="peak learning rate", title=title)
    panels[0].set(ylabel="bits per byte")
    if panels[0].lines:
        panels[0].legend()
    with atomic_file(path) as file:
        figure.savefig(file, format=path.suffix[1:])
    pyplot.close(figure)


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns the exit status; `SystemExit` on wrong usage."""
    parser = OneLineParser(prog="python -m weights.train.study", description=__doc__)
    parser.add_argument("--data", help="folder of texts; without it only table and plot are made")
    parser.add_argument("--out", type=user_path, default=Path("build/study"), help="of the runs")
    parser.add_argument("--results", type=user_path, default=RESULTS, help="a line per trial")
    parser.add_argument("--plot", type=user_path, default=PLOT, help=", ".join(PLOTS))
    options = parser.parse_args(arguments)
    if options.plot.suffix not in PLOTS:
        parser.error(f"--plot must end in {', '.join(PLOTS)}, not {options.plot.name!r}")
    if options.data is not None:
        run(options.data, options.out, options.results)
    results = read_results(options.results)
    if not results:
        raise ModelError(f"{options.results}: holds no results; run the trials with --data DIR")
    draw(results, options.plot)
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
