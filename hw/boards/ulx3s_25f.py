"""Radiona ULX3S with an ECP5-25F: the machine of icepi_zero."""

from hw.boards import Board
from hw.boards.icepi_zero import BOARD as ICEPI_ZERO
from hw.links.uart import Uart
from hw.programmers import open_fpga_loader

BOARD = Board(
    name="ulx3s_25f",
    platform="amaranth_boards.ulx3s:ULX3S_25F_Platform",
    device="LFE5U-25F",
    price=(100, 200),
    clock_hz=ICEPI_ZERO.clock_hz,
    link=Uart(baud=1_000_000),
    programmer=open_fpga_loader("--board", "ulx3s"),
    model="stories-base",
    machine=ICEPI_ZERO.machine,
)
