"""The README's pictures: what draws them, and whether those that are there are of what is here."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from host.compiler import compile_image
from host.errors import DeviceError
from hw import boards
from sim import chart, pictures, recording, snapshot, svg
from sim.chart import Row
from sim.pictures import BOARD, MODELS, PROMPT, board_speed, compared, main
from sim.recording import Piece
from sim.speed import pace
from sim.timing import predict
from weights.errors import ReportedError
from weights.model import IntegerModel
from weights.store import shipped_models
from weights.text import encode_prompt, open_tokenizer

ROOT = Path(__file__).resolve().parents[1]
SVG = "{http://www.w3.org/2000/svg}"
SCREEN = 400
"""Pixels of a narrow one."""


def png_size(content: bytes) -> tuple[int, int]:
    """Width and height of a picture."""
    assert content.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    return struct.unpack_from(">II", content, 16)


def texts(root: ElementTree.Element) -> list[str]:
    """Each text of a picture, its parts joined."""
    return ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


def delays(root: ElementTree.Element) -> list[float]:
    """When each part of a recording comes."""
    styles = [span.get("style", "") for span in root.iter(f"{SVG}tspan")]
    return [float(style.removeprefix("animation-delay:").removesuffix("s")) for style in styles]


def is_alone(root: ElementTree.Element) -> bool:
    """Whether a picture runs nothing, and asks for nothing from elsewhere."""
    values = [value for node in root.iter() for value in node.attrib.values()]
    names = {node.tag.removeprefix(SVG) for node in root.iter()}
    style = "".join(node.text or "" for node in root.iter(f"{SVG}style"))
    return not names & {"script", "image", "use", "foreignObject"} and not [
        text for text in (*values, style) if "//" in text or "url(" in text or "@import" in text
    ]


def test_text_is_no_markup():
    said = "<b> & \"quotes\" 'and' </svg>"
    lines = [svg.words(1, 2, said, **{"class": said}), svg.rectangle(0, 0, 1, 1, note=said)]
    root = ElementTree.fromstring(svg.document(9, 9, lines, title=said, description=said))
    (text,) = root.iter(f"{SVG}text")
    assert (text.text, text.get("class")) == (said, said)
    assert [node.text for node in root.iter(f"{SVG}title")] == [said, said]
    assert [node.text for node in root.iter(f"{SVG}desc")] == [said]


# Recordings -----------------------------------------------------------------------------------


SLOW = r"""
import sys, time
write = sys.stdout.buffer.write
write(b"one \xc3"); sys.stdout.flush()
time.sleep(0.3)
write(b"\xa9"); sys.stdout.flush()
print("two", file=sys.stderr)
"""


def test_output_is_recorded_as_it_comes(tmp_path):
    pieces = recording.record([sys.executable, "-c", SLOW], tmp_path)
    assert "".join(piece.text for piece in pieces) == "one étwo\n"
    assert pieces[0] == Piece(at=0.0, text="one ")  # of half a character nothing is seen
    assert 0.2 < pieces[1].at < 5
    assert all(a.at <= b.at for a, b in pairwise(pieces))


def test_failed_command_is_no_recording(tmp_path):
    command = [sys.executable, "-c", "import sys; print('text'); sys.exit('no such board')"]
    with pytest.raises(DeviceError, match=r"ended with 1: no such board$"):
        recording.record(command, tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ["Once", " upon", " a", " time"],
        ["<b>", " & </text>", "\n", "\n", "  indented", "\n"],
        [f" word{number}" for number in range(60)],
        ["x" * 79, " ", "y", "z" * 200, " end"],
        ["x" * 80, "\n", "y" * 81],
        ["both ", "lines\nin one piece ", "and more"],
    ],
)
def test_recording_shows_all_at_its_time(words):
    pieces = [Piece(at=0.25 * number, text=text) for number, text in enumerate(words)]
    drawn = recording.draw(pieces, command="a < b", title="T & U", description="D")
    root = ElementTree.fromstring(drawn)
    title, command, *rows = texts(root)
    assert (title, command) == ("T & U", "$ a < b")
    assert all(len(row.rstrip(" ")) <= recording.COLUMNS for row in rows)
    # Rows are the text's own lines, and lines broken after spaces or within long words.
    whole = "".join(words).rstrip("\n")
    assert "".join(rows) == whole.replace("\n", "")
    starts = {0} | {match.end() for match in re.finditer("\n", whole)}
    assert len(rows) >= len(starts)
    times = delays(root)
    assert times == sorted(times) and times[0] == recording.LEAD
    spans = [(span.text, at) for span, at in zip(root.iter(f"{SVG}tspan"), times, strict=True)]
    for piece in pieces:
        at = pytest.approx(piece.at + recording.LEAD)
        assert "".join(text for text, time in spans if time == at) == piece.text.replace("\n", "")
    assert is_alone(root)
    height = float(root.get("height"))
    assert all(0 < float(text.get("y")) < height for text in root.iter(f"{SVG}text"))


def test_words_are_not_broken():
    pieces = [Piece(at=0, text=" ".join(["seven77"] * 40))]
    rows = texts(ElementTree.fromstring(recording.draw(pieces, "c", "t", "d")))[2:]
    assert {word for row in rows for word in row.split()} == {"seven77"}
    assert max(len(row.rstrip()) for row in rows) == 79


# Charts ---------------------------------------------------------------------------------------


def test_dots_are_where_their_numbers_are():
    speeds = [10.0, 31.6228, 100.0, 1000.0, 84_470.4, 3.0]
    rows = [Row(name=f"<{speed}>", tokens_per_s=speed, board=speed == 10) for speed in speeds]
    drawn = chart.draw({"one & two": rows[:3], "three": rows[3:]}, title="T", notes=["n", "<o>"])
    root = ElementTree.fromstring(drawn)
    dots = [float(dot.get("cx")) for dot in root.iter(f"{SVG}circle")]
    decade = dots[2] - dots[0]
    assert dots[1] - dots[0] == pytest.approx(decade / 2, abs=0.2)
    assert dots[3] - dots[2] == pytest.approx(decade, abs=0.2)
    assert sorted(dots) == [dots[speeds.index(speed)] for speed in sorted(speeds)]
    assert [dot.get("class") for dot in root.iter(f"{SVG}circle")] == ["board", *["cpu"] * 5]
    shown = texts(root)
    for name in ("one & two", "three", "T", "n", "<o>", "<10.0>", "10", "32", "84,470", "3"):
        assert name in shown
    labels = ["1", "10", "100", "1,000", "10,000", "100,000"]
    axis = [text for text in root.iter(f"{SVG}text") if text.get("text-anchor") == "middle"]
    assert [text.text for text in axis] == labels
    for text, speed in zip(axis, (1, 10, 100, 1000), strict=False):
        if speed in speeds:
            assert float(text.get("x")) == pytest.approx(dots[speeds.index(speed)], abs=0.2)
    assert is_alone(root)


def test_chart_fits_a_narrow_screen():
    """Letters of nine pixels at least, all of them within the picture, with room for any number."""
    root = ElementTree.parse(ROOT / "docs" / "speed.svg").getroot()
    width, height = float(root.get("width")), float(root.get("height"))
    assert float(root.get("font-size")) * SCREEN / width >= 9
    for text in root.iter(f"{SVG}text"):
        letter = 0.55 * float(text.get("font-size", root.get("font-size")))
        if text.get("text-anchor") != "middle":
            assert float(text.get("x")) + letter * len(text.text) < width
        assert 0 < float(text.get("y")) < height


@pytest.mark.parametrize(
    ("board", "core", "told"),
    [
        (3000, 84_000, "One core is 28.0 times as fast as the board"),
        (3000, 1500, "The board is 2.0 times as fast as one core"),
    ],
)
def test_comparison_names_the_faster_one(board, core, told):
    rows = [Row(name="b", tokens_per_s=board, board=True), Row(name="c", tokens_per_s=core)]
    assert compared(rows) == told


def test_pace_is_tokens_by_time():
    seeds = []
    found = pace(seeds.append, tokens=10, runs=3)
    assert seeds == [0, 1, 2, 3]
    assert len(found.walls) == len(found.processors) == 3
    assert found.tokens_per_s == sorted(found.walls)[1] and found.fastest == max(found.walls)


def test_processor_is_named(tmp_path):
    facts = tmp_path / "cpuinfo"
    facts.write_text("processor\t: 0\nmodel name\t: Some(R) Chip(TM) 3\nmodel name\t: other\n")
    assert pictures.processor_name(facts) == "Some Chip 3"
    assert pictures.processor_name(tmp_path / "none")


# The pictures that are there ------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown() -> ElementTree.Element:
    path = ROOT / "docs" / "demo.svg"
    assert path.stat().st_size < 40_000
    return ElementTree.parse(path).getroot()


@pytest.mark.whole
def test_demo_is_what_a_board_writes(shown):
    """A board and the native model are equal to the bit, so that the latter tells what is right."""
    words = ["--prompt", PROMPT, "--device", "native://", "--json"]
    done = subprocess.run(
        [sys.executable, "host/infer.py", *words], cwd=ROOT, capture_output=True, check=True
    )
    report = json.loads(done.stdout)
    _, command, *rows = texts(shown)
    assert command == f"$ python host/infer.py --prompt '{PROMPT}'"
    tokens, model = len(report["tokens"]), IntegerModel.load(report["model"])
    tokenizer = open_tokenizer(model.tokenizer_json, report["model"])
    prompt = encode_prompt(tokenizer, PROMPT, model.shape.vocabulary)
    board = boards.board(BOARD)
    timing = predict(compile_image(model, board.geometry), board.machine)
    totals = timing.totals(chosen=tokens, read=len(prompt))
    cycles = totals.cycles / totals.tokens
    said, _, figures = " ".join("".join(rows).split()).partition(f"{tokens} tokens in ")
    assert said.split() == "".join((PROMPT + report["text"]).split("\n")).split()
    assert re.fullmatch(
        rf"[\d.]+ s, [\d.]+ tokens/s{cycles:,.0f} cycles/token, [\d.]+% of the engine's peak; "
        rf"{BOARD} at {board.clock_hz / 1e6:g} MHz: {board.clock_hz / cycles:,.0f} tokens/s",
        figures,
    )


def test_demo_comes_at_the_pace_that_it_tells(shown):
    times = delays(shown)
    assert times == sorted(times) and len(times) > 100 and is_alone(shown)
    seconds = float(re.search(r"tokens in ([\d.]+) s", "".join(texts(shown)))[1])
    assert times[-1] - times[0] == pytest.approx(seconds, abs=0.3)
    assert "prefers-reduced-motion" in next(shown.iter(f"{SVG}style")).text


def test_chart_is_of_this_board():
    root = ElementTree.parse(ROOT / "docs" / "speed.svg").getroot()
    shown, board = texts(root), boards.board(BOARD)
    for name in MODELS:
        model = IntegerModel.load(shipped_models()[name])
        cycles, speed = board_speed(board, model)
        at = shown.index(f"FPGA board {BOARD}", shown.index(name))
        assert shown[at + 1] == f"{speed:,.0f}"
        assert any(f"{cycles:,}" in text for text in shown)
    first = shown.index(MODELS[0])
    numbers = [float(shown[first + at].replace(",", "")) for at in (2, 4)]
    rows = [Row(name="", tokens_per_s=number) for number in numbers]
    told = next(text for text in shown if "times as fast" in text)
    assert re.sub(r"[\d.]+", "", told) == re.sub(
        r"[\d.]+", "", f"{compared(rows)}, with {MODELS[0]}."
    )
    ratio = float(re.search(r"[\d.]+", told)[0])
    assert ratio == pytest.approx(max(numbers) / min(numbers), rel=0.02)


@pytest.mark.whole
def test_chart_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "TOKENS", 20)
    monkeypatch.setattr(pictures, "RUNS", 1)
    monkeypatch.setattr(pictures, "MODELS", ("stories-nano",))
    monkeypatch.setattr(pictures, "processors", lambda: 2)
    assert main(["speed", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'speed.svg'}\n"
    shown = texts(ElementTree.parse(tmp_path / "speed.svg").getroot())
    names = ["FPGA board ulx3s_85f", "CPU, native://, 1 core", "CPU, native://, 2 cores"]
    for name in (*names, "CPU, golden, NumPy integers", "CPU, float, NumPy"):
        assert float(shown[shown.index(name) + 1].replace(",", "")) > 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["logo"], "one of demo, speed, page, not 'logo'"),
        (["--out", "no/such"], "--out must be a folder that is there, not 'no/such'"),
    ],
)
def test_wrong_words_are_told_before_any_work(capsys, words, told):
    with pytest.raises(SystemExit) as exit:
        main(words)
    assert exit.value.code == 2
    assert told in capsys.readouterr().err


def test_a_browser_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(snapshot.shutil, "which", lambda name: None)
    with pytest.raises(ReportedError, match="chromium is not installed"), snapshot.browser():
        pass


def test_a_server_that_does_not_begin_is_told():
    with (
        pytest.raises(ReportedError, match="did not begin"),
        snapshot.serving(["--slots", "0"], ROOT),
    ):
        pass


def test_the_page_s_picture_is_there():
    content = (ROOT / "docs" / "page.png").read_bytes()
    assert png_size(content) == (snapshot.SIZE["width"], snapshot.SIZE["height"])
    assert "](docs/page.png)" in (ROOT / "README.md").read_text()
