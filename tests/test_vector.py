import dataclasses
import random
from types import SimpleNamespace

import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator

from hw.arch.arithmetic import HIDDEN_BITS, OPERAND_BITS, PRODUCT_PLACE, RESIDUAL_BITS, SUM_BITS
from hw.arch.operations import LATE, OPERATIONS, Statistic, Table, VectorOp
from hw.arch.program import Space
from hw.units.commands import VectorCommand
from hw.units.vector import STATISTIC_CYCLES, VectorParameters
from hw.units.vector_unit import VectorUnit
from weights.fixed import (
    FULL_SCALE,
    GAIN_SHIFT,
    KEY_FRACTION,
    NORM_SHIFT,
    ONE,
    PREACTIVATION_FRACTION,
    ZERO,
    Scale,
)

WIDTHS = {
    "tables": 16,
    "vectors": RESIDUAL_BITS,
    "sums": SUM_BITS,
    "multiplicands": SUM_BITS,
    "states": HIDDEN_BITS,
    "activations": 8,
}
READ = ("tables", "vectors", "sums", "multiplicands", "states")
WRITTEN = ("vectors", "states", "activations")
BEATS = 64
CONTEXTS = 2


def parameters_of(elements, latency, compact=False):
    return VectorParameters(
        elements=elements,
        columns=8,
        table_words=BEATS,
        **{name: BEATS * elements for name in WIDTHS if name != "tables"},
        contexts=CONTEXTS,
        read_latency=latency,
        compact=compact,
    )


PARAMETERS = {elements: parameters_of(elements, 3 + elements // 4) for elements in (1, 2, 4)} | {
    f"compact {elements}": parameters_of(elements, elements, compact=True) for elements in (1, 2)
}


def limits(name):
    return -(1 << (WIDTHS[name] - 1)), (1 << (WIDTHS[name] - 1)) - 1


def pack(values, width):
    return sum((v & ((1 << width) - 1)) << (i * width) for i, v in enumerate(values))


def unpack(word, width, count):
    values = (word >> (i * width) & ((1 << width) - 1) for i in range(count))
    return [v - (v >> (width - 1) << width) for v in values]


class Bench:
    """A vector unit among memories that lists hold."""

    def __init__(self, parameters, seed):
        self.p = parameters
        self.dut = VectorUnit(parameters)
        self.rng = random.Random(seed)
        self.context = 0  # that of the next step
        self.memories = {
            name: self.values(name, self.beats(name) * parameters.elements) for name in WIDTHS
        }
        self.writes = {}
        self.operands = set()
        self.statistics = []
        self.choices = []
        self.taken = self.ended = 0  # cycles of the last step

    @staticmethod
    def beats(name):
        """Of all contexts together."""
        return BEATS * (1 if name == "tables" else CONTEXTS)

    def base(self, name, context):
        """Where the part of a context begins."""
        return 0 if name == "tables" else context * BEATS * self.p.elements

    def of_context(self, memories, context):
        """The parts of memories that a step of a context sees."""
        size = BEATS * self.p.elements
        at = {name: self.base(name, context) for name in memories}
        return {name: memories[name][at[name] : at[name] + size] for name in memories}

    def seen_by(self, command, memories):
        """Those parts for a step; UPDATE goes on from the states of the context before."""
        seen = self.of_context(memories, command.context)
        if command.op == VectorOp.UPDATE:
            seen["states"] = self.of_context({"states": memories["states"]}, command.before)[
                "states"
            ]
        return seen

    def values(self, name, count):
        """Integers of all magnitudes and both extremes."""
        low, high = limits(name)
        extremes = (low, high, 0, -1, 1)
        return [
            self.rng.choice(extremes)
            if self.rng.random() < 0.15
            else self.rng.randint(low, high) >> self.rng.randrange(WIDTHS[name])
            for _ in range(count)
        ]

    def fill(self, name, values, beat=0, context=None):
        start = self.base(name, self.context if context is None else context)
        start += beat * self.p.elements
        self.memories[name][start : start + len(values)] = values

    async def serve(self, ctx):
        """Memories: reads take ``read_latency`` cycles, writes are seen by the next read."""
        dut, elements = self.dut, self.p.elements
        ports = {name: getattr(dut, name) for name in READ}
        writes = {name: getattr(dut, f"{name}_write") for name in WRITTEN}
        sampled = [port.address for port in ports.values()]
        for port in writes.values():
            sampled += [port.enable, port.address, Value.cast(port.data)]
        targets = [Value.cast(port.data) for port in ports.values()]
        pending = [[0] * len(ports)] * (self.p.read_latency - 1)
        async for _, _, is_ready, *values in ctx.tick().sample(dut.command.ready, *sampled):
            addresses = dict(zip(ports, values, strict=False))
            words = [
                pack(self.memories[name][a * elements : (a + 1) * elements], WIDTHS[name])
                for name, a in addresses.items()
            ]
            pending.append(words)
            for target, word in zip(targets, pending.pop(0), strict=True):
                ctx.set(target, word)
            for i, name in enumerate(WRITTEN):
                enable, address, word = values[len(ports) + 3 * i :][:3]
                if enable:
                    held = is_ready or self.p.compact  # what is read then is not needed
                    if name in (self.operands or ()) and not held:
                        assert addresses[name] != address, f"{name} read while written"
                    assert self.operands is None or (name, address) not in self.writes
                    beat = unpack(word, WIDTHS[name], elements)
                    self.writes[name, address] = beat
                    self.fill(name, beat, address, context=0)

    async def issue(self, ctx, **fields):
        """Run one step and compare everything that it leaves behind."""
        dut, p = self.dut, self.p
        fields = {
            **{name: 0 for name in VectorCommand.members},
            "length": 1,
            "a": ZERO,
            "b": ZERO,
            "noise": 1,
            "result": self.rng.randrange(16),
            "context": self.context,
            "before": self.rng.randrange(CONTEXTS),
            **fields,
        }
        command = SimpleNamespace(**fields)
        # What must not matter.
        if command.op not in (VectorOp.UPDATE, VectorOp.GATE):
            fields["first"] = self.rng.getrandbits(1)
        if command.op in (VectorOp.SILU, VectorOp.UPDATE, VectorOp.RESIDUAL):
            fields["b_register"] = self.rng.getrandbits(1)
        row = OPERATIONS[command.op]
        main = {Space(command.space).name.lower()} if row.table != Table.ROW else set()
        tables = {"tables"} if row.table != Table.NOTHING else set()
        self.operands = {*main, *tables, *row.reads}
        seen = self.seen_by(command, self.memories)
        expected = p.compute(command, {name: seen[name] for name in self.operands})
        assert bool(expected.elements) == (row.writes is not None)
        assert (expected.value is not None) == row.measured
        assert (expected.choice is not None) == (row.statistic == Statistic.CHOICE)
        self.writes.clear()
        self.statistics.clear()
        self.choices.clear()

        for _ in range(self.rng.choice((0, 0, 1, 3))):
            await ctx.tick()
        while p.compact and not ctx.get(dut.statistic.ready):
            await ctx.tick()
        name = VectorOp(command.op).name
        held = await self.offer(ctx, fields)
        cycles, ready = 1, []
        while ctx.get(dut.busy):
            assert cycles < 1000
            if ctx.get(dut.command.ready):
                ready.append(cycles)
            await ctx.tick()
            cycles += 1

        assert self.statistics == self.expected_statistics(command, expected), name
        assert self.ended - self.taken == p.cycles(command.length, command.op), name
        if p.compact:
            assert held == 1 + p.holding(command.length, command.op), name
        else:
            assert ready[0] == p.period(command.length, command.op), name
        assert self.choices == self.expected_choices(command, expected), name
        if expected.elements:
            target = row.writes
            dest = command.dest
            if target == "activations":
                dest *= p.columns // p.elements
            dest += self.base(target, command.context) // p.elements
            beats = -(-command.length // p.elements)
            assert set(self.writes) == {(target, dest + i) for i in range(beats)}, name
            written = [v for i in range(beats) for v in self.writes[target, dest + i]]
            assert written[: command.length] == expected.elements, name
        else:
            assert not self.writes, name
        self.context = self.rng.randrange(CONTEXTS)

    async def offer(self, ctx, fields):
        """A command, until it is taken. Returns the cycles that this takes."""
        command = self.dut.command
        payload = {
            name: dataclasses.asdict(value) if isinstance(value, Scale) else value
            for name, value in fields.items()
        }
        ctx.set(command.payload, payload)
        ctx.set(command.valid, 1)
        cycles = 1
        while not ctx.get(command.ready):
            cycles += 1
            await ctx.tick()
        await ctx.tick()
        ctx.set(command.valid, 0)
        ctx.set(command.payload, {"length": 0xFFFF})
        return cycles

    @staticmethod
    def expected_statistics(command, expected):
        if expected.value is None:
            return []
        registers = 16 * command.context
        energy = [] if expected.energy is None else [(*expected.energy, command.result + 1)]
        peak = expected.value, expected.exponent, command.result
        return [(value, e, registers + register % 16) for value, e, register in (*energy, peak)]

    @staticmethod
    def expected_choices(command, expected):
        return [] if expected.choice is None else [(command.context, expected.choice)]

    def run(self, steps):
        async def bench(ctx):
            await steps(self, ctx)

        simulator = Simulator(self.dut)
        simulator.add_clock(1e-6)
        simulator.add_testbench(self.serve, background=True)
        simulator.add_testbench(self.listen, background=True)
        simulator.add_testbench(bench)
        simulator.run()

    async def listen(self, ctx):
        """Statistics and choices, in the only cycle in which they are there, and a step's ends."""
        offered, chosen = self.dut.statistic, self.dut.choice
        payload, choice = offered.payload, chosen.payload
        sampled = offered.valid & offered.ready, payload.value, payload.exponent, payload.register
        sampled += chosen.valid, choice.context, choice.token
        command, ends = self.dut.command, self.dut.done | (offered.valid & payload.last)
        sampled += command.valid & command.ready, ends
        cycles = STATISTIC_CYCLES
        now = 0
        ctx.set(offered.ready, 1)
        async for _, _, *values in ctx.tick().sample(*sampled):
            valid, *statistic, is_chosen, context, token, is_taken, has_ended = values
            now += 1
            self.taken = now if is_taken else self.taken
            self.ended = now if has_ended else self.ended
            if valid:
                assert cycles >= STATISTIC_CYCLES
                self.statistics.append(tuple(statistic))
            if is_chosen:
                self.choices.append((context, token))
            cycles = 1 if valid else cycles + 1
            ctx.set(offered.ready, cycles >= STATISTIC_CYCLES or not self.p.compact)

    # Operands as programs make them.

    def lengths(self):
        elements = self.p.elements
        return [1, 3, 2 * elements, 4 * elements + 1, self.rng.randint(1, 7 * elements)]

    def place(self, length):
        """First beat of a vector of that length."""
        return self.rng.randrange(BEATS - -(-length // self.p.elements) + 1)

    def at(self, name, beat, length):
        start = self.base(name, self.context) + beat * self.p.elements
        return self.memories[name][start : start + length]

    def peak(self, name, beat, length):
        return Scale.from_int(1 + max(max(v, ~v) for v in self.at(name, beat, length)))

    def scale(self, low, high):
        """A scale with an exponent of the given range."""
        return Scale(self.rng.randint(1 << 14, (1 << 15) - 1), self.rng.randint(low, high))


def run(shape, seed):
    def decorate(steps):
        Bench(PARAMETERS[shape], seed).run(steps)

    return decorate


each_shape = pytest.mark.parametrize("shape", PARAMETERS)


@each_shape
def test_embed(shape):
    elements = PARAMETERS[shape].elements

    @run(shape, 1)
    async def steps(bench, ctx):
        bench.memories["tables"] = [
            bench.rng.randrange(-(1 << 15), 1 << 15) for _ in bench.memories["tables"]
        ]
        for length in (*bench.lengths(), 4 * elements, 6 * elements - 1):
            stride = 1 + -(-length // (2 * elements)) + bench.rng.randrange(2)
            rows = BEATS // stride
            token = bench.rng.randrange(rows)
            address = bench.rng.randrange(BEATS - (token + 1) * stride + 1)
            scale = bench.rng.choice((0, 1, 32767, bench.rng.randrange(32768)))
            bench.fill("tables", [scale], address + token * stride)
            await bench.issue(
                ctx, op=VectorOp.EMBED, length=length, shift=PRODUCT_PLACE + 12, token=token,
                operand=stride, address=address, dest=bench.place(length),
            )  # fmt: skip


@each_shape
@pytest.mark.parametrize("op", [VectorOp.NORM, VectorOp.PEAK, VectorOp.QUANT, VectorOp.MEASURE])
def test_norms(shape, op):
    elements = PARAMETERS[shape].elements

    @run(shape, 2)
    async def steps(bench, ctx):
        for length in bench.lengths():
            for space in (Space.VECTORS, Space.SUMS, Space.MULTIPLICANDS):
                source, address = bench.place(length), bench.place(length)
                bench.fill("tables", [32767, -32767, 0][:length], address)
                bench.memories["tables"] = [max(t, -32767) for t in bench.memories["tables"]]
                if length == 3:
                    name = space.name.lower()
                    bench.fill(name, [limits(name)[bench.rng.getrandbits(1)]] * 3, source)
                fields = {
                    "op": op, "space": space, "length": length, "source": source,
                    "address": address, "a": bench.peak(space.name.lower(), source, length),
                    "shift": NORM_SHIFT if op == VectorOp.NORM else GAIN_SHIFT,
                }  # fmt: skip
                if op == VectorOp.QUANT:
                    command = SimpleNamespace(**{**fields, "op": VectorOp.PEAK, "b": ZERO})
                    peak = bench.p.compute(command, bench.of_context(bench.memories, bench.context))
                    fields["b"] = FULL_SCALE / Scale.from_int(peak.value, peak.exponent)
                    beats_per_row = bench.p.columns // elements
                    beats = -(-length // elements)
                    fields["dest"] = bench.rng.randint(0, (BEATS - beats) // beats_per_row)
                    fields["b_register"] = 1
                await bench.issue(ctx, **fields)


@each_shape
@pytest.mark.parametrize("op", [VectorOp.SILU, VectorOp.UPDATE, VectorOp.GATE])
def test_gates(shape, op):
    @run(shape, 4)
    async def steps(bench, ctx):
        bench.memories["tables"] = [max(t, 0) for t in bench.memories["tables"]]
        for length in bench.lengths():
            for scale in (ZERO, bench.scale(-38, -20), bench.scale(-45, -30), Scale(32767, 400)):
                source, operand, address = (bench.place(length) for _ in range(3))
                if op == VectorOp.GATE:
                    address = bench.rng.choice((0, 4))
                    most = WIDTHS["multiplicands"] - OPERAND_BITS - address
                    others = [v >> most for v in bench.at("multiplicands", operand, length)]
                    bench.fill("multiplicands", others, operand)
                fields = {
                    "space": Space.SUMS, "a": bench.peak("sums", source, length),
                    "b": scale, "shift": -PREACTIVATION_FRACTION,
                }  # fmt: skip
                if op == VectorOp.GATE and bench.rng.getrandbits(1):
                    fields = {"space": Space.STATES, "b": ONE}
                await bench.issue(
                    ctx, op=op, length=length, source=source, operand=operand,
                    address=address, dest=bench.place(length), **fields,
                    first=op == VectorOp.UPDATE and bench.rng.random() < 0.2,
                )  # fmt: skip


@each_shape
def test_residual(shape):
    elements = PARAMETERS[shape].elements

    @run(shape, 5)
    async def steps(bench, ctx):
        for length in bench.lengths():
            for scale in (ZERO, bench.scale(-40, -20), bench.scale(-28, -24), Scale(32767, 400)):
                source, operand, dest = (bench.place(length) for _ in range(3))
                if abs(dest - operand) < -(-length // elements):
                    dest = operand
                await bench.issue(
                    ctx, op=VectorOp.RESIDUAL, length=length, space=Space.SUMS, b=scale,
                    source=source, operand=operand, a=bench.peak("sums", source, length),
                    shift=bench.rng.randint(-24, -8),
                    dest=dest,
                )  # fmt: skip


@each_shape
@pytest.mark.parametrize("greedy", [0, 1])
def test_choose(shape, greedy):
    elements = PARAMETERS[shape].elements

    @run(shape, 6 + greedy)
    async def steps(bench, ctx):
        size = BEATS * elements
        for length in (*bench.lengths(), size, size - 1):
            for case in range(4):
                source = bench.place(length)
                if case == 1:  # draws
                    bench.fill("sums", [bench.rng.randint(-2, 2) for _ in range(size)])
                elif case == 2:  # all equal and least
                    bench.fill("sums", [limits("sums")[0]] * size)
                elif case == 3:  # an element just behind the last is larger
                    bench.fill("sums", bench.values("sums", size))
                    end = source * elements + length
                    bench.fill("sums", [limits("sums")[1]] * (end < size), end // elements)
                await bench.issue(
                    ctx, op=VectorOp.CHOOSE, length=length, space=Space.SUMS, source=source,
                    shift=-KEY_FRACTION, greedy=greedy, noise=bench.rng.randrange(1, 1 << 32),
                    a=bench.peak("sums", source, length),
                    b=bench.scale(*bench.rng.choice(((-50, -40), (-32, -20), (0, 9)))),
                )  # fmt: skip


EIGHT = dataclasses.replace(
    PARAMETERS[2],
    elements=8,
    **{name: 8 * BEATS for name in WIDTHS if name != "tables"},
    contexts=CONTEXTS,
)


def random_step(bench, number):
    """A step that reads nothing that those before it write: that lies from beat 32 on."""
    rng, elements = bench.rng, bench.p.elements
    others = [op for op in VectorOp if op not in (VectorOp.EMBED, VectorOp.UPDATE)]
    # What reads late is often followed by the same, which is taken while it does.
    late = [op for op in LATE if op in others]
    op = VectorOp.UPDATE if number % 20 in (7, 8, 9) else rng.choice(late if number & 2 else others)
    length = rng.randint(1, rng.choice((1, 2, 7, 16)) * elements)
    row = OPERATIONS[op]
    fields = {name: 0 for name in VectorCommand.members} | {
        "op": op, "length": length, "source": rng.randrange(16), "operand": rng.randrange(16),
        "dest": 32 + rng.randrange(16), "result": rng.randrange(16), "a": bench.scale(-4, 16),
        "b": bench.scale(-40, -20), "shift": rng.randint(-24, -8), "address": rng.randrange(16),
        "noise": rng.randrange(1, 1 << 32), "greedy": rng.getrandbits(1),
        "first": rng.getrandbits(1), "space": rng.choice(list(Space)), "context": bench.context,
        "before": rng.randrange(CONTEXTS),
    }  # fmt: skip
    if row.scaled:
        fields["space"] = Space.SUMS
        fields["a"] = bench.peak("sums", fields["source"], length)
    if row.table == Table.COEFFICIENTS:
        fields |= {"space": Space.VECTORS, "b": FULL_SCALE / bench.scale(-2, 14)}
        fields["a"] = bench.peak("vectors", fields["source"], length)
        fields["shift"] = NORM_SHIFT if op == VectorOp.NORM else GAIN_SHIFT
    if op == VectorOp.QUANT:
        command = SimpleNamespace(**{**fields, "op": VectorOp.PEAK, "b": ZERO})
        peak = bench.p.compute(command, bench.of_context(bench.memories, bench.context))
        fields["b"] = FULL_SCALE / Scale.from_int(peak.value, peak.exponent)
        fields["dest"] = rng.randint(0, (BEATS - 16) // (bench.p.columns // elements))
    if op == VectorOp.GATE:
        fields["address"] = rng.choice((0, 4))
    if op == VectorOp.UPDATE:
        fields["length"] = min(length, 7 * elements)
        fields["dest"] = 7 * (number // 20 * 3 + number % 20 - 7)  # where no other one writes
    return SimpleNamespace(**fields)


@pytest.mark.parametrize("parameters", [*PARAMETERS.values(), EIGHT], ids=[*PARAMETERS, 8])
@pytest.mark.parametrize("eager", [True, False])
def test_steps_follow_each_other(parameters, eager):
    """Steps of all kinds as soon as they are taken: each leaves what it would leave alone."""

    async def steps(bench, ctx):
        dut, p = bench.dut, bench.p
        bench.memories["tables"] = [max(t, 0) for t in bench.memories["tables"]]
        bench.memories["multiplicands"] = [v >> 6 for v in bench.memories["multiplicands"]]
        bench.operands = None
        ctx.set(dut.statistic.ready, 1)
        seen = bench.statistics = []
        wanted, choices, before = [], [], None
        memories = {name: list(values) for name, values in bench.memories.items()}
        for number in range(60):
            bench.context = bench.rng.randrange(CONTEXTS)
            command = random_step(bench, number)
            row = OPERATIONS[command.op]
            outcome = p.compute(command, bench.seen_by(command, memories))
            wanted += bench.expected_statistics(command, outcome)
            choices += bench.expected_choices(command, outcome)
            if row.writes:
                beats = -(-command.length // p.elements)
                start = command.dest * (p.columns if row.writes == "activations" else p.elements)
                start += bench.base(row.writes, command.context)
                end = start + beats * p.elements
                memories[row.writes][start:end] = [None] * (end - start)
                memories[row.writes][start : start + command.length] = outcome.elements
            cycles = await bench.offer(ctx, vars(command))
            if eager and before is not None:
                free = p.period(before.length, before.op, following=command)
                assert cycles == free + p.holding(command.length, command.op)
            before = command
            while not eager and bench.rng.random() < 0.8:
                await ctx.tick()
        while ctx.get(dut.busy):
            await ctx.tick()
        assert seen == wanted
        assert bench.choices == choices
        for name in WRITTEN:
            for place, value in enumerate(memories[name]):
                assert value in (None, bench.memories[name][place]), (name, place)

    Bench(parameters, 9).run(steps)


@pytest.mark.parametrize("parameters", [*PARAMETERS.values(), EIGHT], ids=[*PARAMETERS, 8])
def test_late_operands_may_be_under_way(parameters):
    """What a step reads late, the one right before it writes."""

    async def steps(bench, ctx):
        dut, p = bench.dut, bench.p
        bench.memories["tables"] = [max(t, 0) for t in bench.memories["tables"]]
        bench.operands = None
        for beats in (1, 2, 17):
            length, memories = beats * p.elements, bench.of_context(bench.memories, bench.context)
            fields = {name: 0 for name in VectorCommand.members} | {
                "length": length, "shift": -PREACTIVATION_FRACTION, "space": Space.SUMS,
                "a": bench.peak("sums", 0, length), "b": bench.scale(-34, -28), "noise": 1,
                "context": bench.context, "before": bench.context,
            }  # fmt: skip
            candidate = SimpleNamespace(**fields)
            candidate.op, candidate.dest = VectorOp.SILU, 20
            update = SimpleNamespace(**fields)
            update.op, update.operand, update.dest = VectorOp.UPDATE, 20, 40
            made = p.compute(candidate, memories).elements
            start = 20 * p.elements
            memories["vectors"] = [*memories["vectors"]]
            memories["vectors"][start : start + length] = made
            wanted = p.compute(update, memories).elements
            for command in (candidate, update):
                await bench.offer(ctx, vars(command))
            while ctx.get(dut.busy):
                await ctx.tick()
            assert bench.at("states", 40, length) == wanted
            bench.context = (bench.context + 1) % CONTEXTS

    Bench(parameters, 9).run(steps)


@pytest.mark.parametrize("parameters", [*PARAMETERS.values(), EIGHT], ids=[*PARAMETERS, 8])
def test_choices_follow_each_other(parameters):
    """Each draws with all of its own noise, and none of another's: where keys are equal else."""

    async def steps(bench, ctx):
        dut, p, rng = bench.dut, bench.p, bench.rng
        bench.memories["sums"] = [0] * len(bench.memories["sums"])
        bench.operands, wanted = None, []
        ctx.set(dut.statistic.ready, 1)
        for _ in range(40):
            fields = {name: 0 for name in VectorCommand.members} | {
                "op": VectorOp.CHOOSE, "length": rng.randrange(1, 24 * p.elements), "a": ONE,
                "b": ONE, "space": Space.SUMS, "shift": -KEY_FRACTION,
                "noise": rng.randrange(1, 1 << 32), "context": rng.randrange(CONTEXTS),
            }  # fmt: skip
            command = SimpleNamespace(**fields)
            outcome = p.compute(command, bench.of_context(bench.memories, command.context))
            wanted += bench.expected_choices(command, outcome)
            await bench.offer(ctx, fields)
        while ctx.get(dut.busy):
            await ctx.tick()
        assert bench.choices == wanted

    Bench(parameters, 10).run(steps)


def test_eight_elements():
    parameters = EIGHT

    async def steps(bench, ctx):
        for length in (1, 8, 21):
            source = bench.place(length)
            await bench.issue(
                ctx, op=VectorOp.MEASURE, length=length, source=source, shift=GAIN_SHIFT,
                a=bench.peak("vectors", source, length),
            )  # fmt: skip
            await bench.issue(
                ctx, op=VectorOp.CHOOSE, length=length, space=Space.SUMS, source=source,
                shift=-KEY_FRACTION, noise=bench.rng.getrandbits(32), b=bench.scale(-40, -20),
                a=bench.peak("sums", source, length),
            )  # fmt: skip

    Bench(parameters, 8).run(steps)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("elements", 3, "elements must be 1, 2, 4 or 8, not 3"),
        ("elements", 0, "elements must be a positive integer, not 0"),
        ("columns", 1, "columns must be a power of two and at least elements"),
        ("columns", 12, "columns must be a power of two"),
        ("sums", 2.0, "sums must be a positive integer"),
        ("read_latency", 2, "read_latency must be at least 3, not 2"),
    ],
)
def test_parameters_are_checked(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PARAMETERS[2], **{field: value})
