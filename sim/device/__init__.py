"""The simulated device: a board's own core compiled to native code, bytes in and bytes out.

``SimulatedPort`` stands where a serial port would stand. The core is the very gateware of the
board's bitstream, out of the library of `sim.cores`.
"""

import ctypes
import time
from pathlib import Path

from amaranth.lib import wiring

from sim.compiler import SimulationError
from sim.cores import board_library, core_verilog, library
from sim.libraries import Progress, announce
from sim.sdram import fault_name

STEP_CYCLES = 20_000
"""Most cycles of one call into the library, so that an interrupt is seen in time."""
STEP_BYTES = 65_536


class _Counts(ctypes.Structure):
    _fields_ = (
        ("consumed", ctypes.c_uint64),
        ("produced", ctypes.c_uint64),
        ("cycles", ctypes.c_uint64),
        ("fault", ctypes.c_uint64),
    )


def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    loaded.device_create.restype = ctypes.c_void_p
    loaded.device_create.argtypes = ()
    loaded.device_delete.restype = None
    loaded.device_delete.argtypes = (ctypes.c_void_p,)
    loaded.device_step.restype = None
    loaded.device_step.argtypes = (
        *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64),
        *(ctypes.c_char_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64),
        ctypes.POINTER(_Counts),
    )
    return loaded


class SimulatedPort:
    """A board's core behind the methods of a serial port.

    The clock runs only inside ``read``, ``flush`` and ``run``: bytes written before are offered to
    the core then, and what it sends is kept until it is read. Time on the device is ``cycles``.

    Parameters
    ----------
    board : str, Component or Path
        Name of a board, a core with the byte streams ``rx`` and ``tx``, or a library of one.
    timeout : float or None
        Seconds of wall-clock after which ``read`` returns what there is; ``None`` waits for ever.
    cache : Path or None
        Folder of compiled libraries; the user's cache unless given.
    progress : callable
        Receives a line of text when something takes long.
    """

    def __init__(
        self,
        board: str | wiring.Component | Path,
        *,
        timeout: float | None = None,
        cache: Path | None = None,
        progress: Progress = announce,
    ):
        self._device: int | None = None
        self.timeout = timeout
        self.cycles = 0
        self._pending = memoryview(b"")
        self._queue: list[bytes] = []
        self._received = bytearray()
        self._buffer = ctypes.create_string_buffer(STEP_BYTES)
        if isinstance(board, str):
            path = board_library(board, cache=cache, progress=progress)
        elif isinstance(board, Path):
            path = board
        else:
            path = library(core_verilog(board), cache=cache, progress=progress)
        self._library = _load(path)
        self._device = self._library.device_create()

    @property
    def in_waiting(self) -> int:
        """Bytes that ``read`` would return at once."""
        return len(self._received)

    @property
    def out_waiting(self) -> int:
        """Bytes written that the core has not taken yet."""
        return len(self._pending) + sum(map(len, self._queue))

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Queue ``data`` for the core and return its length."""
        self._check_open()
        if data:
            self._queue.append(bytes(data))
        return len(data)

    def read(self, size: int = 1) -> bytes:
        """Run the device until ``size`` bytes have come, or return fewer after the timeout."""
        self._check_open()
        end = None if self.timeout is None else time.monotonic() + self.timeout
        while len(self._received) < size:
            self.run(STEP_CYCLES, wanted=size - len(self._received))
            if end is not None and time.monotonic() >= end:
                break
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    def flush(self) -> None:
        """Run the device until it has taken every byte written."""
        while self.out_waiting:
            self._step(STEP_CYCLES, wanted=0)

    def run(self, cycles: int, wanted: int = STEP_BYTES) -> int:
        """Run for ``cycles`` cycles, fewer if ``wanted`` bytes come first; return how many."""
        start, received = self.cycles, len(self._received)
        while (left := cycles - (self.cycles - start)) > 0:
            if (missing := wanted - (len(self._received) - received)) <= 0:
                break
            self._step(min(left, STEP_CYCLES), min(missing, STEP_BYTES))
        return self.cycles - start

    def _step(self, cycles: int, wanted: int) -> None:
        self._check_open()
        if not self._pending and self._queue:
            self._pending = memoryview(b"".join(self._queue))
            self._queue.clear()
        chunk = bytes(self._pending[:STEP_BYTES])
        counts = _Counts()
        self._library.device_step(
            *(self._device, chunk, len(chunk), self._buffer, STEP_BYTES, wanted, cycles),
            ctypes.byref(counts),
        )
        self.cycles += counts.cycles
        self._pending = self._pending[counts.consumed :]
        self._received += ctypes.string_at(self._buffer, counts.produced)
        if counts.fault:
            raise SimulationError(
                f"the simulated SDRAM was misused in cycle {self.cycles:,}: "
                f"{fault_name(counts.fault)}; it is a fault of the controller or of its times"
            )

    def close(self) -> None:
        """Discard the device; a second call does nothing."""
        if self._device is not None:
            self._library.device_delete(self._device)
            self._device = None

    def _check_open(self) -> None:
        if self._device is None:
            raise ValueError("the port must be open")

    def __enter__(self) -> "SimulatedPort":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
