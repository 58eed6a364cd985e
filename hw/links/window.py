"""What the host sees of the memories, half-word by half-word."""

from amaranth.hdl import Cat, Module, Mux, Signal, ValueLike
from amaranth.utils import bits_for, exact_log2

from hw.arch.memories import HALF_WORD_BITS, Memory
from hw.arch.protocol import MemorySpace
from hw.memory.signatures import READ_LATENCY, BusSignature
from hw.pipeline import delay


class Window:
    """The host's access to everything on the bus, a cycle after the link's, or in the same.

    What the link finds in one cycle goes all over a large chip in the next. Stores take it as it
    is. Everything else takes one read at a time, whose address stays until its word is there.

    Parameters
    ----------
    bus
        Of a `BusSignature`.
    memories : mapping of MemorySpace to Memory
        Of `hw.arch.memories.spaces`.
    hosts : mapping of MemorySpace to an interface of ``HostSignature``
        Of the spaces that are stores of whole words.
    direct : bool
        Whether nothing of the bus waits in a register.

    Attributes
    ----------
    request
        The bus as it was a cycle ago, or as it is.
    """

    def __init__(self, bus, memories: dict[MemorySpace, Memory], hosts, *, direct: bool = False):
        self.bus = self.request = bus
        self.direct = direct
        self.memories = memories
        self.hosts = hosts
        self._address = Signal.like(bus.address, name="host_address", reset_less=True)

    def connect(self, m: Module):
        """Connect the stores, and bring the half-word's address to all others."""
        if not self.direct:
            self.request = BusSignature().create(path=("request",))
            for name in ("space", "address", "write_data", "start", "write", "read", "last"):
                m.d.sync += getattr(self.request, name).eq(getattr(self.bus, name))
        bus = self.request
        for space, host in self.hosts.items():
            here = bus.space == space
            m.d.comb += [
                host.address.eq(bus.address),
                host.write_data.eq(bus.write_data),
                host.start.eq(bus.start & here),
                host.write.eq(bus.write & here),
                host.read.eq(bus.read & here),
                host.last.eq(bus.last),
            ]
        with m.If(bus.read):
            m.d.sync += self._address.eq(bus.address)

    def address(self, space: MemorySpace):
        """Which word of a memory that is no store is read."""
        return self._address[exact_log2(self.memories[space].half_words) :]

    def writes(self, m: Module, space: MemorySpace):
        """Beat, enables and item of the host's writes to a bank whose items are two half-words.

        An item's lower half waits for the upper one, with which the item is written.
        """
        memory, request = self.memories[space], self.request
        low = Signal(HALF_WORD_BITS, name="host_low", reset_less=True)
        with m.If(request.write):
            m.d.sync += low.eq(request.write_data)
        lanes = exact_log2(memory.items)
        upper = request.write & (request.space == space) & request.address[0]
        item = Cat(low, request.write_data)[: memory.item]
        return request.address[1 + lanes :], upper << request.address[1 : 1 + lanes], item

    def show(self, m: Module, *, sums, states, register, counter, totals, token):
        """Answer reads with what is at the address of each memory that the host sees.

        Parameters
        ----------
        sums, states
            A beat of them, ``READ_LATENCY`` after the address.
        register, counter, token
            Not later than that.
        totals
            All of them.
        """
        bus, request, half = self.bus, self.request, self._address
        words: dict[tuple[MemorySpace, ...], ValueLike] = {(MemorySpace.TOKENS,): token}
        banks = {MemorySpace.SUMS: sums, MemorySpace.STATES: states}
        if shown := tuple(space for space in banks if space in self.memories):
            item = Signal(2 * HALF_WORD_BITS)
            lanes = exact_log2(self.memories[shown[0]].items)
            lane = half[1 : 1 + lanes] if lanes else 0
            first, last = banks[shown[0]][lane], banks[shown[-1]][lane]
            m.d.comb += item.eq(Mux(request.space == shown[-1], last, first))
            words[shown] = item.word_select(half[0], HALF_WORD_BITS)
        if MemorySpace.REGISTERS in self.memories:
            exponent = Signal(HALF_WORD_BITS)
            m.d.comb += exponent.eq(register.exponent)
            words[(MemorySpace.REGISTERS,)] = Mux(half[0], exponent, register.mantissa)
        if MemorySpace.COUNTERS in self.memories:
            bits = bits_for(self.memories[MemorySpace.TOTALS].half_words - 1)
            words[(MemorySpace.COUNTERS,)] = counter.word_select(half[0], HALF_WORD_BITS)
            words[(MemorySpace.TOTALS,)] = totals.word_select(half[:bits], HALF_WORD_BITS)
        # A half-word of each in one cycle, that of one of them in the next: some come right out of
        # block RAMs, whose own time is long.
        registers = 0 if self.direct else 1
        halves = {
            keys: delay(m, value, registers, name=f"host_{keys[0].name.lower()}")
            for keys, value in words.items()
        }
        chosen = Signal(HALF_WORD_BITS)
        with m.Switch(request.space):
            for keys, value in halves.items():
                with m.Case(*keys):
                    m.d.comb += chosen.eq(value)
        word = delay(m, chosen, registers, name="word")

        # A read's cycles: its address is there, its word, a half of that, and its answer.
        reading = Signal(READ_LATENCY + 2 * registers)
        answered = Signal()
        # A store that has yet to see a start, or the last one of what it is to write, is not ready.
        coming = 0 if self.direct else request.start | (request.write & request.last)
        own, ready, valid = request.read, ~coming & ~reading.any(), answered
        for space, host in self.hosts.items():
            own &= request.space != space
            ready &= host.ready
            valid |= host.read_valid
        m.d.sync += [reading.eq(reading << 1 | own), answered.eq(reading[-1])]
        m.d.comb += [bus.ready.eq(ready), bus.read_valid.eq(valid), bus.read_data.eq(word)]
        with m.Switch(request.space):
            for key, host in self.hosts.items():
                with m.Case(key):
                    m.d.comb += bus.read_data.eq(host.read_data)
