"""SDRAM: the controller and the store against a model of the chips that knows nothing of them."""

import dataclasses
import random
from dataclasses import dataclass
from functools import partial
from statistics import median

import pytest
from amaranth.hdl import Module, Mux
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.memory.sdram.controller import Access, Controller, read_latency, seek_latency, share
from hw.memory.sdram.parts import COLORLIGHT, COLORLIGHT_5A, EM638325, ULX3S, X16, Part, Timing
from hw.memory.sdram.pins import PinsSignature
from hw.memory.sdram.store import SdramStore, SdramStoreParameters
from sim.sdram import CHIPS, MODEL, PARTS, Chip, fault_name, pads_verilog
from tests.stepped import Stepped
from tests.test_stores import Host, trits

CLOCK_HZ = 100_000_000

# The controller ---------------------------------------------------------------------------------

STRICT = Chip(
    # No time of it follows from others at 100 MHz.
    width=16, row_bits=11, column_bits=8, clock_cl2=10, clock_cl3=7,
    rcd=30, rp=30, ras=80, rc=150, rrd=30, rfc=70, wr=30, mrd=30, refresh=4096 * 2e3,
    rows_refreshed=12, power_up=5_000, ras_most=17_000,
)  # fmt: skip
LEAST = {"rcd": 3, "rp": 3, "ras": 8, "rc": 15, "rrd": 3, "rfc": 7, "wr": 3, "mrd": 3}
TIMES = {**LEAST, "turn": 4, "refi": 200, "power_up": 500}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A strict chip at so many times the clock of its controller."""

    ratio: int
    cas_latency: int

    @property
    def chip(self) -> Chip:
        fast, slow = 10 / self.ratio, 10
        return dataclasses.replace(
            STRICT, clock_cl2=fast if self.cas_latency == 2 else slow, clock_cl3=fast
        )

    @property
    def part(self) -> Part:
        """As far as the controller is not told its times."""
        times = {name: getattr(STRICT, name) for name in LEAST}
        sizes = {name: getattr(STRICT, name) for name in ("width", "row_bits", "column_bits")}
        return Part(
            name="strict",
            refi=2000,
            power_up=STRICT.power_up,
            least_clock=self.chip.clock_cl3,
            fast_clock=self.chip.clock_cl2,
            **sizes,
            **times,
        )

    @property
    def times(self) -> dict[str, int]:
        """With two cycles of its own in one, data are written late and the pins free early."""
        return TIMES | ({"wr": 4, "turn": 3} if self.ratio == 2 else {})


CASES = [Case(ratio=1, cas_latency=2), Case(ratio=2, cas_latency=2), Case(ratio=2, cas_latency=3)]


def test_times_that_the_tests_expect():
    for case in CASES:
        timing = case.part.timing(CLOCK_HZ, case.ratio)
        assert timing == Timing(cas_latency=case.cas_latency, ratio=case.ratio, **case.times)


class Adjusted(wiring.Component):
    """A controller that is told its times, and pins that can be moved by hand instead."""

    def __init__(self, case: Case):
        self.case = case
        self.layout = Access(case.part, case.ratio)
        super().__init__(
            {
                "times": In(wiring.Signature({name: Out(16) for name in TIMES})),
                "access": In(stream.Signature(self.layout)),
                "abandon": In(1),
                "answer": Out(1),
                "word": Out(self.layout["data"].width),
                "by_hand": In(1),
                "hand": In(PinsSignature(case.part, case.ratio)),
                "pins": Out(PinsSignature(case.part, case.ratio)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        timing = self.timing({name: getattr(self.times, name) for name in TIMES})
        m.submodules.controller = controller = Controller(self.case.part, timing)
        connect(m, flipped(self.access), controller.access)
        m.d.comb += [
            controller.abandon.eq(self.abandon),
            self.answer.eq(controller.answer),
            self.word.eq(controller.word),
        ]
        for path, member, pin in self.pins.signature.flatten(self.pins):
            own, hand = controller.pins, self.hand
            for name in path:
                own, hand = getattr(own, name), getattr(hand, name)
            if member.flow == Out:
                m.d.comb += pin.eq(Mux(self.by_hand, hand, own))
            else:
                m.d.comb += [own.eq(pin), hand.eq(pin)]
        return m

    def timing(self, times) -> Timing:
        return Timing(cas_latency=self.case.cas_latency, ratio=self.case.ratio, **times)

    def packed(self, **fields: int) -> int:
        """An access, of which only these are not 0."""
        return sum(value << self.layout[name].offset for name, value in fields.items())


@pytest.fixture(
    scope="module", params=CASES, ids=lambda case: f"x{case.ratio}-CL{case.cas_latency}"
)
def adjusted(request, tmp_path_factory) -> tuple[Adjusted, Stepped]:
    component, case = Adjusted(request.param), request.param
    return component, Stepped(
        component,
        surroundings=pads_verilog([case.chip], CLOCK_HZ, pins="pins", ratio=case.ratio),
        inside="pins",
        extra={"fault": 64},
        modules=MODEL.read_text(),
        cache=tmp_path_factory.mktemp("cache"),
    )


async def traffic(component: Adjusted, times: dict[str, int], accesses: int, ctx: Stepped) -> str:
    """Reads and writes of a few places, hurried and not, of which some reads are abandoned; the
    name of the first fault."""
    rng = random.Random(accesses)
    for name, cycles in times.items():
        ctx.set(getattr(component.times, name), cycles)
    access, contents, expected = component.access, {}, []
    size = len(component.word) // 8
    for _ in range(accesses):
        column, bank, row = (
            rng.randrange(3),
            rng.randrange(component.case.part.banks),
            rng.randrange(3),
        )
        if rng.random() < 0.1:
            column = (1 << component.layout["column"].width) - 1  # the end of a row
        place = column, bank, row
        mask = rng.choice((0, 0, 1, 2, rng.randrange(1 << size)))
        write = place not in contents or rng.random() < 0.4
        value, mask = rng.getrandbits(8 * size), mask if place in contents else 0
        fields = {"column": column, "bank": bank, "row": row, "write": write}
        ctx.set(access.payload, component.packed(**fields, data=value, mask=mask))
        ctx.set(access.valid, 1)
        taken = False
        while not taken:
            abandon = rng.random() < 0.02
            ctx.set(component.abandon, abandon)
            taken = ctx.get(access.ready)
            if ctx.get(component.answer) and not fault_name(ctx.get("fault")):
                assert ctx.get(component.word) == expected.pop(0)
            await ctx.tick()
            if abandon:
                expected.clear()
        ctx.set(access.valid, 0)
        ctx.set(component.abandon, 0)
        if write:
            kept = sum(0xFF << 8 * n for n in range(size) if mask >> n & 1)
            contents[place] = contents.get(place, 0) & kept | value & ~kept
        elif not abandon:
            expected.append(contents[place])
        if fault := fault_name(ctx.get("fault")):
            return fault
        for _ in range(rng.choice((0, 0, 0, 1, 3, 30))):
            if ctx.get(component.answer):
                assert ctx.get(component.word) == expected.pop(0)
            await ctx.tick()
    return ""


@pytest.mark.whole
def test_words_come_back(adjusted):
    component, stepped = adjusted
    assert stepped.run(partial(traffic, component, component.case.times, 1500)) == ""


@pytest.mark.whole
@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        *(({time: -1}, f"t{time.upper()}") for time in LEAST),
        ({"turn": -1}, "contend"),
        ({"power_up": -9}, "power-up"),  # the first command is that late anyway
        ({"refi": 30}, "refresh"),
    ],
)
def test_a_cycle_too_few(adjusted, wrong, name):
    component, stepped = adjusted
    times = component.case.times
    times |= {time: times[time] + cycles for time, cycles in wrong.items()}
    assert stepped.run(partial(traffic, component, times, 1500)) == name


async def read_in_order(component: Adjusted, times: dict[str, int], cycles: int, ctx: Stepped):
    """Words taken in so many cycles, once rows are open, and the usual cycles to one elsewhere."""
    for name, time in times.items():
        ctx.set(getattr(component.times, name), time)
    access, place = component.access, 0

    async def step() -> int:
        nonlocal place
        ctx.set(access.payload, place)
        taken = ctx.get(access.ready)
        await ctx.tick()
        place += taken
        return taken

    ctx.set(access.valid, 1)
    while place < 1000:
        await step()
    taken = sum([await step() for _ in range(cycles)])
    late = []
    for _ in range(9):
        place += 3 << component.layout["row"].offset  # another row of a bank that has one open
        ctx.set(access.valid, 1)
        while not await step():
            pass
        ctx.set(access.valid, 0)
        late.append(1)
        while not ctx.get(component.answer):
            await ctx.tick()
            late[-1] += 1
        await ctx.tick().repeat(times["rc"])
    return taken, median(late), fault_name(ctx.get("fault"))


@pytest.mark.whole
@pytest.mark.parametrize("slower", [{"rcd": 4}, {"rcd": 5, "rp": 4}])
def test_time_that_is_lost(adjusted, slower):
    component, stepped = adjusted
    times = component.case.times | slower
    timing = component.timing(times)
    cycles = 16 * 8 * times["refi"]
    taken, late, fault = stepped.run(partial(read_in_order, component, times, cycles))
    assert fault == ""
    assert taken / cycles == pytest.approx(share(component.case.part, timing), abs=6e-4)
    assert late == seek_latency(timing) + read_latency(timing)


# The chips, by hand -----------------------------------------------------------------------------

CLOSE_ALL, REFRESH = ("ras we", 1 << 10), ("ras cas", 0)
OPEN, READ, WRITE = ("ras", 5), ("cas", 0), ("cas we oe", 0)


def start(case: Case, refreshes: int = 8, latency: int | None = None) -> list:
    latency = latency or case.cas_latency
    mode = ("ras cas we", latency << 4 | case.ratio - 1)
    return [500, CLOSE_ALL, 3, *[REFRESH, 7] * refreshes, mode, 3]


async def by_hand(component: Adjusted, commands: list, ctx: Stepped) -> str:
    """Commands, which are asserted pins and an address, and cycles to wait."""
    hand = component.hand
    pins = {name: getattr(hand, name) for name in ("ras", "cas", "we", "bank", "mask")}
    pins["oe"] = hand.dq.oe
    ctx.set(component.by_hand, 1)
    for command in commands:
        asserted, address = ("", 0) if isinstance(command, int) else command
        ctx.set(hand.address, address)
        for name, pin in pins.items():
            ctx.set(pin, -1 if name in asserted.split() else 0)
        await ctx.tick().repeat(command if isinstance(command, int) else 1)
    ctx.set(component.by_hand, 0)  # the controller is still where it began
    await ctx.tick().repeat(5)
    return fault_name(ctx.get("fault"))


@pytest.mark.whole
@pytest.mark.parametrize(
    ("commands", "name"),
    [
        ([500, OPEN], "init"),
        ([500, REFRESH], "init"),
        ([500, CLOSE_ALL, 3, REFRESH, 7, OPEN], "init"),
    ],
)
def test_what_the_chip_refuses_at_its_start(adjusted, commands, name):
    component, stepped = adjusted
    assert stepped.run(partial(by_hand, component, commands)) == name


@pytest.mark.whole
@pytest.mark.parametrize(("refreshes", "latency", "name"), [(7, None, "init"), (8, 1, "mode")])
def test_modes_that_the_chip_refuses(adjusted, refreshes, latency, name):
    component, stepped = adjusted
    commands = start(component.case, refreshes, latency)
    assert stepped.run(partial(by_hand, component, commands)) == name


@pytest.mark.whole
@pytest.mark.parametrize(
    ("commands", "name"),
    [
        ([OPEN, 3, READ, 7, WRITE, 4, CLOSE_ALL], ""),
        ([READ], "closed"),
        ([WRITE], "closed"),
        ([OPEN, 3, ("bank cas", 0)], "closed"),
        ([OPEN, 20, OPEN], "open"),
        ([OPEN, 20, REFRESH], "open"),
        ([OPEN, 3, ("cas we", 0)], "undriven"),
        ([OPEN, 3, READ, 1, WRITE], "contend"),
        ([OPEN, 3, ("cas", 1 << 10)], "autoprec"),
        ([OPEN, 1720], "tRAS max"),
        ([1790], ""),
        ([1810], "refresh"),
    ],
)
def test_what_the_chip_refuses(adjusted, commands, name):
    component, stepped = adjusted
    commands = [*start(component.case), *commands]
    assert stepped.run(partial(by_hand, component, commands)) == name


@pytest.mark.whole
@pytest.mark.parametrize("masked", [False, True])
def test_masked_bytes_are_not_read(adjusted, masked):
    component, stepped = adjusted
    case = component.case
    written = 0x12345678 & (1 << len(component.word)) - 1

    async def bench(ctx: Stepped) -> int:
        ctx.set(component.hand.dq.o, written)
        await by_hand(component, [*start(case), OPEN, 3, WRITE, 4], ctx)
        ctx.set(component.by_hand, 1)
        ctx.set(component.hand.cas, 1)
        ctx.set(component.hand.mask, -1 if masked else 0)
        for _ in range(read_latency(component.timing(case.times)) - 1):
            await ctx.tick()
            ctx.set(component.hand.cas, 0)
            ctx.set(component.hand.mask, 0)
        return ctx.get(component.word)

    assert (stepped.run(bench) == written) != masked


# Parts ------------------------------------------------------------------------------------------


def test_times_are_rounded_to_the_safe_side():
    assert ULX3S.timing(100_000_000) == Timing(
        cas_latency=2, turn=4, rcd=3, rp=3, ras=5, rc=7, rrd=2, rfc=7, wr=2, mrd=2,
        refi=781, power_up=20_000,
    )  # fmt: skip
    fast = ULX3S.timing(133_000_000)
    assert (fast.cas_latency, fast.rc, fast.refi) == (3, 9, 1039)
    assert ULX3S.timing(1_000_000).mrd == 2


def test_times_at_twice_the_clock():
    assert ULX3S.timing(50_000_000, 2) == Timing(
        cas_latency=2, turn=3, rcd=2, rp=2, ras=3, rc=4, rrd=1, rfc=4, wr=2, mrd=2,
        refi=390, power_up=10_000, ratio=2,
    )  # fmt: skip
    assert ULX3S.timing(66_000_000, 2).cas_latency == 3
    with pytest.raises(ValueError, match="clock_hz must be at most 66666666 with ulx3s at 2 times"):
        ULX3S.timing(66_666_667, 2)
    with pytest.raises(ValueError, match=r"ratio must be one of \(1, 2\), not 4"):
        ULX3S.timing(25_000_000, 4)


@pytest.mark.parametrize(
    "part", [ULX3S, X16, EM638325, COLORLIGHT, COLORLIGHT_5A], ids=lambda part: part.name
)
def test_a_part_is_as_slow_as_any_of_its_chips(part):
    for name in PARTS[part.name]:
        chip = CHIPS[name]
        assert (part.width, part.masked) == (chip.width, chip.masked)
        assert part.banks == 1 << chip.bank_bits
        assert part.row_bits <= chip.row_bits and part.column_bits <= chip.column_bits
        assert part.fast_clock >= chip.clock_cl2 and part.least_clock >= chip.clock_cl3
        for time in LEAST:
            assert getattr(part, time) >= getattr(chip, time)
        assert part.refi <= chip.refresh / (1 << chip.rows_refreshed)


# The store --------------------------------------------------------------------------------------

STORES = {
    "ulx3s": SdramStoreParameters(
        part=ULX3S, clock_hz=CLOCK_HZ, lanes=24, depth=1 << 20, rows_ahead=16,
        embedding_words=3000, elements=4,
    ),
    "ulx3s, twice": SdramStoreParameters(
        part=ULX3S, clock_hz=50_000_000, ratio=2, lanes=48, depth=1 << 19, rows_ahead=16,
        embedding_words=3000, elements=4,
    ),
    "em638325": SdramStoreParameters(
        part=EM638325, clock_hz=133_000_000, lanes=16, depth=1 << 21, rows_ahead=32,
    ),
    "two banks": SdramStoreParameters(
        part=COLORLIGHT_5A, clock_hz=CLOCK_HZ, lanes=32, depth=1 << 18, rows_ahead=16,
        embedding_words=3000, elements=4,
    ),
    "five trits": SdramStoreParameters(
        part=ULX3S, clock_hz=CLOCK_HZ, lanes=20, depth=1 << 20, rows_ahead=16, trits_per_byte=5,
    ),
}  # fmt: skip


EMBEDDINGS = {
    "alone": SdramStoreParameters(
        part=ULX3S, clock_hz=CLOCK_HZ, embedding_words=700, elements=2, rows_ahead=1
    ),
    "alone, wide, without masks": SdramStoreParameters(
        part=COLORLIGHT, clock_hz=133_000_000, embedding_words=300, elements=2, rows_ahead=1
    ),
    "behind weights": dataclasses.replace(STORES["ulx3s"], depth=1000, embedding_words=300),
    "behind weights, twice": dataclasses.replace(
        STORES["ulx3s, twice"], depth=1000, embedding_words=300
    ),
}


def beside_chips(parameters: SdramStoreParameters, tmp_path_factory) -> tuple[SdramStore, Stepped]:
    """A store with all chips that may be there, side by side."""
    store = parameters.create()
    return store, Stepped(
        store,
        surroundings=pads_verilog(
            [CHIPS[chip] for chip in PARTS[parameters.part.name]],
            parameters.clock_hz,
            pins="pins",
            ratio=parameters.ratio,
        ),
        inside="pins",
        extra={"fault": 64},
        modules=MODEL.read_text(),
        cache=tmp_path_factory.mktemp("cache"),
    )


@pytest.fixture(scope="module", params=STORES)
def store(request, tmp_path_factory) -> tuple[SdramStore, Stepped]:
    return beside_chips(STORES[request.param], tmp_path_factory)


class Rows:
    """The engine's side of a store: rows that it takes are checked when their data are there."""

    def __init__(self, ctx: Stepped, store: SdramStore, expected: list[int]):
        self.ctx, self.rows, self.expected = ctx, store.rows, expected
        self._lanes = store.parameters.lanes
        self._trits_per_byte = store.parameters.trits_per_byte
        self._due: list[int | None] = [None] * store.parameters.latency
        self.row = 0

    async def seek(self, row: int) -> None:
        self.row = row
        self.ctx.set(self.rows.first, row)
        self.ctx.set(self.rows.seek, 1)
        await self.tick()
        self.ctx.set(self.rows.seek, 0)

    async def tick(self, ready: bool = False) -> bool:
        """A cycle; whether a row passed in it."""
        self.ctx.set(self.rows.ready, ready)
        passed = ready and bool(self.ctx.get(self.rows.valid))
        due = self._due.pop(0)
        if due is not None:
            got = trits(self.ctx.get(self.rows.data), self._lanes)
            assert got == trits(due, self._lanes, self._trits_per_byte)
        self._due.append(self.expected[self.row] if passed else None)
        self.row += passed
        await self.ctx.tick()
        return passed

    async def take(self, count: int) -> int:
        """Cycles that it takes to get so many rows."""
        cycles = 0
        while count:
            count -= await self.tick(ready=True)
            cycles += 1
        return cycles


def rows_of(contents: list[int], half_words: int) -> list[int]:
    return [
        sum(half << 16 * n for n, half in enumerate(contents[at : at + half_words]))
        for at in range(0, len(contents), half_words)
    ]


@pytest.mark.whole
def test_what_the_host_writes_is_read(store):
    component, stepped = store
    half_words = component.parameters.half_words
    rng = random.Random(half_words)

    async def bench(ctx: Stepped) -> str:
        host = Host(ctx, component.host, rng)
        contents = [rng.getrandbits(16) for _ in range(40 * half_words)]
        await host.write(0, contents)
        for _ in range(12):
            start = rng.randrange(len(contents))
            end = min(len(contents), start + rng.randint(1, 9))
            contents[start:end] = [rng.getrandbits(16) for _ in range(start, end)]
            await host.write(start, contents[start:end], gap=rng.choice((0, 0.5)))
            got = await host.read(start, end - start, gap=rng.choice((0, 0.5)))
            assert got == contents[start:end]
            # What was read ahead of the engine does not outlast the host.
            rows = Rows(ctx, component, rows_of(contents, half_words))
            await rows.seek(start // half_words)
            for _ in range(rng.randrange(20)):
                await rows.tick(ready=rows.row < len(rows.expected) and rng.random() < 0.7)
            for _ in range(component.parameters.latency):
                await rows.tick()
        assert await host.read(0, len(contents)) == contents
        return fault_name(ctx.get("fault"))

    assert stepped.run(bench) == ""


@pytest.mark.whole
def test_rows_follow_each_other_at_the_pace_of_the_chip(store):
    component, stepped = store
    p = component.parameters
    page = (1 << p.part.column_bits) // (p.ratio * p.words)  # rows of trits in one of the chip's
    rng = random.Random(page)

    async def bench(ctx: Stepped) -> str:
        # What is at these addresses is nothing that anybody wrote, and always the same.
        host = Host(ctx, component.host, rng)
        edge = 3 * page * p.half_words
        marks = [rng.getrandbits(16) for _ in range(8 * p.half_words)]
        await host.write(edge - 4 * p.half_words, marks)
        expected = [0] * (40 * page)
        first = edge // p.half_words - 4
        expected[first : first + 8] = rows_of(marks, p.half_words)
        rows = Rows(ctx, component, expected)

        await rows.seek(0)
        started = await rows.take(1)
        assert started <= 25
        count = 12 * page
        cycles = await rows.take(count)
        assert count * p.words / cycles > 0.97

        # A pause fills the rows ahead; a seek to the row that follows finds all of them there.
        for _ in range(2 * p.rows_ahead * p.words + 100):  # refreshes may come first
            await rows.tick()
        await rows.seek(rows.row)
        assert await rows.take(p.rows_ahead) == p.rows_ahead
        await rows.seek(5)
        assert await rows.take(1) > p.words
        for _ in range(60):  # again and again, before the row of the last one is there, too
            await rows.seek(rng.randrange(30 * page))
            for _ in range(rng.randrange(14)):
                await rows.tick(ready=True)
        return fault_name(ctx.get("fault"))

    assert stepped.run(bench) == ""


class Reader:
    """Who fetches embedding words, and counts what it takes."""

    def __init__(self, ctx: Stepped, store: SdramStore):
        self.ctx, self.fetch, self.p = ctx, store.fetch, store.parameters

    async def __call__(self, address: int, words: int) -> list[int]:
        """Half-words, within the time that a fetch is given."""
        ctx, fetch = self.ctx, self.fetch
        ctx.set(fetch.ask.payload, address | words << (self.p.embedding_words - 1).bit_length())
        ctx.set(fetch.ask.valid, 1)
        assert ctx.get(fetch.ask.ready)
        found, cycles = [], 1  # one for the start before
        while len(found) < words:
            if ctx.get(fetch.valid):
                found.append(ctx.get(fetch.data))
            await ctx.tick()
            ctx.set(fetch.ask.valid, 0)
            cycles += 1
        assert not ctx.get(fetch.valid)
        assert cycles <= self.p.fetch_latency + self.p.fetch_pace * words
        while not ctx.get(fetch.ask.ready):
            await ctx.tick()
        return [word >> 16 * n & 0xFFFF for word in found for n in range(self.p.elements)]


@pytest.fixture(scope="module", params=EMBEDDINGS)
def embedding(request, tmp_path_factory) -> tuple[SdramStore, Stepped]:
    return beside_chips(EMBEDDINGS[request.param], tmp_path_factory)


@pytest.mark.whole
def test_embedding_words_in_the_time_that_they_are_given(embedding):
    """Wherever refreshes fall, and whatever weight rows are read ahead meanwhile."""
    component, stepped = embedding
    p = component.parameters
    rng = random.Random(p.elements)

    async def bench(ctx: Stepped) -> str:
        contents = [rng.getrandbits(16) for _ in range(p.embedding_words * p.elements)]
        host, fetch = Host(ctx, component.embedding_host, rng), Reader(ctx, component)
        await host.write(0, contents)
        changed = [rng.getrandbits(16) for _ in range(7)]
        await host.write(11, changed)
        contents[11:18] = changed
        if p.depth:
            # The last weight row lies right before them.
            last = [rng.getrandbits(16) for _ in range(p.half_words)]
            await Host(ctx, component.host, rng).write((p.depth - 1) * p.half_words, last)
            while not ctx.get(component.host.ready):  # until then it is not in the store
                await ctx.tick()
        for _ in range(120):
            if p.depth:
                rows = Rows(ctx, component, [0] * (p.depth - 1) + rows_of(last, p.half_words))
                await rows.seek(p.depth - 1)
                await rows.take(1)
                for _ in range(p.latency):
                    await rows.tick()
            await ctx.tick().repeat(rng.randrange(2 * p.timing.refi))
            first = rng.randrange(p.embedding_words)
            words = min(rng.randint(1, 70), p.embedding_words - first)
            half_words = contents[first * p.elements :][: words * p.elements]
            assert await fetch(first, words) == half_words
        assert await host.read(0, 40) == contents[:40]
        return fault_name(ctx.get("fault"))

    assert stepped.run(bench) == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"depth": 0, "embedding_words": 0},
            "depth or embedding_words must be positive, not 0 bot",
        ),
        (
            {"part": EM638325, "lanes": 16, "elements": 1},
            "elements must be a multiple of 2, the en",
        ),
        ({"lanes": 4}, "lanes must be a multiple of 8, the trits of a word of ulx3s, not 4"),
        (
            {"lanes": 24, "trits_per_byte": 5},
            "lanes must be a multiple of 10, the trits of a word of ulx3s, not 24",
        ),
        (
            {"depth": 6 << 20, "embedding_words": 0},
            "6291456 rows and 0 words of embedding rows must be at most the 16777216 words of 16 b",
        ),
        ({"ratio": 2}, "clock_hz must be at most 66666666 with ulx3s at 2 times that, not 1000"),
        ({"rows_ahead": 24}, "rows_ahead must be a power of two, not 24"),
        ({"rows_ahead": 0}, "rows_ahead must be a power of two, not 0"),
    ],
)
def test_stores_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(STORES["ulx3s"], **change)
