"""What a training run is made of: the settings of one TOML file, checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..architectures.mmfree import ModelShape
from ..errors import ModelError
from ..files import read_toml

ARCHITECTURES = ("matmul-free", "transformer")
LARGEST_INTEGER = (1 << 32) - 1
LARGEST_BATCH = 1 << 20
LARGEST_FLOAT = 1e38
"""All that a float32 takes."""


def _check(condition: bool, name: str, wanted: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{name} must be {wanted}, not {value!r}")


def _check_sizes(settings: Mapping[str, Any]) -> None:
    """Raises `ValueError` for a number that no machine's arithmetic takes; so is nan."""
    for name, value in settings.items():
        if type(value) is int:
            _check(abs(value) <= LARGEST_INTEGER, name, f"at most {LARGEST_INTEGER}", value)
        elif type(value) is float:
            _check(abs(value) <= LARGEST_FLOAT, name, f"a number up to {LARGEST_FLOAT:g}", value)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model to train, the table ``[model]``.

    Members
    -------
    hidden, layers, intermediate, vocabulary : as in `weights.architectures.mmfree.ModelShape`
    architecture : ``matmul-free``, or ``transformer`` to compare with (LLaMA-like: RMSNorm,
        SwiGLU, rotary positions); blocks of equal width have equally many weights
    ternary : weights in {-1, 0, +1} and int8 activations; otherwise both in full precision
    head_width : width of a Transformer's attention head
    initial_deviation : of the matrices and the embedding
    dropout : of the output of every mixer, while training
    """

    hidden: int
    layers: int
    intermediate: int
    vocabulary: int
    architecture: str = "matmul-free"
    ternary: bool = True
    head_width: int = 32
    initial_deviation: float = 0.02
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _ = self.shape
        _check_sizes(vars(self))
        architecture = self.architecture
        choice = " or ".join(ARCHITECTURES)
        _check(architecture in ARCHITECTURES, "architecture", choice, architecture)
        fits = self.head_width > 0 and self.head_width % 2 == 0
        if architecture == "transformer":
            fits = fits and self.hidden % self.head_width == 0
        _check(fits, "head_width", f"even and divide hidden = {self.hidden}", self.head_width)
        _check(self.initial_deviation > 0, "initial_deviation", "above 0", self.initial_deviation)
        _check(0 <= self.dropout < 1, "dropout", "from 0 to below 1", self.dropout)

    @property
    def shape(self) -> ModelShape:
        """The dimensions that decide on the tensors' shapes."""
        return ModelShape(
            hidden=self.hidden,
            layers=self.layers,
            intermediate=self.intermediate,
            vocabulary=self.vocabulary,
        )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train it, the table ``[training]``.

    Members
    -------
    steps : updates in all
    batch, length : windows of an update, over all processes, and predicted tokens of a window
    learning_rate : its peak
    warmup : steps of linear increase
    weight_decay : of matrices and embedding
    settle : move latents away from the trits' threshold at the end, `weights.train.model.settle`
    fixed : share of the steps, at the end, in which trits stay as they are and the rest learns on
    clip : largest norm of the gradient
    seed : of initial weights and order of windows
    report : steps between lines of the metrics
    evaluate : steps between evaluations, a multiple of `report`; 0 for one at the end only
    validation_windows : windows of `weights.text.token_windows` in an evaluation
    save_seconds : between saves of the state
    """

    steps: int
    batch: int
    length: int = 256
    learning_rate: float = 4e-3
    warmup: int = 100
    weight_decay: float = 0.1
    settle: bool = True
    fixed: float = 0.0
    clip: float = 1.0
    seed: int = 1
    report: int = 50
    evaluate: int = 0
    validation_windows: int = 512
    save_seconds: float = 300.0

    def __post_init__(self) -> None:
        _check_sizes(vars(self))
        for name in ("steps", "batch", "report", "validation_windows"):
            value = getattr(self, name)
            _check(value >= 1, name, "at least 1", value)
        _check(self.batch <= LARGEST_BATCH, "batch", f"at most {LARGEST_BATCH}", self.batch)
        _check(self.length >= 2, "length", "at least 2", self.length)
        for name in ("learning_rate", "clip", "save_seconds"):
            value = getattr(self, name)
            _check(value > 0, name, "above 0", value)
        for name in ("warmup", "weight_decay", "seed"):
            value = getattr(self, name)
            _check(value >= 0, name, "at least 0", value)
        _check(0 <= self.fixed < 1, "fixed", "from 0 to below 1", self.fixed)
        fits = self.evaluate >= 0 and self.evaluate % self.report == 0
        _check(fits, "evaluate", f"0 or a multiple of report = {self.report}", self.evaluate)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole configuration file."""

    model: ModelConfig
    training: TrainingConfig

    def digest(self) -> str:
        """SHA-256 of all settings: a state goes on only under the settings it was made with."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def toml(self) -> str:
        """A file with all settings, which `read_config` makes this configuration of."""
        lines = []
        for name, table in asdict(self).items():
            # Numbers, truth values and plain strings are written as in JSON.
            lines += [f"[{name}]", *(f"{key} = {json.dumps(table[key])}" for key in table), ""]
        return "\n".join(lines)


def read_config(path: Path) -> Config:
    """The configuration in a TOML file with the tables ``[model]`` and ``[training]``.

    Raises
    ------
    ModelError
        When the file cannot be read, or a setting is missing, unknown or out of range.
    """
    content = read_toml(path)
    unknown = sorted(content.keys() - {"model", "training"})
    if unknown:
        raise ModelError(f"{path}: unknown table {unknown[0]}; there are model and training")
    return Config(
        model=_read_table(ModelConfig, content, "model", path),
        training=_read_table(TrainingConfig, content, "training", path),
    )


def _read_table(kind: type, content: Mapping[str, Any], name: str, path: Path) -> Any:
    table = content.get(name)
    if not isinstance(table, dict):
        raise ModelError(f"{path}: table [{name}] is missing; add it")
    known = {field.name: field for field in fields(kind)}
    for key, value in table.items():
        if key not in known:
            raise ModelError(f"{path}: unknown setting {name}.{key}; there are {', '.join(known)}")
        wanted = known[key].type  # a string, thanks to postponed evaluation
        given = type(value).__name__
        if given != wanted and (given, wanted) != ("int", "float"):
            raise ModelError(f"{path}: {name}.{key} must be of type {wanted}, not {value!r}")
    for key, field in known.items():
        if field.default is MISSING and key not in table:
            raise ModelError(f"{path}: setting {name}.{key} is missing; add it")
    try:
        return kind(**table)
    except ValueError as error:
        raise ModelError(f"{path}: [{name}] {error}; correct it") from error
