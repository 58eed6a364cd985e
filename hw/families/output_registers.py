"""The output registers of ECP5's block RAMs, which yosys leaves alone.

Without its register a DP16KD needs 5.83 ns from the clock to its outputs, with it 0.96. yosys maps
memories without (``NOREG``), and the flip-flops behind them to slices. So a build ends synthesis
with ``OUTPUT_REGISTERS``: where each used output of a block RAM goes to flip-flops and nowhere
else, and each of these takes it in every cycle, knows no reset and begins with zero, the block RAM
gets ``REGMODE_A`` and ``REGMODE_B`` of ``OUTREG``, and what a flip-flop held is the block RAM's
output itself. That is the same machine, cycle by cycle. Copies that are to be kept
(`hw.pipeline.KEEP`) stay flip-flops, and the block RAM before them as it is.
"""

RAM = "DP16KD"
_REGISTERED = "DP16KD_WITH_REGISTER"  # for the time between marking one and mapping it

_INPUTS = [
    f"{name}{port}{bit}"
    for port in "AB"
    for name, bits in (("AD", range(14)), ("DI", range(18)), ("CS", range(3)))
    for bit in bits
] + [f"{name}{port}" for port in "AB" for name in ("CLK", "CE", "WE", "RST", "OCE")]
_OUTPUTS = [f"DO{port}{bit}" for port in "AB" for bit in range(18)]

_PARAMETERS = {
    **{
        f"{name}_{port}": value
        for port in "AB"
        for name, value in (("DATA_WIDTH", 18), ("CSDECODE", '"0b000"'), ("WRITEMODE", '"NORMAL"'))
    },
    **{f"CLK{port}MUX": f'"CLK{port}"' for port in "AB"},
    **dict.fromkeys(("RESETMODE", "ASYNC_RESET_RELEASE"), '"SYNC"'),
    "GSR": '"ENABLED"',
    **{f"INITVAL_{number:02X}": "320'd0" for number in range(64)},
}


def _template() -> str:
    """Verilog of what the marked cells become."""
    connections = {port: port for port in [*_INPUTS, *_OUTPUTS]}
    # Of the two clock enables of a 36 bits wide one yosys ties one low, and which output needs
    # which is not documented.
    connections |= {"OCEA": "1'b1", "OCEB": "1'b1"}
    parameters = {name: name for name in _PARAMETERS}
    parameters |= {"REGMODE_A": '"OUTREG"', "REGMODE_B": '"OUTREG"'}

    def named(pairs) -> str:
        return ", ".join(f".{name}({value})" for name, value in pairs.items())

    return f"""\
module {_REGISTERED}(input {", ".join(_INPUTS)}, output {", ".join(_OUTPUTS)});
{"".join(f"parameter {name} = {value};" for name, value in _PARAMETERS.items())}
parameter REGMODE_A = "NOREG";
parameter REGMODE_B = "NOREG";
{RAM} #({named(parameters)}) _TECHMAP_REPLACE_ ({named(connections)});
endmodule
module TRELLIS_FF(input CLK, LSR, CE, DI, output Q);
parameter GSR = "";
parameter CEMUX = "";
parameter CLKMUX = "";
parameter LSRMUX = "";
parameter SRMODE = "";
parameter REGSET = "";
assign Q = DI;
endmodule
"""


OUTPUT_REGISTERS = f"""\
design -push
read_verilog <<END
{_template()}
END
design -stash output_registers
design -pop
splitnets
opt_clean
select -set rams t:{RAM} w:* %co1:+{RAM}[RSTA,RSTB] %d
select -set outputs @rams %co1 w:* %i
select -set plain t:TRELLIS_FF r:CEMUX=1* %i r:CLKMUX=CLK %i r:REGSET=RESET %i a:keep=1 %d
select -set plain @plain w:* %co1:+TRELLIS_FF[LSR] %d
select -set behind @outputs %co1:+TRELLIS_FF[DI] @plain %i
select -set others @outputs %co1 c:* %i @behind %d
select -set rams @rams @others %ci1 @outputs %i %ci1 %d
select -set behind @rams %co1 w:* %i %co1 @behind %i
chtype -set {_REGISTERED} @rams
techmap -map %output_registers @rams @behind
opt_clean
"""
"""Steps of yosys, behind synthesis. Nets are split into bits first: a selection is of whole ones.

Clocks need no look: all block RAMs and what is behind them have the machine's.
"""
