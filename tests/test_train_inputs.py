"""The trainer's configuration, data, schedule and command line: all that needs no PyTorch."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sim.checkpoints import RandomCheckpoint
from tests.stories import write_stories
from weights.__main__ import main
from weights.architectures.mmfree import matrices
from weights.checkpoint import Checkpoint, ModelShape
from weights.errors import ModelError
from weights.locks import locked
from weights.quantise import mean_magnitude, ternarise
from weights.text import token_windows
from weights.train import rounding, study
from weights.train.config import Config, read_config
from weights.train.data import HUB_TEXTS, first_windows, read_texts, token_stream, train_tokenizer
from weights.train.output import Manifest, claim, owned
from weights.train.report import Metrics, plot, read_metrics
from weights.train.schedule import learning_rate

ROOT = Path(__file__).resolve().parents[1]
CONFIG = """
[model]
hidden = 16
layers = 2
intermediate = 24
vocabulary = 300

[training]
steps = 10
batch = 4
"""


def one_line(error: pytest.ExceptionInfo[ModelError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# Configuration


def test_configuration(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(CONFIG + "learning_rate = 1\n")
    config = read_config(path)
    assert config.model.shape == ModelShape(hidden=16, layers=2, intermediate=24, vocabulary=300)
    assert config.training.learning_rate == 1 and config.training.length == 256
    digest = config.digest()
    path.write_text(CONFIG + "learning_rate = 1\nseed = 2\n")
    assert read_config(path).digest() != digest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 10", "stepz = 10", r"unknown setting training.stepz; there are steps, batch"),
        ("hidden = 16", 'hidden = "16"', r"model.hidden must be of type int, not '16'"),
        ("hidden = 16", "hidden = true", r"model.hidden must be of type int, not True"),
        ("hidden = 16", "hidden = 0", r"\[model\] hidden must be a positive integer"),
        ("layers = 2\n", "", r"setting model.layers is missing; add it"),
        ("[model]", "[modell]", r"unknown table modell; there are model and training"),
        ("[training]\nsteps = 10\nbatch = 4", "", r"table \[training\] is missing; add it"),
        ("batch = 4", "batch = 0", r"\[training\] batch must be at least 1, not 0; correct it"),
        ("batch = 4", "batch = 4\nevaluate = 7", r"evaluate must be 0 or a multiple of report"),
        ("batch = 4", "batch = 4\nfixed = 1.0", r"fixed must be from 0 to below 1, not 1.0"),
        ("layers = 2", "layers = 2\ndropout = -0.1", r"dropout must be from 0 to below 1"),
        ("layers = 2", 'layers = 2\narchitecture = "rnn"', r"must be matmul-free or transformer"),
        ("layers = 2", "layers = = 2", r"not valid TOML"),
        ("layers = 2", f"layers = {'[' * 5000}", r"not valid TOML"),
        ("batch = 4", "batch = 4\nseed = -1", r"seed must be at least 0, not -1"),
        ("batch = 4", "batch = 4\nseed = 4294967296", r"seed must be at most 4294967295, not 42"),
        ("steps = 10", f"steps = {10**400}", r"steps must be at most 4294967295, not 1000"),
        ("batch = 4", "batch = 1048577", r"batch must be at most 1048576, not 1048577"),
        ("batch = 4", "batch = 4\nclip = nan", r"clip must be a number up to 1e\+38, not nan"),
        ("batch = 4", "batch = 4\nsave_seconds = inf", r"save_seconds must be a number up to"),
        ("batch = 4", "batch = 4\nlearning_rate = 1e39", r"learning_rate must be a number up to"),
        ("batch = 4", f"batch = 4\nclip = {10**400}", r"clip must be at most 4294967295"),
        ("layers = 2", "layers = 2\ninitial_deviation = inf", r"initial_deviation must be a numb"),
    ],
)
def test_bad_configuration(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "run.toml"
    assert old in CONFIG
    path.write_text(CONFIG.replace(old, new))
    with pytest.raises(ModelError, match=message) as error:
        read_config(path)
    assert one_line(error).startswith(str(path))


def test_configuration_written_out(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    settings = "learning_rate = 1e-5\nsettle = false\n"
    path.write_text("\ufeff" + CONFIG + settings, encoding="utf-8")
    config = read_config(path)
    assert config.training.learning_rate == 1e-5 and not config.training.settle
    path.write_text(config.toml())
    assert read_config(path) == config


def test_missing_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "none.toml"
    assert main(["train", str(path), "--data", "a", "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == f"{path}: missing; copy it from where it came from\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [["--deadline", "0"], ["--deadline", "soon"], ["--state-limit", "-1"], ["--device", "tpu"]],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["train", "c.toml", "--data", "d", "--out", "o", *arguments])
    assert raised.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_without_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(CONFIG)
    for name in [name for name in sys.modules if name.startswith("weights.train.")]:
        if name.rpartition(".")[2] in ("loop", "model", "state", "windows", "export"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["train", str(path), "--data", "d", "--out", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert captured.err == "needs torch, which is not installed: pip install -e '.[train]'\n"


# The folder of a run


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "run.toml"
    path.write_text(CONFIG)
    return read_config(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("checkpoint/model.safetensors", "holds checkpoint, but no run; give a new folder"),
        ("tokenizer.json", "holds tokenizer.json, but no run"),
        ("config.toml", "holds config.toml, but no run"),
        ("metrics.jsonl", "holds metrics.jsonl, but no run"),
        ("state-00000003-001.part", "holds state-00000003-001.part, but no run"),
        ("state.json", "state.json: not the state of a run; bring it again .* give another --out"),
    ],
)
def test_no_folder_of_others(tmp_path: Path, config: Config, name: str, message: str) -> None:
    output = tmp_path / "out"
    (output / name).parent.mkdir(parents=True)
    (output / name).write_text('{"speed": 1}')
    before = contents(output)
    with pytest.raises(ModelError, match=message) as error, owned(output, config, []):
        pass
    assert one_line(error).startswith(str(output)) and contents(output) == before


@pytest.mark.parametrize("content", ["[" * 100_000, '{"parts": []', "3", '{"parts": {"a": 1}}'])
def test_damaged_manifest(tmp_path: Path, config: Config, content: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "state.json").write_text(content)
    with pytest.raises(ModelError, match=r"state.json: .*; bring it again") as error:
        Manifest.read(tmp_path / "out")
    one_line(error)


def test_no_part_from_elsewhere(tmp_path: Path) -> None:
    Manifest(parts=["../state-1-1.part"], sha256="0", facts={"step": 1}).write(tmp_path)
    with pytest.raises(ModelError, match=r"state.json: not the state of a run"):
        Manifest.read(tmp_path)


def test_file_for_a_folder(tmp_path: Path, config: Config) -> None:
    path = tmp_path / "run.toml"
    with pytest.raises(ModelError, match=r"run.toml: not a folder"), owned(path, config, []):
        pass
    assert path.read_text() == CONFIG


def test_folder_with_the_inputs(tmp_path: Path, config: Config) -> None:
    """Configuration and tokenizer may lie where the run goes; they stay as they are."""
    output = tmp_path / "out"
    output.mkdir()
    inputs = [output / "config.toml", output / "tokenizer.json"]
    for path in inputs:
        path.write_text(CONFIG)
    for _ in range(2):
        with owned(output, config, inputs):
            claim(output, config)
    assert all(path.read_text() == CONFIG for path in inputs)


def test_folder_with_a_log(tmp_path: Path, config: Config) -> None:
    """Files that no run writes may lie there, as the log that the user writes has to."""
    output = tmp_path / "out"
    output.mkdir()
    (output / "log.txt").write_text("mine")
    with owned(output, config, []):
        claim(output, config)
    assert (output / "log.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["result.json", "checkpoint/tokenizer.json", "metrics.jsonl"])
def test_input_that_the_run_would_replace(tmp_path: Path, config: Config, name: str) -> None:
    output = tmp_path / "out"
    with owned(output, config, []):
        claim(output, config)
    (output / name).parent.mkdir(exist_ok=True)
    (output / name).write_text("mine")
    with (
        pytest.raises(ModelError, match=f"{name}: would be written over; copy it") as error,
        owned(output, config, [tmp_path / "out" / ".." / "out" / name]),
    ):
        pass
    one_line(error)
    assert (output / name).read_text() == "mine"


def test_folder_of_one_run_at_a_time(tmp_path: Path, config: Config) -> None:
    output = tmp_path / "new" / "out"
    with owned(output, config, []):
        before = contents(output)
        with (
            pytest.raises(ModelError, match="in use by another run; wait for its end") as error,
            owned(output, config, []),
        ):
            pass
        one_line(error)
        assert contents(output) == before
    with owned(output, config, []):
        claim(output, config)
    assert read_config(output / "config.toml") == config


def test_folder_of_a_run_that_was_killed(tmp_path: Path, config: Config) -> None:
    with owned(tmp_path / "out", config, []):
        pass
    (tmp_path / "out" / ".state.json.123.part").write_text('{"pa')
    with owned(tmp_path / "out", config, []):
        claim(tmp_path / "out", config)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        ".train.lock",
        "state.json",
        "config.toml",
    }


def test_folder_of_another_configuration(tmp_path: Path, config: Config) -> None:
    output = tmp_path / "out"
    with owned(output, config, []):
        claim(output, config)
    other = replace(config, training=replace(config.training, seed=2))
    with (
        pytest.raises(ModelError, match="holds a run of another configuration"),
        owned(output, other, []),
    ):
        pass
    (output / "config.toml").write_text(other.toml())
    with (
        pytest.raises(ModelError, match=r"config.toml: not the run's configuration"),
        owned(output, config, []),
    ):
        pass


# Metrics

LINE = '{"step": 10, "tokens": 1280, "loss": 2.5, "learning_rate": 0.01}\n'


@pytest.mark.parametrize(
    ("end", "count"), [("", 2), ('{"step": 30, "tok', 2), ("\0\0\0", 2), (LINE[:-1], 3)]
)
def test_metrics_that_a_kill_cut(tmp_path: Path, end: str, count: int) -> None:
    (tmp_path / "metrics.jsonl").write_text(LINE * 2 + end)
    assert len(read_metrics(tmp_path)) == count
    Metrics(tmp_path, step=10, steps=100).add(step=11, tokens=1408, loss=2.0)
    lines = read_metrics(tmp_path)
    assert len(lines) == count + 1 and lines[-1] == {"step": 11, "tokens": 1408, "loss": 2.0}


@pytest.mark.parametrize(
    "line", ["", "{}", "7", LINE[:20], LINE.replace("2.5", '"2"'), "[" * 100_000]
)
def test_damaged_metrics(tmp_path: Path, line: str) -> None:
    content = LINE + line.strip() + "\n" + LINE
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(ModelError, match=r"metrics.jsonl: line 2: .*; bring the file") as error:
        Metrics(tmp_path, step=10, steps=100)
    one_line(error)
    assert (tmp_path / "metrics.jsonl").read_text() == content


def test_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    metrics = Metrics(tmp_path, step=0, steps=100)
    metrics.path.unlink()
    metrics.path.symlink_to(full)
    with pytest.raises(OSError, match="No space left on device") as error:
        metrics.add(step=1, tokens=1, loss=2.0)
    assert error.value.filename == str(tmp_path / "metrics.jsonl")


# Schedule


def test_learning_rate() -> None:
    def rate(step: int) -> float:
        return learning_rate(step, steps=1000, peak=0.5, warmup=100)

    assert rate(0) == pytest.approx(0.005) and rate(49) == pytest.approx(0.25)
    assert rate(99) == rate(100) == 0.5
    # A third of the cosine's way is a quarter down.
    assert rate(400) == pytest.approx(0.375)
    # Half the way would be 0.25 at step 550; from the middle of the run on there is half of it.
    assert rate(550) == pytest.approx(0.125)
    assert rate(500) < 0.51 * rate(499)
    assert 0 < rate(999) < 1e-6
    rates = [rate(step) for step in range(100, 1000)]
    assert all(late < early for early, late in pairwise(rates))


# Data


def test_files_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "TinyStoriesV2-GPT4-valid.txt").write_text("four")
    (tmp_path / "a.txt").write_text("one<|endoftext|>two")
    (tmp_path / "test-more.txt").write_text("five")
    (tmp_path / "b.txt").write_text("  three \n")
    (tmp_path / "notes.md").write_text("not this")
    texts = read_texts(str(tmp_path))
    assert texts.training == ["one", "two", "three"]
    assert texts.validation == ["four", "five"]


def test_stories_held_out(tmp_path: Path) -> None:
    (tmp_path / "all.txt").write_text("<|endoftext|>".join(f"story {i}" for i in range(250)))
    texts = read_texts(str(tmp_path))
    assert texts.validation == ["story 0", "story 100", "story 200"]
    assert len(texts.training) == 247 and not set(texts.training) & set(texts.validation)


def test_bad_data(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"not a directory; give a folder of .txt files") as error:
        read_texts(str(tmp_path / "nowhere"))
    one_line(error)
    with pytest.raises(ModelError, match=r"no text in .txt files") as error:
        read_texts(str(tmp_path))
    one_line(error)
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ModelError, match=r"bad.txt: not UTF-8 .*; remove it") as error:
        read_texts(str(tmp_path))
    one_line(error)


def test_tokenizer(tmp_path: Path) -> None:
    texts = read_texts(str(write_stories(tmp_path)))
    tokenizer = train_tokenizer(texts.training, 300)
    assert tokenizer.get_vocab_size() == 300 and tokenizer.token_to_id("<|endoftext|>") == 0
    story = "Lily saw naïve 猫."
    assert tokenizer.decode(tokenizer.encode(story).ids) == story
    with pytest.raises(ModelError, match=r"the text gives .* tokens, not 5000; give more text"):
        train_tokenizer(texts.training, 5000)
    with pytest.raises(ModelError, match="vocabulary must be above 256, not 256"):
        train_tokenizer(texts.training, 256)


def test_stream_is_that_of_the_evaluation(tmp_path: Path) -> None:
    texts = read_texts(str(write_stories(tmp_path)))
    tokenizer = train_tokenizer(texts.training, 300)
    ours = first_windows(token_stream(texts.validation, tokenizer), 8, 32)
    text = (tmp_path / "valid.txt").read_text()
    np.testing.assert_array_equal(ours, token_windows(text, tokenizer, 0, 8, 32))
    with pytest.raises(ModelError, match="validation has 3 tokens, below 32; give more text"):
        first_windows(np.zeros(3, np.uint16), 8, 32)


class DataSetHub(BaseHTTPRequestHandler):
    """The hub, as far as fetching one data set goes."""

    protocol_version = "HTTP/1.1"
    data_set = "roneneldan/TinyStories"
    commit = "0123456789abcdef0123456789abcdef01234567"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.wfile.write(self.answer())

    def answer(self) -> bytes:
        files = [*HUB_TEXTS[self.data_set], "unwanted.bin"]
        content = None
        if self.path.startswith(f"/api/datasets/{self.data_set}/revision/main"):
            facts = {"id": self.data_set, "sha": self.commit, "private": False, "tags": []}
            facts |= {"downloads": 0, "likes": 0, "siblings": [{"rfilename": f} for f in files]}
            content = json.dumps(facts).encode()
        elif self.path.startswith(f"/api/datasets/{self.data_set}/tree/{self.commit}"):
            entries = [{"type": "file", "path": f, "size": 1, "oid": "5" * 40} for f in files]
            content = json.dumps(entries).encode()
        elif f"datasets/{self.data_set}/resolve/{self.commit}/" in self.path:
            content = f"story of {self.path.rpartition('/')[2]}".encode()
        self.send_response(200 if content is not None else 404)
        self.send_header("Content-Length", str(len(content or b"")))
        self.send_header("ETag", f'"{hashlib.sha1(content or b"").hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        return content or b""


@pytest.fixture
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), DataSetHub) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


READ = """
from weights.errors import ModelError
from weights.train.data import read_texts
try:
    print(read_texts("roneneldan/TinyStories"))
except ModelError as error:
    print("ModelError:", error)
"""


def read_from(hub: str, cache: Path) -> str:
    # The hub's address is read once in a process.
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", READ]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_data_set_from_the_hub(hub: str, tmp_path: Path) -> None:
    out = read_from(hub, tmp_path)
    assert "training=['story of TinyStoriesV2-GPT4-train.txt']" in out
    assert "validation=['story of TinyStoriesV2-GPT4-valid.txt']" in out
    assert not list(tmp_path.rglob("unwanted.bin"))


def test_hub_out_of_reach(tmp_path: Path) -> None:
    out = read_from("http://127.0.0.1:9", tmp_path)
    assert out.startswith("ModelError: roneneldan/TinyStories: cannot be fetched")
    assert out.count("\n") == 1 and out.endswith("give a directory\n")


# Rounding


def test_bfloat16_is_rounded_to_nearest_even() -> None:
    ulp = 2.0**-7
    values = np.array([1, 1 + ulp / 2, 1 + 1.5 * ulp, 1 + 0.51 * ulp, -1 - 0.49 * ulp], np.float32)
    expected = [1, 1, 1 + 2 * ulp, 1 + ulp, -1]
    np.testing.assert_array_equal(rounding.to_bfloat16(values), np.float32(expected))


def test_rounding_keeps_trits_where_asked(tmp_path: Path) -> None:
    shape = ModelShape(hidden=64, layers=2, intermediate=48, vocabulary=512)
    RandomCheckpoint(shape=shape, dtype="fp32").write(tmp_path)
    exact = Checkpoint(tmp_path)
    rounded = rounding.RoundedCheckpoint(tmp_path, keep_trits=False)
    kept = rounding.RoundedCheckpoint(tmp_path, keep_trits=True)

    def trits(checkpoint: Checkpoint, name: str) -> np.ndarray:
        latents = checkpoint.tensor(name)
        return ternarise(latents, mean_magnitude(iter([(slice(None), latents)])))

    names = [matrix.weight for matrix in matrices(shape).values()]
    changed = sum(int((trits(exact, n) != trits(rounded, n)).sum()) for n in names)
    assert changed == rounded.changed > 0 and kept.changed == 0
    for name in names:
        np.testing.assert_array_equal(trits(exact, name), trits(kept, name))
        np.testing.assert_allclose(rounded.tensor(name), exact.tensor(name), rtol=2**-8)
        magnitude = np.abs(rounded.tensor(name)).mean()
        assert np.abs(kept.tensor(name)).mean() == pytest.approx(magnitude, rel=1e-5)
        for rows, block in kept.blocks(name, 1000):
            np.testing.assert_array_equal(block, kept.tensor(name)[rows])
    norm = "model.norm.weight"
    assert (kept.tensor(norm) == rounding.to_bfloat16(exact.tensor(norm))).all()
    assert (kept.tensor(norm) != exact.tensor(norm)).any()


def test_rounding_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = ModelShape(hidden=16, layers=1, intermediate=16, vocabulary=300)
    checkpoint = RandomCheckpoint(shape=shape, dtype="fp32").write(tmp_path / "checkpoint")
    text = write_stories(tmp_path) / "valid.txt"
    arguments = ["--text", str(text), "--windows", "2", "--length", "16"]
    assert rounding.main([str(checkpoint), *arguments]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["latents"] for line in lines] == ["as stored", "bfloat16", "bfloat16, trits kept"]
    assert all(np.isfinite(line["nll"]) for line in lines)
    assert rounding.main([str(tmp_path / "none"), *arguments]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--windows", "0"], ["--length", "1"], ["--windows", "a"]])
def test_wrong_usage_of_rounding(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        rounding.main(["checkpoint", "--text", "t.txt", *arguments])
    assert raised.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


# The study


def study_arguments(folder: Path) -> list[str]:
    return [
        *("--data", str(folder), "--out", str(folder / "runs")),
        *("--results", str(folder / "study.jsonl"), "--plot", str(folder / "study.svg")),
    ]


class FakeLoop(ModuleType):
    """Stands for `weights.train.loop`, without PyTorch; the last of `steps` trials is stopped."""

    def __init__(self, trials: int) -> None:
        super().__init__("weights.train.loop")
        self.trials = trials
        self.Options = SimpleNamespace
        self.seen: list[Path] = []

    def train(self, config: Config, options: Any) -> Any:
        self.seen.append(options.output)
        return self.result(finished=len(self.seen) < self.trials, validation=1.5)

    @dataclass
    class result:
        finished: bool
        validation: float
        bits_per_byte: float = 0.5
        parameters: int = 1000
        tokens: int = 10
        seconds: float = 1.0


def test_stopped_study_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = FakeLoop(3), FakeLoop(2)
    monkeypatch.setitem(sys.modules, "weights.train.loop", first)
    assert study.main(study_arguments(tmp_path)) == 130
    results = study.read_results(tmp_path / "study.jsonl")
    assert len(first.seen) == 3 and len(results) == 2
    assert results[0]["learning_rate"] == 0.015 and results[0]["validation"] == 1.5
    monkeypatch.setitem(sys.modules, "weights.train.loop", second)
    assert study.main(study_arguments(tmp_path)) == 130
    assert second.seen[0] == first.seen[2]
    assert len(study.read_results(tmp_path / "study.jsonl")) == 3
    assert capsys.readouterr().err == ""


def test_one_study_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "weights.train.loop", loop := FakeLoop(1))
    with locked(tmp_path / ".study.jsonl.lock"):
        assert study.main(study_arguments(tmp_path)) == 1
    assert "study.jsonl: in use by another study" in capsys.readouterr().err
    assert not loop.seen and not (tmp_path / "study.jsonl").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("my notes", "line 2: not valid JSON"),
        ("[" * 100_000, "line 2: not valid JSON"),
        ("{}", "line 2: size is missing or damaged"),
        (("validation", None), "line 2: validation is missing or damaged"),
        (("size", "huge"), "line 2: of no trial of this study"),
    ],
)
def test_damaged_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: Any, message: str
) -> None:
    right = study.RESULTS.read_text().splitlines()[0]
    if isinstance(line, tuple):
        line = json.dumps(json.loads(right) | dict([line]))
    content = f"{right}\n{line}\n"
    (tmp_path / "study.jsonl").write_text(content)
    assert study.main(study_arguments(tmp_path)[2:]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert (tmp_path / "study.jsonl").read_text() == content


def test_part_of_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Table and plot of the trials that there are, though a size has none."""
    pytest.importorskip("matplotlib", reason="needs the extra 'train'")
    first = study.RESULTS.read_text().splitlines(keepends=True)[0]
    (tmp_path / "study.jsonl").write_text(first)
    assert study.main(study_arguments(tmp_path)[2:]) == 0
    out, errors = capsys.readouterr()
    assert errors == "" and out.count("\n") == 3 and "| small | ternary | matmul-free |" in out
    assert (tmp_path / "study.svg").read_text().startswith("<?xml")


def test_curves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'train'")
    (tmp_path / "metrics.jsonl").write_text(LINE)
    plot(tmp_path)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "curves.png"}


def test_plot_that_is_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(SystemExit):
        study.main(["--plot", str(notes)])
    assert notes.read_text() == "mine"
    assert "--plot must end in .svg, .png, .pdf, not 'notes.txt'" in capsys.readouterr().err
