"""Bytes of five trits on their way from a memory to the lanes."""

from amaranth.hdl import Cat, Module, Signal

from hw.arch.packing import FEW, halfway, trits

DECODE_CYCLES = 1


def decoding(trits_per_byte: int) -> int:
    """Cycles that `decode` takes."""
    return 0 if trits_per_byte == FEW else DECODE_CYCLES


def decode(m: Module, packed, trits_per_byte: int, *, name: str):
    """Lanes of whole bytes, two bits each, `decoding` cycles later.

    With five trits in a byte that is ten LUTs for each byte, and a register of ten bits.
    """
    if trits_per_byte == FEW:
        return packed
    lanes = []
    for number in range(len(packed) // 8):
        said = Cat(halfway(packed.word_select(number, 8)))
        held = Signal(len(said), name=f"{name}_{number}", reset_less=True)
        m.d.sync += held.eq(said)
        lanes += [Cat(*trit) for trit in trits(held)]
    return Cat(lanes)
