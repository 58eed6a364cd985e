"""1BitSquared iCEBreaker with an iCE40UP5K: the smallest machine, and the smallest model."""

from hw.arch.geometry import Geometry
from hw.arch.protocol import NO_FEATURES
from hw.boards import Board
from hw.links.uart import Uart
from hw.machine import BlockRam, Machine, Stores
from hw.programmers import Programmer

# What the smallest of the shipped models needs, weights and tables in SPRAM, all of it, the fewest
# lanes, and nothing that the host can do without.
BOARD = Board(
    name="icebreaker",
    platform="amaranth_boards.icebreaker:ICEBreakerPlatform",
    device="iCE40UP5K",
    price=(50, 100),
    clock_hz=12_000_000,
    link=Uart(baud=1_000_000),
    programmer=Programmer(tool="iceprog", load=None, flash=()),
    model="stories-nano",
    machine=Machine(
        geometry=Geometry(
            rows=4,
            columns=4,
            elements=1,
            weight_rows=7744,
            table_words=16896,
            descriptors=80,
            sums=512,
            multiplicands=80,
            vectors=144,
            states=192,
            activations=128,
            tokens=256,
        ),
        stores=Stores(weights=BlockRam(latency=1, narrow=True), narrow=True),
        features=NO_FEATURES,
        max_payload=256,
        compact=True,
    ),
)
