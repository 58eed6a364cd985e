"""``python -m sim.evaluate``: the loss of a model on a text, with any way of running it.

The text is a series of stories separated by lines ``<|endoftext|>``. The token stream is, for every
story in order, the model's start token and then the story's tokens. It is cut into windows of equal
length; the state is zero at each window's start, and every token but the first of a window is
predicted from those before it. One JSON line on standard output holds

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

Backend ``float`` runs a checkpoint's own values. Of a model file it runs the trits, which are the
checkpoint's, with embedding, norms and scales as the file has rounded them: see
`weights.dequantise`.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from tokenizers import Tokenizer

from host.errors import HostError
from weights.checkpoint import Checkpoint
from weights.commandline import OneLineParser, report_failure
from weights.dequantise import DequantisedCheckpoint
from weights.errors import ModelError
from weights.model import IntegerModel
from weights.quantise import convert

SEPARATOR = "<|endoftext|>"
BATCH_LOGITS = 1 << 20
"""Logits that a batch of windows may need at once: 8 MB of float64."""


class Backend(Protocol):
    """A way of running a model.

    Members
    -------
    most_windows : sequences that `logits` takes at once, at most
    """

    most_windows: int

    def logits(self, tokens: np.ndarray) -> Iterator[np.ndarray]:
        """Logits (batch, vocabulary) after each of `tokens` (batch, time), from zero state."""
        ...


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Sums over all predicted tokens.

    Members
    -------
    nats : negative log-likelihood
    tokens : how many were predicted
    bytes : UTF-8 bytes of their text
    """

    nats: float
    tokens: int
    bytes: int

    @property
    def nll(self) -> float:
        """Nats per predicted token."""
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of the predicted text."""
        return self.nats / math.log(2) / self.bytes if self.bytes else math.nan


@dataclass(frozen=True, kw_only=True)
class Report:
    """One evaluation, as it is printed."""

    backend: str
    windows: int
    length: int
    tokens: int
    nll: float
    bytes: int
    bits_per_byte: float
    seconds: float


def stories(text: str) -> Iterator[str]:
    """The stories of a text, stripped, without empty ones."""
    return filter(None, (story.strip() for story in text.split(SEPARATOR)))


def token_windows(
    text: str, tokenizer: Tokenizer, start_token: int, count: int, length: int
) -> np.ndarray:
    """The first `count` windows (count, length) of a text's token stream.

    Raises
    ------
    ModelError
        When the text is too short for them.
    """
    needed = count * length
    stream: list[int] = []
    for story in stories(text):
        if len(stream) >= needed:
            break
        stream.append(start_token)
        stream.extend(tokenizer.encode(story, add_special_tokens=False).ids)
    if len(stream) < needed:
        raise ModelError(
            f"the text has {len(stream)} tokens, {count} windows of {length} need {needed}; "
            "give a longer text or fewer windows"
        )
    return np.array(stream[:needed], dtype=np.int64).reshape(count, length)


def token_bytes(tokenizer: Tokenizer, vocabulary: int) -> np.ndarray:
    """UTF-8 bytes (vocabulary) of each token's text; 0 for special tokens.

    Byte-level vocabularies write one character for each byte. Others write the text itself, with
    a mark for a space and ``<0x..>`` for a single byte.
    """
    decoder = json.loads(tokenizer.to_str())["decoder"]
    byte_level = "ByteLevel" in json.dumps(decoder)
    special = {
        token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special
    }
    sizes = np.zeros(vocabulary, dtype=np.int64)
    for text, token in tokenizer.get_vocab(with_added_tokens=True).items():
        if token in special:
            continue
        if byte_level:
            sizes[token] = len(text)
        elif re.fullmatch("<0x[0-9A-F]{2}>", text):
            sizes[token] = 1
        else:
            sizes[token] = len(text.replace("\u2581", " ").encode())
    return sizes


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> float:
    """Sum over the batch of ``-log softmax(logits)[target]``, in float64 nats."""
    logits = logits.astype(np.float64)
    chosen = np.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    largest = logits.max(axis=1)
    np.exp(logits - largest[:, None], out=logits)
    return float((largest + np.log(logits.sum(axis=1)) - chosen).sum())


def measure(backend: Backend, windows: np.ndarray, sizes: np.ndarray) -> Loss:
    """The loss over `windows` (count, length); `sizes` is what `token_bytes` gives."""
    nats = 0.0
    batch = max(1, min(backend.most_windows, BATCH_LOGITS // len(sizes)))
    for first in range(0, len(windows), batch):
        part = windows[first : first + batch]
        targets = part[:, 1:].T
        for logits, target in zip(backend.logits(part[:, :-1]), targets, strict=True):
            nats += negative_log_likelihood(logits, target)
    predicted = windows[:, 1:]
    return Loss(nats=nats, tokens=predicted.size, bytes=int(sizes[predicted].sum()))


class FloatBackend:
    """The float reference, `sim.reference`."""

    most_windows = 512

    def __init__(self, checkpoint: Checkpoint) -> None:
        from sim.reference import FloatModel

        self._model = FloatModel(checkpoint)

    def logits(self, tokens: np.ndarray) -> Iterator[np.ndarray]:
        return self._model.logits(tokens)


class GoldenBackend:
    """The integer model bit by bit, `sim.golden`."""

    most_windows = 64

    def __init__(self, model: IntegerModel) -> None:
        from sim.golden import GoldenModel

        self._model = GoldenModel(model)

    def logits(self, tokens: np.ndarray) -> Iterator[np.ndarray]:
        self._model.start(len(tokens))
        for column in tokens.T:
            self._model.step(column)
            yield self._model.logits()


class DeviceBackend:
    """A device behind a URL, `host.driver`."""

    most_windows = 1

    def __init__(self, model: IntegerModel, url: str) -> None:
        from host.driver import open_device

        self._device = open_device(url)
        self._device.load(model)

    def logits(self, tokens: np.ndarray) -> Iterator[np.ndarray]:
        (sequence,) = tokens
        for row in self._device.logits(sequence.tolist()):
            yield np.asarray(row)[None, :]


def open_backend(name: str, checkpoint: Checkpoint | None, model: IntegerModel | None) -> Backend:
    """The backend of that name; one of the two models is given."""
    if name == "float":
        if checkpoint is None:
            assert model is not None
            checkpoint = DequantisedCheckpoint(model)
        return FloatBackend(checkpoint)
    if model is None:
        assert checkpoint is not None
        model = convert(checkpoint)
    return GoldenBackend(model) if name == "golden" else DeviceBackend(model, name)


def evaluate(
    *,
    checkpoint: Path | None = None,
    model: Path | None = None,
    text: Path,
    windows: int,
    length: int,
    backend: str,
) -> Report:
    """Runs one evaluation; exactly one of `checkpoint` and `model` is given.

    Raises
    ------
    HostError, ModelError, OSError
        When device, model or text cannot be used.
    """
    source = Checkpoint(checkpoint) if checkpoint else None
    integer = IntegerModel.load(model) if model else None
    given = source or integer
    assert given is not None
    tokenizer = Tokenizer.from_str(given.tokenizer_json)
    try:
        content = text.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{text}: not UTF-8 ({error}); give a text file") from error
    tokens = token_windows(content, tokenizer, given.start_token, windows, length)
    runner = open_backend(backend, source, integer)
    begin = time.perf_counter()
    loss = measure(runner, tokens, token_bytes(tokenizer, given.shape.vocabulary))
    return Report(
        backend=backend,
        windows=windows,
        length=length,
        tokens=loss.tokens,
        nll=loss.nll,
        bytes=loss.bytes,
        bits_per_byte=loss.bits_per_byte,
        seconds=round(time.perf_counter() - begin, 3),
    )


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m sim.evaluate",
        description="The loss of a model on a text, as one JSON line.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="folder with config.json")
    source.add_argument("--model", type=Path, help="integer model file")
    parser.add_argument("--text", type=Path, required=True, help="stories, UTF-8")
    parser.add_argument("--windows", type=int, default=512, help="windows to run (512)")
    parser.add_argument("--length", type=int, default=256, help="tokens in a window (256)")
    parser.add_argument(
        "--backend", default="golden", help="float, golden, or a device's URL (golden)"
    )
    return parser


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
    try:
        report = evaluate(**vars(options))
    except (HostError, ModelError, OSError) as error:
        return report_failure(error)
    print(json.dumps(asdict(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
