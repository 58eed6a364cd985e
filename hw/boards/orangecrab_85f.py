"""OrangeCrab r0.2 with an ECP5-85F: the machine of ulx3s_85f behind USB."""

from hw.boards import Board
from hw.boards.ulx3s_85f import BOARD as ULX3S_85F
from hw.links.usb import UsbSerial

# The clock is one that the PLL makes beside those of USB.
BOARD = Board(
    name="orangecrab_85f",
    platform="amaranth_boards.orangecrab_r0_2:OrangeCrabR0_2_85FPlatform",
    device="LFE5U-85F",
    clock_hz=72_000_000,
    link=UsbSerial(),
    machine=ULX3S_85F.machine,
)
