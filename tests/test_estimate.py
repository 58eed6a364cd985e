"""Estimates of what a machine takes of a device."""

import pytest

from hw import boards
from hw.arch.geometry import Geometry
from hw.build.estimate import CAPACITY, arrange, estimate
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
    assert arrange(depth, width, granularity) == expected


def test_block_rams_and_dsp_of_a_machine_that_was_built():
    geometry = Geometry(
        rows=16,
        columns=16,
        elements=2,
        weight_rows=3584,
        table_words=36864,
        descriptors=256,
        sums=1024,
        multiplicands=512,
        vectors=1024,
        states=384,
        activations=512,
        tokens=1024,
    )
    result = estimate(Machine(geometry=geometry))
    assert (result["bram"], result["dsp"]) == (200, 14)
    assert result["lut4"] == pytest.approx(18990, rel=0.1)
    assert result["ff"] == pytest.approx(9711, rel=0.1)


def test_board_fits_by_estimate():
    for name in boards.names():
        board = boards.board(name)
        if not board.simulated:
            for resource, value in estimate(board.machine).items():
                assert value <= CAPACITY[board.device][resource]
