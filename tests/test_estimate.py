"""Estimates of what a machine takes of a device."""

from dataclasses import replace

import pytest

from hw import boards
from hw.build.estimate import arrange, check_fit, estimate
from hw.build.steps import check_size
from hw.families import ecp5, of
from hw.machine import Machine


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


def sized(name: str, **sizes) -> boards.Board:
    """A board with a machine of trees of other sizes, for one stream."""
    board = boards.board(name)
    geometry = replace(board.geometry, contexts=1, **sizes)
    return replace(board, machine=Machine(geometry=geometry))


SQUARE = {"rows": 16, "columns": 16, "elements": 2, "table_words": 36864}


def test_resources_of_one_stream():
    """A machine of ulx3s_85f with one context, packed by nextpnr 0.11.1 behind yosys 0.70.

    Those of boards are compared with the reports that are kept (`hw.build.compare`).
    """
    board = boards.board("ulx3s_85f")
    memories = {"sums": 1280, "states": 768, "table_words": 2304}
    geometry = replace(board.geometry, contexts=1, elements=4, **memories)
    machine = replace(board.machine, geometry=geometry, queued=0, digits_per_cycle=1)
    alone = replace(board, machine=machine)
    result = estimate(alone)
    assert result["lut4"] == pytest.approx(18057, rel=0.03)
    assert result["ff"] == pytest.approx(25268, rel=0.03)
    assert (result["bram"], result["dsp"]) == (148, 16)


@pytest.mark.parametrize(("name", "luts"), [("tang_primer_20k", 8585), ("icebreaker", 4698)])
def test_luts_of_other_families(name, luts):
    """As nextpnr 0.11.1 packs them."""
    assert estimate(boards.board(name))["lut4"] == pytest.approx(luts, rel=0.03)


def test_five_trits_in_a_byte_take_ten_luts_a_byte():
    """Rows of 64 bytes in block RAM: beside four more rows of 16 lanes, what decodes them."""
    board = sized("ecpix5_85", **SQUARE)
    geometry = replace(board.geometry, rows=20, trits_per_byte=5)
    dense = replace(board, machine=replace(board.machine, geometry=geometry))
    usual, more = estimate(board), estimate(dense)
    assert more["bram"] == usual["bram"]
    assert more["ff"] - usual["ff"] == pytest.approx(64 * 13.4 + 4 * 34.5 + 64 * 10, abs=1)
    assert more["lut4"] - usual["lut4"] == pytest.approx(64 * 23.2 + 4 * 42 + 64 * 10, abs=1)


def test_cascades_take_less_logic_and_more_flip_flops():
    """As the engine of 16 x 16 lanes does that is packed alone, with cascades of 8."""
    board = sized("ecpix5_85", **SQUARE)
    cascaded = replace(board, machine=replace(board.machine, chain=8))
    trees, cascades = estimate(board), estimate(cascaded)
    assert trees["lut4"] - cascades["lut4"] == pytest.approx(6747 - 3783, rel=0.05)
    assert cascades["ff"] - trees["ff"] == pytest.approx(6108 - 4119, rel=0.1)


@pytest.mark.parametrize(("name", "luts"), [("icebreaker", 2507), ("tang_primer_20k", 2658)])
def test_cascades_where_carry_cells_choose_nothing(name, luts):
    """Eight more rows of 16 lanes of an engine, as yosys 0.70 has them alone."""
    board = boards.board(name)

    def estimated(rows):
        geometry = replace(board.geometry, rows=rows, columns=16, elements=2, weight_rows=256)
        machine = replace(board.machine, geometry=geometry, chain=8)
        result = estimate(replace(board, machine=machine))
        return result["lut4"] - of(board.device).alone * result["ff"]

    assert estimated(16) - estimated(8) == pytest.approx(luts, rel=0.05)


def test_boards_fit_by_estimate():
    lacking = set()
    for name in boards.names():
        board = boards.board(name)
        if not board.simulated:
            fit = check_fit(estimate(board), board.device)
            if fit.lacks:
                lacking.add(name)
    assert lacking == {"tang_nano_9k"}  # as its file says


@pytest.mark.parametrize(("clock_hz", "warned"), [(75_000_000, False), (85_000_000, True)])
def test_a_clock_beyond_what_machines_reach_is_told(clock_hz, warned):
    said = []
    check_size(replace(boards.board("ulx3s_45f"), clock_hz=clock_hz), said.append)
    expected = (
        "warning: 85 MHz is more than most machines reach on LFE5U-45F, about 81; a lower clock_hz "
        "would help"
    )
    assert said == [expected] * warned
