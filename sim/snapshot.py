"""The server's page as a picture, while several people write on a simulated board."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from weights.errors import ReportedError

SIZE = {"width": 1280, "height": 960}
"""Of the picture, in pixels."""
STORIES = ("Once upon a time", "Lily and her mom went to the park. They", "The little dragon was")
"""How they begin: that of the picture's page, and the others."""
TOKENS, TEMPERATURE = 200, 0.4
LETTERS = 220
"""Of the page's own story when the picture is taken."""
PATIENCE_MS = 300_000


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """An installed Chromium.

    Raises
    ------
    ReportedError
        There is none.
    """
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise ReportedError("chromium is not installed, which takes the picture; install it")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path)
        with contextlib.closing(started):
            yield started


def take(browser: Any, url: str, letters: int = LETTERS) -> bytes:
    """A PNG of the page at an address, with so much of a story, and others beside it."""
    from playwright.sync_api import expect

    with contextlib.ExitStack() as stack:
        pages = []
        for _ in STORIES:
            context = stack.enter_context(
                contextlib.closing(browser.new_context(viewport=SIZE, color_scheme="light"))
            )
            pages.append(context.new_page())
            pages[-1].goto(url)
            expect(pages[-1].locator("#state")).to_contain_text("ready", timeout=PATIENCE_MS)
        for seed, (page, prompt) in enumerate(zip(pages, STORIES, strict=True)):
            for field, value in (
                ("prompt", prompt),
                ("temperature", f"{TEMPERATURE}"),
                ("seed", f"{seed}"),
                ("length", f"{TOKENS}"),
            ):
                page.fill(f"#{field}", value)
            page.click("#write")
        enough = re.compile(f".{{{letters}}}", re.DOTALL)
        expect(pages[0].locator("#text")).to_have_text(enough, timeout=PATIENCE_MS)
        return pages[0].screenshot()


@contextlib.contextmanager
def serving(arguments: Sequence[str], folder: Path) -> Iterator[str]:
    """A server with these arguments, run in a folder; its address."""
    command = [sys.executable, "-m", "host.serve", "--port", "0", *arguments]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            if not line:
                raise ReportedError("the server did not begin; it has said why")
            yield line.split()[-1]
        finally:
            process.send_signal(signal.SIGINT)
