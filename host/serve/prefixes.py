"""States by the tokens that led to them, so that what prompts begin with is read once."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import takewhile

import numpy as np


class Prefixes:
    """The states that were of use last.

    Parameters
    ----------
    capacity : int
        States that are kept at most.
    recent : int
        Prompts with which a new one is compared.
    """

    def __init__(self, capacity: int = 256, recent: int = 64):
        self._capacity = capacity
        self._states: OrderedDict[tuple[int, ...], np.ndarray] = OrderedDict()
        self._recent: deque[tuple[int, ...]] = deque(maxlen=recent)

    def __len__(self) -> int:
        return len(self._states)

    def longest(self, prompt: tuple[int, ...]) -> tuple[int, np.ndarray | None]:
        """How many of a prompt's tokens need not be read, and the state after them.

        At least one token is left: what is chosen follows from one that goes through the model.
        """
        found = max(
            (kept for kept in self._states if kept == prompt[: min(len(kept), len(prompt) - 1)]),
            key=len,
            default=(),
        )
        if not found:
            return 0, None
        self._states.move_to_end(found)
        return len(found), self._states[found]

    def branch(self, prompt: tuple[int, ...]) -> int:
        """How many tokens a prompt begins with that a recent one did, too, but not its last.

        It is a recent one from then on. What two prompts begin with others may: the state there is
        worth keeping.
        """
        most = max((_shared(prompt[:-1], other) for other in self._recent), default=0)
        self._recent.append(prompt)
        return most

    def keep(self, tokens: Sequence[int], state: np.ndarray) -> None:
        """Keep the state after these tokens; the one that was of no use for longest may go."""
        self._states[tuple(tokens)] = state
        self._states.move_to_end(tuple(tokens))
        while len(self._states) > self._capacity:
            self._states.popitem(last=False)


def _shared(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Length of what both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
