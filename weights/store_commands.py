"""Command line of the store: ``get``, ``list``, ``resolve``, ``remove`` and ``verify``."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from .commandline import FAILED, console
from .errors import ModelError
from .store import Store, local_place, shipped_models, user_store

COMMANDS = ("get", "list", "resolve", "remove", "verify")
NAME_HELP = "shipped model, path, or ORG/NAME[@REVISION]"


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """``--source`` and ``--offline``, as every program that takes a model's name has them."""
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="SOURCE",
        help="ask this first: 'hub', a mirror's URL, or a directory; may be repeated",
    )
    parser.add_argument("--offline", action="store_true", help="never touch the network")


def add_store_commands(commands: argparse._SubParsersAction[Any]) -> None:
    """The store's sub-commands; `run_store_command` runs them."""
    command = commands.add_parser("get", help="fetch and convert a model, print its file")
    command.add_argument("name", metavar="NAME", help=NAME_HELP)
    command.add_argument("--refresh", action="store_true", help="look for a newer one")
    add_source_arguments(command)
    commands.add_parser("list", help="show shipped and cached models")
    command = commands.add_parser("resolve", help="print the file of a model that is here already")
    command.add_argument("name", metavar="NAME", help=NAME_HELP)
    command = commands.add_parser("remove", help="remove a model from the cache")
    command.add_argument("name", metavar="NAME", help="as 'list' shows it")
    commands.add_parser("verify", help="read every cached model and check its digest")


def run_store_command(options: argparse.Namespace) -> int:
    """Runs what `add_store_commands` parsed. Returns the exit status; raises `ModelError`."""
    match options.command:
        case "get":
            print_path(find_model(options.name, options.source, options.offline, options.refresh))
        case "resolve":
            print_path(_local_file(options.name) or _cache().resolve(options.name))
        case "remove":
            _cache().remove(options.name)
        case "list":
            _print_whole(_table())
        case "verify":
            return _verify(_cache())
    return 0


def _cache() -> Store:
    return user_store(None, note=_note)


def _local_file(name: str) -> Path | None:
    """The model file that a name stands for where that takes neither cache nor configuration."""
    place = local_place(name)
    return None if place is None or place.is_dir() else place


def print_path(path: Path) -> None:
    """A path as the file system has it, whatever characters the terminal knows."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(path) + b"\n")
    else:
        print(path)


def _print_whole(table: Table) -> None:
    """A table as wide as its longest name, which is then in one piece."""
    widest = console(width=sys.maxsize)
    console(width=Measurement.get(widest, widest.options, table).maximum).print(table)


def find_model(
    name: str, sources: list[str] | None = None, offline: bool = False, refresh: bool = False
) -> Path:
    """`Store.get` on the user's store, telling on standard error what takes time.

    Parameters
    ----------
    name : shipped model, path, or coordinates
    sources, offline : what `add_source_arguments` parsed
    refresh : look for a newer checkpoint of coordinates that are cached
    """
    place = local_place(name)
    if place is not None and not place.is_dir():
        return place
    asked = sources or () if place is None else None
    with conversion_bar() as progress:
        store = user_store(asked, offline=offline, note=_note, progress=progress)
        return store.get(name, refresh=refresh)


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Bar:
    """A progress bar that appears with the first step, on a terminal."""

    def __init__(self) -> None:
        columns = (TextColumn("ternary weights"), BarColumn(), TaskProgressColumn())
        terminal = console(stderr=True)
        disable = not terminal.is_terminal
        self.bar = Progress(*columns, TimeElapsedColumn(), console=terminal, disable=disable)
        self.task = self.bar.add_task("")
        self.started = False

    def __call__(self, done: int, total: int) -> None:
        if not self.started:
            self.bar.start()
            self.started = True
        self.bar.update(self.task, completed=done, total=total)


@contextmanager
def conversion_bar() -> Iterator[_Bar]:
    """A progress bar on standard error for `weights.quantise.convert`."""
    bar = _Bar()
    try:
        yield bar
    finally:
        if bar.started:
            bar.bar.stop()


def _table() -> Table:
    table = Table(show_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("MB", justify="right", no_wrap=True)
    table.add_column("content", no_wrap=True)
    table.add_column("from", no_wrap=True)
    for name, path in shipped_models().items():
        table.add_row(name, f"{path.stat().st_size / 1e6:.2f}", "", "shipped")
    try:
        store = _cache()
    except ModelError as error:  # who has no home folder has what is shipped
        _note(str(error))
        return table
    for entry in store.entries():
        origin = f"{entry.source}, {entry.made}"
        table.add_row(entry.name, f"{entry.bytes / 1e6:.2f}", entry.content[:12], origin)
    for name in store.unfinished():
        table.add_row(name, "", "", "not finished")
    return table


def _verify(store: Store) -> int:
    status = 0
    for entry, problem in store.verify():
        if problem is None:
            print(f"{entry.name}: good")
        else:
            status = FAILED
            print(f"{entry.name}: {problem}; remove {entry.name} and get it again")
    for name in store.unfinished():
        print(f"{name}: not finished")
    return status
