"""Command line of the store: ``get``, ``list``, ``resolve``, ``remove`` and ``verify``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from .commandline import FAILED
from .store import Store, user_store

COMMANDS = ("get", "list", "resolve", "remove", "verify")
NAME_HELP = "shipped model, path, or ORG/NAME[@REVISION]"
WIDTH = 80


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
    if options.command == "get":
        print(find_model(options.name, options.source, options.offline, options.refresh))
        return 0
    store = user_store(note=_note)
    if options.command == "resolve":
        print(store.resolve(options.name))
    elif options.command == "remove":
        store.remove(options.name)
    elif options.command == "list":
        Console(width=WIDTH).print(_table(store))
    else:
        return _verify(store)
    return 0


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
    with _conversion_bar() as progress:
        store = user_store(sources or (), offline=offline, note=_note, progress=progress)
        return store.get(name, refresh=refresh)


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Bar:
    """A progress bar that appears with the first step."""

    def __init__(self) -> None:
        columns = (TextColumn("ternary weights"), BarColumn(), TaskProgressColumn())
        self.bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
        self.task = self.bar.add_task("")
        self.started = False

    def __call__(self, done: int, total: int) -> None:
        if not self.started:
            self.bar.start()
            self.started = True
        self.bar.update(self.task, completed=done, total=total)


@contextmanager
def _conversion_bar() -> Iterator[_Bar]:
    bar = _Bar()
    try:
        yield bar
    finally:
        if bar.started:
            bar.bar.stop()


def _table(store: Store) -> Table:
    table = Table(show_edge=False)
    table.add_column("name", overflow="fold")
    table.add_column("MB", justify="right", no_wrap=True)
    table.add_column("content", no_wrap=True)
    table.add_column("from", overflow="fold")
    for name, path in store.shipped().items():
        table.add_row(name, f"{path.stat().st_size / 1e6:.2f}", "", "shipped")
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
