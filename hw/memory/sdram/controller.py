"""Controller of an SDRAM: reads and writes of words, a word a cycle."""

import enum

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.memory.sdram.bank import Bank, passed
from hw.memory.sdram.parts import BANKS, Part, Timing
from hw.memory.sdram.pins import PAD_LATENCY, PinsSignature

POSTPONED = 8
"""Refreshes that may be owed. They are made up for together, so that rows are closed once for all
of them, or where nothing is asked for."""

FIRST_REFRESHES = 8
"""Before the mode register is set."""

ALL_BANKS = 1 << 10
"""Address bit by which a precharge means all banks."""


def read_latency(timing: Timing) -> int:
    """Cycles from a read to its word: the register here, those of the pads, the part's own."""
    return 1 + 2 * PAD_LATENCY + timing.cas_latency


def share(part: Part, timing: Timing) -> float:
    """Share of the cycles in which words are read, where they are always asked for in order.

    Of each row of the part two commands are lost, one that closes a row and one that opens one.
    Refreshes come together: all rows are closed for them, and two opened again behind them.
    """
    t, words = timing, 1 << part.column_bits
    refreshes = 2 + t.rp + POSTPONED * t.rfc + 2 + t.rcd
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
    """A read or a write of one word.

    Words lie along a row, then in the same row of the next bank, so that whoever reads them in
    order finds the next row open. A byte is written unless its bit of ``mask`` is set.
    """

    def __init__(self, part: Part):
        super().__init__(
            {
                "column": part.column_bits,
                "bank": exact_log2(BANKS),
                "row": part.row_bits,
                "write": 1,
                "data": part.width,
                "mask": part.width // 8,
            }
        )


class Controller(wiring.Component):
    """Tells a part what to do, with the rows that come next opened ahead.

    A read is a command for every word, and costs no more than a burst would: of a whole row of
    words that are asked for in order, two cycles go to the commands that open the one after.

    Parameters
    ----------
    part : Part
    timing : Timing
        Its times in cycles.

    Members
    -------
    access : ``In(stream.Signature(Access))``
        Taken in order.
    abandon : ``In(1)``
        Reads that were taken until now are not answered, one in this very cycle included.
    answer : ``Out(1)``
        A read that was taken ``latency`` cycles ago is answered.
    word : ``Out(width)``
        With the answer.
    pins : ``Out(PinsSignature)``
    """

    def __init__(self, part: Part, timing: Timing):
        self.part = part
        self.timing = timing
        super().__init__(
            {
                "access": In(stream.Signature(Access(part))),
                "abandon": In(1),
                "answer": Out(1),
                "word": Out(part.width),
                "pins": Out(PinsSignature(part)),
            }
        )

    @property
    def latency(self) -> int:
        """Of `read_latency`."""
        return read_latency(self.timing)

    def elaborate(self, platform):
        m = Module()
        part, t, access = self.part, self.timing, self.access.payload

        banks = [Bank(part.row_bits, t) for _ in range(BANKS)]
        command = Signal(Command)
        bank = Signal.like(access.bank)
        address = Signal(part.row_bits)
        to_all = Signal()
        for number, one in enumerate(banks):
            m.submodules[f"bank_{number}"] = one
            here = (bank == number) | to_all
            m.d.comb += [
                one.activate.eq((command == Command.ACTIVATE) & here),
                one.precharge.eq((command == Command.PRECHARGE) & here),
                one.write.eq((command == Command.WRITE) & here),
                one.row.eq(address),
            ]
        by_bank = Array(banks)
        activated, read, refreshed, set_mode = (
            command == it for it in (Command.ACTIVATE, Command.READ, Command.REFRESH, Command.MODE)
        )
        settled = passed(m, t.rfc, refreshed, "rfc") & passed(m, t.mrd, set_mode, "mrd")
        may_activate = settled & passed(m, t.rrd, activated, "rrd")
        mode = t.cas_latency << 4  # bursts of one word
        may_write = passed(m, t.turn, read, "turn")
        may_precharge = Cat(one.may_precharge for one in banks).all()
        quiet = settled & Cat(one.may_activate for one in banks).all()
        any_open = Cat(one.open for one in banks).any()

        # What the access needs, and what comes after it in memory.
        here, page = by_bank[access.bank], Cat(access.bank, access.row)
        following = Signal.like(page)
        m.d.sync += following.eq(page + 1)
        next_bank, next_row = following[: len(bank)], following[len(bank) :]
        there = by_bank[next_bank]
        is_open = here.open & (here.opened == access.row)
        next_is_open = there.open & (there.opened == next_row)

        def close(number):
            m.d.comb += [command.eq(Command.PRECHARGE), bank.eq(number)]

        def open_(number, row):
            m.d.comb += [command.eq(Command.ACTIVATE), bank.eq(number), address.eq(row)]

        def close_all():
            m.d.comb += [command.eq(Command.PRECHARGE), to_all.eq(1), address.eq(ALL_BANKS)]

        owed = Signal(range(2 * POSTPONED), init=FIRST_REFRESHES)
        started, due = Signal(), Signal()  # the mode is set, and refreshes fall due since then
        interval = Signal(Value.cast(t.refi).shape())
        with m.If(due | ~started):
            m.d.sync += interval.eq(t.refi - 1)
        with m.Else():
            m.d.sync += interval.eq(interval - 1)
        m.d.comb += due.eq(started & (interval == 0))
        m.d.sync += owed.eq(owed + due - refreshed)
        wanted = (owed >= POSTPONED) | ((owed != 0) & ~self.access.valid)
        waited = Signal(Value.cast(t.power_up).shape())

        with m.FSM():
            with m.State("POWER_UP"):
                m.d.sync += waited.eq(waited + 1)
                with m.If(waited == t.power_up):
                    close_all()
                    m.next = "REFRESH"
            with m.State("REFRESH"):
                with m.If(any_open):
                    with m.If(may_precharge):
                        close_all()
                with m.Elif(quiet):
                    with m.If(owed != 0):
                        m.d.comb += command.eq(Command.REFRESH)
                    with m.Else():
                        m.next = "ACCESS"
                        with m.If(~started):
                            m.d.comb += [command.eq(Command.MODE), address.eq(mode)]
                            m.d.sync += started.eq(1)
            with m.State("ACCESS"):
                with m.If(wanted):
                    m.next = "REFRESH"
                with m.Elif(~self.access.valid):
                    pass
                with m.Elif(here.open & ~is_open):
                    with m.If(here.may_precharge):
                        close(access.bank)
                with m.Elif(~is_open):
                    with m.If(may_activate & here.may_activate):
                        open_(access.bank, access.row)
                with m.Elif(there.open & ~next_is_open & there.may_precharge):
                    close(next_bank)
                with m.Elif(~there.open & may_activate & there.may_activate):
                    open_(next_bank, next_row)
                with m.Elif(here.may_access & (~access.write | may_write)):
                    m.d.comb += [
                        self.access.ready.eq(1),
                        command.eq(Mux(access.write, Command.WRITE, Command.READ)),
                        bank.eq(access.bank),
                        address.eq(access.column),
                    ]

        pins = self.pins
        writes = command == Command.WRITE
        m.d.sync += [
            Cat(pins.ras, pins.cas, pins.we).eq(command),
            pins.bank.eq(bank),
            pins.address.eq(address),
            pins.mask.eq(Mux(writes, access.mask, Cat(~started).replicate(len(pins.mask)))),
            pins.dq.o.eq(access.data),
            pins.dq.oe.eq(writes),
        ]
        awaited = read & ~self.abandon
        for cycle in range(self.latency):
            stage = Signal(name=f"read_{cycle + 1}")
            m.d.sync += stage.eq(awaited)
            awaited = stage & ~self.abandon
        m.d.comb += [self.answer.eq(stage), self.word.eq(pins.dq.i)]
        return m
