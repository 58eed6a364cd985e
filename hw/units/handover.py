"""How the constants of a step get to where its elements are, while the next step comes."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data

from hw.arch.operations import Statistic, VectorOp
from hw.pipeline import delay
from hw.units.commands import has
from hw.units.stages import Products, Stage
from hw.units.vector import VectorParameters


class _Handover:
    """What both forms have.

    Parameters
    ----------
    m : Module
        Which gets the registers.
    parameters : VectorParameters
    constants : step_layout
    marks : ArrayLayout of mark_layout
    scaled, scale : Signal
        EMBED's coefficient, the row's scale, which is there when the step's operands are.
    """

    def __init__(self, m: Module, parameters: VectorParameters, constants, marks, scaled, scale):
        self._m, self._parameters, self._marks = m, parameters, marks
        self._scaled, self._scale = scaled, scale
        self._take(constants)

    def _take(self, constants) -> None:
        """Makes ``late``: the constants of the step whose results come to be written."""
        raise NotImplementedError

    def _known(self, source, name: str, fields, **options):
        """Room for some fields, and what goes there."""
        layout = data.StructLayout({field: source.shape()[field].shape for field in fields})
        return Signal(layout, name=name, **options), Cat(source[field] for field in fields)


class PipelinedHandover(_Handover):
    """A step's first beat takes along, to each place, what is needed there.

    At first from the constants, then from a copy, so that the next step's can come.
    """

    def _take(self, constants):
        self._early = constants
        self.late = Signal.like(constants, name="late", reset_less=True)
        with self._m.If(self._marks[self._parameters.handover - 1].first):
            self._m.d.sync += self.late.eq(constants)

    def at(self, cycle: int, name: str, fields, attrs: dict[str, Any] | None = None):
        """Some fields from the cycle on in which the step's first mark is there."""
        p, m = self._parameters, self._m
        source = self._early if cycle <= p.handover else self.late
        known, values = self._known(source, name, fields, reset_less=True, attrs=attrs)
        with m.If(self._marks[cycle - 1].first):
            m.d.sync += known.eq(values)
        if cycle == p.at(Stage.MAIN):
            with m.If(self._scaled):
                m.d.sync += known.constant.eq(self._scale)
        return known

    def forms(self):
        """Products that lanes form: each in its own multiplier, always."""
        return Const(0, Products)

    def results(self):
        """Marks of the results that the statistics count."""
        return self._marks[self._parameters.at(Stage.RESULT)]


class CompactHandover(_Handover):
    """Of the one step under way: constants hold as long as it does."""

    def _take(self, constants):
        m = self._m
        self.late = Signal.like(constants, name="held")
        constant = Signal.like(constants.constant, name="constant", reset_less=True)
        with m.If(~constants.embed):
            m.d.sync += constant.eq(constants.constant)
        with m.If(self._scaled):
            m.d.sync += constant.eq(self._scale)
        m.d.comb += [self.late.eq(constants), self.late.constant.eq(constant)]
        # The longest ways begin behind these, which a unit's first product comes after.
        for name in ("place", "code_place"):
            m.d.comb += self.late[name].eq(delay(m, constants[name], 1, name=name))

    def at(self, cycle: int, name: str, fields, attrs: dict[str, Any] | None = None):
        known, values = self._known(self.late, name, fields)
        self._m.d.comb += known.eq(values)
        return known

    def forms(self):
        """A product stays in a lane as long as the result needs it."""
        p, step, marks = self._parameters, self.late, self._marks
        gated = has(step.op, gate=True) | has(step.op, energy=True) | (step.op == VectorOp.QUANT)
        forms = {
            Products.MAIN: marks[p.at(Stage.PRODUCT) - 1].beat,
            Products.GATED: marks[p.at(Stage.GATED) - 1].beat & gated,
            Products.LAST: marks[p.at(Stage.LAST) - 1].beat & step.last,
        }
        return Cat(forms[each] for each in Products)

    def results(self):
        """MEASURE needs the square behind its product as well, and counts this one before that."""
        p, marks = self._parameters, self._marks
        is_both = has(self.late.op, statistic=Statistic.BOTH)
        early, late = (marks[p.at(stage)].as_value() for stage in (Stage.PRODUCT, Stage.RESULT))
        return Mux(is_both, early, late)
