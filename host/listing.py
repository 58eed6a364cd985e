"""Which devices there are: serial ports, by what they say of themselves, and simulated ones."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from host.errors import HostError
from host.link import Link
from host.ports import serial_port
from hw.arch.geometry import Geometry
from hw.arch.protocol import Identity
from weights.commandline import WIDTH, one_line

INDENT = 4
ATTEMPTS = 2
"""How often a port is asked who it is, half a second each."""


@dataclass(frozen=True, kw_only=True)
class SerialPort:
    """A serial port.

    Parameters
    ----------
    path : str
    about : str
        What it is, its maker, and its USB device, as far as the system knows.
    """

    path: str
    about: str


def serial_ports() -> list[SerialPort]:
    """All that the system has, without opening one."""
    from serial.tools.list_ports import comports

    found = []
    for port in sorted(comports(), key=lambda port: port.device):
        usb = port.vid is not None and f"USB {port.vid:04x}:{port.pid:04x}"
        serial = port.serial_number and f"serial number {port.serial_number}"
        known = port.description if port.description not in (None, "n/a") else None
        facts = [known, port.manufacturer, usb, serial]
        about = ", ".join(one_line(fact) for fact in facts if fact)
        found.append(SerialPort(path=port.device, about=about or "of an unknown kind"))
    return found


def asked(path: str) -> str:
    """What a device behind a serial port says of itself, or why it says nothing.

    This opens the port and writes to it: whatever is there gets a frame of the protocol.
    """
    try:
        port = serial_port(path)
        with contextlib.closing(Link(port, name=path, attempts=ATTEMPTS)) as link:
            return described(link.identify())
    except HostError as error:
        return str(error).removeprefix(f"{path}: ")


def described(identity: Identity) -> str:
    """A device by its own words, in one line."""
    machine = sized(identity.geometry, identity.clock_hz)
    return f"{identity.board}, {machine}, digest {identity.digest.hex()}"


def sized(geometry: Geometry, clock_hz: int) -> str:
    """A machine's lanes and clock."""
    return f"{geometry.lanes} lanes at {clock_hz / 1e6:g} MHz"


def listing(boards: Iterable[tuple[str, str]], *, identify: bool) -> Iterator[str]:
    """Lines of text: every device that ``--device`` may name here.

    Parameters
    ----------
    boards : pairs of str
        Names of boards that can be simulated, and what each is.
    identify : bool
        Whether serial ports are `asked`; otherwise nothing is opened.
    """
    ports = serial_ports()
    if not ports:
        yield "no serial port: connect a board that has its bitstream"
    for port in ports:
        yield port.path
        yield from _indented(port.about)
        if identify:
            yield from _indented(asked(port.path))
    names = dict(boards)
    width = max((len(name) for name in names), default=0)
    yield from (f"sim://{name:{width}}  {about}" for name, about in names.items())
    yield f"{'native://':{6 + width}}  this machine's processors"
    yield f"{'golden://':{6 + width}}  the reference, in NumPy"


def _indented(text: str) -> list[str]:
    margin = " " * INDENT
    return textwrap.wrap(text, WIDTH, initial_indent=margin, subsequent_indent=margin)
