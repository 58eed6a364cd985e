"""What lanes, addresses and statistics need to know of a step, from its command."""

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.arch.arithmetic import (
    BLOCK_SHIFTS,
    CODE_PLACE,
    OPERAND_BITS,
    PRODUCT_PLACE,
    block_index,
)
from hw.arch.geometry import CONTEXT_BITS
from hw.arch.operations import Statistic, Table, VectorOp
from hw.arch.program import Space
from hw.units.commands import REGISTER_BITS, VectorCommand, has
from hw.units.stages import PLACES, Factor, LaneControl
from hw.units.vector import VectorParameters
from weights.fixed import EXPONENT_BITS, GAIN_SHIFT, NORM_SHIFT, PLAIN_SHIFT

LAST_BLOCK = len(BLOCK_SHIFTS) - 1


def step_layout(parameters: VectorParameters) -> data.StructLayout:
    """``LaneControl``, and what is behind the lanes."""
    return data.StructLayout(
        LaneControl.members
        | {
            "op": VectorCommand.members["op"],
            "present": exact_log2(parameters.elements),  # elements of the last beat, less one
            "dest": parameters.dest_bits,
            "exponent": signed(EXPONENT_BITS),  # of the peak
            "energy_exponent": signed(EXPONENT_BITS),
            "result": REGISTER_BITS,
            "context": CONTEXT_BITS,
        }
    )


class StepConstants(wiring.Component):
    """Up to three cycles after a command, in a compact unit at once.

    Members
    -------
    step : In(VectorCommand)
    constants : Out(step_layout)
    """

    def __init__(self, parameters: VectorParameters):
        self.parameters = parameters
        super().__init__({"step": In(VectorCommand), "constants": Out(step_layout(parameters))})

    def elaborate(self, platform):
        m = Module()
        p, step = self.parameters, self.step
        known = Signal(self.constants.shape(), reset_less=True)
        m.d.comb += self.constants.eq(known)
        op = step.op
        table, is_row = has(op, table=Table.COEFFICIENTS), has(op, table=Table.ROW)
        is_quant, is_choice = op == VectorOp.QUANT, has(op, statistic=Statistic.CHOICE)
        squared_shift = Mux(op == VectorOp.NORM, NORM_SHIFT, PLAIN_SHIFT)
        is_last = is_row | (step.space == Space.STATES)
        is_codes, beats_per_row = has(op, writes="activations"), exact_log2(p.columns // p.elements)
        scaled, greedy = Signal(reset_less=True), Signal(reset_less=True)
        block_shift = Array(BLOCK_SHIFTS)[known.block]
        # Amounts of shifts, each 2 more than it is beyond the first place.
        by_scale, by_table, offset = (
            Signal(signed(EXPONENT_BITS + 2), name=name, reset_less=True)
            for name in ("by_scale", "by_table", "offset")
        )
        # QUANT's scale is for its second product, known a cycle later, as the block is.
        inverse = (2 - CODE_PLACE - GAIN_SHIFT) - block_shift
        m.d["comb" if p.compact else "sync"] += [
            scaled.eq(has(op, scaled=True)),
            greedy.eq(is_choice & step.greedy),
            by_table.eq(step.shift + (2 - PRODUCT_PLACE)),
            by_scale.eq(Mux(is_quant, inverse, step.shift + (2 - PRODUCT_PLACE)) - step.b.exponent),
            offset.eq(Mux(scaled, by_scale, by_table)),
            known.embed.eq(is_row),
            known.space.eq(step.space),
            known.tabled.eq(table),
            known.constant.eq(
                Mux(greedy, 1 << PRODUCT_PLACE, _coefficient(step.b.mantissa, by_scale))
            ),
            known.block.eq(Mux(is_last, LAST_BLOCK, block_index(step.a.exponent))),
            known.place.eq(Mux(greedy, 0, _place(offset))),
            known.rounded.eq(~table),
            known.squares.eq(op == VectorOp.MEASURE),
            known.draw.eq(is_choice & ~step.greedy),
            known.update.eq(op == VectorOp.UPDATE),
            known.factor.eq(
                Mux(
                    has(op, energy=True),
                    Factor.ITSELF,
                    Mux(is_quant, Factor.CONSTANT, Factor.GATE),
                )
            ),
            known.code_place.eq(_place(by_scale)),
            known.first.eq(step.first),
            known.narrow.eq(step.address[2]),
            known.plain.eq(op == VectorOp.SILU),
            known.add_vector.eq(op == VectorOp.RESIDUAL),
            known.add_noise.eq(is_choice & ~step.greedy),
            known.last.eq(has(op, gate=True)),
            known.op.eq(op),
            known.present.eq(step.length - 1),
            known.dest.eq(Mux(is_codes, step.dest << beats_per_row, step.dest)),
            known.exponent.eq(Mux(table, step.shift + block_shift, 0)),
            known.energy_exponent.eq((squared_shift + block_shift) << 1),
            known.result.eq(step.result),
            known.context.eq(step.context),
        ]
        return m


def _place(offset):
    """Which of four places an amount has, of which ``offset`` is 2 more than beyond the first."""
    steps = offset >> 2
    return Mux(offset < 0, 0, Mux(steps > PLACES - 1, PLACES - 1, steps))[:2]


def _coefficient(mantissa, offset):
    """A mantissa, moved by what a shift by that place is more than one by the amount."""
    moved = ((mantissa << 2) >> Mux(offset < 0, 0, offset[:2]))[: OPERAND_BITS - 1]
    beyond = (offset >> 2) - (PLACES - 1)  # whole places
    far = [moved >> 4 * step for step in range(1, 5)]
    return Mux(beyond > len(far), 0, Mux(beyond > 0, Array(far)[(beyond - 1)[:2]], moved))
