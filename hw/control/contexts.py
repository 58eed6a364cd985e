"""What is kept of every context: its run, and how far it has come."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.arch.geometry import CONTEXT_BITS, Geometry
from hw.control.run import context_bits, run_command
from hw.units.commands import TOKEN_BITS
from weights.noise import TOKEN_STEP, xorshift


def order_layout(tokens: int) -> data.StructLayout:
    """What stays of a ``run_command`` in a buffer of so many tokens: how many it holds at the end
    at most, instead of those of the prompt and those to generate."""
    return data.StructLayout(
        {"sampled": 1, "stop_enable": 1, "end": range(tokens + 1), "stop_token": TOKEN_BITS}
    )


def progress_layout(tokens: int) -> data.StructLayout:
    """What a token changes: its place in the buffer, whether it begins from the zero state, and the
    noise for the choice after it."""
    return data.StructLayout({"position": range(tokens + 1), "first": 1, "noise": 32})


class Contexts(wiring.Component):
    """Runs of all contexts.

    A run is taken at any time but while one is moved on.

    Parameters
    ----------
    geometry : Geometry

    Members
    -------
    run : In(stream.Signature(run_command(contexts))), of a context that does not run
    stop : In(contexts), end its run after the current token
    running : Out(contexts), from the cycle after ``run`` was taken
    staying : Out(contexts), the same after this cycle's ``advance``
    asked, produced : In(context_bits(contexts)) and, a cycle later if there are several, Out(16),
        tokens in its buffer
    context : In(CONTEXT_BITS), of which are the following ones
    order, progress, choice : Out, its run, and what of it is under way
    filled : Out(range(tokens + 1)), tokens in its buffer
    ahead : In(range(contexts)), how many of its tokens are taken beside this one
    choosing : Out(1), a token is to be chosen after these
    turn : In(CONTEXT_BITS), where one of its tokens is taken: elsewhere for one that is chained
    token : Out(16), that one
    read, read_token : In(1) and In(16), this is it
    chosen, chosen_context, chosen_token : In, whose choice is what
    moving : In(1), the run is moved on, and one of these is coming:
    append : In(1), its choice is a token of its buffer
    advance : In(1), in the cycle after: on to the next token, or to the end of its run
    chose : In(1), with both: one was chosen
    """

    def __init__(self, geometry: Geometry):
        self._geometry = geometry
        n = geometry.contexts
        super().__init__(
            {
                "run": In(stream.Signature(run_command(n))),
                "stop": In(n),
                "running": Out(n),
                "staying": Out(n),
                "asked": In(context_bits(n)),
                "produced": Out(16),
                "context": In(CONTEXT_BITS),
                "order": Out(order_layout(geometry.tokens)),
                "progress": Out(progress_layout(geometry.tokens)),
                "filled": Out(range(geometry.tokens + 1)),
                "ahead": In(range(n)),
                "turn": In(CONTEXT_BITS),
                "token": Out(TOKEN_BITS),
                "choice": Out(TOKEN_BITS),
                "choosing": Out(1),
                "read": In(1),
                "read_token": In(TOKEN_BITS),
                "chosen": In(1),
                "chosen_context": In(CONTEXT_BITS),
                "chosen_token": In(TOKEN_BITS),
                "moving": In(1),
                "append": In(1),
                "advance": In(1),
                "chose": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        n = self._geometry.contexts
        order, progress, here = self.order, self.progress, self.context
        taken = Signal()
        position = Signal.like(progress.position)  # of the token after these
        m.d.comb += [
            self.run.ready.eq(~self.moving),
            taken.eq(self.run.valid & self.run.ready),
            position.eq(progress.position + self.ahead + 1),
            # No token was chosen yet that is not taken: the last one of these is the buffer's.
            self.choosing.eq(position == self.filled),
        ]
        at = Mux(taken, self.run.payload.context, here)
        run = self.run.payload
        kept = Signal.like(order)
        moved = Signal.like(progress)
        m.d.comb += [
            kept.end.eq(run.prompt_length + run.generate),
            *(kept[n].eq(run[n]) for n in ("sampled", "stop_enable", "stop_token")),
        ]
        with m.If(taken):
            m.d.comb += [moved.first.eq(run.reset), moved.noise.eq(run.noise)]
        with m.Else():
            drawn = xorshift(progress.noise, TOKEN_STEP)
            m.d.comb += [
                moved.position.eq(position),
                moved.noise.eq(Mux(self.chose & order.sampled, drawn, progress.noise)),
            ]
        self._keep(m, "order", order, taken, at, kept)
        self._keep(m, "progress", progress, taken | self.advance, at, moved)
        self._keep(m, "token", self.token, self.read, self.turn, self.read_token, self.turn)
        self._keep(m, "choice", self.choice, self.chosen, self.chosen_context, self.chosen_token)
        more = Signal.like(self.filled)
        m.d.comb += more.eq(Mux(taken, run.prompt_length, self.filled + 1))
        told = self._keep(m, "filled", self.filled, taken | self.append, at, more)
        if n == 1:
            m.d.comb += self.produced.eq(self.filled)
        else:
            asked = told.read_port(domain="comb")
            m.d.comb += asked.addr.eq(self.asked)
            m.d.sync += self.produced.eq(asked.data)

        stopping = Signal(n)
        own, new = Signal(n), Signal(n)
        m.d.comb += [own.eq(1 << here), new.eq(taken << run.context)]
        m.d.sync += stopping.eq(self.running & (stopping | self.stop))
        # In a register, a cycle before it says how the machine goes on: it is a long way to that.
        ends = Signal()
        m.d.sync += ends.eq(
            (stopping & own).any()
            | (Mux(self.append, more, self.filled) == order.end)
            | (self.chose & order.stop_enable & (self.choice == order.stop_token))
        )
        m.d.comb += [
            self.staying.eq(self.running & ~Mux(self.advance & ends, own, 0)),
        ]
        m.d.sync += self.running.eq(self.staying | new)
        return m

    def _keep(self, m, name: str, value, write, at, new, read_at=None) -> Memory:
        """A memory of one value for each context, of which ``value`` is that at ``context``."""
        kept = Memory(shape=value.shape(), depth=self._geometry.contexts, init=[])
        m.submodules[name] = kept
        reader, writer = kept.read_port(domain="comb"), kept.write_port()
        m.d.comb += [
            reader.addr.eq(self.context if read_at is None else read_at),
            value.eq(reader.data),
            writer.en.eq(write),
            writer.addr.eq(at),
            writer.data.eq(new),
        ]
        return kept
