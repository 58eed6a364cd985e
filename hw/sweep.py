"""Seeds of many machines, on many computers: ``python -m hw.sweep BOARD... --seeds 8``.

Every seed of every machine is placed and routed by a worker of Dask: by local processes, or those
of a scheduler that is there. What becomes of each is a line of a file (`hw.build.trial.Result`),
and a seed that has a line is not tried again: a sweep that was interrupted goes on.
"""

from weights import early as early  # isort: split

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hw.boards import outside
from hw.build import BuildError
from hw.build.plan import Plan
from hw.build.steps import LIMIT_MINUTES, draw_seeds
from hw.build.trial import ENDED, ROUTED, Result, Variant, attempt, plan_of
from weights.commandline import OneLineParser, console, one_line, program, report_failure
from weights.files import user_path
from weights.locks import InUse, locked

if TYPE_CHECKING:
    from distributed import Client

LEAD = 0.1
ROW = "{:<40}{:>10}{:>12}  {}"


class Results:
    """The lines of a sweep's file, of which this process alone writes any."""

    def __init__(self, path: Path):
        self.path = path
        self.known: dict[tuple[str, int], Result] = {}
        whole = path.read_bytes() if path.exists() else b""
        *lines, rest = whole.split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                result = Result.from_line(line)
            except ValueError as error:
                raise BuildError(
                    f"{path}:{number}: {one_line(error)}; remove the line, or give another --output"
                ) from error
            self.known[result.key] = result
        if rest:  # what was being written when its process ended
            os.truncate(path, len(whole) - len(rest))

    def add(self, result: Result) -> None:
        """Once this returns, the line stays."""
        with self.path.open("ab") as file:
            file.write(result.line())
            file.flush()
            os.fsync(file.fileno())
        self.known[result.key] = result

    def of(self, digest: str) -> list[Result]:
        return [result for result in self.known.values() if result.digest == digest]


@contextmanager
def results(path: Path) -> Iterator[Results]:
    """Raises BuildError if another sweep has the file, or if it is none of a sweep."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with locked(path.with_name(f".{path.name}.lock"), wait=False):
            yield Results(path)
    except InUse as error:
        raise BuildError(f"{path}: another sweep writes it; wait, or give another --output") from (
            error
        )


@contextmanager
def cluster(address: str | None, workers: int) -> "Iterator[Client]":
    """A client of the scheduler there, or of a local one with so many workers of its own."""
    from distributed import Client, LocalCluster

    with ExitStack() as stack:
        if address is None:
            address = stack.enter_context(
                LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
            )
        try:
            client = stack.enter_context(Client(address))
        except (OSError, ValueError) as error:
            raise BuildError(f"{address}: no scheduler of Dask answers there: {error}") from error
        yield client


def shortest(name: str, length: int) -> int:
    """The least wire length that any worker has told under that name."""
    from distributed import Lock, Variable

    with Lock(name):
        least = Variable(name)
        found = min(length, least.get())
        least.set(found)
    return found


def try_seed(variant: Variant, seed: int, digest: str, **options) -> Result:
    """`attempt` of a worker; it is quiet, as others are beside it."""
    return attempt(
        variant, seed, digest, shortest=partial(shortest, digest), say=lambda _: None, **options
    )


def sweep(
    client: "Client", plans: dict[Variant, Plan], seeds: Iterable[int], found: Results, **options
) -> int:
    """Try all that has no result yet; returns how many attempts came to none."""
    from distributed import Variable, as_completed

    seeds, futures = list(seeds), {}
    for variant, the_plan in plans.items():
        digest = the_plan.digest.hex()
        lengths = [r.wire_length for r in found.of(digest) if r.wire_length is not None]
        Variable(digest, client=client).set(min(lengths, default=sys.maxsize))
        for seed in seeds:
            if (digest, seed) not in found.known:
                future = client.submit(try_seed, variant, seed, digest, pure=False, **options)
                futures[future] = variant, seed
    lost = 0
    for future in as_completed(futures):
        variant, seed = futures[future]
        if (error := future.exception()) is not None:
            print(f"{variant}, seed {seed}: ", end="", file=sys.stderr, flush=True)
            report_failure(error)
            lost += 1
            continue
        found.add(result := future.result())
        said = f"{result.clock_mhz:.2f} MHz" if result.outcome == ROUTED else result.reason
        print(f"{variant}, seed {seed}: {said}", flush=True)
    return lost


def table(plans: dict[Variant, Plan], found: Results) -> str:
    """The best of each machine."""
    lines = [ROW.format("machine", "clock", "required", "seeds: routed, ended, failed")]
    for variant, the_plan in plans.items():
        tried = found.of(the_plan.digest.hex())
        clocks = [result.clock_mhz for result in tried if result.clock_mhz is not None]
        counts = [sum(r.outcome == outcome for r in tried) for outcome in (ROUTED, ENDED)]
        clock = f"{max(clocks):.2f}" if clocks else "-"
        required = f"{the_plan.board.clock_hz / 1e6:g} MHz"
        rest = len(tried) - sum(counts)
        lines.append(ROW.format(str(variant), clock, required, f"{counts[0]}, {counts[1]}, {rest}"))
    return "\n".join(lines)


def read_sizes(text: str) -> tuple[tuple[str, int], ...]:
    """``rows=16,columns=32``, as an argument."""
    try:
        pairs = [pair.split("=") for pair in text.split(",")]
        return tuple((name.strip(), int(value)) for name, value in pairs)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"sizes must be as rows=16,columns=32, not {text!r}"
        ) from error


@program
def main(arguments=None) -> int:
    parser = OneLineParser(prog="python -m hw.sweep", description="Route many machines and seeds.")
    parser.add_argument("board", nargs="+", help="names, or paths of boards' files")
    parser.add_argument("--seeds", type=int, default=4, help="of each (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="the first one (default %(default)s)")
    parser.add_argument(
        "--sizes",
        type=read_sizes,
        action="append",
        metavar="NAME=SIZE,...",
        help="sizes of the geometry that are not the board's; each time a machine more",
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="local workers (default %(default)s)"
    )
    parser.add_argument("--scheduler", metavar="ADDRESS", help="that of Dask, as tcp://host:8786")
    parser.add_argument(
        "--limit",
        type=float,
        default=LIMIT_MINUTES,
        metavar="MINUTES",
        help="for placing and routing one seed (default %(default)g)",
    )
    parser.add_argument(
        "--lead",
        type=float,
        default=LEAD,
        help="end a seed with wires this share longer than the shortest (default %(default)g)",
    )
    parser.add_argument(
        "--output", type=user_path, default=Path("build/sweep.jsonl"), help="default: %(default)s"
    )
    parser.add_argument(
        "--folder",
        type=user_path,
        default=Path("build"),
        help="where each worker builds (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    for name in ("seeds", "jobs", "limit"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name} must be positive, not {getattr(options, name)}")
    if not options.lead >= 0:
        parser.error(f"--lead must not be negative, not {options.lead:g}")
    variants = [
        Variant(board=str(Path(name).resolve()) if outside(name) else name, sizes=sizes)
        for name in options.board
        for sizes in options.sizes or [()]
    ]
    plans = {variant: plan_of(variant) for variant in variants}
    with results(options.output) as found, cluster(options.scheduler, options.jobs) as client:
        lost = sweep(
            client,
            plans,
            draw_seeds(options.seed, options.seeds),
            found,
            folder=options.folder.resolve(),
            minutes=options.limit,
            lead=options.lead,
        )
        console().print(table(plans, found))
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
