"""One command and its answer: what the states of all commands share."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.utils import bits_for, exact_log2

from hw.arch.memories import spaces
from hw.arch.protocol import (
    ERROR,
    Command,
    Feature,
    Identity,
    MemorySpace,
    PollReply,
    Reason,
    argument_offset,
    argument_struct,
)

ARGUMENT_BYTES = max(argument_struct(command).size for command in Command)


class Exchange:
    """The command under way: its arguments, how far it has come, and its answer.

    An answer is the identity, or ``reply_left`` bytes of ``reply`` and then ``remaining``
    half-words of the bus from ``address`` of ``bus_space`` on.

    Parameters
    ----------
    ports : CommandProcessor
        Whose members the command's states drive.
    identity : Identity
        What the device is, and answers.
    """

    def __init__(self, ports, identity: Identity):
        self.ports = ports
        self.features = Feature(identity.features)
        self.memories = spaces(identity.geometry, self.features)
        self.tokens = identity.geometry.tokens
        self.contexts = identity.geometry.contexts
        self.max_payload = identity.max_payload
        self.identity_bytes = len(identity.to_bytes())
        self.address_bits = bits_for(max(memory.size for memory in self.memories.values()))
        self.command = ports.frame.payload.command

        self.arguments = Signal(8 * ARGUMENT_BYTES)
        self.index = Signal(range(ARGUMENT_BYTES + 1))
        # The byte that the receiver is asked for, and whether that is one of the identity.
        self.offset = Signal(range(self.max_payload))
        self.identifying = Signal()
        self.end = Signal(max(self.address_bits, 16) + 1)  # of a range: what its size is held to
        self.address = Signal(self.address_bits)
        self.remaining = Signal(self.address_bits)
        self.bus_space = Signal(MemorySpace)
        self.word = Signal(16)
        self.sequence = Signal(8)
        self.response = Signal(8)
        self.response_length = Signal(range(self.max_payload + 1))
        self.reply = Signal(8 * PollReply.LAYOUT.size)
        self.reply_left = Signal(range(PollReply.LAYOUT.size + 1))
        self.refusal = Signal(8)

    def argument(self, command: Command, name: str):
        """A field of the command's arguments."""
        offset, size = argument_offset(command, name)
        return self.arguments[8 * offset : 8 * (offset + size)]

    def owner(self, space: MemorySpace, address):
        """The context that has the half-word at an address of a space in which each has a part."""
        if self.contexts == 1:
            return Const(0)
        memory = self.memories[space]
        low = exact_log2(memory.own * memory.half_words)
        return address[low : low + exact_log2(self.contexts)]

    def advance(self, m: Module):
        """On to the next half-word of the bus."""
        m.d.sync += [self.address.eq(self.address + 1), self.remaining.eq(self.remaining - 1)]

    def acknowledge(self, m: Module):
        """The answer is there."""
        m.next = "RESPOND"

    def refuse(self, m: Module, reason: Reason):
        """A check finds that the command is not to be executed."""
        m.d.sync += self.refusal.eq(reason)

    def connect(self, m: Module):
        """The parts of the ports that are the same in all states."""
        ports = self.ports
        m.d.comb += [
            ports.address.eq(Cat(self.offset, self.identifying)),
            ports.bus.space.eq(self.bus_space),
            ports.bus.address.eq(self.address),
            ports.bus.last.eq(self.remaining == 1),
            ports.bus.write_data.eq(Cat(self.word[:8], ports.data)),
            ports.header.payload.command.eq(self.response),
            ports.header.payload.sequence.eq(self.sequence),
            ports.header.payload.length.eq(self.response_length),
        ]

    def receive(self, m: Module):
        """The states that take the arguments: as many bytes as the longest have, of any command."""
        # Byte ``index`` is addressed, the one before it arrives.
        with m.State("ARGUMENTS"):
            m.d.sync += [
                self.index.eq(self.index + 1),
                self.offset.eq(self.offset + 1),
                self.arguments.eq(Cat(self.arguments[8:], self.ports.data)),
            ]
            with m.If(self.index == ARGUMENT_BYTES):
                m.next = "ARGUMENTS THERE"

    def answer_refusal(self, m: Module):
        """Make what a check has found the answer."""
        m.d.sync += [
            self.response.eq(ERROR),
            self.response_length.eq(2),
            self.reply.eq(Cat(self.refusal, self.command)),
            self.reply_left.eq(2),
            self.remaining.eq(0),
        ]
        m.next = "RESPOND"

    def identify(self, m: Module):
        """Answer with the identity."""
        m.d.sync += [self.response_length.eq(self.identity_bytes), self.offset.eq(0)]
        m.next = "IDENTITY"

    def answer(self, m: Module):
        """The states that send the answer."""
        ports = self.ports
        with m.State("IDENTITY"):
            m.d.comb += [ports.header.valid.eq(1), self.identifying.eq(1)]
            m.next = "IDENTITY READ"
        with m.State("IDENTITY READ"):
            # From a register: what comes out of the buffer is late, and the sender escapes bytes.
            m.d.comb += [ports.header.valid.eq(1), self.identifying.eq(1)]
            m.d.sync += self.word[:8].eq(ports.data)
            m.next = "IDENTITY BYTE"
        with m.State("IDENTITY BYTE"):
            m.d.comb += self.identifying.eq(1)
            self._send(m, self.word[:8])
            with m.If(ports.payload.ready):
                m.d.sync += self.offset.eq(self.offset + 1)
                m.next = "IDENTITY"
                with m.If(self.offset == self.identity_bytes - 1):
                    m.next = "RESPOND"

        with m.State("RESPOND"):
            m.d.comb += [
                ports.header.valid.eq(1),
                ports.payload.valid.eq(self.reply_left != 0),
                ports.payload.payload.eq(self.reply[:8]),
            ]
            with m.If(ports.payload.valid):
                with m.If(ports.payload.ready):
                    m.d.sync += [
                        self.reply.eq(self.reply >> 8),
                        self.reply_left.eq(self.reply_left - 1),
                    ]
            with m.Elif(self.remaining != 0):
                m.d.comb += ports.bus.read.eq(ports.bus.ready)
                with m.If(ports.bus.ready):
                    self.advance(m)
                    m.next = "FETCH"
            with m.Elif(ports.header.ready):
                m.d.comb += ports.frame.ready.eq(1)
                m.next = "IDLE"
        with m.State("FETCH"):
            m.d.comb += ports.header.valid.eq(1)
            m.d.sync += self.word.eq(ports.bus.read_data)
            with m.If(ports.bus.read_valid):
                m.next = "LOW"
        with m.State("LOW"):
            self._send(m, self.word[:8])
            with m.If(ports.payload.ready):
                m.next = "HIGH"
        with m.State("HIGH"):
            self._send(m, self.word[8:])
            with m.If(ports.payload.ready):
                m.next = "RESPOND"

    def _send(self, m: Module, byte):
        """Offer a byte of the payload."""
        m.d.comb += [
            self.ports.header.valid.eq(1),
            self.ports.payload.valid.eq(1),
            self.ports.payload.payload.eq(byte),
        ]
