"""Broken lines of a memory, found by a few of its half-words and told by name.

A load proves all that it sends by checksums, block by block as it comes. These do not tell what is
wrong, and only in the end that one half-word is several. What is tested here takes a few frames
and comes before all of that.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np

Read = Callable[[int, int], bytes]
"""Half-words of a memory: from an address on, how many."""

Write = Callable[[int, bytes], None]

TOGETHER = 256
"""Half-words at the beginning of a memory that go there and come back in a frame each."""


def find_fault(content: bytes, read: Read, write: Write) -> str | None:
    """What is wrong with the lines of a memory that shall hold ``content``; None if nothing is.

    Values that are all different go to the first `TOGETHER` half-words and to every power of two
    beyond them, as far as ``content`` goes, and are read when all are there. Then these places are
    given what ``content`` has for them, so that what was right before is right again.
    """
    wanted = np.frombuffer(content, "<u2")
    pieces = [range(min(TOGETHER, wanted.size))]
    pieces += [
        range(1 << line, (1 << line) + 1)
        for line in range(TOGETHER.bit_length() - 1, (wanted.size - 1).bit_length())
    ]
    places = np.concatenate([np.array(piece, int) for piece in pieces])
    written = np.random.default_rng(0).choice(1 << 16, places.size, replace=False).astype("<u2")
    memory = wanted.copy()
    memory[places] = written
    for piece in pieces:
        write(piece.start, memory[piece].tobytes())
    found = np.frombuffer(b"".join(read(piece.start, len(piece)) for piece in pieces), "<u2")
    if (found != written).any():
        return name_fault(places, written, found)
    for piece in pieces:
        write(piece.start, wanted[piece].tobytes())
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
