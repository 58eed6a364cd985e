"""What the vector unit gathers over a whole vector: its energy, its peak, its largest key."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.arch.arithmetic import RESIDUAL_BITS
from hw.units.commands import INDEX_BITS
from hw.units.lane import ENERGY_BITS, WIDE_BITS

STATISTIC_BITS = ENERGY_BITS + INDEX_BITS + 1


class Statistics(wiring.Component):
    """Sum of squares, largest magnitude, and largest key with its index, over all beats of a step.

    A beat's results come a cycle after its energies, ``valid`` and ``present``. The outputs hold
    all beats up to one ``latency(elements)`` cycles after that beat's results, and for one cycle
    more if three cycles later the next step begins. One beat per cycle.

    Members
    -------
    clear : In(1), the next beat is the first one of a step; never with ``valid``
    choose : In(1), results are keys; comes with the results
    valid : In(1)
    present : In(elements), elements that count
    energies : In(ArrayLayout(31, elements))
    results : In(ArrayLayout(signed(32), elements))
    energy : Out(48)
    peak : Out(32)
    index : Out(16), of the first largest key
    """

    @staticmethod
    def latency(elements: int) -> int:
        return 2 + exact_log2(elements)

    def __init__(self, elements: int):
        self.elements = elements
        super().__init__(
            {
                "clear": In(1),
                "choose": In(1),
                "valid": In(1),
                "present": In(elements),
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
        root = 1 + levels  # cycles until what comes with ``valid`` is masked and through a tree
        valid, clear = [self.valid], [self.clear]
        for cycle in range(root + 1):
            for pulses, name in ((valid, "valid"), (clear, "clear")):
                pulses.append(Signal(name=f"{name}_{cycle + 1}"))
                m.d.sync += pulses[-1].eq(pulses[-2])

        # Squares: masked, added in a tree, accumulated.
        nodes = []
        for lane in range(self.elements):
            node = Signal(ENERGY_BITS, name=f"energy_{lane}", reset_less=True)
            m.d.sync += node.eq(Mux(self.present[lane], self.energies[lane], 0))
            nodes.append(node)
        while len(nodes) > 1:
            sums = []
            for left, right in zip(nodes[::2], nodes[1::2], strict=True):
                node = Signal(len(left) + 1, reset_less=True)
                m.d.sync += node.eq(left + right)
                sums.append(node)
            nodes = sums
        with m.If(clear[root]):
            m.d.sync += self.energy.eq(0)
        with m.Elif(valid[root]):
            m.d.sync += self.energy.eq(self.energy + nodes[0])

        # Keys or magnitudes: a tree of the larger and its lane, then the largest so far. The left
        # one wins a draw. What does not count is less than any of them.
        least = Const(-(1 << (WIDE_BITS - 1)), signed(WIDE_BITS))
        present = Signal(self.elements, reset_less=True)
        m.d.sync += present.eq(self.present)
        nodes = []
        for lane in range(self.elements):
            result = self.results[lane]
            size = Mux(~self.choose & result[-1], -result, result)
            node = Signal(signed(WIDE_BITS), name=f"key_{lane}", reset_less=True)
            m.d.sync += node.eq(Mux(present[lane], size, least))
            nodes.append((node, Const(0, 0)))
        while len(nodes) > 1:
            winners = []
            for (left, left_lane), (right, right_lane) in zip(nodes[::2], nodes[1::2], strict=True):
                node = Signal(signed(WIDE_BITS), reset_less=True)
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
        best = Signal(signed(WIDE_BITS), reset_less=True)
        beat = Signal(INDEX_BITS - levels, reset_less=True)
        with m.If(clear[root + 1]):
            m.d.sync += [best.eq(least), beat.eq(0)]
        with m.Elif(valid[root + 1]):
            m.d.sync += beat.eq(beat + 1)
            with m.If(key > best):
                m.d.sync += [best.eq(key), self.index.eq(Cat(lane, beat))]
        m.d.comb += self.peak.eq(best)
        return m
