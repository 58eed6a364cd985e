"""Radiona ULX3S with an ECP5-45F: a tiny model, twice as many lanes as its larger sister has."""

from hw.arch.geometry import Geometry
from hw.boards import Board
from hw.links.uart import Uart
from hw.machine import Machine
from hw.programmers import open_fpga_loader

# Holds d = 64, m = 80, 5 layers, 1,024 tokens: 458 rows of 512 trits; 1,024 embedding rows of 17
# words and 1,704 words of gains are 19,112 words.
BOARD = Board(
    name="ulx3s_45f",
    platform="amaranth_boards.ulx3s:ULX3S_45F_Platform",
    device="LFE5U-45F",
    price=(100, 200),
    clock_hz=55_000_000,
    link=Uart(baud=1_000_000),
    programmer=open_fpga_loader("--board", "ulx3s"),
    seed=2,
    model="stories-tiny",
    machine=Machine(
        geometry=Geometry(
            rows=32,
            columns=16,
            elements=2,
            weight_rows=512,
            table_words=20480,
            descriptors=512,
            sums=1024,
            multiplicands=512,
            vectors=1024,
            states=512,
            activations=512,
            tokens=1024,
        ),
    ),
)
