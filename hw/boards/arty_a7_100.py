"""Digilent Arty A7-100T with an XC7A100T: a small model in block RAM, four texts at once."""

from hw.arch.geometry import Geometry
from hw.boards import Board
from hw.links.uart import Uart
from hw.machine import BlockRam, Machine, Stores
from hw.programmers import open_fpga_loader

# Holds d = 128, m = 512, 3 layers, 1,024 tokens: 917,504 trits are 912 rows of 1,024, as some
# matrices leave part of a row; 1,024 embedding rows of 9 words and 840 words of gains are 10,056
# words. Steps of other contexts wait before each unit, so that engine and vector unit both work. A
# third of the LUTs are used, and nearly all block RAMs: what is wide is spread over the chip. The
# clock is one that is asked for: nobody has routed this yet.
BOARD = Board(
    name="arty_a7_100",
    platform="amaranth_boards.arty_a7:ArtyA7_100Platform",
    device="xc7a100ti",
    price=(200, 400),
    clock_hz=80_000_000,
    link=Uart(baud=1_000_000),
    programmer=open_fpga_loader("--board", "arty_a7_100t"),
    machine=Machine(
        geometry=Geometry(
            rows=32,
            columns=32,
            elements=8,
            weight_rows=1024,
            table_words=10240,
            descriptors=128,
            sums=2048,
            multiplicands=512,
            vectors=1024,
            states=1024,
            activations=512,
            tokens=1024,
            contexts=4,
        ),
        chain=8,
        fanout=4,
        queued=2,
        stores=Stores(weights=BlockRam(latency=5)),
    ),
)
