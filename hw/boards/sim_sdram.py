"""A machine whose weights lie in an SDRAM, simulated only: 64 lanes, a row in eight cycles."""

from hw.arch.geometry import Geometry
from hw.boards import Board
from hw.machine import Machine, Stores
from hw.memory.sdram.parts import ULX3S
from hw.memory.sdram.store import Sdram

# Holds stories-base: d = 256, m = 704, 6 layers, 4,096 tokens.
BOARD = Board(
    name="sim_sdram",
    clock_hz=100_000_000,
    model="stories-base",
    machine=Machine(
        geometry=Geometry(
            rows=8,
            columns=8,
            elements=4,
            weight_rows=98304,
            table_words=147456,
            descriptors=128,
            sums=4096,
            multiplicands=704,
            vectors=1024,
            states=1536,
            activations=704,
            tokens=512,
        ),
        stores=Stores(weights=Sdram(part=ULX3S, clock_hz=100_000_000)),
    ),
)
