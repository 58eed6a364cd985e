"""WRITE, READ and CHECKSUM: the host's access to the memories."""

from amaranth.hdl import Module, Mux, Signal, ValueLike
from amaranth.utils import exact_log2

from hw.arch.memories import HostAccess
from hw.arch.protocol import (
    Command,
    MemorySpace,
    Reason,
)
from hw.links.exchange import Answer, Exchange

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
        self.outstanding = Signal(4)
        self.phase = Signal()
        self.high_left = Signal()

    def connect(self, m: Module):
        """What is known of the space that a command names."""
        self.known, self.writable = known, writable = Signal(), Signal()
        self.always_readable, self.paired = always_readable, paired = Signal(), Signal()
        with m.Switch(self.exchange.subject):
            for space, memory in self.exchange.memories.items():
                with m.Case(space):
                    assert HostAccess.WRITE not in memory.access or memory.granule in (1, 2)
                    m.d.comb += [
                        known.eq(1),
                        writable.eq(HostAccess.WRITE in memory.access),
                        always_readable.eq(HostAccess.ALWAYS in memory.access),
                        paired.eq(memory.granule == 2),
                    ]

    def check(self, m: Module):
        """Whether a command of this kind may be executed."""
        exchange = self.exchange
        command = exchange.command
        allowed = Mux(
            command == Command.WRITE,
            (exchange.subject == MemorySpace.TOKENS) & self._at_rest(),
            self.always_readable,
        )
        with m.If(~self.known | ((command == Command.WRITE) & ~self.writable)):
            exchange.refuse(m, Reason.BAD_SPACE)
        with m.Elif(
            exchange.too_far
            | ((command == Command.READ) & (exchange.remaining > exchange.max_payload // 2))
            | (
                (command == Command.WRITE)
                & self.paired
                & (exchange.address[0] | exchange.remaining[0])
            )
        ):
            exchange.refuse(m, Reason.BAD_RANGE)
        with m.Elif(self.ports.control.running.any() & ~allowed):
            exchange.refuse(m, Reason.BUSY)

    def _at_rest(self) -> ValueLike:
        """Whether a range of TOKENS lies in the buffer of one context, which does not run."""
        exchange, running = self.exchange, self.ports.control.running
        if exchange.contexts == 1:
            return ~running
        first = exchange.owner(MemorySpace.TOKENS, exchange.address)
        low = exact_log2(exchange.tokens)
        end = exchange.end[low : low + len(first) + 1]
        filled = (exchange.end[:low] == 0) & (end == first + 1)
        return ((end == first) | filled) & ~running.bit_select(first, 1)

    def begin(self, m: Module):
        """Nothing is known of the command that comes next."""
        m.d.sync += self.phase.eq(0)

    def start(self, m: Module):
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
            m.d.sync += exchange.tail.eq(crc.crc)
            exchange.acknowledge(m, Answer.SUM)
