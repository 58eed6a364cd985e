"""Budgets: what is too much, and what the program says and writes."""

import json

import pytest

from hw.boards import board, names
from hw.build import budget
from hw.build.steps import synthesised_board
from hw.families import of


@pytest.mark.parametrize(
    ("taken", "over", "under"),
    [
        ({"lut4": 1030, "bram": 40}, [], []),
        ({"lut4": 970, "bram": 40}, [], []),
        ({"lut4": 1031, "bram": 41}, ["lut4 1,031 of 1,000 (+3.1%)"], []),
        ({"lut4": 969, "bram": 42}, ["bram 42 of 40 (+5.0%)"], ["lut4 969 of 1,000 (-3.1%)"]),
    ],
)
def test_three_per_cent_are_tolerated(taken, over, under):
    assert budget.compare({"lut4": 1000, "bram": 40}, taken) == (over, under)


def test_a_simulated_board_gets_pins():
    target = synthesised_board("sim_tiny")
    assert target.machine == board("sim_tiny").machine and not target.simulated
    assert synthesised_board("ulx3s_85f") == board("ulx3s_85f")


def test_budgets_are_of_all_boards_and_of_all_resources():
    budgets = json.loads(budget.BUDGET.read_text())
    hardware = {name for name in names() if not board(name).simulated}
    assert set(budgets) == hardware | {"sim_tiny"} >= set(budget.USUAL)
    for name, allowed in budgets.items():
        target = synthesised_board(name)
        assert list(allowed) == list(of(target.device).synthesised) and min(allowed.values()) > 1


@pytest.fixture
def machines(tmp_path, monkeypatch):
    """The file of budgets, and what is taken in place of what yosys makes."""
    path = tmp_path / "budget.json"
    path.write_text(json.dumps({"sim_tiny": {"lut4": 100, "ff": 50, "bram": 4, "dsp": 1}}))
    taken: dict[str, int] = {}
    monkeypatch.setattr(budget, "BUDGET", path)
    monkeypatch.setattr(budget, "USUAL", ("sim_tiny",))
    monkeypatch.setattr(budget, "synthesise", lambda board, **_: dict(taken))
    return path, taken


def test_too_large_a_machine_is_an_error(machines, capsys):
    path, taken = machines
    before = path.read_text()
    taken |= {"lut4": 104, "ff": 50, "bram": 4, "dsp": 1}
    assert budget.main([]) == 1
    out, err = capsys.readouterr()
    assert "sim_tiny takes more than its budget: lut4 104 of 100 (+4.0%)" in out
    assert err.count("\n") == 1 and "--update" in err
    assert path.read_text() == before


def test_a_small_machine_is_praised_and_update_writes(machines, capsys):
    path, taken = machines
    taken |= {"lut4": 100, "ff": 40, "bram": 4, "dsp": 1}
    assert budget.main([]) == 0
    assert "should be lowered: ff 40 of 50 (-20.0%)" in capsys.readouterr().out
    assert budget.main(["--update"]) == 0
    assert json.loads(path.read_text()) == {
        "sim_tiny": {"lut4": 100, "ff": 40, "bram": 4, "dsp": 1}
    }
    capsys.readouterr()
    assert budget.main([]) == 0
    assert "lowered" not in capsys.readouterr().out


def test_a_board_without_a_budget_gets_one(machines, capsys):
    path, taken = machines
    taken |= {"lut4": 7, "ff": 5, "bram": 4, "dsp": 1}
    assert budget.main(["icebreaker"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "icebreaker has no budget in budget.json; --update writes one"
    assert budget.main(["icebreaker", "--update"]) == 0
    assert json.loads(path.read_text())["icebreaker"] == taken
    assert json.loads(path.read_text())["sim_tiny"]["lut4"] == 100
    capsys.readouterr()
    taken["lut4"] = 8
    assert budget.main(["--all"]) == 1
    assert "icebreaker takes more than its budget: lut4 8 of 7 (+14.3%)" in capsys.readouterr().out
