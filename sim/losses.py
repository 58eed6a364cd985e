"""The loss of a model on a text, with any way of running it.

The text is a series of stories separated by lines ``<|endoftext|>``. The token stream is, for every
story in order, the model's start token and then the story's tokens. It is cut into windows of equal
length; the state is zero at each window's start, and every token but the first of a window is
predicted from those before it.

Backend ``float`` runs a checkpoint's own values. Of a model file it runs the trits, which are the
checkpoint's, with embedding, norms and scales as the file has rounded them: see
`weights.dequantise`.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from host.device import Device
from host.urls import open_device
from weights.checkpoint import Checkpoint
from weights.dequantise import DequantisedCheckpoint
from weights.errors import ModelError
from weights.files import read_text
from weights.model import IntegerModel
from weights.quantise import convert
from weights.text import listed, open_tokenizer, token_bytes, token_windows

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
    """A device, `host.device`, which holds the model from then on."""

    most_windows = 1

    def __init__(self, model: IntegerModel, device: Device) -> None:
        self._device = device
        self._device.load(model)

    def logits(self, tokens: np.ndarray) -> Iterator[np.ndarray]:
        (sequence,) = tokens
        for row in self._device.logits(sequence.tolist()):
            yield np.asarray(row)[None, :]


@contextlib.contextmanager
def open_backend(
    name: str, checkpoint: Checkpoint | None, model: IntegerModel | None
) -> Iterator[Backend]:
    """The backend of that name, a device for as long as the block goes; one model is given."""
    if name == "float":
        if checkpoint is None:
            assert model is not None
            checkpoint = DequantisedCheckpoint(model)
        yield FloatBackend(checkpoint)
        return
    if model is None:
        assert checkpoint is not None
        model = convert(checkpoint)
    if name == "golden":
        yield GoldenBackend(model)
        return
    with contextlib.closing(open_device(name)) as device:
        yield DeviceBackend(model, device)


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
    tokenizer = open_tokenizer(given.tokenizer_json, checkpoint or model)
    vocabulary = given.shape.vocabulary
    content = read_text(text, "give a text file")
    tokens = token_windows(content, tokenizer, given.start_token, windows, length)
    if beyond := np.unique(tokens[tokens >= vocabulary]).tolist():
        names = listed([str(tokenizer.id_to_token(token)) for token in beyond])
        raise ModelError(f"{text}: holds what the model does not know: {names}; leave it out")
    with open_backend(backend, source, integer) as runner:
        begin = time.perf_counter()
        loss = measure(runner, tokens, token_bytes(tokenizer, vocabulary))
        seconds = time.perf_counter() - begin
    return Report(
        backend=backend,
        windows=windows,
        length=length,
        tokens=loss.tokens,
        nll=loss.nll,
        bytes=loss.bytes,
        bits_per_byte=loss.bits_per_byte,
        seconds=round(seconds, 3),
    )
