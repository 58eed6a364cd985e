"""What bytes go through: serial ports, sockets, and the simulated device's."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from host.errors import DeviceError, UsageError
from hw.arch.frames import FLAG

DEFAULT_BAUD = 1_000_000
READ_TIMEOUT = 0.05
"""Seconds that one read of a port waits."""


class Port(Protocol):
    """Bytes to and from a device; one whose ``read`` waits for all it wants has ``in_waiting``."""

    def write(self, data: bytes, /) -> Any:
        """Send all of ``data``, or keep it to be sent."""

    def read(self, size: int, /) -> bytes:
        """What has come, ``size`` bytes at most; nothing when the port's timeout has passed."""

    def close(self) -> None: ...


def simulation(name: str) -> Any:
    """A module that not every installation has, and that host does not import otherwise."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DeviceError(
            f"simulated devices and profiles need all of the project ({error}); "
            "run from a checkout with its dependencies installed"
        ) from None


def simulated_port(url: str, board: str) -> Port:
    """A port to a board's own core, compiled to native code; ``url`` is what messages call it.

    Raises
    ------
    DeviceError
        There is no such board, or it cannot be compiled.
    """
    simulated = simulation("sim.device").SimulatedPort
    try:
        return simulated(board, timeout=READ_TIMEOUT)
    except (simulation("sim.compiler").SimulationError, ValueError) as error:
        raise DeviceError(f"{url}: {error}") from None


def serial_port(url: str) -> Port:
    """A serial port by its path, with ``?baud=RATE`` or without, or one over TCP.

    Raises
    ------
    UsageError
        The URL is neither.
    DeviceError
        There is no such port, or another program uses it.
    """
    import serial

    if url.startswith("socket://"):
        _check_address(url)
        try:
            return serial.serial_for_url(url, timeout=READ_TIMEOUT)
        except (OSError, ValueError) as error:
            raise DeviceError(f"{url}: cannot connect ({error}); is the server running?") from None
    path, _, query = url.partition("?")
    options = parse_qs(query, keep_blank_values=True)
    unknown = options.keys() - {"baud"}
    baud = options.get("baud", [str(DEFAULT_BAUD)])[-1]
    if not path or unknown or not baud.isdecimal() or not int(baud):
        raise UsageError(f"device {url!r}: must be a path, as in /dev/ttyUSB0?baud={DEFAULT_BAUD}")
    try:
        port = serial.Serial(
            path, int(baud), timeout=READ_TIMEOUT, write_timeout=10, exclusive=True
        )
    except (OSError, ValueError, OverflowError) as error:
        text = str(error)
        if "lock" in text:
            raise DeviceError(f"{path}: another program uses this port; close that one") from None
        if isinstance(error, OSError) and error.errno == 2:
            raise DeviceError(
                f"{path}: there is no such serial port; connect the board, check its path"
            ) from None
        if isinstance(error, OSError) and error.errno == 13:
            raise DeviceError(
                f"{path}: no permission for this serial port; "
                "join the group that owns it (often dialout)"
            ) from None
        raise DeviceError(f"{path}: cannot open this serial port ({text})") from None
    # An FTDI chip keeps a short answer to itself for 16 ms otherwise, which a frame of a load takes
    # 10 ms for. Not every port and system can be told.
    with contextlib.suppress(AttributeError, NotImplementedError, OSError, ValueError):
        port.set_low_latency_mode(True)
    try:
        port.write(bytes((FLAG,)))  # ends what a program before us left half sent
    except OSError as error:
        port.close()
        raise DeviceError(f"{path}: connection lost ({error}); connect it again") from None
    return port


def _check_address(url: str) -> None:
    """Raises UsageError unless a URL names a host and a port."""
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname and parts.port) and not parts.query and parts.path in ("", "/")
    except ValueError:  # a port that is none
        good = False
    if not good:
        raise UsageError(f"device {url!r}: must be socket://HOST:PORT with a port of 1 to 65535")
