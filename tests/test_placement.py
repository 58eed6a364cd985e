"""Where a model lies on a board, and what is told of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from host.compiler import compile_fitting, compile_image
from host.errors import FitError
from hw.boards import board, names
from sim.placement import Placement
from sim.timing import predict
from weights.__main__ import main
from weights.files import ZOO
from weights.model import IntegerModel


def shipped(name: str) -> IntegerModel:
    return IntegerModel.load(ZOO / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("model", "board_name"),
    [
        ("stories-small", "ulx3s_85f"),
        ("stories-nano", "tang_primer_20k"),
        ("stories-tiny", "sim_tiny"),
    ],
)
def test_the_least_machine_that_holds_a_model(model, board_name):
    """It compiles as on the board; with any memory less deep it does not."""
    model = shipped(model)
    geometry = replace(board(board_name).geometry, contexts=1)
    image = compile_fitting(model, geometry)
    least = image.geometry
    assert compile_image(model, least).sections == image.sections
    assert least.lanes == geometry.lanes
    depths = (
        *("weight_rows", "table_words", "descriptors", "sums"),
        *("multiplicands", "vectors", "states", "activations"),
    )
    for name in depths:
        step = {"activations": geometry.columns, "sums": geometry.elements}.get(name, 1)
        step = geometry.elements if name in ("multiplicands", "vectors", "states") else step
        with pytest.raises(FitError, match=name.replace("_", " ")):
            compile_image(model, replace(least, **{name: getattr(least, name) - step}))


def test_where_memories_lie():
    """Large memories of a part hold what the estimate counts there, and it alone."""
    where = {
        name: {share.name: share.where for share in placement.shares}
        for name in ("icebreaker", "ulx3s_85f_sdram", "tang_nano_9k")
        for placement in [Placement(model=shipped("stories-nano"), name="n", board=board(name))]
    }
    assert {name for name, place in where["icebreaker"].items() if place == "SPRAM"} == {
        *("weights", "tables")
    }
    assert where["icebreaker"]["program"] == "block RAM"
    assert where["ulx3s_85f_sdram"]["weights"] == "SDRAM x16"
    assert set(where["tang_nano_9k"].values()) == {"block RAM"}


@pytest.mark.parametrize("board_name", ["ulx3s_85f", "tang_primer_20k"])
@pytest.mark.parametrize("name", ["stories-nano", "stories-small", "stories-base"])
def test_a_placement_agrees_with_the_compiler(name, board_name):
    model, chosen = shipped(name), board(board_name)
    placement = Placement(model=model, name=name, board=chosen)
    try:
        image = compile_image(model, chosen.geometry)
    except FitError:
        assert not placement.fits
    else:
        assert placement.fits
        assert placement.timing.cycles == predict(image, chosen.machine).cycles
        assert placement.tokens_per_second == chosen.clock_hz / placement.timing.cycles


def test_the_plan_of_a_model_that_fits(capsys):
    assert main(["plan", "stories-small", "--board", "ulx3s_85f"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and "stories-small on ulx3s_85f: fits" in lines
    (weights,) = (line.split() for line in lines if line.startswith("weights"))
    # 1,776 rows of 128 bytes of 1,792
    assert weights == ["weights", "block", "RAM", "222", "KB", "224", "KB", "99%"]
    text = " ".join(lines)
    assert "a token reads   222 KB of weights, 112 B of its embedding" in text
    cycles = Placement(
        model=shipped("stories-small"), name="", board=board("ulx3s_85f")
    ).timing.cycles
    assert f"a token takes   {cycles:,} cycles (predicted)" in text
    assert f"speed           {65e6 / cycles:,.0f} tokens/s at 65 MHz" in text
    assert "bound           vector unit, busy" in text and "held by" not in text


def test_the_plan_of_several_texts_at_once(capsys):
    """What all contexts do together, with a text each and with a piece of one prompt each."""
    chosen = board("ulx3s_85f")
    placement = Placement(model=shipped("stories-small"), name="small", board=chosen)
    image, machine = compile_image(placement.model, chosen.geometry), chosen.machine
    one, four = (predict(image, machine, contexts=number) for number in (1, 4))
    prompt = predict(image, machine, contexts=4, chained=True).prefill_cycles
    lines = placement.report().splitlines()
    assert f"4 at once       {4 * 65e6 / four.cycles:,.0f} tokens/s in all" in lines
    assert (
        f"a prompt        {65e6 / one.prefill_cycles:,.0f} tokens/s, "
        f"{4 * 65e6 / prompt:,.0f} where all 4 contexts read it"
    ) in lines
    peak = f"{one.utilization:.1%} of it, {four.utilization:.1%} with 4 texts at once"
    assert f"engine's peak   {peak}" in lines
    alone = Placement(model=placement.model, name="small", board=board("ecpix5_85")).report()
    assert "at once" not in alone and "a prompt" not in alone and "engine's peak   " in alone


def test_what_bounds_a_compact_machine():
    """Its vector unit, which works on a step before it takes it."""
    placement = Placement(model=shipped("stories-nano"), name="", board=board("icebreaker"))
    busy, cycles = placement.busy, placement.timing.cycles
    assert 0.7 * cycles < busy["vector unit"] <= cycles
    assert busy["ternary engine"] < 0.3 * cycles and busy["scalar unit"] < 0.1 * cycles
    assert "bound           vector unit, busy 81% of them" in placement.report()


def test_the_plan_of_a_model_that_does_not_fit(capsys):
    assert main(["plan", "stories-base", "--board", "ulx3s_85f"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and "stories-base on ulx3s_85f: does not fit" in lines
    (lack,) = (line.split() for line in lines if line.startswith("to hold it"))
    assert lack[3:] == ["about", lack[4], "block", "RAMs", "of", "208"] and int(lack[4]) > 600
    (first,) = (n for n, line in enumerate(lines) if line.startswith("held by"))
    told = " ".join(line.removeprefix("held by").strip() for line in lines[first:])
    model = shipped("stories-base")
    really = [name for name in names() if Placement(model=model, name="", board=board(name)).fits]
    assert told == (", ".join(really) or "none; native:// runs it")


def test_what_is_not_there_is_told(capsys):
    assert main(["plan", "stories-base", "--board", "nothing"]) == 1
    assert "board must be one of" in capsys.readouterr().err
    assert main(["plan", "no-such-model", "--board", "sim_tiny", "--offline"]) == 1
    assert "no-such-model" in capsys.readouterr().err


def test_the_plan_of_a_model_beside_the_chip(capsys):
    """Weights in an SDRAM: what they take of its time is what bounds a narrow one."""
    assert main(["plan", "stories-base", "--board", "ulx3s_85f_sdram"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (weights,) = (line for line in lines if line.startswith("weights"))
    assert "SDRAM x16" in weights and max(map(len, lines)) <= 80
    chosen = board("ulx3s_85f_sdram")
    placement = Placement(model=shipped("stories-base"), name="", board=chosen)
    rows = placement.image.geometry.weight_rows
    pace = chosen.machine.weights.row_cycles
    assert placement.busy["SDRAM x16"] == round(rows * pace) > 4 * rows
    (bound,) = (line for line in lines if line.startswith("bound"))
    assert max(placement.busy, key=placement.busy.get) in bound
    assert placement.repacked is None  # its trits lie so already
    geometry = replace(chosen.geometry, rows=16, trits_per_byte=4)
    sparse = replace(chosen, machine=replace(chosen.machine, geometry=geometry))
    placement = replace(placement, board=sparse)
    other = placement.repacked
    assert other.board.geometry.trits_per_byte == 5 and other.image.geometry.lanes == 160
    assert 1.2 < other.tokens_per_second / placement.tokens_per_second < 1.25
    speed = f"{other.tokens_per_second:.0f} tokens/s"
    lines = placement.report().splitlines()
    assert f"5 trits a byte  1.14 MB of weights, {speed} on 20 x 8 lanes" in lines


def test_five_trits_in_a_byte_are_told_of_where_they_help():
    """Where weights alone are too many, and by no more than a quarter."""
    model, chosen = shipped("stories-small"), board("ecpix5_85")

    def repacked(**sizes):
        geometry = replace(chosen.geometry, **sizes)
        machine = replace(chosen.machine, geometry=geometry)
        placement = Placement(model=model, name="", board=replace(chosen, machine=machine))
        assert ("5 trits a byte" in placement.report()) == (placement.repacked is not None)
        return placement.repacked

    assert repacked() is None  # it fits, and the vector unit sets its speed
    assert repacked(weight_rows=2960).fits
    assert repacked(weight_rows=2959) is None
    assert repacked(weight_rows=2960, table_words=4000) is None
