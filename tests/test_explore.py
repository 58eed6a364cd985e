"""What boards would do, told without tools."""

from __future__ import annotations

from hw.boards import board, names
from hw.build.estimate import estimate
from sim.explore import main
from sim.placement import Placement
from weights.files import ZOO
from weights.model import IntegerModel


def timing(model: str, name: str) -> Placement:
    integers = IntegerModel.load(ZOO / f"{model}.safetensors")
    return Placement(model=integers, name=model, board=board(name))


def test_every_board_has_a_line(capsys):
    assert main([]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == names() and head.endswith("cycles tokens/s")
    assert {len(line) for line in (head, *lines)} == {80}
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    guess, placed = estimate(board("ulx3s_85f")), timing("stories-small", "ulx3s_85f")
    assert rows["ulx3s_85f"] == [
        *("LFE5U-85F", "256", "2", str(guess["lut4"]), str(guess["bram"]), "70", "small"),
        *(str(placed.timing.cycles), f"{placed.tokens_per_second:,.0f}"),
    ]
    assert rows["icebreaker"][-2:] == ["too", "large"]


def test_a_model_is_told_of_where_it_fits(capsys):
    assert main(["--model", "stories-base"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    told = {line.split()[0] for line in lines if line.split()[-1] not in ("-", "large")}
    assert told == {name for name in names() if timing("stories-base", name).fits}


def test_a_board_is_told_of_in_full(capsys):
    assert main(["ulx3s_85f", "--model", "stories-tiny"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert out.splitlines()[0] == "ulx3s_85f, LFE5U-85F: 256 lanes"
    luts = estimate(board("ulx3s_85f"))["lut4"]
    assert f"{luts} {luts / 83640:.0%} 83640" in " ".join(out.split())
    assert out.endswith(f"{timing('stories-tiny', 'ulx3s_85f').report()}\n")
    assert main(["icebreaker"]) == 0
    out = capsys.readouterr().out
    assert "\nmachine does not fit: lut4 needs about 5822 of 5280: reduce " in out
    assert max(map(len, out.splitlines())) <= 80
    assert main(["sim_tiny"]) == 0
    assert capsys.readouterr().out.startswith("stories-small on sim_tiny: ")


def test_what_is_not_there_is_one_line(capsys):
    for words in (["no_board"], ["sim_tiny", "--model", "no-model"], ["--model", "no-model"]):
        assert main(words) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert words[-1] in line
