"""What ``CONTRIBUTING.md`` names is there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def test_files_are_there():
    named = re.findall(r"`([\w./]+/[\w.]*)`", TEXT)
    assert len(named) > 20
    for path in named:
        if not re.search(r"NAME|FAMILY", path):
            assert (ROOT / path).exists(), path


def test_targets_are_there():
    targets = set(re.findall(r"`make (\w+)", TEXT))
    assert targets >= {"quick", "test", "sim", "budget", "bitstream"}
    assert targets <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
