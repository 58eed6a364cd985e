"""One seed of one machine, placed and routed: what a sweep is made of."""

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hw.boards import Board, board
from hw.build import BuildError
from hw.build.plan import Plan, check_hardware, check_routable, plan
from hw.build.steps import check_size, route, run_synthesis
from hw.build.tools import Ended, Workplace
from weights.locks import locked

ROUTED, FAILED, ENDED = OUTCOMES = ("routed", "failed", "ended")
"""What becomes of a seed; one that has ended was left for its wires."""

WIRE_LENGTH = re.compile(r"\bwirelen = (\d+)")
ROUTING = re.compile(r"^Info: (?:Routing|Setting up routing)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A board's machine, of some other sizes.

    Parameters
    ----------
    board : str
        A name or the path of a file.
    sizes : tuple of (str, int)
        Of `Geometry`, that are not the board's own.
    """

    board: str
    sizes: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        return " ".join((self.board, *(f"{name}={size}" for name, size in self.sizes)))

    def made(self) -> Board:
        """The board with that machine; raises BuildError for sizes that cannot be."""
        target = board(self.board)
        machine = target.machine
        try:
            geometry = replace(machine.geometry, **dict(self.sizes))
            return replace(target, machine=replace(machine, geometry=geometry))
        except (TypeError, ValueError) as error:
            raise BuildError(f"{self}: {error}") from error


@functools.lru_cache(maxsize=4)  # a worker has one seed of a variant after the other
def plan_of(variant: Variant) -> Plan:
    """Raises BuildError for a machine that cannot be, has no room on the board, or no router."""
    made = variant.made()
    check_hardware(made)
    check_routable(made)
    check_size(made, say=lambda _: None)
    return plan(made)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a seed: a line of a sweep's file.

    Parameters
    ----------
    digest : str
        Of the plan; it and ``seed`` tell results apart.
    seed : int
    board : str
    sizes : dict of str to int
        Those of the variant.
    outcome : str
        One of `OUTCOMES`.
    reason : str or None
        Why it was not routed.
    clock_mhz, passed, taken
        As of a `Routing`, if it was.
    wire_length : int or None
        After placement, in the placer's own unit, if it was placed.
    seconds : float
        Of place and route.
    tools : dict of str to str
        Versions.
    """

    digest: str
    seed: int
    board: str
    sizes: Mapping[str, int]
    outcome: str
    reason: str | None = None
    clock_mhz: float | None = None
    passed: bool = False
    taken: Mapping[str, int] = field(default_factory=dict)
    wire_length: int | None = None
    seconds: float = 0
    tools: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int]:
        return self.digest, self.seed

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Result":
        """Raises ValueError for a line that is none."""
        try:
            found = cls(**json.loads(line))
        except TypeError as error:
            raise ValueError("is no result of a sweep") from error
        if found.outcome not in OUTCOMES or not isinstance(found.seed, int):
            raise ValueError("is no result of a sweep")
        return found


def wire_length(log: str) -> int | None:
    """Of a placement that is done, from nextpnr's log; None before."""
    placed = ROUTING.search(log)
    lengths = WIRE_LENGTH.findall(log[: placed.start()]) if placed else []
    return int(lengths[-1]) if lengths else None


def attempt(
    variant: Variant,
    seed: int,
    digest: str,
    *,
    folder: Path,
    minutes: float,
    lead: float,
    shortest: Callable[[int], int],
    say: Callable[[str], Any] = print,
) -> Result:
    """Place and route a seed, unless others of its plan have much shorter wires.

    Everything stays in ``folder/BOARD/DIGEST-TOOLS``, as that of a build. Raises BuildError if the
    plan is not the one of that ``digest``, as with another version of this project.

    Parameters
    ----------
    minutes : float
        At most; it has failed then.
    lead : float
        By what share its wires may be longer than the shortest ones of its plan.
    shortest : function
        Is told the length of its wires once it is placed, and returns the least of its plan.
    """
    the_plan = plan_of(variant)
    if the_plan.digest.hex() != digest:
        raise BuildError(
            f"{variant}: its plan is {the_plan.digest.hex()} here, not {digest}: a worker must "
            "have the same version of this project and of its packages"
        )
    directory = folder / the_plan.board.name
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory / f"{digest[:16]}.lock"):
        place = Workplace(the_plan, directory, say)
        run_synthesis(place, the_plan)
    placed: int | None = None

    def watch(log: str) -> str | None:
        nonlocal placed
        length = wire_length(log)
        if length is None or placed is not None:
            return None
        placed = length
        least = shortest(length)
        if length <= (1 + lead) * least:
            return None
        return f"its wires are {length / least - 1:.0%} longer than those of another seed"

    with locked(place.path / f"seed-{seed}.lock"):
        routed = route(place, the_plan, seed, minutes, watch)
        log = place.path / f"seed-{seed}.tim"
        if log.exists() and placed is None:
            watch(log.read_text(errors="replace"))  # it was done before it could be looked at
    result = Result(
        digest=digest,
        seed=seed,
        board=variant.board,
        sizes=dict(variant.sizes),
        outcome=ROUTED,
        seconds=routed.seconds,
        tools=place.versions,
        wire_length=placed,
    )
    if routing := routed.routing:
        return replace(
            result,
            clock_mhz=routing.clock_mhz,
            passed=routing.passed,
            taken={name: used for name, (used, _) in routing.taken.items()},
        )
    outcome = ENDED if isinstance(routed.failure, Ended) else FAILED
    return replace(result, outcome=outcome, reason=str(routed.failure))
