"""iCESugar-pro with an ECP5-25F: the machine of icepi_zero."""

from hw.boards import Board
from hw.boards.icepi_zero import BOARD as ICEPI_ZERO
from hw.links.uart import Uart
from hw.programmers import open_fpga_loader

BOARD = Board(
    name="icesugar_pro",
    platform="amaranth_boards.icesugar_pro:ICESugarProPlatform",
    device="LFE5U-25F",
    price=(50, 100),
    clock_hz=ICEPI_ZERO.clock_hz,
    link=Uart(baud=1_000_000),
    programmer=open_fpga_loader("--cable", "cmsisdap", "--vid", "0x1d50", "--pid", "0x602b"),
    model="stories-base",
    machine=ICEPI_ZERO.machine,
)
