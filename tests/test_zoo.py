"""The shipped models and their cards."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from host import infer
from host.compiler import compile_image
from host.compiler.layout import pack_embedding
from hw.arch.geometry import Geometry
from hw.arch.protocol import MemorySpace
from sim.checkpoints import RandomCheckpoint
from sim.losses import Backend, FloatBackend, GoldenBackend, evaluate
from tests.stories import write_stories
from weights import ModelError, card
from weights.architectures.mmfree import matrices
from weights.checkpoint import Checkpoint, ModelShape
from weights.dequantise import DequantisedCheckpoint
from weights.files import ZOO
from weights.model import IntegerModel
from weights.quantise import convert, lower_bounds
from weights.text import token_windows

NAMES = sorted(path.stem for path in ZOO.glob("*.safetensors"))
KIBIBYTE = 1024


@cache
def load(name: str) -> IntegerModel:
    return IntegerModel.load(ZOO / f"{name}.safetensors")


def rows(text: str) -> dict[str, str]:
    """The table rows of a card."""
    return dict(re.findall(r"^\| (.+?) \| (.+) \|$", text, flags=re.MULTILINE))


def card_text(name: str) -> str:
    return (ZOO / f"{name}.md").read_text(encoding="utf-8")


def nats(row: str) -> float:
    return float(row.split(" nats/token")[0])


def losses(backend: Backend, windows: np.ndarray) -> np.ndarray:
    """Nats (windows, length - 1) of each predicted token."""
    found = []
    targets = windows[:, 1:].T
    for logits, target in zip(backend.logits(windows[:, :-1]), targets, strict=True):
        z = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        found.append(
            np.log(np.exp(z).sum(axis=1)) - np.take_along_axis(z, target[:, None], 1)[:, 0]
        )
    return np.stack(found, axis=1)


def test_there_are_models_and_no_other_files() -> None:
    assert {"stories-tiny", "stories-base"} <= set(NAMES)
    expected = {f"{name}{suffix}" for name in NAMES for suffix in (".safetensors", ".md")}
    assert {path.name for path in ZOO.iterdir()} == expected


@pytest.mark.parametrize("name", NAMES)
def test_card_tells_of_its_model(name: str) -> None:
    model, facts = load(name), rows(card_text(name))
    for dimension in ("hidden", "layers", "intermediate", "vocabulary"):
        assert facts[dimension] == str(getattr(model.shape, dimension))
    assert facts["content (SHA-256)"] == f"`{model.digest()}`"
    assert facts["file"] == f"{(ZOO / f'{name}.safetensors').stat().st_size:,} bytes"
    assert facts["ternary weights"].startswith(f"{model.shape.ternary_weights:,}, ")
    assert "CDLA-Sharing-1.0" in card_text(name) or "## Training" not in card_text(name)
    golden, exact = nats(facts["golden loss"]), nats(facts["float loss"])
    assert abs(golden - exact) < 0.005
    assert abs(nats(facts["float loss of this file"]) - exact) < 0.005


@pytest.mark.parametrize("name", NAMES)
def test_first_sample_again(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The card's command gives the card's text, with the host's own program."""
    command, quoted = re.findall(
        r"```\npython host/infer.py (.+)\n```\n\n((?:> .*\n|>\n)+)", card_text(name)
    )[0]
    assert infer.main([*shlex.split(command), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    text = (report["prompt"] + report["text"]).split()
    assert text == quoted.replace("\n> ", "\n").removeprefix("> ").split()
    assert len(text) > 20


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.whole
def test_loss_near_the_cards(name: str, validation_text: Path) -> None:
    """16 of the card's 512 windows: their mean lies within four of its standard errors."""
    model = load(name)
    tokenizer = Tokenizer.from_str(model.tokenizer_json)
    text = validation_text.read_text(encoding="utf-8")
    windows = token_windows(text, tokenizer, model.start_token, 512, 256)[::32]
    means = losses(GoldenBackend(model), windows).mean(axis=1)
    assert len(means) == 16 and np.isfinite(means).all()
    error = means.std(ddof=1) / np.sqrt(len(means))
    assert abs(means.mean() - nats(rows(card_text(name))["golden loss"])) < 4 * error < 0.5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.whole
def test_golden_near_float(name: str) -> None:
    """Over the samples of all cards, which every clone has."""
    model = load(name)
    samples = [
        quoted.replace("\n> ", "\n").removeprefix("> ")
        for other in NAMES
        for quoted in re.findall(r"^((?:> .*\n|>\n)+)", card_text(other), flags=re.MULTILINE)
    ]
    assert len(samples) == 3 * len(NAMES)
    tokenizer = Tokenizer.from_str(model.tokenizer_json)
    stream = [t for s in samples for t in (model.start_token, *tokenizer.encode(s).ids)]
    count = len(stream) // 64
    windows = np.array(stream[: 64 * count]).reshape(count, 64)
    golden = losses(GoldenBackend(model), windows)
    exact = losses(FloatBackend(DequantisedCheckpoint(model)), windows)
    assert exact.mean() < 4  # far below a guess among all tokens: the text is the model's kind
    assert abs((golden - exact).mean()) < 0.005


def test_tiny_fits_128_kib_and_30_block_rams() -> None:
    """An iCE40 UP5K's memories: trits and embedding in SPRAM, the other tables in block RAM."""
    model = load("stories-tiny")
    geometry = Geometry(
        rows=16,
        columns=16,
        elements=4,
        weight_rows=1 << 12,
        table_words=1 << 15,
        descriptors=512,
        sums=1024,
        multiplicands=1024,
        vectors=1024,
        states=1024,
        activations=1024,
        tokens=256,
    )
    image = compile_image(model, geometry)
    weights = len(image.sections[MemorySpace.WEIGHTS])
    embedding = pack_embedding(model["embedding.codes"], model["embedding.scale"], 4).nbytes
    assert weights >= model.shape.ternary_weights / 4
    assert embedding > model["embedding.codes"].nbytes
    assert weights + embedding <= 128 * KIBIBYTE
    tables = len(image.sections[MemorySpace.TABLES]) - embedding
    assert 0 < tables <= 30 * 4096 // 8


# Integer models read as checkpoints


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, IntegerModel]:
    shape = ModelShape(hidden=40, layers=3, intermediate=56, vocabulary=301)
    directory = tmp_path_factory.mktemp("checkpoint")
    checkpoint = Checkpoint(RandomCheckpoint(shape=shape, dtype="fp32").write(directory))
    return checkpoint, convert(checkpoint)


def test_dequantised_model_converts_to_itself(
    random_model: tuple[Checkpoint, IntegerModel],
) -> None:
    """All integers come back, but for roundings of what is split between norms and scales."""
    _, model = random_model
    again = convert(DequantisedCheckpoint(model))
    assert (again.shape, again.source) == (model.shape, model.source)
    for name in matrices(model.shape):
        np.testing.assert_array_equal(model.trits(name), again.trits(name))
        gains = model[f"{name}.gain"], again[f"{name}.gain"]
        np.testing.assert_allclose(*(gain / np.abs(gain).max() for gain in gains), atol=1e-4)
    for n in range(model.shape.layers):
        for table in ("attn.lower_bound", "attn.o.norm"):
            name = f"layers.{n}.{table}"
            np.testing.assert_allclose(model[name], again[name], atol=1)
        for scale in ("attn.o.epsilon", "mlp.down.epsilon"):
            name = f"layers.{n}.{scale}"
            np.testing.assert_array_equal(model[name], again[name])


@pytest.mark.parametrize("name", ["layers.0.attn.i.scale", "layers.1.mlp.down.scale"])
def test_model_beyond_floating_point(
    random_model: tuple[Checkpoint, IntegerModel], name: str
) -> None:
    """The integer machine runs it; its values in float32 would be infinite."""
    _, model = random_model
    large = {name: np.array([1 << 14, 127], dtype=np.int32)}
    with pytest.raises(ModelError, match="too large for floating point; use the golden backend"):
        DequantisedCheckpoint(replace(model, tensors={**model.tensors, **large}))


def test_dequantised_tensors_are_near_the_checkpoints(
    random_model: tuple[Checkpoint, IntegerModel],
) -> None:
    checkpoint, model = random_model
    dequantised = DequantisedCheckpoint(model)
    name = "model.embeddings.weight"
    exact, rounded = checkpoint.tensor(name), dequantised.tensor(name)
    assert (np.abs(exact - rounded) <= np.abs(exact).max(axis=1, keepdims=True) / 250).all()
    bounds = [
        lower_bounds(each.tensor("model.lower_bounds").astype(np.float64))
        for each in (checkpoint, dequantised)
    ]
    np.testing.assert_allclose(*bounds, atol=2**-15)
    for n in range(3):
        name = f"model.layers.{n}.attn.g_norm.weight"
        np.testing.assert_allclose(checkpoint.tensor(name), dequantised.tensor(name), atol=1e-4)


def test_logits_of_the_dequantised_model(random_model: tuple[Checkpoint, IntegerModel]) -> None:
    """Near the checkpoint's: what is rounded changes a code now and then."""
    checkpoint, model = random_model
    tokens = np.random.default_rng(1).integers(0, 301, (8, 24))
    exact, rounded = (
        np.stack(list(FloatBackend(each).logits(tokens)))
        for each in (checkpoint, DequantisedCheckpoint(model))
    )
    assert np.abs(exact - rounded).mean() < 0.03 * np.abs(exact).mean()


# The command


def test_card_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(card, "WINDOWS", 2)
    monkeypatch.setattr(card, "LENGTH", 16)
    monkeypatch.setattr(card, "SAMPLE_TOKENS", 4)
    data, run, zoo = write_stories(tmp_path / "data"), tmp_path / "run", tmp_path / "zoo"
    zoo.mkdir()
    shape = ModelShape(hidden=16, layers=2, intermediate=24, vocabulary=300)
    RandomCheckpoint(shape=shape, dtype="fp32").write(run / "checkpoint")
    config = "[model]\nhidden = 16\nlayers = 2\nintermediate = 24\nvocabulary = 300\n"
    (run / "config.toml").write_text(config + "[training]\nsteps = 1\nbatch = 1\n")
    result = {"finished": True, "tokens": 1000, "seconds": 2.0, "tokens_per_second": 500}
    result |= {"validation": 2.5, "peak_memory_mib": 7.0, "device": "an abacus", "processes": 2}
    arguments = [str(run), "small", "--data", str(data), "--zoo", str(zoo)]

    assert card.main(arguments) == 1
    assert "result.json: missing; give a finished run" in capsys.readouterr().err
    (run / "result.json").write_text(json.dumps(result | {"finished": False}))
    assert card.main(arguments) == 1
    assert "has not finished" in capsys.readouterr().err

    (run / "result.json").write_text(json.dumps(result))
    assert card.main(arguments) == 0
    text = (zoo / "small.md").read_text()
    facts = rows(text)
    assert facts["training time"] == "2.0 s on 2 x an abacus"
    assert facts["trainer's own loss"] == "2.5000 nats/token"
    assert facts["training text"].startswith("`train.txt`, ")
    settings: dict[str, Any] = {"text": data / "valid.txt", "windows": 2, "length": 16}
    golden = evaluate(model=zoo / "small.safetensors", backend="golden", **settings)
    assert facts["golden loss"].startswith(f"{golden.nll:.4f} nats/token, ")
    assert (
        facts["content (SHA-256)"] == f"`{IntegerModel.load(zoo / 'small.safetensors').digest()}`"
    )
    assert text.count("python host/infer.py") == 3 and "steps = 1" in text
    before = {path.name: path.read_bytes() for path in zoo.iterdir()}
    assert card.main(arguments) == 0
    assert {path.name: path.read_bytes() for path in zoo.iterdir()} == before

    (zoo / "README.md").write_text("# README\n")
    (zoo / "notes.safetensors").write_text("mine")
    before = {path.name: path.read_bytes() for path in zoo.iterdir()}
    capsys.readouterr()
    for name in ("README", "notes", "absent/name"):
        assert card.main([str(run), name, *arguments[2:]]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in zoo.iterdir()} == before

    # A card that cannot be made leaves the model that is shipped.
    capsys.readouterr()
    RandomCheckpoint(shape=shape, dtype="fp32", seed=1).write(run / "checkpoint")
    with monkeypatch.context() as patch:
        patch.setattr(card, "WINDOWS", 1 << 20)
        assert card.main(arguments) == 1
    assert "give a longer text or fewer windows" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in zoo.iterdir()} == before

    del result["device"]
    (run / "result.json").write_text(json.dumps(result))
    assert card.main(arguments) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert card.main([*arguments, "--device", "a slide rule"]) == 0
    assert "on 2 x a slide rule" in (zoo / "small.md").read_text()
    (run / "config.toml").write_text(config + "[training]\nsteps = 1\nbatch = 1\nspeed = 9\n")
    assert card.main([*arguments, "--device", "a slide rule"]) == 1
    assert "unknown setting training.speed" in capsys.readouterr().err
