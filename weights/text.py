"""Text to tokens and back: the one place that opens a tokenizer, and what is done with one."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise, takewhile
from operator import eq
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from .errors import ModelError, UsageError
from .files import FETCH_AGAIN

SEPARATOR = "<|endoftext|>"
"""Between the stories of a text."""

END_NAMES = (
    SEPARATOR,
    "</s>",
    "<eos>",
    "[EOS]",
    "<|end_of_text|>",
    "<|eos|>",
    "<|im_end|>",
    "<|eot_id|>",
)
START_NAMES = (
    "<s>",
    "<bos>",
    "[BOS]",
    "<|startoftext|>",
    "<|begin_of_text|>",
    "<|bos|>",
    SEPARATOR,
)
"""What the special token that ends or begins a text is called, by preference; the last of these
does both in tokenizers that have no other."""

BYTE_TOKEN = re.compile(r"<0x(?:[0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>")
"""The name of a token that is one byte, where a decoder has the stage ByteFallback."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""Stands in a text for bytes that are no character, or not yet."""

NO_TOKENS = "the tokenizer has no tokens for this text"
LISTED = 8  # names in a message, at most


# Tokenizers -----------------------------------------------------------------------------------


def open_tokenizer(text: str, where: object, remedy: str = FETCH_AGAIN) -> Tokenizer:
    """The tokenizer that a ``tokenizer.json`` describes, which gives a text's tokens and no others.

    What was set for batches of training texts is off: padding, truncation, and merges or pieces
    by chance.

    Parameters
    ----------
    where : it comes from, for the message
    remedy : what the user can do about one that cannot be used

    Raises
    ------
    ModelError
        When it is none.
    """
    with _package(f"{where}: not a tokenizer", remedy):
        tokenizer = Tokenizer.from_str(text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for chance in ("dropout", "alpha", "nbest_size"):
        if getattr(tokenizer.model, chance, None) is not None:
            setattr(tokenizer.model, chance, None)
    return tokenizer


@contextmanager
def _package(what: str, remedy: str = "use another tokenizer") -> Iterator[None]:
    """Whatever goes wrong within the package of tokenizers becomes a `ModelError`."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # no narrower class; a panic is not even an `Exception`
        raise ModelError(f"{what} ({error}); {remedy}") from error


def special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """The tokens that stand for no text, by name."""
    added = tokenizer.get_added_tokens_decoder()
    return {token.content: number for number, token in added.items() if token.special}


def find_end_token(tokenizer: Tokenizer) -> int | None:
    """The special token that ends a text by its name, if there is one."""
    return _first_of(END_NAMES, tokenizer)


def find_start_token(tokenizer: Tokenizer) -> int | None:
    """The special token that begins a text by its name, if there is one."""
    return _first_of(START_NAMES, tokenizer)


def _first_of(names: Sequence[str], tokenizer: Tokenizer) -> int | None:
    special = special_tokens(tokenizer)
    return next((special[name] for name in names if name in special), None)


def end_token(tokenizer: Tokenizer) -> int:
    """The special token that ends a text. Raises `ModelError` for a tokenizer without one."""
    token = find_end_token(tokenizer)
    if token is None:
        raise ModelError(
            f"the tokenizer has no special token that ends a text, such as {SEPARATOR} or </s>; "
            "add one"
        )
    return token


def tokens_beyond(tokenizer: Tokenizer, vocabulary: int) -> dict[str, int]:
    """Tokens, by name, that a model with so many does not know, in their order."""
    known = tokenizer.get_vocab(with_added_tokens=True)
    beyond = [(name, token) for name, token in known.items() if token >= vocabulary]
    return dict(sorted(beyond, key=lambda item: item[1]))


def listed(names: Sequence[str]) -> str:
    """Names for a message, the first few where there are many."""
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(repr, names[:LISTED])) + rest


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """A text's tokens and no others.

    Raises
    ------
    ModelError
        When the tokenizer lacks even the token that stands for what it does not know.
    """
    with _package(NO_TOKENS):
        return tokenizer.encode(text, add_special_tokens=False).ids


def encode_all(tokenizer: Tokenizer, texts: list[str]) -> Iterator[list[int]]:
    """The tokens of each text as `encode` gives them, made on all processors."""
    with _package(NO_TOKENS):
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    return (encoding.ids for encoding in encodings)


def decode(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """The text of tokens, without special ones. Raises `ModelError` when the decoder fails."""
    with _package("the tokenizer has no text for these tokens"):
        return tokenizer.decode(tokens, skip_special_tokens=True)


def token_bytes(tokenizer: Tokenizer, vocabulary: int) -> np.ndarray:
    """UTF-8 bytes (vocabulary) of each token's text; 0 for special tokens.

    Byte-level vocabularies write one character for each byte, but in added tokens. Others write the
    text itself, with a mark for a space, or one for that there is none, and ``<0x..>`` for a single
    byte.
    """
    stages = {stage["type"]: stage for stage in _decoder_stages(tokenizer)}
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    special = special_tokens(tokenizer)

    def size(name: str) -> int:
        if "ByteLevel" in stages:
            return len(name.encode()) if name in added else len(name)
        if BYTE_TOKEN.fullmatch(name):
            return 1
        if "WordPiece" in stages:
            inner = stages["WordPiece"]["prefix"]
            name = name.removeprefix(inner) if name.startswith(inner) else f" {name}"
        if "BPEDecoder" in stages:
            name = name.replace(stages["BPEDecoder"]["suffix"], " ")
        return len(name.replace("\u2581", " ").encode())

    sizes = np.zeros(vocabulary, dtype=np.int64)
    for name, token in tokenizer.get_vocab(with_added_tokens=True).items():
        if name not in special and token < vocabulary:
            sizes[token] = size(name)
    return sizes


# Stories --------------------------------------------------------------------------------------


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
        When the text is too short for them, or the tokenizer has no tokens for it.
    """
    needed = count * length
    stream: list[int] = []
    for story in stories(text):
        if len(stream) >= needed:
            break
        stream.append(start_token)
        stream.extend(encode(tokenizer, story))
    if len(stream) < needed:
        raise ModelError(
            f"the text has {len(stream)} tokens, {count} windows of {length} need {needed}; "
            "give a longer text or fewer windows"
        )
    return np.array(stream[:needed], dtype=np.int64).reshape(count, length)


# Prompts --------------------------------------------------------------------------------------


def check_not_empty(prompt: str) -> None:
    """Raises UsageError for a prompt of nothing, which needs no tokenizer to be told."""
    if not prompt:
        raise UsageError("prompt is empty; give at least one character with --prompt")


def encode_prompt(tokenizer: Tokenizer, prompt: str, vocabulary: int | None = None) -> list[int]:
    """Tokens of a prompt.

    What the tokenizer's own normaliser makes of a prompt, such as lower case, is no loss, nor are
    blanks that its words need not have.

    Parameters
    ----------
    vocabulary : number of tokens that the model knows, if not all of the tokenizer's

    Raises
    ------
    UsageError
        It is empty, or holds what the tokenizer cannot say or the model does not know.
    """
    check_not_empty(prompt)
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UsageError("prompt is not valid UTF-8; give it in the terminal's encoding") from None
    if not _survives(tokenizer, prompt):
        special = [name for name in special_tokens(tokenizer) if name in prompt]
        lost = [] if special else _lost(tokenizer, prompt)
        what = listed(lost) if lost else f"special tokens ({listed(special)})"
        raise UsageError(f"prompt holds what the model's tokenizer does not know: {what}")
    tokens = encode(tokenizer, prompt)
    if beyond := [token for token in tokens if vocabulary is not None and token >= vocabulary]:
        names = [str(tokenizer.id_to_token(token)) for token in dict.fromkeys(beyond)]
        raise UsageError(f"prompt holds what the model does not know: {listed(names)}")
    return tokens


def _said(tokenizer: Tokenizer, text: str) -> str:
    """What is left of a text when it has been tokens."""
    try:
        tokens = encode(tokenizer, text)
    except ModelError:
        return ""
    return decode(tokenizer, tokens)


def _survives(tokenizer: Tokenizer, text: str) -> bool:
    """Whether the tokens of a text say all of it, as the normaliser has it."""
    said = _said(tokenizer, text)
    letters, gaps = _essence(_normalised(tokenizer, text))
    answers = (_essence(said), _essence(_normalised(tokenizer, said)))
    return bool(said) and any(letters == same and gaps <= more for same, more in answers)


def _normalised(tokenizer: Tokenizer, text: str) -> str:
    normaliser = tokenizer.normalizer
    return text if normaliser is None else normaliser.normalize_str(text)


def _essence(text: str) -> tuple[str, set[int]]:
    """A text without its blanks, and where in it they keep words apart.

    Decoders put blanks beside punctuation, or take them away from there.
    """
    words = [word for word in re.split("[ \u2581]+", text) if word]
    ends = accumulate(map(len, words))
    gaps = {
        end
        for end, (before, after) in zip(ends, pairwise(words), strict=False)
        if before[-1].isalnum() and after[0].isalnum()
    }
    return "".join(words), gaps


def _lost(tokenizer: Tokenizer, text: str) -> list[str]:
    """The characters of a text that its tokens do not say."""
    wanted, _ = _essence(_normalised(tokenizer, text))
    missing = list(Counter(wanted) - Counter(_said(tokenizer, text)))
    unknown = [
        character
        for character in missing
        if not _survives(tokenizer, character) and not _survives(tokenizer, f"a{character}a")
    ]
    return unknown or missing or [" "]


# Text as it comes -----------------------------------------------------------------------------

TOKEN_STAGES = {"Replace", "Strip", "WordPiece", "Metaspace", "ByteFallback"}
"""Stages of a decoder that take one token after the other, as long as nothing has joined them: all
that a token's text then depends on is whether it is the first, or bytes beside it."""

JOINING_STAGES = {"Fuse", "ByteLevel"}


def _decoder_stages(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """What a tokenizer's decoder does, one step after the other."""

    def flat(decoder: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
        if decoder is None:
            return
        if decoder["type"] == "Sequence":
            for part in decoder["decoders"]:
                yield from flat(part)
        else:
            yield decoder

    return list(flat(json.loads(tokenizer.to_str())["decoder"]))


def _ends_words(tokenizer: Tokenizer, suffix: str) -> bool:
    """Whether tokens have the suffix at their ends only, where it becomes a blank or nothing."""
    names = tokenizer.get_vocab(with_added_tokens=True)
    return all(name.find(suffix) in (-1, len(name) - len(suffix)) for name in names)


class _Decoder:
    """A tokenizer's decoder, and what it tells of the text that more tokens will have.

    Members
    -------
    grows : the text of more tokens begins with the text of fewer, but for that of byte tokens at
        its end, or for a `REPLACEMENT` there
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = special_tokens(tokenizer)
        stages = _decoder_stages(tokenizer)
        kinds = [stage["type"] for stage in stages]
        joint = next((i for i, kind in enumerate(kinds) if kind in JOINING_STAGES), len(kinds))
        parts, joining = kinds[:joint], kinds[joint : joint + 1]
        if parts[-1:] == ["BPEDecoder"] and joining != ["ByteLevel"]:
            if _ends_words(tokenizer, stages[joint - 1]["suffix"]):
                parts.pop()
        self.grows = TOKEN_STAGES.issuperset(parts) and all(
            stage["type"] == "Fuse" or (stage["type"] == "Strip" and not stage["stop"])
            for stage in stages[joint + 1 :]
        )
        self._spelling: list[tuple[str, str]] | None = None
        if "ByteFallback" in parts:
            first = parts.index("ByteFallback")
            self._spelling = [
                (stage["pattern"]["String"], stage["content"])
                for stage in stages[:first]
                if stage["type"] == "Replace" and "String" in stage["pattern"]
            ]
            if len(self._spelling) < first or "ByteFallback" in parts[first + 1 :]:
                self.grows = False  # for want of knowing which tokens are bytes

    def text(self, tokens: list[int]) -> str:
        return decode(self._tokenizer, tokens) if tokens else ""

    def says(self, token: int) -> bool:
        """Whether the token has a part in the text."""
        name = self._tokenizer.id_to_token(token)
        return name is not None and name not in self._special

    def is_byte(self, token: int) -> bool:
        """Whether the token is a byte, whose text depends on the bytes beside it."""
        if self._spelling is None:
            return False
        name = self._tokenizer.id_to_token(token) or ""
        for pattern, content in self._spelling:
            name = name.replace(pattern, content)
        return BYTE_TOKEN.fullmatch(name) is not None


class TextStream:
    """Turns tokens into text as they come, as soon as no later token can change it.

    All that comes out, put together, is the text of the tokens before and of those fed, without
    the text of those before. Where bytes of the two make one character, it is what follows the
    beginning that both texts have in common.

    Parameters
    ----------
    tokenizer : Tokenizer
    context : sequence of int
        The tokens before; they decide about blanks, but do not come out.
    """

    LONGEST, KEPT = 64, 16
    """Tokens that are decoded again with each new one, and how many stay when they are so many."""

    SURE = 4
    """Characters after which decoding does not depend any more on the token that it began with: a
    character's bytes are found again after three at most."""

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int]) -> None:
        self._decoder = _Decoder(tokenizer)
        self._window = [token for token in context if self._decoder.says(token)]
        settled = self._settled()
        self._shown = len(settled)  # characters of the window's text that are done with
        self._before = self._decoder.text(self._window)[len(settled) :]
        self._shorten()

    def feed(self, token: int) -> str:
        """The text that one more token completes."""
        if not self._decoder.says(token):
            return ""
        self._window.append(token)
        if not self._decoder.grows or self._decoder.is_byte(token):
            return ""
        new = self._show(self._settled())
        self._shorten()
        return new

    def finish(self) -> str:
        """What is still held back."""
        return self._show(self._decoder.text(self._window))

    def _settled(self) -> str:
        """The window's text but for what later tokens can change."""
        if not self._decoder.grows:
            return ""
        end = len(self._window)
        while end and self._decoder.is_byte(self._window[end - 1]):
            end -= 1
        return self._decoder.text(self._window[:end]).removesuffix(REPLACEMENT)

    def _show(self, text: str) -> str:
        """What is new in the window's text, and was not the context's before bytes joined it."""
        new, self._shown = text[self._shown :], max(self._shown, len(text))
        common = sum(
            1 for _ in takewhile(lambda pair: eq(*pair), zip(new, self._before, strict=False))
        )
        self._before = self._before[common:] if common == len(new) else ""
        return new[common:]

    def _shorten(self) -> None:
        """Drops the beginning of a long window, where the text at its end does not depend on it."""
        if len(self._window) <= self.LONGEST or not self._decoder.grows:
            return
        start = len(self._window) - self.KEPT
        while start and all(map(self._decoder.is_byte, self._window[start - 1 : start + 1])):
            start -= 1  # not between bytes
        whole, rest = map(self._decoder.text, (self._window, self._window[start:]))
        hidden = len(whole) - self._shown
        same = hidden + self.SURE
        if len(rest) >= same and whole.endswith(rest[-same:]):
            self._window, self._shown = self._window[start:], len(rest) - hidden
