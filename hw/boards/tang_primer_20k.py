"""Sipeed Tang Primer 20K on its dock, with a Gowin GW2A-18: the smallest of the shipped models."""

from hw.arch.geometry import Geometry
from hw.boards import Board
from hw.links.uart import Uart
from hw.machine import Machine
from hw.programmers import open_fpga_loader

# Holds d = 64, m = 80, 3 layers, 448 tokens: 1,936 rows of 64 trits; 448 embedding rows of 33 words
# and 2,096 words of gains are 16,880 words. Nearly all of the block RAM is in use.
BOARD = Board(
    name="tang_primer_20k",
    platform="amaranth_boards.tang_primer_20k:TangPrimer20kDockPlatform",
    device="GW2A-18C",
    price=(25, 50),
    clock_hz=54_000_000,
    link=Uart(baud=1_000_000),
    programmer=open_fpga_loader("--board", "tangprimer20k", keep=("--external-flash",)),
    model="stories-nano",
    machine=Machine(
        geometry=Geometry(
            rows=4,
            columns=16,
            elements=1,
            weight_rows=2048,
            table_words=16896,
            descriptors=80,
            sums=512,
            multiplicands=80,
            vectors=256,
            states=192,
            activations=128,
            tokens=256,
        ),
    ),
)
