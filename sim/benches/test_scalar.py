"""The scalar unit and the normaliser against ``weights.fixed.Scale``."""

import random

import cocotb
import pytest

from hw.arch.program import ScalarOp
from hw.units.commands import ScalarCommand, ScalarResult, raw_layout
from hw.units.normaliser import NormaliserParameters
from hw.units.scalar import ScalarParameters
from sim.benches.runner import Sink, Source, arguments, quiet, run, start
from weights.fixed import ZERO, Scale


@pytest.mark.parametrize("digits", [1, 4, 16])
def test_scalar_unit(digits):
    parameters = ScalarParameters(digits_per_cycle=digits)
    run(parameters.create(), __name__, unit="scalar", digits=digits)


@pytest.mark.parametrize("width", [1, 17, 48])
def test_normaliser(width):
    run(NormaliserParameters(width=width).create(), __name__, unit="normaliser", width=width)


def _scale(rng: random.Random) -> Scale:
    if rng.random() < 0.1:
        return ZERO
    return Scale(rng.randrange(1 << 14, 1 << 15), rng.randint(-100, 100) >> rng.choice((0, 4)))


def _fields(scale: Scale) -> dict[str, int]:
    return {"mantissa": scale.mantissa, "exponent": scale.exponent}


@cocotb.test()
async def results_equal_golden(dut):
    await start(dut)
    rng = random.Random(2)
    if "digits" in arguments():
        parameters = ScalarParameters(digits_per_cycle=arguments()["digits"])
        source = Source(dut, "command", ScalarCommand, stall=0.3)
        offers, wanted = [], []
        for number in range(300):
            op, a, b = rng.choice(list(ScalarOp)), _scale(rng), _scale(rng)
            register = number % 16
            offers.append({"op": op, "a": _fields(a), "b": _fields(b), "result": register})
            wanted.append((register, parameters.compute(op, a, b)))
    else:
        parameters = NormaliserParameters(width=arguments()["width"])
        source = Source(dut, "raw", raw_layout(parameters.width), stall=0.3)
        offers, wanted = [], []
        for number in range(300):
            value = rng.getrandbits(parameters.width) >> rng.randrange(parameters.width)
            exponent, register = rng.randint(-200, 200), number % 16
            offers.append({"value": value, "exponent": exponent, "register": register})
            wanted.append((register, parameters.compute(value, exponent)))
    sink = Sink(dut, "result", ScalarResult, stall=0.5)
    await source.send(*offers)
    await sink.take(len(wanted))
    await quiet()
    results = [
        (result.register, Scale(result.value.mantissa, result.value.exponent))
        for result in sink.received
    ]
    assert results == wanted
