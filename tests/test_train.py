"""The trainer: its model's parts, its state, and whole runs, interrupted and shared."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.losses import evaluate
from tests.stories import write_stories
from weights.card import Run
from weights.checkpoint import Checkpoint, ModelShape
from weights.errors import ModelError
from weights.quantise import convert, mean_magnitude
from weights.quantise import ternarise as reader_ternarise

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from weights.train import loop  # noqa: E402
from weights.train.config import Config, read_config  # noqa: E402
from weights.train.data import train_tokenizer  # noqa: E402
from weights.train.loop import Options, train  # noqa: E402
from weights.train.model import MARGIN, LanguageModel, settle, ternarise  # noqa: E402
from weights.train.recurrence import parallel_scan, plain_recurrence  # noqa: E402
from weights.train.report import read_metrics  # noqa: E402
from weights.train.state import MEBIBYTE, load_state, save_state  # noqa: E402
from weights.train.windows import Windows  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
SECONDS = 60
"""For anything that a run is waited for."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stories(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # the models are tiny, and other tests run beside


def configuration(path: Path, model: str = "", **training: object) -> Path:
    settings = {"steps": 100, "batch": 4, "length": 32, "learning_rate": 0.01, "warmup": 5}
    settings |= {"report": 10, "validation_windows": 16} | training
    path.write_text(
        "[model]\nhidden = 16\nlayers = 2\nintermediate = 24\nvocabulary = 300\n"
        + model
        + "\n[training]\n"
        + "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    )
    return path


def run_here(config: Config, data: Path, output: Path, **options: Any) -> loop.Result:
    return train(config, Options(data=str(data), output=output, device="cpu", **options))


# Parts


def naive_recurrence(decay: Any, addend: Any) -> Any:
    state, states = torch.zeros_like(addend[:, 0]), []
    for t in range(decay.shape[1]):
        state = decay[:, t] * state + addend[:, t]
        states.append(state)
    return torch.stack(states, 1)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 64, 65])
def test_scan_is_the_loop(steps: int) -> None:
    generator = torch.Generator().manual_seed(steps)
    shape = (3, steps, 5)
    decay = torch.rand(shape, generator=generator, dtype=torch.float64).requires_grad_()
    addend = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    results = []
    for function in (parallel_scan, naive_recurrence):
        states = function(decay, addend)
        gradients = torch.autograd.grad(
            (states * weight).sum(), (decay, addend), materialize_grads=True
        )
        results.append((states, *gradients))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_recurrence_is_the_gated_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    input, forget = torch.randn((2, 2, 50, 6), generator=generator)
    bound = torch.rand(6, generator=generator)
    leaves = [tensor.requires_grad_() for tensor in (input, forget, bound)]
    gate = bound + (1 - bound) / (1 + torch.exp(-forget))
    expected = naive_recurrence(gate, (1 - gate) * input / (1 + torch.exp(-input)))
    ours = plain_recurrence(input, forget, bound)
    torch.testing.assert_close(ours, expected)
    weight = torch.randn(ours.shape, generator=generator)
    for one, other in zip(
        torch.autograd.grad((ours * weight).sum(), leaves),
        torch.autograd.grad((expected * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def crowded(seed: int, share: float) -> Any:
    """Latents of which `share` lie within rounding errors of the threshold, on both sides."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn((64, 48), generator=generator)
    threshold = latent.abs().mean() / 2
    for _ in range(20):  # what is moved moves the threshold
        near = torch.rand(latent.shape, generator=torch.Generator().manual_seed(seed)) < share
        error = 1e-5 * torch.randn(latent.shape, generator=generator)
        latent = torch.where(near, latent.sign() * threshold * (1 + error), latent)
        threshold = latent.abs().mean() / 2
    return latent


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6])
@pytest.mark.parametrize("seed", range(4))
def test_settled_latents_have_the_same_trits_in_any_precision(seed: int, share: float) -> None:
    latent = crowded(seed, share)
    trits, beta = ternarise(latent)
    if share:
        # Otherwise there would be nothing to settle.
        assert (ternarise(latent.bfloat16().float())[0] != trits).any()
    settled = latent.clone()
    settle(settled)
    after, beta_after = ternarise(settled)
    assert torch.equal(after, trits)
    assert float(beta_after) == pytest.approx(float(beta), rel=1e-6)
    rounded = settled.bfloat16().float()
    assert torch.equal(ternarise(rounded)[0], trits)
    # The checkpoint's reader sums in float64.
    for values in (settled.numpy(), rounded.numpy()):
        mean = mean_magnitude(iter([(slice(None), values)]))
        np.testing.assert_array_equal(reader_ternarise(values, mean), trits.numpy())
    distance = (settled.abs() / (beta / 2) - 1).abs()
    assert float(distance.min()) > MARGIN / 3
    assert float((settled - latent).abs().max()) < 0.04 * float(latent.abs().max())


def test_forward_is_that_of_the_float_reference(data: Path, tmp_path: Path) -> None:
    """Every gradient is there, and the logits are those that `sim.reference` computes."""
    from sim.reference import FloatModel
    from weights.train.export import export

    config = read_config(configuration(tmp_path / "c.toml"))
    torch.manual_seed(3)
    model = LanguageModel(config.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or name == "model.lower_bounds":
                parameter += 0.3 * torch.randn_like(parameter)
    tokenizer = train_tokenizer((data / "train.txt").read_text().splitlines(), 300)
    export(model, tokenizer, tmp_path / "checkpoint")
    tokens = torch.randint(300, (2, 12))
    expected = FloatModel(Checkpoint(tmp_path / "checkpoint")).logits(tokens.numpy())
    ours = model(tokens).detach().numpy()
    # A code on the edge between two integers may fall to either side.
    error = np.abs(ours - np.stack(list(expected), axis=1))
    assert (
        np.median(error) < 1e-5 * np.abs(ours).max() and error.mean() < 0.01 * np.abs(ours).mean()
    )
    model(tokens[:, :-1], tokens[:, 1:]).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(g is not None and g.isfinite().all() and g.any() for g in gradients.values())


def test_windows_of_an_epoch_use_every_token_once() -> None:
    stream = np.arange(1000, dtype=np.uint16)
    settings: dict[str, Any] = {"length": 10, "seed": 1, "device": CPU}
    windows = Windows(stream, batch=7, **settings)
    steps = windows.per_epoch // 7
    starts = torch.cat([windows.starts(step) for step in range(steps)])
    assert windows.per_epoch == 98 and len(set(starts.tolist())) == 98
    assert len({int(start) % 10 for start in starts}) == 1
    tokens, targets = windows.gather(starts)
    assert torch.equal(tokens + 1, targets) and tokens.shape == (98, 10)
    assert tokens.unique().numel() == 980
    # Shares of two processes are the whole, and a later epoch has another order.
    halves = [
        Windows(stream, batch=14, **settings, rank=rank, world=2).starts(9) for rank in (0, 1)
    ]
    whole = Windows(stream, batch=14, **settings).starts(9)
    assert torch.equal(torch.stack(halves, 1).flatten(), whole)
    assert not torch.equal(windows.order(0), windows.order(1))


# The state


@pytest.fixture
def state(tmp_path: Path) -> Path:
    tensors = {"a": torch.arange(5000.0), "b": torch.ones(3, dtype=torch.int64)}
    save_state(tmp_path, tensors, {"step": 3}, limit=0.004)
    return tmp_path


def test_state_in_parts(state: Path) -> None:
    parts = list(state.glob("*.part"))
    assert len(parts) >= 5 and all(p.stat().st_size <= 0.004 * MEBIBYTE for p in parts)
    loaded = load_state(state)
    assert loaded is not None and loaded[1] == {"step": 3}
    assert torch.equal(loaded[0]["a"], torch.arange(5000.0))
    save_state(state, {"a": torch.zeros(1)}, {"step": 4}, limit=1)
    assert [p.name for p in state.glob("*.part")] == ["state-00000004-001.part"]


def test_interrupted_save_leaves_the_state_before(state: Path) -> None:
    (state / "state-00000009-001.part").write_bytes(b"a save that was killed")
    (state / "state-00000009-002.part.new").write_bytes(b"half of")
    loaded = load_state(state)
    assert loaded is not None and loaded[1] == {"step": 3}


def test_damaged_state(state: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    def truncate(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-1])

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x10
        path.write_bytes(content)

    part = sorted(state.glob("*.part"))[2].name
    for name, damage, message in (
        (part, truncate, "do not match their digest; bring them again"),
        (part, flip, "do not match their digest; bring them again"),
        (part, Path.unlink, f"{part}: cannot be read; bring all parts along"),
        ("state.json", truncate, "state.json: not valid JSON .*; bring it again"),
    ):
        copy = shutil.copytree(state, tmp_path_factory.mktemp("state") / "copy")
        damage(copy / name)
        with pytest.raises(ModelError, match=message) as error:
            load_state(copy)
        assert "\n" not in str(error.value)
    assert load_state(state) is not None


def test_full_disk_leaves_the_state_before(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        if len(list(state.glob("*00000004-*"))) >= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = sorted(path.name for path in state.iterdir())
    monkeypatch.setattr("weights.files.os.fsync", full)
    with pytest.raises(
        ModelError, match=r"the state of step 4 cannot be saved .No space left on device.; correct"
    ) as error:
        save_state(state, {"a": torch.ones(5000)}, {"step": 4}, limit=0.004)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in state.iterdir()) == before
    loaded = load_state(state)
    assert loaded is not None and loaded[1] == {"step": 3}


def test_what_a_kill_left_goes_with_the_next_save(state: Path) -> None:
    left = ["state-00000009-001.part", ".state-00000009-002.part.123.part"]
    left.append("state-00000009-002.part.new")  # as earlier versions named it
    for name in [*left, "state-of-the-art.partial"]:
        (state / name).write_bytes(b"half of")
    save_state(state, {"a": torch.zeros(1)}, {"step": 10}, limit=1)
    names = {path.name for path in state.iterdir()}
    assert names == {"state.json", "state-00000010-001.part", "state-of-the-art.partial"}


def test_state_that_does_not_fit(data: Path, tmp_path: Path) -> None:
    """Whole, but not of this model: as another version of the program may leave it."""
    config = read_config(configuration(tmp_path / "c.toml", steps=3))
    run_here(config, data, tmp_path / "out")
    saved = load_state(tmp_path / "out")
    assert saved is not None
    tensors, facts = saved
    norm, random = "model.model.norm.weight", "random.cpu"
    for changed, message in (
        ({norm: torch.ones(1)}, rf"no tensor {norm}, float32 \[16\]; bring it again"),
        ({norm: tensors[norm].double()}, rf"no tensor {norm}, float32 \[16\]"),
        ({norm: None}, rf"no tensor {norm}, float32 \[16\]"),
        ({f"exp_avg.{norm[6:]}": torch.ones(())}, r"no tensor exp_avg.model.norm.weight, float32"),
        ({random: torch.ones(3)}, r"no tensor random.cpu, uint8 \[\d+\]"),
        ({"total": None}, r"no tensor total, float32 \[\]"),
    ):
        others = {k: v for k, v in (tensors | changed).items() if v is not None}
        output = shutil.copytree(tmp_path / "out", tmp_path / "copy")
        save_state(output, others, facts | {"step": 2}, limit=1)
        with pytest.raises(ModelError, match=message) as error:
            run_here(config, data, output)
        assert "\n" not in str(error.value)
        shutil.rmtree(output)
    save_state(tmp_path / "out", tensors, facts | {"step": 4}, limit=1)
    with pytest.raises(ModelError, match=r"state.json: no state of such a run"):
        run_here(config, data, tmp_path / "out")


# Whole runs


def test_round_trip(data: Path, tmp_path: Path) -> None:
    """The trained model, read as any checkpoint, has the loss that its trainer measured."""
    config = read_config(configuration(tmp_path / "c.toml", batch=8))
    result = run_here(config, data, tmp_path / "out")
    assert result.finished and result.step == 100 and result.device == "CPU"
    assert result.validation is not None
    checkpoint = tmp_path / "out" / "checkpoint"
    settings: dict[str, Any] = {"windows": 16, "length": 32, "text": data / "valid.txt"}
    report = evaluate(checkpoint=checkpoint, backend="float", **settings)
    assert report.nll == pytest.approx(result.validation, abs=0.001)
    assert report.bits_per_byte == pytest.approx(result.bits_per_byte, abs=0.001)
    lines = read_metrics(tmp_path / "out")
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[0] > 5 and result.validation < 3.5 < losses[0] - 1  # it has learnt
    assert lines[-1]["validation"] == result.validation
    shape = ModelShape(hidden=16, layers=2, intermediate=24, vocabulary=300)
    assert Checkpoint(checkpoint).shape == shape
    convert(Checkpoint(checkpoint)).save(tmp_path / "model.safetensors")
    golden = evaluate(model=tmp_path / "model.safetensors", backend="golden", **settings)
    assert golden.nll == pytest.approx(report.nll, abs=0.02)
    # Once more: nothing is left to do, and nothing changes but the time of the last look.
    before = {path: path.read_bytes() for path in sorted((tmp_path / "out").rglob("*.safetensors"))}
    again = run_here(config, data, tmp_path / "out")
    assert (again.validation, again.seconds) == (result.validation, result.seconds)
    assert read_metrics(tmp_path / "out") == lines
    assert all(path.read_bytes() == content for path, content in before.items())


def test_trits_stay_while_fixed(data: Path, tmp_path: Path) -> None:
    config = read_config(configuration(tmp_path / "c.toml", steps=10, fixed=0.5))
    stream = np.random.default_rng(1).integers(0, 300, 3000).astype(np.uint16)
    processes = loop.Processes("cpu")
    trainer = loop.Trainer(config, stream, processes, compile=False)
    moved = []
    for step in range(10):
        if step == 5:
            trainer.settle()
        before = [ternarise(latent)[0] for latent in trainer.model.latents()]
        trainer.step(step)
        after = [ternarise(latent)[0] for latent in trainer.model.latents()]
        moved.append(any(not torch.equal(*pair) for pair in zip(before, after, strict=True)))
    assert any(moved[:5]) and not any(moved[5:])


@pytest.mark.parametrize(
    "model", ["ternary = false", 'architecture = "transformer"\nhead_width = 8']
)
def test_models_to_compare_with(data: Path, tmp_path: Path, model: str) -> None:
    config = read_config(configuration(tmp_path / "c.toml", model, steps=60, learning_rate=0.003))
    result = run_here(config, data, tmp_path / "out")
    losses = [line["loss"] for line in read_metrics(tmp_path / "out") if "loss" in line]
    assert result.validation is not None and result.validation < losses[0] - 1
    assert not (tmp_path / "out" / "checkpoint").exists()  # no model of upstream's class


def start(command: Sequence[object], **variables: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | variables
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def arguments(config: Path, data: Path, output: Path) -> list[object]:
    return ["-m", "weights", "train", config, "--data", data, "--out", output, "--device", "cpu"]


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    return json.loads(out)


def saved_step(output: Path) -> int:
    try:
        return json.loads((output / "state.json").read_text())["facts"]["step"]
    except FileNotFoundError:
        return -1


def interrupt(process: subprocess.Popen[str], output: Path, step: int, number: int) -> None:
    """Sends a signal a moment after a state of `step` or later is saved."""
    limit = time.monotonic() + SECONDS
    while saved_step(output) < step:
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.002)
    time.sleep(random.Random(step).uniform(0, 0.05))
    assert process.poll() is None, "ended before it was interrupted"
    process.send_signal(number)


def curve(output: Path) -> list[dict[str, Any]]:
    timed = ("seconds", "tokens_per_second")
    return [
        {key: value for key, value in line.items() if key not in timed}
        for line in read_metrics(output)
    ]


def test_interrupted_run_is_the_same_run(data: Path, tmp_path: Path) -> None:
    """Killed twice and asked to end once: curve and model of a run that was left alone."""
    settings = {"steps": 240, "report": 7, "evaluate": 70, "save_seconds": 0.001}
    config = configuration(tmp_path / "c.toml", "dropout = 0.1", **settings)
    whole, output = tmp_path / "whole", tmp_path / "parts"
    reference = start(arguments(config, data, whole))
    for step in (30, 80):
        process = start(arguments(config, data, output))
        interrupt(process, output, step, signal.SIGKILL)
        process.communicate(timeout=SECONDS)
        assert process.returncode == -signal.SIGKILL
        assert saved_step(output) < 240
    process = start(arguments(config, data, output))
    interrupt(process, output, 130, signal.SIGTERM)
    stopped = finish(process)
    assert not stopped["finished"] and stopped["validation"] is None
    assert 130 < stopped["step"] == saved_step(output) < 240
    result, expected = finish(start(arguments(config, data, output))), finish(reference)
    assert result["finished"] and result["validation"] == expected["validation"]
    assert curve(output) == curve(whole)
    assert [line["step"] for line in curve(whole) if "loss" in line] == [*range(7, 240, 7), 240]
    model = Path("checkpoint") / "model.safetensors"
    assert (output / model).read_bytes() == (whole / model).read_bytes()


def test_two_processes_are_one_run(data: Path, tmp_path: Path) -> None:
    config = configuration(tmp_path / "c.toml", steps=24, report=1)
    module = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    shared = start([*module, *arguments(config, data, tmp_path / "two")])
    alone = run_here(read_config(config), data, tmp_path / "one")
    together = finish(shared)
    assert together["finished"] and together["processes"] == 2
    one, two = (
        np.array([line["loss"] for line in read_metrics(tmp_path / name) if "loss" in line])
        for name in ("one", "two")
    )
    assert len(one) == len(two) == 24
    # The first loss differs by the order of summation only. Later a trit or code at an edge may
    # fall to the other side, which is far less than what training changes.
    assert two[0] == pytest.approx(one[0], abs=1e-5)
    assert one[0] - one[-1] > 0.5
    assert np.abs(one - two).max() < 0.02
    assert together["validation"] == pytest.approx(alone.validation, abs=0.02)


def test_only_one_run_in_a_folder(data: Path, tmp_path: Path) -> None:
    config = configuration(tmp_path / "c.toml", steps=10**6, save_seconds=0.001)
    output = tmp_path / "out"
    first = start(arguments(config, data, output))
    interrupt(first, output, 10, signal.SIGSTOP)
    before = {path: path.read_bytes() for path in output.iterdir() if path.is_file()}
    module = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    for prefix in [], module:
        second = start([*prefix, *arguments(config, data, output)])
        errors = second.communicate(timeout=SECONDS)[1]
        assert second.returncode == 1
        assert f"{output}: in use by another run; wait for its end" in errors
        assert prefix or errors.count("\n") == 1
    assert {path: path.read_bytes() for path in output.iterdir() if path.is_file()} == before
    first.kill()
    first.communicate(timeout=SECONDS)


def test_processes_end_with_one_of_them(data: Path, tmp_path: Path) -> None:
    """A process of a run that cannot write says why, and no other waits for it."""
    config = configuration(tmp_path / "c.toml")
    (tmp_path / "out" / "config.toml").mkdir(parents=True)
    module = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    shared = start([*module, *arguments(config, data, tmp_path / "out")])
    errors = shared.communicate(timeout=SECONDS)[1]
    assert shared.returncode == 1
    assert "out: holds config.toml, but no run; give a new folder\n" in errors
    assert "another process of this run failed; it tells why\n" in errors


WAITING = """
import sys, time, weights.train.loop as loop
def wait(data):
    print("reading", flush=True)
    time.sleep(60)
loop.read_texts = wait
from weights.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_before_the_first_step(data: Path, tmp_path: Path, number: int) -> None:
    command = arguments(configuration(tmp_path / "c.toml"), data, tmp_path / "out")[2:]
    process = start(["-c", WAITING, *command])
    assert process.stdout is not None and process.stdout.readline() == "reading\n"
    time.sleep(0.2)  # the line is printed, not only read
    process.send_signal(number)
    out, errors = process.communicate(timeout=SECONDS)
    assert (out, errors) == ("", "")
    assert process.returncode == (130 if number == signal.SIGINT else -number)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many' in the environment; unset it, or start"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0' in the environment"),
        ({"RANK": "1"}, "RANK is '1' in the environment"),
        ({"RANK": ""}, "RANK is '' in the environment"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK is '-1' in the environment"),
        ({"WORLD_SIZE": "2"}, "the 2 processes do not find each other .*; unset WORLD_SIZE"),
    ],
)
def test_senseless_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ModelError, match=message):
        loop.Processes("cpu")


def test_out_of_memory(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LanguageModel", lambda config: torch.empty(1 << 46))  # 256 TiB
    config = read_config(configuration(tmp_path / "c.toml"))
    with pytest.raises(ModelError, match=r"out of memory on cpu; lower training.batch") as error:
        run_here(config, data, tmp_path / "out")
    assert "\n" not in str(error.value)


def test_deadline_and_moving_elsewhere(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "RESERVE_SECONDS", 1.0)
    # Far more steps between reports than there is time for.
    path = configuration(tmp_path / "c.toml", steps=10**6, report=10**5)
    config, here, elsewhere = read_config(path), tmp_path / "here", tmp_path / "elsewhere"
    begin = time.monotonic()
    result = run_here(config, data, here, deadline=3.0, state_limit=0.02)
    assert time.monotonic() - begin < 3.0
    assert not result.finished and 10 < result.step < 10**5
    sizes = [path.stat().st_size for path in here.glob("*.part")]
    assert len(sizes) > 1 and max(sizes) <= 0.02 * MEBIBYTE
    shutil.copytree(here, elsewhere)
    shutil.rmtree(here)
    later = run_here(config, data, elsewhere, deadline=2.0)
    assert later.step > result.step == saved_step(elsewhere) - (later.step - result.step)
    assert later.seconds > result.seconds
    Checkpoint(elsewhere / "checkpoint")


def test_state_of_another_configuration(data: Path, tmp_path: Path) -> None:
    run_here(read_config(configuration(tmp_path / "c.toml", steps=1)), data, tmp_path / "out")
    other = read_config(configuration(tmp_path / "c.toml", steps=2))
    with pytest.raises(
        ModelError, match="holds a run of another configuration; give another --out"
    ):
        run_here(other, data, tmp_path / "out")


def test_configuration_is_kept_for_the_card(data: Path, tmp_path: Path) -> None:
    config = read_config(configuration(tmp_path / "c.toml", steps=2))
    result = run_here(config, data, tmp_path / "out")
    run = Run.find(tmp_path / "out")
    assert run.checkpoint == tmp_path / "out" / "checkpoint" and run.result is not None
    assert run.result["parameters"] == result.parameters
    (tmp_path / "c.toml").write_text(run.config or "")
    assert read_config(tmp_path / "c.toml") == config


def test_tokenizer_of_a_run_stays(data: Path, tmp_path: Path) -> None:
    config = read_config(configuration(tmp_path / "c.toml", steps=2))
    run_here(config, data, tmp_path / "out")
    kept, given = tmp_path / "out" / "tokenizer.json", tmp_path / "given.json"
    texts = (data / "train.txt").read_text().splitlines()
    train_tokenizer(texts[::2], 299).save(str(given))
    before = kept.read_bytes()
    with pytest.raises(ModelError, match=r"given.json: not the tokenizer of the run, .*; give ano"):
        run_here(config, data, tmp_path / "out", tokenizer=given)
    assert kept.read_bytes() == before
    shutil.copy(kept, given)
    assert run_here(config, data, tmp_path / "out", tokenizer=given).finished
    kept.unlink()
    with pytest.raises(ModelError, match=r"tokenizer.json: missing; bring it with the state"):
        run_here(config, data, tmp_path / "out", tokenizer=given)


def test_tokenizer_whose_end_is_not_its_first_token(data: Path, tmp_path: Path) -> None:
    """As GPT-2 numbers them: the end last, and a character first."""
    made = train_tokenizer((data / "train.txt").read_text().splitlines(), 300)
    facts = json.loads(made.to_str())
    tokens = facts["model"]["vocab"]
    facts["model"]["vocab"] = {name: (id - 1) % 300 for name, id in tokens.items()}
    facts["added_tokens"][0]["id"] = 299
    given = tmp_path / "given.json"
    given.write_text(json.dumps(facts))
    config = read_config(configuration(tmp_path / "c.toml", steps=30))
    result = run_here(config, data, tmp_path / "out", tokenizer=given)
    again = run_here(config, data, tmp_path / "out")
    assert again.validation == result.validation
    checkpoint = tmp_path / "out" / "checkpoint"
    facts = json.loads((checkpoint / "config.json").read_text())
    assert facts["eos_token_id"] == facts["bos_token_id"] == 299
    assert Checkpoint(checkpoint).start_token == 299
    settings: dict[str, Any] = {"windows": 16, "length": 32, "text": data / "valid.txt"}
    report = evaluate(checkpoint=checkpoint, backend="float", **settings)
    assert report.nll == pytest.approx(result.validation, abs=0.001)
    assert report.bits_per_byte == pytest.approx(result.bits_per_byte, abs=0.001)


def test_tokenizer_of_another_vocabulary(data: Path, tmp_path: Path) -> None:
    config = read_config(configuration(tmp_path / "c.toml", steps=1))
    given = tmp_path / "tokenizer.json"
    train_tokenizer((data / "train.txt").read_text().splitlines(), 301).save(str(given))
    with pytest.raises(
        ModelError, match=r"tokenizer.json: the tokens go up to 300, but model.vocabulary is 300"
    ):
        run_here(config, data, tmp_path / "out", tokenizer=given)
    given.write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer.json: not a tokenizer") as error:
        run_here(config, data, tmp_path / "out", tokenizer=given)
    assert "\n" not in str(error.value)


def test_batch_that_processes_cannot_share(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_config(configuration(tmp_path / "c.toml", batch=3))
    processes = loop.Processes("cpu")
    processes.world = 2
    with pytest.raises(ModelError, match="batch must be a multiple of 2 processes, not 3"):
        loop.Trainer(config, np.zeros(3000, np.uint16), processes, compile=False)


def test_loss_that_is_no_number(data: Path, tmp_path: Path) -> None:
    config = read_config(configuration(tmp_path / "c.toml", learning_rate=1e30, clip=1e30))
    with pytest.raises(ModelError, match=r"the loss is .*; lower the learning rate"):
        run_here(config, data, tmp_path / "out")
