"""Reads checkpoints of the MatMul-free LM as upstream publishes them.

A checkpoint is a directory with ``config.json``, ``tokenizer.json`` and the latent weights, in
``model.safetensors`` or in shards that ``model.safetensors.index.json`` lists. The latents are
floating-point; `weights.quantise` makes trits of them. Layout and names follow the class
``HGRNBitForCausalLM`` of the code released with arXiv 2406.02528.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from .architectures.mmfree import DEFAULT_RATIO, LARGEST_DIMENSIONS, ModelShape
from .errors import ModelError
from .files import read_json, read_text
from .tensorfile import TensorFile, widen
from .text import (
    find_end_token,
    find_start_token,
    listed,
    open_tokenizer,
    special_tokens,
    tokens_beyond,
)

NORM_EPSILON = 1e-6
"""Added to the mean square in every norm. The released BitLinear runs this one whatever the
configuration says, and every released configuration says the same."""

FLOAT_TYPES = ("F32", "F16", "BF16")
LARGEST_VALUE = 1 << 15
"""A magnitude above it comes from a damaged file, not from training."""

BLOCK_ELEMENTS = 1 << 18
"""Elements that `Checkpoint.blocks` reads at a time: 1 MB of float32, which stays in cache."""

HASHED_BYTES = 1 << 20  # read at a time for the digest


class Checkpoint:
    """An upstream checkpoint directory.

    Opening reads configuration, tokenizer and the tensor files' headers, and checks that exactly
    the expected tensors are there in the expected shapes. Values are read when asked for.

    Members
    -------
    directory : where the checkpoint lies
    shape : the model's dimensions
    start_token : the token that begins a text
    end_tokens : the tokens that end one, at least one
    tokenizer_json : text of ``tokenizer.json``

    Raises
    ------
    ModelError
        When something is missing, damaged, or of an architecture that is not supported.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        if not self.directory.is_dir():
            raise ModelError(
                f"{self.directory}: not a directory; give the folder that holds config.json"
            )
        config_path = self.directory / "config.json"
        config = read_json(config_path)
        self.shape = _shape_of(config, config_path)
        self.tokenizer_json, tokenizer = _read_tokenizer(
            self.directory / "tokenizer.json", self.shape
        )
        found = find_start_token(tokenizer)
        starts = _tokens_of(config, "bos_token_id", found, self.shape, config_path)
        if len(starts) > 1:
            raise ModelError(f"{config_path}: bos_token_id must be one token; correct it")
        (self.start_token,) = starts
        found = find_end_token(tokenizer)
        unused = tokens_beyond(tokenizer, self.shape.vocabulary).values()
        self.end_tokens = _tokens_of(config, "eos_token_id", found, self.shape, config_path, unused)
        self._file_of = _locate_tensors(self.directory)
        self._check_tensors()

    @property
    def end_token(self) -> int:
        """The first of the tokens that end a text."""
        return self.end_tokens[0]

    def _check_tensors(self) -> None:
        expected = self.shape.tensor_shapes
        missing = sorted(expected.keys() - self._file_of.keys())
        if missing:
            raise ModelError(
                f"{self.directory}: tensor {missing[0]} is missing ({len(missing)} in all); "
                "fetch the checkpoint again, or correct config.json"
            )
        extra = sorted(self._file_of.keys() - expected.keys())
        if extra:
            raise ModelError(
                f"{self._file_of[extra[0]].path}: tensor {extra[0]} does not belong to this "
                f"architecture ({len(extra)} such); use a checkpoint of HGRNBitForCausalLM"
            )
        for name, shape in expected.items():
            file = self._file_of[name]
            entry = file.entries[name]
            if entry.shape != shape:
                raise ModelError(
                    f"{file.path}: tensor {name} must have shape {shape}, not {entry.shape}; "
                    "correct config.json, or fetch the checkpoint again"
                )
            if entry.type_name not in FLOAT_TYPES:
                raise ModelError(
                    f"{file.path}: tensor {name} must be BF16, F16 or F32, "
                    f"not {entry.type_name}; save it as one of these"
                )

    def tensor(self, name: str) -> np.ndarray:
        """The whole tensor `name` as ``float32``. Raises `ModelError` unless all is finite."""
        return self._read(name, None)

    def blocks(
        self, name: str, elements: int = BLOCK_ELEMENTS
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Matrix `name` from top to bottom, as (rows, ``float32`` values of these rows).

        A block holds whole rows, at least one, of about `elements` elements in all.
        Raises `ModelError` unless all is finite.
        """
        rows, columns = self.shape.tensor_shapes[name]
        step = max(1, elements // columns)
        for first in range(0, rows, step):
            block = slice(first, min(first + step, rows))
            yield block, self._read(name, block)

    def _read(self, name: str, rows: slice | None) -> np.ndarray:
        file = self._file_of[name]
        values = widen(file.read(name, rows), file.entries[name].type_name)
        if not np.isfinite(values).all():
            raise ModelError(
                f"{file.path}: tensor {name} holds NaN or infinity; fetch the checkpoint again"
            )
        peak = max(float(values.max()), -float(values.min()))
        if peak > LARGEST_VALUE:
            raise ModelError(
                f"{file.path}: tensor {name} holds {peak:g}, far above what a trained model does "
                f"({LARGEST_VALUE}); fetch the checkpoint again"
            )
        return values

    def digest(self) -> str:
        """SHA-256, as hexadecimal, over the names and contents of all files that were read."""
        paths = {file.path for file in self._file_of.values()}
        paths |= {self.directory / "config.json", self.directory / "tokenizer.json"}
        whole = hashlib.sha256()
        for path in sorted(paths):
            content = hashlib.sha256()
            with path.open("rb") as file:
                while part := file.read(HASHED_BYTES):
                    content.update(part)
            whole.update(f"{content.hexdigest()}  {path.name}\n".encode())
        return whole.hexdigest()


REQUIRED_SETTINGS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "model_type": (None, ("hgrn_bit",)),
    "num_heads": (1, (1,)),
    "expand_ratio": (1, (1,)),
    "use_short_conv": (False, (False,)),
    "use_lower_bound": (True, (True,)),
    "tie_word_embeddings": (False, (False,)),
    "hidden_act": ("swish", ("swish", "silu")),
    "rms_norm_eps": (NORM_EPSILON, (NORM_EPSILON,)),
}
"""Settings that choose the arithmetic: upstream's default, and the values that are supported."""

LONGEST_TOLD = 60  # characters of a value in a message

TOKEN_SETTINGS = {"bos_token_id": (1, "begins"), "eos_token_id": (2, "ends")}
"""Upstream's default, and what the token does to a text."""


def _told(value: Any) -> str:
    """A value of a configuration, for a message."""
    text = json.dumps(value)
    return text if len(text) <= LONGEST_TOLD else f"{text[:LONGEST_TOLD]}..."


def _whole(value: Any) -> Any:
    """An integer that was written as 4.0 as one; anything else as it is."""
    return int(value) if type(value) is float and value.is_integer() else value


def read_shape(path: Path) -> ModelShape:
    """The dimensions that a ``config.json`` gives. Raises `ModelError` unless it is one of ours."""
    return _shape_of(read_json(path), path)


def _shape_of(config: Mapping[str, Any], path: Path) -> ModelShape:
    for key, (default, supported) in REQUIRED_SETTINGS.items():
        value = config.get(key, default)
        if value is None and key != "use_lower_bound":  # to upstream's code, that is a no
            value = default
        if value not in supported:
            raise ModelError(
                f"{path}: {key} must be {json.dumps(supported[0])}, not {_told(config.get(key))}; "
                "only the MatMul-free LM as released is supported"
            )

    def size(key: str, dimension: str) -> int:
        value, largest = _whole(config.get(key)), LARGEST_DIMENSIONS[dimension]
        if type(value) is not int or not 1 <= value <= largest:
            raise ModelError(
                f"{path}: {key} must be a positive integer up to {largest}, not {_told(value)}; "
                "correct it"
            )
        return value

    hidden = size("hidden_size", "hidden")
    if config.get("intermediate_size") is not None:
        intermediate = size("intermediate_size", "intermediate")
    else:
        intermediate = ModelShape.default_intermediate(hidden, _ratio_of(config, path))
    layers, vocabulary = size("num_hidden_layers", "layers"), size("vocab_size", "vocabulary")
    try:
        return ModelShape(
            hidden=hidden, layers=layers, intermediate=intermediate, vocabulary=vocabulary
        )
    except ValueError as error:
        raise ModelError(f"{path}: {error}; correct it") from error


def _ratio_of(config: Mapping[str, Any], path: Path) -> int | float:
    ratio, largest = config.get("hidden_ratio"), LARGEST_DIMENSIONS["intermediate"]
    if ratio is None:
        return DEFAULT_RATIO
    if type(ratio) not in (int, float) or not 0 < ratio <= largest:
        raise ModelError(
            f"{path}: hidden_ratio must be a positive number up to {largest}, not {_told(ratio)}; "
            "correct it"
        )
    return ratio


def _tokens_of(
    config: Mapping[str, Any],
    key: str,
    found: int | None,
    shape: ModelShape,
    path: Path,
    unused: Collection[int] = (),
) -> tuple[int, ...]:
    """The tokens that a setting names, or the one that was `found` in the tokenizer for it.

    Tokens that are `unused` need not be the model's.
    """
    default, does = TOKEN_SETTINGS[key]
    value = config.get(key, default)
    if value is None:
        if found is None:
            raise ModelError(
                f"{path}: {key} is null, and no special token of the tokenizer has a name that "
                f"says that it {does} a text; set {key} to that token's number"
            )
        value = found
    tokens = list(map(_whole, value if isinstance(value, list) else [value]))
    tokens = [t for t in tokens if t not in unused]
    if not tokens or not all(type(t) is int and 0 <= t < shape.vocabulary for t in tokens):
        raise ModelError(
            f"{path}: {key} must be a token below {shape.vocabulary}, not {_told(value)}; "
            "correct it"
        )
    return tuple(dict.fromkeys(tokens))


def _read_tokenizer(path: Path, shape: ModelShape) -> tuple[str, Tokenizer]:
    """Text and meaning of ``tokenizer.json``, once its tokens are known to be the model's.

    Special tokens beyond those of the model were added for training, to fill up batches: the model
    never chooses them, and no text needs them.
    """
    text = read_text(path)
    tokenizer = open_tokenizer(text, path)
    if tokenizer.get_vocab_size() == 0:
        raise ModelError(f"{path}: a tokenizer without tokens; fetch it again")
    special = special_tokens(tokenizer)
    beyond = tokens_beyond(tokenizer, shape.vocabulary)
    if beyond.keys() - special.keys():
        names = listed([name for name in beyond if name not in special])
        raise ModelError(
            f"{path}: the tokens go up to {max(beyond.values())}, but the model knows "
            f"{shape.vocabulary}, which leaves out {names}; use the tokenizer that belongs to this "
            "checkpoint"
        )
    return text, tokenizer


def _locate_tensors(directory: Path) -> dict[str, TensorFile]:
    """The file that holds each tensor, by the tensor's name."""
    single = directory / "model.safetensors"
    if single.exists():
        file = TensorFile(single)
        return dict.fromkeys(file.entries, file)
    index_path = directory / "model.safetensors.index.json"
    if not index_path.exists():
        raise ModelError(
            f"{directory}: neither model.safetensors nor model.safetensors.index.json is there; "
            "fetch the weights as safetensors"
        )
    weight_map = read_json(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(name, str) and name and Path(name).name == name for name in weight_map.values()
    ):
        raise ModelError(
            f"{index_path}: weight_map must give a file of this folder for each tensor; "
            "fetch it again"
        )
    shards: dict[str, TensorFile] = {}
    for name in sorted(set(weight_map.values())):
        if not (directory / name).is_file():
            raise ModelError(f"{index_path}: shard {name} is not there; fetch it")
        shards[name] = TensorFile(directory / name)
    located: dict[str, TensorFile] = {}
    for file in shards.values():
        for name in file.entries:
            if weight_map.get(name) != file.path.name:
                raise ModelError(
                    f"{file.path}: tensor {name} is here, but the index does not say so; "
                    "fetch index and shards again"
                )
            located[name] = file
    return located
