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

    A beat's results come some cycles after its energies; ``first``, ``valid``, ``present`` and
    ``choose`` come with the results. The outputs hold all beats up to one ``latency(elements)``
    cycles after that beat's energies or results. One beat per cycle.

    Parameters
    ----------
    elements : int
    index_bits : int
        Of an element's number.
    compact : bool
        Neither elements nor beats are counted here, and nothing waits for those of a tree:
        ``clear`` comes before the first beat, ``number`` with each.

    Members
    -------
    first : In(1), the beat is the first one of a step
    clear : In(1), and number : In, of the beat: of compact statistics
    choose : In(1), results are keys
    valid : In(1)
    present : In(elements), elements that count
    energy_first, energy_valid, energy_present : the same, with the energies
    energies : In(ArrayLayout(27, elements))
    results : In(ArrayLayout(signed(24), elements))
    energy : Out(27 + index_bits)
    peak : Out(24), one more than the largest of ``v`` and ``~v``, which no magnitude exceeds
    index : Out(index_bits), of the first largest key
    """

    @staticmethod
    def latency(elements: int, compact: bool = False) -> int:
        return 1 if compact else 2 + exact_log2(elements)

    def __init__(self, elements: int, index_bits: int, compact: bool = False):
        self.elements = elements
        self._compact = compact
        super().__init__(
            {
                "first": In(1),
                "clear": In(1),
                "number": In(index_bits - exact_log2(elements)),
                "choose": In(1),
                "valid": In(1),
                "present": In(elements),
                "energy_first": In(1),
                "energy_valid": In(1),
                "energy_present": In(elements),
                "energies": In(data.ArrayLayout(ENERGY_BITS, elements)),
                "results": In(data.ArrayLayout(signed(RESIDUAL_BITS), elements)),
                "energy": Out(ENERGY_BITS + index_bits),
                "peak": Out(RESIDUAL_BITS),
                "index": Out(index_bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        domain = "comb" if self._compact else "sync"
        behind = self.latency(self.elements, self._compact) - 1
        # Until what comes with them is masked and through a tree.
        valid, first, energy_valid, energy_first = (
            delay(m, each, behind, name=f"{each.name}_tree", reset_less=False)
            for each in (self.valid, self.first, self.energy_valid, self.energy_first)
        )

        # Squares: masked, added in a tree, accumulated.
        nodes = []
        for lane in range(self.elements):
            node = Signal(ENERGY_BITS, name=f"energy_{lane}", reset_less=True)
            m.d[domain] += node.eq(Mux(self.energy_present[lane], self.energies[lane], 0))
            nodes.append(node)
        while len(nodes) > 1:
            sums = []
            for left, right in zip(nodes[::2], nodes[1::2], strict=True):
                node = Signal(len(left) + 1, reset_less=True)
                m.d[domain] += node.eq(left + right)
                sums.append(node)
            nodes = sums
        before = self.energy if self._compact else Mux(energy_first, 0, self.energy)
        with m.If(energy_valid):
            m.d.sync += self.energy.eq(before + nodes[0])

        # Keys or magnitudes: a tree of the larger and its lane, then the largest so far. The left
        # one wins a draw. What does not count is no more than any of them, and never the first.
        least = Const(-(1 << (RESIDUAL_BITS - 1)), signed(RESIDUAL_BITS))
        nodes = []
        for lane in range(self.elements):
            result = self.results[lane]
            inverted = (~self.choose & result[-1]).replicate(RESIDUAL_BITS)
            node = Signal(signed(RESIDUAL_BITS), name=f"key_{lane}", reset_less=True)
            m.d[domain] += node.eq(Mux(self.present[lane], (result ^ inverted).as_signed(), least))
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
        at = self.number
        if not self._compact:
            beat = Signal.like(self.number, name="beat", reset_less=True)
            at = Mux(first, 0, beat)
            with m.If(valid):
                m.d.sync += beat.eq(at + 1)
        with m.If(valid & (first | (key > best))):
            m.d.sync += [best.eq(key), self.index.eq(Cat(lane, at))]
        if self._compact:
            with m.If(self.clear):
                m.d.sync += self.energy.eq(0)
        m.d.comb += self.peak.eq(best + 1)
        return m
