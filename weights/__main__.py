"""``python -m weights``: trains models, makes integer models of them, tells what is in them."""

from __future__ import annotations

from weights import early as early  # isort: split

import argparse
import sys
from collections.abc import Sequence

from rich.table import Table

from .architectures.mmfree import matrices
from .checkpoint import Checkpoint
from .commandline import WIDTH, OneLineParser, console, program
from .files import user_path
from .model import IntegerModel, check_target
from .packing import count_nonzero
from .quantise import convert
from .store_commands import COMMANDS as STORE_COMMANDS
from .store_commands import (
    NAME_HELP,
    add_source_arguments,
    add_store_commands,
    conversion_bar,
    find_model,
    print_path,
    run_store_command,
)
from .train.command import COMMAND as TRAIN_COMMAND
from .train.command import add_train_command, run_train_command


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m weights", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("convert", help="make an integer model from a checkpoint")
    command.add_argument("checkpoint", metavar="CHECKPOINT_DIR", help="folder with config.json")
    command.add_argument("output", metavar="OUT", help="model file to write, .safetensors")
    command = commands.add_parser("info", help="show what a model file holds")
    command.add_argument("model", metavar="MODEL", help="a file that 'convert' wrote")
    command = commands.add_parser(
        "plan", help="tell where a model lies on a board, how fast it runs there, and why"
    )
    command.add_argument("model", metavar="MODEL", help=NAME_HELP)
    command.add_argument(
        "--board", required=True, metavar="NAME", help="one of hw/boards, or a path of yours"
    )
    add_source_arguments(command)
    add_store_commands(commands)
    add_train_command(commands)
    return parser


def convert_file(checkpoint: str, output: str) -> None:
    """Converts with a progress bar on standard error.

    Raises `ModelError`, of `output` before anything is read; `OSError` when it cannot be written.
    """
    target = check_target(user_path(output))
    source = Checkpoint(user_path(checkpoint))
    with conversion_bar() as bar:
        model = convert(source, bar)
    model.save(target)


def describe(model: IntegerModel) -> Table:
    """What a user wants to know of a model: dimensions, bytes by use, origin."""
    shape = model.shape
    packed = [model[f"{name}.trits"] for name in matrices(shape)]
    ternary_bytes = sum(trits.nbytes for trits in packed)
    embedding_bytes = model["embedding.codes"].nbytes + model["embedding.scale"].nbytes
    total_bytes = sum(tensor.nbytes for tensor in model.tensors.values())
    nonzero = sum(map(count_nonzero, packed)) / shape.ternary_weights
    rows = {
        "hidden": f"{shape.hidden:,}",
        "layers": f"{shape.layers:,}",
        "intermediate": f"{shape.intermediate:,}",
        "vocabulary": f"{shape.vocabulary:,}",
        "ternary weights": f"{shape.ternary_weights:,}",
        "non-zero": f"{nonzero:.1%}",
        "ternary part": f"{ternary_bytes:,} bytes",
        "embedding": f"{embedding_bytes:,} bytes",
        "tables and tokenizer": f"{total_bytes - ternary_bytes - embedding_bytes:,} bytes",
        "residual fraction": f"{model.residual_fraction} bits",
        "made from (SHA-256)": model.source,
        "content (SHA-256)": model.digest(),
    }
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def print_plan(options: argparse.Namespace) -> None:
    """Of a model on a board. Raises `ReportedError` where there is no such model or board."""
    from hw.boards import board
    from sim.placement import Placement

    chosen = board(options.board)
    path = find_model(options.model, options.source, options.offline)
    placement = Placement(model=IntegerModel.load(path), name=path.stem, board=chosen)
    print(placement.report())


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns the exit status; `SystemExit` on wrong usage."""
    options = _parser().parse_args(arguments)
    if options.command == "convert":
        convert_file(options.checkpoint, options.output)
    elif options.command in STORE_COMMANDS:
        return run_store_command(options)
    elif options.command == "plan":
        print_plan(options)
    elif options.command == TRAIN_COMMAND:
        run_train_command(options)
    else:
        path = user_path(options.model)
        table = describe(IntegerModel.load(path))
        print_path(path)
        console(width=WIDTH).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
