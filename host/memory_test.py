"""Broken lines of a memory, found by a few of its half-words and told by name.

A load proves all that it sends by checksums, block by block as it comes. These do not tell what is
wrong, and only in the end that one half-word is several. What is tested here takes a few frames
and comes before all of that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

REMEDY = (
    "check the board's clock and power, and that its memory is what the bitstream was built for"
)
"""What to do about a fault."""

TOGETHER = 256
"""Half-words at the beginning of a memory that go there and come back in a frame each."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """A memory under test.

    Parameters
    ----------
    name : str
    content : bytes
        What it shall hold: half-words from address 0 on.
    read : callable
        Its half-words, from an address on and so many.
    write : callable
        Writes half-words from an address on.
    """

    name: str
    content: bytes
    read: Callable[[int, int], bytes]
    write: Callable[[int, bytes], None]

    @property
    def pieces(self) -> list[range]:
        """Addresses: the first `TOGETHER`, and the powers of two beyond them."""
        size = len(self.content) // 2
        lines = range(TOGETHER.bit_length() - 1, (size - 1).bit_length())
        powers = [range(1 << line, (1 << line) + 1) for line in lines]
        return [range(min(TOGETHER, size)), *powers]

    @property
    def places(self) -> np.ndarray:
        """The addresses of all pieces."""
        return np.concatenate([np.array(piece, int) for piece in self.pieces])

    def put(self, values: np.ndarray) -> None:
        """Give each of its places a half-word."""
        at = 0
        for piece in self.pieces:
            self.write(piece.start, values[at : at + len(piece)].tobytes())
            at += len(piece)

    def found(self) -> np.ndarray:
        """What its places hold."""
        content = b"".join(self.read(piece.start, len(piece)) for piece in self.pieces)
        return np.frombuffer(content, "<u2")

    def restore(self) -> None:
        """Give its places what ``content`` has for them."""
        self.put(np.frombuffer(self.content, "<u2")[self.places])


def find_fault(memories: Sequence[Memory]) -> str | None:
    """What is wrong with the lines of memories, by name; None if nothing is.

    Values that are all different go to a few places of each, and are read when all are there. Then
    these places are given what ``content`` has for them, so that what was right before is again.
    """
    ends = np.cumsum([memory.places.size for memory in memories])
    values = np.random.default_rng(0).choice(1 << 16, ends[-1], replace=False).astype("<u2")
    trials = list(zip(memories, np.split(values, ends[:-1]), strict=True))
    for memory, written in trials:
        memory.put(written)
    for memory, written in trials:
        found = memory.found()
        if (found != written).any():
            others = [trial for trial in trials if trial[0] is not memory]
            named = _shared(memory.places, written, found, others)
            return f"{memory.name}: {named or name_fault(memory.places, written, found)}"
    for memory in memories:
        memory.restore()
    return None


def _shared(
    places: np.ndarray,
    written: np.ndarray,
    found: np.ndarray,
    others: Sequence[tuple[Memory, np.ndarray]],
) -> str | None:
    """The half-word that is another memory's, too, where that explains all that is wrong."""
    wrong = found != written
    for other, values in others:
        if np.isin(found[wrong], values).all():
            place = int(other.places[values == found[wrong][0]][0])
            return f"half-word {int(places[wrong][0])} is half-word {place} of {other.name}"
    return None


def name_fault(places: np.ndarray, written: np.ndarray, found: np.ndarray) -> str:
    """What explains that some half-words hold something else than was written.

    Parameters
    ----------
    places : addresses: the first half-words of a memory, then powers of two
    written : what each was given, uint16, no value twice
    found : what each holds, uint16
    """
    wrong = np.flatnonzero(found != written)
    place, holds, wanted = (int(column[wrong[0]]) for column in (places, found, written))
    instead = f"half-word {place} holds 0x{holds:04x} instead of 0x{wanted:04x}"
    if wrong.size > 1 and (found == holds).all():
        return f"every half-word reads 0x{holds:04x}, whatever is written"
    if np.isin(found, written).all():
        other = int(places[written == holds][0])
        return _address_fault(places, found) or f"half-words {place} and {other} are one"
    together = places < TOGETHER
    if named := _data_fault(written[together], found[together]):
        return f"{named}: {instead}"
    return f"{instead}, {wrong.size} of {places.size} differ"


def _address_fault(places: np.ndarray, found: np.ndarray) -> str | None:
    """The address lines that make one half-word of two."""
    at = dict(zip(places.tolist(), found.tolist(), strict=True))
    lines = range(int(places.max()).bit_length())
    for line in lines:
        if at[1 << line] == at[0]:
            return f"address line {line} does not count: half-words 0 and {1 << line} are one"
    for low, high in combinations(lines, 2):
        if at[1 << low] == at[1 << high]:
            return (
                f"address lines {low} and {high} are tied: "
                f"half-words {1 << low} and {1 << high} are one"
            )
    return None


def _data_fault(written: np.ndarray, found: np.ndarray) -> str | None:
    """The data lines that do not follow what is written, the lowest ones.

    A fault of 16 lines shows at all half-words; of 32, the upper ones are at the odd half-words.
    """
    given, there = (_lines(column) for column in (written, found))
    for line in range(32):
        if len(set(there[line])) == 1 < len(set(given[line])):
            return f"data line {line} is stuck at {there[line][0]}"
    for low, high in combinations(range(32), 2):
        if there[low] == there[high] and given[low] != given[high]:
            return f"data lines {low} and {high} are tied"
    return None


def _lines(half_words: np.ndarray) -> list[list[int]]:
    """What each of 32 lines carries, two half-words at a time."""
    pairs = half_words[: half_words.size // 2 * 2].reshape(-1, 2)
    bits = pairs[:, :, None] >> np.arange(16, dtype="<u2") & 1
    lines: list[list[int]] = bits.reshape(-1, 32).T.tolist()
    return lines
