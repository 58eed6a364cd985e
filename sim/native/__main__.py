"""How fast a model runs on this machine: ``python -m sim.native MODEL``.

A line each for one thread and for as many as there are processors, or for each ``--threads N``:
generated tokens per second, the median of some runs, the slowest and the fastest of them, and the
median of tokens per second of processor time, which other programs take no part of.
"""

from __future__ import annotations

from weights import early as early  # isort: split

import contextlib
import statistics
import sys
import time
from collections.abc import Sequence

from host.device import Device
from sim.native import MOST_THREADS, NativeDevice, processors
from weights.commandline import OneLineParser, program
from weights.model import IntegerModel
from weights.store_commands import add_source_arguments, find_model


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m sim.native", description="Time a model on this machine's processors."
    )
    parser.add_argument("model", help="shipped model, path, or ORG/NAME[@REVISION] on a hub")
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
    return parser


def _speeds(
    device: Device, prompt: list[int], tokens: int, runs: int, temperature: float
) -> tuple[list[float], list[float]]:
    """Tokens per second, and per second of processor time, of each run but one before them."""
    walls, processors = [], []
    for seed in range(runs + 1):
        wall, processor = time.perf_counter(), time.process_time()
        for _ in device.generate(prompt, tokens, temperature=temperature, seed=seed):
            pass
        walls.append(tokens / (time.perf_counter() - wall))
        processors.append(tokens / max(time.process_time() - processor, 1e-9))
    return walls[1:], processors[1:]


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
    ):
        for value in values:
            if not 1 <= value <= most:
                parser.error(f"--{name} must be 1 to {most}, not {value}")
    model = IntegerModel.load(find_model(options.model, options.source, options.offline))
    for threads in numbers:
        with contextlib.closing(NativeDevice(threads)) as device:
            device.load(model)
            walls, times = _speeds(
                device, [model.start_token], options.tokens, options.runs, options.temperature
            )
        print(
            f"{threads} thread{'s' * (threads > 1)}: {statistics.median(walls):,.0f} tokens/s "
            f"({min(walls):,.0f} to {max(walls):,.0f}), "
            f"{statistics.median(times):,.0f} a second of a processor",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
