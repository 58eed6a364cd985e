"""Size, memory and time of a model as large as the smallest published one: converted, and run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sim import libraries, native
from sim.checkpoints import RandomCheckpoint
from sim.native.check import check
from weights.architectures.mmfree import ModelShape, matrices
from weights.checkpoint import Checkpoint
from weights.model import IntegerModel
from weights.quantise import convert

ROOT = Path(__file__).resolve().parents[1]

SHAPE_370M = ModelShape(hidden=1024, layers=24, intermediate=2816, vocabulary=32000)
TERNARY_BYTES = 85.3e6
TERNARY_TOLERANCE = 0.01
MEMORY_LIMIT = 3e9
TIME_LIMIT = 300
NATIVE_MEMORY = 200e6
"""Beside the size of the model's file."""
NATIVE_SPEED = 5
"""Tokens per second on two processors."""


MEASURE = """
import json, os, subprocess, sys, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
start = time.perf_counter()
process = subprocess.Popen([sys.executable, "-m", *sys.argv[1:]], stdout=sys.stderr)
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
print(json.dumps({
    "status": process.returncode,
    "seconds": round(time.perf_counter() - start, 1),
    "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
    "memory": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
}))
"""
"""Runs a program on two processors. A process of its own, because a child's peak memory
is at least what its parent had when it started it."""


def measure(*arguments: str) -> dict[str, Any]:
    """What ``python -m arguments...`` took: exit status, seconds, peak memory in bytes."""
    command = [sys.executable, "-c", MEASURE, *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    usage: dict[str, Any] = json.loads(done.stdout)
    return usage


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="needs the usage of one process")
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_conversion_of_370m(
    tmp_path: Path, dtype: str, record_property: Callable[[str, object], None]
) -> None:
    checkpoint = RandomCheckpoint(shape=SHAPE_370M, dtype=dtype).write(tmp_path / "checkpoint")
    output = tmp_path / "model.safetensors"
    usage = measure("weights", "convert", str(checkpoint), str(output))
    assert usage["status"] == 0
    model = IntegerModel.load(output)
    ternary = sum(model[f"{name}.trits"].nbytes for name in matrices(SHAPE_370M))
    figures = usage | {"ternary_bytes": ternary, "file_bytes": output.stat().st_size}
    print(dtype, figures)
    for name, value in figures.items():
        record_property(name, value)
    assert ternary == pytest.approx(TERNARY_BYTES, rel=TERNARY_TOLERANCE)
    assert usage["memory"] < MEMORY_LIMIT
    assert usage["seconds"] < TIME_LIMIT
    for path in (output, *checkpoint.iterdir()):
        path.unlink()  # gigabytes, which pytest would keep for three runs


@pytest.fixture(scope="module")
def model_of_370m(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("370m")
    checkpoint = RandomCheckpoint(shape=SHAPE_370M, dtype="bf16").write(folder / "checkpoint")
    convert(Checkpoint(checkpoint)).save(folder / "model.safetensors")
    shutil.rmtree(checkpoint)
    yield folder / "model.safetensors"
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="needs the usage of one process")
def test_native_model_of_370m(
    model_of_370m: Path, capfd: pytest.CaptureFixture[str], record_property: Callable[..., None]
) -> None:
    """What a user has who runs it: load, and a speed that is read off the program's own line."""
    libraries.library(native.recipe_here())
    size = model_of_370m.stat().st_size
    words = ("sim.native", str(model_of_370m), "--threads", "2", "--tokens", "30", "--runs", "3")
    usage = measure(*words)
    assert usage["status"] == 0
    speed = re.search(r": ([\d,]+) tokens/s", capfd.readouterr().err)
    assert speed is not None
    figures = usage | {"file_bytes": size, "tokens_per_s": int(speed[1].replace(",", ""))}
    print(figures)
    for name, value in figures.items():
        record_property(name, value)
    assert figures["tokens_per_s"] >= NATIVE_SPEED
    assert usage["memory"] <= size + NATIVE_MEMORY


@pytest.mark.slow
def test_native_model_of_370m_is_golden(model_of_370m: Path) -> None:
    model = IntegerModel.load(model_of_370m)
    library = libraries.library(native.recipe_here())
    assert check(model, library, 24, sequences=3, threads=2) == 24
