"""The pictures of the README, made again: ``python -m sim.pictures [demo] [speed] [page]``.

``demo`` runs ``host/infer.py`` on the simulated board and draws what it prints as it comes.
``speed`` times models on this machine's processors, which should have nothing else to do, and draws
their speeds beside the board's, which follow from its clock and cycles. ``page`` has a browser
take the server's page, with the simulated board behind it.
"""

from __future__ import annotations

from weights import early as early  # isort: split

import contextlib
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from host.compiler import compile_image
from hw import boards
from hw.boards import Board
from sim import chart, recording, snapshot
from sim.chart import Row
from sim.cores import board_library
from sim.golden_device import GoldenDevice
from sim.native import NativeDevice, processors
from sim.reference import FloatModel
from sim.speed import Pace, pace, pace_of_device
from sim.timing import predict
from weights.commandline import OneLineParser, program
from weights.dequantise import DequantisedCheckpoint
from weights.files import user_path, write_file
from weights.model import IntegerModel
from weights.store import shipped_models

ROOT = Path(__file__).resolve().parents[1]
BOARD = "ulx3s_85f"
PROMPT = "Once upon a time"
MODELS = ("stories-small", "stories-tiny")
TOKENS, RUNS = 200, 9
"""Of a run, and runs; slow models take a tenth of the tokens."""


def demo() -> str:
    """The demo's own output, at its own pace."""
    board_library(BOARD)  # compiled beforehand, or its compilation would be in the picture
    words = ["host/infer.py", "--prompt", PROMPT]
    pieces = recording.record([sys.executable, *words], ROOT)
    seconds = f"{pieces[-1].at:.1f} seconds"
    return recording.draw(
        pieces,
        command=shlex.join(["python", *words]),
        title=f"simulated {BOARD}: its gateware, compiled for a CPU",
        description=f"A terminal in which a story comes word by word, {seconds} of it, from the "
        "first output on. The board's own pace is in the last line.",
    )


def _float_pace(model: IntegerModel, tokens: int, runs: int) -> Pace:
    """Of the float reference, greedy."""
    reference = FloatModel(DequantisedCheckpoint(model))

    def run(seed: int) -> None:
        state, token = reference.start(1), np.array([model.start_token])
        for _ in range(tokens):
            *_, last = reference.hidden_states(token, state)
            token = reference.head(last).argmax(axis=1)

    return pace(run, tokens=tokens, runs=runs)


def board_speed(board: Board, model: IntegerModel) -> tuple[int, float]:
    """Cycles of a generated token, and tokens per second at the board's clock."""
    cycles = predict(compile_image(model, board.geometry), board.machine).cycles
    return cycles, board.clock_hz / cycles


def _rows(board: Board, model: IntegerModel) -> list[Row]:
    def timed(name: str, threads: int) -> Row:
        with contextlib.closing(NativeDevice(threads)) as device:
            found = pace_of_device(device, model, tokens=TOKENS, runs=RUNS)
        return Row(name=name, tokens_per_s=found.fastest)

    slow = {"tokens": TOKENS // 10, "runs": RUNS}
    golden = pace_of_device(GoldenDevice(), model, **slow)
    number = processors()
    return [
        Row(name=f"FPGA board {board.name}", tokens_per_s=board_speed(board, model)[1], board=True),
        timed("CPU, native://, 1 core", 1),
        *([timed(f"CPU, native://, {number} cores", number)] if number > 1 else []),
        Row(name="CPU, golden, NumPy integers", tokens_per_s=golden.fastest),
        Row(name="CPU, float, NumPy", tokens_per_s=_float_pace(model, **slow).fastest),
    ]


def compared(rows: Sequence[Row]) -> str:
    """Which of the first two rows, a board and a processor's core, is how much faster."""
    board, core = (row.tokens_per_s for row in rows[:2])
    faster, slower = ("One core", "the board") if core > board else ("The board", "one core")
    return f"{faster} is {max(core, board) / min(core, board):.1f} times as fast as {slower}"


def speed() -> str:
    """Tokens per second, of a board and of this machine's processors."""
    board = boards.board(BOARD)
    models = {name: IntegerModel.load(shipped_models()[name]) for name in MODELS}
    groups = {name: _rows(board, model) for name, model in models.items()}
    cycles = [f"{board_speed(board, model)[0]:,}" for model in models.values()]
    return chart.draw(
        groups,
        title="Tokens per second, one text at a time",
        notes=[
            f"Board: {board.clock_hz / 1e6:g} MHz, routed; {' and '.join(cycles)} cycles a token, "
            "simulated.",
            f"CPU: {processor_name()}, the fastest of {RUNS} runs.",
            f"{compared(groups[MODELS[0]])}, with {MODELS[0]}.",
        ],
    )


def processor_name(facts: Path = Path("/proc/cpuinfo")) -> str:
    """What this machine's processor calls itself."""
    with contextlib.suppress(OSError):
        for line in facts.read_text("utf-8", "replace").splitlines():
            key, _, name = line.partition(":")
            if key.strip() == "model name" and name.strip():
                return name.strip().replace("(R)", "").replace("(TM)", "")
    return platform.processor() or platform.machine()


def page() -> bytes:
    """The server's page."""
    board_library(BOARD)
    with (
        snapshot.browser() as browser,
        snapshot.serving(["--device", f"sim://{BOARD}"], ROOT) as url,
    ):
        return snapshot.take(browser, url)


PICTURES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "demo": ("svg", lambda: demo().encode()),
    "speed": ("svg", lambda: speed().encode()),
    "page": ("png", page),
}
"""By name: kind of file, and what draws it."""


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns the exit status; `SystemExit` on wrong usage."""
    parser = OneLineParser(
        prog="python -m sim.pictures", description="Draws the README's pictures."
    )
    parser.add_argument("pictures", nargs="*", metavar="PICTURE", help="demo, speed or page (all)")
    parser.add_argument(
        "--out", type=user_path, default=ROOT / "docs", metavar="FOLDER", help="(docs)"
    )
    options = parser.parse_args(arguments)
    for name in options.pictures:
        if name not in PICTURES:
            parser.error(f"a picture is one of {', '.join(PICTURES)}, not {name!r}")
    if not options.out.is_dir():
        parser.error(f"--out must be a folder that is there, not {str(options.out)!r}")
    for name in options.pictures or PICTURES:
        kind, draw = PICTURES[name]
        path = options.out / f"{name}.{kind}"
        write_file(path, draw())
        print(path, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
