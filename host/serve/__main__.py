"""A server for programs and people: ``python -m host.serve --device /dev/ttyUSB0``.

Prints its address once it listens, and what is wrong on standard error. The exit status is 1 for a
device or a model that cannot be used, 2 for wrong usage, 130 after Ctrl-C.
"""

from __future__ import annotations

from weights import early as early  # isort: split

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from host.arguments import add_device_arguments, find_chosen_model
from host.device import Device
from host.errors import HostError, UsageError
from host.serve.application import application
from host.serve.listening import Server, is_loopback, listen, raise_file_limit, url_of
from host.serve.scheduler import Scheduler
from host.serve.service import Limits, Service
from host.serve.stories import Stories
from host.urls import open_device
from weights.commandline import OneLineParser, program
from weights.model import MAKE_AGAIN, IntegerModel
from weights.store import local_place
from weights.text import open_tokenizer

DEFAULT_PORT = 8080
OPEN_TO_ALL = (
    "everyone who reaches this address can use the device; --api-key-file FILE asks for keys"
)
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def read_keys(path: Path | None) -> tuple[str, ...]:
    """The keys in a file, one a line; none without a file.

    Raises
    ------
    UsageError
        There is no such file, or no key in it that a client could send.
    """
    if path is None:
        return ()
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: keys cannot be read ({error}); write one a line") from None
    keys = tuple(filter(None, map(str.strip, lines)))
    if not keys:
        raise UsageError(f"{path}: has no key; write one a line")
    for number, line in enumerate(lines, 1):
        if not all("!" <= letter <= "~" for letter in line.strip()):
            raise UsageError(f"{path}, line {number}: a key has letters, digits and signs of ASCII")
    return keys


def _parse(arguments: Sequence[str] | None) -> Any:
    limits = Limits()
    parser = OneLineParser(
        prog="python -m host.serve",
        description="Serves a device by OpenAI's endpoints, and a page.",
    )
    add_device_arguments(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where to listen; 0.0.0.0 is for everyone in the network (default: %(default)s)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        metavar="N",
        help="of TCP, 0 for any that is free (default: %(default)s)",
    )
    parser.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="keys, one a line: clients must send one of them",
    )
    for name, most, what in (
        ("--slots", 64, "requests that share the device"),
        ("--max-prompt", limits.prompt_tokens, "tokens of a prompt"),
        ("--max-tokens", limits.tokens, "tokens of an answer"),
    ):
        parser.add_argument(
            name, type=int, default=most, metavar="N", help=f"{what} at most (default: %(default)s)"
        )
    parser.add_argument(
        "--private", action="store_true", help="do not show people the texts of others"
    )
    options = parser.parse_args(arguments)
    for name in ("slots", "max_prompt", "max_tokens"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return options


def _name(options: Any, path: Path) -> str:
    """What clients call the model: its file's name, or that by which the hub has it."""
    given = options.model
    return path.stem if given is None or local_place(given) is not None else given


def opener(url: str) -> Callable[[], Device]:
    """Opens a device once at once, and again whenever it is asked for after the first time.

    Here an interrupt still ends what takes long, such as the compilation of a simulated board.

    Raises
    ------
    UsageError, DeviceError
        As of `host.urls.open_device`.
    """
    opened = [open_device(url)]
    return lambda: opened.pop() if opened else open_device(url)


def make_service(options: Any, keys: tuple[str, ...], local: bool, **scheduling: Any) -> Service:
    """The service that options ask for, whose scheduler has not started; it may take long.

    Parameters
    ----------
    local : whether only programs of this machine reach it
    scheduling : further options of its `Scheduler`

    Raises
    ------
    HostError, ModelError
        The device or the model cannot be used.
    """
    path = find_chosen_model(options)
    model = IntegerModel.load(path)
    return Service(
        name=_name(options, path),
        created=int(path.stat().st_mtime),
        model=model,
        tokenizer=open_tokenizer(model.tokenizer_json, path, MAKE_AGAIN),
        scheduler=Scheduler(opener(options.device), model, slots=options.slots, **scheduling),
        device=options.device,
        limits=Limits(
            prompt_tokens=options.max_prompt,
            tokens=options.max_tokens,
            connections=raise_file_limit(Limits().connections),
        ),
        keys=keys,
        stories=Stories(shared=not options.private),
        hosts=LOCAL_NAMES | {options.host.lower()} if local else None,
    )


def serve(options: Any) -> None:
    """Serve until a signal.

    Raises
    ------
    HostError, ModelError
        It cannot begin, or not go on.
    """
    keys = read_keys(options.api_key_file)
    failures: list[HostError] = []

    def fail(error: HostError) -> None:
        failures.append(error)
        server.stop()

    def begun() -> None:
        print(f"{service.name} on {service.device}: {where}", flush=True)
        service.scheduler.start()

    with listen(options.host, options.port) as listener:
        where, local = url_of(listener), is_loopback(listener)
        if not local and not keys:
            print(OPEN_TO_ALL, file=sys.stderr)
        service = make_service(options, keys, local, fail=fail)
        server = Server(application(service), service.limits, begun=begun, ended=service.close)
        server.run(sockets=[listener])
    if failures:
        raise failures[0]


@program
def main(arguments: Sequence[str] | None = None) -> int:
    serve(_parse(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
