"""Which device and which model: arguments that all programs take which run one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from host.errors import HostError
from weights.files import ZOO

DEFAULT_DEVICE = "sim://ulx3s_85f"
DEFAULT_MODEL = "stories-small"
"""Name of the shipped model that runs unless another one is given."""


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """``--device``, ``--model`` and what `weights.store_commands` adds for the latter."""
    from weights.store_commands import add_source_arguments

    parser.add_argument(
        "--device",
        default=DEFAULT_DEVICE,
        metavar="URL",
        help="sim://BOARD, native://, golden://, a serial port's path, socket://HOST:PORT "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="shipped model, path, or ORG/NAME[@REVISION] on a hub (default: a shipped one)",
    )
    add_source_arguments(parser)


def find_chosen_model(arguments: Any) -> Path:
    """The file of the model that such arguments name.

    Raises
    ------
    HostError, ModelError
        There is none, or it cannot be had.
    """
    from weights.store_commands import find_model

    if arguments.model is not None:
        return find_model(arguments.model, arguments.source, arguments.offline)
    path = ZOO / f"{DEFAULT_MODEL}.safetensors"
    if not path.exists():
        raise HostError(f"{path}: the shipped model is missing; give one with --model NAME")
    return path
