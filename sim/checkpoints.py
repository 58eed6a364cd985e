"""Random checkpoints in the upstream format, of any shape, for tests and measurements."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from weights.architectures.mmfree import ModelShape

END_OF_TEXT = "<|endoftext|>"
TYPE_NAMES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}


def small_tokenizer(vocabulary: int) -> Tokenizer:
    """A tokenizer of exactly `vocabulary` tokens, token 0 being the end of text.

    Byte-level BPE when all bytes fit, whose merges append a letter to a token, shortest tokens
    first; else words ``w1``, ``w2``, ...
    """
    if vocabulary <= 256:
        words = {END_OF_TEXT: 0} | {f"w{i}": i for i in range(1, vocabulary)}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token=END_OF_TEXT))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    else:
        letters = "abcdefghijklmnopqrstuvwxyz"
        tokens = [END_OF_TEXT, *sorted(pre_tokenizers.ByteLevel.alphabet())]
        merges: list[tuple[str, str]] = []
        stems = list(letters)
        while len(tokens) < vocabulary:
            stem = stems[len(merges) // len(letters)]
            letter = letters[len(merges) % len(letters)]
            merges.append((stem, letter))
            stems.append(stem + letter)
            tokens.append(stem + letter)
        ids = {token: i for i, token in enumerate(tokens)}
        tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


def to_stored(values: np.ndarray, type_name: str) -> np.ndarray:
    """float32 values as the bytes of safetensors' `type_name`, rounded to nearest, ties to even."""
    if type_name == "BF16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")
    return values.astype({"F32": "<f4", "F16": "<f2"}[type_name])


def write_shard(
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    type_name: str,
    values: Iterator[np.ndarray],
) -> None:
    """A safetensors file, with one tensor at a time in memory."""
    size = 4 if type_name == "F32" else 2
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + size * int(np.prod(shape))
        header[name] = {"dtype": type_name, "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for value in values:
            file.write(to_stored(value, type_name).tobytes())


@dataclass(frozen=True, kw_only=True)
class RandomCheckpoint:
    """A random checkpoint; equal parameters give equal files.

    Parameters
    ----------
    shape : the model's dimensions
    dtype : ``"bf16"``, ``"fp16"`` or ``"fp32"``
    shards : number of tensor files, with an index when there are several
    seed : of all values
    """

    shape: ModelShape
    dtype: str = "bf16"
    shards: int = 1
    seed: int = 0

    @property
    def config(self) -> dict[str, Any]:
        return {
            "architectures": ["HGRNBitForCausalLM"],
            "model_type": "hgrn_bit",
            "hidden_size": self.shape.hidden,
            "num_hidden_layers": self.shape.layers,
            "intermediate_size": self.shape.intermediate,
            "vocab_size": self.shape.vocabulary,
            "num_heads": 1,
            "expand_ratio": 1,
            "use_short_conv": False,
            "use_lower_bound": True,
            "tie_word_embeddings": False,
            "hidden_act": "swish",
            "rms_norm_eps": 1e-6,
            "bos_token_id": 0,
            "eos_token_id": 0,
        }

    def value(self, index: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """float32 values of the tensor that is `index`-th in `ModelShape.tensor_shapes`."""
        random = np.random.default_rng((self.seed, index)).standard_normal(shape, np.float32)
        if "norm" in name:
            return 1 + np.float32(0.2) * random
        if name == "model.lower_bounds":
            return random
        return random * np.float32(0.3 if "embeddings" in name else 0.02)

    def write(self, directory: Path) -> Path:
        """Writes the checkpoint into `directory`, which it makes. Returns it."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(self.config, indent=2))
        small_tokenizer(self.shape.vocabulary).save(str(directory / "tokenizer.json"))
        numbered = list(enumerate(self.shape.tensor_shapes.items()))
        weight_map: dict[str, str] = {}
        for shard in range(self.shards):
            file = "model.safetensors"
            if self.shards > 1:
                file = f"model-{shard + 1:05}-of-{self.shards:05}.safetensors"
            part = numbered[shard :: self.shards]
            shapes = {name: shape for _, (name, shape) in part}
            values = (self.value(index, name, shape) for index, (name, shape) in part)
            write_shard(directory / file, shapes, TYPE_NAMES[self.dtype], values)
            weight_map |= dict.fromkeys(shapes, file)
        if self.shards > 1:
            index_text = json.dumps({"metadata": {}, "weight_map": weight_map})
            (directory / "model.safetensors.index.json").write_text(index_text)
        return directory
