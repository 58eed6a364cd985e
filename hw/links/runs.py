"""RUN, POLL, STOP, RESET and CLAIM: the host's control over runs."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib.memory import Memory
from amaranth.utils import exact_log2

from hw.arch.protocol import (
    Command,
    Feature,
    MemorySpace,
    PollReply,
    Reason,
    RunFlag,
    argument_offset,
)
from hw.links.exchange import Exchange


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
        self.poll_start = exchange.argument(Command.POLL, "start")
        self.session = Signal(32)
        self.claimed = Signal()  # it is that of a host
        self.lost = Signal()  # a RUN is of another session, or wants a state that is not there
        # Of each context: a run has the id that is kept, and a state is there.
        self.started, self.stated = Signal(exchange.contexts), Signal(exchange.contexts)
        # Of the context that is named: its number, whether it runs, and its last run's id, which is
        # there a cycle later.
        self.context = exchange.argument(Command.RUN, "context")[: exact_log2(exchange.contexts)]
        self.running = Signal()
        self.repeated = Signal()  # its last run is the one that a RUN names
        self.chained = Signal()  # the last run that was started has all contexts
        self.run_id = Signal(32)
        self.timer = Signal(range(-1, poll_cycles))  # cycles left, less one
        self.due = Signal()  # a waiting POLL has something to tell
        self.available = Signal(16)

    def connect(self, m: Module):
        """The run that a command describes, and what is known of it and of a POLL."""
        argument, control, run = self.exchange.argument, self.ports.control, self.ports.control.run
        flags = argument(Command.RUN, "flags")
        self.sampled = (flags & RunFlag.SAMPLED).any()
        # Without noise its state is a constant, of which synthesis leaves nothing.
        if Feature.SAMPLING in self.exchange.features:
            m.d.comb += [
                run.payload.sampled.eq(self.sampled),
                run.payload.noise.eq(argument(Command.RUN, "noise")),
            ]
        m.d.comb += [
            run.payload.chained.eq((flags & RunFlag.CHAINED).any()),
            run.payload.context.eq(self.context),
            control.context.eq(self.context),
            self.running.eq(control.running.bit_select(self.context, 1)),
            self.repeated.eq(
                self.started.bit_select(self.context, 1)
                & (argument(Command.RUN, "run_id") == self.run_id)
            ),
            run.payload.reset.eq((flags & RunFlag.RESET).any()),
            run.payload.stop_enable.eq((flags & RunFlag.STOP_ENABLE).any()),
            *(
                run.payload[name].eq(argument(Command.RUN, name))
                for name in ("prompt_length", "generate", "stop_token", "mantissa", "exponent")
            ),
        ]
        m.d.sync += self.due.eq(
            (control.produced > self.poll_start) | ~self.running | self.timer[-1]
        )
        m.d.sync += self.lost.eq(
            (argument(Command.RUN, "session") != self.session)
            | ~self.claimed
            | ~(run.payload.reset | self.stated.bit_select(self.context, 1))
        )
        bus = self.ports.bus
        if MemorySpace.STATES in self.exchange.memories:
            owner = self.exchange.owner(MemorySpace.STATES, bus.address)
            with m.If(bus.write & (bus.space == MemorySpace.STATES)):
                m.d.sync += self.stated.bit_select(owner, 1).eq(1)
        self._keep(m)

    def _keep(self, m: Module):
        """The ids of the last runs; one that did not start since the last reset or claim is 0."""
        run, run_id = self.ports.control.run, self.exchange.argument(Command.RUN, "run_id")
        taken = run.valid & run.ready
        with m.If(taken):
            m.d.sync += [
                self.started.bit_select(self.context, 1).eq(1),
                self.stated.bit_select(self.context, 1).eq(1),
                self.chained.eq(run.payload.chained),
            ]
            with m.If(run.payload.chained):  # it takes all states
                m.d.sync += self.stated.eq(1 << self.context)
        if self.exchange.contexts == 1:
            with m.If(taken):
                m.d.sync += self.run_id.eq(run_id)
            return
        m.submodules.run_ids = ids = Memory(shape=32, depth=self.exchange.contexts, init=[])
        write, read = ids.write_port(), ids.read_port()
        m.d.comb += [
            write.addr.eq(self.context),
            write.data.eq(run_id),
            write.en.eq(taken),
            read.addr.eq(self.context),
            self.run_id.eq(Mux(self.started.bit_select(self.context, 1), read.data, 0)),
        ]

    def point(self, m: Module):
        """What a run needs of its buffer."""
        argument = self.exchange.argument
        with m.If(self.exchange.command == Command.RUN):
            m.d.sync += self.exchange.end.eq(
                argument(Command.RUN, "prompt_length") + argument(Command.RUN, "generate")
            )

    def check(self, m: Module):
        """The cases of the commands of this kind that may be refused."""
        exchange, control = self.exchange, self.ports.control
        beyond = exchange.argument(Command.RUN, "context")[len(self.context) :].any()
        for command in (Command.RUN, Command.POLL, Command.STOP):
            assert argument_offset(command, "context") == argument_offset(Command.RUN, "context")
        with m.Case(Command.RUN):
            prompt_length = exchange.argument(Command.RUN, "prompt_length")
            generate = exchange.argument(Command.RUN, "generate")
            chained = control.run.payload.chained
            elsewhere = chained & (self.context != exchange.contexts - 1)
            no_noise = Feature.SAMPLING not in exchange.features
            with m.If(beyond):
                exchange.refuse(m, Reason.BAD_VALUE)
            with m.Elif(~self.repeated):
                with m.If(self.running | (control.running.any() & (chained | self.chained))):
                    exchange.refuse(m, Reason.BUSY)
                with m.Elif(
                    (prompt_length == 0)
                    | (generate == 0)
                    | (self.sampled & no_noise)
                    | elsewhere
                    | (exchange.end > exchange.tokens)
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
            with m.Elif(exchange.argument(Command.CLAIM, "session") == 0):
                exchange.refuse(m, Reason.BAD_VALUE)

    def begin(self, m: Module):
        """The cases of the commands of this kind; three are executed on the way."""
        exchange, control = self.exchange, self.ports.control
        with m.Case(Command.RUN):
            m.next = "RUN"
            with m.If(self.repeated):
                exchange.acknowledge(m)
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
            claim = exchange.argument(Command.CLAIM, "session")
            m.d.sync += [self.session.eq(claim), self.claimed.eq(1)]
            self._forget(m)
            exchange.acknowledge(m)

    def _forget(self, m: Module):
        """The last runs, and the states that they left."""
        m.d.sync += [self.started.eq(0), self.stated.eq(0)]
        if self.exchange.contexts == 1:
            m.d.sync += self.run_id.eq(0)

    def execute(self, m: Module):
        """The states that start a run, and that tell how far it has come."""
        self._run(m)
        self._poll(m)

    def _run(self, m: Module):
        exchange, run = self.exchange, self.ports.control.run
        with m.State("RUN"):
            m.d.comb += run.valid.eq(1)
            with m.If(run.ready):
                exchange.acknowledge(m)

    def _buffer_entry(self):
        """Address of the first token that a POLL asks for; where there is none it is not used."""
        if self.exchange.contexts == 1:
            return self.poll_start
        return Cat(self.poll_start[: exact_log2(self.exchange.tokens)], self.context)

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
            m.d.sync += [
                exchange.reply.eq(Cat(self.run_id, self.running, Const(0, 7), control.produced)),
                exchange.reply_left.eq(PollReply.LAYOUT.size),
                self.available.eq(
                    Mux(
                        control.produced > self.poll_start,
                        control.produced - self.poll_start,
                        0,
                    )
                ),
                exchange.bus_space.eq(MemorySpace.TOKENS),
                exchange.address.eq(self._buffer_entry()),
            ]
            m.next = "POLL TOKENS"
        with m.State("POLL TOKENS"):
            most = PollReply.most(exchange.max_payload)
            tokens = Mux(self.available > most, most, self.available)
            m.d.sync += [
                exchange.remaining.eq(tokens),
                exchange.response_length.eq((tokens << 1) + PollReply.LAYOUT.size),
            ]
            exchange.acknowledge(m)
