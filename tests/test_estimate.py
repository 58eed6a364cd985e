"""Estimates of what a machine takes of a device."""

from dataclasses import replace

import pytest

from hw import boards
from hw.build.estimate import arrange, check_fit, estimate
from hw.families import ecp5, of


@pytest.mark.parametrize(
    ("depth", "width", "granularity", "expected"),
    [
        (512, 36, None, (1, 1)),
        (512, 37, None, (2, 1)),
        (1024, 18, None, (1, 1)),
        (16384, 1, None, (1, 1)),
        (1, 1, None, (1, 1)),
        # What yosys 0.70 takes.
        (3584, 512, 16, (112, 7)),
        (2048, 512, 16, (64, 1)),
        (512, 512, 16, (16, 1)),
        (3584, 128, 16, (28, 7)),
        (1024, 32, 16, (2, 1)),
        (512, 64, None, (2, 1)),
    ],
)
def test_block_rams_of_a_memory(depth, width, granularity, expected):
    assert arrange(ecp5.FAMILY.memories.shapes, depth, width, granularity) == expected


def test_block_rams_and_dsp_of_a_machine_that_was_built():
    result = estimate(boards.board("ecpix5_85").machine, ecp5.FAMILY)
    assert (result["bram"], result["dsp"]) == (192, 14)
    assert result["lut4"] == pytest.approx(18990, rel=0.1)
    assert result["ff"] == pytest.approx(10380, rel=0.1)


def test_five_trits_in_a_byte_take_ten_luts_a_byte():
    """Rows of 64 bytes in block RAM: beside four more rows of 16 lanes, what decodes them."""
    machine = boards.board("ulx3s_85f").machine
    dense = replace(machine, geometry=replace(machine.geometry, rows=20, trits_per_byte=5))
    usual, more = (estimate(it, ecp5.FAMILY) for it in (machine, dense))
    assert more["bram"] == usual["bram"]
    assert more["ff"] - usual["ff"] == pytest.approx(64 * 13.2 + 4 * 34 + 64 * 10, abs=1)
    luts = 64 * 19.1 + 4 * 39 + 64 * 10
    assert more["lut4"] - usual["lut4"] == pytest.approx(1.08 * luts, abs=1)


def test_boards_fit_by_estimate_but_the_one_that_says_so():
    lacking = set()
    for name in boards.names():
        board = boards.board(name)
        if not board.simulated:
            fit = check_fit(estimate(board.machine, of(board.device)), board.device)
            if fit.lacks:
                lacking.add(name)
    assert lacking == {"icebreaker"}
