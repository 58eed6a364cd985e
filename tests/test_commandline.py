"""How every program reads its words, and ends."""

import subprocess
import sys
from pathlib import Path

import pytest

from weights.commandline import OneLineParser

REPOSITORY = Path(__file__).parents[1]
INFER = [sys.executable, "host/infer.py", "--device", "golden://", "--model", "stories-tiny"]
TEXT = [*INFER, "--prompt", "Once", "--tokens", "3"]

HIDING = """\
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""


def shell(line, *words, **variables):
    return subprocess.run(
        ["bash", "-c", line, "bash", *words],
        cwd=REPOSITORY,
        env=variables or None,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("text", ["--", "-", "--tokens", "-1", "a"])
def test_free_text_is_any_text(text):
    parser = OneLineParser(free_text=("--free-text",))
    parser.add_argument("--free-text")
    assert parser.parse_args(["--free-text", text]).free_text == text
    assert parser.parse_args([f"--free-text={text}"]).free_text == text


@pytest.mark.parametrize("package", ["numpy", "tokenizers", "safetensors"])
@pytest.mark.parametrize("program", ["host/infer.py", "-m weights", "-m sim.evaluate"])
def test_missing_package_is_one_line(tmp_path, package, program):
    (tmp_path / "sitecustomize.py").write_text(HIDING.format(name=package))
    line = '"$1" $2 --prompt Once --model stories-tiny --device golden://'
    if program != "host/infer.py":
        line = '"$1" $2 --help'
    done = shell(line, sys.executable, program, PYTHONPATH=str(tmp_path), HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"needs {package}, which {sys.executable} does not have: ")
    assert len(done.stderr.splitlines()) == 1


def test_closed_standard_error_is_no_failure():
    done = shell('exec "$@" 2>&-', *TEXT)
    assert done.returncode == 0 and done.stdout.startswith("Once")
    assert "tokens/s" not in done.stdout


def test_closed_standard_streams_are_no_failure():
    done = shell('exec "$@" <&- >&- 2>&-', *TEXT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("words", [TEXT, [*INFER, "--help"]], ids=["text", "help"])
def test_full_standard_output_is_named(words):
    done = shell('exec "$@" > /dev/full', *words)
    assert done.returncode == 1
    assert done.stderr == "standard output: No space left on device\n"
