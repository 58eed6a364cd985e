"""What pipelines are made of: registers in a row, and adders of one carry chain."""

from amaranth.hdl import Cat, Const, Module, Signal

KEEP = {"keep": 1}
"""Copies of a register that synthesis must not merge again: each serves its neighbours.

Amaranth gives attributes to the wire, not to its flip-flop, and yosys merges equal flip-flops. The
copies last because a build runs ``KEEP_SCRIPT`` right after it has read the design.
"""

KEEP_SCRIPT = (
    r"select -set copies w:* a:keep=1 %i %ci1:+$dff[Q] t:$dff %i; setattr -set keep 1 @copies; "
    "select -clear"
)


def delay(m: Module, value, cycles: int, *, name: str, reset_less: bool = True, **options):
    """``value`` as it was ``cycles`` cycles ago; undefined after a reset if ``reset_less``.

    A pipeline of many stages names them in an ``IntEnum``, and ``cycles`` is a difference of two.
    ``options`` are of the registers, as ``attrs=KEEP`` is.
    """
    for cycle in range(cycles):
        stage = f"{name}_{cycle + 1}"
        register = Signal.like(value, name=stage, reset_less=reset_less, **options)
        m.d.sync += register.eq(value)
        value = register
    return value


def add(left, right, carry):
    """``left + right + carry`` of signed values, one carry chain wherever it is mapped.

    The carry enters as an addition of its own below the lowest bit, because synthesis makes a third
    operand of ``a + b + c``.
    """
    total = Cat(Const(1, 1), left).as_signed() + Cat(carry, right).as_signed()
    return total[1:].as_signed()


def add_up(m: Module, nodes, carries, add=add):
    """The sum of signed values and of carries, one each, by a tree of adders.

    Level k of it has k bits more than the values, and a register. One carry is left over: the sum
    is what is returned, a value and that carry.
    """

    def register(value):
        held = Signal.like(value, reset_less=True)
        m.d.sync += held.eq(value)
        return held

    nodes, carries = list(nodes), list(carries)
    while len(nodes) > 1:
        level = [
            register(add(left, right, carries.pop()))
            for left, right in zip(nodes[::2], nodes[1::2], strict=False)
        ]
        if len(nodes) % 2:
            level.append(register(nodes[-1]))
        nodes, carries = level, [register(carry) for carry in carries]
    return nodes[0], carries[0]
