"""Icepi Zero 1.3 with an ECP5-25F: colorlight_i5 with half the data pins and twice the clock."""

from hw.boards import Board
from hw.boards.colorlight_i5 import BOARD as COLORLIGHT_I5
from hw.links.uart import Uart
from hw.machine import Machine, Stores
from hw.memory.sdram.parts import X16
from hw.memory.sdram.store import Sdram
from hw.programmers import open_fpga_loader

CLOCK_HZ = 60_000_000
SDRAM = Sdram(part=X16, clock_hz=CLOCK_HZ, ratio=2, rows_ahead=256)

BOARD = Board(
    name="icepi_zero",
    platform="amaranth_boards.icepi_zero:IcepiZero1_3Platform",
    device="LFE5U-25F",
    price=(50, 100),
    clock_hz=CLOCK_HZ,
    link=Uart(baud=1_000_000),
    programmer=open_fpga_loader("--board", "icepi-zero"),
    model="stories-base",
    machine=Machine(geometry=COLORLIGHT_I5.geometry, stores=Stores(weights=SDRAM, embedding=SDRAM)),
)
