"""``python -m weights.train.rounding``: what latents lose when they are stored as bfloat16.

Rounding moves latents over the threshold of their trits. This evaluates a float32 checkpoint with
the float reference as it is stored, rounded, and rounded with the trits it had before; so the share
of the loss that comes from changed trits is seen. One JSON line is printed for each.
"""

from __future__ import annotations

from weights import early as early  # isort: split

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sim.losses import FloatBackend, measure

from ..architectures.mmfree import matrices
from ..checkpoint import Checkpoint
from ..commandline import OneLineParser, program
from ..files import read_text, user_path
from ..quantise import ternarise
from ..text import open_tokenizer, token_bytes, token_windows


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 values rounded to bfloat16's 8 bits of precision, to nearest, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


def trits_of(latents: np.ndarray) -> tuple[np.ndarray, float]:
    """(trits, beta) of a whole matrix."""
    beta = float(np.abs(latents).mean(dtype=np.float64))
    return ternarise(latents, beta), beta


class RoundedCheckpoint(Checkpoint):
    """A checkpoint as if all its tensors had been rounded to bfloat16.

    Parameters
    ----------
    keep_trits : ternary matrices keep the trits of the exact latents, with the rounded ones' beta

    Members
    -------
    changed : ternary weights whose trit is another than the exact latents'
    """

    def __init__(self, directory: Path, keep_trits: bool) -> None:
        super().__init__(directory)
        self.changed = 0
        self._kept: dict[str, np.ndarray] = {}
        for matrix in matrices(self.shape).values():
            name = matrix.weight
            exact, _ = trits_of(super()._read(name, None))
            _, beta = trits_of(self._read(name, None))
            if keep_trits:
                # Equal magnitudes, far from the threshold, whose mean over all is beta.
                size = beta * exact.size / max(1, int(np.count_nonzero(exact)))
                self._kept[name] = exact * np.float32(size)
            self.changed += int((trits_of(self._read(name, None))[0] != exact).sum())

    def _read(self, name: str, rows: slice | None) -> np.ndarray:
        if name in self._kept:
            return self._kept[name][rows or ...]
        return to_bfloat16(super()._read(name, rows))


def loss(checkpoint: Checkpoint, text: str, windows: int, length: int) -> float:
    """Nats per token with the float reference, as `sim.losses` has it."""
    tokenizer = open_tokenizer(checkpoint.tokenizer_json, checkpoint.directory)
    tokens = token_windows(text, tokenizer, checkpoint.start_token, windows, length)
    sizes = token_bytes(tokenizer, checkpoint.shape.vocabulary)
    return measure(FloatBackend(checkpoint), tokens, sizes).nll


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns the exit status; `SystemExit` on wrong usage."""
    parser = OneLineParser(
        prog="python -m weights.train.rounding",
        description="What latents lose when they are stored as bfloat16.",
    )
    parser.add_argument(
        "checkpoint", type=user_path, metavar="CHECKPOINT_DIR", help="float32 latents"
    )
    parser.add_argument("--text", type=user_path, required=True, help="stories, UTF-8")
    parser.add_argument("--windows", type=int, default=128, help="windows to run (128)")
    parser.add_argument("--length", type=int, default=256, help="tokens in a window (256)")
    options = parser.parse_args(arguments)
    if options.windows < 1:
        parser.error(f"--windows must be at least 1, not {options.windows}")
    if options.length < 2:
        parser.error(f"--length must be at least 2, not {options.length}")
    text = read_text(options.text)
    exact = Checkpoint(options.checkpoint)
    rounded = RoundedCheckpoint(options.checkpoint, keep_trits=False)
    kept = RoundedCheckpoint(options.checkpoint, keep_trits=True)
    cases: list[tuple[str, Checkpoint, int]] = [
        ("as stored", exact, 0),
        ("bfloat16", rounded, rounded.changed),
        ("bfloat16, trits kept", kept, kept.changed),
    ]
    for name, checkpoint, changed in cases:
        nll = loss(checkpoint, text, options.windows, options.length)
        share = changed / exact.shape.ternary_weights
        print(json.dumps({"latents": name, "nll": nll, "changed_trits": share}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
