"""LambdaConcept ECPIX-5 with an ECP5-5G-85F: a small model, all of it in block RAM."""

from hw.arch.geometry import Geometry
from hw.boards import Board
from hw.links.uart import Uart
from hw.machine import Machine
from hw.programmers import open_fpga_loader

# Holds d = 128, m = 512, 3 layers, 1,024 tokens: 917,504 trits are 3,584 rows of 256; 1,024
# embedding rows of 33 words and 2,624 words of gains are 36,416 words.
BOARD = Board(
    name="ecpix5_85",
    platform="amaranth_boards.ecpix5:ECPIX585Platform",
    device="LFE5UM5G-85F",
    price=(100, 200),
    clock_hz=100_000_000,
    link=Uart(baud=1_000_000),
    programmer=open_fpga_loader("--board", "ecpix5"),
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
