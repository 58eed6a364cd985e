"""What the vector unit gathers over a whole vector: its energy, its peak, its largest key."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.arch.arithmetic import RESIDUAL_BITS
from hw.pipeline import delay
from hw.units.lane import ENERGY_BITS


class Statistics(wiring.Component):
    """Sum of squares, largest magnitude, and largest key with its index, over all beats of a step.

    A beat's results come some cycles after its energies. The outputs hold all beats up to one
    ``latency(elements)`` cycles after that beat's energies or results. One beat per cycle.

    Parameters
    ----------
    elements : int
    index_bits : int
        Of an element's number.
    mark : StructLayout
        ``mark_layout``.

    Members
    -------
    energy_mark, mark : In(mark)
        Of the beat whose energies or results are there.
    energy_present, present : In(range(elements))
        Elements that count in a last beat, less one.
    energies : In(ArrayLayout(27, elements))
    results : In(ArrayLayout(signed(24), elements))
    choose : In(1), results are keys
    energy : Out(27 + index_bits)
    peak : Out(24), one more than the largest of ``v`` and ``~v``, which no magnitude exceeds
    index : Out(index_bits), of the first largest key
    """

    DOMAIN = "sync"

    @staticmethod
    def latency(elements: int) -> int:
        """Cycles of the trees, masks and totals."""
        return 2 + exact_log2(elements)

    def __init__(self, elements: int, index_bits: int, mark: data.StructLayout):
        self.elements = elements
        super().__init__(
            {
                "energy_mark": In(mark),
                "mark": In(mark),
                "energy_present": In(exact_log2(elements)),
                "present": In(exact_log2(elements)),
                "energies": In(data.ArrayLayout(ENERGY_BITS, elements)),
                "results": In(data.ArrayLayout(signed(RESIDUAL_BITS), elements)),
                "choose": In(1),
                "energy": Out(ENERGY_BITS + index_bits),
                "peak": Out(RESIDUAL_BITS),
                "index": Out(index_bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        domain, behind = self.DOMAIN, self.latency(self.elements) - 1
        # Until what comes with them is masked and through a tree.
        valid, first, energy_valid, energy_first = (
            delay(m, value, behind, name=f"{name}_tree", reset_less=False)
            for name, value in (
                ("valid", self.mark.beat),
                ("first", self.mark.first),
                ("energy_valid", self.energy_mark.beat),
                ("energy_first", self.energy_mark.first),
            )
        )

        # Squares: masked, added in a tree, accumulated.
        nodes = []
        for lane in range(self.elements):
            node = Signal(ENERGY_BITS, name=f"energy_{lane}", reset_less=True)
            counts = ~self.energy_mark.last | (self.energy_present >= lane)
            m.d[domain] += node.eq(Mux(counts, self.energies[lane], 0))
            nodes.append(node)
        while len(nodes) > 1:
            sums = []
            for left, right in zip(nodes[::2], nodes[1::2], strict=True):
                node = Signal(len(left) + 1, reset_less=True)
                m.d[domain] += node.eq(left + right)
                sums.append(node)
            nodes = sums
        with m.If(energy_valid):
            m.d.sync += self.energy.eq(self._before(energy_first) + nodes[0])

        # Keys or magnitudes: a tree of the larger and its lane, then the largest so far. The left
        # one wins a draw. What does not count is no more than any of them, and never the first.
        least = Const(-(1 << (RESIDUAL_BITS - 1)), signed(RESIDUAL_BITS))
        nodes = []
        for lane in range(self.elements):
            result = self.results[lane]
            inverted = (~self.choose & result[-1]).replicate(RESIDUAL_BITS)
            node = Signal(signed(RESIDUAL_BITS), name=f"key_{lane}", reset_less=True)
            counts = ~self.mark.last | (self.present >= lane)
            m.d[domain] += node.eq(Mux(counts, (result ^ inverted).as_signed(), least))
            nodes.append((node, Const(0, 0)))
        while len(nodes) > 1:
            winners = []
            for (left, left_lane), (right, right_lane) in zip(nodes[::2], nodes[1::2], strict=True):
                node = Signal(signed(RESIDUAL_BITS), reset_less=True)
                lane = Signal(len(left_lane) + 1, reset_less=True)
                larger = Signal()
                m.d.comb += larger.eq(right > left)
                m.d[domain] += [
                    node.eq(Mux(larger, right, left)),
                    lane.eq(Cat(Mux(larger, right_lane, left_lane), larger)),
                ]
                winners.append((node, lane))
            nodes = winners
        key, lane = nodes[0]
        best = Signal(signed(RESIDUAL_BITS), reset_less=True)
        number = self._number(m, first, valid)
        with m.If(valid & (first | (key > best))):
            m.d.sync += [best.eq(key), self.index.eq(Cat(lane, number))]
        m.d.comb += self.peak.eq(best + 1)
        return m

    def _before(self, first):
        """The energy of the beats before."""
        return Mux(first, 0, self.energy)

    def _number(self, m, first, valid):
        """The beat's number, where its results are through the tree."""
        number = Signal(len(self.index) - exact_log2(self.elements), reset_less=True)
        following = Signal.like(number, name="following", reset_less=True)
        m.d.comb += number.eq(Mux(first, 0, following))
        with m.If(valid):
            m.d.sync += following.eq(number + 1)
        return number


class CompactStatistics(Statistics):
    """Without registers but those of the totals, and with marks that tell the beat's number, and
    when no step is under way, so that the energy begins with 0."""

    DOMAIN = "comb"

    @staticmethod
    def latency(elements: int) -> int:
        return 1

    def elaborate(self, platform):
        m = super().elaborate(platform)
        with m.If(self.mark.idle):
            m.d.sync += self.energy.eq(0)
        return m

    def _before(self, first):
        return self.energy

    def _number(self, m, first, valid):
        return self.mark.number
