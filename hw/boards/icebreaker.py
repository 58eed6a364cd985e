"""1BitSquared iCEBreaker with an iCE40UP5K, which is too small.

The smallest machine has all memories that its model needs, weights and tables in SPRAM, and takes
1.4 times the logic cells and 10 of 8 multipliers. A build says so before it begins;
``--synthesis-only`` shows what yosys makes of it.
"""

from hw.arch.geometry import Geometry
from hw.arch.protocol import NO_FEATURES
from hw.boards import Board
from hw.links.uart import Uart
from hw.machine import BlockRam, Machine, Stores
from hw.programmers import Programmer

# What the smallest of the shipped models needs, the fewest lanes, and nothing that the host can do
# without: 28 of 30 block RAMs and all SPRAM. It is 4,985 LUT4 by yosys, of 5,280; but 2,169
# flip-flops have no LUT before them, so that nextpnr makes 7,369 logic cells of it.
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
