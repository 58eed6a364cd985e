"""The host's end of ``hw.arch.protocol``: commands until they are answered, memories checked.

It knows lines that lose, double and flip bytes, and devices that are busy, slow or of another
version. It knows nothing of models and runs.
"""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from host.errors import DeviceError, RefusedError
from host.memory_test import REMEDY, Memory, find_fault
from host.ports import Port
from hw.arch.frames import Deframer, Frame, encode_frame
from hw.arch.memories import spaces
from hw.arch.protocol import (
    ERROR,
    POLL_CYCLES,
    RESPONSE,
    Command,
    Identity,
    MemorySpace,
    Reason,
    argument_struct,
)

VERIFY_HALFWORDS = 1 << 14
"""Half-words under one checksum."""

GLANCE_BYTES = 512
"""Under a checksum that takes a device no time."""


class Link:
    """Exchanges with one device over a port.

    Parameters
    ----------
    port : Port
        Closed by `close`.
    name : str
        What messages call the device.
    patience : float
        Seconds to wait for an answer, beside what the device needs to work it out.
    attempts : int
        How often a command is sent before the device counts as silent.
    clock_hz : float or None
        Cycles per second that a device reaches at least; what it reports unless given.

    Members
    -------
    unanswered : how often a command was not answered in time
    """

    def __init__(
        self,
        port: Port,
        *,
        name: str = "device",
        patience: float = 0.5,
        attempts: int = 6,
        clock_hz: float | None = None,
    ):
        self.name = name
        self.attempts = attempts
        self.unanswered = 0
        self._port = port
        self._patience = patience
        self._clock_hz = clock_hz
        self._deframer = Deframer()
        self._sequence = random.randrange(256)
        self._heard = 0  # bytes since the command was first sent
        self._answered = False  # it has answered anything ever
        self._identity: Identity | None = None

    # Frames ------------------------------------------------------------------------------------

    @property
    def damaged(self) -> int:
        """What came and was no whole frame."""
        return self._deframer.dropped

    def _port_call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (OSError, ValueError) as error:  # pyserial's exceptions are OSErrors
            advice = "connect it again"
            if not self._answered and self.name.startswith("socket://"):
                advice = "another program may be using it, close that one"
                if self._heard:
                    advice = "what answers there is no Tritstream device; check host and port"
            raise DeviceError(f"{self.name}: connection lost ({error}); {advice}") from None

    def _waiting(self) -> int:
        """Bytes to ask the port for: what has come, or as many as may come in its timeout."""
        waiting: int | None = getattr(self._port, "in_waiting", None)
        return 4096 if waiting is None else max(1, waiting)

    def _seconds(self, cycles: int) -> float:
        if self._clock_hz is not None:
            return self._patience + cycles / self._clock_hz
        clock_hz = self._identity.clock_hz if self._identity else 1_000_000
        return self._patience + cycles / clock_hz

    def _receive(self, command: int, sequence: int, deadline: float) -> Frame | None:
        while True:
            data = self._port_call(self._port.read, self._port_call(self._waiting))
            self._heard += len(data)
            answer = None
            for frame in self._deframer.feed(data):
                if frame.sequence == sequence and (
                    frame.command == command | RESPONSE
                    or (frame.command == ERROR and frame.payload[1:] == bytes((command,)))
                ):
                    answer = frame
            if answer is not None:
                self._answered = True
                return answer
            if time.monotonic() >= deadline:
                return None

    # Exchanges ---------------------------------------------------------------------------------

    def attempt(
        self, command: Command, payload: bytes = b"", cycles: int = 0, attempts: int = 1
    ) -> bytes | None:
        """Send a command until it is answered, ``attempts`` times at most; None is silence.

        ``cycles`` is what it takes the device. A device that is busy with a run is given time to
        end it.

        Raises
        ------
        RefusedError
            For any other reason than that, and if it stays busy.
        DeviceError
            The connection is lost.
        """
        self._sequence = (self._sequence + 1) & 0xFF
        self._heard = 0
        wire = encode_frame(Frame(command=command, sequence=self._sequence, payload=payload))
        left = attempts
        busy_until = time.monotonic() + self.attempts * self._seconds(POLL_CYCLES)
        while left:
            self._port_call(self._port.write, wire)
            deadline = time.monotonic() + self._seconds(cycles)
            response = self._receive(command, self._sequence, deadline)
            if response is None:
                self.unanswered += 1
                left -= 1
            elif response.command != ERROR:
                return response.payload
            elif response.payload[:1] != bytes((Reason.BUSY,)):
                raise self._refusal(command, response.payload[0])
            elif time.monotonic() < busy_until:
                left = attempts
                time.sleep(0.01)
            else:
                raise RefusedError(
                    f"{self.name}: still busy with a run; reset the board", Reason.BUSY
                )
        return None

    def exchange(self, command: Command, payload: bytes = b"", cycles: int = 0) -> bytes:
        """Response to a command; see `attempt`. Raises DeviceError if there is none."""
        answer = self.attempt(command, payload, cycles, self.attempts)
        if answer is not None:
            return answer
        if self._answered:
            advice = "though it answered before; check the cable, and that the board still runs"
        elif self._heard:
            advice = f"only {self._heard} bytes of noise; check baud rate and cable"
        else:
            advice = "check that the board has power, cable and its bitstream"
        raise DeviceError(
            f"{self.name}: no answer to {command.name} after {self.attempts} tries, {advice}"
        )

    def nonsense(self, command: Command) -> DeviceError:
        """The error for an answer that no device of this version gives."""
        return DeviceError(
            f"{self.name}: its answer to {command.name} makes no sense; "
            "use host and bitstream of the same version"
        )

    def _refusal(self, command: Command, reason: int) -> RefusedError:
        try:
            words = Reason(reason).name.lower().replace("_", " ")
        except ValueError:
            words = f"reason {reason}"
        return RefusedError(
            f"{self.name}: it refuses {command.name} ({words}); "
            "use host and bitstream of the same version",
            reason,
        )

    def identify(self) -> Identity:
        """What the device reported when it was first asked."""
        if self._identity is None:
            payload = self.exchange(Command.IDENTIFY)
            try:
                self._identity = Identity.from_bytes(payload)
            except ValueError as error:
                raise DeviceError(
                    f"{self.name}: {error}; use host and bitstream of the same version"
                ) from None
        return self._identity

    def close(self) -> None:
        self._port.close()

    # Memories ----------------------------------------------------------------------------------

    def read(self, space: MemorySpace, address: int, count: int) -> bytes:
        """``count`` half-words of a memory."""
        most = self.identify().max_payload // 2
        layout = argument_struct(Command.READ)
        pieces = []
        while count:
            part = min(count, most)
            piece = self.exchange(Command.READ, layout.pack(space, address, part), 32 * part)
            if len(piece) != 2 * part:
                raise self.nonsense(Command.READ)
            pieces.append(piece)
            address, count = address + part, count - part
        return b"".join(pieces)

    def write(
        self,
        space: MemorySpace,
        address: int,
        content: bytes,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Write whole half-words, in pieces of the memory's granule wherever that fits a frame.

        ``progress`` receives the bytes of each piece.
        """
        identity = self.identify()
        layout = argument_struct(Command.WRITE)
        most = (identity.max_payload - layout.size) // 2
        granule = spaces(identity.geometry)[space].half_words
        size = 2 * (most // granule * granule or most)
        for at in range(0, len(content), size):
            piece = content[at : at + size]
            head = layout.pack(space, address + at // 2)
            self.exchange(Command.WRITE, head + piece, cycles=8 * len(piece))
            if progress:
                progress(len(piece))

    def holds(self, space: MemorySpace, address: int, content: bytes) -> bool:
        """Whether a memory holds this, by checksum."""
        count = len(content) // 2
        payload = argument_struct(Command.CHECKSUM).pack(space, address, count)
        answer = self.exchange(Command.CHECKSUM, payload, cycles=16 * count)
        if len(answer) != 4:
            raise self.nonsense(Command.CHECKSUM)
        return answer == zlib.crc32(content).to_bytes(4, "little")

    def put(
        self,
        space: MemorySpace,
        address: int,
        content: bytes,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """`write`, and prove by a checksum that the memory keeps it; DeviceError if not."""
        self.write(space, address, content, progress)
        if not self.holds(space, address, content):
            raise DeviceError(
                f"{self.name}: {space.name.lower()} do not keep what is written to "
                f"half-words {address} to {address + len(content) // 2 - 1}; "
                "reset the board, check its clock and power"
            )

    def fill(self, sections: dict[MemorySpace, bytes], progress: Callable[[int], None]) -> bool:
        """Make memories hold this from their beginnings on, block by block; whether any was sent.

        A block that is there already is not sent again: loading goes on where a broken line ended
        it. Each one that is sent is proven by a checksum. Memories that lack any are tested first,
        as of `host.memory_test`. ``progress`` receives the bytes of each piece that is done.
        Raises DeviceError for a memory that keeps something else.
        """
        lacking = {}
        for space, content in sections.items():
            if self._keeps(space, 0, content):
                progress(len(content))
            else:
                lacking[space] = content
        self._test(lacking)
        for space, content in lacking.items():
            for address, block in _blocks(content):
                if self._keeps(space, address, block):
                    progress(len(block))
                else:
                    self.put(space, address, block, progress)
        return bool(lacking)

    def _keeps(self, space: MemorySpace, address: int, content: bytes) -> bool:
        """`holds` of what the memory may well lack: its beginning is enough to see that."""
        glance = content[:GLANCE_BYTES]
        return self.holds(space, address, glance) and (
            len(content) == len(glance) or self.holds(space, address, content)
        )

    def _test(self, sections: dict[MemorySpace, bytes]) -> None:
        memories = [self.memory(space, content) for space, content in sections.items()]
        if memories and (fault := find_fault(memories)):
            raise DeviceError(f"{self.name}: memory test: {fault}; {REMEDY}")

    def memory(self, space: MemorySpace, content: bytes) -> Memory:
        """A memory of the device for a test, after which it shall hold this."""
        return Memory(
            name=space.name.lower(),
            content=content,
            read=partial(self.read, space),
            write=partial(self.write, space),
        )

    def differences(
        self, space: MemorySpace, content: bytes, progress: Callable[[int], None]
    ) -> Iterator[tuple[int, int, int]]:
        """Where a memory holds something else: address, what it holds, and what it should.

        ``progress`` receives the bytes of each block that is done.
        """
        if self.holds(space, 0, content):
            progress(len(content))
            return
        for address, block in _blocks(content):
            if not self.holds(space, address, block):
                there = np.frombuffer(self.read(space, address, len(block) // 2), "<u2")
                wanted = np.frombuffer(block, "<u2")
                for at in np.flatnonzero(there != wanted):
                    yield address + int(at), int(there[at]), int(wanted[at])
            progress(len(block))


def _blocks(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Half-words that are under one checksum, and the address of the first."""
    for at in range(0, len(content), 2 * VERIFY_HALFWORDS):
        yield at // 2, content[at : at + 2 * VERIFY_HALFWORDS]
