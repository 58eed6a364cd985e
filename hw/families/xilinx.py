"""Xilinx 7 series: yosys makes the netlist, and a script for Vivado places, routes and packs it.

No router of these parts is on PyPI. What yosys leaves, and counts, is what Vivado gets: an EDIF
netlist of the chip's own cells, which `sim.netlist` compares with the golden model. So there is no
second synthesis whose result nobody here has seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, Const, Instance, Module, Signal
from amaranth.lib.cdc import FFSynchronizer

from hw.families.clocks import add_domains, add_oscillator, add_start, refusal, solved
from hw.families.family import YOSYS, Family, Memories, Project

OUTPUTS = 6
"""Clocks of a PLL."""


@dataclass(frozen=True, kw_only=True)
class Pll:
    """Dividers of a ``PLLE2``: ``output = input / input_divisor * feedback / divisor``."""

    input_divisor: int
    feedback: int
    divisors: tuple[int, ...]

    @classmethod
    def solve(cls, input_hz: int, *outputs_hz: int) -> "Pll":
        """Dividers that make all outputs exactly, with the oscillator closest to 1200 MHz.

        Bounds are those of the slowest speed grade, by Xilinx's DS181. Raises ValueError for what
        cannot be made.
        """
        if len(outputs_hz) > OUTPUTS:
            raise ValueError(f"a PLL has outputs for {OUTPUTS} clocks, not {len(outputs_hz)}")
        found = []
        for input_divisor in range(1, 57):
            if not 19e6 <= input_hz / input_divisor <= 450e6:
                continue
            for feedback in range(2, 65):
                oscillator, rest = divmod(input_hz * feedback, input_divisor)
                divisors = tuple(oscillator // hz for hz in outputs_hz)
                exact = not rest and not any(oscillator % hz for hz in outputs_hz)
                if exact and 800e6 <= oscillator <= 1600e6 and max(divisors) <= 128:
                    distance = abs(oscillator - 1_200_000_000)
                    found.append((input_divisor, distance, feedback, divisors))
        if not found:
            raise refusal(input_hz, *outputs_hz)
        input_divisor, _, feedback, divisors = min(found)
        return cls(input_divisor=input_divisor, feedback=feedback, divisors=divisors)

    def create(
        self,
        input_hz: float,
        reference: Signal,
        outputs: Sequence[Signal],
        locked: Signal,
        degrees: Sequence[int],
    ) -> Instance:
        """The PLL between ``reference`` and ``outputs``, each late by so many degrees of its own.

        Raises ValueError for a phase that is no whole number of eighths of the oscillator's cycle.
        """
        if any(d * n % 45 for d, n in zip(degrees, self.divisors, strict=True)):
            raise ValueError(
                f"phases must be whole eighths of the cycles that {self.divisors} of make one of "
                f"each clock, not {degrees}"
            )
        feedback = Signal()
        ports: dict[str, Any] = {}
        for n, (output, divisor, late) in enumerate(
            zip(outputs, self.divisors, degrees, strict=True)
        ):
            ports[f"p_CLKOUT{n}_DIVIDE"] = divisor
            ports[f"p_CLKOUT{n}_PHASE"] = float(late)
            ports[f"o_CLKOUT{n}"] = output
        return Instance(
            "PLLE2_BASE",
            p_CLKIN1_PERIOD=1e9 / input_hz,
            p_DIVCLK_DIVIDE=self.input_divisor,
            p_CLKFBOUT_MULT=self.feedback,
            i_CLKIN1=reference,
            i_CLKFBIN=feedback,
            i_RST=Const(0),
            i_PWRDWN=Const(0),
            o_CLKFBOUT=feedback,
            o_LOCKED=locked,
            **ports,
        )


def _gate(clock: Signal, gated: Signal, enable: Signal) -> Module:
    """``gated`` is ``clock`` from ``enable`` on, which comes with the board's own clock.

    What opens the gate is timed: it comes with the clock that it lets through.
    """
    m = Module()
    m.domains.free = ClockDomain("free", reset_less=True, local=True)
    m.submodules.free = Instance("BUFG", i_I=clock, o_O=ClockSignal("free"))
    opened = Signal()
    m.submodules.opened = FFSynchronizer(enable, opened, o_domain="free")
    # A BUFGCE, as the part has it.
    m.submodules.gate = Instance(
        "BUFGCTRL",
        i_I0=clock,
        i_S0=Const(1),
        i_CE0=opened,
        i_IGNORE0=Const(0),
        i_I1=Const(1),
        i_S1=Const(0),
        i_CE1=Const(0),
        i_IGNORE1=Const(1),
        o_O=gated,
    )
    return m


def make_clocks(m: Module, platform, rates: Mapping[str, int], phases: Mapping[str, int]):
    """See `Family`: one PLL makes all, behind gates that open once it has locked."""
    input_hz = platform.default_clk_frequency
    pll = solved(Pll.solve, int(input_hz), *rates.values())
    oscillator = add_oscillator(m, platform)
    *outputs, locked, reference = (Signal() for _ in range(len(rates) + 2))
    degrees = [phases.get(name, 0) for name in rates]
    m.submodules.pll = pll.create(input_hz, oscillator, outputs, locked, degrees)
    m.submodules.reference = Instance("BUFG", i_I=oscillator, o_O=reference)
    enable = add_start(m, reference, locked)
    add_domains(
        m,
        dict(zip(rates, outputs, strict=True)),
        lambda clock, gated: _gate(clock, gated, enable),
    )


MARK = (
    "select -set synchronisers w:* a:ASYNC_REG=TRUE %i %ci1:+$dff[Q] t:$dff %i; "
    'setattr -set keep 1 -set ASYNC_REG "TRUE" @synchronisers; select -clear'
)
"""Steps of yosys right after it has read the design: Amaranth gives ``ASYNC_REG`` to the wire."""

FINISH = """\
setattr -set DONT_TOUCH "TRUE" t:FD* a:keep=1 %i
delete t:$scopeinfo =$paramod*
setattr -unset keep -unset src -unset hdlname -unset module_not_derived
setundef -zero
autoname
"""
"""Steps behind synthesis: what yosys has kept, Vivado keeps. What may be anything is 0, or else it
were left open, and cells are called after what they drive."""

YOSYS_SCRIPT = r"""
# {{autogenerated}}
{% for file in platform.iter_files(".v") -%}
    read_verilog {{file}}
{% endfor %}
{% for file in platform.iter_files(".sv") -%}
    read_verilog -sv {{file}}
{% endfor %}
{% for file in platform.iter_files(".il") -%}
    read_rtlil {{file}}
{% endfor %}
read_rtlil {{name}}.il
{{get_override("script_after_read")}}
{{get_override("script_before_synth")}}
synth_xilinx -family xc7 -flatten {{get_override("synth_opts")|options}} -top {{name}}
{{get_override("script_after_synth")}}
write_json {{name}}.json
write_edif -pvector bra -attrprop {{name}}.edif
"""

VIVADO_SCRIPT = r"""
# {{autogenerated}}
# vivado -mode batch -source {{name}}.tcl
# leaves {{name}}.bit here, if its timing is met, and what Vivado says of the design.
cd [file dirname [file normalize [info script]]]
file delete {{name}}.bit
read_edif {{name}}.edif
read_xdc {{name}}.xdc
link_design -top {{name}} -part {{platform._part}}
opt_design
place_design
phys_opt_design
route_design
report_utilization -file {{name}}_utilization.rpt
report_clock_utilization -file {{name}}_clock_utilization.rpt
report_route_status -file {{name}}_route_status.rpt
report_drc -file {{name}}_drc.rpt
report_methodology -file {{name}}_methodology.rpt
report_timing_summary -max_paths 10 -file {{name}}_timing.rpt
write_checkpoint -force {{name}}.dcp
foreach edge {setup hold} {
    set slack [get_property SLACK [lindex [get_timing_paths -$edge -max_paths 1] 0]]
    puts "$edge: $slack ns of slack"
    if {![string is double -strict $slack] || $slack < 0} {
        puts "timing failed: {{name}}_timing.rpt has the slowest paths; there is no bitstream"
        exit 1
    }
}
{{get_override("script_before_bitstream")|default("")}}
write_bitstream -force {{name}}.bit
{{get_override("script_after_bitstream")|default("")}}
puts "[file normalize {{name}}.bit]: load it"
"""

CONSTRAINTS = r"""
# {{autogenerated}}
{% for port_name, pin_name, attrs in platform.iter_port_constraints_bits() -%}
    set_property PACKAGE_PIN {{pin_name}} [get_ports {{port_name|tcl_quote}}]
    {% for attr_name, attr_value in attrs.items() -%}
        set_property {{attr_name}} {{attr_value|tcl_quote}} [get_ports {{port_name|tcl_quote}}]
    {% endfor %}
{% endfor %}
{% for port, frequency in platform.iter_port_clock_constraints() -%}
    create_clock -name {{port.name|ascii_escape}} -period {{1000000000/frequency}} [get_ports {{
        port.name|tcl_quote}}]
    # What goes from it to clocks of a PLL goes through synchronisers.
    set_clock_groups -asynchronous -group [get_clocks {{port.name|ascii_escape}}]
{% endfor %}
{{get_override("add_constraints")|default("")}}
"""


def with_vivado(platform: Any) -> type:
    """A platform of Amaranth's whose netlist is yosys's, not Vivado's."""
    tools = {
        "_vivado_required_tools": ["yosys"],
        "_vivado_file_templates": {
            **platform.build_script_templates,
            "{{name}}.il": "# {{autogenerated}}\n{{emit_rtlil()}}\n",
            "{{name}}.debug.v": "/* {{autogenerated}} */\n{{emit_debug_verilog()}}\n",
            "{{name}}.ys": YOSYS_SCRIPT,
            "{{name}}.tcl": VIVADO_SCRIPT,
            "{{name}}.xdc": CONSTRAINTS,
        },
        "_vivado_command_templates": [
            r"""{{invoke_tool("yosys")}} -q -l {{name}}.rpt {{name}}.ys"""
        ],
    }
    return type(platform.__name__, (platform,), tools)


def _part(luts: int, block_rams: int, multipliers: int) -> dict[str, int]:
    return {"lut4": luts, "ff": 2 * luts, "bram": 2 * block_rams, "dsp": multipliers}


FAMILY = Family(
    name="xilinx",
    parts={
        f"xc7a{size}t{kind}": have
        for size, have in {
            "35": _part(20800, 50, 90),
            "50": _part(32600, 75, 120),
            "100": _part(63400, 135, 240),
            "200": _part(134600, 365, 740),
        }.items()
        for kind in ("", "i")
    },
    called={"lut4": "LUT6", "bram": "RAMB18"},
    choosing=True,  # a LUT of six inputs before a carry cell does
    synthesised={
        "lut4": {
            **{"LUT[1-6]": 1, "INV": 1},
            **{"RAM32X1S": 1, "RAM64X1S": 1, "RAM128X1S": 2, "RAM256X1S": 4},
            **{"RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM(32|64)M": 4},
        },
        "ff": {"FD[RSCP]E": 1},
        "bram": {"RAMB18E1": 1, "RAMB36E1": 2},
        "dsp": {"DSP48E1": 1},
    },
    memories=Memories(
        shapes=((16384, 1), (8192, 2), (4096, 4), (2048, 9), (1024, 18), (512, 36)),
        block_cost=387,  # to 8 for 64 x 3 or 32 x 6 bits, of which the third are 16 x 4
        lut_cost=8,
        luts=3,
    ),
    dsp_per_product=1,
    luts=0.62,
    tools={"yosys": YOSYS},
    files=("top.il", "top.ys", "top.tcl", "top.xdc"),
    netlist="top.json",
    project=Project(
        tool="Vivado",
        folder="vivado",
        files=("top.edif", "top.xdc", "top.tcl"),
        command="vivado -mode batch -source {}",
        script="top.tcl",
    ),
    bitstream="vivado/top.bit",
    # Registers in a row are there for the way: none becomes a shift register in one place.
    options=lambda clock_hz: {
        "synth_opts": "-nosrl",
        "script_before_synth": MARK,
        "script_after_synth": FINISH,
    },
    clocks=make_clocks,
    platform=with_vivado,
)
