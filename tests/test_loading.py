"""What a load of a shipped model takes of a line, and what compression would save of that."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from host.compiler import compile_image
from host.device import LinkDevice
from hw.boards import board
from hw.links.uart import BITS
from tests.fake_device import IDENTITY, FakeDevice, FakePort
from weights.files import ZOO
from weights.model import IntegerModel

BAUD = 1_000_000
MODELS = {"stories-small": "ulx3s_85f", "stories-base": "ulx3s_85f_sdram"}


class CountingPort(FakePort):
    """Bytes both ways: they never pass at the same time."""

    passed = 0

    def write(self, data):
        self.passed += len(data)
        super().write(data)

    def read(self, size=1):
        data = super().read(size)
        self.passed += len(data)
        return data

    @property
    def seconds(self) -> float:
        return self.passed * (BITS + 2) / BAUD


@pytest.fixture(params=MODELS)
def shipped(request) -> tuple[IntegerModel, str]:
    return IntegerModel.load(ZOO / f"{request.param}.safetensors"), MODELS[request.param]


def test_a_load_is_little_more_than_the_model(shipped, record_property: Callable):
    model, name = shipped
    device = FakeDevice(replace(IDENTITY, geometry=board(name).machine.geometry))
    first, again = CountingPort(device), CountingPort(device)
    cold, warm = LinkDevice(first), LinkDevice(again)
    cold.load(model)
    warm.load(model)
    assert cold.image is not None
    size = sum(map(len, cold.image.sections.values()))
    figures = {"bytes": size, "cold_s": first.seconds, "held_s": again.seconds}
    print(figures)
    for key, value in figures.items():
        record_property(key, value)
    assert size < first.passed < 1.06 * size
    assert again.passed < 600  # a few checksums of whole memories


def test_compression_would_save_little(shipped, record_property: Callable):
    """Of trits that lie five in a byte, and of tables: not what it takes to undo it in a device."""
    model, name = shipped
    geometry = replace(
        board(name).machine.geometry, **{"rows": 20, "columns": 8, "trits_per_byte": 5},
        **{"weight_rows": 1 << 17, "sums": 1 << 13, "multiplicands": 1 << 10},
        **{"elements": 2, "table_words": 1 << 15, "embedding_words": 1 << 20},
    )  # fmt: skip
    sections = compile_image(model, geometry).sections.values()
    size = sum(map(len, sections))
    saved = 1 - sum(len(zlib.compress(section, 9)) for section in sections) / size
    print(f"{saved:.1%} of {size:,} bytes")
    record_property("saved", saved)
    assert 0 < saved < 0.15
