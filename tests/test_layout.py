"""Where a model's values lie in a device's memories: by value, and read back as the units read."""

import numpy as np
import pytest

from host.compiler.layout import (
    ceil_div,
    pack_embedding,
    pack_states,
    pack_tables,
    pack_weights,
    unpack_states,
)
from weights.packing import is_packed, unpack


def test_tables_by_value():
    packed = pack_tables(np.array([1, -2, 32767, -32768, 5]), 4)
    assert packed.tobytes() == bytes.fromhex("0100 feff ff7f 0080 0500 0000 0000 0000")


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9])
@pytest.mark.parametrize("elements", [1, 2, 4, 8])
def test_tables_read_back(length, elements):
    values = np.random.default_rng(length).integers(-(1 << 15), 1 << 15, length)
    words = pack_tables(values, elements).reshape(-1, elements)
    assert len(words) == ceil_div(length, elements)
    for n in range(words.size):
        assert words[n // elements, n % elements] == (values[n] if n < length else 0)


def test_embedding_by_value():
    """Two rows of five codes for two elements: scale and padding, then four codes a word."""
    codes = np.array([[1, -1, 127, -128, 3], [0, 2, 0, 0, -3]], dtype=np.int8)
    packed = pack_embedding(codes, np.array([700, -1]), 2)
    assert packed.tobytes() == bytes.fromhex(
        "bc02 0000  01ff 7f80  0300 0000"  # 700; 1, -1, 127, -128; 3
        "ffff 0000  0002 0000  fd00 0000"
    )


@pytest.mark.parametrize("length", [1, 3, 8, 13, 32])
@pytest.mark.parametrize("elements", [1, 2, 4, 8])
def test_embedding_reads_back(length, elements):
    """Code n is a byte of lane ``n // 2`` of the words behind the scale's, which is in lane 0."""
    rng = np.random.default_rng(length)
    codes = rng.integers(-128, 128, (3, length)).astype(np.int8)
    scales = rng.integers(-(1 << 15), 1 << 15, 3)
    words = 1 + ceil_div(length, 2 * elements)
    table = pack_embedding(codes, scales, elements).reshape(3, words, elements)
    assert (table[:, 0, 0] == scales).all() and not table[:, 0, 1:].any()
    for row in range(3):
        for n in range(2 * elements * (words - 1)):
            entry = int(table[row, 1 + n // (2 * elements), n // 2 % elements])
            code = (entry >> 8 * (n % 2) & 255 ^ 128) - 128
            assert code == (codes[row, n] if n < length else 0)


def test_weights_by_value():
    """Three outputs of five inputs on 2 x 4 lanes: two groups of two rows of weights."""
    trits = np.array([[1, -1, 0, 0, 1], [0, 1, 1, -1, 0], [-1, 0, 0, 0, -1]], dtype=np.int8)
    # Codes of two bits, the first lane lowest: 1 is 01, -1 is 11.
    expected = [
        [0b00_00_11_01, 0b11_01_01_00],  # outputs 0 and 1, inputs 0 to 3
        [0b00_00_00_01, 0b00_00_00_00],  # and input 4
        [0b00_00_00_11, 0b00_00_00_00],  # output 2
        [0b00_00_00_11, 0b00_00_00_00],
    ]
    assert pack_weights(trits, 2, 4).tolist() == expected


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (5, 9), (16, 3), (3, 16), (33, 21)])
@pytest.mark.parametrize("lanes", [(4, 4), (2, 8), (8, 2), (16, 16)])
def test_weights_read_back(shape, lanes):
    (outputs, inputs), (rows, columns) = shape, lanes
    trits = np.random.default_rng(outputs).integers(-1, 2, shape).astype(np.int8)
    packed = pack_weights(trits, rows, columns)
    groups, chunks = ceil_div(outputs, rows), ceil_div(inputs, columns)
    assert packed.shape == (groups * chunks, rows * columns // 4)
    assert is_packed(packed, rows * columns)
    read = unpack(packed, rows * columns)
    for row in range(groups * chunks):
        for lane in range(rows * columns):
            output = row // chunks * rows + lane // columns
            input = row % chunks * columns + lane % columns
            there = output < outputs and input < inputs
            assert read[row, lane] == (trits[output, input] if there else 0)


def test_states_by_value():
    """Two layers of three states for two elements: the last beat of each has one of padding."""
    states = np.array([[1, -1, 4194303], [-4194304, 0, 2]])
    packed = pack_states(states, 2)
    assert packed == bytes.fromhex(
        "01000000 ffffffff  ffff3f00 000000000000c0ff 00000000  02000000 00000000"
    )
    assert unpack_states(packed, (2, 3), 2).tolist() == states.tolist()
