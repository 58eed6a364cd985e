"""LambdaConcept ECPIX-5 with an ECP5-5G-85F: a small model, all of it in block RAM."""

from hw.arch.geometry import Geometry
from hw.boards import Board
from hw.links.uart import Uart
from hw.machine import Machine
from hw.programmers import open_fpga_loader

# Holds d = 96, m = 208, 8 layers, 1,280 tokens: 3,552 rows of 256 trits; 1,280 embedding rows of 13
# words and 2,192 words of gains and bounds are 18,832 words. Nearly all of the block RAM is in use.
BOARD = Board(
    name="ecpix5_85",
    platform="amaranth_boards.ecpix5:ECPIX585Platform",
    device="LFE5UM5G-85F",
    speed="8",
    price=(100, 200),
    clock_hz=100_000_000,
    link=Uart(baud=1_000_000),
    programmer=open_fpga_loader("--board", "ecpix5"),
    machine=Machine(
        geometry=Geometry(
            rows=8,
            columns=32,
            elements=4,
            weight_rows=3584,
            table_words=18944,
            descriptors=128,
            sums=1280,
            multiplicands=512,
            vectors=1024,
            states=768,
            activations=512,
            tokens=1024,
        ),
        chain=4,
        fanout=4,
    ),
)
