"""What the vector unit gathers over a whole vector: its energy, its peak, its largest key."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.arch.arithmetic import RESIDUAL_BITS
from hw.pipeline import delay
from hw.units.commands import INDEX_BITS
from hw.units.lane import ENERGY_BITS

STATISTIC_BITS = ENERGY_BITS + INDEX_BITS


class Statistics(wiring.Component):
    """Sum of squares, largest magnitude, and largest key with its index, over all beats of a step.

    A beat's results come some cycles after its energies; ``first``, ``valid``, ``present`` and
    ``choose`` come with the results. The outputs hold all beats up to one ``latency(elements)``
    cycles after that beat's energies or results. One beat per cycle.

    Members
    -------
    first : In(1), the beat is the first one of a step
    choose : In(1), results are keys
    valid : In(1)
    present : In(elements), elements that count
    energy_first, energy_valid, energy_present : the same, with the energies
    energies : In(ArrayLayout(27, elements))
    results : In(ArrayLayout(signed(24), elements))
    energy : Out(43)
    peak : Out(24), one more than the largest of ``v`` and ``~v``, which no magnitude exceeds
    index : Out(16), of the first largest key
    """

    @staticmethod
    def latency(elements: int) -> int:
        return 2 + exact_log2(elements)

    def __init__(self, elements: int):
        self.elements = elements
        super().__init__(
            {
                "first": In(1),
                "choose": In(1),
                "valid": In(1),
                "present": In(elements),
                "energy_first": In(1),
                "energy_valid": In(1),
                "energy_present": In(elements),
                "energies": In(data.ArrayLayout(ENERGY_BITS, elements)),
                "results": In(data.ArrayLayout(signed(RESIDUAL_BITS), elements)),
                "energy": Out(STATISTIC_BITS),
                "peak": Out(RESIDUAL_BITS),
                "index": Out(INDEX_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        levels = exact_log2(self.elements)
        # Until what comes with them is masked and through a tree.
        valid, first, energy_valid, energy_first = (
            delay(m, each, 1 + levels, name=f"{each.name}_tree", reset_less=False)
            for each in (self.valid, self.first, self.energy_valid, self.energy_first)
        )

        # Squares: masked, added in a tree, accumulated.
        nodes = []
        for lane in range(self.elements):
            node = Signal(ENERGY_BITS, name=f"energy_{lane}", reset_less=True)
            m.d.sync += node.eq(Mux(self.energy_present[lane], self.energies[lane], 0))
            nodes.append(node)
        while len(nodes) > 1:
            sums = []
            for left, right in zip(nodes[::2], nodes[1::2], strict=True):
                node = Signal(len(left) + 1, reset_less=True)
                m.d.sync += node.eq(left + right)
                sums.append(node)
            nodes = sums
        with m.If(energy_valid):
            m.d.sync += self.energy.eq(Mux(energy_first, 0, self.energy) + nodes[0])

        # Keys or magnitudes: a tree of the larger and its lane, then the largest so far. The left
        # one wins a draw. What does not count is no more than any of them, and never the first.
        least = Const(-(1 << (RESIDUAL_BITS - 1)), signed(RESIDUAL_BITS))
        nodes = []
        for lane in range(self.elements):
            result = self.results[lane]
            inverted = (~self.choose & result[-1]).replicate(RESIDUAL_BITS)
            node = Signal(signed(RESIDUAL_BITS), name=f"key_{lane}", reset_less=True)
            m.d.sync += node.eq(Mux(self.present[lane], (result ^ inverted).as_signed(), least))
            nodes.append((node, Const(0, 0)))
        while len(nodes) > 1:
            winners = []
            for (left, left_lane), (right, right_lane) in zip(nodes[::2], nodes[1::2], strict=True):
                node = Signal(signed(RESIDUAL_BITS), reset_less=True)
                lane = Signal(len(left_lane) + 1, reset_less=True)
                larger = Signal()
                m.d.comb += larger.eq(right > left)
                m.d.sync += [
                    node.eq(Mux(larger, right, left)),
                    lane.eq(Cat(Mux(larger, right_lane, left_lane), larger)),
                ]
                winners.append((node, lane))
            nodes = winners
        key, lane = nodes[0]
        best = Signal(signed(RESIDUAL_BITS), reset_less=True)
        beat = Signal(INDEX_BITS - levels, reset_less=True)
        at = Mux(first, 0, beat)
        with m.If(valid):
            m.d.sync += beat.eq(at + 1)
            with m.If(first | (key > best)):
                m.d.sync += [best.eq(key), self.index.eq(Cat(lane, at))]
        m.d.comb += self.peak.eq(best + 1)
        return m
