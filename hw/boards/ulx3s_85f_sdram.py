"""Radiona ULX3S with an ECP5-85F: large models, their weights and embedding in SDRAM."""

from hw.arch.geometry import Geometry
from hw.boards import Board
from hw.links.uart import Uart
from hw.machine import Machine, Stores
from hw.memory.sdram.parts import ULX3S
from hw.memory.sdram.store import Sdram
from hw.programmers import open_fpga_loader

CLOCK_HZ = 60_000_000
SDRAM = Sdram(part=ULX3S, clock_hz=CLOCK_HZ, ratio=2)

# The SDRAM has twice the clock. 160 trits are sixteen times what it gives in a cycle: one context
# uses a row for one cycle of sixteen, and four do so for four of them, at no cost. Holds d = 512,
# m = 1,408, 9 layers, 4,096 tokens: 31 M trits. The banks of four contexts lie all over the chip,
# and the longest path is a wire to their addresses.
BOARD = Board(
    name="ulx3s_85f_sdram",
    platform="amaranth_boards.ulx3s:ULX3S_85F_Platform",
    device="LFE5U-85F",
    price=(100, 200),
    clock_hz=CLOCK_HZ,
    link=Uart(baud=1_000_000),
    programmer=open_fpga_loader("--board", "ulx3s"),
    model="stories-base",
    machine=Machine(
        geometry=Geometry(
            rows=20,
            columns=8,
            elements=4,
            weight_rows=1 << 19,
            table_words=14336,
            embedding_words=1 << 19,
            descriptors=128,
            sums=8192,
            multiplicands=2048,
            vectors=2048,
            states=8192,
            activations=2048,
            tokens=512,
            trits_per_byte=5,
            contexts=4,
        ),
        shared=True,
        stores=Stores(weights=SDRAM, embedding=SDRAM),
    ),
)
