"""WRITE, READ and CHECKSUM: the host's access to the memories."""

from amaranth.hdl import Module, Mux, Signal, ValueLike
from amaranth.utils import exact_log2

from hw.arch.memories import HostAccess
from hw.arch.protocol import (
    Command,
    MemorySpace,
    Reason,
    argument_struct,
)
from hw.links.exchange import Exchange
from hw.links.frames import PAYLOAD_START

MEMORY_COMMANDS = (Command.WRITE, Command.READ, Command.CHECKSUM)
"""They have space and address in the same place."""


class Access:
    """The states of the commands that go to a memory.

    Parameters
    ----------
    ports : CommandProcessor
        Whose bus and CRC unit they use.
    exchange : Exchange
    """

    def __init__(self, ports, exchange: Exchange):
        self.ports = ports
        self.exchange = exchange
        self.space = exchange.argument(Command.READ, "space")
        self.start = exchange.argument(Command.READ, "address")
        self.count = Signal(32)
        self.outstanding = Signal(4)
        self.phase = Signal()
        self.high_left = Signal()

    def connect(self, m: Module):
        """What is known of the space and the half-words that a command names."""
        exchange = self.exchange
        self.known, self.size, self.writable, self.always_readable, self.paired = self._space(m)
        assert argument_struct(Command.WRITE).size == 5
        length = self.ports.frame.payload.length
        with m.Switch(exchange.command):
            with m.Case(Command.WRITE):
                m.d.comb += self.count.eq(length[1:] - 2)  # (length - 5) / 2 of an odd length
            with m.Case(Command.READ):
                m.d.comb += self.count.eq(exchange.argument(Command.READ, "count"))
            with m.Case(Command.CHECKSUM):
                m.d.comb += self.count.eq(exchange.argument(Command.CHECKSUM, "count"))

    def _space(self, m: Module):
        memories = self.exchange.memories
        size = Signal(range(max(memory.size for memory in memories.values()) + 1))
        known, writable, always_readable, paired = Signal(), Signal(), Signal(), Signal()
        with m.Switch(self.space):
            for space, memory in memories.items():
                with m.Case(space):
                    assert HostAccess.WRITE not in memory.access or memory.granule in (1, 2)
                    m.d.comb += [
                        known.eq(1),
                        size.eq(memory.size),
                        writable.eq(HostAccess.WRITE in memory.access),
                        always_readable.eq(HostAccess.ALWAYS in memory.access),
                        paired.eq(memory.granule == 2),
                    ]
        return known, size, writable, always_readable, paired

    def point(self, m: Module):
        """Point the bus at the first half-word that a command names."""
        exchange, bits = self.exchange, self.exchange.address_bits
        m.d.sync += [
            exchange.offset.eq(PAYLOAD_START + argument_struct(Command.WRITE).size),
            exchange.bus_space.eq(self.space),
            exchange.address.eq(self.start),
            exchange.end.eq(self.start[:bits] + self.count[:bits]),
            exchange.remaining.eq(self.count),
        ]

    def check(self, m: Module):
        """Whether a command of this kind may be executed."""
        exchange, bits = self.exchange, self.exchange.address_bits
        command = exchange.command
        allowed = Mux(
            command == Command.WRITE,
            (self.space == MemorySpace.TOKENS) & self._at_rest(),
            self.always_readable,
        )
        with m.If(~self.known | ((command == Command.WRITE) & ~self.writable)):
            exchange.refuse(m, Reason.BAD_SPACE)
        with m.Elif(
            self.start[bits:].any()
            | self.count[bits:].any()
            | ((command == Command.READ) & (self.count[:16] > exchange.max_payload // 2))
            | ((command == Command.WRITE) & self.paired & (self.start[0] | self.count[0]))
            | (exchange.end > self.size)
        ):
            exchange.refuse(m, Reason.BAD_RANGE)
        with m.Elif(self.ports.control.running.any() & ~allowed):
            exchange.refuse(m, Reason.BUSY)

    def _at_rest(self) -> ValueLike:
        """Whether a range of TOKENS lies in the buffer of one context, which does not run."""
        exchange, running = self.exchange, self.ports.control.running
        if exchange.contexts == 1:
            return ~running
        first, low = exchange.owner(MemorySpace.TOKENS, self.start), exact_log2(exchange.tokens)
        end = exchange.end[low : low + len(first) + 1]
        filled = (exchange.end[:low] == 0) & (end == first + 1)
        return ((end == first) | filled) & ~running.bit_select(first, 1)

    def begin(self, m: Module):
        """Begin a command of this kind; reading is left to the answer."""
        exchange = self.exchange
        m.d.comb += self.ports.bus.start.eq(exchange.remaining != 0)
        with m.Switch(exchange.command):
            with m.Case(Command.WRITE):
                m.d.sync += exchange.offset.eq(exchange.offset + 1)
                with m.If(exchange.remaining == 0):
                    exchange.acknowledge(m)
                with m.Else():
                    m.next = "WRITE LOW"
            with m.Case(Command.READ):
                m.d.sync += exchange.response_length.eq(exchange.remaining << 1)
                exchange.acknowledge(m)
            with m.Default():
                m.d.comb += self.ports.crc.start.eq(1)
                m.next = "CHECKSUM"

    def execute(self, m: Module):
        """The states that write, and sum up."""
        self._write(m)
        self._checksum(m)

    def _write(self, m: Module):
        exchange = self.exchange
        # The low byte comes and, in the cycle after, the high one; it stays as long as the receiver
        # is not asked for the next.
        with m.State("WRITE LOW"):
            m.d.sync += exchange.word.eq(self.ports.data)
            m.next = "WRITE WAIT"
            with m.If(self.ports.bus.ready):
                m.d.sync += exchange.offset.eq(exchange.offset + 1)
                m.next = "WRITE HIGH"
        with m.State("WRITE WAIT"):
            with m.If(self.ports.bus.ready):
                m.d.sync += exchange.offset.eq(exchange.offset + 1)
                m.next = "WRITE HIGH"
        with m.State("WRITE HIGH"):
            m.d.comb += self.ports.bus.write.eq(1)
            m.d.sync += exchange.offset.eq(exchange.offset + 1)
            exchange.advance(m)
            m.next = "WRITE LOW"
            with m.If(self.ports.bus.last):
                m.next = "WRITTEN"
        with m.State("WRITTEN"):
            with m.If(self.ports.bus.ready):
                exchange.acknowledge(m)

    def _checksum(self, m: Module):
        exchange, bus, crc = self.exchange, self.ports.bus, self.ports.crc
        # A read every other cycle, so that a word's two bytes go to the CRC as they come.
        with m.State("CHECKSUM"):
            m.d.comb += bus.read.eq(~self.phase & (exchange.remaining != 0) & bus.ready)
            m.d.sync += [
                self.phase.eq(~self.phase),
                self.outstanding.eq(self.outstanding + bus.read - bus.read_valid),
                self.high_left.eq(bus.read_valid),
            ]
            with m.If(bus.read):
                exchange.advance(m)
            with m.If(bus.read_valid):
                m.d.comb += [crc.valid.eq(1), crc.data.eq(bus.read_data[:8])]
                m.d.sync += exchange.word.eq(bus.read_data)
            with m.Elif(self.high_left):
                m.d.comb += [crc.valid.eq(1), crc.data.eq(exchange.word[8:])]
            with m.Elif((exchange.remaining == 0) & (self.outstanding == 0)):
                m.next = "SUM"
        with m.State("SUM"):
            m.d.sync += [
                exchange.response_length.eq(4),
                exchange.reply.eq(crc.crc),
                exchange.reply_left.eq(4),
            ]
            exchange.acknowledge(m)
