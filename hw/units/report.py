"""What a step of the vector unit leaves: statistics, a choice, or just that it is done."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.arch.arithmetic import RESIDUAL_BITS
from hw.arch.geometry import CONTEXT_BITS
from hw.arch.operations import Statistic
from hw.units.commands import REGISTER_BITS, ChoiceLayout, VectorCommand, has, raw_layout
from hw.units.vector import VectorParameters
from weights.fixed import EXPONENT_BITS

LeftLayout = data.StructLayout(
    {
        "op": VectorCommand.members["op"],
        "result": REGISTER_BITS,
        "context": CONTEXT_BITS,
        "exponent": signed(EXPONENT_BITS),
    }
)
"""What has to be known of a step for a statistic of it."""


class _Report(wiring.Component):
    """A step's energy early, and a peak beside that late enough for the register.

    Members
    -------
    energy_ends, ends : In(1)
        All of a step's squares, or results, are in its statistics.
    energy_step, step : In(LeftLayout)
        That step, with its exponent of these.
    energy, peak, index : In
        As of `Statistics`.
    statistic, done, choice : Out
        As of `VectorUnit`.
    ended : Out(1)
        A step has left all that it leaves.
    """

    def __init__(self, parameters: VectorParameters):
        self.parameters = p = parameters
        super().__init__(
            {
                "energy_ends": In(1),
                "ends": In(1),
                "energy_step": In(LeftLayout),
                "step": In(LeftLayout),
                "energy": In(p.statistic_bits),
                "peak": In(RESIDUAL_BITS),
                "index": In(p.index_bits),
                "statistic": Out(stream.Signature(raw_layout(p.statistic_bits))),
                "done": Out(1),
                "choice": Out(stream.Signature(ChoiceLayout, always_ready=True)),
                "ended": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        early, step, statistic = self.energy_step, self.step, self.statistic.payload
        energies = self.energy_ends & has(early.op, energy=True)
        peaks = self.ends & has(step.op, statistic=Statistic.PEAK)
        peak = Signal(raw_layout(RESIDUAL_BITS))
        m.d.comb += [
            peak.value.eq(self.peak),
            peak.exponent.eq(step.exponent),
            peak.register.eq(Cat(step.result, step.context)),
        ]
        kept, second = self._second(m, peak, has(step.op, statistic=Statistic.BOTH))
        with m.If(energies):
            is_second = has(early.op, statistic=Statistic.BOTH)
            m.d.comb += [
                statistic.value.eq(self.energy),
                statistic.exponent.eq(early.exponent),
                statistic.register.eq(Cat((early.result + is_second)[:4], early.context)),
                statistic.last.eq(~is_second),
            ]
        with m.Else():
            chosen = peak.shape()(Mux(peaks, peak.as_value(), kept.as_value()))
            m.d.comb += [
                statistic.value.eq(chosen.value),
                statistic.exponent.eq(chosen.exponent),
                statistic.register.eq(chosen.register),
                statistic.last.eq(1),
            ]
        m.d.comb += [
            self.statistic.valid.eq(energies | peaks | second),
            self.done.eq(self.ends & ~has(step.op, measured=True)),
            self.choice.valid.eq(self.ends & has(step.op, statistic=Statistic.CHOICE)),
            self.choice.payload.context.eq(step.context),
            self.choice.payload.token.eq(self.index),
        ]
        return m


class PipelinedReport(_Report):
    """A peak behind an energy waits for so many cycles, as statistics are taken at once."""

    def _second(self, m, peak, is_both):
        p, ends = self.parameters, self.ends
        kept = Signal.like(peak, name="kept")
        with m.If(ends):
            m.d.sync += kept.eq(peak)
        second = Signal(p.statistic_cycles - p.earlier)
        m.d.sync += second.eq(Cat(ends & is_both, second))
        m.d.comb += self.ended.eq(ends & ~is_both | second[-1])
        return kept, second[-1]


class CompactReport(_Report):
    """A peak behind an energy stays until that has made way."""

    def _second(self, m, peak, is_both):
        ends, ready, second = self.ends, self.statistic.ready, Signal()
        m.d.sync += second.eq(ends & is_both | second & ~ready)
        m.d.comb += self.ended.eq(Mux(is_both, second & ready, ends))
        return peak, second
