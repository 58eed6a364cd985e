"""The rows of the vector unit's operations."""

from __future__ import annotations

import re
from pathlib import Path

from hw.arch.memories import Kind, memories
from hw.arch.operations import OPERATIONS, Operation, Statistic, Table, VectorOp, late_reads, which
from hw.arch.program import FIELDS, Space
from hw.boards import board

DOCS = Path(__file__).parents[1] / "docs" / "machine.md"
BANKS = [
    name for name, row in memories(board("sim_tiny").geometry).items() if row.kind == Kind.BANK
]


def documented() -> dict[VectorOp, Operation]:
    """The table in the documentation."""
    table = re.search(r"\| operation \|.*?\n\|[-|]*\n(.*?)\n\n", DOCS.read_text("utf-8"), re.DOTALL)
    assert table
    rows = {}
    for line in table[1].splitlines():
        name, times, table_, reads, writes, leaves, _ = (c.strip() for c in line.split("|")[1:-1])
        rows[VectorOp[name]] = Operation(
            table=Table(table_ or "-"),
            scaled=times.startswith("K"),
            gate=times.endswith("gate"),
            reads=dict(read.split(" at ") for read in reads.split(", ")) if reads else {},
            writes=writes or None,
            statistic=Statistic(leaves or "-"),
        )
    return rows


def test_every_operation_has_one_row():
    assert list(OPERATIONS) == list(VectorOp)


def test_documentation_has_the_rows():
    assert documented() == OPERATIONS


def test_operands_are_banks_with_addresses_in_fields():
    for row in OPERATIONS.values():
        assert {*row.reads, *([row.writes] if row.writes else [])} <= set(BANKS)
        assert set(row.reads.values()) <= {name for name, _, _ in FIELDS}


def test_main_operands_are_banks():
    assert {space.name.lower() for space in Space} == {*BANKS} - {"activations"}


def test_a_memory_is_read_late_at_one_field():
    """So its port has the choice of two addresses, and no more."""
    assert {name: set(late_reads(name).values()) for name in BANKS} == {
        "sums": set(),
        "multiplicands": {"operand"},
        "vectors": {"operand"},
        "states": {"dest"},
        "activations": set(),
    }


def test_which():
    assert which(gate=True, writes="vectors") == (VectorOp.SILU, VectorOp.GATE)
    assert which(table=Table.BOUNDS) == (VectorOp.UPDATE,)
    assert which(writes="sums") == ()
    measured = [op.name for op, row in OPERATIONS.items() if row.measured]
    assert measured == ["EMBED", "NORM", "PEAK", "GATE", "RESIDUAL", "MEASURE"]
