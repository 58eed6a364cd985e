"""Radiona ULX3S with an ECP5-85F: a whole small model in block RAM."""

from hw.arch.geometry import Geometry
from hw.boards import Board
from hw.links.uart import Uart
from hw.machine import Machine

# Holds d = 128, m = 512, 3 layers, 1,024 tokens: 917,504 trits are 3,584 rows of 256; 1,024
# embedding rows of 33 words and 2,624 words of gains are 36,416 words. Holds d = 96, m = 208,
# 8 layers, 1,280 tokens, too: 3,504 rows, 768 states. hw.build.estimate counts the block RAMs.
BOARD = Board(
    name="ulx3s_85f",
    platform="amaranth_boards.ulx3s:ULX3S_85F_Platform",
    device="LFE5U-85F",
    clock_hz=70_000_000,
    link=Uart(baud=1_000_000),
    seed=1,
    machine=Machine(
        geometry=Geometry(
            rows=16,
            columns=16,
            elements=2,
            weight_rows=3584,
            table_words=36864,
            descriptors=128,
            sums=1280,
            multiplicands=512,
            vectors=1024,
            states=768,
            activations=512,
            tokens=1024,
        ),
    ),
)
