"""The steps of a build: synthesis, routes, bitstream and report."""

import contextlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from hw.boards import Board, board
from hw.build import BuildError, project
from hw.build.estimate import check_fit, estimate, expected_mhz
from hw.build.floorplan import Floorplan, cells_by_unit
from hw.build.page import page
from hw.build.plan import Plan, check_hardware, plan, seed_file
from hw.build.report import Routing, count_cells, parse_report
from hw.build.schema import Report, Step, Streams, Use, to_json
from hw.build.tools import Workplace, reading
from hw.families import capacity, of
from weights.errors import ReportedError
from weights.files import write_file
from weights.locks import locked

PUBLISHED = ("report.json", "report.html", "profile.svg")

LIMIT_MINUTES = 30.0
"""A router that has not converged by then seldom does."""


@dataclass(frozen=True, kw_only=True)
class Routed:
    """What became of one seed: what its report says and the seconds it took, or why it failed."""

    routing: Routing | None = None
    seconds: float = 0
    failure: BuildError | None = None


def route(
    place: Workplace,
    plan: Plan,
    seed: int,
    minutes: float | None,
    watch: Callable[[str], str | None] | None = None,
) -> Routed:
    """Place and route one seed; ``minutes`` and ``watch`` are those of `Workplace.run`."""
    command, _ = plan.seeded(seed)
    name = f"seed-{seed}"
    report = f"{name}.report"
    try:
        took = place.run(
            name,
            command,
            f"{name}.tim",
            outputs=(seed_file(seed, plan.family.routed), report, f"{name}.floorplan"),
            minutes=minutes,
            finish=lambda: place.keep_floorplan(seed),
            watch=watch,
        )
        with reading(place.path / report):
            text = (place.path / report).read_text()
            routing = parse_report(text, plan.board.clock_hz, plan.family)
    except BuildError as error:
        place.say(f"{name}: {error}")
        return Routed(failure=error)
    place.say(f"{name}: {routing.clock_mhz:.2f} MHz")
    return Routed(routing=routing, seconds=took)


@contextlib.contextmanager
def folder_of(
    directory: Path, published: Sequence[str], say: Callable[[str], None]
) -> Iterator[None]:
    """A board's folder, without what was ``published`` there, for one build at a time.

    Another one waits. Raises BuildError if the folder cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            waiting = f"another build works in {directory}: waiting for it"
            stack.enter_context(locked(directory / ".lock", lambda: say(waiting)))
            for name in published:
                (directory / name).unlink(missing_ok=True)
        except OSError as error:
            raise BuildError(
                f"{directory}: cannot be written to ({error.strerror}); "
                "give another folder with --output"
            ) from error
        yield


def check_size(board: Board, say=print):
    """Says before anything runs whether the estimate fits; raises BuildError if it does not."""
    fit = check_fit(estimate(board), board.device)
    for warning in fit.warnings:
        say(f"warning: {warning}")
    if fit.lacks:
        raise BuildError(f"{board.name} does not fit {board.device}: {'; '.join(fit.lacks)}")
    asked, expected = board.clock_hz / 1e6, expected_mhz(board)
    if expected and asked > expected:
        say(
            f"warning: {asked:g} MHz is more than most machines reach on {board.device}, about "
            f"{expected:g}; a lower clock_hz would help"
        )


PINS = "ulx3s_85f"
"""Board whose pins the machine of a simulated one gets."""


def synthesised_board(name: str) -> Board:
    """The board of that name, or the machine of a simulated one on `PINS`."""
    target = board(name)
    return replace(board(PINS), machine=target.machine) if target.simulated else target


def synthesise(
    board: Board, *, output: Path = Path("build"), force: bool = False, core=None, say=print
) -> dict[str, int]:
    """What yosys makes of a board's machine, in cells of each resource, whether it fits or not."""
    directory = Path(output) / board.name
    check_hardware(board)
    with folder_of(directory, (), say):
        the_plan = plan(board, core)
        place = Workplace(the_plan, directory, say)
        if force:
            place.clear()
        return count_cells(netlist_of(place, the_plan), the_plan.family)


def netlist_of(place: Workplace, plan: Plan) -> dict[str, Any]:
    """What yosys makes of a plan, as its JSON has it; it does not run again for a build."""
    run_synthesis(place, plan)
    path = place.path / plan.family.netlist
    with reading(path):
        return json.loads(path.read_text())


def run_synthesis(place: Workplace, plan: Plan) -> float:
    """Run the first of a plan's commands; returns the seconds that it took."""
    family = plan.family
    made = () if family.project is None else set(family.project.files) - set(plan.files)
    return place.run(
        "synthesis", plan.commands[0], "top.rpt", outputs=[family.netlist, *sorted(made)]
    )


def check_cells(board: Board, cells: dict[str, int]):
    """Raises BuildError, with each resource by how much, if the device has fewer than ``cells``."""
    has, called = capacity(board.device), of(board.device).called
    over = [
        f"{called.get(name, name)} {used} of {has[name]} ({used / has[name]:.1f} times)"
        for name, used in cells.items()
        if used > has[name]
    ]
    if over:
        raise BuildError(f"{board.name} does not fit {board.device}: {', '.join(over)}")


def draw_seeds(first: int, count: int) -> list[int]:
    """``first`` and, drawn from it, seeds of 63 bits: what consecutive ones lead to is alike."""
    draw = random.Random(first)
    return [first, *(draw.getrandbits(63) for _ in range(count - 1))]


@dataclass(frozen=True, kw_only=True)
class Made:
    """What came of a plan: a route, or a netlist alone where no router is at hand.

    Parameters
    ----------
    taken : dict of str to (int, int)
        Used and available of each resource.
    cells : dict
        Of units, by resource.
    seconds : dict of str to float
        That tools took, but for synthesis.
    floorplan : Floorplan or None
    routing : Routing or None
    seed : int or None
        The best of those that were ``tried``.
    tried : dict of int to Routed
    """

    taken: dict[str, tuple[int, int]]
    cells: dict[str, dict[str, int]]
    seconds: dict[str, float] = field(default_factory=dict)
    floorplan: Floorplan | None = None
    routing: Routing | None = None
    seed: int | None = None
    tried: dict[int, Routed] = field(default_factory=dict)


def best_route(
    place: Workplace, the_plan: Plan, seeds: Sequence[int], minutes: float | None, jobs: int
) -> Made:
    """Route all seeds, some at a time, and pack the best if it is fast enough.

    Raises BuildError if none could be routed.
    """
    with ThreadPoolExecutor(jobs) as pool:
        try:
            tried = dict(
                zip(
                    seeds,
                    pool.map(lambda seed: route(place, the_plan, seed, minutes), seeds),
                    strict=True,
                )
            )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            place.stop()
            raise
    routed = {seed: trial.routing for seed, trial in tried.items() if trial.routing}
    if not routed:
        raise tried[seeds[0]].failure or BuildError("no seed was tried")
    seed = max(routed, key=lambda s: (routed[s].passed, routed[s].clock_mhz))
    routing, seconds = routed[seed], {"nextpnr": tried[seed].seconds}
    if routing.passed:
        _, pack = the_plan.seeded(seed)
        bitstream = seed_file(seed, the_plan.family.bitstream)
        seconds[pack[0]] = place.run(f"pack-{seed}", pack, f"pack-{seed}.log", outputs=[bitstream])
    floorplan = place.floorplan(seed)
    return Made(
        taken=routing.taken,
        cells=floorplan.cells,
        seconds=seconds,
        floorplan=floorplan,
        routing=routing,
        seed=seed,
        tried=tried,
    )


def count_netlist(place: Workplace, the_plan: Plan) -> Made:
    """What the synthesised netlist takes; nothing is routed."""
    netlist, family = netlist_of(place, the_plan), the_plan.family
    has = capacity(the_plan.board.device)
    taken = {name: (used, has[name]) for name, used in count_cells(netlist, family).items()}
    return Made(taken=taken, cells=cells_by_unit(netlist, family))


def _uses(board: Board, made: Made) -> dict[str, Use]:
    """Of each resource, what is used, what there is, and what the estimate says."""
    guess = estimate(board)
    return {
        name: Use(used=used, available=available, estimate=guess[name])
        for name, (used, available) in made.taken.items()
    }


def _streams(speed, clock_hz: int, routing: Routing | None) -> Iterator[Streams]:
    """What a `sim.speed.Speed` is at the clock of a bitstream and at that which was routed."""
    for together in speed.together():
        yield Streams(
            contexts=together.contexts,
            cycles_predicted=together.predicted,
            cycles_simulated=together.simulated,
            utilization=together.utilization,
            tokens_per_s=together.tokens_per_s(1e6 * routing.clock_mhz) if routing else None,
            tokens_per_s_as_built=together.tokens_per_s(clock_hz),
        )


def _steps(speed) -> tuple[Step, ...]:
    """Those of a `sim.speed.Speed`."""
    names = [each.name for each in fields(Step)]
    return tuple(Step(**dict(zip(names, step, strict=True))) for step in speed.profile.steps())


def build(
    board: Board,
    *,
    measure,
    seeds=(1,),
    output: Path = Path("build"),
    force: bool = False,
    core=None,
    limit: float | None = LIMIT_MINUTES,
    jobs: int = 1,
    model: str | None = None,
    say=print,
) -> Report:
    """Build a board's bitstream with each of ``seeds``, keep the fastest, return its report.

    Raises BuildError, and leaves no bitstream, if no seed meets the timing. There is a
    ``report.json`` if at least one of them could be routed. Where no router is at hand, there is a
    `hw.build.project`, and a report of what was synthesised.

    Parameters
    ----------
    measure : function
        Of a board, a model or None, and ``say``: the `sim.speed.Speed` of the report, or None.
    seeds : iterable of int
        Of the placer.
    output : Path
        Where the board's directory is.
    force : bool
        Run finished steps again.
    core : function or None
        For `plan`.
    limit : float or None
        Minutes that one seed may take to be placed and routed.
    jobs : int
        Seeds at a time.
    model : str or None
        Whose cycles per token the report has; the board's unless given.
    say : function
        Receives lines on the progress.
    """
    directory, family = Path(output) / board.name, of(board.device)
    check_hardware(board)
    published = PUBLISHED if family.project else (family.bitstream, *PUBLISHED)
    with folder_of(directory, published, say):
        check_size(board, say)
        # First: a model that cannot be used is told before anything that takes long.
        try:
            speed = measure(board, model, say)
        except (ReportedError, OSError) as error:
            raise BuildError(str(error)) from None
        the_plan = plan(board, core)
        place = Workplace(the_plan, directory, say)
        if force:
            place.clear()
        if family.project:
            project.clear_other(the_plan, place, directory)

        seconds = {"yosys": run_synthesis(place, the_plan)}
        made = (
            count_netlist(place, the_plan)
            if family.project
            else best_route(place, the_plan, list(seeds), limit, jobs)
        )
        report = _report(board, the_plan, place, made, seconds | made.seconds, speed)
        if not place.fresh:
            say(f"already built: digest {report.digest}; --force builds it again")
        write_file(directory / "report.json", to_json(report).encode())
        timetable = speed.profile.svg() if speed else None
        if timetable:
            write_file(directory / "profile.svg", timetable.encode())
        write_file(directory / "report.html", page(report, made.floorplan, timetable).encode())
        if family.project:
            check_cells(board, {name: use.used for name, use in report.resources.items()})
            project.write(the_plan, place, directory)
            return report
        assert made.seed is not None  # or nothing was routed
        if not report.passed:
            raise BuildError(
                f"timing failed: {report.clock_mhz:.2f} MHz of {report.clock_required_mhz:g} MHz "
                f"(log: {place.path / f'seed-{made.seed}.tim'})"
            )
        bitstream = place.path / seed_file(made.seed, family.bitstream)
        write_file(directory / family.bitstream, bitstream.read_bytes())
        return report


def _report(
    board: Board,
    the_plan: Plan,
    place: Workplace,
    made: Made,
    seconds: dict[str, float],
    speed,
) -> Report:
    """All that is told of a build; ``speed`` is as ``measure`` of `build` returns it."""
    assert board.device is not None  # or there were no plan
    routing, tried = made.routing, made.tried
    return Report(
        board=board.name,
        device=board.device,
        digest=the_plan.digest.hex(),
        machine=board.machine_digest,
        geometry=asdict(board.geometry),
        lanes=board.geometry.lanes,
        resources=_uses(board, made),
        cells_by_unit=made.cells,
        clock_mhz=routing.clock_mhz if routing else None,
        clock_required_mhz=board.clock_hz / 1e6,
        passed=routing.passed if routing else None,
        critical_path=routing.critical_path if routing else (),
        seed=made.seed,
        seeds={str(s): t.routing.clock_mhz if t.routing else None for s, t in tried.items()},
        failures={str(s): str(t.failure) for s, t in tried.items() if t.failure},
        tools=place.versions,
        seconds=seconds,
        model=speed and speed.profile.model,
        trits_per_token=speed and speed.profile.timing.image.trits_per_token,
        streams=tuple(_streams(speed, board.clock_hz, routing)) if speed else (),
        profile=_steps(speed) if speed else None,
    )
