"""The page of a build: what it says, that it needs nothing else, and how a browser shows it."""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hw.boards import board
from hw.build.estimate import estimate
from hw.build.field import FIELD, of_report, work
from hw.build.floorplan import Floorplan
from hw.build.page import GROUPS, Stretch, group_of, legend, page, stretches
from hw.build.schema import Hop, Use
from sim import snapshot
from tests.test_reports import report_of

LUTS = estimate(board("ulx3s_85f"))["lut4"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
EVIL = "<img src=x onerror='window.hurt=1'><script>window.hurt=1</script> & so"
PLAN = Floorplan(
    cells={
        "engine": {"lut4": 7000, "ff": 9000},
        "sums": {"ff": 8, "bram": 6},
        "vector": {"lut4": 3000, "dsp": 8},
        "vector_of_others": {"lut4": 1},
    },
    logic={"engine": [(3, 5), (5, 5), (4, 5), (4, 6)], "vector": [(9, 6)]},
    bram={"sums": [(12, 10)], "states": [(14, 10)]},
    dsp={"vector": [(20, 11)]},
)
PATH = (
    Hop(cell="a", unit="engine", x=3, y=5, wire_ns=0, cell_ns=0.5),
    Hop(cell="b", unit="engine", x=4, y=6, wire_ns=1.25, cell_ns=0.25),
    Hop(cell="c", unit="vector", x=9, y=16, wire_ns=6.0, cell_ns=2.0),
)


class Page(HTMLParser):
    """Elements with their attributes, and that all that begins ends."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("th", "td", "dt", "dd"):
            self.words += " "

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", self.words)


def page_of(**changes: object) -> Page:
    report = replace(report_of("ulx3s_85f", critical_path=PATH), **changes)
    found = Page(page(report, PLAN, None))
    assert found.open == []
    return found


def test_it_says_what_the_report_does():
    text = page_of().text
    assert "3,072 tokens per second, one text" in text
    assert "12,288 4 texts at once, predicted" in text
    assert "clock; 74.2 MHz as routed 70.0 MHz" in text
    assert f"LUT4 {LUTS:,} of 83,640, {100 * LUTS / 83640:.0f} %" in text
    assert "cycles a token, one text 22,786 22,786 -" in text
    assert "cycles a token, 4 texts 25,000 - -" in text
    assert "failed: there is no bitstream" not in text
    assert "timing failed: there is no bitstream" in page_of(passed=False).text


def test_a_part_without_a_resource():
    resources = {
        "lut4": Use(used=5, available=10, estimate=4),
        "dsp": Use(used=0, available=0, estimate=0),
    }
    text = page_of(resources=resources).text
    assert "LUT4 5 of 10, 50 %" in text and "multipliers 0 of 0, 0.0 %" in text


def test_it_says_what_the_slowest_path_is():
    text = page_of().text
    assert "The slowest path, 10.00 ns" in text
    assert "begins in the unit engine at a and ends in vector at c: 2.75 ns in 3 cells" in text
    assert "7.25 ns in wires, 72 % of it" in text
    assert "The slowest wire, from engine to vector, takes 6.00 ns over 15 tiles." in text
    assert list(stretches(PATH)) == [
        Stretch(unit="engine", cells=2, wires_ns=1.25, cells_ns=0.75),
        Stretch(unit="vector", cells=1, wires_ns=6.0, cells_ns=2.0),
    ]
    assert "slowest path" not in page_of(critical_path=()).text


def test_tiles_are_in_the_colours_of_their_units():
    paths = {(p["class"], p["d"]) for p in page_of().all("path") if p.get("class")}
    assert {
        ("logic engine", "M3 5.45h3M4 6.45h1"),
        ("logic vector", "M9 6.45h1"),
        ("block memories", "M12 10h1.8v.9h-1.8zM14 10h1.8v.9h-1.8z"),
        ("block vector", "M20 11h0.8v.9h-0.8z"),
    } <= paths
    lines = [line["points"] for line in page_of().all("polyline")]
    assert lines == ["3.45,5.45 4.45,6.45 9.45,16.45"] * 2


def test_every_unit_has_a_colour_and_its_cells():
    assert {group_of(unit) for units in GROUPS.values() for unit in units} == set(GROUPS)
    entries = [(entry.unit, entry.group) for entry in legend(PLAN.cells)]
    assert entries == [
        *(("engine", "engine"), ("vector", "vector")),
        *(("sums", "memories"), ("vector_of_others", "other")),
    ]
    assert "engine 7,000 9,000 - -" in page_of().text


def test_work_for_each_lut_is_beside_what_others_published():
    report = report_of("ulx3s_85f")
    one, every = of_report(report)
    assert one.work == pytest.approx(901632 * 3072.1 / LUTS) == work(report, report.streams[0])
    assert (one.streams, every.streams, every.work) == (1, 4, pytest.approx(4 * one.work))
    text = page_of().text
    assert f"{one.work / 1e6:.2f} M" in text and all(each.name in text for each in FIELD)
    assert "others published" not in page_of(model=None, streams=()).text


def test_it_needs_nothing_else():
    """Neither a network nor a script; references are to what is in it."""
    found = page_of()
    assert not found.all("script")
    policy = {m.get("http-equiv"): m.get("content") for m in found.all("meta")}
    assert str(policy["Content-Security-Policy"]).startswith("default-src 'none'")
    for tag, attributes in found.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href"):
                assert tag == "link" and str(value).startswith("data:")


def test_text_is_escaped():
    hop = Hop(cell=EVIL, unit="engine", x=0, y=0, wire_ns=0, cell_ns=1.0)
    found = page_of(model=EVIL, tools={EVIL: EVIL}, critical_path=(hop,), board=EVIL)
    assert not found.all("script") and not found.all("img")
    assert found.text.count(EVIL) >= 6


def test_a_full_chip_is_small():
    """Of an ECP5-85F, every second tile of another unit."""
    tiles = [(x, y) for x in range(127) for y in range(96)]
    plan = replace(PLAN, logic={"engine": tiles[::2], "vector": tiles[1::2]})
    assert len(page(report_of("ulx3s_85f"), plan, None)) < 250_000


@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
def test_a_browser_shows_it(tmp_path: Path):
    """Nothing is wider than the window, and letters stand out from what is behind them."""
    pytest.importorskip("playwright.sync_api")
    path = tmp_path / "report.html"
    wide = '<svg width="1500" height="90" viewBox="0 0 1500 90"><rect width="9" height="9"/></svg>'
    path.write_text(page(report_of("ulx3s_85f", critical_path=PATH), PLAN, wide))
    said: list[str] = []
    with snapshot.browser() as browser:
        for width, scheme in itertools.product((1280, 400), ("light", "dark")):
            context = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme
            )
            with contextlib.closing(context):
                shown = context.new_page()
                shown.on("console", lambda message: said.append(message.text))
                shown.goto(path.as_uri())
                assert shown.evaluate("document.documentElement.scrollWidth") == width
                box = shown.locator(".chip").bounding_box()
                assert box["width"] > 200 and box["height"] > 50
                ground, ink = shown.evaluate(
                    "['backgroundColor', 'color'].map(n => getComputedStyle(document.body)[n]"
                    ".match(/\\d+/g).reduce((sum, each) => sum + Number(each), 0))"
                )
                assert (ink < ground) == (scheme == "light") and abs(ink - ground) > 400
    assert said == []
