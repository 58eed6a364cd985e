"""How bitstreams get into boards: data, for `hw.build.program`."""

from dataclasses import dataclass

SOURCES = {
    "openFPGALoader": "apt install openfpgaloader, brew install openfpgaloader, "
    "or github.com/trabucayre/openFPGALoader",
    "dfu-util": "apt install dfu-util, or brew install dfu-util",
    "iceprog": "apt install fpga-icestorm, or brew install icestorm",
    "icesprog": "github.com/wuxx/icesugar",
}
"""The programs, and where each is from."""


@dataclass(frozen=True, kw_only=True)
class Programmer:
    """The program that loads a board's bitstream.

    Parameters
    ----------
    tool : str
        Its name, one of `SOURCES`.
    load : tuple of str or None
        Its options, before the bitstream, to load it until the power goes; None where a board has
        nothing but its flash.
    flash : tuple of str
        The same to keep it, too.
    ready : str
        What to do with the board before, unless it listens whenever it has power.
    """

    tool: str
    load: tuple[str, ...] | None
    flash: tuple[str, ...]
    ready: str = ""

    def __post_init__(self):
        if self.tool not in SOURCES:
            raise ValueError(f"tool must be one of {', '.join(SOURCES)}, not {self.tool!r}")


def open_fpga_loader(*cable: str, keep: tuple[str, ...] = ("--write-flash",)) -> Programmer:
    """openFPGALoader with the options of a board or cable, and those that ``keep`` a bitstream."""
    return Programmer(tool="openFPGALoader", load=cable, flash=(*cable, *keep))
