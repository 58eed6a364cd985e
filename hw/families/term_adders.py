"""The adders of the ternary engine in the carry cells of ECP5, which choose the term as well.

A half of a CCU2C has a table of four inputs: where it is high a carry passes, and the carry is
added to it. Here it is ``augend ^ ((addend & not_zero) ^ negative)``. Where it is low, the carry is
the same table's with the last two inputs low: ``augend``. So a bit of a sum takes a half. The carry
below its lowest bit takes another one, whose table is low: it passes on nothing of what was before.

Adders are one chain where they lie beside each other: no half is wasted between them, and nextpnr
adds a cell at each end of a chain, whether it needs them or not. But it times the way of a carry
through all of a chain, as if it passed from adder to adder, so a chain has ``LONGEST`` halves.
"""

from itertools import product
from typing import Any

from amaranth.hdl import Const, Instance, Module, Signal, Value

PINS = ("ACBD", "BDAC")
"""Where augend, addend, not_zero and negative enter the first half of a cell, and the second one.

Of the wires around a tile half lead to A and B alone, the others to C and D. In a tile full of
adders augends and addends are eight nets each, what chooses is one or two for all: on A and B the
former would leave half of the wires idle and crowd the others. A carry forms with C and D low, so
it has the augend on one of A and B, and ``negative`` on one of C and D.
"""


def _tables(function) -> list[Const]:
    """Of each half: the table of a function of what enters there, in the order of `PINS`."""
    inputs = [dict(zip("DCBA", bits, strict=True)) for bits in product((0, 1), repeat=4)]
    return [
        Const(sum(function(*(at[pin] for pin in pins)) << n for n, at in enumerate(inputs)), 16)
        for pins in PINS
    ]


CHOSEN = _tables(lambda augend, addend, not_zero, negative: augend ^ addend & not_zero ^ negative)
ADDED = _tables(lambda augend, addend, *_: augend ^ addend)
FED = _tables(lambda carry, *others: carry & ~others[-1])
LOW, HIGH = Const(0), Const(1)  # an input that is high takes no wire
LONGEST = 112
"""Halves of a chain: 3.9 ns."""


def _fed(carry) -> tuple:
    """The half that begins a chain's next carry."""
    return FED, (carry, HIGH, HIGH, HIGH), Signal(name="unused")


def _halves(adder, tables, choice) -> list[tuple]:
    """Tables, inputs and output of each half of an adder."""
    bits = zip(adder.augend, adder.addend, adder.sum, strict=True)
    return [_fed(adder.carry), *((tables, (a, b, *choice), total) for a, b, total in bits)]


def term_adders(unit) -> Module:
    """What `hw.units.cascade.TermAdders` is, in cells."""
    m = Module()
    chains: list[list[tuple]] = [[]]
    adders = [_halves(it, CHOSEN, (it.not_zero, it.negative)) for it in unit.terms]
    adders += [_halves(it, ADDED, (HIGH, HIGH)) for it in unit.sums]
    for halves in adders:
        if len(chains[-1]) + len(halves) > LONGEST:
            chains.append([])
        chains[-1] += halves
    for number, halves in enumerate(chains):
        if len(halves) % 2:
            halves.append(_fed(LOW))
        carry: Value = LOW
        for place in range(0, len(halves), 2):
            ports: dict[str, Any] = {}
            for half, (tables, inputs, total) in enumerate(halves[place : place + 2]):
                ports |= {f"p_INIT{half}": tables[half], f"p_INJECT1_{half}": "NO"}
                pins = zip(PINS[half], inputs, strict=True)
                ports |= {f"o_S{half}": total, **{f"i_{pin}{half}": it for pin, it in pins}}
            passed = Signal(name=f"carry_{number}_{place}")
            cell = Instance("CCU2C", **ports, i_CIN=carry, o_COUT=passed)
            m.submodules[f"chain_{number}_{place}"] = cell
            carry = passed
    return m
