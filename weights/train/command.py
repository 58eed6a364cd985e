"""Command line of the trainer: ``train``. Needs PyTorch only when it runs."""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict
from typing import Any

from ..files import user_path
from .config import read_config

COMMAND = "train"


def add_train_command(commands: argparse._SubParsersAction[Any]) -> None:
    """The sub-command; `run_train_command` runs it."""
    command = commands.add_parser(COMMAND, help="train a model from a folder of text")
    command.add_argument(
        "config", type=user_path, metavar="CONFIG.toml", help="[model] and [training]"
    )
    command.add_argument(
        "--data", required=True, metavar="DIR", help="folder of .txt files, or a hub data set"
    )
    command.add_argument(
        "--out", type=user_path, required=True, metavar="DIR", help="goes on from the state there"
    )
    command.add_argument(
        "--deadline",
        type=_positive,
        metavar="SECONDS",
        help="stop in time, with a state to go on from",
    )
    command.add_argument(
        "--state-limit",
        type=_positive,
        default=1024.0,
        metavar="MIB",
        help="largest file of the state (1024)",
    )
    command.add_argument("--tokenizer", type=user_path, metavar="FILE", help="instead of a new one")
    command.add_argument("--device", choices=("cpu", "cuda"), help="default: the best there is")
    command.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="torch.compile and CUDA graphs (default: where CUDA is)",
    )


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def run_train_command(options: argparse.Namespace) -> None:
    """Trains, and prints the result as one JSON line on standard output.

    Raises
    ------
    ModuleNotFoundError
        When PyTorch is not installed.
    ModelError, OSError
        As `weights.train.loop.train` does.
    """
    begin = time.monotonic()  # before PyTorch, whose import takes seconds of the deadline
    config = read_config(options.config)
    from .loop import Options, train

    result = train(
        config,
        Options(
            data=options.data,
            output=options.out,
            deadline=options.deadline,
            state_limit=options.state_limit,
            config=options.config,
            tokenizer=options.tokenizer,
            compile=options.compile,
            device=options.device,
        ),
        begin,
    )
    if os.environ.get("RANK", "0") == "0":  # one of torchrun's processes speaks for all
        print(json.dumps(asdict(result)))
