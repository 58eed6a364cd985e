"""The doctor: a sound device passes, and each fault has its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from host import doctor
from host.checkup import (
    Finding,
    NotApplicableError,
    Story,
    Verdict,
    check_arithmetic,
    check_extremes,
    check_link,
    check_memories,
    checkup,
    found,
    random_model,
)
from host.compiler import compile_image
from host.device import LinkDevice
from host.errors import DeviceError
from host.urls import open_device
from hw.arch.operations import VectorOp
from hw.arch.program import ScalarOp, Unit
from hw.arch.protocol import Command, MemorySpace
from hw.boards import board, names
from sim.golden_device import GoldenDevice
from tests.fake_device import FakeDevice, FakePort

CHECKS = ["versions", "ports", "device", "link", "memories", "arithmetic", "extremes", "story"]


def on_a_line(fake: FakeDevice, **faults: float) -> LinkDevice:
    """A device behind a line with faults, which is asked again soon."""
    return LinkDevice(FakePort(fake, seed=1, **faults), name="fake", patience=0.02, attempts=30)


def verdicts(findings) -> dict[str, Verdict]:
    return {finding.name: finding.verdict for finding in findings}


# Lines and memories -------------------------------------------------------------------------------


def test_a_sound_line():
    text = check_link(on_a_line(FakeDevice()).link)
    assert text.startswith("100 echoes without a fault") and "KB/s down" in text


@pytest.mark.parametrize("faults", [{"drop": 1e-3}, {"flip": 1e-3}, {"repeat": 1e-3}])
def test_a_line_that_loses_is_named(faults):
    with pytest.raises(DeviceError, match=r"^commands that were not answered: [1-9]\d*, answers "):
        check_link(on_a_line(FakeDevice(), **faults).link)


def test_answers_that_are_lost_are_counted():
    """Every tenth frame does not arrive; nothing else is wrong."""
    device = on_a_line(FakeDevice())
    port, count = device.link._port, iter(range(1 << 20))
    write = port.write
    port.write = lambda data: write(b"" if next(count) % 10 == 9 else data)
    message = r"^commands that were not answered: 11, answers that were damaged: 0, of 103 or so;"
    with pytest.raises(DeviceError, match=message):
        check_link(device.link)


def test_a_device_that_says_something_else_every_time():
    fake = FakeDevice()
    device = on_a_line(fake)
    answers = iter(range(1 << 20))

    def respond(frame):
        response = FakeDevice.respond(fake, frame)
        if frame.command == Command.IDENTIFY:
            object.__setattr__(response, "payload", response.payload + bytes([next(answers) % 256]))
        return response

    fake.respond = respond
    with pytest.raises(DeviceError, match="something else of itself every time"):
        check_link(device.link)


class Stuck(FakeDevice):
    """Bit 5 of its weights is always 0."""

    def put(self, space, address, value):
        super().put(space, address, value & ~0x20 if space == MemorySpace.WEIGHTS else value)


def test_a_broken_memory_is_named():
    with pytest.raises(DeviceError, match=r"^weights: data line 5 is stuck at 0: half-word"):
        check_memories(on_a_line(Stuck()).link)


def test_memories_keep_what_they_held():
    fake = FakeDevice()
    random = np.random.default_rng(1)
    for space, content in fake.memory.items():
        fake.memory[space] = random.integers(1 << 16, size=len(content)).tolist()
    before = {space: list(content) for space, content in fake.memory.items()}
    text = check_memories(on_a_line(fake).link)
    assert text == "weights, tables, program, tokens, embedding: every data and address line"
    assert fake.memory == before and fake.writes > 0


# Arithmetic ---------------------------------------------------------------------------------------


class Wrong(GoldenDevice):
    """A device that computes something else than the golden model."""

    def __init__(self, **wrong: Callable):
        super().__init__()
        self.wrong = wrong

    def logits(self, tokens):
        yield from map(self.wrong.get("logits", lambda x: x), super().logits(tokens))

    def generate(self, *arguments, **options):
        change = self.wrong.get("token", lambda token, **_: token)
        for token in super().generate(*arguments, **options):
            yield change(token, **options)

    def state(self):
        return self.wrong.get("state", lambda x: x)(super().state())


def one_off(values):
    values = values.copy()
    values.flat[7] += 1
    return values


FAULTS = {
    "logits after token 0: number 7 is": {"logits": one_off},
    "tokens at temperature 1: number 0 is": {
        "token": lambda token, temperature=0.0, **_: token ^ (temperature == 1.0)
    },
    "states at temperature 0: number 7 is": {"state": one_off},
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_machine_that_computes_wrong_is_named(message):
    for check in (check_arithmetic, check_extremes):
        with pytest.raises(DeviceError, match=f"^{message}"):
            check(Wrong(**FAULTS[message]))


class Several(GoldenDevice):
    """A device of two contexts, the second of which gives other tokens from the sixth on."""

    def __init__(self, wrong: bool):
        super().__init__()
        self.second, self.wrong = GoldenDevice(), wrong

    def load(self, model, progress=None):
        super().load(model, progress)
        self.second.load(model)

    @property
    def slots(self):
        class Second:
            answer = staticmethod(self.answer_wrongly)

        return (*super().slots, Second)

    def answer_wrongly(self, request):
        for number, token in enumerate(self.second.answer_on(request)):
            yield token ^ (self.wrong and number > 4)


def test_all_contexts_are_compared():
    assert check_arithmetic(Several(wrong=False)).startswith("46 tokens of a small model")
    with pytest.raises(DeviceError, match=r"^tokens of context 1: number 5 is"):
        check_arithmetic(Several(wrong=True))


def test_a_story_that_is_another_one():
    story = Story(Wrong(token=lambda token, **_: token + 1))
    with pytest.raises(DeviceError, match=r"^tokens of the story: number 0 is"):
        story.tell()


def test_every_board_has_room_for_a_program_of_every_operation():
    model = random_model()
    for name in names():
        program = compile_image(model, board(name).geometry).program()
        operations = {(step.unit, step.op) for step in program}
        assert {op for unit, op in operations if unit == Unit.VECTOR} == set(VectorOp)
        assert {op for unit, op in operations if unit == Unit.SCALAR} == set(ScalarOp)


def test_what_does_not_fit_is_skipped():
    device = on_a_line(FakeDevice())
    for check in (partial(check_arithmetic, device), Story(device).tell, Story(device).count):
        assert found("it", check).verdict == Verdict.SKIPPED


# The whole ----------------------------------------------------------------------------------------


def test_findings_are_narrow():
    text = str(Finding(name="device", verdict=Verdict.FAILED, text="what  it\nis " * 30))
    first, *others = text.splitlines()
    assert first.startswith("device      FAILED   what it is what")
    assert len(others) > 3 and all(line.startswith(" " * 21) for line in others)
    assert max(map(len, text.splitlines())) <= 80


def test_a_model_is_kept():
    fake = FakeDevice()
    fake.session = 7
    findings = list(checkup(lambda: on_a_line(fake), keep_model=True))
    assert [finding.name for finding in findings] == CHECKS[:5]
    assert set(verdicts(findings).values()) == {Verdict.OK}
    assert (fake.session, fake.runs) == (7, [])


def test_a_fault_does_not_end_the_rest():
    device = on_a_line(Stuck())
    findings = verdicts(checkup(lambda: device))
    assert [*findings] == [*CHECKS, "cycles"]
    assert findings["memories"] == Verdict.FAILED
    assert findings["link"] == Verdict.OK and findings["arithmetic"] == Verdict.SKIPPED
    assert device.link._port.closed


def test_a_device_that_is_not_there(capsys):
    assert doctor.main(["--device", "/dev/nonsense"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("device      FAILED   /dev/nonsense: there is no") for line in lines)
    assert lines[-1] == "/dev/nonsense: checks that failed: 1"
    assert not any(line.startswith("link") for line in lines)


def test_software_passes(capsys):
    assert doctor.main(["--device", "golden://"]) == 0
    output = capsys.readouterr().out
    assert "link        skipped  there is no line to it" in output
    assert "arithmetic  ok       30 tokens of a small model, to the bit" in output
    assert output.endswith("golden://: no fault found\n")


@pytest.mark.whole
def test_a_simulated_board_passes_whole():
    device = open_device("sim://sim_tiny")
    findings = list(checkup(lambda: device))
    assert verdicts(findings) == dict.fromkeys([*CHECKS, "cycles"], Verdict.OK)
    told = r"[\d,]{7} of 28 tokens, as the timetable says; about 2,\d{3} tokens/s at 50 MHz"
    assert re.fullmatch(told, findings[-1].text)
    assert all(len(line) <= 80 for finding in findings for line in str(finding).splitlines())


@pytest.mark.whole
def test_cycles_that_are_not_those_of_the_timetable(monkeypatch):
    with open_device("sim://sim_tiny") as device:
        story = Story(device)
        with pytest.raises(NotApplicableError, match="there is no story"):
            story.count()
        story.tell()
        cycles = device.totals().cycles
        counted = replace(device.totals(), cycles=cycles + 1)
        monkeypatch.setattr(device, "totals", lambda: counted)
        message = rf"^{cycles + 1:,} cycles of 28 tokens, and {cycles:,} of 28"
        with pytest.raises(DeviceError, match=message):
            story.count()
