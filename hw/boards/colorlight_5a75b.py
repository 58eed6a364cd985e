"""Colorlight 5A-75B, revision 7.0, with an ECP5-25F: a receiver of LED walls, and cheap."""

from dataclasses import replace

from hw.boards import Board
from hw.boards.colorlight_i5 import BOARD as COLORLIGHT_I5
from hw.links.uart import Uart
from hw.machine import Machine, Stores
from hw.memory.sdram.parts import COLORLIGHT_5A
from hw.memory.sdram.store import Sdram
from hw.programmers import open_fpga_loader

CLOCK_HZ = 75_000_000
SDRAM = Sdram(part=COLORLIGHT_5A, clock_hz=CLOCK_HZ, rows_ahead=256)

# The machine of colorlight_i5 beside half its SDRAM, which still holds stories-base. Its UART is at
# J19, the outputs of a LED and the input of a button: KEY+ has a capacitor on some revisions, so
# that the line is slow.
BOARD = Board(
    name="colorlight_5a75b",
    platform="amaranth_boards.colorlight_5a75b_r7_0:Colorlight_5A75B_R70Platform",
    device="LFE5U-25F",
    price=(0, 25),
    clock_hz=CLOCK_HZ,
    link=Uart(baud=115_200),
    programmer=open_fpga_loader(
        "--board", "colorlight", keep=("--unprotect-flash", "--write-flash")
    ),
    model="stories-base",
    machine=Machine(
        geometry=replace(COLORLIGHT_I5.geometry, weight_rows=1 << 17),
        stores=Stores(weights=SDRAM, embedding=SDRAM),
    ),
)
