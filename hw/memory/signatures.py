"""Ports of the memories, and their latencies.

Units see one signature, ``ReadSignature``: an address, and its data some cycles later, usually
``READ_LATENCY``: a register precedes the block RAMs, which lie all over the chip, and one follows
them, because their own clock-to-output time is long.

No unit reads a word in the cycle in which it is written: what it would get is not defined.
"""

from amaranth.hdl import Shape, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.arch.arithmetic import SUM_BITS
from hw.arch.geometry import CONTEXT_BITS
from hw.arch.memories import HALF_WORD_BITS

READ_LATENCY = 3
"""Cycles from a unit's address to its data: a register, the block RAM, and a register."""

PROGRAM_LATENCY = 2
"""The same of the program, whose few block RAMs need no register before them: it would cost a cycle
at every step."""


class ReadSignature(wiring.Signature):
    """A reader's side of a memory with a fixed latency and no back-pressure.

    Members
    -------
    address : ``Out(range(depth))``
    data : ``In(shape)``
        What lay at ``address`` the memory's read latency earlier.
    """

    def __init__(self, depth: int, shape):
        Shape.cast(shape)
        super().__init__({"address": Out(range(depth)), "data": In(shape)})


class RowStreamSignature(wiring.Signature):
    """A reader's side of a store that is read from front to back, and that may be late.

    After a ``seek`` the rows from ``first`` on come one behind the other until the next ``seek``,
    however many the reader takes; it knows no end, because what is read next lies there. A row
    passes in a cycle in which ``valid`` and ``ready`` are high, and its data are there the store's
    latency later: a store that is read through registers knows that much before that it has a row,
    and its reader needs the time to fetch what it combines with the row.

    Members
    -------
    seek : ``Out(1)``
        Taken at once, even where it comes before the store has found the row of the last one.
    first : ``Out(range(depth))``
    ready : ``Out(1)``
        The reader takes a row. Never in the cycle of a ``seek``.
    valid : ``In(1)``
        There is one. From the cycle after a ``seek`` on, it is one of the new rows.
    data : ``In(width)``
    """

    def __init__(self, depth: int, width: int):
        super().__init__(
            {
                "seek": Out(1),
                "first": Out(range(depth)),
                "ready": Out(1),
                "valid": In(1),
                "data": In(width),
            }
        )


class FetchSignature(wiring.Signature):
    """A reader's side of a memory beside the chip, of which it needs a few words now and then.

    Members
    -------
    ask : ``Out(stream.Signature({"address", "words"}))``
        For ``words`` words, one at least, from ``address`` on. Taken when those that were asked for
        before are all there.
    valid : ``In(1)``
        There is one, in order; the reader takes it.
    data : ``In(shape)``
    """

    def __init__(self, depth: int, shape):
        count = data.StructLayout({"address": range(depth), "words": range(depth + 1)})
        super().__init__({"ask": Out(stream.Signature(count)), "valid": In(1), "data": In(shape)})


class WriteSignature(wiring.Signature):
    """A writer's side of a beat-wide memory.

    Members
    -------
    enable : ``Out(enables)``
        One bit, or one bit per element. The memory holds the data in the next cycle.
    address : ``Out(range(depth))``
    data : ``Out(ArrayLayout(shape, elements))``
    """

    def __init__(self, depth: int, shape, elements: int, enables: int = 1):
        super().__init__(
            {
                "enable": Out(enables),
                "address": Out(range(depth)),
                "data": Out(data.ArrayLayout(shape, elements)),
            }
        )


class SumSignature(wiring.Signature):
    """The engine's side of the two banks that take its sums.

    Members
    -------
    enable : ``Out(1)``
    bank : ``Out(1)``
        0: sums, 1: multiplicands.
    address : ``Out(range(depth))``
        Beat of ``elements`` sums, in the part of the context.
    context : ``Out(CONTEXT_BITS)``
    data : ``Out(ArrayLayout(signed(24), elements))``
    """

    def __init__(self, depth: int, elements: int):
        super().__init__(
            {
                "enable": Out(1),
                "bank": Out(1),
                "address": Out(range(depth)),
                "context": Out(CONTEXT_BITS),
                "data": Out(data.ArrayLayout(signed(SUM_BITS), elements)),
            }
        )


class HostSignature(wiring.Signature):
    """The host's side of a store, in half-words, one behind the other.

    Members
    -------
    start : ``Out(1)``
        Accesses follow, from ``address`` on, all of them reads or all of them writes. Only where
        ``ready`` is high and the ones before are over, and while no unit reads the store.
    address : ``Out(range(size))``
        Of a start, and of each access, as it counts up from that.
    write, read : ``Out(1)``
        An access; only where ``ready`` is high.
    last : ``Out(1)``
        It is the last one since the start. What was written is in the store when ``ready`` is high
        again.
    write_data : ``Out(16)``
    ready : ``In(1)``
        Stays until a start or an access. If it falls after a write that is not the last one, the
        next may be on its way, and is taken.
    read_data : ``In(16)``
        While ``read_valid`` is high.
    read_valid : ``In(1)``
        Once for every read, in order, the store's number of cycles after it.
    """

    def __init__(self, size: int):
        super().__init__(
            {
                "start": Out(1),
                "address": Out(range(size)),
                "write": Out(1),
                "read": Out(1),
                "last": Out(1),
                "write_data": Out(HALF_WORD_BITS),
                "ready": In(1),
                "read_data": In(HALF_WORD_BITS),
                "read_valid": In(1),
            }
        )


class BusSignature(wiring.Signature):
    """The link's access to the memories of the core, in half-words.

    Members
    -------
    space : Out(4), a ``hw.arch.protocol.MemorySpace``
    address : Out(32), within the space; it counts up from that of the start
    start, write, read, last, write_data, ready : as of `HostSignature`; at most one access in two
        cycles, ``ready`` means nothing in the cycle after a read, and a poll reads tokens without a
        start
    read_data : In(16)
    read_valid : In(1), once for every read, in order, and no two without a cycle between them
    """

    def __init__(self):
        super().__init__(
            {
                "space": Out(4),
                "address": Out(32),
                "write_data": Out(16),
                "start": Out(1),
                "write": Out(1),
                "read": Out(1),
                "last": Out(1),
                "ready": In(1),
                "read_data": In(16),
                "read_valid": In(1),
            }
        )
