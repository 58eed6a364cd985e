"""``python -m weights``: trains models, makes integer models of them, tells what is in them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from .checkpoint import Checkpoint
from .commandline import OneLineParser, report_failure
from .errors import ModelError
from .model import IntegerModel, matrix_shapes
from .packing import count_nonzero
from .quantise import convert
from .store_commands import COMMANDS as STORE_COMMANDS
from .store_commands import add_store_commands, run_store_command
from .train.command import COMMAND as TRAIN_COMMAND
from .train.command import add_train_command, run_train_command

WIDTH = 80


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m weights", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("convert", help="make an integer model from a checkpoint")
    command.add_argument("checkpoint", metavar="CHECKPOINT_DIR", help="folder with config.json")
    command.add_argument("output", metavar="OUT", help="model file to write, .safetensors")
    command = commands.add_parser("info", help="show what a model file holds")
    command.add_argument("model", metavar="MODEL", help="a file that 'convert' wrote")
    add_store_commands(commands)
    add_train_command(commands)
    return parser


def convert_file(checkpoint: str, output: str) -> None:
    """Converts with a progress bar on standard error."""
    target = Path(output)
    if target.is_dir() or not target.parent.is_dir():
        raise ModelError(f"{target}: cannot be written; give a file name in a folder that exists")
    source = Checkpoint(checkpoint)
    columns = (TextColumn("ternary weights"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("")
        model = convert(source, lambda done, total: bar.update(task, completed=done, total=total))
    model.save(target)


def describe(model: IntegerModel, title: str) -> Table:
    """What a user wants to know of a model: dimensions, bytes by use, origin."""
    shape = model.shape
    packed = [model[f"{name}.trits"] for name in matrix_shapes(shape)]
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
    table = Table(title=title, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns the exit status; `SystemExit` on wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "convert":
            convert_file(options.checkpoint, options.output)
        elif options.command in STORE_COMMANDS:
            return run_store_command(options)
        elif options.command == TRAIN_COMMAND:
            run_train_command(options)
        else:
            model = IntegerModel.load(options.model)
            Console(width=WIDTH).print(describe(model, options.model))
    except (ModelError, OSError) as error:
        return report_failure(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
