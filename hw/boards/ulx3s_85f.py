"""Radiona ULX3S with an ECP5-85F: a small model in block RAM, its embedding in SDRAM."""

from hw.arch.geometry import Geometry
from hw.boards import Board
from hw.links.uart import Uart
from hw.machine import Machine, Stores
from hw.memory.sdram.parts import ULX3S
from hw.memory.sdram.store import Sdram
from hw.programmers import open_fpga_loader

CLOCK_HZ = 70_000_000

# Holds d = 128, m = 512, 3 layers, 1,024 tokens: 917,504 trits are 3,584 rows of 256; 1,024
# embedding rows of 33 words are 33,792 words. Holds d = 96, m = 208, 8 layers, 1,280 tokens, too:
# 3,504 rows, 768 states, 4,384 words of gains and bounds and 25 for an embedding row.
# hw.build.estimate counts the block RAMs.
BOARD = Board(
    name="ulx3s_85f",
    platform="amaranth_boards.ulx3s:ULX3S_85F_Platform",
    device="LFE5U-85F",
    clock_hz=CLOCK_HZ,
    link=Uart(baud=1_000_000),
    programmer=open_fpga_loader("--board", "ulx3s"),
    seed=1,
    machine=Machine(
        geometry=Geometry(
            rows=16,
            columns=16,
            elements=2,
            weight_rows=3584,
            table_words=4608,
            embedding_words=65536,
            descriptors=128,
            sums=1280,
            multiplicands=512,
            vectors=1024,
            states=768,
            activations=512,
            tokens=1024,
        ),
        stores=Stores(embedding=Sdram(part=ULX3S, clock_hz=CLOCK_HZ)),
    ),
)
