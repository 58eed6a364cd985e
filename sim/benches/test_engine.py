"""The ternary engine between models of its memories."""

import random
from collections import deque

import cocotb
import pytest
from cocotb.triggers import FallingEdge, ReadOnly

from hw.units.commands import EngineCommand
from hw.units.engine import EngineParameters
from sim.benches.runner import Source, arguments, run, start

SHAPES = [
    # rows, columns, elements, read latency, row latency, lanes of a cascade
    (1, 1, 1, 1, 1, 1),
    (3, 5, 1, 2, 4, 1),
    (6, 7, 2, 3, 3, 1),
    (8, 8, 4, 2, 3, 1),
    (6, 8, 2, 2, 4, 4),
]
TRITS = (0b00, 0b10, 0b01, 0b11)  # a negative zero is a zero


@pytest.mark.parametrize("rows, columns, elements, read_latency, row_latency, chain", SHAPES)
def test_engine(rows, columns, elements, read_latency, row_latency, chain):
    shape = {"rows": rows, "columns": columns, "elements": elements, "chain": chain}
    shape |= {"read_latency": read_latency, "row_latency": row_latency}
    run(_parameters(**shape).create(), __name__, **shape)


def _parameters(**shape) -> EngineParameters:
    return EngineParameters(**shape, weight_rows=200, activation_rows=30, beats=150, fanout=3)


def _pack_all(values, width: int) -> int:
    return sum(value % (1 << width) << i * width for i, value in enumerate(values))


async def _activations(dut, words: list[int], latency: int) -> None:
    """Answer every address after ``latency`` cycles; nonsense beyond the end."""
    address, data = dut.activations__address, dut.activations__data
    pipeline = deque([0] * latency)
    while True:
        data.value = words[pipeline.popleft()]
        await ReadOnly()
        # The component may have no address at all where its memory has one word.
        pipeline.append(address.value.to_unsigned() % len(words))
        await FallingEdge(dut.clk)


class Rows:
    """A weight store that is late at random; ``refused`` counts the cycles that this costs."""

    def __init__(self, dut, words: list[int], latency: int):
        self.refused = 0
        self._words, self._latency = words, latency
        cocotb.start_soon(self._serve(dut))

    async def _serve(self, dut) -> None:
        rng = random.Random(5)
        pipeline: deque[int | None] = deque([None] * self._latency)
        number = 0
        while True:
            row = pipeline.popleft()
            dut.weights__data.value = (
                rng.randrange(self._words[0].bit_length() + 1) if row is None else self._words[row]
            )
            dut.weights__valid.value = valid = rng.random() < 0.7
            await ReadOnly()
            ready = bool(dut.weights__ready.value)
            self.refused += ready and not valid
            pipeline.append(number if ready and valid else None)
            number += ready and valid
            if dut.weights__seek.value:
                # The component may have no address at all where its memory has one word.
                number = dut.weights__first.value.to_unsigned()
            await FallingEdge(dut.clk)


@cocotb.test()
async def banks_equal_golden(dut):
    p = _parameters(**arguments())
    rng = random.Random(3)
    weights = [rng.choices(TRITS, k=p.lanes) for _ in range(p.weight_rows)]
    codes = [
        [rng.choice((-127, 127, rng.randint(-127, 127))) for _ in range(p.columns)]
        for _ in range(p.activation_rows)
    ]
    await start(dut)
    weight_words = [_pack_all(row, 2) for row in weights]
    code_words = [_pack_all(row, 8) for row in codes]
    rows = Rows(dut, weight_words, p.row_latency)
    cocotb.start_soon(_activations(dut, code_words, p.read_latency))

    source = Source(dut, "command", EngineCommand, stall=0.3)
    for number in range(12):
        groups, chunks = rng.randint(1, 5), rng.randint(1, 9)
        command = {
            "groups": groups,
            "chunks": chunks,
            "weights": rng.randint(0, p.weight_rows - groups * chunks),
            "activations": rng.randint(0, p.activation_rows - chunks),
            "dest": rng.randint(0, p.beats - groups * p.drain_beats),
            "bank": number % 2,
        }
        await source.send(command)
        written, cycles, rows.refused = {}, 0, 0
        while True:
            await ReadOnly()
            if dut.sums__enable.value:
                key = int(dut.sums__bank.value), dut.sums__address.value.to_unsigned()
                assert key not in written
                written[key] = dut.sums__data.value.to_unsigned()
            busy = bool(dut.busy.value)
            await FallingEdge(dut.clk)
            cycles += 1
            if not busy:
                break
        assert cycles == p.cycles(groups, chunks) + rows.refused

        wanted = {}
        for group in range(groups):
            trits = [[] for _ in range(p.rows)]
            vector = []
            for chunk in range(chunks):
                vector += codes[command["activations"] + chunk]
                word = weights[command["weights"] + group * chunks + chunk]
                for r, row in enumerate(trits):
                    row += word[r * p.columns : (r + 1) * p.columns]
            sums = p.compute(vector, trits)
            for beat in range(p.drain_beats):
                key = number % 2, command["dest"] + group * p.drain_beats + beat
                part = sums[beat * p.elements : (beat + 1) * p.elements]
                wanted[key] = _pack_all(part, 24)
        assert written == wanted
