"""The smallest machine, simulated only: 16 lanes, one element a cycle, room for deep models."""

from hw.arch.geometry import Geometry
from hw.boards import Board
from hw.machine import Machine

BOARD = Board(
    name="sim_tiny",
    clock_hz=50_000_000,
    machine=Machine(
        geometry=Geometry(
            rows=4,
            columns=4,
            elements=1,
            weight_rows=16384,
            table_words=65536,
            descriptors=128,
            sums=1040,
            multiplicands=256,
            vectors=512,
            states=1024,
            activations=256,
            tokens=48,
        ),
    ),
)
