"""The Makefile over a project of no size: when .venv is made, and what reaches the programs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"

# Stands for Python: makes a .venv with a package installer that installs nothing, and counts.
PYTHON = """\
#!/bin/sh
set -e
if [ "$1" = -m ]; then
    echo made >> "$COUNT"
    "{python}" -m venv --without-pip "$3"
    [ -z "$FAILS" ] || exit 1
    for lib in "$3"/lib/python*/site-packages; do
        mkdir -p "$lib/pip" && : > "$lib/pip/__init__.py" && : > "$lib/pip/__main__.py"
    done
else
    exec "{python}" "$@"
fi
"""
SHOW = """\
#!{python}
import sys
print(sys.argv[1:])
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


class Project:
    """A folder with the Makefile, in which `make` runs."""

    def __init__(self, folder: Path, tools: Path):
        self.folder = folder
        self.tools = tools
        self.count = tools / "count"
        folder.mkdir(parents=True)
        tools.mkdir()
        shutil.copy(MAKEFILE, folder)
        (folder / "pyproject.toml").touch()
        for name, text in (("python", PYTHON), ("show", SHOW)):
            (tools / name).write_text(text.format(python=sys.executable))
            (tools / name).chmod(0o755)

    def make(self, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        environment = {n: v for n, v in os.environ.items() if n not in ("MAKEFLAGS", "MAKELEVEL")}
        return subprocess.run(
            ["make", *words],
            cwd=self.folder,
            env={**environment, "COUNT": str(self.count), **variables},
            capture_output=True,
            text=True,
        )

    def install(self, **variables: str) -> int:
        """Make the .venv; the status of make."""
        return self.make(
            ".venv/.with-sim", f"PYTHON={self.tools / 'python'}", **variables
        ).returncode

    @property
    def made(self) -> int:
        """How often a .venv was made."""
        return len(self.count.read_text().split()) if self.count.exists() else 0

    def works(self) -> bool:
        command = [self.folder / ".venv/bin/python", "-m", "pip"]
        return subprocess.run(command, cwd=self.folder).returncode == 0

    def arguments(self, target: str, *words: str, **variables: str) -> list[str]:
        """What a target gives to the program that it runs."""
        installed = ["-o", ".venv/.with-sim", "-o", ".venv/.with-build,sim"]
        installed += ["-o", ".venv/.with-serve,sim", "-o", ".venv/.with-build"]
        show = f"RUN={self.tools / 'show'}"
        done = self.make("-s", *installed, target, show, *words, **variables)
        assert (done.returncode, done.stderr) == (0, "")
        return eval(done.stdout)


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path / "my friend's projects" / "p", tmp_path / "tools")


# The .venv ------------------------------------------------------------------------------------


def test_venv_is_made_once(project):
    assert project.install() == 0 and project.works()
    assert project.install() == 0
    assert project.made == 1


def unfinished(project):
    shutil.rmtree(project.folder / ".venv")
    assert project.install(FAILS="yes") != 0
    assert (project.folder / ".venv/bin/python").exists() and not project.works()


def killed(project):
    (project.folder / ".venv/.made-in").write_text("")


def moved(project):
    project.folder = project.folder.rename(project.folder.with_name("q"))


def copied(project):
    folder = project.folder.with_name("q")
    project.folder = shutil.copytree(project.folder, folder, symlinks=True)


def python_gone(project):
    python = (project.folder / ".venv/bin/python").resolve()
    for path in (project.folder / ".venv/bin").glob("python*"):
        if path.resolve() == python:
            path.unlink()
            path.symlink_to("/nonexistent/python3")


def python_upgraded(project):
    (library,) = (project.folder / ".venv/lib").glob("python*")
    library.rename(library.with_name("python3.0"))


@pytest.mark.parametrize("spoil", [unfinished, killed, moved, copied, python_gone, python_upgraded])
def test_venv_that_cannot_be_used_is_made_anew(project, spoil):
    assert project.install() == 0
    spoil(project)
    before = project.made
    assert project.install() == 0
    assert project.made == before + 1
    assert project.works()
    assert (project.folder / ".venv/.with-sim").exists()


def test_help_touches_nothing(project):
    assert project.install() == 0
    killed(project)
    done = project.make("help")
    assert done.returncode == 0 and (project.folder / ".venv").exists()
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    for target in (
        "demo",
        "profile",
        "serve",
        "test",
        "sim",
        "bitstream",
        "flash",
        "lint",
        "clean",
    ):
        assert f"make {target} " in done.stdout


# What users write -----------------------------------------------------------------------------

TEXTS = [
    "Tim's dog ran # 2",
    'She said "hi" to Tim',
    'Tim said, "',
    "a `echo dog` b",
    "cost: $5, $HOME, $(error no), $$ and 5 %",
    "-n --and dashes",
    "back\\slash\\",
    "*",
    "",
]


@pytest.mark.parametrize("target", ["demo", "profile"])
@pytest.mark.parametrize("text", TEXTS)
def test_prompt_arrives_as_it_is(project, target, text):
    expected = ["host/infer.py", "--device", "sim://ulx3s_85f", "--prompt", text]
    expected += ["--profile"] * (target == "profile")
    assert project.arguments(target, f"PROMPT={text}") == expected
    assert project.arguments(target, PROMPT=text) == expected


def test_demo_takes_a_model_and_tokens(project):
    words = project.arguments("demo", "MODEL=my models/it's", "TOKENS=3", "BOARD=sim_tiny")
    assert words[1:] == [
        *("--device", "sim://sim_tiny", "--prompt", "Once upon a time"),
        *("--model", "my models/it's", "--tokens", "3"),
    ]


def test_serve_takes_its_settings(project):
    assert project.arguments("serve") == ["-m", "host.serve", "--device", "sim://ulx3s_85f"]
    words = project.arguments("serve", "BOARD=sim_tiny", "MODEL=it's mine", "PORT=1 2")
    assert words[2:] == ["--device", "sim://sim_tiny", "--model", "it's mine", "--port", "1 2"]
    words = project.arguments("serve", "DEVICE=/dev/tty $HOME")
    assert words[2:] == ["--device", "/dev/tty $HOME"]


def test_bitstream_takes_its_settings(project):
    assert project.arguments("bitstream") == ["-m", "hw.build", "ulx3s_85f"]
    words = project.arguments("bitstream", "BOARD=x y", "SEEDS=2", "LIMIT=1.5", "JOBS=3")
    assert words[2:] == ["x y", "--seeds", "2", "--limit", "1.5", "--jobs", "3"]
    words = project.arguments("bitstream-all", "SEEDS=2", "JOBS=3")
    assert words == ["-m", "hw.build", "--all", "--seeds", "2", "--jobs", "3"]


def test_estimates_take_a_board_and_a_model(project):
    words = project.arguments("estimate", "BOARD=my boards/x.py", "MODEL=it's mine")
    assert words == ["-m", "sim.explore", "my boards/x.py", "--model", "it's mine"]
    assert project.arguments("estimate") == ["-m", "sim.explore", "ulx3s_85f"]
    assert project.arguments("explore") == ["-m", "sim.explore"]
    assert project.arguments("explore", "BOARD=x") == ["-m", "sim.explore", "x", "--geometries"]


def test_a_board_is_loaded(project):
    assert project.arguments("program") == ["-m", "hw.build.program", "ulx3s_85f"]
    words = project.arguments("flash", "BOARD=x y")
    assert words == ["-m", "hw.build.program", "x y", "--flash"]


def test_unknown_simulator_is_refused(project):
    done = project.make("sim", "SIM=questa")
    assert done.returncode == 2 and not (project.folder / ".venv").exists()
    (line,) = done.stderr.splitlines()
    assert "SIM must be icarus or verilator, not questa" in line
