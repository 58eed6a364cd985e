"""OrangeCrab r0.2 with an ECP5-85F: the machine of ecpix5_85 behind USB."""

from hw.boards import Board
from hw.boards.ecpix5_85 import BOARD as ECPIX5_85
from hw.links.usb import UsbSerial
from hw.programmers import Programmer

# The clock is one that the PLL makes beside those of USB.
BOARD = Board(
    name="orangecrab_85f",
    platform="amaranth_boards.orangecrab_r0_2:OrangeCrabR0_2_85FPlatform",
    device="LFE5U-85F",
    speed="8",
    price=(100, 200),
    clock_hz=90_000_000,
    link=UsbSerial(),
    programmer=Programmer(
        tool="dfu-util",
        load=None,
        flash=("--device", "1209:5af0", "--alt", "0", "--download"),
        ready="hold its button while you plug it in, so that its bootloader listens",
    ),
    machine=ECPIX5_85.machine,
)
