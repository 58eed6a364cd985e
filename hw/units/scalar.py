"""Arithmetic of scales: one operation at a time, a few bits per cycle, without a multiplier."""

from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.arch.program import ScalarOp
from hw.pipeline import add
from hw.units.commands import ScalarCommand, ScalarResult
from weights.fixed import EXPONENT_BITS, MANTISSA_BITS, Scale

DIGITS = MANTISSA_BITS + 1
"""Digits of every result before it is normalised by one bit, if at all."""


@dataclass(frozen=True, kw_only=True)
class ScalarParameters:
    """Speed of a scalar unit.

    Parameters
    ----------
    digits_per_cycle : int
        1, 2, 4, 8 or 16 digits of the result, each an adder deep.
    compact : bool
        Whether operands are prepared as they come, without a cycle in which registers hold them.
    """

    digits_per_cycle: int = 1
    compact: bool = False

    def __post_init__(self):
        if self.digits_per_cycle not in (1, 2, 4, 8, 16):
            raise ValueError(
                f"digits_per_cycle must be 1, 2, 4, 8 or 16, not {self.digits_per_cycle!r}"
            )

    def cycles(self, op: ScalarOp) -> int:
        """Cycles from the acceptance of a command to the first one in which ``busy`` is low.

        The same for every operation except MOVE, with a result that is taken at once.
        """
        digits = 1 if op == ScalarOp.MOVE else DIGITS // self.digits_per_cycle
        return 1 + (not self.compact) + digits + 1

    def compute(self, op: ScalarOp, a: Scale, b: Scale) -> Scale:
        match op:
            case ScalarOp.MUL:
                return a * b
            case ScalarOp.DIV:
                return a / b
            case ScalarOp.ADD:
                return a + b
            case ScalarOp.SQRT:
                return b.sqrt()
            case ScalarOp.MOVE:
                return b
        raise ValueError(f"op must be a ScalarOp, not {op!r}")

    def create(self) -> "ScalarUnit":
        return ScalarUnit(self)


@dataclass(frozen=True, kw_only=True)
class _Operation:
    """Which operation it is; ADD and MOVE align."""

    multiply: Value
    divide: Value
    root: Value
    move: Value
    align: Value

    @classmethod
    def of(cls, op) -> "_Operation":
        multiply, divide, root = (op == o for o in (ScalarOp.MUL, ScalarOp.DIV, ScalarOp.SQRT))
        return cls(
            multiply=multiply,
            divide=divide,
            root=root,
            move=op == ScalarOp.MOVE,
            align=~(multiply | divide | root),
        )


class ScalarUnit(wiring.Component):
    """``result = a op b`` on scales, to the bit as ``weights.fixed.Scale``.

    One adder forms a digit of the result per step: products by adding and shifting, quotients and
    square roots by trial subtraction. Sums align their operands in the same number of steps. Each
    operation ends with 16 digits of which the first may be zero, normalised on the way out.
    Exponents wrap at 10 bits.

    A command takes ``parameters.cycles(op)`` cycles, and the next one is accepted after that.

    Members
    -------
    command : ``In(stream.Signature(ScalarCommand))``
    result : ``Out(stream.Signature(ScalarResult))``
    busy : ``Out(1)``
        From the cycle after a command's acceptance until its result was transferred.
    """

    command: In(stream.Signature(ScalarCommand))
    result: Out(stream.Signature(ScalarResult))
    busy: Out(1)

    def __init__(self, parameters: ScalarParameters):
        self.parameters = parameters
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        command = self.command.payload
        held = Signal(ScalarCommand, reset_less=True)
        at_work = _Operation.of(held.op)
        exponent = Signal(signed(EXPONENT_BITS), reset_less=True)
        zero = Signal(reset_less=True)
        distance = Signal(range(2 * DIGITS), reset_less=True)  # that the smaller addend must move
        # left: partial product, partial remainder, or the larger addend.
        # right: factor, divisor, or radicand.
        # digits: the other factor and then the product's lower half; the quotient, at first behind
        # the dividend's last bit; the root; or the smaller addend.
        left = Signal(DIGITS + 1, reset_less=True)
        right = Signal(DIGITS + 2, reset_less=True)
        digits = Signal(DIGITS, reset_less=True)

        # One digit after the other.
        step = left, right, digits, distance
        for _ in range(self.parameters.digits_per_cycle):
            step = self._step(m, step, at_work)

        # Preparation, of operands that have come or are held.
        given = command if self.parameters.compact else held
        a, b, coming = given.a, given.b, _Operation.of(given.op)
        multiply, divide, root, move = coming.multiply, coming.divide, coming.root, coming.move
        # Normalised mantissas: their top bit tells zero from the rest.
        a_given = a.mantissa[-1] & ~move
        b_given = b.mantissa[-1]
        added = Signal(signed(EXPONENT_BITS + 1))
        swap = Signal()
        gap = Signal(EXPONENT_BITS)
        m.d.comb += [
            added.eq(
                add(
                    a.exponent,
                    b.exponent.as_unsigned() ^ (~multiply).replicate(EXPONENT_BITS),
                    ~multiply,
                )
            ),
            swap.eq(~a_given | b_given & added[-1]),
            # A negative difference -n becomes n - 1; the smaller addend makes one step at once.
            gap.eq(added ^ added[-1].replicate(EXPONENT_BITS)),
        ]
        smaller = Mux(swap, a.mantissa[1:] & (~move).replicate(MANTISSA_BITS - 1), b.mantissa)

        # Result: 16 digits, of which a leading one moves them down.
        digit_sum = left[:MANTISSA_BITS] + digits[:MANTISSA_BITS]
        product = Cat(digits[-2:], left[: DIGITS - 2])
        value = Signal(DIGITS)
        offset = Signal(signed(5))
        m.d.comb += value.eq(Mux(at_work.align, digit_sum, Mux(at_work.multiply, product, digits)))
        with m.If(at_work.multiply):
            m.d.comb += offset.eq(MANTISSA_BITS - 1)
        with m.Elif(at_work.divide):
            m.d.comb += offset.eq(-MANTISSA_BITS)
        with m.Elif(at_work.root):
            m.d.comb += offset.eq(-(MANTISSA_BITS - 1) // 2)
        result = self.result.payload
        m.d.comb += result.register.eq(held.result)
        with m.If(~zero):
            m.d.comb += [
                result.value.mantissa.eq(Mux(value[-1], value[1:], value)),
                result.value.exponent.eq(add(exponent, offset, value[-1])),
            ]

        count = Signal(range(DIGITS // self.parameters.digits_per_cycle))

        def prepare():
            m.d.sync += [
                count.eq(Mux(move, 0, DIGITS // self.parameters.digits_per_cycle - 1)),
                distance.eq(Mux(gap >= 2 * DIGITS, 2 * DIGITS - 1, gap)),
                left.eq(
                    Mux(
                        divide,
                        a.mantissa[1:],
                        Mux(swap, b.mantissa, a.mantissa) & coming.align.replicate(MANTISSA_BITS),
                    )
                ),
                right.eq(Mux(root & b.exponent[0], b.mantissa << 1, b.mantissa)),
                exponent.eq(added),
                zero.eq(~a_given | ~b_given),
            ]
            with m.If(multiply):
                m.d.sync += digits.eq(a.mantissa)
            with m.Elif(divide):
                m.d.sync += digits.eq(a.mantissa[0] << (DIGITS - 1))
            with m.Elif(root):
                m.d.sync += [
                    digits.eq(0),
                    exponent.eq(b.exponent >> 1),
                    zero.eq(~b_given),
                ]
            with m.Else():
                m.d.sync += [
                    digits.eq(smaller),
                    exponent.eq(Mux(swap, b.exponent, a.exponent)),
                    zero.eq(~a_given & ~b_given),
                ]
            m.next = "digits"

        with m.FSM():
            with m.State("idle"):
                m.d.comb += self.command.ready.eq(1)
                with m.If(self.command.valid):
                    m.d.sync += held.eq(command)
                    if self.parameters.compact:
                        prepare()
                    else:
                        m.next = "prepare"
            if not self.parameters.compact:
                with m.State("prepare"):
                    prepare()
            with m.State("digits"):
                m.d.sync += Cat(left, right, digits, distance).eq(Cat(*step))
                m.d.sync += count.eq(count - 1)
                with m.If(count == 0):
                    m.next = "result"
            with m.State("result"):
                m.d.comb += self.result.valid.eq(1)
                with m.If(self.result.ready):
                    m.next = "idle"
        m.d.comb += self.busy.eq(~self.command.ready)
        return m

    @staticmethod
    def _step(m, state, operation):
        """Logic for one digit; returns the state after it."""
        left, right, digits, distance = state
        multiply, divide, root = operation.multiply, operation.divide, operation.root
        width = DIGITS + 3
        minuend = Signal(width)
        operand = Signal(width)
        total = Signal(width)
        with m.If(root):
            m.d.comb += minuend.eq(Cat(right[-2:], left))
            m.d.comb += operand.eq(~Cat(Const(1, 2), digits, Const(0, 1)))
        with m.Elif(divide):
            m.d.comb += minuend.eq(Cat(digits[-1], left))
            m.d.comb += operand.eq(~Cat(right, Const(0, 1)))
        with m.Else():
            m.d.comb += minuend.eq(left)
            m.d.comb += operand.eq(Mux(digits[0], right, 0))
        m.d.comb += total.eq(add(minuend, operand, ~multiply))
        fits = ~total[-1]

        next_left = Signal(len(left))
        next_right = Signal(len(right))
        next_digits = Signal(len(digits))
        next_distance = Signal(len(distance))
        m.d.comb += [
            next_left.eq(left),
            next_right.eq(Mux(root, right << 2, right)),
            next_digits.eq(digits),
            next_distance.eq(distance),
        ]
        with m.If(multiply):
            m.d.comb += Cat(next_digits, next_left).eq(Cat(digits[1:], total))
        with m.Elif(divide | root):
            m.d.comb += next_left.eq(Mux(fits, total, minuend))
            m.d.comb += next_digits.eq(Cat(fits, digits))
        with m.Elif(distance != 0):
            m.d.comb += next_digits.eq(digits >> 1)
            m.d.comb += next_distance.eq(distance - 1)
        return next_left, next_right, next_digits, next_distance
