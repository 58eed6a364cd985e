"""Banks of vectors: one unit writes them beat by beat, another one reads them."""

from dataclasses import dataclass

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from hw.arch import memories
from hw.memory.signatures import READ_LATENCY, ReadSignature, WriteSignature
from hw.parameters import require_positive
from hw.pipeline import delay


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
    """

    elements: int
    width: int
    depth: int
    element_enable: bool = False

    def __post_init__(self):
        require_positive(self)

    @classmethod
    def from_row(cls, row: memories.Memory) -> "VectorBankParameters":
        return cls(
            elements=row.items,
            width=row.item,
            depth=row.words,
            element_enable=row.parts,
        )

    def create(self) -> "VectorBank":
        return VectorBank(self)


class VectorBank(wiring.Component):
    """Beat-wide memory with one reader and one writer.

    A beat per cycle on both sides. Reads have ``READ_LATENCY``; an address given in the cycle after
    a write gets what was written.

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
        m.submodules.memory = memory = Memory(shape=self.layout, depth=p.depth, init=[])
        write_port = memory.write_port(granularity=1 if p.element_enable else None)
        read_port = memory.read_port()
        value = Signal(self.layout, reset_less=True)
        m.d.comb += [
            write_port.addr.eq(self.write.address),
            write_port.data.eq(self.write.data),
            write_port.en.eq(self.write.enable),
            read_port.addr.eq(delay(m, self.read.address, READ_LATENCY - 2, name="address")),
            self.read.data.eq(value),
        ]
        m.d.sync += value.eq(read_port.data)
        return m
