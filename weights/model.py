"""The integer model: one file, made once from a checkpoint, that every board runs.

``docs/arithmetic.md`` lists the tensors and what they mean. The file is safetensors; its metadata
has one entry, ``tritstream``, a JSON object with format, version, the model's architecture and
shape, the digest of the checkpoint it was made from and a digest of everything in the file. A file
that names no architecture is of the first one, `mmfree`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from .architectures import mmfree
from .architectures.mmfree import ModelShape, matrices, norms
from .errors import ModelError
from .files import parse_json
from .fixed import MODEL_EXPONENT_BITS, RESIDUAL_FRACTIONS, Scale
from .packing import is_packed, packed_columns, unpack
from .tensorfile import TensorFile, write_tensors

FORMAT = "tritstream integer model"
VERSION = 1
METADATA_KEY = "tritstream"

CHECKPOINT_FILES = (
    "config.json",
    "tokenizer.json",
    "model.safetensors",
    "model.safetensors.index.json",
)
"""What `Checkpoint` reads in a folder, besides the shards that the last one lists."""

DIGEST = re.compile("[0-9a-f]{64}")
"""A SHA-256 digest as models and the cache write it."""

MAKE_AGAIN = "make it again with 'python -m weights convert'"


@dataclass(frozen=True, kw_only=True)
class TensorLayout:
    """Element type, shape and smallest value of a tensor of the integer model.

    The largest value is that of the type; a `Scale` has no smallest value, but rules of its own.
    """

    type: np.dtype
    shape: tuple[int, ...]
    lowest: int | None = None


def tensor_layouts(shape: ModelShape) -> dict[str, TensorLayout]:
    """Every tensor of an integer model of that shape but ``tokenizer``, whose length varies."""
    codes, table = np.dtype(np.int8), np.dtype(np.int16)
    packed, scale = np.dtype(np.uint8), np.dtype(np.int32)
    d = shape.hidden
    layouts = {
        "embedding.codes": TensorLayout(type=codes, shape=(shape.vocabulary, d), lowest=-127),
        "embedding.scale": TensorLayout(type=table, shape=(shape.vocabulary,), lowest=0),
    }
    for name in norms(shape):
        lowest = -32767 if name.endswith(".o.norm") else 0
        layouts[name] = TensorLayout(type=table, shape=(d,), lowest=lowest)
    for n in range(shape.layers):
        name = f"layers.{n}.attn.lower_bound"
        layouts[name] = TensorLayout(type=table, shape=(d,), lowest=0)
        for name in ("attn.o.epsilon", "mlp.down.epsilon"):
            layouts[f"layers.{n}.{name}"] = TensorLayout(type=scale, shape=(2,))
    for name, matrix in matrices(shape).items():
        layouts[f"{name}.gain"] = TensorLayout(type=table, shape=(matrix.columns,), lowest=-32767)
        layouts[f"{name}.trits"] = TensorLayout(
            type=packed, shape=(matrix.rows, packed_columns(matrix.columns)), lowest=0
        )
        layouts[f"{name}.scale"] = TensorLayout(type=scale, shape=(2,))
    return layouts


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerModel:
    """All that a device needs to know of a model.

    Members
    -------
    shape : the model's dimensions
    residual_fraction : fraction bits of the residual stream
    start_token, end_token : the tokens that begin and end a text
    more_end_tokens : others that end one, too
    source : SHA-256 of the checkpoint, `weights.checkpoint.Checkpoint.digest`
    tensors : by the names and in the types of ``docs/arithmetic.md``; not to be written to

    Raises
    ------
    ValueError
        From the constructor, when `tensors` are not those of an integer model of that shape.
    """

    shape: ModelShape
    residual_fraction: int
    start_token: int
    end_token: int
    source: str
    tensors: Mapping[str, np.ndarray]
    more_end_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        fraction = self.residual_fraction
        if type(fraction) is not int or fraction not in RESIDUAL_FRACTIONS:
            low, high = RESIDUAL_FRACTIONS[0], RESIDUAL_FRACTIONS[-1]
            raise ValueError(
                f"residual_fraction must be an integer from {low} to {high}, "
                f"not {reprlib.repr(fraction)}"
            )
        if not (isinstance(self.source, str) and DIGEST.fullmatch(self.source)):
            raise ValueError(f"source must be a SHA-256 digest, not {reprlib.repr(self.source)}")
        if not isinstance(self.more_end_tokens, tuple):
            told = reprlib.repr(self.more_end_tokens)
            raise ValueError(f"more_end_tokens must be a list of tokens, not {told}")
        for name, tokens in (
            ("start_token", (self.start_token,)),
            ("end_token", (self.end_token,)),
            ("more_end_tokens", self.more_end_tokens),
        ):
            for token in tokens:
                if type(token) is not int or not 0 <= token < self.shape.vocabulary:
                    told = reprlib.repr(token)
                    raise ValueError(f"{name} must be a token of the vocabulary, not {told}")
        layouts = tensor_layouts(self.shape)
        difference = self.tensors.keys() ^ (layouts.keys() | {"tokenizer"})
        if difference:
            name = min(difference)
            state = "does not belong here" if name in self.tensors else "is missing"
            raise ValueError(f"tensor {name} {state}")
        for name, layout in layouts.items():
            tensor = self.tensors[name]
            if (tensor.dtype, tensor.shape) != (layout.type, layout.shape):
                raise ValueError(
                    f"{name} must be {layout.type} {layout.shape}, "
                    f"not {tensor.dtype} {tensor.shape}"
                )
            if layout.lowest is None:
                self._check_scale(name)
            elif (lowest := int(tensor.min())) < layout.lowest:
                raise ValueError(f"{name} must hold {layout.lowest} at least, not {lowest}")
        if self.tensors["tokenizer"].dtype != np.uint8:
            raise ValueError(f"tokenizer must be uint8, not {self.tensors['tokenizer'].dtype}")
        try:
            self.tensors["tokenizer"].tobytes().decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"tokenizer must be UTF-8 text ({error})") from error
        for name, matrix in matrices(self.shape).items():
            if not is_packed(self.tensors[f"{name}.trits"], matrix.columns):
                raise ValueError(f"{name}.trits must hold packed trits only")

    def _check_scale(self, name: str) -> None:
        try:
            scale = self.scale(name)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if not -1 <= scale.exponent >> (MODEL_EXPONENT_BITS - 1) <= 0:
            raise ValueError(
                f"{name}: a model's exponent must fit {MODEL_EXPONENT_BITS} bits, "
                f"not {scale.exponent}"
            )
        if name.endswith(".epsilon") and scale.mantissa == 0:
            raise ValueError(f"{name} must not be zero")

    def __getitem__(self, name: str) -> np.ndarray:
        """Tensor `name` as it is stored."""
        return self.tensors[name]

    def scale(self, name: str) -> Scale:
        """The scale stored as `name`, such as ``"head.scale"``."""
        mantissa, exponent = self.tensors[name].tolist()
        return Scale(mantissa, exponent)

    def trits(self, matrix: str) -> np.ndarray:
        """``int8`` trits (rows, columns) of a matrix, such as ``"layers.0.attn.i"``."""
        columns = matrices(self.shape)[matrix].columns
        return unpack(self.tensors[f"{matrix}.trits"], columns)

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """All tokens that end a text, each once."""
        return tuple(dict.fromkeys((self.end_token, *self.more_end_tokens)))

    @property
    def tokenizer_json(self) -> str:
        """Text of the checkpoint's ``tokenizer.json``."""
        return self.tensors["tokenizer"].tobytes().decode()

    def _facts(self) -> dict[str, Any]:
        more = {"more_end_tokens": self.more_end_tokens} if self.more_end_tokens else {}
        return {
            "format": FORMAT,
            "version": VERSION,
            **asdict(self.shape),
            "residual_fraction": self.residual_fraction,
            "start_token": self.start_token,
            "end_token": self.end_token,
            "source": self.source,
            **more,
        }

    def digest(self) -> str:
        """SHA-256, as hexadecimal, over all that the file says."""
        whole = hashlib.sha256(json.dumps(self._facts(), sort_keys=True).encode())
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            whole.update(f"\n{name} {tensor.dtype.str} {tensor.shape}\n".encode())
            whole.update(np.ascontiguousarray(tensor).data)
        return whole.hexdigest()

    def save(self, path: str | Path) -> None:
        """Writes the model file; `path` holds the old content or all of the new one.

        The same model gives the same bytes. Raises `OSError` when the file cannot be written.
        """
        facts = self._facts() | {"content": self.digest()}
        write_tensors(Path(path), self.tensors, {METADATA_KEY: json.dumps(facts)})

    @classmethod
    def load(cls, path: str | Path, content: str | None = None) -> IntegerModel:
        """Reads and checks a model file.

        Parameters
        ----------
        content : `digest` that the model must have

        Raises
        ------
        ModelError
            When it is missing, cut short, changed, of another version, another model than
            `content`, or no integer model.
        """
        file = TensorFile(Path(path))
        facts = _read_facts(file)
        try:
            model = cls(
                shape=ModelShape(**{field.name: facts[field.name] for field in fields(ModelShape)}),
                residual_fraction=facts["residual_fraction"],
                start_token=facts["start_token"],
                end_token=facts["end_token"],
                more_end_tokens=_as_tuple(facts.get("more_end_tokens", [])),
                source=facts["source"],
                tensors={name: file.read(name) for name in file.entries},
            )
        except KeyError as error:
            raise ModelError(f"{path}: metadata lacks {error}; {MAKE_AGAIN}") from error
        except (TypeError, ValueError) as error:
            raise ModelError(f"{path}: {error}; {MAKE_AGAIN}") from error
        digest = model.digest()
        if digest != facts.get("content"):
            raise ModelError(f"{path}: content does not match its digest; {MAKE_AGAIN}")
        if content not in (None, digest):
            raise ModelError(f"{path}: holds another model; {MAKE_AGAIN}")
        return model


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def check_target(path: str | Path) -> Path:
    """Where a model that is to be written to `path` goes: links are followed.

    Whoever makes a model asks this first: it must not replace what the user has, and least of all
    the checkpoint that it is made from.

    Raises
    ------
    ModelError
        Unless the place is free or an integer model's.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir() or path.is_dir():
        raise ModelError(f"{path}: cannot be written; give a file name in a folder that exists")
    if os.path.lexists(target):
        try:
            _read_facts(TensorFile(target), any_version=True)
        except ModelError as error:
            raise ModelError(
                f"{path}: not an integer model, so it is not replaced; give another name"
            ) from error
    elif target.name in CHECKPOINT_FILES and (target.parent / CHECKPOINT_FILES[0]).exists():
        raise ModelError(f"{path}: would become part of the checkpoint there; give another name")
    if not os.access(target.parent, os.W_OK):
        raise ModelError(f"{path}: its folder cannot be written to; give one that can")
    return target


def _read_facts(file: TensorFile, any_version: bool = False) -> dict[str, Any]:
    try:
        facts = parse_json(file.metadata[METADATA_KEY], file.path, MAKE_AGAIN)
        if facts["format"] != FORMAT:
            raise ValueError(facts["format"])
        version = facts["version"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{file.path}: not an integer model; make one with 'python -m weights convert'"
        ) from error
    if any_version:
        return facts
    if version != VERSION:
        raise ModelError(
            f"{file.path}: format version {version}, but this program reads {VERSION}; {MAKE_AGAIN}"
        )
    architecture = facts.get("architecture", mmfree.NAME)
    if architecture != mmfree.NAME:
        raise ModelError(
            f"{file.path}: architecture {reprlib.repr(architecture)}, but this program runs "
            f"{mmfree.NAME!r}; use another model"
        )
    return facts
