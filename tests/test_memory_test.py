"""Memories with broken lines: each fault has its name, and a good memory loses nothing."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from host.errors import DeviceError
from host.link import Link
from host.memory_test import TOGETHER, Memory, find_fault
from hw.arch.frames import Frame, encode_frame
from hw.arch.memories import spaces
from hw.arch.protocol import Command, MemorySpace
from hw.core import Core
from hw.machine import Machine, Stores
from hw.memory.sdram.parts import ULX3S
from hw.memory.sdram.store import Sdram
from sim.cores import core_verilog, library
from sim.device import SimulatedPort
from tests.fake_device import GEOMETRY, IDENTITY, FakeDevice, FakePort

LARGE = replace(IDENTITY, geometry=replace(GEOMETRY, weight_rows=1 << 13))
CLOCK_HZ = 100_000_000
MACHINE = Machine(
    geometry=replace(GEOMETRY, weight_rows=1000, embedding_words=0),
    stores=Stores(weights=Sdram(part=ULX3S, clock_hz=CLOCK_HZ, rows_ahead=16)),
)
CONTENT = random.Random(1).randbytes(1 << 17)
"""As much as its weights take: addresses of 16 lines."""


class Cells:
    """Half-words behind lines of which some are broken.

    Parameters
    ----------
    data : what the data lines make of a value at an address
    address : what the address lines make of an address
    """

    def __init__(
        self,
        content: bytes = CONTENT,
        data: Callable[[int, int], int] = lambda value, at: value,
        address: Callable[[int], int] = lambda at: at,
    ):
        self.cells = np.frombuffer(content, "<u2").copy()
        self.data, self.address = data, address
        self.touched: set[int] = set()
        self.accesses = self.moved = 0

    def read(self, at: int, count: int) -> bytes:
        self.accesses, self.moved = self.accesses + 1, self.moved + count
        return self.cells[[self.address(at + i) for i in range(count)]].tobytes()

    def write(self, at: int, content: bytes) -> None:
        self.accesses, self.moved = self.accesses + 1, self.moved + len(content) // 2
        for i, value in enumerate(np.frombuffer(content, "<u2").tolist(), at):
            self.touched.add(i)
            self.cells[self.address(i)] = self.data(value, i)

    def called(self, name: str, content: bytes = CONTENT) -> Memory:
        return Memory(name=name, content=content, read=self.read, write=self.write)

    def fault(self, content: bytes = CONTENT) -> str | None:
        fault = find_fault([self.called("it", content)])
        return fault and fault.removeprefix("it: ")


def tied(low: int, high: int) -> Callable[[int, int], int]:
    """Two data lines, of which the one that is low wins."""

    def data(value, at):
        both = value >> low & value >> high & 1
        return value & ~(1 << low | 1 << high) | both << low | both << high

    return data


def both(low: int, high: int) -> Callable[[int], int]:
    """Two address lines, of which the one that is high wins."""
    lines = 1 << low | 1 << high
    return lambda at: at | lines if at & lines else at


FAULTS: dict[str, tuple[dict, str]] = {
    "low": ({"data": lambda value, at: value & ~0x20}, "data line 5 is stuck at 0: half-word"),
    "high": ({"data": lambda value, at: value | 0x8000}, "data line 15 is stuck at 1: half-word"),
    "one of 32": ({"data": lambda value, at: value | (at & 1) << 3}, "data line 19 is stuck at 1"),
    "tied": ({"data": tied(3, 12)}, "data lines 3 and 12 are tied: half-word"),
    "nothing": ({"data": lambda value, at: 0xFFFF}, "every half-word reads 0xffff, whatever is"),
    "lowest": (
        {"address": lambda at: at & ~1},
        "address line 0 does not count: half-words 0 and 1",
    ),
    "middle": (
        {"address": lambda at: at | 1 << 12},
        "address line 12 does not count: half-words 0 and 4096 are one",
    ),
    "few rows": (
        {"address": lambda at: at & 0x3FFF},
        "address line 14 does not count: half-words 0 and 16384 are one",
    ),
    "tied addresses": (
        {"address": both(2, 11)},
        "address lines 2 and 11 are tied: half-words 4 and 2048 are one",
    ),
    "one cell": (
        {"data": lambda value, at: value ^ (at == 1 << 15) << 7},
        "half-word 32768 holds 0x",
    ),
    "two cells": ({"address": lambda at: 5 if at == 77 else at}, "half-words 5 and 77 are one"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_has_its_name(name):
    lines, message = FAULTS[name]
    for content in (CONTENT, random.Random(2).randbytes(len(CONTENT)), bytes(len(CONTENT))):
        fault = Cells(content, **lines).fault()
        assert fault is not None and fault.startswith(message)


def test_a_value_that_is_wrong_is_told():
    fault = Cells(data=lambda value, at: value ^ 0x81 if at == 1 << 15 else value).fault()
    holds, wanted = map(lambda x: int(x, 16), re.findall("0x([0-9a-f]{4})", fault))
    assert holds ^ wanted == 0x81
    assert fault.endswith(f", 1 of {TOGETHER + 8} differ")


@pytest.mark.parametrize("half_words", [0, 1, 2, 3, 5, 255, 256, 257, 1000, 1024, 1025])
def test_sizes(half_words):
    """All lines of a memory, and nothing beyond what it shall hold; what was right stays so."""
    content = CONTENT[: 2 * half_words]
    memory = Cells()
    assert memory.fault(content) is None
    assert memory.cells.tobytes() == CONTENT
    assert memory.touched <= set(range(half_words))
    powers = {1 << line for line in range((half_words - 1).bit_length())} if half_words else set()
    assert powers <= memory.touched
    for line in range(max(0, half_words - 1).bit_length()):
        broken = Cells(address=lambda at, line=line: at & ~(1 << line))
        assert broken.fault(content).startswith(f"address line {line} does not count")


def test_lines_that_are_swapped_do_no_harm():
    """Whatever is written comes back, so that a model is the same in such a memory."""

    def address(at):
        return at & ~0x802 | (at >> 1 & 1) << 11 | (at >> 11 & 1) << 1

    memory = Cells(address=address)
    assert memory.fault() is None


def test_a_memory_that_is_another_one():
    """The upper half of a part is not there, so that what should lie there lies below."""
    part, half = Cells(), len(CONTENT) // 4
    upper = Memory(
        name="embedding", content=CONTENT[: len(CONTENT) // 2], read=part.read, write=part.write
    )
    lower = part.called("weights", CONTENT[: len(CONTENT) // 2])
    assert find_fault([lower, upper]) == "weights: half-word 0 is half-word 0 of embedding"
    fine = Memory(
        name="embedding",
        content=CONTENT[len(CONTENT) // 2 :],
        read=lambda at, count: part.read(half + at, count),
        write=lambda at, content: part.write(half + at, content),
    )
    part.cells[:] = np.frombuffer(CONTENT, "<u2")
    assert find_fault([lower, fine]) is None
    assert part.cells.tobytes() == CONTENT


class Broken(FakeDevice):
    """A device whose memory has such lines."""

    def __init__(self, **lines):
        super().__init__(LARGE)
        self.weights = Cells(bytes(len(CONTENT)), **lines)

    def put(self, space, address, value):
        super().put(space, address, value)
        if space == MemorySpace.WEIGHTS:
            self.weights.write(address, value.to_bytes(2, "little"))

    def _access(self, command, arguments, data):
        size = len(self.weights.cells)
        if command != Command.WRITE and arguments[0] == MemorySpace.WEIGHTS:
            cells = np.frombuffer(self.weights.read(0, size), "<u2")
            self.memory[MemorySpace.WEIGHTS] = cells.tolist()
        return super()._access(command, arguments, data)


@pytest.mark.parametrize("name", FAULTS)
def test_a_load_ends_with_the_name(name):
    lines, message = FAULTS[name]
    link = Link(port := FakePort(Broken(**lines)), name="/dev/ttyUSB0")
    with pytest.raises(DeviceError) as error:
        link.fill({MemorySpace.WEIGHTS: CONTENT}, lambda size: None)
    assert str(error.value).startswith(f"/dev/ttyUSB0: memory test: weights: {message}")
    assert str(error.value).endswith("memory is what the bitstream was built for")
    assert "\n" not in str(error.value)
    sent = sum(len(encode_frame(frame)) for frame in port.frames)
    assert sent < 2500  # long before the model is there


def test_what_it_takes():
    """For 8 MB, the largest memory that is usual: 30 ms of a line of 1 Mbaud."""
    memory = Cells(bytes(1 << 23))
    assert memory.fault(bytes(1 << 23)) is None
    assert memory.accesses == 3 * (1 + 14)
    assert memory.moved == 3 * (256 + 14)
    around = len(encode_frame(Frame(command=Command.READ, sequence=0, payload=bytes(7))))
    around += len(encode_frame(Frame(command=Command.READ, sequence=0)))
    assert around * memory.accesses + 2 * memory.moved < 3000


@pytest.mark.whole
@pytest.mark.parametrize(
    ("pin", "broken", "message"),
    [
        ("a", "pad_address & ~13'h8", "address line 3 does not count: half-words 0 and 8 are one"),
        pytest.param(
            *("dq_i", "pad_dq__o & ~16'h20", "data line 5 is stuck at 0: half-word"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_pin_of_a_chip_without_contact(pin, broken, message):
    """Through the core, its controller and the pads."""
    core = Core(machine=MACHINE, board_name="broken", clock_hz=CLOCK_HZ, digest=bytes(16))
    source = core_verilog(core)
    sound = re.search(rf"\.{pin}\((pad_\w+)\)", source)
    assert sound is not None and sound[1] in broken
    faulty = source.replace(sound[0], f".{pin}({broken})")
    content = CONTENT[: 2 * spaces(MACHINE.geometry)[MemorySpace.WEIGHTS].size]
    with SimulatedPort(library(faulty), timeout=0.05) as port:
        link = Link(port, patience=20, attempts=3)
        with pytest.raises(DeviceError, match=f"memory test: weights: {message}"):
            link.fill({MemorySpace.WEIGHTS: content}, lambda size: None)
