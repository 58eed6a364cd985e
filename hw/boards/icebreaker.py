"""1BitSquared iCEBreaker with an iCE40UP5K, which is too small.

The smallest machine takes 1.3 times its LUTs and 5.3 times its block RAM. A build says so
before it begins; ``--synthesis-only`` shows what yosys makes of it.
"""

from hw.arch.geometry import Geometry
from hw.arch.protocol import NO_FEATURES
from hw.boards import Board
from hw.links.uart import Uart
from hw.machine import Machine
from hw.programmers import Programmer

# What the smallest of the shipped models needs, and the fewest lanes.
BOARD = Board(
    name="icebreaker",
    platform="amaranth_boards.icebreaker:ICEBreakerPlatform",
    device="iCE40UP5K",
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
        features=NO_FEATURES,
        max_payload=256,
    ),
)
