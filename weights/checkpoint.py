"""Reads checkpoints of the MatMul-free LM as upstream publishes them.

A checkpoint is a directory with ``config.json``, ``tokenizer.json`` and the latent weights, in
``model.safetensors`` or in shards that ``model.safetensors.index.json`` lists. The latents are
floating-point; `weights.quantise` makes trits of them. Layout and names follow the class
``HGRNBitForCausalLM`` of the code released with arXiv 2406.02528.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ModelError
from .tensorfile import TensorFile, widen

NORM_EPSILON = 1e-6
"""Added to the mean square in every norm. The released BitLinear runs this one whatever the
configuration says, and every released configuration says the same."""

FLOAT_TYPES = ("F32", "F16", "BF16")
LARGEST_VALUE = 1 << 15
"""A magnitude above it comes from a damaged file, not from training."""

BLOCK_ELEMENTS = 1 << 18
"""Elements that `Checkpoint.blocks` reads at a time: 1 MB of float32, which stays in cache."""

HASHED_BYTES = 1 << 20  # read at a time for the digest

LARGEST_DIMENSIONS = {
    "hidden": 1 << 16,
    "layers": 1 << 10,
    "intermediate": 1 << 16,
    "vocabulary": 1 << 20,
}
"""Sums of 2**16 codes just fit the accumulators' 24 bits. The other two are far beyond any model
and keep a damaged number from asking for endless memory."""

MIXER_PROJECTIONS = ("i_proj", "f_proj", "g_proj", "o_proj")


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The dimensions of a model, all that its tensors' shapes depend on.

    Members
    -------
    hidden : width of the residual stream and of a layer's state
    layers : number of blocks
    intermediate : width of the gated linear unit; its gate matrix has twice as many rows
    vocabulary : number of tokens
    """

    hidden: int
    layers: int
    intermediate: int
    vocabulary: int

    def __post_init__(self) -> None:
        for name, largest in LARGEST_DIMENSIONS.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= largest:
                raise ValueError(
                    f"{name} must be a positive integer up to {largest}, not {value!r}"
                )

    @staticmethod
    def default_intermediate(hidden: int, ratio: int = 4) -> int:
        """Upstream's rule for a configuration without `intermediate_size`:
        two thirds of ``hidden * ratio``, up to the next multiple of 256."""
        return 256 * -(-int(hidden * ratio * 2 / 3) // 256)

    @property
    def ternary_shapes(self) -> dict[str, tuple[int, int]]:
        """Upstream's name, without ``.weight``, and (rows, columns) of every ternary matrix."""
        d, m = self.hidden, self.intermediate
        shapes: dict[str, tuple[int, int]] = {}
        for n in range(self.layers):
            for projection in MIXER_PROJECTIONS:
                shapes[f"model.layers.{n}.attn.{projection}"] = (d, d)
            shapes[f"model.layers.{n}.mlp.gate_proj"] = (2 * m, d)
            shapes[f"model.layers.{n}.mlp.down_proj"] = (d, m)
        shapes["lm_head"] = (self.vocabulary, d)
        return shapes

    @property
    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Upstream's name and shape of each of the 15 * layers + 5 tensors."""
        d = self.hidden
        shapes: dict[str, tuple[int, ...]] = {
            "model.embeddings.weight": (self.vocabulary, d),
            "model.lower_bounds": (self.layers, d),
        }
        for n in range(self.layers):
            for norm in ("attn_norm", "attn.g_norm", "mlp_norm"):
                shapes[f"model.layers.{n}.{norm}.weight"] = (d,)
        shapes["model.norm.weight"] = (d,)
        for name, (rows, columns) in self.ternary_shapes.items():
            shapes[f"{name}.weight"] = (rows, columns)
            shapes[f"{name}.norm.weight"] = (columns,)
        return shapes

    @property
    def ternary_weights(self) -> int:
        """Number of ternary weights in the layers and the head."""
        return sum(rows * columns for rows, columns in self.ternary_shapes.values())


class Checkpoint:
    """An upstream checkpoint directory.

    Opening reads configuration, tokenizer and the tensor files' headers, and checks that exactly
    the expected tensors are there in the expected shapes. Values are read when asked for.

    Members
    -------
    directory : where the checkpoint lies
    shape : the model's dimensions
    start_token, end_token : the tokens that begin and end a text
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
        config = _read_json(config_path)
        self.shape = _shape_of(config, config_path)
        self.start_token = _token_of(config, "bos_token_id", 1, self.shape, config_path)
        self.end_token = _token_of(config, "eos_token_id", 2, self.shape, config_path)
        self.tokenizer_json = _read_tokenizer(self.directory / "tokenizer.json", self.shape)
        self._file_of = _locate_tensors(self.directory)
        self._check_tensors()

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


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ModelError(f"{path}: missing; copy it from the checkpoint's source") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); fetch it again") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON ({error}); fetch it again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: must hold a JSON object; fetch it again")
    return value


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


def read_shape(path: Path) -> ModelShape:
    """The dimensions that a ``config.json`` gives. Raises `ModelError` unless it is one of ours."""
    return _shape_of(_read_json(path), path)


def _shape_of(config: Mapping[str, Any], path: Path) -> ModelShape:
    for key, (default, supported) in REQUIRED_SETTINGS.items():
        value = config.get(key, default)
        if value not in supported:
            raise ModelError(
                f"{path}: {key} must be {json.dumps(supported[0])}, not {json.dumps(value)}; "
                "only the MatMul-free LM as released is supported"
            )

    def size(key: str) -> int:
        value = config.get(key)
        if type(value) is not int or value < 1:
            raise ModelError(
                f"{path}: {key} must be a positive integer, not {json.dumps(value)}; correct it"
            )
        return value

    hidden = size("hidden_size")
    if config.get("intermediate_size") is not None:
        intermediate = size("intermediate_size")
    else:
        ratio = size("hidden_ratio") if config.get("hidden_ratio") is not None else 4
        intermediate = ModelShape.default_intermediate(hidden, ratio)
    layers, vocabulary = size("num_hidden_layers"), size("vocab_size")
    try:
        return ModelShape(
            hidden=hidden, layers=layers, intermediate=intermediate, vocabulary=vocabulary
        )
    except ValueError as error:
        raise ModelError(f"{path}: {error}; correct it") from error


def _token_of(
    config: Mapping[str, Any], key: str, default: int, shape: ModelShape, path: Path
) -> int:
    value = config.get(key, default)
    if type(value) is not int or not 0 <= value < shape.vocabulary:
        raise ModelError(
            f"{path}: {key} must be a token below {shape.vocabulary}, "
            f"not {json.dumps(value)}; correct it"
        )
    return value


def _read_tokenizer(path: Path, shape: ModelShape) -> str:
    from tokenizers import Tokenizer  # late: only opening a checkpoint needs it

    text = _read_text(path)
    try:
        vocabulary = Tokenizer.from_str(text).get_vocab(with_added_tokens=True)
    except Exception as error:  # the package raises nothing narrower
        raise ModelError(f"{path}: not a tokenizer ({error}); fetch it again") from error
    largest = max(vocabulary.values(), default=-1)
    if not 0 <= largest < shape.vocabulary:
        raise ModelError(
            f"{path}: the tokens go up to {largest}, but the model knows {shape.vocabulary}; "
            "use the tokenizer that belongs to this checkpoint"
        )
    return text


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
    weight_map = _read_json(index_path).get("weight_map")
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
