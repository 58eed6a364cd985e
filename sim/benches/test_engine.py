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
    # rows, columns, elements, read latency
    (1, 1, 1, 1),
    (3, 5, 1, 2),
    (6, 7, 2, 3),
    (8, 8, 4, 2),
]
TRITS = (0b00, 0b10, 0b01, 0b11)  # a negative zero is a zero


@pytest.mark.parametrize("rows, columns, elements, read_latency", SHAPES)
def test_engine(rows, columns, elements, read_latency):
    shape = {"rows": rows, "columns": columns, "elements": elements}
    shape["read_latency"] = read_latency
    run(_parameters(**shape).create(), __name__, **shape)


def _parameters(**shape) -> EngineParameters:
    return EngineParameters(**shape, weight_rows=200, activation_rows=30, beats=150, fanout=3)


def _pack_all(values, width: int) -> int:
    return sum(value % (1 << width) << i * width for i, value in enumerate(values))


async def _memory(dut, name: str, words: list[int], latency: int) -> None:
    """Answer every address after ``latency`` cycles; nonsense beyond the end."""
    address, data = getattr(dut, f"{name}__address"), getattr(dut, f"{name}__data")
    pipeline = deque([0] * latency)
    while True:
        data.value = words[pipeline.popleft()]
        await ReadOnly()
        # The component may have no address at all where its memory has one word.
        pipeline.append(address.value.to_unsigned() % len(words))
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
    cocotb.start_soon(_memory(dut, "weights", weight_words, p.read_latency))
    cocotb.start_soon(_memory(dut, "activations", code_words, p.read_latency))

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
        written, cycles = {}, 0
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
        assert cycles == p.cycles(groups, chunks)

        wanted = {}
        for group in range(groups):
            rows = [[] for _ in range(p.rows)]
            vector = []
            for chunk in range(chunks):
                vector += codes[command["activations"] + chunk]
                word = weights[command["weights"] + group * chunks + chunk]
                for r, row in enumerate(rows):
                    row += word[r * p.columns : (r + 1) * p.columns]
            sums = p.compute(vector, rows)
            for beat in range(p.drain_beats):
                key = number % 2, command["dest"] + group * p.drain_beats + beat
                part = sums[beat * p.elements : (beat + 1) * p.elements]
                wanted[key] = _pack_all(part, 24)
        assert written == wanted
