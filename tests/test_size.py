"""Size, memory and time of a conversion as large as the smallest published model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sim.checkpoints import RandomCheckpoint
from weights.architectures.mmfree import ModelShape, matrices
from weights.model import IntegerModel

ROOT = Path(__file__).resolve().parents[1]

SHAPE_370M = ModelShape(hidden=1024, layers=24, intermediate=2816, vocabulary=32000)
TERNARY_BYTES = 85.3e6
TERNARY_TOLERANCE = 0.01
MEMORY_LIMIT = 3e9
TIME_LIMIT = 300


MEASURE = """
import json, os, subprocess, sys, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
start = time.perf_counter()
process = subprocess.Popen([sys.executable, "-m", "weights", *sys.argv[1:]], stdout=sys.stderr)
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
print(json.dumps({
    "status": process.returncode,
    "seconds": round(time.perf_counter() - start, 1),
    "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
    "memory": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
}))
"""
"""Runs ``python -m weights`` on two processors. A process of its own, because a child's peak memory
is at least what its parent had when it started it."""


def measure(*arguments: str) -> dict[str, Any]:
    """What ``python -m weights arguments...`` took: exit status, seconds, peak memory in bytes."""
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
    usage = measure("convert", str(checkpoint), str(output))
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
