"""Commands of ``hw.arch.protocol``, from frame to frame."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.arch.protocol import (
    POLL_CYCLES,
    Command,
    Identity,
    Reason,
    argument_struct,
)
from hw.control.run import RunControlSignature
from hw.links.access import MEMORY_COMMANDS, Access
from hw.links.exchange import ARGUMENT_BYTES, Answer, Exchange
from hw.links.frames import CrcSignature
from hw.links.runs import Runs
from hw.memory.signatures import BusSignature


class CommandProcessor(wiring.Component):
    """Executes the commands of ``hw.arch.protocol``.

    One command at a time, whose frame is looked at byte by byte, and once more where something of
    it is kept: checked first. WRITE takes two cycles a half-word, CHECKSUM two, READ the latency of
    the bus and four. It waits for ``bus.ready`` and ``bus.read_valid``, for ``control.run.ready``
    and for the reader of the responses, and for nothing else; no frame can make it wait for more.

    Parameters
    ----------
    identity : Identity
        What commands are checked against; the receiver has its bytes.
    poll_cycles : int
        Longest wait of a POLL.

    Members
    -------
    frame, address, data, enable, between : the `FrameReceiver`
    sending, payload, sent : the `FrameSender`
    crc : Out(CrcSignature())
    bus : Out(BusSignature())
    control : Out(RunControlSignature(contexts)), as many as the identity's geometry has

    Raises
    ------
    ValueError
        From the constructor, for other ``poll_cycles``.
    """

    def __init__(self, identity: Identity, *, poll_cycles: int = POLL_CYCLES):
        if not isinstance(poll_cycles, int) or poll_cycles < 1:
            raise ValueError(f"poll_cycles must be a positive integer, not {poll_cycles!r}")
        self._identity = identity
        self._poll_cycles = poll_cycles
        super().__init__(
            {
                "frame": In(stream.Signature(range(identity.max_payload + 1))),
                "address": Out(range(2 * identity.max_payload)),
                "data": In(8),
                "enable": Out(1),
                "between": In(1),
                "sending": Out(1),
                "payload": Out(stream.Signature(8)),
                "sent": In(1),
                "crc": Out(CrcSignature()),
                "bus": Out(BusSignature()),
                "control": Out(RunControlSignature(identity.geometry.contexts)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        exchange = Exchange(self, self._identity)
        access = Access(self, exchange)
        runs = Runs(self, exchange, self._poll_cycles)
        access.connect(m)
        exchange.connect(m)
        known, length_fits, on_memory = self._facts(m, exchange)
        runs.connect(m)
        exchange.say(m, {Answer.POLL: runs.told})

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.enable.eq(1)
                exchange.begin(m)
                access.begin(m)
                runs.begin(m)
                with m.If(self.frame.valid):
                    m.next = "ARGUMENTS"
            with m.State("ARGUMENTS"):
                exchange.receive(m)
                runs.receive(m)
            # What depends on the arguments alone, and what is read by them, is there a cycle later.
            with m.State("ARGUMENTS THERE"):
                exchange.point(m)
                m.next = "CHECK"
            with m.State("CHECK"):
                m.d.sync += exchange.refusal.eq(0)
                with m.If(~known):
                    exchange.refuse(m, Reason.BAD_COMMAND)
                with m.Elif(~length_fits):
                    exchange.refuse(m, Reason.BAD_LENGTH)
                with m.Elif(on_memory):
                    access.check(m)
                with m.Else():
                    with m.Switch(exchange.command):
                        runs.check(m)
                m.next = "CHECKED"
                with m.If(exchange.garbled):
                    m.d.comb += self.frame.ready.eq(1)
                    m.next = "IDLE"
            with m.State("CHECKED"):
                with m.If(exchange.refusal != 0):
                    m.d.sync += exchange.remaining.eq(0)
                    exchange.acknowledge(m, Answer.REFUSAL)
                with m.Elif(on_memory):
                    access.start(m)
                with m.Else():
                    with m.Switch(exchange.command):
                        with m.Case(Command.IDENTIFY):
                            exchange.acknowledge(m, Answer.IDENTITY)
                        runs.start(m)
            access.execute(m)
            runs.execute(m)
            exchange.send(m)
        return m

    def _facts(self, m, exchange: Exchange):
        """Facts of the command that has come, from the cycle after it has."""
        length = self.frame.payload
        known, on_memory, length_fits = Signal(), Signal(), Signal()
        size = Signal(range(ARGUMENT_BYTES + 1))
        m.d.sync += [known.eq(0), on_memory.eq(0), length_fits.eq(length == size)]
        with m.Switch(exchange.command):
            for each in Command:
                with m.Case(each):
                    m.d.comb += size.eq(argument_struct(each).size)
                    m.d.sync += [known.eq(1), on_memory.eq(each in MEMORY_COMMANDS)]
                    if each == Command.WRITE:
                        m.d.sync += length_fits.eq((length >= size) & (length[0] == size[0]))
        return known, length_fits, on_memory
