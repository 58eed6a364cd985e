"""What the host sees of the memories, half-word by half-word."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.utils import bits_for, exact_log2

from hw.arch.memories import HALF_WORD_BITS, Memory
from hw.arch.protocol import MemorySpace
from hw.memory.signatures import ADDRESS_STAGES, HOST_READ_LATENCY, READ_LATENCY, BusSignature
from hw.pipeline import delay


class Window:
    """The host's access to everything on the bus, a cycle after the link's.

    What the link finds in one cycle goes all over the chip in the next. Stores take it as it is;
    everything else is read beside them with the same latency: an address ``ADDRESS_STAGES`` later,
    its word ``READ_LATENCY`` later, its half next.

    Parameters
    ----------
    bus
        Of a `BusSignature`.
    memories : mapping of MemorySpace to Memory
        Of `hw.arch.memories.spaces`.
    stores : mapping of MemorySpace to BlockStore
        Spaces that are stores of whole words with a host side of their own.

    Attributes
    ----------
    request
        The bus as it was a cycle ago.
    """

    def __init__(self, bus, memories: dict[MemorySpace, Memory], stores):
        self.bus = bus
        self.memories = memories
        self.stores = stores

    def connect(self, m: Module):
        """Connect the stores, and bring the half-word's address to all others."""
        self.request = bus = BusSignature().create(path=("request",))
        for name in ("space", "address", "write_data", "write", "read"):
            m.d.sync += getattr(bus, name).eq(getattr(self.bus, name))
        for space, store in self.stores.items():
            here = bus.space == space
            m.d.comb += [
                store.host.address.eq(bus.address),
                store.host.write_data.eq(bus.write_data),
                store.host.write.eq(bus.write & here),
                store.host.read.eq(bus.read & here),
            ]
        self._address = delay(m, bus.address, ADDRESS_STAGES, name="host_address")

    def address(self, space: MemorySpace):
        """Which word of a memory that is no store is read."""
        return self._address[exact_log2(self.memories[space].half_words) :]

    def show(self, m: Module, *, sums, register, counter, totals, token):
        """Answer reads with what was at the address of each memory.

        Parameters
        ----------
        sums
            A beat of them, ``READ_LATENCY`` after the address.
        register, counter, token
            One cycle after it.
        totals
            All of them.
        """
        bus = self.bus
        half = delay(m, self._address, READ_LATENCY, name="host_half")
        register, counter, token = (
            delay(m, value, READ_LATENCY - 1, name=f"host_{name}")
            for name, value in (("register", register), ("counter", counter), ("token", token))
        )
        beat = self.memories[MemorySpace.SUMS]
        lane = exact_log2(beat.items)
        sum_ = Signal(beat.shown)
        m.d.comb += sum_.eq(sums[half[1 : 1 + lane] if lane else 0])
        exponent = Signal(HALF_WORD_BITS)
        m.d.comb += exponent.eq(register.exponent)
        last = bits_for(self.memories[MemorySpace.TOTALS].half_words - 1)
        words = {
            MemorySpace.TOKENS: token,
            MemorySpace.SUMS: sum_.word_select(half[0], HALF_WORD_BITS),
            MemorySpace.REGISTERS: Mux(half[0], exponent, register.mantissa),
            MemorySpace.COUNTERS: counter.word_select(half[0], HALF_WORD_BITS),
            MemorySpace.TOTALS: totals.word_select(half[:last], HALF_WORD_BITS),
        }
        space = delay(m, self.request.space, HOST_READ_LATENCY - 1, name="host_space")
        word = Signal(HALF_WORD_BITS)
        with m.Switch(space):
            for key, value in words.items():
                with m.Case(key):
                    m.d.sync += word.eq(value)
        with m.Switch(delay(m, space, 1, name="host_space_out")):
            for key, store in self.stores.items():
                with m.Case(key):
                    m.d.comb += bus.read_data.eq(store.host.read_data)
            with m.Default():
                m.d.comb += bus.read_data.eq(word)
        m.d.comb += bus.read_valid.eq(
            delay(m, self.request.read, HOST_READ_LATENCY, name="host_read", reset_less=False)
        )
