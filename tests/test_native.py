"""The native model against the golden one to the bit, its threads, and how it is compiled."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from host.errors import DeviceError, UsageError
from host.urls import open_device
from sim import libraries, losses, native
from sim.compiler import SimulationError
from sim.golden_device import GoldenDevice
from sim.models import model_at_the_bounds, random_model
from sim.native import NativeDevice, NativeModel
from sim.native.__main__ import main
from sim.native.check import DifferenceError, check, compare
from sim.speed import pace_of_device
from weights.checkpoint import ModelShape
from weights.files import ZOO
from weights.model import IntegerModel

ROOT = Path(__file__).resolve().parents[1]

FLAVOURS = {
    "here": native.recipe_here(),
    "avx2": native.recipe("-march=x86-64-v3"),
    # The code for any processor, in which what the language leaves undefined ends the process.
    "portable": native.recipe("-fsanitize=undefined", "-fno-sanitize-recover=all"),
}

# The smallest of everything, odd sizes, sizes above and below a block, deep and thin.
SHAPES = [
    ModelShape(hidden=1, layers=1, intermediate=1, vocabulary=1),
    ModelShape(hidden=37, layers=2, intermediate=61, vocabulary=301),
    ModelShape(hidden=16, layers=4, intermediate=49, vocabulary=257),
    ModelShape(hidden=97, layers=1, intermediate=131, vocabulary=1001),
    ModelShape(hidden=14, layers=24, intermediate=19, vocabulary=77),
    ModelShape(hidden=300, layers=2, intermediate=33, vocabulary=50),
]
LARGE = ModelShape(hidden=500, layers=2, intermediate=900, vocabulary=3000)
"""Its matrices are shared out among threads."""


@pytest.fixture(scope="session", params=FLAVOURS)
def library(request) -> Path:
    if request.param == "avx2" and "avx2" not in " ".join(native.processor()).split():
        pytest.skip("this processor lacks AVX2")
    return libraries.library(FLAVOURS[request.param])


@pytest.fixture(scope="session")
def library_here() -> Path:
    return libraries.library(FLAVOURS["here"])


@pytest.mark.whole
@pytest.mark.parametrize("path", sorted(ZOO.glob("*.safetensors")), ids=lambda path: path.stem)
def test_shipped_models(library_here, path):
    model = IntegerModel.load(path)
    compare([NativeModel(model, library_here)], model, 300)


@pytest.mark.whole
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape(library, shape, tmp_path):
    model = random_model(tmp_path, shape, seed=shape.hidden)
    compare([NativeModel(model, library)], model, 60)


@pytest.mark.whole
@pytest.mark.parametrize("seed", range(12))
def test_values_at_the_bounds(library, seed, tmp_path):
    shape = ModelShape(hidden=35, layers=2, intermediate=21, vocabulary=301)
    model = model_at_the_bounds(random_model(tmp_path, shape, seed=3), seed)
    compare([NativeModel(model, library)], model, 12, seed)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(ZOO.glob("*.safetensors")), ids=lambda path: path.stem)
def test_shipped_models_at_length(library_here, path):
    assert check(IntegerModel.load(path), library_here, 20_000, sequences=200) == 20_000


@pytest.mark.whole
def test_sequences_go_their_own_ways(library_here, tmp_path):
    """A check is of many texts; the models that it is given are each compared from the start."""
    model = random_model(tmp_path, SHAPES[1], seed=2)
    natives = [NativeModel(model, library_here) for _ in range(5)]
    natives[3].step(7)
    compare(natives, model, 12)
    assert len({native.state.tobytes() for native in natives}) == 5
    assert check(model, library_here, 31, sequences=10) == 40
    assert check(model, library_here, 3, sequences=10) == 3


@pytest.mark.whole
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("layers.1.mlp.gate.trits", r"^sums of the head at token 0 of sequence 0: number \d+ is "),
        ("head.scale", r"^scale of the head at token 0 of sequence 0: number 0 is "),
    ],
)
def test_a_difference_is_told(library_here, tmp_path, change, told):
    model = random_model(tmp_path, SHAPES[1], seed=2)
    other = {name: model[name].copy() for name in model.tensors}
    other[change].flat[0] ^= 1
    with pytest.raises(DifferenceError, match=told):
        compare([NativeModel(replace(model, tensors=other), library_here)], model, 4)


@pytest.fixture(scope="session")
def large(tmp_path_factory) -> IntegerModel:
    return random_model(tmp_path_factory.mktemp("large"), LARGE, seed=5)


@pytest.mark.whole
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_change_nothing(library, large, threads):
    compare([NativeModel(large, library, threads)], large, 40)


@pytest.mark.whole
def test_device_equals_golden(large):
    """Greedy and sampled tokens, stop tokens, logits and totals through the devices."""
    golden = GoldenDevice()
    golden.load(large)
    with contextlib.closing(open_device("native://?threads=2")) as device:
        assert device.identify() is None and device.counters() == []
        with pytest.raises(UsageError, match=r"^native://\?threads=2: no model is loaded"):
            device.generate([1], 1)
        device.load(large)
        prompt = [5, 2999, 0, 17]
        for temperature, seed in ((0.0, 0), (1.0, 3), (0.4, 4)):
            given = {"temperature": temperature, "seed": seed}
            expected = list(golden.generate(prompt, 30, **given))
            assert list(device.generate(prompt, 30, **given)) == expected
            ended = list(golden.generate(prompt, 30, **given, stop=[expected[20]]))
            assert list(device.generate(prompt, 30, **given, stop=[expected[20]])) == ended
        for ours, theirs in zip(device.logits(prompt), golden.logits(prompt), strict=True):
            assert ours.dtype == theirs.dtype and (ours == theirs).all()
        assert device.totals() == golden.totals()
        assert device.totals().tokens == len(prompt)


@pytest.mark.whole
def test_one_text_comes_many_times_as_fast_as_golden():
    """About 150 times on a machine of today; less than 20 would be something else that is wrong."""
    model = IntegerModel.load(ZOO / "stories-small.safetensors")
    golden = pace_of_device(GoldenDevice(), model, tokens=20, runs=3)
    with contextlib.closing(NativeDevice(1)) as device:
        assert pace_of_device(device, model, tokens=20, runs=20).fastest > 20 * golden.fastest


@pytest.mark.whole
def test_loss_is_golden(validation_text):
    given = {
        "model": ZOO / "stories-tiny.safetensors",
        "text": validation_text,
        "windows": 4,
        "length": 64,
    }
    golden = losses.evaluate(backend="golden", **given)
    assert losses.evaluate(backend="native://", **given).nll == pytest.approx(golden.nll, abs=1e-12)


# Threads, interrupts, processes ---------------------------------------------------------------


def threads_of_this_process() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.mark.whole
def test_threads_end_with_the_model(library_here, large):
    before = threads_of_this_process()
    model = NativeModel(large, library_here, threads=4)
    assert threads_of_this_process() == before + 3
    model.step(1)
    del model
    assert threads_of_this_process() == before


@pytest.mark.whole
def test_small_models_start_no_threads(library_here, tmp_path):
    before = threads_of_this_process()
    model = NativeModel(random_model(tmp_path, SHAPES[1], seed=1), library_here, threads=8)
    assert threads_of_this_process() == before
    model.step(1)


@pytest.mark.whole
def test_idle_threads_sleep(library_here, large):
    model = NativeModel(large, library_here, threads=4)
    model.step(1)
    time.sleep(0.2)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1
    model.step(1)
    model.choose(None, 1)


@pytest.mark.whole
def test_threads_of_python_take_turns(large):
    """Two answers at once: the later one is right, the earlier one ends with an error."""
    device = NativeDevice(3)
    device.load(large)
    expected = list(device.generate([7], 20))
    earlier = device.generate([3], 10_000)
    next(earlier)
    found: list[str] = []

    def go_on() -> None:
        try:
            for _ in earlier:
                pass
        except DeviceError as error:
            found.append(str(error))

    other = threading.Thread(target=go_on)
    other.start()
    for _ in range(5):
        assert list(device.generate([7], 20)) == expected
    other.join(60)
    assert not other.is_alive()
    assert len(found) == 1 and "something else was started on it" in found[0]
    device.close()


@pytest.mark.whole
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_works_alone(library_here, large):
    model = NativeModel(large, library_here, threads=4)
    model.step(1)
    token = model.choose(None, 1)
    child = os.fork()
    if not child:
        signal.alarm(60)
        model.start()
        model.step(1)
        right = model.choose(None, 1) == token
        del model
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
    model.start()
    model.step(1)
    assert model.choose(None, 1) == token


@pytest.mark.whole
def test_interrupt_ends_the_program(library_here):
    words = ["--device", "native://?threads=4", "--model", "stories-base", "--no-stop"]
    process = subprocess.Popen(
        [sys.executable, "host/infer.py", *words, "--prompt", "Once", "--tokens", "100000000"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.read(200)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, b"")


# How it is compiled ---------------------------------------------------------------------------


def test_another_processor_has_another_library(monkeypatch):
    here = native.recipe_here()
    monkeypatch.setattr(native, "processor", lambda: ("vendor_id : another",))
    assert native.recipe_here().digest != here.digest
    assert "-march=native" in native.recipe_here().ingredients
    monkeypatch.setattr(native, "processor", lambda: ())
    unknown = native.recipe_here()
    assert unknown.digest == native.recipe().digest
    assert not any("-march" in text for text in unknown.ingredients)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs Linux")
def test_processor_is_told_without_what_changes():
    facts = native.processor()
    assert facts == native.processor()
    assert not any("MHz" in line or "processor" in line for line in facts)


def test_compiler_that_is_missing_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(DeviceError, match=r"^native://: no C\+\+ compiler 'no-such-compiler'"):
        open_device("native://")


@pytest.mark.whole
def test_no_warnings(tmp_path, monkeypatch):
    recipe = native.recipe("-Werror")
    assert libraries.library(recipe, cache=tmp_path, progress=lambda text: None).is_file()
    monkeypatch.setattr(native, "constants", lambda: "constexpr int MANTISSA_BITS = 15\n")
    with pytest.raises(SimulationError, match=r"the native model does not compile: .*error"):
        libraries.library(native.recipe(), cache=tmp_path, progress=lambda text: None)


# The program ----------------------------------------------------------------------------------


@pytest.mark.whole
def test_speeds_are_printed(capsys, library_here):
    assert main(["stories-tiny", "--threads", "1", "--threads", "2", "--tokens", "9"]) == 0
    one, two = capsys.readouterr().out.splitlines()
    assert one.startswith("stories-tiny, 1 thread: ")
    assert two.startswith("stories-tiny, 2 threads: ")
    for line in (one, two):
        figures = re.fullmatch(
            r".* ([\d,]+) tokens/s \(([\d,]+) to ([\d,]+)\), ([\d,]+) a second of a processor", line
        )
        median, low, high, busy = (int(text.replace(",", "")) for text in figures.groups())
        assert 0 < low <= median <= high and busy > 0


@pytest.mark.whole
def test_checks_are_printed(capsys, library_here, monkeypatch):
    words = ["stories-nano", "stories-tiny", "--check", "50", "--sequences", "20"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, line in zip(("nano", "tiny"), lines, strict=True):
        assert re.fullmatch(rf"stories-{name}, 1 thread: 60 tokens equal to golden, in \d+ s", line)
    monkeypatch.setattr("sim.native.check.choose", lambda *_: 0)
    assert main(words) == 1
    output, errors = capsys.readouterr()
    assert output == "" and errors.count("\n") == 1
    assert "stories-nano: choice after token 0 of sequence 0: number 0 is" in errors


@pytest.mark.parametrize(
    "words",
    [
        *(["--tokens", "0"], ["--runs", "0"], ["--threads", "0"], ["--threads", "257"]),
        *(["--check", "0"], ["--sequences", "0"]),
    ],
)
def test_numbers_are_checked(capsys, words):
    with pytest.raises(SystemExit) as exit:
        main(["stories-tiny", *words])
    assert exit.value.code == 2
    assert f"{words[0]} must be 1 to" in capsys.readouterr().err
