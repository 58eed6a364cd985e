"""The adders of the ternary engine in the carry cells of ECP5, which choose the term as well.

A half of a CCU2C has a table of four inputs: where it is high a carry passes, and the carry is added
to it. Here it is ``augend ^ ((addend & not_zero) ^ negative)``. Where it is low, the carry is the
same table's with the last two inputs low: ``augend``. So a bit of a sum takes a half, and the carry
below its lowest bit another one, whose table is low, so that it passes nothing on of what was before.

Adders beside each other are one chain: nothing is wasted between them, and nextpnr adds two cells at
each end of a chain, whether it needs them or not.
"""

from itertools import product
from typing import Any

from amaranth.hdl import Const, Instance, Module, Signal, Value


def _table(function) -> Const:
    """The table of a function of (a, b, c, d)."""
    found = (
        bool(function(a, b, c, d)) << (a + 2 * b + 4 * c + 8 * d)
        for a, b, c, d in product((0, 1), repeat=4)
    )
    return Const(sum(found), 16)


ADDED = _table(lambda a, b, c, d: a ^ b & c ^ d)
FED = _table(lambda a, b, c, d: a & ~(c | d))
UNUSED = Const(0)


def term_adders(unit) -> Module:
    """What `hw.units.cascade.TermAdders` is, in cells."""
    m = Module()
    halves = []
    for adder in unit.adders:
        halves.append((FED, (adder.carry, UNUSED, UNUSED, Const(1)), None))
        for augend, addend, total in zip(adder.augend, adder.addend, adder.sum, strict=True):
            halves.append((ADDED, (augend, addend, adder.not_zero, adder.negative), total))
    if len(halves) % 2:
        halves.append((FED, (UNUSED,) * 4, None))
    carry: Value = UNUSED
    for number in range(0, len(halves), 2):
        ports: dict[str, Any] = {}
        passed = Signal(name=f"carry_{number // 2}")
        for half, (table, inputs, total) in enumerate(halves[number : number + 2]):
            ports |= {f"p_INIT{half}": table, f"p_INJECT1_{half}": "NO"}
            ports |= {f"i_{pin}{half}": it for pin, it in zip("ABCD", inputs, strict=True)}
            if total is not None:
                ports[f"o_S{half}"] = total
        m.submodules[f"pair_{number // 2}"] = Instance("CCU2C", **ports, i_CIN=carry, o_COUT=passed)
        carry = passed
    return m
