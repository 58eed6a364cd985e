"""Digilent Arty A7-100T with an XC7A100T: a small model, all of it in block RAM."""

from hw.arch.geometry import Geometry
from hw.boards import Board
from hw.links.uart import Uart
from hw.machine import BlockRam, Machine, Stores
from hw.programmers import open_fpga_loader

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
            rows=16,
            columns=32,
            elements=4,
            weight_rows=1792,
            table_words=20480,
            descriptors=128,
            sums=1280,
            multiplicands=512,
            vectors=1024,
            states=768,
            activations=512,
            tokens=1024,
        ),
        chain=8,
        fanout=4,
        stores=Stores(weights=BlockRam(latency=5)),
    ),
)
