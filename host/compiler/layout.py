"""How tables, embedding rows and matrices lie in a device's memories."""

from __future__ import annotations

import numpy as np

from hw.arch.packing import FEW, pack


def ceil_div(value: int, unit: int) -> int:
    """Whole ``unit``s that hold ``value``."""
    return -(-value // unit)


def pack_tables(values: np.ndarray, elements: int) -> np.ndarray:
    """A table as 16-bit entries, padded to whole words of ``elements``."""
    padded = np.zeros(ceil_div(len(values), elements) * elements, dtype="<i2")
    padded[: len(values)] = values
    return padded


def pack_embedding(codes: np.ndarray, scales: np.ndarray, elements: int) -> np.ndarray:
    """Embedding rows: a word with the row's scale in lane 0, words of ``2 * elements`` codes."""
    rows, length = codes.shape
    words = ceil_div(length, 2 * elements)
    table = np.zeros((rows, 1 + words, elements), dtype="<i2")
    table[:, 0, 0] = scales
    padded = np.zeros((rows, words * 2 * elements), dtype=np.int8)
    padded[:, :length] = codes
    table[:, 1:] = padded.view("<i2").reshape(rows, words, elements)
    return table.ravel()


def pack_states(states: np.ndarray, elements: int) -> bytes:
    """Hidden states (layers, hidden) as 32-bit integers, each layer padded to whole beats."""
    layers, hidden = states.shape
    padded = np.zeros((layers, ceil_div(hidden, elements) * elements), dtype="<i4")
    padded[:, :hidden] = states
    return padded.tobytes()


def unpack_states(content: bytes, shape: tuple[int, int], elements: int) -> np.ndarray:
    """The states that `pack_states` packed, int32 of ``shape``."""
    layers, hidden = shape
    padded = np.frombuffer(content, "<i4").reshape(layers, ceil_div(hidden, elements) * elements)
    return padded[:, :hidden].astype(np.int32)


def pack_weights(
    trits: np.ndarray, rows: int, columns: int, trits_per_byte: int = FEW
) -> np.ndarray:
    """A matrix in the engine's order of use: groups of ``rows``, chunks of ``columns``.

    Lane ``r * columns + c`` of weight row ``group * chunks + chunk`` is the trit of output
    ``group * rows + r`` and input ``chunk * columns + c``; padding is zero.
    """
    outputs, inputs = trits.shape
    groups, chunks = ceil_div(outputs, rows), ceil_div(inputs, columns)
    padded = np.zeros((groups * rows, chunks * columns), dtype=np.int8)
    padded[:outputs, :inputs] = trits
    tiles = padded.reshape(groups, rows, chunks, columns).transpose(0, 2, 1, 3)
    return pack(tiles.reshape(groups * chunks, rows * columns), trits_per_byte)
