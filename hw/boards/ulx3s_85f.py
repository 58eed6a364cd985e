"""Radiona ULX3S with an ECP5-85F: four streams of a small model in block RAM."""

from hw.arch.geometry import Geometry
from hw.boards import Board
from hw.links.uart import Uart
from hw.machine import BlockRam, Machine, Stores
from hw.memory.sdram.parts import ULX3S
from hw.memory.sdram.store import Sdram
from hw.programmers import open_fpga_loader

CLOCK_HZ = 65_000_000

# Holds d = 128, m = 512, 3 layers, 1,024 tokens: 917,504 trits are 1,792 rows of 512. Holds d = 96,
# m = 208, 8 layers, 1,280 tokens, too: 1,776 rows, 768 states, 1,096 words of gains and bounds and
# 7 for an embedding row, of which 1,280 are 8,960 words. Widths that are no multiples of 32 cost
# both of them few cycles, of 64 would cost a third. A row of weights comes from all over the chip:
# it is given two registers more, and codes a copy every four rows. hw.build.estimate counts the
# block RAMs.
BOARD = Board(
    name="ulx3s_85f",
    platform="amaranth_boards.ulx3s:ULX3S_85F_Platform",
    device="LFE5U-85F",
    price=(100, 200),
    clock_hz=CLOCK_HZ,
    link=Uart(baud=1_000_000),
    programmer=open_fpga_loader("--board", "ulx3s"),
    seed=1,
    machine=Machine(
        geometry=Geometry(
            rows=16,
            columns=32,
            elements=8,
            weight_rows=1792,
            table_words=1152,
            embedding_words=16384,
            descriptors=128,
            sums=2048,
            multiplicands=512,
            vectors=1024,
            states=1024,
            activations=512,
            tokens=1024,
            contexts=4,
        ),
        queued=4,
        chain=8,
        fanout=4,
        digits_per_cycle=2,
        stores=Stores(
            weights=BlockRam(latency=5),
            embedding=Sdram(part=ULX3S, clock_hz=CLOCK_HZ),
        ),
    ),
)
