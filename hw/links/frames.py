"""Frames of ``hw.arch.protocol`` from bytes, and bytes from frames."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.arch.frames import CRC_BYTES, ESCAPE, FLAG, HEADER, INVERT
from hw.arch.protocol import Identity


class CrcSignature(wiring.Signature):
    """Use of the CRC unit; a user that is not at work drives zeros.

    ``crc`` and ``match`` hold what was ``valid`` two cycles ago and before.
    """

    def __init__(self):
        super().__init__(
            {"start": Out(1), "valid": Out(1), "data": Out(8), "crc": In(32), "match": In(1)}
        )


class FrameReceiver(wiring.Component):
    """Collects a frame, checks its CRC, and keeps it until it is taken.

    Bytes are taken one per cycle while ``enable`` is high and no frame is kept. A frame that is
    broken, too long or too short is forgotten at the flag that ends it; whether its header says
    its length is for the reader to see. Payload byte k lies in the buffer at k, and the header
    before it, below 0 or at the buffer's end. What the device says of itself is there from
    ``max_payload`` on, where no frame comes.

    Parameters
    ----------
    identity : Identity
        Its ``max_payload`` is a power of two, and holds itself and a header.

    Members
    -------
    rx : In(stream.Signature(8))
    enable : In(1), may fall only while ``between`` is high or a frame is kept
    between : Out(1), nothing of the next frame has come
    frame : Out(stream.Signature(range(max_payload + 1))), the bytes that a frame's payload has;
        taking it frees the buffer
    address : In(range(2 * max_payload))
    data : Out(8), the byte at ``address`` one cycle ago
    crc : Out(CrcSignature())
    """

    def __init__(self, identity: Identity):
        self._most = identity.max_payload
        self._said = identity.to_bytes()
        assert len(self._said) + HEADER.size <= self._most
        super().__init__(
            {
                "rx": In(stream.Signature(8)),
                "enable": In(1),
                "between": Out(1),
                "frame": Out(stream.Signature(range(self._most + 1))),
                "address": In(range(2 * self._most)),
                "data": Out(8),
                "crc": Out(CrcSignature()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        said = bytes(self._most) + self._said
        m.submodules.buffer = buffer = Memory(shape=8, depth=2 * self._most, init=said)
        read, write = buffer.read_port(), buffer.write_port()

        # Where the next byte goes, modulo the buffer; no further than one more than fits.
        start = -HEADER.size % (2 * self._most)
        count = Signal(range(2 * self._most), init=start)
        in_header, too_long = Signal(), Signal()
        escaped = Signal()
        held = Signal()
        byte = Signal(8)
        ended = Signal()  # a frame that may be one, a cycle ago
        m.d.sync += ended.eq(0)
        assert HEADER.size == CRC_BYTES == 4
        m.d.comb += [
            in_header.eq(count[2:].all()),
            too_long.eq(count == self._most + CRC_BYTES + 1),
            byte.eq(self.rx.payload ^ (escaped << INVERT.bit_length() - 1)),
            self.rx.ready.eq(self.enable & ~held & ~ended),
            self.between.eq((count == start) & ~escaped & ~ended),
            self.frame.valid.eq(held),
            self.frame.payload.eq(Cat(count[:2], count[2:] - 1)),
            read.addr.eq(self.address),
            self.data.eq(read.data),
            write.addr.eq(count),
            write.data.eq(byte),
        ]

        def begin():
            m.d.sync += count.eq(start)

        with m.If(self.rx.valid & self.rx.ready):
            with m.Switch(self.rx.payload):
                with m.Case(FLAG):
                    m.d.sync += escaped.eq(0)
                    with m.If(in_header | (count[2:] == 0) | too_long | escaped):
                        begin()
                    with m.Else():
                        m.d.sync += ended.eq(1)
                with m.Case(ESCAPE):
                    m.d.sync += escaped.eq(1)
                with m.Default():
                    m.d.comb += [
                        self.crc.valid.eq(1),
                        self.crc.start.eq(count == start),
                        self.crc.data.eq(byte),
                        write.en.eq(in_header | ~count[-1]),
                    ]
                    m.d.sync += escaped.eq(0)
                    with m.If(~too_long):
                        m.d.sync += count.eq(count + 1)
        with m.If(ended):
            m.d.sync += held.eq(self.crc.match)
            with m.If(~self.crc.match):
                begin()
        with m.If(self.frame.valid & self.frame.ready):
            m.d.sync += held.eq(0)
            begin()
        return m


class FrameSender(wiring.Component):
    """Sends one frame: flag, header and payload, CRC, flag, with byte stuffing.

    A byte every other cycle at most: each is in a register before it is looked at.

    Members
    -------
    sending : In(1), bytes of a frame come; it falls after the last one, and until ``sent``
    payload : In(stream.Signature(8)), these bytes
    sent : Out(1), the last flag is taken
    tx : Out(stream.Signature(8))
    crc : Out(CrcSignature())
    """

    sending: In(1)
    payload: In(stream.Signature(8))
    sent: Out(1)
    tx: Out(stream.Signature(8))
    crc: Out(CrcSignature())

    def elaborate(self, platform):
        m = Module()
        byte = Signal(8)
        flag = Signal()  # it is one, and no byte of the frame
        offered = Signal()  # it is there
        escaped = Signal()  # and its first half has left
        summed = Signal()  # it has come a cycle ago, and is one under the CRC
        index = Signal(range(CRC_BYTES))

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
                m.d.comb += self.crc.start.eq(self.sending)
                with m.If(self.sending):
                    load(FLAG, is_flag=1)
                    m.next = "BYTES"
            with m.State("BYTES"):
                with m.If(~offered):
                    with m.If(self.payload.valid):
                        load(self.payload.payload, is_summed=1)
                        m.d.comb += self.payload.ready.eq(1)
                    with m.Elif(~self.sending):
                        m.next = "CRC"
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
                m.d.comb += self.sent.eq(taken)
                with m.If(taken):
                    m.next = "IDLE"
        return m
