"""What boards would do, told without tools."""

from __future__ import annotations

import itertools

import pytest

from host.compiler import compile_image
from hw.boards import board, names
from hw.build.estimate import estimate
from hw.families import capacity
from sim.explore import main
from sim.geometries import best, candidates, most_together
from sim.placement import Placement
from sim.timing import predict
from weights.files import ZOO
from weights.model import IntegerModel


def timing(model: str, name: str) -> Placement:
    integers = IntegerModel.load(ZOO / f"{model}.safetensors")
    return Placement(model=integers, name=model, board=board(name))


def test_every_board_has_a_line(too_large, capsys):
    assert main([]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == names() and head.endswith("cycles tokens/s")
    assert {len(line) for line in (head, *lines)} == {80}
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    guess, placed = estimate(board("ulx3s_85f")), timing("stories-small", "ulx3s_85f")
    assert rows["ulx3s_85f"] == [
        *("LFE5U-85F", "512", "8", str(guess["lut4"]), str(guess["bram"]), "65", "small"),
        *(str(placed.timing.cycles), f"{placed.tokens_per_second:,.0f}"),
    ]
    assert rows[too_large][-2:] == ["too", "large"]


def test_a_model_is_told_of_where_it_fits(capsys):
    assert main(["--model", "stories-base"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    told = {line.split()[0] for line in lines if line.split()[-1] not in ("-", "large")}
    assert told == {name for name in names() if timing("stories-base", name).fits}


def test_a_board_is_told_of_in_full(too_large, capsys):
    assert main(["ulx3s_85f", "--model", "stories-tiny"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert out.splitlines()[0] == "ulx3s_85f, LFE5U-85F: 512 lanes"
    luts = estimate(board("ulx3s_85f"))["lut4"]
    assert f"{luts} {luts / 83640:.0%} 83640" in " ".join(out.split())
    assert out.endswith(f"{timing('stories-tiny', 'ulx3s_85f').report()}\n")
    assert main([too_large]) == 0
    out = capsys.readouterr().out
    multipliers = estimate(board(too_large))["dsp"]
    assert multipliers > 8
    assert f"\nmachine does not fit: dsp needs about {multipliers} of 8: reduce " in out
    assert max(map(len, out.splitlines())) <= 80
    assert main(["sim_tiny"]) == 0
    assert capsys.readouterr().out.startswith("stories-small on sim_tiny: ")


def test_the_clock_to_expect(capsys):
    """That of the family, if any of its boards was routed."""
    assert main(["ulx3s_45f"]) == 0
    assert "\nclock           81 MHz expected, 80 MHz asked for\n" in capsys.readouterr().out
    assert main(["arty_a7_100"]) == 0
    out = capsys.readouterr().out
    assert "\nclock   80 MHz asked for; nothing of this family was routed\n" in out


def test_machines_of_other_sizes(capsys):
    """Each line is that of a machine that fits; the first one is the fastest of all that do."""
    target, model = board("ulx3s_45f"), IntegerModel.load(ZOO / "stories-nano.safetensors")
    found = candidates(target, model)
    has = capacity(target.device)
    for candidate in found[::9]:
        assert all(need < has[name] for name, need in estimate(candidate.board).items())
        g = candidate.machine.geometry
        again = compile_image(model, g)
        assert predict(again, candidate.machine).cycles == candidate.timing.cycles
    sizes = {(c.machine.geometry.lanes, c.machine.geometry.elements) for c in found}
    assert len(sizes) > 10 and len({c.timing.cycles for c in found}) > 10
    front = best(found)
    assert front[0].timing.cycles == min(c.timing.cycles for c in found)
    for faster, smaller in itertools.pairwise(front):
        assert faster.timing.cycles < smaller.timing.cycles
        assert faster.takes["lut4"] > smaller.takes["lut4"]

    assert main(["ulx3s_45f", "--geometries", "--model", "stories-nano"]) == 0
    title, head, *lines = capsys.readouterr().out.splitlines()
    assert {len(line) for line in (head, *lines)} == {
        79
    } and f"{target.clock_hz / 1e6:g} MHz" in title
    rows = [line.removeprefix("*").split() for line in lines]
    told = {tuple(map(int, row[:3])) for row in rows}
    g = target.geometry
    assert told == {
        *((c.machine.geometry.rows, c.machine.geometry.columns, c.machine.geometry.elements)
          for c in front),
        (g.rows, g.columns, g.elements),
    }  # fmt: skip
    assert [line[0] for line in lines].count("*") == 1
    cycles = f"{front[0].timing.cycles:,}"
    assert rows[0][6:8] == [cycles, f"{target.clock_hz / front[0].timing.cycles:,.0f}"]
    several = most_together(front[0], model)
    g = several.machine.geometry
    assert several.fits and several.machine.queued and g.contexts > 1
    taken = predict(compile_image(model, g), several.machine, contexts=g.contexts).cycles
    assert rows[0][8:] == [str(g.contexts), f"{target.clock_hz * g.contexts / taken:,.0f}"]
    assert 55e6 * g.contexts / taken > 55e6 / front[0].timing.cycles


def test_no_machine_of_any_size_is_one_line(capsys):
    words = ["icebreaker", "--geometries", "--model", "stories-base"]
    assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "stories-base fits no machine on icebreaker" in line and "weights plan" in line
    assert main(["sim_tiny", "--geometries"]) == 1
    assert "sim_tiny has no part" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["--geometries"])
    assert "--geometries needs a board" in capsys.readouterr().err


def test_what_is_not_there_is_one_line(capsys):
    for words in (["no_board"], ["sim_tiny", "--model", "no-model"], ["--model", "no-model"]):
        assert main(words) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert words[-1] in line
