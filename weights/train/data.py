"""Text to tokens.

The token stream is that of `sim.losses`: for every story the token that ends texts, and so begins
the next one, then the story's tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ..commandline import one_line
from ..errors import ModelError
from ..files import read_text, user_path
from ..text import SEPARATOR, encode_all, end_token, stories

VALIDATION = ("valid", "validation", "test")
"""A file whose name begins so is never trained on."""
HELD_OUT = 100
"""Where no such file is there, one in so many stories is held out."""
BATCH_STORIES = 1000
HUB_TEXTS = {
    "roneneldan/TinyStories": ("TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt")
}
"""Data sets that may be given by their hub name, and the files to fetch."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Stories, without the separators."""

    training: list[str]
    validation: list[str]


def locate(data: str) -> Path:
    """The directory of text files that `data` names: a directory, or a data set on the hub."""
    folder = user_path(data)
    if folder.is_dir():
        return folder
    if data not in HUB_TEXTS:
        known = ", ".join(HUB_TEXTS)
        raise ModelError(f"{data}: not a directory; give a folder of .txt files, or one of {known}")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ModelError(f"{data}: needs the package huggingface_hub; install it") from error
    try:
        files = list(HUB_TEXTS[data])
        return Path(snapshot_download(data, repo_type="dataset", allow_patterns=files))
    except Exception as error:  # no narrower class covers network, hub and cache
        raise ModelError(
            f"{data}: cannot be fetched ({one_line(error)}); give a directory"
        ) from error


def text_files(directory: Path) -> tuple[list[Path], list[Path]]:
    """The ``.txt`` files of a directory by name, those to train on and those to validate on."""
    files: tuple[list[Path], list[Path]] = [], []
    for path in sorted(directory.glob("*.txt")):
        name = path.name.lower().removeprefix("tinystoriesv2-gpt4-")
        files[name.startswith(VALIDATION)].append(path)
    return files


def _read_stories(paths: list[Path]) -> list[str]:
    found: list[str] = []
    for path in paths:
        found.extend(stories(read_text(path, "remove it")))
    return found


def read_texts(data: str) -> Texts:
    """All stories of the ``.txt`` files of a directory, in the order of the files' names.

    Raises
    ------
    ModelError
        When there is no text for training or none for validation.
    """
    directory = locate(data)
    training_files, validation_files = text_files(directory)
    training, validation = _read_stories(training_files), _read_stories(validation_files)
    if not validation_files:
        validation = training[::HELD_OUT]
        del training[::HELD_OUT]
    if not training or not validation:
        raise ModelError(f"{directory}: no text in .txt files; give a folder with stories")
    return Texts(training=training, validation=validation)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE with `vocabulary` tokens; token 0 separates texts.

    Raises
    ------
    ModelError
        When the vocabulary has no room for all bytes, or the text does not fill it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocabulary <= len(alphabet):
        raise ModelError(f"vocabulary must be above {len(alphabet)}, not {vocabulary}")
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[SEPARATOR],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocabulary:
        raise ModelError(
            f"the text gives {tokenizer.get_vocab_size()} tokens, not {vocabulary}; "
            "give more text or a smaller vocabulary"
        )
    return tokenizer


def token_stream(texts: list[str], tokenizer: Tokenizer) -> np.ndarray:
    """``uint16`` or ``int32`` tokens of all texts, each after the token that ends texts.

    Raises
    ------
    ModelError
        When the tokenizer has no such token, or none for a text.
    """
    start = end_token(tokenizer)
    kind = np.uint16 if max(tokenizer.get_vocab().values()) < 1 << 16 else np.int32

    def pieces() -> Iterator[np.ndarray]:
        for first in range(0, len(texts), BATCH_STORIES):
            batch = texts[first : first + BATCH_STORIES]
            for tokens in encode_all(tokenizer, batch):
                yield np.array([start, *tokens], dtype=kind)

    return np.concatenate(list(pieces()))


def first_windows(stream: np.ndarray, count: int, length: int) -> np.ndarray:
    """The first windows (count, length) of a stream, fewer when it is short.

    The same as `weights.text.token_windows`.
    """
    count = min(count, stream.size // length)
    if count == 0:
        raise ModelError(f"validation has {stream.size} tokens, below {length}; give more text")
    return stream[: count * length].reshape(count, length).astype(np.int64)
