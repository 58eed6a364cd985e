"""The rows of the memories, and what is made from them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from amaranth.hdl import Fragment, Shape
from amaranth.lib.memory import Memory as BlockRam

from hw.arch.memories import HostAccess, Kind, memories, spaces
from hw.arch.protocol import MemorySpace
from hw.boards import board, names
from hw.memory.bank import DEEP

DOCS = Path(__file__).parents[1] / "docs" / "machine.md"

HOST = {
    "loads": HostAccess.WRITE | HostAccess.READ,
    "reads": HostAccess.READ,
    "writes": HostAccess.WRITE,
    "reads during a run": HostAccess.READ | HostAccess.ALWAYS,
}

SIZES = {
    "sim_tiny": (32768, 65536, 1024, 48, 2080, 32, 256, 10, 2048),
    "sim_small": (120000, 80000, 1024, 100, 2080, 32, 256, 10, 800),
    "ecpix5_85": (114688, 75776, 1024, 1024, 2560, 32, 256, 10, 1536),
    "ulx3s_85f": (114688, 9216, 1024, 4096, 16384, 128, 256, 10, 8192, 131072),
}
"""Half-words of each space, in their order."""


WITH_ALL = replace(board("sim_tiny").geometry, embedding_words=1024)
"""A machine that has every memory that there can be."""


def test_a_memory_without_words_is_none():
    assert set(memories(WITH_ALL)) - set(memories(board("sim_tiny").geometry)) == {"embedding"}


def test_every_space_has_one_row():
    rows = memories(WITH_ALL)
    seen = [row.space for row in rows.values()]
    assert [space for space in seen if space is not None] == list(MemorySpace)
    for name, row in rows.items():
        assert row.space is None or row.space.name == name.upper()
        assert (row.space is None) == (row.access == HostAccess.NONE)


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
    rows = spaces(board(name).geometry)
    assert tuple(row.size for row in rows.values()) == SIZES[name]


def test_what_the_host_may_do():
    def may(access):
        return [s.name.lower() for s, row in rows.items() if access in row.access]

    rows = spaces(WITH_ALL)
    assert may(HostAccess.READ) == [space.name.lower() for space in MemorySpace]
    assert may(HostAccess.WRITE) == [
        *("weights", "tables", "program", "tokens", "states", "embedding"),
    ]
    assert may(HostAccess.ALWAYS) == ["tokens", "totals"]


def documented() -> dict[str, list[str]]:
    """Cells of the table in the documentation, by the memory's name."""
    table = re.search(r"\| memory \|.*?\n\|[-|]*\n(.*?)\n\n", DOCS.read_text("utf-8"), re.DOTALL)
    assert table
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[1].splitlines()]
    return {name: cells for name, *cells in rows}


@pytest.mark.parametrize("name", names())
def test_documentation_has_the_rows(name):
    geometry = board(name).geometry
    sizes = asdict(geometry) | {"lanes": geometry.lanes}

    def value(text):
        return eval(text.replace(" x ", " * ").replace(" / ", " // "), {}, sizes)

    rows = memories(geometry)
    there = {name: cells for name, cells in documented().items() if value(cells[0])}
    assert list(there) == list(rows)
    for row, (words, word, host, _) in zip(rows.values(), there.values(), strict=True):
        assert (value(words), value(word.removesuffix(" bit"))) == (row.words, row.bits)
        access = HostAccess.NONE
        for part in host.split(", ") if host else ():
            access |= HOST[part]
        assert access == row.access


@pytest.mark.parametrize("name", names())
def test_rows_are_what_is_built(name, monkeypatch):
    """Every memory of the design has a row."""
    built, machine = Counter(), board(name).machine
    within = machine.geometry.contexts, machine.queued
    elaborate = BlockRam.elaborate

    def count(self, platform):
        width = Shape.cast(self.shape).width
        parts = {len(port.en) > 1 for port in self.write_ports} == {True}
        if self.depth not in within:  # what a unit keeps of each context, and its queue
            built[self.depth, width, parts] += len(self.read_ports)
        return elaborate(self, platform)

    monkeypatch.setattr(BlockRam, "elaborate", count)
    core = board(name).core()
    Fragment.get(core, None)
    rows, stores = Counter(), 0
    for key, row in machine.memories.items():
        if row.kind == Kind.STORE:
            store = getattr(core, key)
            if key == "embedding":  # beside the chip
                assert store.parameters.embedding_words == row.words
                assert store.parameters.elements == row.half_words
                continue
            store = store.parameters if key == "weights" else store
            assert (store.depth, store.half_words) == (row.words, row.half_words)
            beside = key == "weights"  # the chip, it may be
            stores += store.kept * store.kept_width if beside else row.words * row.bits
        elif row.kind != Kind.FLIP_FLOPS:
            # One item has one enable, whether it is a part or the whole.
            if row.kind == Kind.BANK and row.words >= DEEP:
                rows[row.words, row.item, False] += row.items
                continue
            rows[row.words, row.bits, row.parts and row.items > 1] += row.copies
    rest = built - rows
    assert not rows - built
    assert sum(words * bits * count for (words, bits, _), count in rest.items()) == stores


EVEN = replace(
    board("sim_tiny").geometry,
    sums=1024,
    states=1024,
    vectors=512,
    tokens=64,
    multiplicands=512,
    activations=256,
)
"""A machine that may have several contexts."""


def test_contexts_have_parts_of_their_own():
    """What a run changes is there once for each; what it only reads, once."""
    alone, four = memories(EVEN), memories(replace(EVEN, contexts=4))
    assert (alone.pop("ids").words, four.pop("ids").words) == (16, 32)  # eight for each, but one
    changed = ("sums", "multiplicands", "vectors", "states", "activations", "tokens", "registers")
    for name, row in four.items():
        assert row.words == (4 if name in changed else 1) * alone[name].words
        assert row.own == alone[name].words


@pytest.mark.parametrize("name", ["sums", "multiplicands", "vectors", "states", "activations"])
def test_a_context_is_in_the_upper_bits_of_an_address(name):
    one = replace(EVEN, contexts=2)
    with pytest.raises(ValueError, match=f"{name} must be a power of two, as there are 2 contexts"):
        replace(one, **{name: getattr(one, name) * 3})
    with pytest.raises(ValueError, match="contexts must be a power of two, not 3"):
        replace(one, contexts=3)
