"""OrangeCrab r0.2 with an ECP5-25F: the smallest of the shipped models in block RAM."""

from dataclasses import replace

from hw.boards import Board
from hw.boards.orangecrab_85f import BOARD as ORANGECRAB_85F
from hw.boards.tang_primer_20k import BOARD as TANG_PRIMER_20K
from hw.machine import Machine

# The sizes of tang_primer_20k, whose part has fewer block RAMs, with twice its lanes and four times
# its elements: 448 embedding rows of 9 words and 524 words of gains and bounds.
BOARD = Board(
    name="orangecrab_25f",
    platform="amaranth_boards.orangecrab_r0_2:OrangeCrabR0_2_25FPlatform",
    device="LFE5U-25F",
    speed=ORANGECRAB_85F.speed,
    price=ORANGECRAB_85F.price,
    clock_hz=ORANGECRAB_85F.clock_hz,
    link=ORANGECRAB_85F.link,
    programmer=ORANGECRAB_85F.programmer,
    model=TANG_PRIMER_20K.model,
    machine=Machine(
        geometry=replace(
            TANG_PRIMER_20K.geometry,
            rows=8,
            columns=16,
            elements=4,
            weight_rows=1024,
            table_words=4608,
        ),
        chain=4,
        fanout=4,
    ),
)
