"""How the trits of a weight row lie in bytes: four of two bits each, or five.

Five trits have 243 values, a byte has 256. Its bits 0 to 4 are the signs of the trits 0 to 4; the
sign of a trit that is zero is free, and says more of where zeros are. With ``p`` bits 5 and 6, and
``q`` bit 7:

- If p and q are 0, trits 3 and 4 are zero, and their signs stand for p in what follows.
- p = 3: trits 0 to 2 are not zero.
- p = 2: one of the trits 0 and 1 is: 0 if their signs are equal, else 1.
- p = 1: trit 2 is; and if its sign is 0 one of the trits 0 and 1, 1 if their signs are equal.
- p = 0: trits 0 and 1 are, and trit 2 if the sign of trit 0 is 0.
- One of the trits 3 and 4 is zero if q is 0, or if bits 5 and 6 are 0 and the sign of trit 1 is 1:
  4 if their signs are equal, else 3.

So signs need no logic, and each trit's other bit is two LUTs of four inputs deep, with
`halfway` between them: ten LUTs for a byte, where base 3 takes 116. A byte that is 0 is five zeros;
13 codes mean what another one does, too.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from weights import packing

FEW, MANY = packing.TRITS_PER_BYTE, 5
"""Trits of a byte: with two bits each, which need no decoding, and as many as can be."""

PACKINGS = (FEW, MANY)


def row_bytes(lanes: int, trits_per_byte: int) -> int:
    """Bytes of a row of so many trits.

    Raises
    ------
    ValueError
        There is no such packing, or a row would end within a half-word.
    """
    if trits_per_byte not in PACKINGS:
        raise ValueError(f"trits_per_byte must be 4 or 5, not {trits_per_byte!r}")
    if lanes % (2 * trits_per_byte):
        raise ValueError(f"lanes must be a multiple of {2 * trits_per_byte}, not {lanes!r}")
    return lanes // trits_per_byte


def halfway(bits: Sequence[Any]) -> list[Any]:
    """What a byte of five trits says, each a function of at most four of its bits.

    Bits are Amaranth values of one bit or arrays of booleans.
    """
    *signs, low, high, q = bits
    none = ~(low | high | q)
    return [
        none,
        low | none & signs[3],
        high | none & signs[4],
        ~q | ~(low | high) & signs[1],
        signs[0] ^ signs[1],
        *signs,
    ]


def trits(said: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Five trits as (not zero, negative) of what `halfway` says; a zero may be negative."""
    none, low, high, single, differ, *signs = said
    other = signs[3] ^ signs[4]
    present = (
        high & (low | differ) | ~high & low & (signs[2] | ~differ),
        high & (low | ~differ) | ~high & low & (signs[2] | differ),
        high | ~low & signs[0],
        ~none & ~(single & other),
        ~none & ~(single & ~other),
    )
    return list(zip(present, signs, strict=True))


def _unpacked() -> np.ndarray:
    codes = np.arange(256)
    decoded = trits(halfway([codes >> bit & 1 == 1 for bit in range(8)]))
    return np.stack([np.where(there, 1 - 2 * minus, 0) for there, minus in decoded], axis=1)


_UNPACKED = _unpacked().astype(np.int8)  # (256, 5), by byte
_POWERS = 3 ** np.arange(MANY, dtype=np.uint8)
_CODES = np.zeros(3**MANY, dtype=np.uint8)


def _numbers(groups: np.ndarray) -> np.ndarray:
    """Groups of five ``int8`` trits as numbers below 243."""
    return (groups + 1).view(np.uint8) @ _POWERS


_CODES[_numbers(_UNPACKED[::-1])] = np.arange(256)[::-1]  # of two codes the lower one


def pack(rows: np.ndarray, trits_per_byte: int) -> np.ndarray:
    """``int8`` trits (rows, lanes) as ``uint8`` (rows, lanes / trits_per_byte), the first lowest.

    Raises
    ------
    ValueError
        As `row_bytes`.
    """
    row_bytes(rows.shape[1], trits_per_byte)
    if trits_per_byte == FEW:
        return packing.pack(rows)
    return _CODES[_numbers(rows.reshape(len(rows), -1, MANY))]


def unpack(packed: np.ndarray, trits_per_byte: int) -> np.ndarray:
    """Inverse of `pack`, and what a machine makes of any other bytes."""
    if trits_per_byte == FEW:
        return packing.unpack(packed, FEW * packed.shape[1])
    return _UNPACKED[packed].reshape(len(packed), -1)
