"""Sipeed Tang Nano 20K with a Gowin GW2AR-18, in whose package the model's SDRAM is."""

from hw.arch.geometry import Geometry
from hw.boards import Board
from hw.links.uart import Uart
from hw.machine import Machine, Stores
from hw.memory.sdram.parts import EM638325
from hw.memory.sdram.store import Sdram
from hw.programmers import open_fpga_loader

CLOCK_HZ = 54_000_000
SDRAM = Sdram(part=EM638325, clock_hz=CLOCK_HZ, rows_ahead=32)

# Holds stories-base: d = 256, m = 704, 6 layers, 4,096 tokens. A row of 64 trits is four words.
# Nearly all of the block RAM is in use, so that rows ahead are in LUTs.
BOARD = Board(
    name="tang_nano_20k",
    platform="hw.platforms.tang_nano_20k:TangNano20kPlatform",
    device="GW2AR-18C",
    price=(25, 50),
    clock_hz=CLOCK_HZ,
    link=Uart(baud=1_000_000),
    programmer=open_fpga_loader("--board", "tangnano20k"),
    model="stories-base",
    machine=Machine(
        geometry=Geometry(
            rows=8,
            columns=8,
            elements=2,
            weight_rows=1 << 17,
            table_words=9728,
            embedding_words=1 << 19,
            descriptors=128,
            sums=4096,
            multiplicands=1024,
            vectors=1024,
            states=2048,
            activations=1024,
            tokens=1024,
        ),
        stores=Stores(weights=SDRAM, embedding=SDRAM),
    ),
)
