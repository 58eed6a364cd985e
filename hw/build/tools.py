"""Tools: finding one, its version, running it once, and saying why it failed.

They are those that variables as ``YOSYS``, ``NEXTPNR_ECP5`` and ``ECPPACK`` name, else native ones
on ``PATH``, else those of packages from PyPI.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hw.build import BuildError
from hw.build.floorplan import Floorplan, floorplan
from hw.build.plan import CELLS, Plan, seed_file
from hw.build.report import parse_utilisation
from hw.families.family import Family
from hw.tools import find_command, killed, start
from weights.files import write_file

LOOK_SECONDS = 2.0
"""How often a tool that runs is looked at."""

PATIENCE_SECONDS = 5.0
"""How long a tool may take to tell its version until it is said what it is at."""


def tool_variable(name: str) -> str:
    """The variable that names a tool."""
    return name.upper().replace("-", "_")


def find_tool(name: str, family: Family) -> list[str]:
    """Command of a tool: from the environment, native, or of its package."""
    tool = family.tools[name]
    variable = tool_variable(name)
    if wanted := os.environ.get(variable, "").strip():
        found = find_command(wanted)
    else:
        packages = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        path = shutil.which(name) or shutil.which(tool.program or tool.package, path=packages)
        found = [os.path.abspath(path)] if path else None
    if not found:
        raise BuildError(
            f"{wanted or name} is not there: install {tool.package} "
            f"(pip install -e '.[build]'), or set {variable} to a native one"
        )
    return found


def tool_version(name: str, command: list[str], package: str) -> str:
    """The first number with a dot that a tool prints when it is asked, else that of its package."""
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
    if match:
        return match[0]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return "unknown"


def not_started(name: str, command: list[str], error: OSError) -> BuildError:
    """The failure of a tool that is there, as in a checkout that was moved."""
    return BuildError(
        f"{command[0]} does not start ({error.strerror}): install it again, as make does in a "
        f"checkout that was moved, or set {tool_variable(name)} to another"
    )


@contextlib.contextmanager
def patient(name: str, say: Callable[[str], object]) -> Iterator[None]:
    """Within, says once what a tool is at that takes long to start: one of PyPI's is made ready
    for the processor when it first does."""
    text = f"{name}: made ready for this processor, once, which takes some minutes at most"
    timer = threading.Timer(PATIENCE_SECONDS, say, [text])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


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
        if used > available > 0  # a place for none is one that is not counted
    ]
    if over:
        return f"design does not fit: {', '.join(over)}"
    errors = re.findall(r"^(?:.*\b)?\w*ERROR: *(.+)$", log, re.MULTILINE | re.IGNORECASE)
    return f"{tool} failed" + (f": {errors[0].strip()}" if errors else "")


class Ended(BuildError):
    """A step was not let go on."""


class Workplace:
    """Directory of one plan and one set of tools, in which steps run once."""

    def __init__(self, plan: Plan, output: Path, say=print):
        self.family = plan.family
        self.tools = {name: find_tool(name, self.family) for name in self.family.tools}
        self.versions = {}
        for name, command in self.tools.items():
            with patient(name, say):
                package = self.family.tools[name].package
                self.versions[name] = tool_version(name, command, package)
        key = hashlib.blake2b(json.dumps(self.versions).encode(), digest_size=4).hexdigest()
        self.path = output / f"{plan.digest.hex()[:16]}-{key}"
        self.say = say
        self.fresh = False
        self._running: set[subprocess.Popen] = set()
        self._stopped = False
        self.path.mkdir(parents=True, exist_ok=True)
        for name, content in plan.files.items():
            file = self.path / name
            # Tools of another process may be reading them.
            if not file.exists() or file.read_text() != content:
                file.write_text(content)

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
        watch: Callable[[str], str | None] | None = None,
    ) -> float:
        """Run a step unless it is done; returns the seconds that it took when it ran.

        A step is done while its ``outputs``, which it and then ``finish`` leave, are what they were
        when it ended. Raises BuildError, with nothing of the step left running, if it takes more
        than ``minutes``, or `Ended` as soon as ``watch`` returns a reason, which sees the log every
        few seconds.
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

        def watched() -> None:
            if watch and path.exists() and (reason := watch(path.read_text(errors="replace"))):
                raise Ended(reason)

        try:
            status, output = self._call([*self.tools[tool], *arguments], minutes, watched)
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

    def _call(
        self, command: list[str], minutes: float | None, look: Callable[[], None]
    ) -> tuple[int | None, str]:
        """Exit status and output of a program; the status is None if its time was up.

        It is the head of a process group of its own, so that what it starts ends with it; and it
        ends with this process, however that does.
        """
        process = start(
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
            end = math.inf if minutes is None else time.monotonic() + 60 * minutes
            while (left := end - time.monotonic()) > 0:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    output, _ = process.communicate(timeout=min(left, LOOK_SECONDS))
                    return process.returncode, output
                look()
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

    def keep_floorplan(self, seed: int):
        """Write the `Floorplan` of a routed seed; a netlist that is for this alone goes."""
        routed, cells = (self.path / seed_file(seed, n) for n in (self.family.routed, CELLS))
        netlist = cells if cells.exists() else routed
        with reading(netlist):
            found = floorplan(json.loads(netlist.read_text()), self.family)
        (self.path / f"seed-{seed}.floorplan").write_text(found.to_json())
        cells.unlink(missing_ok=True)

    def floorplan(self, seed: int) -> Floorplan:
        """What `keep_floorplan` found of a routed seed."""
        return Floorplan.from_json((self.path / f"seed-{seed}.floorplan").read_text())
