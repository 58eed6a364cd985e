"""The loop over layers: how far the addresses of a layer's steps have moved on."""

from amaranth.hdl import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hw.arch.geometry import Geometry
from hw.arch.memories import memories
from hw.arch.operations import which
from hw.arch.program import CONSTANTS_PER_ROW, FIELDS, Space, Stride, Unit

DescriptorLayout = data.StructLayout(
    {name: signed(width) if is_signed else unsigned(width) for name, width, is_signed in FIELDS}
)
"""``hw.arch.program.Descriptor``."""


class Layers(wiring.Component):
    """``hw.arch.program.Stride.moved``, and what REPEAT does.

    Parameters
    ----------
    geometry : Geometry

    Members
    -------
    step : In(DescriptorLayout), as it is in the program
    moved : Out(DescriptorLayout), as it is executed in the present layer; no cycle later
    again : Out(1), ``step`` is a REPEAT after which another layer follows
    repeat : In(1), it is executed in this cycle: on to the next layer, or none, after the last one
    """

    def __init__(self, geometry: Geometry):
        words = {name: memory.words for name, memory in memories(geometry).items()}
        self._sizes = {
            **{name: words[name] for name in ("weights", "tables", "states")},
            "constants": CONSTANTS_PER_ROW * words["program"],
        }
        super().__init__(
            {
                "step": In(DescriptorLayout),
                "moved": Out(DescriptorLayout),
                "again": Out(1),
                "repeat": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        step, moved = self.step, self.moved
        stride = Stride.of(step)
        number = Signal(len(step.length), init=1)  # of the present layer, counted from 1
        m.d.comb += self.again.eq(number != step.length)
        offsets = {name: Signal(ceil_log2(size)) for name, size in self._sizes.items()}
        with m.If(self.repeat):
            m.d.sync += number.eq(Mux(self.again, number + 1, 1))
            for name, offset in offsets.items():
                m.d.sync += offset.eq(Mux(self.again, offset + getattr(stride, name), 0))

        of_address = Signal(max(map(len, offsets.values())))
        with m.Switch(step.unit):
            with m.Case(Unit.ENGINE):
                m.d.comb += of_address.eq(offsets["weights"])
            with m.Case(Unit.VECTOR):
                m.d.comb += of_address.eq(offsets["tables"])
            with m.Default():
                m.d.comb += of_address.eq(offsets["constants"])
        m.d.comb += moved.eq(step)
        with m.If(step.layered):
            m.d.comb += moved.address.eq(step.address + of_address)
        is_vector = step.unit == Unit.VECTOR
        with m.If(is_vector & (step.space == Space.STATES)):
            m.d.comb += moved.source.eq(step.source + offsets["states"])
        with m.If(is_vector & (step.op.matches(*which(writes="states")))):
            m.d.comb += moved.dest.eq(step.dest + offsets["states"])
        return m
