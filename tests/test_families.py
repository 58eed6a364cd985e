"""Families of devices: their clocks, their parts, and what asks for them."""

import gc
import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib.wiring import Out

from hw import boards, families
from hw.build import BuildError
from hw.build.plan import plan
from hw.build.report import count_cells, parse_report
from hw.build.tools import explain
from hw.families import ecp5, gowin, ice40, xilinx
from hw.families.clocks import solved
from hw.memory.sdram.parts import ULX3S
from hw.memory.sdram.pins import PinsSignature
from hw.sdram_pads import clock_phase
from tests.test_build import Echo

pytest.importorskip("amaranth_boards")

BOARDS = [name for name in boards.names() if not boards.board(name).simulated]
ROUTED = [name for name in BOARDS if families.of(boards.board(name).device).project is None]


@pytest.mark.parametrize("output", [50e6, 62.5e6, 65e6, 68.75e6, 70e6, 75e6, 80e6, 100e6])
def test_pll_of_ecp5_makes_the_clock_exactly(output):
    pll = ecp5.Pll.solve(25_000_000, int(output))
    assert 25e6 * pll.feedback == output * pll.divisors[0] * pll.input_divisor
    assert 25e6 / pll.input_divisor >= 10e6
    assert 400e6 <= output * pll.divisors[0] <= 800e6


def test_pll_of_ecp5_makes_the_clocks_of_usb_beside():
    outputs = (60_000_000, 48_000_000, 12_000_000)
    pll = ecp5.Pll.solve(48_000_000, *outputs)
    oscillators = {hz * divisor for hz, divisor in zip(outputs, pll.divisors, strict=True)}
    assert oscillators == {48_000_000 // pll.input_divisor * pll.feedback}
    assert all(400_000_000 <= oscillator <= 800_000_000 for oscillator in oscillators)
    with pytest.raises(ValueError, match="from 48000000 Hz, not 65000000 and 48000000 and 12000"):
        ecp5.Pll.solve(48_000_000, 65_000_000, *outputs[1:])


@pytest.mark.parametrize("output", [27_000_000, 36_000_000, 40_500_000, 45_000_000, 54_000_000])
def test_pll_of_gowin_makes_the_clock_exactly(output):
    pll = gowin.Pll.solve(27_000_000, output)
    assert 27_000_000 * pll.feedback == output * pll.input_divisor
    assert 500e6 <= output * pll.output_divisor <= 1200e6
    assert 1 <= pll.input_divisor <= 64 and 1 <= pll.feedback <= 64
    assert 27e6 / pll.input_divisor >= 3e6


def test_pll_of_gowin_makes_a_second_clock_that_is_late():
    """As of the SDRAM in a GW2AR's package; of its rate alone, and of no other phase."""
    design = plan(boards.board("tang_nano_20k")).files["top.il"]
    assert re.search(r'parameter \\PSDA_SEL "(\d+)"', design)[1] == f"{16 * 315 // 360:04b}"
    assert len(re.findall(r"cell \\DQCE ", design)) == 2
    for rates in ({"sync": 54, "sdram": 108}, {"sync": 54, "sdram": 54, "usb": 54}):
        with pytest.raises(NotImplementedError, match="makes one clock here, and another of its r"):
            gowin.make_clocks(Module(), None, rates, {})
    with pytest.raises(ValueError, match="phase must be whole sixteenths of a cycle, not 100 deg"):
        pll = gowin.Pll.solve(27_000_000, 54_000_000)
        pll.create(None, Signal(), Signal(), Signal(), Signal(), 100)


def test_places_of_an_sdram_in_a_package():
    """They are those of the tools."""
    chipdb = pytest.importorskip("apycula.chipdb")
    there = chipdb.load_chipdb(Path(chipdb.__file__).with_name("GW2A-18C.msgpack.xz"))
    expected = {
        name: f"IO{'R' if column else 'L'}{row + 1}{pad}"
        for name, row, column, pad, _ in there.sip_cst["GW2AR-18C"]["QFN88"]
    }
    platform = boards.board("tang_nano_20k").platform_class()
    (sdram,) = (it for it in platform.resources if it.name == "sdram")
    pins = {it.name: it.ios[0].names for it in sdram.ios}
    names = {
        "clk_en": "cke",
        "cs": "cs_n",
        "ras": "ras_n",
        "cas": "cas_n",
        "we": "wen_n",
        "a": "addr",
    }
    found = {
        f"{'IO' if name == 'dq' else 'O'}_sdram_{names.get(name, name)}{index}": place
        for name, places in pins.items()
        for index, place in zip(
            [f"[{n}]" for n in range(len(places))] if len(places) > 1 else [""], places, strict=True
        )
    }
    assert found == expected


@pytest.mark.parametrize("output", [12_000_000, 18_000_000, 24_000_000, 30_000_000, 39_750_000])
def test_pll_of_ice40_makes_the_clock_exactly(output):
    pll = ice40.Pll.solve(12_000_000, output)
    assert Fraction(12_000_000 * pll.feedback, pll.input_divisor << pll.shift) == output
    assert 533e6 <= output << pll.shift <= 1066e6
    assert pll.filter == 1  # of a phase detector at 12 MHz
    assert 1 <= pll.feedback <= 128 and 1 <= pll.shift <= 6


@pytest.mark.parametrize(
    "outputs", [(80_000_000,), (100_000_000,), (87_500_000,), (60_000_000, 48_000_000, 12_000_000)]
)
def test_pll_of_xilinx_makes_the_clocks_exactly(outputs):
    pll = xilinx.Pll.solve(100_000_000, *outputs)
    oscillator = Fraction(100_000_000 * pll.feedback, pll.input_divisor)
    assert [oscillator / divisor for divisor in pll.divisors] == list(outputs)
    assert 800e6 <= oscillator <= 1600e6 and 19e6 <= 100e6 / pll.input_divisor <= 450e6
    assert 2 <= pll.feedback <= 64 and all(1 <= divisor <= 128 for divisor in pll.divisors)


def test_pll_of_xilinx_refuses_what_it_cannot_be():
    """Too many clocks, too slow a one, another phase."""
    with pytest.raises(ValueError, match="a PLL has outputs for 6 clocks, not 7"):
        xilinx.Pll.solve(100_000_000, *[50_000_000] * 7)
    for input_hz, output_hz in ((100_000_000, 6_000_000), (12_000_000, 48_000_000)):
        with pytest.raises(ValueError, match=f"can make from {input_hz} Hz, not {output_hz}"):
            xilinx.Pll.solve(input_hz, output_hz)
    pll = xilinx.Pll.solve(100_000_000, 80_000_000, 80_000_000)
    with pytest.raises(ValueError, match=r"phases must be whole eighths .* not \[0, 100\]"):
        pll.create(100e6, Signal(), [Signal(), Signal()], Signal(), [0, 100])


@pytest.mark.parametrize("family", [ecp5, gowin, ice40, xilinx])
def test_pll_refuses_a_clock_it_cannot_make(family):
    with pytest.raises(ValueError, match="must be one that a PLL can make from 25000000 Hz"):
        family.Pll.solve(25_000_000, 66_666_667)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_families_are_whole(family):
    """All speak of the same resources, and begin with the same synthesis."""
    resources = {"lut4", "ff", "bram", "dsp"}
    resources |= {"spram"} if family.memories.large else set()
    assert family.synthesised.keys() == resources and family.called.keys() <= resources
    for part, has in family.parts.items():
        assert has.keys() == resources
        assert families.of(part) is family
    assert next(iter(family.tools)) == "yosys"
    if family.project is None:
        assert len(family.tools) == 3 and family.cells.keys() == resources
    else:
        assert len(family.tools) == 1 and not family.cells and not family.routed
        assert family.project.script in family.project.files


@pytest.mark.parametrize("name", BOARDS)
def test_part_of_a_board_is_that_of_its_platform(name):
    board = boards.board(name)
    platform = board.platform_class()
    of_platform = getattr(platform, "device", None), getattr(platform, "family", None)
    assert board.device in of_platform


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # LUNA's, of Amaranth
@pytest.mark.parametrize("name", ROUTED)
def test_plans_of_boards(name):
    """Every tool of the family runs once, and the seed's files are no other seed's."""
    planned = plan(boards.board(name), Echo)
    family = planned.family
    assert [command[0] for command in planned.commands] == list(family.tools)
    synthesis, route, pack = planned.commands
    assert set(planned.files) == set(family.files)
    assert "-l" in synthesis and "COLLISION_X_MASK" in planned.files["top.ys"]
    assert family.netlist in {*route, planned.files["top.ys"].split()[-1]}
    assert {family.routed, "top.report"} <= set(route) and family.routed in pack
    assert family.bitstream in pack
    seeded = [word for command in planned.seeded(3) for word in command]
    assert {"3", "seed-3.report"} <= set(seeded)
    assert not {family.routed, family.bitstream} & set(seeded)


def report(clock, utilisation):
    """What nextpnr reports, without most of it."""
    return json.dumps(
        {
            "critical_paths": [{"from": "posedge clk", "to": "posedge clk", "path": []}],
            "fmax": {"clk": clock},
            "utilization": {
                cell: {"used": used, "available": available}
                for cell, (used, available) in utilisation.items()
            },
        }
    )


@pytest.mark.parametrize(
    ("family", "clock", "utilisation", "expected"),
    [  # of real runs of nextpnr 0.11.1
        (
            gowin.FAMILY,
            {"achieved": 371.8854675292969, "constraint": 27},
            {
                **{"ALU": (60, 15552), "BSRAM": (0, 46), "DFF": (85, 15552), "LUT4": (85, 20736)},
                **{"MULT18X18": (0, 48), "RAM16SDP4": (0, 648), "TBUF": (2, 0)},
            },
            {"lut4": (85, 20736), "ff": (85, 15552), "bram": (0, 46), "dsp": (0, 48)},
        ),
        (
            ice40.FAMILY,
            {"achieved": 63.4437255859375, "constraint": 12.000767707824707},
            {
                **{"ICESTORM_DSP": (0, 8), "ICESTORM_LC": (105, 5280)},
                **{"ICESTORM_RAM": (0, 30), "ICESTORM_SPRAM": (3, 4)},
            },
            {
                **{"lut4": (105, 5280), "ff": (105, 5280), "bram": (0, 30), "dsp": (0, 8)},
                "spram": (3, 4),
            },
        ),
    ],
)
def test_reports_of_nextpnr(family, clock, utilisation, expected):
    result = parse_report(report(clock, utilisation), round(clock["constraint"]) * 10**6, family)
    assert result.taken == expected
    assert result.clock_mhz == round(clock["achieved"], 2) and result.passed


ICE40_LOG = """\
Info: Device utilisation:
Info: \t         ICESTORM_LC:    9582/   5280   181%
Info: \t        ICESTORM_RAM:     159/     30   530%
Info: \t               SB_GB:       8/      8   100%

ERROR: Unable to place cell 'core.weights.words.ram.tile_0_0.0.29_RAM', no BELs remaining
"""

GOWIN_LOG = """\
Info: Device utilisation:
Info: \t                LUT4:   10290/  20736    49%
Info: \t                TBUF:       2/      0     0%
Info: \t               BSRAM:      46/     46   100%
ERROR: out of luck
"""


def test_logs_of_nextpnr():
    """Also where a family counts cells that it has no places of."""
    explained = explain("nextpnr-ice40", ICE40_LOG)
    assert explained == "design does not fit: ICESTORM_LC 9582 of 5280, ICESTORM_RAM 159 of 30"
    assert explain("nextpnr-himbaechel", GOWIN_LOG) == "nextpnr-himbaechel failed: out of luck"


@pytest.mark.parametrize(
    ("family", "cells", "expected"),
    [  # as yosys 0.70 left them of the machines of two boards
        (
            gowin.FAMILY,
            {
                **{"LUT1": 396, "LUT2": 690, "LUT3": 3073, "LUT4": 2365, "ALU": 3193},
                **{"DFF": 4360, "DFFE": 741, "DFFRE": 1273, "DFFR": 512, "DFFS": 18, "DFFSE": 41},
                **{"RAM16SDP4": 23, "DPX9B": 20, "SDPX9B": 9, "DPB": 16, "SPX9": 1},
                **{"MUX2_LUT5": 726, "MULT18X18": 4},
            },
            {"lut4": 6524 + 3193 + 8 * 23, "ff": 6945, "bram": 46, "dsp": 4},
        ),
        (
            ice40.FAMILY,
            {
                **{"SB_LUT4": 6699, "SB_CARRY": 1497, "SB_RAM40_4K": 159, "SB_MAC16": 7},
                **{"SB_SPRAM256KA": 4},
                **{"SB_DFF": 2363, "SB_DFFESR": 1473, "SB_DFFE": 288, "SB_DFFSR": 575},
            },
            {"lut4": 6699, "ff": 4699, "bram": 159, "dsp": 7, "spram": 4},
        ),
    ],
)
def test_cells_of_synthesised_netlists(family, cells, expected):
    named = {f"{kind}.{n}": {"type": kind} for kind, count in cells.items() for n in range(count)}
    assert count_cells({"modules": {"top": {"cells": named}}}, family) == expected


class WithSdram(Echo):
    """An echo that has the pins of an SDRAM, too."""

    sdram: Out(PinsSignature(ULX3S))


class WithFastSdram(Echo):
    """The same of one at twice the clock."""

    sdram: Out(PinsSignature(ULX3S, 2))


def lateness(design: str) -> float:
    """Of the SDRAM's clock, in its cycles."""
    divisor, cycles, eighths = (
        int(re.search(rf"parameter \\CLKOS2_{name} (\d+)", design)[1])
        for name in ("DIV", "CPHASE", "FPHASE")
    )
    return (8 * (cycles - (divisor - 1)) + eighths) / (8 * divisor)


def test_pads_of_an_sdram():
    """A register in every pad, and a clock that comes three quarters of a cycle later."""
    planned = plan(boards.board("ulx3s_85f"), WithSdram)
    design, pins = planned.files["top.il"], planned.files["top.lpf"]
    outputs, data = 5 + 2 + 13 + 2, 16
    assert len(re.findall(r"cell \\IFS1P3DX ", design)) == data
    driven = 2 * (outputs + data) + 1  # each pin has a register for its direction, the clock, too
    assert len(re.findall(r"cell \\OFS1P3DX ", design)) == driven
    assert len(re.findall(r"cell \\ODDRX1F ", design)) == 1
    assert len(re.findall(r'LOCATE COMP "sdram_', pins)) == outputs + data + 1
    assert lateness(design) == 270 / 360


def test_pads_of_an_sdram_at_twice_the_clock():
    design = plan(boards.board("ulx3s_85f"), WithFastSdram).files["top.il"]
    outputs, data = 5 + 2 + 13 + 2, 16
    assert len(re.findall(r"cell \\IDDRX1F ", design)) == data
    assert len(re.findall(r"cell \\ODDRX1F ", design)) == outputs + data + 1
    assert lateness(design) == 225 / 360  # of 120 MHz
    divisors = [int(re.search(rf"CLKOS{n}_DIV (\d+)", design)[1]) for n in ("", 2)]
    assert divisors[0] == 2 * divisors[1]


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_pads_that_have_no_two_data_in_a_cycle():
    with pytest.raises(BuildError, match=r"an SDRAM at 2 times .*, which GW2A-18C has not; take a"):
        plan(boards.board("tang_primer_20k"), WithFastSdram)
    gc.collect()  # while what was made until then may be thrown away


def test_the_clock_of_an_sdram_leaves_all_their_time():
    """See `LEAD`: what parts and the way through the pads need, at any clock of theirs."""
    for megahertz in range(28, 134):
        cycle = 1000 / megahertz
        lead = cycle * (1 - clock_phase(megahertz * 1_000_000) / 360)
        access = 6 if cycle >= 10 else 5.4
        assert lead >= 1 and cycle - lead >= 2
        assert access + 5 <= cycle + lead and lead <= 2 + 2.5
    for hertz in (27_000_000, 171_000_000):
        with pytest.raises(ValueError, match="must be 28 MHz to 170 MHz, not "):
            clock_phase(hertz)


def test_a_phase_that_a_pll_cannot_make():
    pll = ecp5.Pll.solve(25_000_000, 70_000_000, 70_000_000)
    with pytest.raises(ValueError, match=r"phases must be whole eighths .* not \[0, 100\]"):
        pll.create(Signal(), [Signal(), Signal()], Signal(), [0, 100])


@pytest.mark.parametrize(
    ("family", "input_hz", "output_hz", "near"),
    [
        (ecp5, 100_000_000, 73_456_789, 73_000_000),
        (ecp5, 25_000_000, 400_000_001, 400_000_000),
        (gowin, 27_000_000, 61_000_000, 60_000_000),
        (ice40, 12_000_000, 17_000_000, 18_000_000),
    ],
)
def test_a_clock_that_is_refused_has_the_closest_that_is_made(family, input_hz, output_hz, near):
    wanted = f"not {output_hz}; {near} is the closest in whole MHz$"
    with pytest.raises(ValueError, match=wanted):
        solved(family.Pll.solve, input_hz, output_hz)
    assert solved(family.Pll.solve, input_hz, near) == family.Pll.solve(input_hz, near)


def test_clocks_that_are_refused_together_have_none_that_is_closest():
    with pytest.raises(ValueError, match=r"not 75000000 and 48000000$"):
        solved(ecp5.Pll.solve, 100_000_000, 75_000_000, 48_000_000)
