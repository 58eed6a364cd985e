"""A small machine for tests, simulated only: 96 lanes in an awkward shape."""

from hw.arch.geometry import Geometry
from hw.boards import Board
from hw.machine import Machine

BOARD = Board(
    name="sim_small",
    clock_hz=50_000_000,
    machine=Machine(
        geometry=Geometry(
            rows=12,
            columns=8,
            elements=4,
            weight_rows=10000,
            table_words=20000,
            descriptors=128,
            sums=1040,
            multiplicands=520,
            vectors=1000,
            states=400,
            activations=520,
            tokens=100,
        ),
    ),
)
