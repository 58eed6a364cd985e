"""How fast models run on this machine, or whether they run right: ``python -m sim.native MODEL``.

A line for each model with one thread and with as many as there are processors, or with each
``--threads N``: generated tokens per second, the median of some runs, the slowest and the fastest
of them, and the median of tokens per second of processor time, of which other programs take none.

``--check N`` compares so many tokens with the golden model instead, to the bit.
"""

from __future__ import annotations

from weights import early as early  # isort: split

import contextlib
import sys
import time
from collections.abc import Sequence

from sim import libraries
from sim.native import MOST_THREADS, NativeDevice, processors, recipe_here
from sim.native.check import DifferenceError, check
from sim.speed import pace_of_device
from weights.commandline import OneLineParser, program
from weights.model import IntegerModel
from weights.store import shipped_models
from weights.store_commands import add_source_arguments, find_model


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m sim.native", description="Time or check models on this machine."
    )
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="shipped model, path, or ORG/NAME[@REVISION] on a hub (default: all that are shipped)",
    )
    add_source_arguments(parser)
    parser.add_argument(
        "--threads",
        type=int,
        action="append",
        metavar="N",
        help="any number of times (default: 1, and as many as there are processors)",
    )
    parser.add_argument("--tokens", type=int, default=200, metavar="N", help="of a run (200)")
    parser.add_argument("--runs", type=int, default=9, metavar="N", help="runs to time (9)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0: greedy")
    parser.add_argument(
        "--check", type=int, metavar="N", help="compare so many tokens with the golden model"
    )
    parser.add_argument(
        "--sequences", type=int, default=200, metavar="N", help="of those at once (200)"
    )
    return parser


def _time(model: IntegerModel, threads: int, tokens: int, runs: int, temperature: float) -> str:
    with contextlib.closing(NativeDevice(threads)) as device:
        found = pace_of_device(device, model, tokens=tokens, runs=runs, temperature=temperature)
    return (
        f"{found.tokens_per_s:,.0f} tokens/s "
        f"({min(found.walls):,.0f} to {max(found.walls):,.0f}), "
        f"{found.tokens_per_processor_s:,.0f} a second of a processor"
    )


def _check(name: str, model: IntegerModel, threads: int, tokens: int, sequences: int) -> str:
    library = libraries.library(recipe_here())
    start = time.perf_counter()
    try:
        compared = check(model, library, tokens, sequences=sequences, threads=threads)
    except DifferenceError as error:
        raise DifferenceError(f"{name}: {error}") from None
    return f"{compared:,} tokens equal to golden, in {time.perf_counter() - start:,.0f} s"


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns the exit status; `SystemExit` on wrong usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    numbers = dict.fromkeys(options.threads or [1, min(processors(), MOST_THREADS)])
    for name, values, most in (
        ("threads", numbers, MOST_THREADS),
        ("tokens", [options.tokens], 1 << 20),
        ("runs", [options.runs], 1 << 10),
        ("check", [] if options.check is None else [options.check], 1 << 40),
        ("sequences", [options.sequences], 1 << 12),
    ):
        for value in values:
            if not 1 <= value <= most:
                parser.error(f"--{name} must be 1 to {most}, not {value}")
    for name in options.models or shipped_models():
        model = IntegerModel.load(find_model(name, options.source, options.offline))
        for threads in options.threads or [1] if options.check else numbers:
            if options.check:
                told = _check(name, model, threads, options.check, options.sequences)
            else:
                told = _time(model, threads, options.tokens, options.runs, options.temperature)
            print(f"{name}, {threads} thread{'s' * (threads > 1)}: {told}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
