"""OrangeCrab r0.2 with an ECP5-85F: the machine of ecpix5_85 behind USB."""

from hw.boards import Board
from hw.boards.ecpix5_85 import BOARD as ECPIX5_85
from hw.links.usb import UsbSerial

# The clock is one that the PLL makes beside those of USB.
BOARD = Board(
    name="orangecrab_85f",
    platform="amaranth_boards.orangecrab_r0_2:OrangeCrabR0_2_85FPlatform",
    device="LFE5U-85F",
    clock_hz=72_000_000,
    link=UsbSerial(),
    machine=ECPIX5_85.machine,
)
