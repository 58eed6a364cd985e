"""Banks of vectors: one unit writes them beat by beat, another one reads them."""

from dataclasses import dataclass

from amaranth.hdl import Module, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from hw.arch import memories
from hw.memory.signatures import READ_LATENCY, ReadSignature, WriteSignature
from hw.parameters import require_positive
from hw.pipeline import KEEP, delay

DEEP = 2048
"""Beats from which on each element has a memory of its own, and registers before it: blocks are
then so narrow that hardly one would be shared by two elements, and so many that they lie all over
the chip."""


@dataclass(frozen=True, kw_only=True)
class VectorBankParameters:
    """Beats of ``elements`` signed integers.

    Parameters
    ----------
    elements : int
        Elements of a beat.
    width : int
        Bits of an element.
    depth : int
        Beats.
    element_enable : bool
        Whether each element has its own write enable.
    latency : int
        Cycles from an address to its data: 1 for the memory, 2 with a register behind it, all
        further ones before it.
    """

    elements: int
    width: int
    depth: int
    element_enable: bool = False
    latency: int = READ_LATENCY

    def __post_init__(self):
        require_positive(self)

    @classmethod
    def from_row(cls, row: memories.Memory, **options) -> "VectorBankParameters":
        return cls(
            elements=row.items,
            width=row.item,
            depth=row.words,
            element_enable=row.parts,
            **options,
        )

    def create(self) -> "VectorBank":
        return VectorBank(self)


class VectorBank(wiring.Component):
    """Beat-wide memory with one reader and one writer.

    A beat per cycle on both sides. Reads have ``latency``; an address given in the cycle after a
    write gets what was written.

    Members
    -------
    read : ``In(ReadSignature(depth, ArrayLayout(signed(width), elements)))``
    write : ``In(WriteSignature(depth, signed(width), elements, enables))``
        ``enables`` is ``elements`` with ``element_enable``, else 1.
    """

    def __init__(self, parameters: VectorBankParameters):
        self.parameters = p = parameters
        self.layout = data.ArrayLayout(signed(p.width), p.elements)
        enables = p.elements if p.element_enable else 1
        super().__init__(
            {
                "read": In(ReadSignature(p.depth, self.layout)),
                "write": In(WriteSignature(p.depth, signed(p.width), p.elements, enables)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        if p.depth < DEEP:
            memory = self._memory(m, "memory", self.layout, 1 if p.element_enable else None)
            write = self.write.address, self.write.data, self.write.enable
            self._connect(m, memory, write, self.read.data, "")
            return m
        enables, before = self.write.enable, min(1, self._before)
        for element in range(p.elements):
            name = f"element_{element}"
            memory = self._memory(m, name, signed(p.width), None)
            enable = enables[element] if p.element_enable else enables
            # Written a cycle later, no later than an address of the next cycle comes to be read.
            write = [
                delay(m, value, before, name=f"write_{name}", reset_less=False, attrs=KEEP)
                for value in (self.write.address, self.write.data[element], enable)
            ]
            self._connect(m, memory, write, self.read.data[element], f"_{element}")
        return m

    @property
    def _before(self) -> int:
        """Registers before a memory that is read."""
        return max(0, self.parameters.latency - 2)

    def _memory(self, m, name: str, shape, granularity):
        """Ports of a memory."""
        m.submodules[name] = memory = Memory(shape=shape, depth=self.parameters.depth, init=[])
        return memory.write_port(granularity=granularity), memory.read_port()

    def _connect(self, m, ports, write, read_data, suffix: str):
        (writer, reader), (write_address, write_data, enable) = ports, write
        behind = min(1, self.parameters.latency - 1)
        address = delay(m, self.read.address, self._before, name=f"address{suffix}", attrs=KEEP)
        m.d.comb += [
            writer.addr.eq(write_address),
            writer.data.eq(write_data),
            writer.en.eq(enable),
            reader.addr.eq(address),
            read_data.eq(delay(m, reader.data, behind, name=f"value{suffix}")),
        ]
