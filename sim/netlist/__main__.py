"""Whether a board's netlist generates what the golden model does: ``python -m sim.netlist BOARD``.

One text greedy and one sampled, and one that goes on from the state of the first; tokens, hidden
states, counters of every step and totals, as far as the machine shows them, must be those of the
golden model and of the timetable.
"""

from weights import early as early  # isort: split

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from host.compiler import compile_image
from host.device import LinkDevice
from host.request import Request
from host.urls import SIMULATED
from hw.arch.protocol import Feature
from hw.boards import board
from hw.build.plan import check_hardware
from sim.golden_device import GoldenDevice
from sim.netlist import netlist_port, netlist_verilog, with_fast_line
from sim.timing import predict
from weights.commandline import OneLineParser, program
from weights.files import user_path
from weights.model import IntegerModel
from weights.store_commands import find_model
from weights.text import open_tokenizer


@program
def main(arguments: Sequence[str] | None = None) -> int:
    parser = OneLineParser(
        prog="python -m sim.netlist", description="Compare a board's netlist with the golden model."
    )
    parser.add_argument("board")
    parser.add_argument("--model", default="stories-tiny", help="default: stories-tiny")
    parser.add_argument("--prompt", default="Once upon a time", help="default: %(default)r")
    parser.add_argument("--tokens", type=int, default=8, help="of each text (default 8)")
    parser.add_argument(
        "--slow-line",
        action="store_true",
        help="with the board's own rate, so that it is the very netlist of its bitstream; else "
        "constants of the UART differ, and the model is loaded in a tenth of the time",
    )
    parser.add_argument("--output", type=user_path, default=Path("build"), help="default: build")
    options = parser.parse_args(arguments)
    if options.tokens < 1:
        parser.error(f"--tokens must be at least 1, not {options.tokens}")

    path = find_model(options.model)
    model = IntegerModel.load(path)
    target = board(options.board)
    check_hardware(target)
    if not options.slow_line:
        target = with_fast_line(target)
    verilog = netlist_verilog(target, output=options.output)
    start = time.monotonic()
    port = netlist_port(verilog, name=target.name, timeout=0.05)
    golden = GoldenDevice()
    golden.load(model)
    prompt = [
        model.start_token,
        *open_tokenizer(model.tokenizer_json, path).encode(options.prompt).ids,
    ]
    wrong = 0
    with LinkDevice(port, name=f"netlist of {target.name}", **SIMULATED) as device:
        device.load(model)
        timing = predict(compile_image(model, target.geometry), target.machine)
        print(f"loaded after {time.monotonic() - start:.0f} s, {port.cycles:,} cycles", flush=True)
        kept: list[np.ndarray] = []
        features = target.machine.features
        for temperature in (0.0, 0.8) if Feature.SAMPLING in features else (0.0,):
            texts = [
                list(one.generate(prompt, options.tokens, temperature=temperature, seed=1))
                for one in (golden, device)
            ]
            kept.append(golden.state())
            counts = {"chosen": len(texts[1]), "read": len(prompt) - 1}
            counted = [cycles for _, cycles in device.counters()]
            compared: list[tuple[str, object, object]] = [("tokens", texts[1], texts[0])]
            if Feature.STATES in features:
                compared.append(("states", device.state().tolist(), kept[-1].tolist()))
            if Feature.COUNTERS in features:
                compared += [
                    ("counters", counted, timing.counters(**counts)),
                    ("totals", device.totals(), timing.totals(**counts)),
                ]
            for what, ours, theirs in compared:
                wrong += _differ(f"temperature {temperature}: {what}", ours, theirs)
        if Feature.STATES not in features:
            return 1 if wrong else 0
        further = Request.of(
            texts[0][-1:], options.tokens, 0.0, 1, None, vocabulary=model.shape.vocabulary
        )
        for one in (golden, device):
            one.restore(kept[0])
        theirs, ours = (list(one.answer(replace(further, resume=True))) for one in (golden, device))
        wrong += _differ("from the state of the first: tokens", ours, theirs)
    return 1 if wrong else 0


def _differ(what: str, ours: object, theirs: object) -> bool:
    """Whether two results differ; it is said on a line."""
    verdict = "equal" if ours == theirs else f"{ours} instead of {theirs}"
    print(f"{what} {verdict}", flush=True)
    return ours != theirs


if __name__ == "__main__":
    sys.exit(main())
