"""Frames of the link: where one begins and ends, and whether it came whole.

Between two flag bytes (0x7E) lies one frame. Within it the flag and the escape byte (0x7D) are
sent as 0x7D followed by the byte with bit 5 inverted, so a receiver is in step again at the next
flag whatever was lost. Unescaped, all numbers little-endian:

======== ==== =====================================================================
command  u8   `Command`; in a response the same with bit 7 set, or 0xFF for an error
sequence u8   repeated in the response
length   u16  bytes of payload, at most `MAX_PAYLOAD`
payload
crc      u32  CRC-32 (ISO-HDLC, `zlib.crc32`) of everything before it
======== ==== =====================================================================
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

MAX_PAYLOAD = 1024

FLAG = 0x7E
ESCAPE = 0x7D
INVERT = 0x20

HEADER = struct.Struct("<BBH")
CRC_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame, unescaped and without its CRC."""

    command: int
    sequence: int
    payload: bytes = b""

    def __post_init__(self):
        for name in ("command", "sequence"):
            if not 0 <= getattr(self, name) <= 0xFF:
                raise ValueError(f"{name} must fit 8 bits, not {getattr(self, name)!r}")
        if len(self.payload) > MAX_PAYLOAD:
            raise ValueError(
                f"payload must be at most {MAX_PAYLOAD} bytes, not {len(self.payload)!r}"
            )


_STUFFING = {byte: bytes((ESCAPE, byte ^ INVERT)) for byte in (FLAG, ESCAPE)}


def encode_frame(frame: Frame) -> bytes:
    """Bytes of a frame on the wire, with a flag before and after it."""
    body = HEADER.pack(frame.command, frame.sequence, len(frame.payload)) + frame.payload
    body += zlib.crc32(body).to_bytes(CRC_BYTES, "little")
    body = body.replace(bytes((ESCAPE,)), _STUFFING[ESCAPE])  # first: the other makes escapes
    body = body.replace(bytes((FLAG,)), _STUFFING[FLAG])
    return bytes((FLAG,)) + body + bytes((FLAG,))


class Deframer:
    """Finds the frames in a stream of bytes that comes in pieces.

    Never raises: what is no frame is dropped, and ``dropped`` counts it.
    """

    LIMIT = HEADER.size + MAX_PAYLOAD + CRC_BYTES

    def __init__(self):
        self.dropped = 0
        self.reset()

    def reset(self):
        """Forget a frame that has not ended yet."""
        self._body = bytearray()
        self._escaped = False

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Frames that end within ``data``, in order."""
        for byte in data:
            if byte == FLAG:
                frame = self._finish()
                if frame is not None:
                    yield frame
            elif byte == ESCAPE:
                self._escaped = True
            else:
                if len(self._body) <= self.LIMIT:  # one more than fits marks it as too long
                    self._body.append(byte ^ INVERT if self._escaped else byte)
                self._escaped = False

    def _finish(self) -> Frame | None:
        body, escaped = bytes(self._body), self._escaped
        self.reset()
        if not body and not escaped:
            return None
        if not escaped and HEADER.size + CRC_BYTES <= len(body) <= self.LIMIT:
            content, crc = body[:-CRC_BYTES], body[-CRC_BYTES:]
            command, sequence, length = HEADER.unpack_from(content)
            payload = content[HEADER.size :]
            if length == len(payload) and zlib.crc32(content).to_bytes(CRC_BYTES, "little") == crc:
                return Frame(command=command, sequence=sequence, payload=payload)
        self.dropped += 1
        return None
