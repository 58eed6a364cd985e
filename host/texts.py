"""Prompts of a command line, and the texts that follow them."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from host.errors import UsageError
from host.request import Request
from weights.text import TextStream

STANDARD_INPUT = "-"


def read_prompts(name: str) -> list[tuple[str, str]]:
    """Prompts of a file, or of standard input, one a line, and where each stands; blank lines are
    none.

    Raises
    ------
    UsageError
        It cannot be read, is no UTF-8, or has none.
    """
    place = "standard input" if name == STANDARD_INPUT else name
    try:
        data = sys.stdin.buffer.read() if name == STANDARD_INPUT else Path(name).read_bytes()
        lines = data.decode("utf-8-sig").split("\n")
    except OSError as error:
        raise UsageError(f"{place}: cannot be read ({error.strerror}); check --prompts") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{place}, line {line}: not UTF-8; save it as UTF-8 text") from None
    prompts = [
        (line.rstrip("\r"), f"{place}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not prompts:
        raise UsageError(f"{place}: no prompts; write one a line")
    return prompts


@dataclass
class Text:
    """A prompt and what has followed it so far.

    Members
    -------
    stream : for the tokens of its answer
    """

    prompt: str
    request: Request
    stream: TextStream
    tokens: list[int] = field(default_factory=list)
    answer: str = ""
    ended: bool = False


class Texts:
    """Texts that come side by side, shown in the order of their prompts: the first of those under
    way as it comes, one that is behind it once it is its turn.

    Parameters
    ----------
    texts : sequence of Text
    show : callable
        Takes what is to be shown.
    """

    def __init__(self, texts: list[Text], show: Callable[[str], None]):
        self.texts = texts
        self._left = deque(texts)
        self._show = show
        show(texts[0].prompt)

    def take(self, text: Text, token: int) -> None:
        """One more token of a text's answer."""
        text.tokens.append(token)
        if token not in text.request.stop:
            self._add(text, text.stream.feed(token))

    def end(self, text: Text) -> None:
        """A text's answer has come to its end."""
        self._add(text, text.stream.finish())
        text.ended = True
        while self._left and self._left[0].ended:
            self._left.popleft()
            self._show("\n")
            if self._left:
                self._show(f"\n{self._left[0].prompt}{self._left[0].answer}")

    def close(self) -> None:
        """Show what there is of those that were begun, if something went wrong."""
        begun = [text for text in self._left if text.tokens or text is self._left[0]]
        self._left = deque(begun)
        for text in begun:
            if not text.ended:
                self.end(text)

    def _add(self, text: Text, piece: str) -> None:
        text.answer += piece
        if text is self._left[0]:
            self._show(piece)
