"""LambdaConcept ECPIX-5 with an ECP5-5G-85F: the machine of ulx3s_85f, all of it in block RAM."""

from dataclasses import replace

from hw.boards import Board
from hw.boards.ulx3s_85f import BOARD as ULX3S_85F
from hw.links.uart import Uart
from hw.machine import Machine
from hw.programmers import open_fpga_loader

BOARD = Board(
    name="ecpix5_85",
    platform="amaranth_boards.ecpix5:ECPIX585Platform",
    device="LFE5UM5G-85F",
    clock_hz=100_000_000,
    link=Uart(baud=1_000_000),
    programmer=open_fpga_loader("--board", "ecpix5"),
    # 1,024 embedding rows of 33 words and 2,624 words of gains are 36,416 words.
    machine=Machine(
        geometry=replace(ULX3S_85F.geometry, table_words=36864, embedding_words=0),
    ),
)
