"""Controller of an SDRAM: reads and writes of words, a word a cycle."""

import enum

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.memory.sdram.bank import Bank, passing, remaining
from hw.memory.sdram.parts import Part, Timing
from hw.memory.sdram.pins import PAD_LATENCY, PinsSignature

POSTPONED = 8
"""Refreshes that may be owed. They are made up for together, so that rows are closed once for all
of them, or where nothing is asked for."""

FIRST_REFRESHES = 8
"""Before the mode register is set."""

ALL_BANKS = 1 << 10
"""Address bit by which a precharge means all banks."""


DECIDED = 2
"""Least cycles from a command that opens or closes rows to one that needs its outcome: each is
decided in the cycle before it, from what was told until then."""


def read_latency(timing: Timing) -> int:
    """Cycles from a read command to its word: through the pads, and to the edge that captures it.

    That edge is the one after the part's, whose own command is one after that of the register here.
    """
    return sum(PAD_LATENCY[timing.ratio]) + -(-(1 + timing.cas_latency) // timing.ratio)


def seek_latency(timing: Timing) -> int:
    """Cycles from an access that is taken to its command, where a row must make way for its own."""
    return 2 + max(DECIDED, timing.rp) + max(DECIDED, timing.rcd)


def most_wait(timing: Timing, refreshes: int) -> int:
    """Most cycles that reads of words in order lose, where they end up in the next row of the part.

    Refreshes that are owed have begun when the first one is asked for, and then every row is to be
    closed and opened.
    """
    t = timing
    row = max(DECIDED, t.ras) + max(DECIDED, t.rp) + max(DECIDED, t.rcd) + 2
    return 3 + max(DECIDED, t.rp) + refreshes * t.rfc + 2 * row


def share(part: Part, timing: Timing) -> float:
    """Share of the cycles in which words are read, where they are always asked for in order.

    Of each row of the part two commands are lost, one that closes a row and one that opens one.
    Refreshes come together: all rows are closed for them, and two opened again behind them, the
    second while the first one's time runs, if that is long enough. The two rows after them find
    their banks closed, which is as long as deciding takes.
    """
    t, words = timing, (1 << part.column_bits) // timing.ratio
    opening = max(DECIDED, t.rcd)
    refreshes = max(DECIDED, t.rp) + POSTPONED * t.rfc + opening
    refreshes += opening <= max(DECIDED, t.rrd)
    return words / (words + 2) * (1 - refreshes / (POSTPONED * t.refi))


class Command(enum.IntEnum):
    """Bits of the pins: ``ras``, ``cas``, ``we`` from the lowest on."""

    NOTHING = 0b000
    ACTIVATE = 0b001
    READ = 0b010
    WRITE = 0b110
    PRECHARGE = 0b101
    REFRESH = 0b011
    MODE = 0b111


class Access(data.StructLayout):
    """A read or a write of one word, which is what a part moves in ``ratio`` of its cycles.

    Words lie along a row, then in the same row of the next bank, so that whoever reads them in
    order finds the next row open. A byte is written unless its bit of ``mask`` is set.
    """

    def __init__(self, part: Part, ratio: int = 1):
        super().__init__(
            {
                "column": part.column_bits - exact_log2(ratio),
                "bank": exact_log2(part.banks),
                "row": part.row_bits,
                "write": 1,
                "data": ratio * part.width,
                "mask": ratio * part.width // 8,
            }
        )


class Controller(wiring.Component):
    """Tells a part what to do, with the rows that come next opened ahead.

    A read is a command for every word, and costs no more than a longer burst would: of a whole row
    of words that are asked for in order, two cycles go to the commands that open the one after.

    What is asked for waits in a register, in which its row and the one after it in memory are
    looked up: whether it may be told in the next cycle, or what else must be told then. What is
    asked for meanwhile has a second one, so that whoever asks need not wait for what is told.

    Parameters
    ----------
    part : Part
    timing : Timing
        Its times in cycles, and how many of its cycles there are in one.

    Members
    -------
    access : ``In(stream.Signature(Access))``
        Taken in order.
    abandon : ``In(1)``
        Reads that were taken until now are not answered, one in this very cycle included.
    answer : ``Out(1)``
        A read that was told ``latency`` cycles ago is answered. It is told in the cycle after it
        was taken, if its row is open.
    word : ``Out(ratio * width)``
        With the answer.
    pins : ``Out(PinsSignature)``
    """

    def __init__(self, part: Part, timing: Timing):
        self.part = part
        self.timing = timing
        super().__init__(
            {
                "access": In(stream.Signature(Access(part, timing.ratio))),
                "abandon": In(1),
                "answer": Out(1),
                "word": Out(timing.ratio * part.width),
                "pins": Out(PinsSignature(part, timing.ratio)),
            }
        )

    @property
    def latency(self) -> int:
        """Of `read_latency`."""
        return read_latency(self.timing)

    def elaborate(self, platform):
        m = Module()
        part, t = self.part, self.timing

        # The access that waits, the row after its own, and an access that came behind it.
        held, waits = Signal(Access(part, t.ratio)), Signal()
        following = Signal.like(_page(held))
        behind, is_behind = Signal.like(held), Signal()
        told, coming, taken = Signal(), Signal(), Signal()
        asked = Signal.like(held)
        m.d.comb += [
            self.access.ready.eq(~is_behind),
            asked.eq(Mux(is_behind, behind, self.access.payload)),
            coming.eq(is_behind | self.access.valid),
            taken.eq(coming & (~waits | told)),
        ]
        with m.If(~is_behind):
            m.d.sync += behind.eq(self.access.payload)
        with m.If(taken):
            m.d.sync += held.eq(asked), following.eq(_page(asked) + 1)
        is_wanted = asked.write | ~self.abandon
        m.d.sync += is_behind.eq(coming & ~taken & is_wanted)
        m.d.sync += waits.eq(Mux(taken, is_wanted, waits & ~told & (held.write | ~self.abandon)))

        # A command of the plan is told in this cycle. What follows from it shows in the next.
        plan = Signal(
            data.StructLayout(
                {"command": Command, "bank": held.bank.shape(), "all": 1, "row": part.row_bits}
            )
        )
        planned = plan.command != Command.NOTHING
        activated, precharged, refreshed, set_mode = (
            plan.command == it
            for it in (Command.ACTIVATE, Command.PRECHARGE, Command.REFRESH, Command.MODE)
        )
        reads, writes = told & ~held.write, told & held.write
        banks = [Bank(part.row_bits, t) for _ in range(part.banks)]
        for number, one in enumerate(banks):
            m.submodules[f"bank_{number}"] = one
            m.d.comb += [
                one.activate.eq(activated & (plan.bank == number)),
                one.precharge.eq(precharged & ((plan.bank == number) | plan.all)),
                one.write.eq(writes & (held.bank == number)),
                one.row.eq(plan.row),
            ]
        by_bank = Array(banks)
        settled = passing(m, t.rfc, refreshed, "rfc") & passing(m, t.mrd, set_mode, "mrd")
        may_activate = settled & passing(m, t.rrd, activated, "rrd")
        may_write = remaining(m, t.turn, reads, "turn") == 0
        may_precharge = Cat(one.may_precharge for one in banks).all()
        quiet = settled & Cat(one.may_activate for one in banks).all()
        any_open = Cat(one.open for one in banks).any()

        # Rows of the access and after it. The next access mostly is in one of the two.
        next_bank, next_row = following[: len(held.bank)], following[len(held.bank) :]
        here, there = by_bank[held.bank], by_bank[next_bank]
        is_open = here.open & (here.opened == held.row)
        next_is_open = there.open & (there.opened == next_row)
        stays, follows = _page(asked) == _page(held), _page(asked) == following
        is_ready, next_is_ready = is_open & here.may_access, next_is_open & there.may_access
        ready = Signal()
        m.d.sync += ready.eq(Mux(taken, stays & is_ready | follows & next_is_ready, is_ready))

        owed = Signal(range(2 * POSTPONED), init=FIRST_REFRESHES)
        started, due = Signal(), Signal()  # the mode is set, and refreshes fall due since then
        interval = Signal(Value.cast(t.refi).shape())
        with m.If(due | ~started):
            m.d.sync += interval.eq(t.refi - 1)
        with m.Else():
            m.d.sync += interval.eq(interval - 1)
        m.d.comb += due.eq(started & (interval == 0))
        m.d.sync += owed.eq(owed + due - refreshed)
        wanted = (owed >= POSTPONED) | ((owed != 0) & ~waits)
        waited = Signal(Value.cast(t.power_up).shape())
        step = exact_log2(t.ratio)
        mode = t.cas_latency << 4 | step  # bursts of as many words as there are cycles in one

        def close(number):
            m.d.sync += plan.command.eq(Command.PRECHARGE), plan.bank.eq(number)

        def open_(number, row):
            m.d.sync += plan.command.eq(Command.ACTIVATE), plan.bank.eq(number), plan.row.eq(row)

        def close_all():
            m.d.sync += plan.command.eq(Command.PRECHARGE), plan.all.eq(1), plan.row.eq(ALL_BANKS)

        m.d.sync += plan.command.eq(Command.NOTHING), plan.all.eq(0), plan.row.eq(0)
        with m.FSM():
            with m.State("POWER_UP"):
                m.d.sync += waited.eq(waited + 1)
                with m.If(waited == t.power_up):
                    close_all()
                    m.next = "REFRESH"
            with m.State("REFRESH"):
                with m.If(planned):
                    pass
                with m.Elif(any_open):
                    with m.If(may_precharge):
                        close_all()
                with m.Elif(quiet):
                    with m.If(owed != 0):
                        m.d.sync += plan.command.eq(Command.REFRESH)
                    with m.Else():
                        m.next = "ACCESS"
                        with m.If(~started):
                            m.d.sync += plan.command.eq(Command.MODE), plan.row.eq(mode)
                            m.d.sync += started.eq(1)
            with m.State("ACCESS"):
                m.d.comb += told.eq(waits & ready & ~planned & (~held.write | may_write))
                with m.If(wanted):
                    m.next = "REFRESH"
                with m.Elif(planned | ~waits | taken & ~stays):
                    pass
                with m.Elif(here.open & ~is_open):
                    with m.If(here.may_precharge):
                        close(held.bank)
                with m.Elif(~is_open):
                    with m.If(may_activate & here.may_activate):
                        open_(held.bank, held.row)
                with m.Elif(there.open & ~next_is_open & there.may_precharge):
                    close(next_bank)
                with m.Elif(~there.open & may_activate & there.may_activate):
                    open_(next_bank, next_row)

        pins = self.pins
        access = Mux(held.write, Command.WRITE, Command.READ)
        m.d.sync += [
            Cat(pins.ras, pins.cas, pins.we).eq(Mux(told, access, plan.command)),
            pins.bank.eq(Mux(told, held.bank, plan.bank)),
            pins.address.eq(Mux(told, held.column << step, plan.row)),
            pins.mask.eq(Mux(writes, held.mask, Cat(~started).replicate(len(pins.mask)))),
            pins.dq.o.eq(held.data),
            pins.dq.oe.eq(writes),
        ]
        awaited = reads & ~self.abandon
        for cycle in range(self.latency):
            stage = Signal(name=f"read_{cycle + 1}")
            m.d.sync += stage.eq(awaited)
            awaited = stage & ~self.abandon
        m.d.comb += [self.answer.eq(stage), self.word.eq(self._gathered(m))]
        return m

    def _gathered(self, m: Module) -> Value:
        """Words out of what is captured in a cycle, which may be the end of one and of the next."""
        captured, timing = self.pins.dq.i, self.timing
        late = -(1 + timing.cas_latency) % timing.ratio * self.part.width
        before = Signal(late, reset_less=True)
        m.d.sync += before.eq(captured[len(captured) - late :])
        return Cat(before, captured[: len(captured) - late])


def _page(access) -> Value:
    """What counts rows in the order of words: a row of the part, bank by bank."""
    return Cat(access.bank, access.row)
