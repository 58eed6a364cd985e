"""Families of devices: their clocks, their parts, and what asks for them."""

from fractions import Fraction

import pytest

from hw import boards, families
from hw.build.plan import plan
from hw.families import ecp5, gowin, ice40
from tests.test_build import Echo

pytest.importorskip("amaranth_boards")

BOARDS = [name for name in boards.names() if not boards.board(name).simulated]


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


@pytest.mark.parametrize("output", [12_000_000, 18_000_000, 24_000_000, 30_000_000, 39_750_000])
def test_pll_of_ice40_makes_the_clock_exactly(output):
    pll = ice40.Pll.solve(12_000_000, output)
    assert Fraction(12_000_000 * pll.feedback, pll.input_divisor << pll.shift) == output
    assert 533e6 <= output << pll.shift <= 1066e6
    assert pll.filter == 1  # of a phase detector at 12 MHz
    assert 1 <= pll.feedback <= 128 and 1 <= pll.shift <= 6


@pytest.mark.parametrize("family", [ecp5, gowin, ice40])
def test_pll_refuses_a_clock_it_cannot_make(family):
    with pytest.raises(ValueError, match="must be one that a PLL can make from 25000000 Hz"):
        family.Pll.solve(25_000_000, 66_666_667)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_families_are_whole(family):
    """All speak of the same resources, and begin with the same synthesis."""
    resources = {"lut4", "ff", "bram", "dsp"}
    assert family.cells.keys() == resources
    for part, has in family.parts.items():
        assert has.keys() == resources
        assert families.of(part) is family
    assert len(family.tools) == 3 and next(iter(family.tools)) == "yosys"


@pytest.mark.parametrize("name", BOARDS)
def test_part_of_a_board_is_that_of_its_platform(name):
    board = boards.board(name)
    platform = board.platform_class()
    of_platform = getattr(platform, "device", None), getattr(platform, "family", None)
    assert board.device in of_platform


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # LUNA's, of Amaranth
@pytest.mark.parametrize("name", BOARDS)
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


def test_a_new_board_of_a_family_is_one_file(tmp_path, monkeypatch):
    """A module as users would add it, with one of amaranth-boards' platforms that is not used."""
    (tmp_path / "icepi_zero.py").write_text(
        "from hw.boards import Board\n"
        "from hw.boards.sim_tiny import BOARD as SMALLEST\n"
        "from hw.links.uart import Uart\n"
        "BOARD = Board(name='icepi_zero', clock_hz=50_000_000, machine=SMALLEST.machine,\n"
        "              platform='amaranth_boards.icepi_zero:IcepiZero1_3Platform',\n"
        "              device='LFE5U-25F', link=Uart(baud=1_000_000))\n"
    )
    monkeypatch.setattr(boards, "__path__", [*boards.__path__, str(tmp_path)])
    assert "icepi_zero" in boards.names()
    planned = plan(boards.board("icepi_zero"), Echo)
    assert "--25k" in planned.commands[1]
    assert 'LOCATE COMP "uart_0__rx__io" SITE' in planned.files["top.lpf"]
    assert 'LOCATE COMP "led_0__io" SITE' in planned.files["top.lpf"]
