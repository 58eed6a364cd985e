"""Commands of ``hw.arch.protocol``, from frame to frame."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.arch.protocol import (
    POLL_CYCLES,
    RESPONSE,
    Command,
    Identity,
    Reason,
    argument_struct,
)
from hw.control.run import RunControlSignature
from hw.links.access import MEMORY_COMMANDS, Access
from hw.links.exchange import Exchange
from hw.links.frames import PAYLOAD_START, CrcSignature, FrameHeader
from hw.links.runs import Runs
from hw.memory.signatures import BusSignature


class CommandProcessor(wiring.Component):
    """Executes the commands of ``hw.arch.protocol``.

    One command at a time. WRITE takes two cycles a half-word, CHECKSUM two, READ the latency of
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
    header, payload : the `FrameSender`
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
                "frame": In(stream.Signature(FrameHeader)),
                "address": Out(range(2 * identity.max_payload)),
                "data": In(8),
                "enable": Out(1),
                "between": In(1),
                "header": Out(stream.Signature(FrameHeader)),
                "payload": Out(stream.Signature(8)),
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
        known, length_fits, on_memory = self._facts(m)
        runs.connect(m)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.enable.eq(1)
                m.d.sync += [
                    exchange.index.eq(0),
                    exchange.offset.eq(PAYLOAD_START),
                    runs.timer.eq(self._poll_cycles - 1),
                    access.phase.eq(0),
                    exchange.remaining.eq(0),
                    exchange.sequence.eq(self.frame.payload.sequence),
                    exchange.response.eq(exchange.command | RESPONSE),
                    exchange.response_length.eq(0),
                ]
                with m.If(self.frame.valid):
                    m.next = "ARGUMENTS"
            exchange.receive(m)
            # What depends on the arguments alone, and what is read by them, is there a cycle later.
            with m.State("ARGUMENTS THERE"):
                access.point(m)
                runs.point(m)
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
            with m.State("CHECKED"):
                with m.If(exchange.refusal != 0):
                    exchange.answer_refusal(m)
                with m.Elif(on_memory):
                    access.begin(m)
                with m.Else():
                    with m.Switch(exchange.command):
                        with m.Case(Command.IDENTIFY):
                            exchange.identify(m)
                        runs.begin(m)
            access.execute(m)
            runs.execute(m)
            exchange.answer(m)
        return m

    def _facts(self, m):
        """Facts of the command that has come, from the cycle after its frame is offered."""
        command, length = self.frame.payload.command, self.frame.payload.length
        known, on_memory, length_fits = Signal(), Signal(), Signal()
        m.d.sync += [known.eq(0), on_memory.eq(0), length_fits.eq(length == 0)]
        with m.Switch(command):
            for each in Command:
                with m.Case(each):
                    size_of = argument_struct(each).size
                    fits = length == size_of
                    if each == Command.WRITE:
                        fits = (length >= size_of) & (length[0] == size_of % 2)
                    m.d.sync += [
                        known.eq(1),
                        length_fits.eq(fits),
                        on_memory.eq(each in MEMORY_COMMANDS),
                    ]
        return known, length_fits, on_memory
