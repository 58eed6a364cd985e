"""UPduino 3.0 or 3.1, whose OSC jumper leads the board's oscillator to the chip.

Pins are as its maker's constraint file has them.
"""

from typing import ClassVar

from amaranth.build import Attrs
from amaranth_boards.resources import UARTResource
from amaranth_boards.upduino_v3 import UpduinoV3Platform as WithoutUart


class UpduinoV3Platform(WithoutUart):
    """Its UART shares two pins with the flash, which nobody selects once the chip has its
    configuration."""

    default_clk = "clk12"
    resources: ClassVar[list] = [
        *WithoutUart.resources,
        UARTResource(0, rx="15", tx="14", attrs=Attrs(IO_STANDARD="SB_LVCMOS")),
    ]
