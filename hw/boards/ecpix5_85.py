"""LambdaConcept ECPIX-5 with an ECP5-5G-85F: the machine of ulx3s_85f on a faster device."""

from hw.boards import Board
from hw.boards.ulx3s_85f import BOARD as ULX3S_85F
from hw.links.uart import Uart

BOARD = Board(
    name="ecpix5_85",
    platform="amaranth_boards.ecpix5:ECPIX585Platform",
    device="LFE5UM5G-85F",
    clock_hz=100_000_000,
    link=Uart(baud=1_000_000),
    machine=ULX3S_85F.machine,
)
