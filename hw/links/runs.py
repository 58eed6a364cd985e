"""RUN, POLL, STOP, RESET and CLAIM: the host's control over runs."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib.memory import Memory
from amaranth.utils import exact_log2

from hw.arch.memories import id_bytes
from hw.arch.protocol import (
    Command,
    Feature,
    MemorySpace,
    PollReply,
    Reason,
    RunFlag,
    argument_offset,
)
from hw.links.exchange import PLACE_BITS, Answer, Exchange


class Runs:
    """The states of the commands that start, watch and end runs.

    Parameters
    ----------
    ports : CommandProcessor
        Whose control over runs they use.
    exchange : Exchange
    poll_cycles : int
        Longest wait of a POLL.
    """

    def __init__(self, ports, exchange: Exchange, poll_cycles: int):
        self.ports = ports
        self.exchange = exchange
        self.poll_cycles = poll_cycles
        self.flags = Signal(8)
        # A command names another session than that of the host which claimed the device, another
        # run than the last one of its context, or no session at all.
        self.other_session, self.other_run, self.nothing = Signal(), Signal(), Signal()
        self.claimed = Signal()
        self.keeping = Signal()  # it is checked: its frame is looked at again, and kept what lasts
        # Of each context: a run has the id that is kept, and a state is there.
        self.started, self.stated = Signal(exchange.contexts), Signal(exchange.contexts)
        # Of the context that is named: its number, whether it runs, and whether it had a run.
        self.context = exchange.subject[: exact_log2(exchange.contexts)]
        self.running, self.ran = Signal(), Signal()
        self.repeated = Signal()  # its last run is the one that a RUN names
        self.lost = Signal()  # a RUN is of another session, or wants a state that is not there
        self.chained = Signal()  # the last run that was started has all contexts
        self.timer = Signal(range(-1, poll_cycles))  # cycles left, less one
        self.new = Signal()  # there are more tokens than a POLL knows
        self.due = Signal()  # a waiting POLL has something to tell
        self.told_running = Signal()
        self.known = Signal(8)  # the byte of what lasts that is compared or told
        self.told = Signal(8)  # the byte of that answer's head which is to be sent

    def connect(self, m: Module):
        """The run that a command describes, and what is known of it and of a POLL."""
        exchange, control, run = self.exchange, self.ports.control, self.ports.control.run
        self.sampled = (self.flags & RunFlag.SAMPLED).any()
        # Without noise its state is a constant, of which synthesis leaves nothing.
        if Feature.SAMPLING in exchange.features:
            m.d.comb += [
                run.payload.sampled.eq(self.sampled),
                run.payload.noise.eq(exchange.late("noise")),
            ]
        m.d.comb += [
            run.payload.chained.eq((self.flags & RunFlag.CHAINED).any()),
            run.payload.context.eq(self.context),
            run.payload.reset.eq((self.flags & RunFlag.RESET).any()),
            run.payload.stop_enable.eq((self.flags & RunFlag.STOP_ENABLE).any()),
            run.payload.prompt_length.eq(exchange.address),
            run.payload.generate.eq(exchange.remaining),
            *(
                run.payload[name].eq(exchange.late(name))
                for name in ("stop_token", "mantissa", "exponent")
            ),
            control.context.eq(self.context),
            self.running.eq(control.running.bit_select(self.context, 1)),
            self.ran.eq(self.started.bit_select(self.context, 1)),
            self.repeated.eq(self.ran & ~self.other_run),
            self.lost.eq(
                self.other_session
                | ~self.claimed
                | ~(run.payload.reset | self.stated.bit_select(self.context, 1))
            ),
            self.new.eq(~exchange.beyond & (control.produced > exchange.address)),
        ]
        m.d.sync += self.due.eq(self.new | ~self.running | self.timer[-1])
        bus = self.ports.bus
        if MemorySpace.STATES in exchange.memories:
            owner = exchange.owner(MemorySpace.STATES, bus.address)
            with m.If(bus.write & (bus.space == MemorySpace.STATES)):
                m.d.sync += self.stated.bit_select(owner, 1).eq(1)
        with m.If(run.valid & run.ready):
            m.d.sync += [
                self.started.bit_select(self.context, 1).eq(1),
                self.stated.bit_select(self.context, 1).eq(1),
                self.chained.eq(run.payload.chained),
            ]
            with m.If(run.payload.chained):  # it takes all states
                m.d.sync += self.stated.eq(1 << self.context)
        self._keep(m)

    def _keep(self, m: Module):
        """What lasts: the session, and the id of each context's last run.

        Of a context's eight bytes the upper four are its run's id, and the lower ones of the first
        context the session, each where it lies in a RUN's arguments, modulo four.
        """
        exchange, offset = self.exchange, self.exchange.offset
        m.submodules.kept = kept = Memory(shape=8, depth=id_bytes(exchange.contexts), init=[])
        read, write = kept.read_port(), kept.write_port()
        first, last = _bytes("run_id")
        assert (first % 4, last - first, _bytes("session")) == (1, 3, (1, 4))
        claims = exchange.command == Command.CLAIM
        telling = exchange.answer == Answer.POLL
        of_run = Mux(telling, 1, offset[:PLACE_BITS] >= first)
        m.d.comb += [
            read.addr.eq(Cat((offset + telling)[:2], of_run, Mux(of_run, self.context, 0))),
            write.addr.eq(Cat((offset - ~claims)[:2], ~claims, Mux(claims, 0, self.context))),
            write.data.eq(self.ports.data),
            self.known.eq(read.data),
        ]
        came = Mux(claims, exchange.came(0, 3), exchange.came(first, last))
        m.d.comb += write.en.eq(self.keeping & came)

        run_id = Mux(self.ran, self.known, 0)
        rest = Array((self.told_running, exchange.end[:8], exchange.end[8:16]))
        m.d.comb += self.told.eq(Mux(offset[2], rest[offset[:2]], run_id))

    def begin(self, m: Module):
        """Nothing is known of the command that comes next."""
        m.d.sync += [
            self.other_session.eq(0),
            self.other_run.eq(0),
            self.nothing.eq(1),
            self.keeping.eq(0),
            self.timer.eq(self.poll_cycles - 1),
        ]

    def receive(self, m: Module):
        """What the bytes of a frame say, as they come."""
        exchange, data = self.exchange, self.ports.data
        with m.If(exchange.came(*_bytes("flags"))):
            m.d.sync += self.flags.eq(data)
        with m.If(exchange.came(0, 3) & data.any()):  # of a CLAIM
            m.d.sync += self.nothing.eq(0)
        for name, other in (("session", self.other_session), ("run_id", self.other_run)):
            with m.If(exchange.came(*_bytes(name)) & (data != self.known)):
                m.d.sync += other.eq(1)

    def check(self, m: Module):
        """The cases of the commands of this kind that may be refused."""
        exchange, control = self.exchange, self.ports.control
        beyond = exchange.subject[len(self.context) :].any()
        with m.Case(Command.RUN):
            chained = control.run.payload.chained
            elsewhere = chained & (self.context != exchange.contexts - 1)
            no_noise = Feature.SAMPLING not in exchange.features
            with m.If(beyond):
                exchange.refuse(m, Reason.BAD_VALUE)
            with m.Elif(~self.repeated):
                with m.If(self.running | (control.running.any() & (chained | self.chained))):
                    exchange.refuse(m, Reason.BUSY)
                with m.Elif(
                    (exchange.address == 0)
                    | (exchange.remaining == 0)
                    | (self.sampled & no_noise)
                    | elsewhere
                    | exchange.too_far
                ):
                    exchange.refuse(m, Reason.BAD_VALUE)
                with m.Elif(self.lost):
                    exchange.refuse(m, Reason.LOST)
        with m.Case(Command.POLL, Command.STOP):
            with m.If(beyond):
                exchange.refuse(m, Reason.BAD_VALUE)
        with m.Case(Command.CLAIM):
            with m.If(control.running.any()):
                exchange.refuse(m, Reason.BUSY)
            with m.Elif(self.nothing):
                exchange.refuse(m, Reason.BAD_VALUE)

    def start(self, m: Module):
        """The cases of the commands of this kind; three are executed on the way."""
        exchange, control = self.exchange, self.ports.control
        with m.Case(Command.RUN):
            with m.If(self.repeated):
                self._started(m)
            with m.Elif(self.keeping):
                m.next = "RUN"
            with m.Else():
                self._look_again(m)
        with m.Case(Command.POLL):
            m.d.comb += self.ports.frame.ready.eq(1)
            m.next = "POLL"
        with m.Case(Command.STOP):
            m.d.comb += control.stop.eq(1 << self.context)
            exchange.acknowledge(m)
        with m.Case(Command.RESET):
            m.d.comb += control.reset.eq(1)
            self._forget(m)
            exchange.acknowledge(m)
        with m.Case(Command.CLAIM):
            with m.If(self.keeping):
                m.d.sync += self.claimed.eq(1)
                self._forget(m)
                exchange.acknowledge(m)
            with m.Else():
                self._look_again(m)

    def _started(self, m: Module):
        """Acknowledge a run, without half-words."""
        m.d.sync += self.exchange.remaining.eq(0)
        self.exchange.acknowledge(m)

    def _look_again(self, m: Module):
        """Take the frame's bytes once more, and keep what lasts."""
        m.d.sync += self.keeping.eq(1)
        self.exchange.rewind(m)
        m.next = "ARGUMENTS"

    def _forget(self, m: Module):
        """The last runs, and the states that they left."""
        m.d.sync += [self.started.eq(0), self.stated.eq(0)]

    def execute(self, m: Module):
        """The states that start a run, and that tell how far it has come."""
        self._run(m)
        self._poll(m)

    def _run(self, m: Module):
        run = self.ports.control.run
        with m.State("RUN"):
            m.d.comb += run.valid.eq(1)
            with m.If(run.ready):
                self._started(m)

    def _poll(self, m: Module):
        exchange, ports, control = self.exchange, self.ports, self.ports.control
        # The answer waits for the end of a frame that is on its way: it may be another
        # command, and the CRC unit is in use.
        with m.State("POLL"):
            m.d.sync += self.timer.eq(self.timer - ~self.timer[-1])
            with m.If(ports.frame.valid):
                m.next = "IDLE"
            with m.Elif(self.due & ports.between):
                m.next = "POLL STATE"
            with m.Else():
                m.d.comb += ports.enable.eq(1)
        with m.State("POLL STATE"):
            available = control.produced - exchange.address
            m.d.sync += [
                self.told_running.eq(self.running),
                exchange.end.eq(control.produced),
                exchange.remaining.eq(Mux(self.new, available, 0)),
            ]
            m.next = "POLL TOKENS"
        with m.State("POLL TOKENS"):
            # Of where a context's buffer has no such token nothing is used.
            low = exact_log2(exchange.tokens) if exchange.contexts > 1 else len(exchange.address)
            m.d.sync += exchange.address[low:].eq(self.context)
            most = PollReply.most(exchange.max_payload)
            with m.If(exchange.remaining > most):
                m.d.sync += exchange.remaining.eq(most)
            exchange.acknowledge(m, Answer.POLL)


def _bytes(name: str) -> tuple[int, int]:
    """First and last byte of a field of a RUN's arguments."""
    first, size = argument_offset(Command.RUN, name)
    return first, first + size - 1
