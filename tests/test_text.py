"""Tokenizers as users have them: how they are opened, and text that comes token by token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)

from sim.checkpoints import small_tokenizer
from weights.commandline import program
from weights.errors import ModelError, UsageError
from weights.text import (
    TextStream,
    decode,
    encode_prompt,
    end_token,
    find_end_token,
    find_start_token,
    open_tokenizer,
    token_bytes,
    token_windows,
    tokens_beyond,
)
from weights.train.data import read_texts, token_stream

BLANK = "\u2581"


def special(tokenizer: Tokenizer, *names: str) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in names])
    return tokenizer


def byte_level(decoder: decoders.Decoder | None = None) -> Tokenizer:
    tokenizer = small_tokenizer(280)
    tokenizer.decoder = decoder or decoders.ByteLevel()
    tokenizer.add_tokens(["猫 sat", "naïve"])
    return tokenizer


def byte_fallback(*decoder: decoders.Decoder) -> Tokenizer:
    """BPE with a token for every byte, as LLaMA's tokenizer has them."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    merges = []
    for piece in (BLANK, "a", "b", "ab", f"{BLANK}a", f"{BLANK}ab", "é", "猫", "."):
        vocabulary[piece] = len(vocabulary)
        if piece in ("ab", f"{BLANK}a", f"{BLANK}ab"):
            merges.append((piece[:-1], piece[-1]))
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)]
    )
    tokenizer.decoder = decoders.Sequence(
        list(decoder)
        or [
            decoders.Replace(BLANK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return special(tokenizer, "<unk>", "<s>", "</s>")


def metaspace() -> Tokenizer:
    words = (BLANK, "a", "b", f"{BLANK}a", f"{BLANK}{BLANK}b", f"a{BLANK}b", ".", "\ufffd")
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((word, -1.0) for word in words)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return special(tokenizer, "<unk>", "</s>")


def word_piece(decoder: decoders.Decoder | None = None) -> Tokenizer:
    words = ("[UNK]", "[SEP]", "it", "##s", "##ab", "a", "##", "'", "s", "n't", ".", ",", "do not")
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoder or decoders.WordPiece()
    return special(tokenizer, "[UNK]", "[SEP]")


def bpe_decoder(*more: str) -> Tokenizer:
    words = ("lo", "w</w>", "er</w>", "a", "</w>", "</w", *more)
    tokenizer = Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, []))
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    return tokenizer


def words() -> Tokenizer:
    """Without a decoder: blanks between all tokens."""
    return small_tokenizer(12)


def letters() -> Tokenizer:
    """With nothing for what it does not know, blanks among it."""
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level,
    "byte fallback": byte_fallback,
    "byte fallback, nothing stripped": lambda: byte_fallback(
        decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()
    ),
    "byte fallback, then Metaspace": lambda: byte_fallback(
        decoders.ByteFallback(), decoders.Metaspace()
    ),
    "byte fallback, then bytes": lambda: byte_fallback(
        decoders.ByteFallback(), decoders.ByteLevel()
    ),
    "bytes that the decoder spells": lambda: byte_fallback(
        decoders.Replace("<0xE7>", "b"),
        decoders.Replace("ab", "<0xE7>"),
        decoders.ByteFallback(),
        decoders.Fuse(),
    ),
    "replaced when joined": lambda: byte_fallback(
        decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("ab", "x")
    ),
    "replaced by a pattern first": lambda: byte_fallback(
        decoders.Replace(Regex("^[ab]$"), "<0xE9>"), decoders.ByteFallback(), decoders.Fuse()
    ),
    "byte-level, stripped at the beginning": lambda: byte_level(
        decoders.Sequence([decoders.ByteLevel(), decoders.Strip("a", 2, 0)])
    ),
    "Metaspace": metaspace,
    "WordPiece": word_piece,
    "CTC": lambda: word_piece(decoders.CTC("a", "s", True)),
    "stripped tokens": lambda: word_piece(
        decoders.Sequence([decoders.WordPiece(), decoders.Strip(" ", 1, 0)])
    ),
    "end of word": bpe_decoder,
    "ends of words within tokens": lambda: bpe_decoder("b</w>c"),
    "words": words,
    "letters": letters,
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return KINDS[request.param]()


def streamed(tokenizer: Tokenizer, context: list[int], tokens: list[int]) -> str:
    stream = TextStream(tokenizer, context)
    return "".join([stream.feed(token) for token in tokens]) + stream.finish()


def expected(tokenizer: Tokenizer, context: list[int], tokens: list[int]) -> str:
    before, whole = tokenizer.decode(context), tokenizer.decode([*context, *tokens])
    while not whole.startswith(before):
        before = before[:-1]
    return whole.removeprefix(before)


# Streams --------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_stream_is_the_text_of_the_whole(tokenizer: Tokenizer, data: st.DataObject) -> None:
    """Any tokens: halves of characters, special ones and unknown ones among them."""
    count = tokenizer.get_vocab_size(with_added_tokens=True)
    some = data.draw(st.lists(st.integers(0, count), min_size=1, max_size=6))
    token = st.sampled_from(some) | st.integers(0, count)
    context = data.draw(st.lists(token, max_size=100))
    tokens = data.draw(st.lists(token, max_size=250))
    assert streamed(tokenizer, context, tokens) == expected(tokenizer, context, tokens)


@pytest.mark.parametrize("text", ["一偂惄煆臈鉊", "a 猫b 一. é" * 40, "ขึ้" * 30, "ab. ab " * 50])
@pytest.mark.parametrize("kind", ["byte-level", "byte fallback"])
def test_stream_of_a_real_text(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]()
    ids = tokenizer.encode(text).ids
    for cut in range(0, len(ids), 7):
        got = streamed(tokenizer, ids[:cut], ids[cut:])
        assert got == expected(tokenizer, ids[:cut], ids[cut:])
        if not cut:
            assert got == text.strip() or got == text


@pytest.mark.parametrize("kind", ["byte-level", "byte fallback", "Metaspace", "WordPiece", "words"])
def test_text_comes_as_soon_as_it_is_sure(kind: str) -> None:
    tokenizer = KINDS[kind]()
    (token,) = {"a", "w1"} & tokenizer.get_vocab().keys()
    stream = TextStream(tokenizer, [])
    pieces = [stream.feed(tokenizer.token_to_id(token)) for _ in range(200)]
    assert all(pieces) and stream.finish() == ""


def test_bytes_wait_for_their_end() -> None:
    tokenizer = byte_fallback()
    stream = TextStream(tokenizer, [1])
    first, second, third = (tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "猫".encode())
    letter = tokenizer.token_to_id("a")
    fed = [first, second, 2, third, letter, first, second, letter, letter]
    assert [stream.feed(token) for token in fed] == [*[""] * 4, "猫a", "", "", "\ufffd\ufffda", "a"]


def test_text_that_is_stripped_at_its_end() -> None:
    """Not part of the above: the package fails where nothing else is left."""
    tokenizer = byte_level(decoders.Sequence([decoders.ByteLevel(), decoders.Strip("a", 0, 1)]))
    ids = tokenizer.encode("banana bat, ba").ids
    for end in range(2, len(ids) + 1):
        assert streamed(tokenizer, ids[:1], ids[1:end]) == expected(tokenizer, ids[:1], ids[1:end])


class Counting:
    """A tokenizer that counts the tokens it decodes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.decoded = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def decode(self, tokens: list[int], **options: Any) -> str:
        self.decoded += len(tokens)
        return self._tokenizer.decode(tokens, **options)


def test_long_texts_take_no_longer_for_each_token(tokenizer: Tokenizer) -> None:
    count = tokenizer.get_vocab_size(with_added_tokens=True)
    for tokens in ([i * i % count for i in range(10_000)], [count - 1, 3] * 5000, [4] * 10_000):
        counting: Any = Counting(tokenizer)
        assert streamed(counting, [1], tokens) == expected(tokenizer, [1], tokens)
        assert counting.decoded < 100 * len(tokens)


# Tokenizers -----------------------------------------------------------------------------------


def reopened(tokenizer: Tokenizer) -> Tokenizer:
    return open_tokenizer(tokenizer.to_str(), "here")


def test_batches_of_training_leave_no_trace() -> None:
    plain, changed = byte_fallback(), byte_fallback()
    changed.enable_padding(length=12, pad_id=2, pad_token="</s>")
    changed.enable_truncation(3)
    changed.model.dropout = 0.9
    for text in ("ab", "ab. ab ab. a"):
        assert reopened(changed).encode(text).ids == plain.encode(text).ids
    assert reopened(changed).encode_batch(["a", "ab ab"])[0].ids == plain.encode("a").ids


def test_pieces_are_not_chosen_by_chance() -> None:
    changed = metaspace()
    changed.model.alpha, changed.model.nbest_size = 0.1, 5
    tokens = {tuple(reopened(changed).encode("a b a b").ids) for _ in range(20)}
    assert tokens == {tuple(metaspace().encode("a b a b").ids)}


def test_byte_order_mark() -> None:
    text = "\ufeff" + byte_level().to_str()
    assert open_tokenizer(text, "here").encode("ab").ids == byte_level().encode("ab").ids


@pytest.mark.parametrize("text", ["", "{", "null", "[1]", '{"model": {}}', "[" * 100_000])
def test_no_tokenizer(text: str) -> None:
    with pytest.raises(ModelError, match=r"here: not a tokenizer \(.*\); do that"):
        open_tokenizer(text, "here", "do that")


@pytest.mark.parametrize(
    ("names", "end", "start"),
    [
        (["<unk>", "<s>", "</s>"], "</s>", "<s>"),
        (["<|im_end|>", "<|endoftext|>"], "<|endoftext|>", "<|endoftext|>"),
        (["<bos>", "<eos>", "<pad>"], "<eos>", "<bos>"),
        (["[PAD]", "[EOS]", "[BOS]"], "[EOS]", "[BOS]"),
        (["<|begin_of_text|>", "<|end_of_text|>"], "<|end_of_text|>", "<|begin_of_text|>"),
        (["<pad>"], None, None),
    ],
)
def test_tokens_around_a_text(names: list[str], end: str | None, start: str | None) -> None:
    tokenizer = special(Tokenizer(models.BPE({"a": 0, "</s>": 1, "<s>": 2}, [])), *names)
    numbers = {name: tokenizer.token_to_id(name) for name in names}
    assert find_end_token(tokenizer) == numbers.get(end or "")
    assert find_start_token(tokenizer) == numbers.get(start or "")
    if end is None:
        with pytest.raises(ModelError, match=r"no special token that ends a text, such as"):
            end_token(tokenizer)
    else:
        assert end_token(tokenizer) == numbers[end]


def test_tokens_beyond_a_model() -> None:
    tokenizer = special(small_tokenizer(300), "[PAD]", "[CLS]")
    assert tokens_beyond(tokenizer, 300) == {"[PAD]": 300, "[CLS]": 301}
    assert tokens_beyond(tokenizer, 302) == {}
    np.testing.assert_array_equal(
        token_bytes(tokenizer, 300), token_bytes(small_tokenizer(300), 300)
    )


# Prompts --------------------------------------------------------------------------------------

NORMALISERS: dict[str, Any] = {
    "none": None,
    "NFC": normalizers.NFC(),
    "NFD": normalizers.NFD(),
    "NFKC": normalizers.NFKC(),
    "lower case": normalizers.Lowercase(),
    "no accents": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    "blank before": normalizers.Prepend(" "),
    "blanks stripped": normalizers.Strip(),
    "quotes": normalizers.Replace("\u201c", '"'),
    "BERT": normalizers.BertNormalizer(),
}


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize(
    "prompt",
    ["caf\xe9", "cafe\u0301", "5 \u212b", "\ufb01ne", "  Two  BLANKS \n", "\u201cso\u201d"],
)
def test_normalising_is_no_loss(normaliser: str, prompt: str) -> None:
    tokenizer = small_tokenizer(300)
    if NORMALISERS[normaliser] is not None:
        tokenizer.normalizer = NORMALISERS[normaliser]
    assert encode_prompt(tokenizer, prompt) == tokenizer.encode(prompt).ids


@pytest.mark.parametrize(
    ("kind", "prompt"),
    [
        ("byte fallback", "ab  猫 \n"),
        ("byte fallback", " a"),
        ("Metaspace", "a b a"),
        ("WordPiece", "A it's its."),
        ("WordPiece", "it's ÀAB,a ."),
        ("WordPiece", "its,a"),
        ("letters", "ab"),
    ],
)
def test_prompts_that_are_known(kind: str, prompt: str) -> None:
    tokenizer = KINDS[kind]()
    assert encode_prompt(tokenizer, prompt) == tokenizer.encode(prompt).ids


@pytest.mark.parametrize(
    ("kind", "prompt", "lost"),
    [
        ("Metaspace", "a☃b", "'☃'"),
        ("WordPiece", "it ☃", "'☃'"),
        ("WordPiece", " \n", "' '"),
        ("letters", "a b", "' '"),
        ("letters", "aXb", "'X'"),
        ("words", "w3 y", "'y'"),
        ("words", "w3\nw4", r"'\\n'"),
        ("byte-level", "a<|endoftext|>", r"special tokens \('<\|endoftext\|>'\)"),
        ("byte fallback", "a</s>", r"special tokens \('</s>'\)"),
    ],
)
def test_what_a_prompt_loses(kind: str, prompt: str, lost: str) -> None:
    with pytest.raises(UsageError, match=f"tokenizer does not know: {lost}$") as raised:
        encode_prompt(KINDS[kind](), prompt)
    assert "\n" not in str(raised.value)


def test_tokenizer_without_a_token_for_the_unknown() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special(tokenizer, "</s>")
    assert encode_prompt(tokenizer, "a a") == [0, 0]
    with pytest.raises(UsageError, match=r"tokenizer does not know: 'b'$"):
        encode_prompt(tokenizer, "a b")
    for use in (
        lambda: token_windows("a b", tokenizer, 1, 1, 2),
        lambda: token_stream(["b"], tokenizer),
    ):
        with pytest.raises(ModelError, match="the tokenizer has no tokens for this text"):
            use()


class Panic(BaseException):
    """What a panic in the package's Rust is here."""


class Panicking:
    def decode(self, tokens: list[int], **settings: Any) -> str:
        raise Panic("index out of range")


def test_decoder_that_panics() -> None:
    with pytest.raises(ModelError, match=r"no text for these tokens \(index out of range\); use"):
        decode(Panicking(), [1])


def test_program_ends_a_panic_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @program
    def main(arguments: Any = None) -> int:
        raise Panic("index out of range")

    assert main([]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "a fault of this program at test_text.py:" in told and "index out of range" in told


def test_prompt_beyond_the_model() -> None:
    tokenizer = small_tokenizer(300)
    tokenizer.add_tokens(["猫", "dog"])
    assert encode_prompt(tokenizer, "a dog", 302)[-1] == 301
    with pytest.raises(
        UsageError, match=r"prompt holds what the model does not know: 'dog', '猫'$"
    ):
        encode_prompt(tokenizer, "a dog, a 猫 and a dog", 300)


# Training texts -------------------------------------------------------------------------------


def test_texts_are_separated_by_the_token_that_ends_one() -> None:
    tokenizer = special(Tokenizer(models.BPE({"!": 0, "a": 1}, [])), "<s>", "</s>")
    assert token_stream(["a!", "!"], tokenizer).tolist() == [3, 1, 0, 3, 0]
    without = Tokenizer(models.BPE({"!": 0, "a": 1}, []))
    with pytest.raises(ModelError, match=r"no special token that ends a text, .*; add one"):
        token_stream(["a"], without)


def test_numbers_of_tokens_may_have_gaps() -> None:
    tokenizer = special(Tokenizer(models.BPE({"a": 70_000}, [])), "<|endoftext|>")
    assert token_stream(["a"], tokenizer).tolist() == [
        tokenizer.token_to_id("<|endoftext|>"),
        70_000,
    ]


def test_texts_of_other_editors(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes("\ufeffone\r\ntwo\r\n<|endoftext|>\r\nthree\r\n".encode())
    (tmp_path / "valid.txt").write_text("four")
    assert read_texts(str(tmp_path)).training == ["one\ntwo", "three"]
    (tmp_path / "train.txt").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    )
    with pytest.raises(ModelError, match=r"train.txt: a git-lfs pointer, .*run 'git lfs pull'"):
        read_texts(str(tmp_path))


def test_texts_of_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "stories").mkdir()
    for name in ("train", "valid"):
        (tmp_path / "stories" / f"{name}.txt").write_text(name)
    assert read_texts("~/stories").training == ["train"]
    with pytest.raises(ModelError, match="no such user's folder"):
        read_texts("~nosuchuser/stories")
