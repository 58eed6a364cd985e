"""Texts of answers as they come, and watchers who read them at their own pace.

Nothing is queued for a watcher: each one knows how far it has read of what the stories keep, so
that one who does not read costs nothing, and finds a gap later.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

KEPT_PIECES = 4096
"""Pieces of a story, about tokens, that one who comes to it late can still read."""
KEPT_PROMPT = 2000
"""Characters of a prompt, its last ones, that are shown."""
KEPT_STORIES = 8
"""Ended stories that one who comes late can still read."""


@dataclass(eq=False)
class Story:
    """One answer's text so far.

    Members
    -------
    name : by which a page knows its own
    prompt : the end of what it goes on from
    length : pieces that have come; the last `KEPT_PIECES` of them are kept
    reason : why it ended; None until it has
    """

    name: str
    prompt: str
    length: int = 0
    reason: str | None = None
    _pieces: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_PIECES))

    def add(self, text: str) -> None:
        self._pieces.append(text)
        self.length += 1

    def since(self, length: int) -> tuple[str, bool]:
        """What came after so many pieces, and whether there is a gap before it."""
        first = self.length - len(self._pieces)
        return "".join(islice(self._pieces, max(0, length - first), None)), length < first


@dataclass(frozen=True, kw_only=True)
class Begin:
    """A story begins."""

    id: str
    prompt: str


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A story goes on; ``skipped`` says that something before this text is missing."""

    id: str
    text: str
    skipped: bool


@dataclass(frozen=True, kw_only=True)
class End:
    """A story has ended."""

    id: str
    reason: str


News: TypeAlias = "Begin | Piece | End"


class Stories:
    """Those under way, and the last ones that ended. For the server's thread, except `close`.

    Parameters
    ----------
    shared : whether they are shown; otherwise nothing of them is kept

    Members
    -------
    watchers : how many read them
    closed : whether the server ends, and they shall
    """

    def __init__(self, *, shared: bool = False):
        self.shared = shared
        self.watchers = 0
        self.closed = False
        self._under_way: dict[str, Story] = {}
        self._ended: deque[Story] = deque(maxlen=KEPT_STORIES)

    def begin(self, name: str, prompt: str) -> None:
        """An answer begins that goes on with this text."""
        if self.shared:
            self._under_way[name] = Story(name, prompt[-KEPT_PROMPT:])

    def piece(self, name: str, text: str) -> None:
        """More text of it."""
        if name in self._under_way:
            self._under_way[name].add(text)

    def end(self, name: str, reason: str) -> None:
        """Nothing follows: stop, length, cancelled or failed."""
        if story := self._under_way.pop(name, None):
            story.reason = reason
            self._ended.append(story)

    def __iter__(self) -> Iterator[Story]:
        return iter([*self._ended, *self._under_way.values()])

    def close(self) -> None:
        """Have all watchers end; from any thread."""
        self.closed = True

    @contextlib.contextmanager
    def watched(self) -> Iterator[Reader]:
        """Counts one more watcher while it reads."""
        self.watchers += 1
        try:
            yield Reader(self)
        finally:
            self.watchers -= 1


class Reader:
    """How far one watcher has read."""

    def __init__(self, stories: Stories):
        self._stories = stories
        self._read: dict[Story, int] = {}
        self._finished: set[Story] = set()

    def news(self) -> Iterator[News]:
        """What has come since the last time, each story's in order; it may be taken slowly."""
        present = list(self._stories)
        self._finished.intersection_update(present)
        for story in dict.fromkeys([*self._read, *present]):
            if story not in self._finished:
                yield from self._of(story)

    def _of(self, story: Story) -> Iterator[News]:
        if story not in self._read:
            self._read[story] = 0
            yield Begin(id=story.name, prompt=story.prompt)
        if story.length > self._read[story]:
            text, skipped = story.since(self._read[story])
            self._read[story] = story.length
            yield Piece(id=story.name, text=text, skipped=skipped)
        if story.reason is not None and story.length == self._read[story]:
            del self._read[story]
            self._finished.add(story)
            yield End(id=story.name, reason=story.reason)
