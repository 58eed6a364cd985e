import itertools
import math
import random

import numpy as np
import pytest
from amaranth.hdl import Module, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hw.arch.arithmetic import BASE_BITS
from hw.units.noise import NoiseParameters
from hw.units.tables import DrawNormaliser, TableUnit, gumbel, half_sigmoid, octave, sigmoid
from sim import golden
from weights.fixed import KEY_FRACTION, PREACTIVATION_FRACTION

LOWEST, HIGHEST = -(1 << 17), (1 << 17) - 1
UNIT = 2.0**-PREACTIVATION_FRACTION


def feed(dut, setter, inputs, getter, latency):
    """Outputs of ``dut`` for one input per cycle, ``latency`` cycles later."""
    outputs = []

    async def bench(ctx):
        for cycle in range(len(inputs) + latency):
            if cycle < len(inputs):
                setter(ctx, inputs[cycle])
            if cycle >= latency:
                outputs.append(getter(ctx))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return outputs


class Sampler(wiring.Component):
    """A table unit behind the normaliser of its draws."""

    word: In(32)
    noise: Out(signed(BASE_BITS))

    def elaborate(self, platform):
        m = Module()
        m.submodules.normaliser = normaliser = DrawNormaliser()
        m.submodules.table = table = TableUnit()
        m.d.comb += [
            normaliser.word.eq(self.word),
            table.draw.eq(normaliser.draw),
            table.sample.eq(1),
            self.noise.eq(table.value),
        ]
        return m


def test_formulas_equal_the_golden_model():
    rng = random.Random(4)
    arguments = [LOWEST, -1, 0, 1, HIGHEST, *(rng.randint(LOWEST, HIGHEST) for _ in range(5000))]
    assert [sigmoid(z) for z in arguments] == golden.sigmoid(np.array(arguments)).tolist()
    words = [
        1,
        2,
        (1 << 32) - 1,
        *(rng.getrandbits(32) >> rng.randrange(31) | 1 for _ in range(5000)),
    ]
    assert [gumbel(t) for t in words] == golden.gumbel(np.array(words)).tolist()


def test_sigmoid_is_accurate():
    for z in [*range(LOWEST, HIGHEST, 37), *range(-5000, 5000, 3)]:
        assert abs(sigmoid(z) / 2**15 - 1 / (1 + math.exp(-z * UNIT))) < 2e-4


def test_sigmoid_is_monotonic_and_symmetric():
    gates = [sigmoid(z) for z in range(LOWEST, HIGHEST, 13)]
    assert all(a <= b for a, b in itertools.pairwise(gates))
    for z in range(0, HIGHEST, 511):
        assert sigmoid(~z) == 32767 - sigmoid(z)
    assert sigmoid(HIGHEST) == 32767 and sigmoid(LOWEST) == 0


def test_sigmoid_unit_equals_formula():
    rng = random.Random(1)
    inputs = [LOWEST, LOWEST + 1, -1, 0, 1, HIGHEST]
    inputs += [i << 9 for i in range(-256, 256, 5)]
    inputs += [rng.randint(LOWEST, HIGHEST) >> rng.randrange(16) for _ in range(1500)]
    outputs = feed(
        dut := TableUnit(),
        lambda ctx, z: ctx.set(dut.argument, z),
        inputs,
        lambda ctx: ctx.get(dut.value),
        TableUnit.LATENCY,
    )
    assert outputs == [half_sigmoid(z) for z in inputs]


def test_gumbel_unit_equals_formula():
    rng = random.Random(2)
    inputs = [1 << i for i in range(32)] + [(1 << i) - 1 for i in range(1, 33)]
    inputs += [rng.getrandbits(32) >> rng.randrange(31) | 1 for _ in range(1500)]
    outputs = feed(
        dut := Sampler(),
        lambda ctx, t: ctx.set(dut.word, t),
        inputs,
        lambda ctx: ctx.get(dut.noise),
        DrawNormaliser.LATENCY + TableUnit.LATENCY,
    )
    assert outputs == [gumbel(t) for t in inputs]


def drawn(word):
    """The number between 0 and 1 that a word stands for."""
    return (1 + (word & 0xFFF) / 2**12) / 2 ** (octave(word) + 1)


def test_gumbel_is_accurate():
    rng = random.Random(3)
    for _ in range(20000):
        word = rng.getrandbits(32) >> rng.randrange(20)
        if drawn(word) < 0.9:
            exact = -math.log(-math.log1p(-drawn(word)))
            assert abs(gumbel(word) / 2**KEY_FRACTION - exact) < 1e-2


def test_gumbel_is_monotonic():
    words = [k << 12 | m for k in (0, *(1 << bit for bit in range(20))) for m in range(0, 4096, 15)]
    noise = [gumbel(t) for t in sorted(words, key=drawn) if drawn(t) < 15 / 16]
    assert all(a >= b for a, b in itertools.pairwise(noise))


def test_gumbel_distribution():
    words = NoiseParameters(elements=1).compute(0x1234567, 50000)
    noise = np.array([gumbel(t) for t in words]) / 2**KEY_FRACTION
    assert noise.mean() == pytest.approx(0.5772, abs=0.02)
    assert noise.var() == pytest.approx(math.pi**2 / 6, rel=0.03)
    # The largest of Gumbel-perturbed logits is distributed as the softmax.
    logits = np.log([0.5, 0.3, 0.15, 0.05])
    chosen = (noise.reshape(-1, 4) + logits).argmax(axis=1)
    shares = np.bincount(chosen, minlength=4) / len(chosen)
    assert shares == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.015)
