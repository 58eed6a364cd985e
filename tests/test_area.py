"""What a lane and an element take of a machine."""

from dataclasses import replace

import pytest

from hw.boards import board
from hw.build import area


def linear(element: int, lane: int, rest: int):
    """A tool by which machines take so much."""
    return lambda target: {
        name: factor * (element * target.geometry.elements + lane * target.geometry.lanes + rest)
        for name, factor in (("lut4", 1), ("ff", 2), ("bram", 0), ("dsp", 3))
    }


@pytest.mark.parametrize("name", ["ulx3s_85f", "tang_primer_20k"])
@pytest.mark.parametrize("elements", [1, 2, 4])
def test_parts_are_found_by_other_sizes(name, elements):
    target = board(name)
    geometry = replace(target.geometry, elements=elements)
    target = replace(target, machine=replace(target.machine, geometry=geometry))
    whole, element, lane = area.slopes(target, linear(900, 14, 4000))
    assert whole["lut4"] == 900 * elements + 14 * geometry.lanes + 4000
    assert element == {"lut4": 900, "ff": 1800, "bram": 0, "dsp": 2700}
    assert lane == {"lut4": 14, "ff": 28, "bram": 0, "dsp": 42}
    for other, _ in (area.with_elements(target), area.with_rows(target)):
        g = other.geometry
        assert g.lanes * g.weight_rows >= geometry.lanes * geometry.weight_rows


def test_a_machine_of_no_other_size_is_told(capsys):
    """Ten rows, of words of an SDRAM that have two elements: neither four nor one will do."""
    assert area.main(["icepi_zero"]) == 1
    assert "icepi_zero has no machine of other elements" in capsys.readouterr().err


def test_a_machine_is_told_of_by_its_parts(monkeypatch, capsys):
    monkeypatch.setattr(area, "synthesise", lambda target, **_: linear(900, 14, 4000)(target))
    assert area.main(["sim_tiny"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[1:] == ["lut4", "ff", "bram", "dsp"]
    rows = [line.rsplit(maxsplit=4) for line in lines]
    assert [(row[0].strip(), row[1]) for row in rows] == [
        ("an element", "900"),
        ("a lane", "14.0"),
        ("the rest", "4,000"),
        ("1 elements, 16 lanes", "5,124"),
    ]
    assert area.main(["no_board"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
