"""The page in a browser, against the server, on a device that goes at a reader's pace."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from host.compiler import compile_image
from host.errors import DeviceError
from host.request import Request
from host.serve.service import Limits, Service
from host.serve.stories import Stories
from hw.arch.protocol import Identity, Totals
from hw.boards import board
from sim import snapshot
from sim.native import NativeDevice
from sim.timing import predict
from tests import test_pictures
from tests.services import listening, service_of, wait_for
from weights.model import IntegerModel
from weights.text import TextStream, encode_prompt

pytestmark = pytest.mark.whole

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect
expect.set_options(timeout=15_000)  # where many tests share few processors

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
BOARD = "ulx3s_85f"
PROMPT = "Once upon a time"
EVIL = "<img src=x onerror='window.hurt=1'><script>window.hurt=1</script> & so"


class Paced(NativeDevice):
    """A native device that takes its time, says that it is a board, and can be pulled out."""

    token_s = 0.0
    fault: str | None = None

    def __init__(self, model: IntegerModel, *, is_board: bool):
        super().__init__(1)
        machine = board(BOARD).machine
        geometry = machine.geometry
        self._identity = (
            Identity(board=BOARD, geometry=geometry, clock_hz=70_000_000, digest=bytes(16))
            if is_board
            else None
        )
        self._timing = predict(compile_image(model, geometry), machine)

    def identify(self) -> Identity | None:
        return self._identity

    def totals(self) -> Totals:
        tokens = super().totals().tokens
        if not self._identity:
            return Totals(tokens=tokens)
        cycles, engine = self._timing.cycles, self._timing.engine_cycles
        return Totals(tokens=tokens, cycles=tokens * cycles, engine_cycles=tokens * engine)

    def check(self) -> None:
        if self.fault:
            raise DeviceError(self.fault)

    def load(self, *arguments) -> None:
        self.check()
        super().load(*arguments)

    def answer_on(self, request: Request) -> Iterator[int]:
        for token in super().answer_on(request):
            self.check()
            time.sleep(self.token_s)
            yield token


@dataclass(frozen=True)
class Served:
    """A server of stories-nano on such a device."""

    service: Service
    device: Paced
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def text(self, prompt: str, tokens: int) -> str:
        """What the model goes on with, greedily."""
        model, tokenizer = self.service.model, self.service.tokenizer
        ids = [model.start_token, *encode_prompt(tokenizer, prompt, model.shape.vocabulary)]
        with contextlib.closing(NativeDevice(1)) as device:
            device.load(model)
            chosen = [*device.generate(ids, tokens, stop=model.end_tokens)]
        stream = TextStream(tokenizer, ids)
        pieces = [stream.feed(token) for token in chosen if token not in model.end_tokens]
        return "".join([*pieces, stream.finish()])


@contextlib.contextmanager
def serving(
    model: IntegerModel,
    *,
    is_board: bool = True,
    shared: bool = True,
    keys: tuple[str, ...] = (),
    port: int = 0,
) -> Iterator[Served]:
    device = Paced(model, is_board=is_board)
    options = {"stories": Stories(shared=shared), "keys": keys, "limits": Limits()}
    with (
        service_of(model, lambda: device, **options) as service,
        listening(service, port=port) as (_, port),
    ):
        yield Served(service, device, port)


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        if os.environ.get("BROWSER_TESTS") == "required":
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def shared_server(stories_nano) -> Iterator[Served]:
    with serving(stories_nano) as served:
        yield served


@pytest.fixture
def server(shared_server) -> Iterator[Served]:
    shared_server.device.token_s = 0.0
    yield shared_server
    shared_server.device.fault = None


@pytest.fixture
def visit(chromium):
    """Opens a page of somebody's own; at the end all of them must have been without a fault."""
    contexts, wrong, asked, bases = [], [], [], []

    def open_page(served: Served, *, faults: tuple[str, ...] = (), **options):
        def console(message) -> None:
            if message.type in ("error", "warning") and not any(f in message.text for f in faults):
                wrong.append(message.text)

        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", console)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        bases.append(f"{served.url}/")
        page.goto(served.url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong
    assert [url for url in asked if not url.startswith((*bases, "data:"))] == []


def ready(page) -> None:
    expect(page.locator("#state")).to_contain_text("ready")


def write(page, prompt: str = PROMPT, *, length: int = 40, temperature: str = "0") -> None:
    ready(page)
    page.get_by_label("How the story begins").fill(prompt)
    page.get_by_label("Most tokens").fill(str(length))
    page.get_by_label("Temperature").fill(temperature)
    page.get_by_role("button", name="Write").click()


def outcome(page):
    return page.locator("#outcome")


def story(page):
    return page.locator("#text")


def others(page):
    return page.locator("#stories li")


# Own story ----------------------------------------------------------------------------------------


def test_the_page_shows_the_model_s_text_and_its_figures(server, visit):
    page = visit(server)
    write(page)
    expect(outcome(page)).to_contain_text("The limit of tokens was reached. 40 tokens with seed")
    assert story(page).text_content() == PROMPT + server.text(PROMPT, 40)
    expect(page.locator("#whose")).to_have_text("This story")
    cycles = server.device._timing.cycles
    expect(page.locator("#cycles")).to_have_text(f"{cycles:,}")
    expect(page.locator("#board")).to_have_text(f"{70_000_000 / cycles:,.0f}")
    assert float(page.locator("#rate").text_content().replace(",", "")) > 0


def test_the_engine_s_bar_is_counted_and_split_as_its_timetable(server, visit):
    page = visit(server)
    server.device.token_s = 0.01
    write(page, length=300)
    expect(page.locator("#basis")).to_contain_text("counted over the last seconds")
    timing = server.device._timing
    share = page.locator("#legend [data-unit=engine] dd")
    engine_s = timing.engine_cycles / timing.cycles  # more than its share of trits: rows are padded
    expect(share).to_have_text(f"{engine_s:.1%}".replace("%", " %"))
    shares = page.locator("#legend dd").all_text_contents()
    assert sum(float(text.removesuffix(" %")) for text in shares) == pytest.approx(100, abs=0.3)
    bar = page.locator("#bar").bounding_box()
    engine = page.locator("#bar [data-unit=engine]").bounding_box()
    assert engine["width"] / bar["width"] == pytest.approx(engine_s, abs=0.02)
    page.keyboard.press("Escape")


def test_a_device_without_a_clock_says_so(stories_nano, visit):
    with serving(stories_nano, is_board=False, shared=False) as served:
        page = visit(served)
        expect(page.locator("#basis")).to_contain_text("no engine")
        expect(page.locator("#bar")).to_be_hidden()
        expect(page.locator("#others")).to_be_hidden()
        expect(page.locator("#shared")).to_contain_text("Nobody else")
        write(page)
        expect(outcome(page)).to_contain_text("40 tokens")
        expect(page.locator("#cycles")).to_have_text("\u2013")
        page.context.close()


def test_stop_ends_the_session_and_keeps_the_text(server, visit):
    page = visit(server)
    server.device.token_s = 0.02
    write(page, length=1000)
    expect(story(page)).to_contain_text(f"{PROMPT}, there")
    page.get_by_role("button", name="Stop").click()
    expect(outcome(page)).to_have_text("Stopped.")
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()
    expect(page.get_by_role("button", name="Write")).to_be_focused()
    expect(page.locator("#state")).to_contain_text("ready, 0 of")
    wait_for(lambda: not server.service.scheduler.status().sessions)
    assert server.text(PROMPT, 1000).startswith(story(page).text_content().removeprefix(PROMPT))


def test_what_the_server_refuses_is_told(server, visit):
    page = visit(server, faults=("400",))
    write(page, length=100_000)
    expect(outcome(page)).to_contain_text("max_tokens must be at most")
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()


def test_sentences_are_announced_and_not_words(server, visit):
    page = visit(server)
    page.evaluate(
        """() => {
          window.said = [];
          const spoken = document.querySelector("#spoken");
          new MutationObserver(() => window.said.push(spoken.textContent))
            .observe(spoken, { childList: true });
        }"""
    )
    server.device.token_s = 0.005
    write(page, length=60)
    expect(outcome(page)).to_contain_text("60 tokens")
    *sentences, last = page.evaluate("window.said")
    assert len(sentences) >= 2
    assert all(text.rstrip("\"'\u201d\u2019").endswith((".", "!", "?")) for text in sentences)
    told = outcome(page).text_content()
    assert last.endswith(told)
    assert "".join([*sentences, last.removesuffix(f" {told}")]) == server.text(PROMPT, 60)
    assert page.locator("[aria-live] #text, #text[aria-live]").count() == 0


# Others -------------------------------------------------------------------------------------------


def test_everyone_sees_the_others_stories_and_not_their_own_twice(server, visit):
    reader, writer = visit(server), visit(server)
    ready(reader)
    server.device.token_s = 0.01
    write(reader, "The old boat")
    write(writer, "A red ball")
    for page, own, other in (
        (reader, "The old boat", "A red ball"),
        (writer, "A red ball", "The old boat"),
    ):
        seen = others(page).filter(has_text=other)
        expect(seen).to_have_count(1)
        expect(seen).to_contain_text("ended at its length")
        assert seen.locator(".text").text_content() == other + server.text(other, 40)
        expect(outcome(page)).to_contain_text("40 tokens")
        assert others(page).filter(has_text=own).count() == 0
    late = visit(server)
    expect(others(late).filter(has_text="The old boat")).to_contain_text("ended at its length")


def test_a_story_stopped_before_its_first_token_is_nobody_else_s(server, visit):
    page = visit(server)
    server.device.token_s = 1.0
    with page.expect_response("**/v1/completions"):
        write(page, "A slow snail")
    page.keyboard.press("Escape")
    expect(outcome(page)).to_have_text("Stopped.")
    late = visit(server)
    expect(others(late).filter(has_text="A slow snail")).to_contain_text("stopped")
    assert others(page).filter(has_text="A slow snail").count() == 0


def test_texts_of_others_are_text(server, visit):
    reader, writer = visit(server), visit(server)
    ready(reader)
    write(writer, EVIL, length=10)
    expect(outcome(writer)).to_contain_text("tokens with seed")
    expect(others(reader).first).to_contain_text(EVIL)
    for page in (reader, writer):
        assert page.evaluate("window.hurt") is None
        assert page.locator("main img, main script").count() == 0


def test_private_stories_go_to_nobody_else(stories_nano, visit):
    with serving(stories_nano, shared=False) as served:
        reader, writer = visit(served), visit(served)
        ready(reader)
        write(writer, "A red ball")
        expect(outcome(writer)).to_contain_text("40 tokens")
        expect(reader.locator("#others")).to_be_hidden()
        assert list(served.service.stories) == []
        assert "A red ball" not in reader.content()
        reader.context.close()
        writer.context.close()


def test_a_picture_of_it_is_taken(server, chromium):
    server.device.token_s = 0.002
    content = snapshot.take(chromium, server.url, letters=100)
    assert test_pictures.png_size(content) == (snapshot.SIZE["width"], snapshot.SIZE["height"])
    shown = [story.prompt for story in server.service.stories]
    assert set(shown) >= set(snapshot.STORIES)


# Whatever happens ---------------------------------------------------------------------------------


def test_a_key_is_asked_for_and_kept_for_the_visit(stories_nano, visit):
    with serving(stories_nano, keys=("right",)) as served:
        page = visit(served, faults=("401",))
        field = page.get_by_label("This server wants an API key")
        expect(field).to_be_visible()
        expect(page.locator("#problem")).to_be_hidden()
        field.fill("wrong")
        field.press("Enter")
        expect(page.locator("#problem")).to_contain_text("not take this key")
        field.fill("right")
        field.press("Enter")
        write(page)
        expect(field).to_be_hidden()
        expect(outcome(page)).to_contain_text("40 tokens")
        page.reload()
        ready(page)
        expect(field).to_be_hidden()
        page.context.close()


def test_a_lost_device_is_told_and_found_again(server, visit):
    page = visit(server, faults=("503",))
    server.device.token_s = 0.02
    write(page, length=1000)
    expect(story(page)).to_contain_text(f"{PROMPT}, there")
    server.device.fault = "the board does not answer; check its cable"
    expect(outcome(page)).to_contain_text("check its cable")
    expect(page.locator("#problem")).to_contain_text("check its cable")
    expect(page.locator("#state")).to_have_text("device lost")
    server.device.fault = None
    server.device.token_s = 0.0
    expect(page.locator("#problem")).to_be_hidden()
    write(page)
    expect(outcome(page)).to_contain_text("40 tokens")


def test_the_page_finds_a_server_that_begins_again(stories_nano, visit):
    with serving(stories_nano) as served:
        page = visit(served, faults=("ERR_",))
        ready(page)
    expect(page.locator("#problem")).to_contain_text("cannot be reached")
    with serving(stories_nano, port=served.port):
        ready(page)
        expect(page.locator("#problem")).to_be_hidden()
        page.context.close()


# Everyone can use it ------------------------------------------------------------------------------


def test_it_is_used_by_keyboard_alone(server, visit):
    page = visit(server)
    ready(page)
    server.device.token_s = 0.02
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
        style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert style == "solid", f"the focus of {reached[-1]} is not seen"
    assert reached == ["prompt", "temperature", "seed", "length", "write"]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type("300")
    page.keyboard.press("Enter")
    expect(page.locator("#story")).to_have_class("sheet writing")
    page.keyboard.press("Escape")
    expect(outcome(page)).to_have_text("Stopped.")
    page.locator("#prompt").focus()
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type("The old")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("boat")
    assert page.locator("#prompt").input_value() == "The old\nboat"
    page.keyboard.press("ControlOrMeta+Enter")
    expect(story(page)).to_contain_text("The old\nboat ")
    page.keyboard.press("Escape")
    expect(outcome(page)).to_have_text("Stopped.")


CONTRASTS = """() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const luminance = (color) => {
    const [r, g, b] = parts(color).map((v) => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return parts(color)[3] === 0 ? ground(element.parentElement) : color;
  };
  const shown = (element) => element.checkVisibility() && !element.disabled && (element.value
    || [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
  return [...document.querySelectorAll("body *")].filter(shown).map((element) => {
    const colors = [getComputedStyle(element).color, ground(element)];
    const [low, high] = colors.map(luminance).sort((a, b) => a - b);
    return [element.id || element.outerHTML.slice(0, 60), (high + .05) / (low + .05)];
  });
}"""
NAMELESS = """() => {
  const all = "button, input, textarea, [tabindex], [role=img], section";
  const named = (element) => element.labels?.length || element.ariaLabel
    || element.matches("button") && element.textContent.trim()
    || document.getElementById(element.getAttribute("aria-labelledby"))?.textContent;
  return [...document.querySelectorAll(all)].filter((element) => !named(element))
    .map((element) => element.outerHTML);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_shown_can_be_read_and_named(server, visit, scheme):
    writer, page = visit(server), visit(server, color_scheme=scheme, reduced_motion="reduce")
    ready(page)
    write(writer, f"A {scheme} room", length=10)
    write(page)
    expect(outcome(page)).to_contain_text("40 tokens")
    expect(others(page).filter(has_text=f"A {scheme} room")).to_contain_text("ended at its length")
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 30
    assert [each for each in contrasts if each[1] < 4.5] == []
    assert page.evaluate(NAMELESS) == []
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("h1").count() == 1
    animated = "[...document.querySelectorAll('*')].flatMap((e) => e.getAnimations())"
    assert page.evaluate(animated) == []


@pytest.mark.parametrize("width", [320, 375, 1280])
def test_it_fits_every_width(server, visit, width):
    page = visit(server, viewport={"width": width, "height": 800})
    write(page, "word" * 60, length=60)
    expect(outcome(page)).to_contain_text("60 tokens")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    columns = page.evaluate("getComputedStyle(document.querySelector('main')).gridTemplateColumns")
    assert len(columns.split()) == (2 if width == 1280 else 1)
