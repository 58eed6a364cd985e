"""Frames of ``hw.arch.protocol`` from bytes, and bytes from frames."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.arch.frames import CRC_BYTES, ESCAPE, FLAG, HEADER, INVERT
from hw.arch.protocol import Identity

FrameHeader = data.StructLayout({"command": 8, "sequence": 8, "length": 16})

PAYLOAD_START = HEADER.size
"""Address of a frame's first payload byte in the receiver's buffer."""


class CrcSignature(wiring.Signature):
    """Use of the CRC unit; a user that is not at work drives zeros.

    ``crc`` and ``match`` hold what was ``valid`` two cycles ago and before.
    """

    def __init__(self):
        super().__init__(
            {"start": Out(1), "valid": Out(1), "data": Out(8), "crc": In(32), "match": In(1)}
        )


class FrameReceiver(wiring.Component):
    """Collects a frame, checks it, and keeps it until it is taken.

    Bytes are taken one per cycle while ``enable`` is high and no frame is kept. A frame that is
    broken, too long or too short is forgotten at the flag that ends it. Payload byte k lies in
    the buffer at ``(PAYLOAD_START + k) % max_payload``, and what the device says of itself from
    ``max_payload`` on, where no frame comes.

    Parameters
    ----------
    identity : Identity
        Its ``max_payload`` is a power of two.

    Members
    -------
    rx : In(stream.Signature(8))
    enable : In(1), may fall only while ``between`` is high or a frame is kept
    between : Out(1), nothing of the next frame has come
    frame : Out(stream.Signature(FrameHeader)), a checked frame; taking it frees the buffer
    address : In(range(2 * max_payload))
    data : Out(8), the byte at ``address`` one cycle ago
    crc : Out(CrcSignature())
    """

    def __init__(self, identity: Identity):
        self._identity = identity
        super().__init__(
            {
                "rx": In(stream.Signature(8)),
                "enable": In(1),
                "between": Out(1),
                "frame": Out(stream.Signature(FrameHeader)),
                "address": In(range(2 * identity.max_payload)),
                "data": Out(8),
                "crc": Out(CrcSignature()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        most = self._identity.max_payload
        said = bytes(most) + self._identity.to_bytes()
        m.submodules.buffer = buffer = Memory(shape=8, depth=2 * most, init=said)
        read, write = buffer.read_port(), buffer.write_port()

        limit = HEADER.size + most + CRC_BYTES
        count = Signal(range(limit + 2))  # one more than fits: the frame is too long
        escaped = Signal()
        held = Signal()
        header = Signal(FrameHeader)
        byte = Signal(8)
        ended = Signal()  # a frame of the right length, a cycle ago
        fits = Signal()
        m.d.sync += ended.eq(0)
        m.d.comb += [
            byte.eq(self.rx.payload ^ (escaped << INVERT.bit_length() - 1)),
            fits.eq((count <= limit) & (count == header.length + HEADER.size + CRC_BYTES)),
            self.rx.ready.eq(self.enable & ~held & ~ended),
            self.between.eq((count == 0) & ~escaped & ~ended),
            self.frame.valid.eq(held),
            self.frame.payload.eq(header),
            read.addr.eq(self.address),
            self.data.eq(read.data),
            write.addr.eq(count[: exact_log2(most)]),
            write.data.eq(byte),
        ]
        with m.If(self.rx.valid & self.rx.ready):
            with m.Switch(self.rx.payload):
                with m.Case(FLAG):
                    m.d.sync += [count.eq(0), escaped.eq(0), ended.eq(fits & ~escaped)]
                with m.Case(ESCAPE):
                    m.d.sync += escaped.eq(1)
                with m.Default():
                    m.d.comb += [
                        self.crc.valid.eq(1),
                        self.crc.start.eq(count == 0),
                        self.crc.data.eq(byte),
                    ]
                    m.d.sync += escaped.eq(0)
                    with m.If(count <= limit):
                        m.d.sync += count.eq(count + 1)
                    with m.If(count < HEADER.size):
                        m.d.sync += header.eq(Cat(header.as_value()[8:], byte))
                    with m.Elif(count < HEADER.size + most):
                        m.d.comb += write.en.eq(1)
        with m.If(ended):
            m.d.sync += held.eq(self.crc.match)
        with m.If(self.frame.valid & self.frame.ready):
            m.d.sync += held.eq(0)
        return m


class FrameSender(wiring.Component):
    """Sends one frame: flag, header, payload, CRC, flag, with byte stuffing.

    A byte every other cycle at most: each is in a register before it is looked at. ``header`` is
    taken with the last flag.

    Parameters
    ----------
    max_payload : int

    Members
    -------
    header : In(stream.Signature(FrameHeader))
    payload : In(stream.Signature(8)), of which ``header.length`` bytes are taken
    tx : Out(stream.Signature(8))
    crc : Out(CrcSignature())
    """

    header: In(stream.Signature(FrameHeader))
    payload: In(stream.Signature(8))
    tx: Out(stream.Signature(8))
    crc: Out(CrcSignature())

    def __init__(self, max_payload: int):
        self._max_payload = max_payload
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        byte = Signal(8)
        flag = Signal()  # it is one, and no byte of the frame
        offered = Signal()  # it is there
        escaped = Signal()  # and its first half has left
        summed = Signal()  # it has come a cycle ago, and is one under the CRC
        index = Signal(2)
        left = Signal(range(self._max_payload + 1))

        special = Signal()
        taken = Signal()
        m.d.comb += [
            special.eq(~flag & ((byte == FLAG) | (byte == ESCAPE))),
            taken.eq(offered & self.tx.ready & (escaped | ~special)),
            self.tx.valid.eq(offered),
            self.tx.payload.eq(
                Mux(escaped, byte ^ INVERT, Mux(special, ESCAPE, byte)),
            ),
            self.crc.valid.eq(summed),
            self.crc.data.eq(Mux(summed, byte, 0)),
        ]
        with m.If(offered & self.tx.ready):
            m.d.sync += escaped.eq(special & ~escaped)
        with m.If(taken):
            m.d.sync += offered.eq(0)
        m.d.sync += summed.eq(0)

        def load(value, *, is_flag=0, is_summed=0):
            m.d.sync += [
                byte.eq(value),
                flag.eq(is_flag),
                summed.eq(is_summed),
                offered.eq(1),
            ]

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.crc.start.eq(self.header.valid)
                m.d.sync += [index.eq(0), left.eq(self.header.payload.length)]
                with m.If(self.header.valid):
                    load(FLAG, is_flag=1)
                    m.next = "HEADER"
            with m.State("HEADER"):
                with m.If(~offered):
                    load(self.header.payload.as_value().word_select(index, 8), is_summed=1)
                    m.d.sync += index.eq(index + 1)
                    with m.If(index == HEADER.size - 1):
                        m.next = "PAYLOAD"
            with m.State("PAYLOAD"):
                with m.If(~offered):
                    with m.If(left == 0):
                        m.next = "CRC"
                    with m.Elif(self.payload.valid):
                        load(self.payload.payload, is_summed=1)
                        m.d.comb += self.payload.ready.eq(1)
                        m.d.sync += left.eq(left - 1)
            with m.State("CRC"):
                with m.If(~offered):
                    load(self.crc.crc.word_select(index, 8))
                    m.d.sync += index.eq(index + 1)
                    with m.If(index == CRC_BYTES - 1):
                        m.next = "END"
            with m.State("END"):
                with m.If(~offered):
                    load(FLAG, is_flag=1)
                    m.next = "LAST"
            with m.State("LAST"):
                m.d.comb += self.header.ready.eq(taken)
                with m.If(taken):
                    m.next = "IDLE"
        return m
