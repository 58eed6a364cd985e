"""Commands of ``host.protocol``, from frame to frame."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from host.geometry import Geometry
from host.protocol import (
    ALWAYS_READABLE,
    DIGEST_BYTES,
    ERROR,
    MAX_PAYLOAD,
    POLL_CYCLES,
    READ_HALFWORDS,
    RESPONSE,
    WRITABLE,
    Command,
    Identity,
    MemorySpace,
    PollReply,
    Reason,
    RunFlag,
    argument_offset,
    argument_struct,
    space_size,
)
from hw.control.run import RunControlSignature
from hw.links.frames import PAYLOAD_START, CrcSignature, FrameHeader
from hw.memory.signatures import BusSignature


class CommandProcessor(wiring.Component):
    """Executes the commands of ``host.protocol``.

    One command at a time. WRITE takes two cycles a half-word, CHECKSUM two, READ the latency of
    the bus and four. It waits for ``bus.read_valid``, for ``control.run.ready`` and for the
    reader of the responses, and for nothing else; no frame can make it wait for more.

    Parameters
    ----------
    geometry : Geometry
        What addresses are checked against, and part of the identity.
    board : str
    clock_hz : int
    digest : bytes
        Of the build, 16 bytes.
    poll_cycles : int
        Longest wait of a POLL.

    Members
    -------
    frame, address, data, enable, between : the `FrameReceiver`
    header, payload : the `FrameSender`
    crc : Out(CrcSignature())
    bus : Out(BusSignature())
    control : Out(RunControlSignature())

    Raises
    ------
    ValueError
        From the constructor, when the identity cannot be stated.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        board: str,
        clock_hz: int,
        digest: bytes = bytes(DIGEST_BYTES),
        poll_cycles: int = POLL_CYCLES,
    ):
        if not isinstance(poll_cycles, int) or poll_cycles < 1:
            raise ValueError(f"poll_cycles must be a positive integer, not {poll_cycles!r}")
        self._geometry = geometry
        self._identity = Identity(
            board=board, geometry=geometry, clock_hz=clock_hz, digest=digest
        ).to_bytes()
        self._poll_cycles = poll_cycles
        super().__init__(
            {
                "frame": In(stream.Signature(FrameHeader)),
                "address": Out(range(MAX_PAYLOAD)),
                "data": In(8),
                "enable": Out(1),
                "between": In(1),
                "header": Out(stream.Signature(FrameHeader)),
                "payload": Out(stream.Signature(8)),
                "crc": Out(CrcSignature()),
                "bus": Out(BusSignature()),
                "control": Out(RunControlSignature()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        sizes = {space: space_size(self._geometry, space) for space in MemorySpace}
        address_bits = bits_for(max(sizes.values()))
        m.submodules.identity = identity = Memory(
            shape=8, depth=len(self._identity), init=self._identity
        )
        identity_read = identity.read_port()

        argument_bytes = max(argument_struct(command).size for command in Command)
        arguments = Signal(8 * argument_bytes)

        def argument(command: Command, name: str):
            offset, size = argument_offset(command, name)
            return arguments[8 * offset : 8 * (offset + size)]

        command = self.frame.payload.command
        length = self.frame.payload.length

        # The memory commands have space and address in the same place.
        space = argument(Command.READ, "space")
        start = argument(Command.READ, "address")
        size = Signal(range(max(sizes.values()) + 1))
        writable, always_readable = Signal(), Signal()
        with m.Switch(space):
            for each, halfwords in sizes.items():
                with m.Case(each):
                    m.d.comb += [
                        size.eq(halfwords),
                        writable.eq(each in WRITABLE),
                        always_readable.eq(each in ALWAYS_READABLE),
                    ]

        # Facts of the command that has come, from the cycle after its frame is offered.
        expected = Signal(range(argument_bytes + 1))  # bytes of arguments
        known, on_memory, length_fits = Signal(), Signal(), Signal()
        m.d.sync += [known.eq(0), expected.eq(0), on_memory.eq(0), length_fits.eq(length == 0)]
        with m.Switch(command):
            for each in Command:
                with m.Case(each):
                    size_of = argument_struct(each).size
                    fits = length == size_of
                    if each == Command.WRITE:
                        fits = (length >= size_of) & (length[0] == size_of % 2)
                    m.d.sync += [
                        known.eq(1),
                        expected.eq(size_of),
                        length_fits.eq(fits),
                        on_memory.eq(each in (Command.WRITE, Command.READ, Command.CHECKSUM)),
                    ]
        assert argument_struct(Command.WRITE).size == 5

        count = Signal(32)
        with m.Switch(command):
            with m.Case(Command.WRITE):
                m.d.comb += count.eq(length[1:] - 2)  # (length - 5) / 2 of an odd length
            with m.Case(Command.READ):
                m.d.comb += count.eq(argument(Command.READ, "count"))
            with m.Case(Command.CHECKSUM):
                m.d.comb += count.eq(argument(Command.CHECKSUM, "count"))

        index = Signal(range(max(argument_bytes, len(self._identity)) + 1))
        offset = Signal(range(MAX_PAYLOAD))
        end = Signal(max(address_bits, 16) + 1)
        address = Signal(address_bits)
        remaining = Signal(address_bits)
        bus_space = Signal(MemorySpace)
        word = Signal(16)
        sequence = Signal(8)
        response = Signal(8)
        response_length = Signal(range(MAX_PAYLOAD + 1))
        reply = Signal(8 * PollReply.LAYOUT.size)  # bytes that precede half-words of the bus
        reply_left = Signal(range(PollReply.LAYOUT.size + 1))
        session = Signal(32)  # zero, as the memories are, until a host claims the device
        lost = Signal()  # a RUN is of another session, or wants a state that is not there
        started = Signal()
        run_id = Signal(32)
        timer = Signal(range(self._poll_cycles))
        due = Signal()  # a waiting POLL has something to tell
        available = Signal(16)
        outstanding = Signal(4)
        phase = Signal()
        high_left = Signal()
        refusal = Signal(8)

        run = self.control.run
        flags = argument(Command.RUN, "flags")
        poll_start = argument(Command.POLL, "start")
        m.d.comb += [
            self.address.eq(offset),
            identity_read.addr.eq(index),
            self.bus.space.eq(bus_space),
            self.bus.address.eq(address),
            self.bus.write_data.eq(Cat(word[:8], self.data)),
            self.header.payload.command.eq(response),
            self.header.payload.sequence.eq(sequence),
            self.header.payload.length.eq(response_length),
            run.payload.reset.eq((flags & RunFlag.RESET).any()),
            run.payload.sampled.eq((flags & RunFlag.SAMPLED).any()),
            run.payload.stop_enable.eq((flags & RunFlag.STOP_ENABLE).any()),
            *(
                run.payload[name].eq(argument(Command.RUN, name))
                for name in (
                    "prompt_length", "generate", "stop_token", "mantissa", "exponent", "noise"
                )
            ),
        ]  # fmt: skip
        m.d.sync += due.eq(
            (self.control.produced > poll_start)
            | ~self.control.running
            | (timer == self._poll_cycles - 1)
        )

        m.d.sync += lost.eq(
            (argument(Command.RUN, "session") != session)
            | (session == 0)
            | ~(run.payload.reset | started)
        )

        def refuse(reason: Reason):
            m.d.sync += refusal.eq(reason)
            m.next = "REFUSE"

        def acknowledge():
            m.next = "RESPOND"

        def advance():
            m.d.sync += [address.eq(address + 1), remaining.eq(remaining - 1)]

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.enable.eq(1)
                m.d.sync += [
                    index.eq(0),
                    offset.eq(PAYLOAD_START),
                    timer.eq(0),
                    phase.eq(0),
                    remaining.eq(0),
                    sequence.eq(self.frame.payload.sequence),
                    response.eq(command | RESPONSE),
                    response_length.eq(0),
                ]
                with m.If(self.frame.valid):
                    m.next = "ARGUMENTS"

            # Byte ``index`` is addressed, the one before it arrives.
            with m.State("ARGUMENTS"):
                m.d.sync += [index.eq(index + 1), offset.eq(offset + 1)]
                with m.Switch(index):
                    for i in range(argument_bytes):
                        with m.Case(i + 1):
                            m.d.sync += arguments.word_select(i, 8).eq(self.data)
                with m.If(index == expected):
                    m.next = "CHECK"

            with m.State("CHECK"):
                m.d.sync += [
                    index.eq(0),
                    offset.eq(PAYLOAD_START + argument_struct(Command.WRITE).size),
                    bus_space.eq(space),
                    address.eq(start),
                    end.eq(start[:address_bits] + count[:address_bits]),
                ]
                with m.If(~known):
                    refuse(Reason.BAD_COMMAND)
                with m.Elif(~length_fits):
                    refuse(Reason.BAD_LENGTH)
                with m.Elif(on_memory):
                    m.d.sync += remaining.eq(count)
                    with m.If(
                        (space >= len(MemorySpace)) | ((command == Command.WRITE) & ~writable)
                    ):
                        refuse(Reason.BAD_SPACE)
                    with m.Elif(
                        start[address_bits:].any()
                        | count[address_bits:].any()
                        | ((command == Command.READ) & (count[:16] > READ_HALFWORDS))
                    ):
                        refuse(Reason.BAD_RANGE)
                    with m.Elif(
                        self.control.running & ~((command != Command.WRITE) & always_readable)
                    ):
                        refuse(Reason.BUSY)
                    with m.Else():
                        m.next = "RANGE"
                with m.Else():
                    with m.Switch(command):
                        with m.Case(Command.IDENTIFY):
                            m.d.sync += response_length.eq(len(self._identity))
                            m.next = "IDENTITY"
                        with m.Case(Command.RUN):
                            prompt_length = argument(Command.RUN, "prompt_length")
                            generate = argument(Command.RUN, "generate")
                            m.d.sync += end.eq(prompt_length + generate)
                            with m.If(started & (argument(Command.RUN, "run_id") == run_id)):
                                acknowledge()
                            with m.Elif(self.control.running):
                                refuse(Reason.BUSY)
                            with m.Elif((prompt_length == 0) | (generate == 0)):
                                refuse(Reason.BAD_VALUE)
                            with m.Else():
                                m.next = "RUN CHECK"
                        with m.Case(Command.POLL):
                            m.d.comb += self.frame.ready.eq(1)
                            m.next = "POLL"
                        with m.Case(Command.STOP):
                            m.d.comb += self.control.stop.eq(1)
                            acknowledge()
                        with m.Case(Command.RESET):
                            m.d.comb += self.control.reset.eq(1)
                            m.d.sync += [started.eq(0), run_id.eq(0)]
                            acknowledge()
                        with m.Case(Command.CLAIM):
                            claim = argument(Command.CLAIM, "session")
                            with m.If(self.control.running):
                                refuse(Reason.BUSY)
                            with m.Elif(claim == 0):
                                refuse(Reason.BAD_VALUE)
                            with m.Else():
                                m.d.sync += [session.eq(claim), started.eq(0), run_id.eq(0)]
                                acknowledge()

            with m.State("REFUSE"):
                m.d.sync += [
                    response.eq(ERROR),
                    response_length.eq(2),
                    reply.eq(Cat(refusal, command)),
                    reply_left.eq(2),
                    remaining.eq(0),
                ]
                m.next = "RESPOND"

            with m.State("RANGE"):
                with m.If(end > size):
                    refuse(Reason.BAD_RANGE)
                with m.Else():
                    with m.Switch(command):
                        with m.Case(Command.WRITE):
                            m.d.sync += offset.eq(offset + 1)
                            with m.If(remaining == 0):
                                acknowledge()
                            with m.Else():
                                m.next = "WRITE LOW"
                        with m.Case(Command.READ):
                            m.d.sync += response_length.eq(remaining << 1)
                            m.next = "RESPOND"
                        with m.Default():
                            m.d.comb += self.crc.start.eq(1)
                            m.next = "CHECKSUM"

            with m.State("WRITE LOW"):
                m.d.sync += [word.eq(self.data), offset.eq(offset + 1)]
                m.next = "WRITE HIGH"
            with m.State("WRITE HIGH"):
                m.d.comb += self.bus.write.eq(1)
                m.d.sync += offset.eq(offset + 1)
                advance()
                with m.If(remaining == 1):
                    acknowledge()
                with m.Else():
                    m.next = "WRITE LOW"

            # A read every other cycle, so that a word's two bytes go to the CRC as they come.
            with m.State("CHECKSUM"):
                m.d.comb += self.bus.read.eq(~phase & (remaining != 0))
                m.d.sync += [
                    phase.eq(~phase),
                    outstanding.eq(outstanding + self.bus.read - self.bus.read_valid),
                    high_left.eq(self.bus.read_valid),
                ]
                with m.If(self.bus.read):
                    advance()
                with m.If(self.bus.read_valid):
                    m.d.comb += [
                        self.crc.valid.eq(1),
                        self.crc.data.eq(self.bus.read_data[:8]),
                    ]
                    m.d.sync += word.eq(self.bus.read_data)
                with m.Elif(high_left):
                    m.d.comb += [self.crc.valid.eq(1), self.crc.data.eq(word[8:])]
                with m.Elif((remaining == 0) & (outstanding == 0)):
                    m.d.sync += [
                        response_length.eq(4),
                        reply.eq(self.crc.crc),
                        reply_left.eq(4),
                    ]
                    m.next = "RESPOND"

            with m.State("RUN CHECK"):
                with m.If(end > self._geometry.tokens):
                    refuse(Reason.BAD_VALUE)
                with m.Elif(lost):
                    refuse(Reason.LOST)
                with m.Else():
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += run.valid.eq(1)
                with m.If(run.ready):
                    m.d.sync += [
                        started.eq(1),
                        run_id.eq(argument(Command.RUN, "run_id")),
                    ]
                    acknowledge()

            # The answer waits for the end of a frame that is on its way: it may be another
            # command, and the CRC unit is in use.
            with m.State("POLL"):
                m.d.sync += timer.eq(timer + 1)
                with m.If(timer == self._poll_cycles - 1):
                    m.d.sync += timer.eq(timer)
                with m.If(self.frame.valid):
                    m.next = "IDLE"
                with m.Elif(due & self.between):
                    m.next = "POLL STATE"
                with m.Else():
                    m.d.comb += self.enable.eq(1)
            with m.State("POLL STATE"):
                m.d.sync += [
                    reply.eq(Cat(run_id, self.control.running, Const(0, 7), self.control.produced)),
                    reply_left.eq(PollReply.LAYOUT.size),
                    available.eq(
                        Mux(
                            self.control.produced > poll_start,
                            self.control.produced - poll_start,
                            0,
                        )
                    ),
                    bus_space.eq(MemorySpace.TOKENS),
                    address.eq(poll_start),
                ]
                m.next = "POLL TOKENS"
            with m.State("POLL TOKENS"):
                tokens = Mux(available > PollReply.TOKENS_MAX, PollReply.TOKENS_MAX, available)
                m.d.sync += [
                    remaining.eq(tokens),
                    response_length.eq((tokens << 1) + PollReply.LAYOUT.size),
                ]
                m.next = "RESPOND"

            with m.State("IDENTITY"):
                m.d.comb += self.header.valid.eq(1)
                m.next = "IDENTITY BYTE"
            with m.State("IDENTITY BYTE"):
                m.d.comb += [
                    self.header.valid.eq(1),
                    self.payload.valid.eq(1),
                    self.payload.payload.eq(identity_read.data),
                ]
                with m.If(self.payload.ready):
                    m.d.sync += index.eq(index + 1)
                    m.next = "IDENTITY"
                    with m.If(index == len(self._identity) - 1):
                        m.next = "RESPOND"

            with m.State("RESPOND"):
                m.d.comb += [
                    self.header.valid.eq(1),
                    self.payload.valid.eq(reply_left != 0),
                    self.payload.payload.eq(reply[:8]),
                ]
                with m.If(self.payload.valid):
                    with m.If(self.payload.ready):
                        m.d.sync += [reply.eq(reply >> 8), reply_left.eq(reply_left - 1)]
                with m.Elif(remaining != 0):
                    m.d.comb += self.bus.read.eq(1)
                    advance()
                    m.next = "FETCH"
                with m.Elif(self.header.ready):
                    m.d.comb += self.frame.ready.eq(1)
                    m.next = "IDLE"
            with m.State("FETCH"):
                m.d.comb += self.header.valid.eq(1)
                m.d.sync += word.eq(self.bus.read_data)
                with m.If(self.bus.read_valid):
                    m.next = "LOW"
            with m.State("LOW"):
                m.d.comb += [
                    self.header.valid.eq(1),
                    self.payload.valid.eq(1),
                    self.payload.payload.eq(word[:8]),
                ]
                with m.If(self.payload.ready):
                    m.next = "HIGH"
            with m.State("HIGH"):
                m.d.comb += [
                    self.header.valid.eq(1),
                    self.payload.valid.eq(1),
                    self.payload.payload.eq(word[8:]),
                ]
                with m.If(self.payload.ready):
                    m.next = "RESPOND"
        return m
