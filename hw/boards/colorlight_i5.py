"""Colorlight i5 with an ECP5-25F: a small chip beside an SDRAM of 32 data pins."""

from hw.arch.geometry import Geometry
from hw.boards import Board
from hw.links.uart import Uart
from hw.machine import Machine, Stores
from hw.memory.sdram.parts import COLORLIGHT
from hw.memory.sdram.store import Sdram
from hw.programmers import open_fpga_loader

CLOCK_HZ = 75_000_000
SDRAM = Sdram(part=COLORLIGHT, clock_hz=CLOCK_HZ, rows_ahead=256)

# Holds stories-base: d = 256, m = 704, 6 layers, 4,096 tokens. A row of 80 trits is four words.
BOARD = Board(
    name="colorlight_i5",
    platform="hw.platforms.colorlight_i5:ColorlightI5Platform",
    device="LFE5U-25F",
    price=(25, 50),
    clock_hz=CLOCK_HZ,
    link=Uart(baud=1_000_000),
    # Its flash comes protected.
    programmer=open_fpga_loader(
        "--board", "colorlight-i5", keep=("--unprotect-flash", "--write-flash")
    ),
    model="stories-base",
    machine=Machine(
        geometry=Geometry(
            rows=10,
            columns=8,
            elements=2,
            weight_rows=1 << 18,
            table_words=9728,
            embedding_words=1 << 19,
            descriptors=128,
            sums=4100,
            multiplicands=1024,
            vectors=1024,
            states=2048,
            activations=1024,
            tokens=1024,
            trits_per_byte=5,
        ),
        stores=Stores(weights=SDRAM, embedding=SDRAM),
    ),
)
