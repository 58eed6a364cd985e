"""Radiona ULX3S with an ECP5-45F: a tiny model for four streams at once."""

from hw.arch.geometry import Geometry
from hw.boards import Board
from hw.links.uart import Uart
from hw.machine import Machine
from hw.programmers import open_fpga_loader

# Holds d = 64, m = 80, 5 layers, 1,024 tokens: 896 rows of 256 trits; 1,024 embedding rows of 9
# words and 852 words of gains and bounds are 10,068 words.
BOARD = Board(
    name="ulx3s_45f",
    platform="amaranth_boards.ulx3s:ULX3S_45F_Platform",
    device="LFE5U-45F",
    price=(100, 200),
    clock_hz=80_000_000,
    link=Uart(baud=1_000_000),
    programmer=open_fpga_loader("--board", "ulx3s"),
    model="stories-tiny",
    machine=Machine(
        geometry=Geometry(
            rows=8,
            columns=32,
            elements=4,
            weight_rows=1024,
            table_words=10240,
            descriptors=128,
            sums=1024,
            multiplicands=128,
            vectors=256,
            states=512,
            activations=256,
            tokens=1024,
            contexts=4,
        ),
        queued=4,
        chain=4,
        fanout=4,
    ),
)
