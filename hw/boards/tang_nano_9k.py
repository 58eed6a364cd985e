"""Sipeed Tang Nano 9K with a Gowin GW1NR-9, whose block RAM is too small.

Its 26 blocks, 58 KB, are less than the weights, embedding and gains of the smallest shipped model
alone, 63 KB; all memories of its machine are, in yosys's words, ``bram 45 of 26 (1.7 times)``.
Nothing here drives the PSRAM that is in the package. A build says so before it begins;
``--synthesis-only`` shows what yosys makes of it.
"""

from dataclasses import replace

from hw.boards import Board
from hw.boards.icebreaker import BOARD as ICEBREAKER
from hw.links.uart import Uart
from hw.machine import BlockRam, Stores
from hw.programmers import open_fpga_loader

BOARD = Board(
    name="tang_nano_9k",
    platform="amaranth_boards.tang_nano_9k:TangNano9kPlatform",
    device="GW1NR-9C",
    price=(0, 25),
    clock_hz=27_000_000,
    link=Uart(baud=1_000_000),
    programmer=open_fpga_loader("--board", "tangnano9k"),
    model="stories-nano",
    machine=replace(ICEBREAKER.machine, stores=Stores(weights=BlockRam(latency=2))),
)
