"""UPduino 3 with an iCE40UP5K: the machine of icebreaker."""

from hw.boards import Board
from hw.boards.icebreaker import BOARD as ICEBREAKER

BOARD = Board(
    name="upduino_v3",
    platform="hw.platforms.upduino_v3:UpduinoV3Platform",
    device="iCE40UP5K",
    price=(25, 50),
    clock_hz=ICEBREAKER.clock_hz,
    link=ICEBREAKER.link,
    programmer=ICEBREAKER.programmer,
    model=ICEBREAKER.model,
    machine=ICEBREAKER.machine,
)
