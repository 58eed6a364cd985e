"""``python -m sim.evaluate``: the loss of a model on a text, with any way of running it.

See `sim.losses`. One JSON line on standard output holds

========== =====================================================================================
backend    what computed the logits: ``float``, ``golden``, or a device's URL
windows    number of windows
length     tokens in a window
tokens     predicted tokens
nll        mean negative log-likelihood of a predicted token, in nats
bytes      UTF-8 bytes of the predicted tokens; the start token and other special tokens have none
bits_per_byte  total loss in bits over these bytes
seconds    time for loss and logits, without opening and converting the model
========== =====================================================================================
"""

from __future__ import annotations

from weights import early as early  # isort: split

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from sim.losses import evaluate
from weights.commandline import OneLineParser, program
from weights.files import user_path


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m sim.evaluate",
        description="The loss of a model on a text, as one JSON line.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=user_path, help="folder with config.json")
    source.add_argument("--model", type=user_path, help="integer model file")
    parser.add_argument("--text", type=user_path, required=True, help="stories, UTF-8")
    parser.add_argument("--windows", type=int, default=512, help="windows to run (512)")
    parser.add_argument("--length", type=int, default=256, help="tokens in a window (256)")
    parser.add_argument(
        "--backend", default="golden", help="float, golden, or a device's URL (golden)"
    )
    return parser


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns the exit status; `SystemExit` on wrong usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.windows < 1:
        parser.error(f"--windows must be at least 1, not {options.windows}")
    if options.length < 2:
        parser.error(f"--length must be at least 2, not {options.length}")
    if options.backend not in ("float", "golden") and "://" not in options.backend:
        parser.error(f"--backend must be float, golden or a URL, not {options.backend!r}")
    print(json.dumps(asdict(evaluate(**vars(options)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
