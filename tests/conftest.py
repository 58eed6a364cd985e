"""Fixtures and options that all tests share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hw.boards import board, names
from hw.boards.icebreaker import BOARD as SMALLEST
from hw.machine import BlockRam
from weights.files import ZOO
from weights.model import IntegerModel

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with texts and upstream's fixture; the test is skipped where there is none."""
    if not SHARED.is_dir():
        pytest.skip("the development data folder is not here")
    return SHARED


@pytest.fixture(scope="session")
def upstream_tiny(shared: Path) -> Path:
    """The small checkpoint that upstream's code made, and what that code computed from it."""
    return shared / "fixtures" / "upstream-tiny"


@pytest.fixture(scope="session")
def validation_text(shared: Path) -> Path:
    """The validation stories that `upstream_tiny` was measured on."""
    return shared / "data" / "tinystories" / "valid.txt"


@pytest.fixture(scope="session")
def stories_nano() -> IntegerModel:
    """The smallest shipped model."""
    return IntegerModel.load(ZOO / "stories-nano.safetensors")


@pytest.fixture
def too_large(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a board whose device has too few multipliers for its machine."""
    for name in names():
        board(name)  # others have its machine, too: as it is
    stores = replace(SMALLEST.machine.stores, weights=BlockRam(narrow=True))
    machine = replace(SMALLEST.machine, stores=stores, compact=False)
    monkeypatch.setattr("hw.boards.icebreaker.BOARD", replace(SMALLEST, machine=machine))
    return SMALLEST.name


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes minutes; runs with --slow only")
    config.addinivalue_line(
        "markers", "whole: needs a compiled machine, a synthesis or many seconds; not in make quick"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow; runs with --slow"))
