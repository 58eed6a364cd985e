"""How the programs of the simulated device and of the build end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sim.cores import board_library

pytestmark = pytest.mark.whole

REPOSITORY = Path(__file__).parents[1]


def start(*words, **variables):
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=REPOSITORY,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("module", ["sim.device", "sim.serve", "hw.build"])
@pytest.mark.parametrize("words", [("no_such_board",), ("sim_tiny", "--no-such-option"), ()])
def test_wrong_words_are_one_line(module, words):
    process = start(module, *words)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == (1 if words == ("no_such_board",) else 2)
    assert output == "" and len(errors.splitlines()) == 1
    assert "no_such_board" in errors or f"python -m {module} --help" in errors


@pytest.mark.parametrize("way", [[], ["--pty"]])
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_server_ends_quietly(way, number, status):
    board_library("sim_tiny")
    process = start("sim.serve", "sim_tiny", *way)
    assert process.stdout.readline().startswith("/dev/" if way else "socket://127.0.0.1:")
    process.send_signal(number)
    assert process.communicate(timeout=20)[1] == ""
    assert process.returncode == status


def test_interrupted_compilation_leaves_nothing(tmp_path):
    process = start("sim.device", "sim_tiny", XDG_CACHE_HOME=str(tmp_path))
    folder = tmp_path / "tritstream" / "sim"
    deadline = time.monotonic() + 120
    while not list(folder.glob("*/core.v")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, "")
    assert [line.split(" (")[0] for line in errors.splitlines()] == [
        "compiling the simulated device sim_tiny"
    ]
    assert {path.suffix for path in folder.iterdir()} <= {".lock", ".log"}
