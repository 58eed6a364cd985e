"""Trits in two bits each: bit 0 says non-zero, bit 1 says negative.

Four trits share a byte, the first in its low bits, and each row of a matrix fills whole bytes.
That is the low half of a trit's two's complement, so packing is a mask and a shift.
"""

from __future__ import annotations

import numpy as np

TRITS_PER_BYTE = 4
TRIT_BITS = 2
TRIT_MASK = 3

_NONZERO_BITS = np.uint8(0b01010101)
_VALUES = np.array([0, 1, 0, -1], dtype=np.int8)  # code 2, a negative zero, is never written
_POSITIONS = TRIT_BITS * np.arange(TRITS_PER_BYTE)
_UNPACKED = _VALUES[np.arange(256)[:, None] >> _POSITIONS & TRIT_MASK]  # (256, 4), by byte
_NONZERO_COUNTS = np.count_nonzero(_UNPACKED, axis=1)


def packed_columns(columns: int) -> int:
    """Bytes that a row of `columns` trits takes."""
    return -(-columns // TRITS_PER_BYTE)


def pack(trits: np.ndarray) -> np.ndarray:
    """``int8`` trits (rows, columns) as ``uint8`` (rows, `packed_columns`); the rest is zero."""
    rows, columns = trits.shape
    codes = np.zeros((rows, packed_columns(columns), TRITS_PER_BYTE), dtype=np.uint8)
    codes.reshape(rows, -1)[:, :columns] = trits & TRIT_MASK
    packed = codes[:, :, 0].copy()
    for position in range(1, TRITS_PER_BYTE):
        packed |= codes[:, :, position] << (TRIT_BITS * position)
    return packed


def unpack(packed: np.ndarray, columns: int) -> np.ndarray:
    """Inverse of `pack`: ``int8`` trits (rows, `columns`)."""
    return _UNPACKED[packed].reshape(packed.shape[0], -1)[:, :columns]


def is_packed(packed: np.ndarray, columns: int) -> bool:
    """Whether `packed` is what `pack` writes: no negative zero, nothing beyond `columns`."""
    if (packed >> 1 & _NONZERO_BITS & ~packed).any():
        return False
    used = columns % TRITS_PER_BYTE
    return not used or not (packed[:, -1] >> (TRIT_BITS * used)).any()


def count_nonzero(packed: np.ndarray) -> int:
    """Number of trits that are not zero."""
    return int(np.bincount(packed.ravel(), minlength=256) @ _NONZERO_COUNTS)
