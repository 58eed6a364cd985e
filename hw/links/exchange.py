"""One command and its answer: what the states of all commands share."""

import enum

from amaranth.hdl import Cat, Const, Module, Mux, Signal, ValueLike
from amaranth.utils import bits_for, exact_log2

from hw.arch.frames import CRC_BYTES, HEADER
from hw.arch.memories import spaces
from hw.arch.protocol import (
    ARGUMENTS,
    ERROR,
    RESPONSE,
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

PLACE_BITS = (HEADER.size + ARGUMENT_BYTES).bit_length()
"""Bits of an offset that tell a header's bytes and those of arguments from each other."""


class Answer(enum.IntEnum):
    """What an answer begins with, before ``remaining`` half-words of the bus."""

    NOTHING = 0
    IDENTITY = 1
    REFUSAL = 2
    SUM = 3
    POLL = 4


class Exchange:
    """The command under way: what its frame says, how far it has come, and its answer.

    The frame's bytes are looked at one after the other, and what a field says goes where it is
    needed: ``subject`` is the space or the context that a command names, ``address`` and
    ``remaining`` are a range of half-words, of a run the tokens of its prompt and those to
    generate.

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
        self.sizes = {
            Answer.NOTHING: 0,
            Answer.IDENTITY: len(identity.to_bytes()),
            Answer.REFUSAL: 2,
            Answer.SUM: CRC_BYTES,
            Answer.POLL: PollReply.LAYOUT.size,
        }
        sizes = (memory.size for memory in self.memories.values())
        self.address_bits = bits_for(max(*sizes, self.max_payload))  # of half-words, or of a frame

        # The byte that the receiver is asked for, or that is to be sent: a header begins below 0.
        self.offset = Signal(range(2 * self.max_payload))
        self.command = Signal(8)
        self.sequence = Signal(8)
        self.garbled = Signal()  # it has not the length that it says
        self.subject = Signal(8)
        self.address = Signal(self.address_bits)
        self.remaining = Signal(self.address_bits)
        self.beyond = Signal()  # one of them is more than any memory has
        self.end = Signal(max(self.address_bits, 16) + 1)  # of the range, or tokens that are told
        self.too_far = Signal()  # it goes beyond its memory's end, or a run beyond its buffer's
        # A run's fields from the stop token on, or the bytes of a sum that are still to be sent.
        self.tail_first, _ = argument_offset(Command.RUN, "stop_token")
        no_noise = Feature.SAMPLING not in self.features
        self.tail_end = argument_offset(Command.RUN, "noise")[0] if no_noise else ARGUMENT_BYTES
        self.tail = Signal(8 * (self.tail_end - self.tail_first))
        self.word = Signal(16)
        self.answer = Signal(Answer)
        self.size = Signal(range(max(self.sizes.values()) + 1))  # of what it begins with
        self.byte = Signal(8)
        self.refusal = Signal(range(max(Reason) + 1))

    def at(self, command: Command, name: str, byte: int = 0) -> ValueLike:
        """Whether a byte of a field of the command's arguments has come."""
        offset, _ = argument_offset(command, name)
        return (self.command == command) & self.came(offset + byte)

    def came(self, first: int, last: int | None = None) -> ValueLike:
        """Whether it is a payload's byte of that number that has come, or one up to the last."""
        places = range(first, (first if last is None else last) + 1)
        return self.offset[:PLACE_BITS].matches(
            *((place + 1) % (1 << PLACE_BITS) for place in places)
        )

    def late(self, name: str):
        """A field of a run's arguments of those from the stop token on."""
        offset, size = argument_offset(Command.RUN, name)
        return self.tail[8 * (offset - self.tail_first) :][: 8 * size]

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

    def acknowledge(self, m: Module, answer: Answer = Answer.NOTHING):
        """The answer is there."""
        m.d.sync += self.answer.eq(answer)
        self.rewind(m)
        m.next = "ANSWER"

    def rewind(self, m: Module):
        """To the first byte of a header."""
        m.d.sync += self.offset.eq(-HEADER.size)

    def refuse(self, m: Module, reason: Reason):
        """A check finds that the command is not to be executed."""
        m.d.sync += self.refusal.eq(reason)

    def connect(self, m: Module):
        """The parts of the ports that are the same in all states."""
        ports = self.ports
        identifying = self.answer == Answer.IDENTITY
        m.d.comb += [
            ports.address.eq(Cat(self.offset[:-1], self.offset[-1] | identifying)),
            ports.bus.space.eq(Mux(self.answer == Answer.POLL, MemorySpace.TOKENS, self.subject)),
            ports.bus.address.eq(self.address),
            ports.bus.last.eq(self.remaining == 1),
            ports.bus.write_data.eq(Cat(self.word[:8], ports.data)),
        ]
        size = Signal(range(max(memory.size for memory in self.memories.values()) + 1))
        with m.Switch(self.subject):
            for space, memory in self.memories.items():
                with m.Case(space):
                    m.d.comb += size.eq(memory.size)
        with m.If(self.command == Command.RUN):
            m.d.comb += size.eq(self.tokens)
        m.d.comb += self.too_far.eq(self.beyond | (self.end > size))

    def begin(self, m: Module):
        """Nothing is known of the frame that comes next."""
        self.rewind(m)
        m.d.sync += [
            self.address.eq(0),
            self.beyond.eq(0),
            self.garbled.eq(0),
            self.answer.eq(Answer.NOTHING),
        ]

    def receive(self, m: Module):
        """What the bytes of a frame say: as many as the longest arguments have, of any command.

        Byte ``offset`` is addressed, the one before it arrives.
        """
        data, length = self.ports.data, self.ports.frame.payload
        m.d.sync += self.offset.eq(self.offset + 1)
        with m.If(self.came(-4)):
            m.d.sync += self.command.eq(data)
        with m.If(self.came(-3)):
            m.d.sync += self.sequence.eq(data)
        with m.If(self.came(-2) & (data != length[:8])):
            m.d.sync += self.garbled.eq(1)
        with m.If(self.came(-1)):
            m.d.sync += self.remaining.eq(0)
            with m.If(self.command == Command.WRITE):
                assert argument_struct(Command.WRITE).size == 5
                m.d.sync += self.remaining.eq(length[1:] - 2)  # (length - 5) / 2 of an odd length
            with m.If(data != length[8:]):
                m.d.sync += self.garbled.eq(1)
        with m.If(self.came(0)):
            m.d.sync += self.subject.eq(data)
        with m.If(self.came(self.tail_first, self.tail_end - 1)):
            m.d.sync += self.tail.eq(Cat(self.tail[8:], data))
        self._number(m, self.address, ("address", "prompt_length", "start"))
        self._number(m, self.remaining, ("count", "generate"))
        with m.If(self.came(ARGUMENT_BYTES - 1)):
            m.next = "ARGUMENTS THERE"

    def point(self, m: Module):
        """What follows from the arguments: where the range ends, and a write's data begin."""
        m.d.sync += [
            self.end.eq(self.address + self.remaining),
            self.offset.eq(argument_struct(Command.WRITE).size),
        ]

    def _number(self, m: Module, register: Signal, names: tuple[str, ...]):
        """Fields of these names, of which a command has one at most, go to a register."""
        data = self.ports.data
        fields = [(c, name) for c in Command for name, _ in ARGUMENTS[c] if name in names]
        for byte in range(4):
            ats = [self.at(*f, byte) for f in fields if byte < argument_offset(*f)[1]]
            held = register[8 * byte : 8 * byte + 8]
            with m.If(Cat(ats).any()):
                m.d.sync += held.eq(data)
                with m.If(data[len(held) :].any()):
                    m.d.sync += self.beyond.eq(1)

    def say(self, m: Module, told: dict[Answer, ValueLike]):
        """The byte of the answer that is to be sent.

        Parameters
        ----------
        told : dict of Answer to value
            Byte ``offset`` of what an answer begins with, of those that are not known here.
        """
        length = Signal(range(self.max_payload + 1))
        with m.Switch(self.answer):
            for answer, value in self.sizes.items():
                with m.Case(answer):
                    m.d.comb += self.size.eq(value)
        told = {
            Answer.IDENTITY: self.ports.data,
            Answer.REFUSAL: Mux(self.offset[0], self.command, self.refusal),
            Answer.SUM: self.tail[:8],
            **told,
        }
        with m.Switch(self.answer):
            for answer, value in told.items():
                with m.Case(answer):
                    m.d.comb += self.byte.eq(value)
        m.d.comb += length.eq((self.remaining << 1) + self.size)
        with m.If(self.offset[-1]):
            command = Mux(self.answer == Answer.REFUSAL, ERROR, self.command | RESPONSE)
            header = Cat(command, self.sequence, length, Const(0, 16 - len(length)))
            m.d.comb += self.byte.eq(header.word_select(self.offset[:2], 8))

    def send(self, m: Module):
        """The states that send the answer."""
        ports = self.ports
        with m.State("ANSWER"):
            m.d.comb += ports.sending.eq(1)
            m.next = "BYTE"
            with m.If(self.offset == self.size):
                m.next = "ANSWER"
                with m.If(self.remaining != 0):
                    m.d.comb += ports.bus.read.eq(ports.bus.ready)
                    with m.If(ports.bus.ready):
                        self.advance(m)
                        m.next = "FETCH"
                with m.Else():
                    m.d.comb += ports.sending.eq(0)
                    with m.If(ports.sent):
                        m.d.comb += ports.frame.ready.eq(1)
                        m.next = "IDLE"
        with m.State("BYTE"):
            self._offer(m, self.byte)
            with m.If(ports.payload.ready):
                m.d.sync += self.offset.eq(self.offset + 1)
                with m.If(~self.offset[-1]):
                    m.d.sync += self.tail.eq(self.tail >> 8)
                m.next = "ANSWER"
        with m.State("FETCH"):
            m.d.comb += ports.sending.eq(1)
            m.d.sync += self.word.eq(ports.bus.read_data)
            with m.If(ports.bus.read_valid):
                m.next = "LOW"
        with m.State("LOW"):
            self._offer(m, self.word[:8])
            with m.If(ports.payload.ready):
                m.next = "HIGH"
        with m.State("HIGH"):
            self._offer(m, self.word[8:])
            with m.If(ports.payload.ready):
                m.next = "ANSWER"

    def _offer(self, m: Module, byte):
        """Offer a byte of the frame."""
        m.d.comb += [
            self.ports.sending.eq(1),
            self.ports.payload.valid.eq(1),
            self.ports.payload.payload.eq(byte),
        ]
