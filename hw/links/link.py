"""The device's end of the link: frames from bytes, commands from frames.

``hw.arch`` defines the frames and the commands. Receiver, processor and sender take turns, so they
share one CRC unit: while a command is executed or answered nothing is received.
"""

from amaranth.hdl import Const, Module
from amaranth.lib import crc, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.arch.protocol import Identity
from hw.control.run import RunControlSignature
from hw.links.commands import CommandProcessor
from hw.links.frames import FrameReceiver, FrameSender
from hw.memory.signatures import BusSignature


class Link(wiring.Component):
    """Bytes of the host on one side, memories and runs of the core on the other.

    Parameters
    ----------
    identity, poll_cycles : as for `CommandProcessor`

    Members
    -------
    rx : In(stream.Signature(8)), one byte per cycle
    tx : Out(stream.Signature(8))
    bus : Out(BusSignature())
    control : Out(RunControlSignature(contexts)), as many as the identity's geometry has
    """

    def __init__(self, identity: Identity, **parameters):
        self._identity = identity
        self._processor = CommandProcessor(identity, **parameters)
        super().__init__(
            {
                "rx": In(stream.Signature(8)),
                "tx": Out(stream.Signature(8)),
                "bus": Out(BusSignature()),
                "control": Out(RunControlSignature(identity.geometry.contexts)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver = receiver = FrameReceiver(self._identity)
        m.submodules.sender = sender = FrameSender()
        m.submodules.processor = processor = self._processor
        m.submodules.crc = checker = crc.catalog.CRC32_ISO_HDLC(data_width=8).create()

        wiring.connect(m, wiring.flipped(self.rx), receiver.rx)
        wiring.connect(m, sender.tx, wiring.flipped(self.tx))
        wiring.connect(m, receiver.frame, processor.frame)
        wiring.connect(m, processor.payload, sender.payload)
        wiring.connect(m, processor.bus, wiring.flipped(self.bus))
        wiring.connect(m, processor.control, wiring.flipped(self.control))
        m.d.comb += [
            receiver.enable.eq(processor.enable),
            processor.between.eq(receiver.between),
            receiver.address.eq(processor.address),
            processor.data.eq(receiver.data),
            sender.sending.eq(processor.sending),
            processor.sent.eq(sender.sent),
        ]
        start = valid = 0
        byte = Const(0, 8)
        for user in (receiver.crc, sender.crc, processor.crc):
            start, valid, byte = start | user.start, valid | user.valid, byte | user.data
            m.d.comb += [user.crc.eq(checker.crc), user.match.eq(checker.match_detected)]
        # A register: what is valid depends on all three, and the CRC on all of its bits.
        m.d.sync += [checker.start.eq(start), checker.valid.eq(valid), checker.data.eq(byte)]
        return m
