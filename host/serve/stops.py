"""Stop strings: text that comes in pieces, up to the first of some strings."""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Passes text on as soon as it cannot be the beginning of a stop string any more.

    The text ends before the stop string that is complete first; of two that become so with the same
    character, before the longer one. However the text is cut into pieces, the outcome is the same.

    Parameters
    ----------
    stops : sequence of str
        None of them empty.

    Members
    -------
    stopped : whether one has come; nothing comes out from then on
    """

    def __init__(self, stops: Sequence[str]):
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """What one more piece lets out."""
        if self.stopped:
            return ""
        self._held += text
        found = [(at + len(s), at) for s in self._stops if (at := self._held.find(s)) >= 0]
        if found:
            self.stopped = True
            end = min(found)[1]
        else:
            end = len(self._held) - self._beginning()
        passed, self._held = self._held[:end], self._held[end:]
        return passed

    def finish(self) -> str:
        """What is still held back once no more text comes."""
        rest, self._held = "" if self.stopped else self._held, ""
        return rest

    def _beginning(self) -> int:
        """Characters at the end of the text that a stop string begins with, at most."""
        longest = max(map(len, self._stops), default=1) - 1
        sizes = range(min(longest, len(self._held)), 0, -1)
        return next(
            (n for n in sizes if any(s.startswith(self._held[-n:]) for s in self._stops)), 0
        )
