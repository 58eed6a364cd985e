"""The profile of a token: sums, table, picture, and the command line that shows them."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from host.compiler import compile_image
from host.errors import UsageError
from host.urls import open_device
from hw.arch.program import Unit, unroll
from hw.boards import board
from sim.golden_device import GoldenDevice
from sim.profile import build_folder, machine, measure, of_run, unmeasured
from sim.timeline import COLOURS, operation, sections
from weights.files import ZOO
from weights.model import IntegerModel

pytestmark = pytest.mark.whole

ROOT = Path(__file__).resolve().parents[1]
MODEL = "stories-tiny"


def predicted(name, model):
    image = compile_image(IntegerModel.load(ZOO / f"{model}.safetensors"), board(name).geometry)
    return unmeasured(image, name, model)


@pytest.fixture(scope="module", params=[("sim_tiny", MODEL), ("ulx3s_85f", "stories-small")])
def profile(request):
    return predicted(*request.param)


@pytest.fixture(scope="module")
def measured():
    return measure(board("sim_tiny"), IntegerModel.load(ZOO / f"{MODEL}.safetensors"), MODEL)


def test_every_cycle_of_a_step_is_in_one_row(profile):
    steps = profile.timing.steps
    for rows in (profile.kinds(), profile.parts()):
        assert sum(row.times for row in rows) == len(steps)
        assert sum(row.predicted for row in rows) == sum(step.cycles for step in steps)
        assert len({row.name for row in rows}) == len(rows)
    assert [row.name for row in profile.parts()] == ["start", "layers", "head"]
    kinds = {row.name: row for row in profile.kinds()}
    layers = len(sections(profile.timing)) - 2
    assert kinds["i quantise"].times == layers
    assert kinds["i quantise"].units == "V"


def test_steps_of_the_program_and_of_the_token(profile):
    timing, steps = profile.timing, profile.steps()
    assert [name for name, *_ in steps] == list(timing.image.steps)
    assert sum(times for _, _, times, *_ in steps) == len(timing.steps)
    table = profile.timetable()
    assert [(number, layer) for number, layer, *_ in table] == [
        (number, layer) for number, layer, _ in unroll(timing.image.program())
    ]
    for number, _, _, issued, idle in table:
        assert (issued < idle - 1) == (steps[number][1] != "control")


def test_engine_time_is_all_accounted_for(profile):
    timing = profile.timing
    products = [step for step in timing.steps if step.unit == Unit.ENGINE]
    running = len({cycle for step in products for cycle in range(step.begun + 1, step.idle)})
    waits = profile.engine_waits()
    assert timing.engine_cycles < running
    assert running + sum(cycles for *_, cycles in waits) == timing.cycles
    units = {unit for unit, *_ in waits}
    assert units - {"scalar"} == {"vector", "sequencer"}, "one element hides what scalars take"


def test_table_has_80_columns(profile):
    text = profile.table()
    assert max(map(len, text.splitlines())) <= 80
    assert "Nothing was counted" in text
    assert f"{profile.timing.cycles:,}" in text


def test_device_counts_what_is_predicted(measured):
    profile, cycles = measured
    assert cycles == profile.timing.cycles
    assert profile.counted == profile.predicted == tuple(profile.timing.counters(chosen=1))
    assert "Every step was counted as predicted." in profile.table()
    other = replace(profile, counted=(0.5, *profile.counted[1:]))
    assert other.differences() == 1
    assert "1 of " in other.table() and "is the device of this version?" in other.table()


@pytest.mark.parametrize("length", [1, 46, 47, 48, 94, 95, 150])
def test_prompts_longer_than_the_token_buffer_are_counted_right(measured, length):
    model = IntegerModel.load(ZOO / f"{MODEL}.safetensors")
    with open_device("sim://sim_tiny") as device:
        assert device.identify().geometry.tokens == 48
        device.load(model)
        generated = len(list(device.generate([3] * length, 2)))
        profile = of_run(device, model, MODEL, prompt=length, generated=generated)
    assert profile.differences() == 0


@pytest.mark.parametrize("name", ["\udcff", "\x1b[1m", "a<b>&\"'\n"])
def test_picture_of_a_model_of_any_name(profile, name, tmp_path):
    picture = replace(profile, model=name).save_svg(tmp_path)
    texts = [text.text for text in ElementTree.parse(picture).iter() if text.text]
    shown = {"\udcff": "", "\x1b[1m": "[1m", "a<b>&\"'\n": "a<b>&\"'"}[name]
    assert any(text.startswith(f"{shown} on {profile.board}: ") for text in texts)


def test_picture_is_whole(profile):
    root = ElementTree.fromstring(profile.svg())
    name = "{http://www.w3.org/2000/svg}"
    width, height = float(root.get("width")), float(root.get("height"))
    texts = [text.text for text in root.iter(f"{name}text")]
    assert profile.title in texts and "predicted" in profile.title
    for lane in ("engine", "vector", "scalar", "sequencer"):
        assert texts.count(lane) == len(sections(profile.timing))
    notes = [note.text for note in root.iter(f"{name}title")]
    for step in profile.timing.steps:
        bars = [note for note in notes if note.startswith(f"{step.name} ({operation(step)}): cyc")]
        assert bars or step.unit == Unit.CONTROL
    for bar in root.iter(f"{name}rect"):
        if bar.get("x"):
            assert 0 <= float(bar.get("x")) <= float(bar.get("x")) + float(bar.get("width")) < width
            assert 0 <= float(bar.get("y")) + float(bar.get("height")) < height
    assert not [value for node in root.iter() for value in node.attrib.values() if "//" in value]


def test_every_operation_has_a_colour(profile):
    used = {operation(step) for step in profile.timing.steps}
    assert used - {"control"} <= set(COLOURS)
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_sections_cover_the_token(profile):
    parts = sections(profile.timing)
    assert [parts[0].name, parts[-1].name] == ["start", "head"]
    assert parts[0].start == 0 and parts[-1].end == profile.timing.cycles
    assert all(a.end == b.start for a, b in pairwise(parts))


def test_folder_of_a_device_stays_in_build():
    assert build_folder("ulx3s_85f") == Path("build/ulx3s_85f")
    assert build_folder("../x") == Path("build/_x")
    assert build_folder("..") == Path("build/device")


def test_golden_model_has_no_program():
    with pytest.raises(UsageError, match=r"no program to profile; use sim://BOARD"):
        machine(GoldenDevice())


# Command line -----------------------------------------------------------------------------------


def infer(folder, *arguments, device="sim://sim_tiny"):
    line = [sys.executable, str(ROOT / "host" / "infer.py"), "--model", MODEL]
    line += ["--device", device, "--prompt", "Once upon", "--tokens", "60", "--no-stop", *arguments]
    return subprocess.run(
        line, cwd=folder, capture_output=True, text=True, timeout=120, env={**os.environ}
    )


def test_profile_follows_the_text(measured, tmp_path):
    # More tokens than the buffer holds: several runs are counted.
    done = infer(tmp_path, "--profile")
    assert done.returncode == 0, done.stderr
    text, _, rest = done.stdout.partition(f"\n\n{MODEL} on sim_tiny, cycles of one generated token")
    assert text.startswith("Once upon")
    assert "Every step was counted as predicted." in rest
    path = tmp_path / rest.splitlines()[-1]
    assert path == tmp_path / "build" / "sim_tiny" / "profile.svg"
    assert path.read_text() == predicted("sim_tiny", MODEL).svg()


def test_profile_is_in_the_object_if_asked_for(measured, tmp_path):
    plain = json.loads(infer(tmp_path, "--json").stdout)
    assert "profile" not in plain and not (tmp_path / "build").exists()
    report = json.loads(infer(tmp_path, "--json", "--profile").stdout)
    profile = report.pop("profile")
    assert report.keys() == plain.keys() and report["text"] == plain["text"]
    assert Path(profile["picture"]) == Path("build/sim_tiny/profile.svg")
    assert all(counted == expected for *_, counted, expected in profile["steps"])
    assert profile["cycles_per_token_predicted"] == measured[0].timing.cycles


def test_profile_of_the_golden_model_is_wrong_usage(tmp_path):
    done = infer(tmp_path, "--profile", device="golden://")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "no program to profile" in done.stderr
