"""Devices behind URLs.

============================ ====================================================================
``sim://BOARD``              the board's own core, compiled to native code (package ``sim``);
                             ``sim://PATH.py`` for a board in a file of one's own
``native://?threads=N``      the integer model in C++ on this machine, on all processors unless
                             ``threads`` says how many (package ``sim``)
``golden://``                the integer model in NumPy, the reference (package ``sim``)
``/dev/ttyUSB0?baud=1000000`` a serial port, or anything else that pyserial opens by a path
``socket://HOST:PORT``       the same protocol over TCP
============================ ====================================================================

The others are byte streams, and `LinkDevice` is the one code path for them.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any
from urllib.parse import parse_qs

from host.device import Device, LinkDevice
from host.errors import DeviceError, UsageError
from host.ports import serial_port, simulated_port, simulation
from hw.arch.protocol import SLOWEST_HZ

SIMULATED: dict[str, Any] = {"patience": 20, "attempts": 3, "clock_hz": SLOWEST_HZ}
"""What a `LinkDevice` is told of a simulated device, which has the time of the processor."""

CLEAR_CACHE = "remove the folder tritstream/sim in the user's cache"


def open_device(url: str) -> Device:
    """The device behind a URL, identified and idle.

    Raises
    ------
    UsageError
        The URL is of no kind that there is.
    DeviceError
        There is no such device, another program uses it, or it does not answer.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    match scheme:
        case "golden":
            if rest:
                raise UsageError(f"device {url!r}: golden:// is a whole one; leave out {rest!r}")
            return simulation("sim.golden_device").GoldenDevice()
        case "native":
            return _native_device(url, rest)
        case "sim":
            if not rest:
                raise UsageError(
                    "sim:// needs the name of a board or the path of its file, such as "
                    "sim://ulx3s_85f"
                )
            device = LinkDevice(simulated_port(url, rest), name=url, **SIMULATED)
        case "" | "socket":
            device = LinkDevice(serial_port(url), name=url)
        case _:
            raise UsageError(
                f"device {url!r}: must be sim://BOARD, native://, golden://, a serial "
                "port's path or socket://HOST:PORT"
            )
    try:
        identity = device.identify()
        if scheme == "sim" and identity.board != PurePath(rest).stem:
            raise DeviceError(f"{url}: what is compiled for it is {identity.board}; {CLEAR_CACHE}")
        device.reset()
    except BaseException:
        device.close()
        raise
    return device


def _native_device(url: str, rest: str) -> Device:
    name, _, query = rest.partition("?")
    options = parse_qs(query, keep_blank_values=True)
    native = simulation("sim.native")
    threads = options.pop("threads", [None])[-1]
    good = threads is None or (threads.isdecimal() and 1 <= int(threads) <= native.MOST_THREADS)
    if name or options or not good:
        raise UsageError(
            f"device {url!r}: must be native:// or native://?threads=N with N of 1 to "
            f"{native.MOST_THREADS}"
        )
    try:
        return native.NativeDevice(threads and int(threads), name=url)
    except simulation("sim.compiler").SimulationError as error:
        raise DeviceError(f"{url}: {error}") from None
