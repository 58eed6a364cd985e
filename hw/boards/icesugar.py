"""iCESugar with an iCE40UP5K: the machine of icebreaker."""

from hw.boards import Board
from hw.boards.icebreaker import BOARD as ICEBREAKER
from hw.links.uart import Uart
from hw.programmers import Programmer

# Its debugger's UART is made for 115,200 baud.
BOARD = Board(
    name="icesugar",
    platform="amaranth_boards.icesugar:ICESugarPlatform",
    device="iCE40UP5K",
    price=(25, 50),
    clock_hz=ICEBREAKER.clock_hz,
    link=Uart(baud=115_200),
    programmer=Programmer(tool="icesprog", load=None, flash=()),
    model=ICEBREAKER.model,
    machine=ICEBREAKER.machine,
)
