"""The command line: text, figures, complaints and exit statuses, without the simulator."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from host.infer import TextStream, encode_prompt
from host.sampling import initial_noise, next_noise
from hw.arch.frames import Deframer, encode_frame
from hw.arch.protocol import VERSION, Command
from sim.checkpoints import RandomCheckpoint, small_tokenizer
from tests.fake_device import IDENTITY, FakeDevice, ToyModel
from weights.checkpoint import Checkpoint, ModelShape
from weights.errors import UsageError
from weights.model import IntegerModel
from weights.quantise import convert

ROOT = Path(__file__).resolve().parents[1]
SHAPE = ModelShape(hidden=8, layers=1, intermediate=8, vocabulary=300)
GEOMETRY = replace(
    IDENTITY.geometry,
    weight_rows=200,
    table_words=2000,
    embedding_words=600,
    descriptors=120,
    sums=320,
    multiplicands=320,
)
DEVICE = replace(IDENTITY, geometry=GEOMETRY)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    path = folder / "tiny.safetensors"
    convert(Checkpoint(RandomCheckpoint(shape=SHAPE).write(folder / "checkpoint"))).save(path)
    return path


@contextlib.contextmanager
def served(device: FakeDevice, pause: float = 0.0):
    """A `FakeDevice` behind a socket; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client:
                    deframer = Deframer()
                    while data := client.recv(4096):
                        for frame in deframer.feed(data):
                            time.sleep(pause)
                            client.sendall(encode_frame(device.respond(frame)))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"socket://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(2)


def command(*arguments) -> list[str]:
    return [sys.executable, str(ROOT / "host" / "infer.py"), *map(str, arguments)]


def infer(*arguments, cwd=None, module=False, given=None):
    line = command(*arguments)
    if module:
        line[1:2] = ["-m", "host.infer"]
    return subprocess.run(
        line, capture_output=True, text=True, timeout=60, cwd=cwd, input=given, encoding="utf-8"
    )


def expected(tokenizer, prompt, count, temperature=0.0, seed=0):
    toy, noise, result = ToyModel(SHAPE.vocabulary), initial_noise(seed), []
    for token in [0, *tokenizer.encode(prompt).ids]:
        toy.step(token)
    for _ in range(count):
        result.append(toy.choose(noise if temperature else None))
        noise = next_noise(noise)
        toy.step(result[-1])
    return result


def one_line(text: str) -> str:
    assert text.count("\n") == 1 and text.endswith("\n"), text
    assert "Traceback" not in text
    return text


def test_text_and_figures(model, tmp_path):
    tokenizer = small_tokenizer(SHAPE.vocabulary)
    with served(FakeDevice(DEVICE, pace=3, vocabulary=SHAPE.vocabulary)) as url:
        # From another folder, as a file of the checkout.
        done = infer(
            "--device", url, "--model", model, "--prompt", "abc", "--tokens", 40, "--no-stop",
            cwd=tmp_path,
        )  # fmt: skip
        ids = expected(tokenizer, "abc", 40)
        assert done.returncode == 0, done.stderr
        assert done.stdout.rstrip("\n") == "abc" + tokenizer.decode(ids).rstrip("\n")
        measured, counted = done.stderr.splitlines()
        assert re.fullmatch(r"40 tokens in [\d.]+ s, [\d.,]+ tokens/s", measured)
        assert counted.startswith("100 cycles/token, ")
        assert counted.endswith("% of the engine's peak; fake at 25 MHz: 250,000 tokens/s")

        done = infer(
            "--device", url, "--model", model, "--prompt", "abc", "--tokens", 40, "--no-stop",
            "--temperature", 0.7, "--seed", 9, "--json", cwd=ROOT, module=True,
        )  # fmt: skip
        assert done.returncode == 0 and done.stderr == ""
        report = json.loads(done.stdout)
        assert set(report) == {
            "prompt", "text", "tokens", "tokens_per_s", "cycles_per_token", "utilization",
            "device", "model",
        }  # fmt: skip
        assert report["tokens"] == expected(tokenizer, "abc", 40, 0.7, 9)
        assert report["text"] == tokenizer.decode(report["tokens"])
        assert report["prompt"] == "abc" and report["device"] == url
        assert report["model"] == str(model)
        assert report["cycles_per_token"] == 100
        assert 0 < report["utilization"] < 1


SEVERAL = replace(
    DEVICE,
    geometry=replace(
        GEOMETRY, sums=512, multiplicands=512, vectors=32, states=32, tokens=16, contexts=4
    ),
)


@pytest.mark.parametrize("identity", [DEVICE, SEVERAL])
def test_several_prompts(model, tmp_path, identity):
    """Their texts are those of each alone, in their order, with one context and with four."""
    tokenizer = small_tokenizer(SHAPE.vocabulary)
    prompts = ["abc", "-de", "f" * 30, "äö", "abc", "w x"]
    ids = [expected(tokenizer, prompt, 25, 0.7, 9) for prompt in prompts]
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffabc\n-de\r\n\n{}\näö\nabc\n  \nw x".format("f" * 30).encode())
    same = (
        *("--model", model, "--tokens", 25, "--no-stop", "--temperature", 0.7, "--seed", 9),
    )  # fmt: skip
    device = FakeDevice(identity, pace=3, vocabulary=SHAPE.vocabulary)
    with served(device) as url:
        each = [word for prompt in prompts for word in ("--prompt", prompt)]
        done = infer("--device", url, *same, *each)
        assert done.returncode == 0, done.stderr
        texts = [prompt + tokenizer.decode(of) for prompt, of in zip(prompts, ids, strict=True)]
        assert done.stdout == "\n\n".join(texts) + "\n"
        measured, counted = done.stderr.splitlines()
        assert measured.startswith("150 tokens of 6 texts in ")
        assert counted.startswith("100 cycles/token, ")
        assert {run[0] for run in device.runs} == {*range(identity.geometry.contexts)}
        for given, name in ((None, file), (file.read_text("utf-8"), "-")):
            done = infer("--device", url, *same, "--prompts", name, "--json", given=given)
            assert done.returncode == 0 and done.stderr == "", done.stderr
            report = json.loads(done.stdout)
            assert [answer["prompt"] for answer in report["answers"]] == prompts
            assert [answer["tokens"] for answer in report["answers"]] == ids
            assert report["cycles_per_token"] == 100 and report["device"] == url


def test_prompts_that_are_none(model, tmp_path):
    file = tmp_path / "prompts.txt"
    for content, message in (
        (b"abc\nd\xffe\n", f"{file}, line 2: not UTF-8; save it as UTF-8 text"),
        (b"\n \n", f"{file}: no prompts; write one a line"),
        (b"abc\n\na<|endoftext|>\n", f"{file}, line 3: prompt holds what the model's tokenizer"),
    ):
        file.write_bytes(content)
        done = infer("--device", "golden://", "--model", model, "--prompts", file)
        assert done.returncode == 2 and done.stdout == ""
        assert message in one_line(done.stderr)


def test_a_failure_among_several_prompts(model):
    """What has come of texts that were begun is shown, whole characters or not, and no other."""
    tokenizer = small_tokenizer(SHAPE.vocabulary)
    device = FakeDevice(SEVERAL, pace=1, vocabulary=SHAPE.vocabulary)
    polls = []

    def respond(frame, was=device.respond):
        polls.append(frame.command == Command.POLL)
        if sum(polls) == 50:
            device.lose_power()
        return was(frame)

    device.respond = respond
    prompts = ["abc", "de", "f", "gh", "never", "begun"]
    with served(device) as url:
        each = [word for prompt in prompts for word in ("--prompt", prompt)]
        done = infer("--device", url, "--model", model, "--tokens", 90, "--no-stop", *each)
    assert done.returncode == 1
    assert "no longer holds the" in one_line(done.stderr)
    whole = [p + tokenizer.decode(expected(tokenizer, p, 90)) for p in prompts]
    shown = done.stdout.removesuffix("\n").split("\n\n")
    assert len(shown) == 4
    for text, all_of_it in zip(shown, whole, strict=False):
        assert all_of_it.startswith(text.rstrip("\ufffd")) and len(text) > 5


def test_stops_at_the_end_of_the_text(model):
    class Short(ToyModel):
        def choose(self, noise):
            return 0 if self.state % 7 == 3 else super().choose(noise) or 1

    device = FakeDevice(DEVICE, vocabulary=SHAPE.vocabulary, toy=Short)
    with served(device) as url:
        done = infer(
            "--device", url, "--model", model, "--prompt", "abc", "--tokens", 200, "--json"
        )
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["tokens"].index(0) == len(report["tokens"]) - 1 < 199
        assert "endoftext" not in report["text"]


def test_every_token_that_ends_a_text_stops(model, tmp_path):
    path, tokenizer = tmp_path / "ends.safetensors", small_tokenizer(SHAPE.vocabulary)
    ids = tokenizer.encode("abcdefgh").ids

    class Chain(ToyModel):
        def choose(self, noise):
            self.place = getattr(self, "place", -1) + 1
            return ids[self.place]

    for end in (2, 5):
        replace(IntegerModel.load(model), more_end_tokens=(299, ids[end])).save(path)
        with served(FakeDevice(DEVICE, vocabulary=SHAPE.vocabulary, toy=Chain)) as url:
            done = infer("--device", url, "--model", path, "--prompt", "x", "--tokens", 7, "--json")
        report = json.loads(done.stdout)
        assert report["tokens"] == ids[: end + 1]
        assert report["text"] == tokenizer.decode(ids[:end])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--prompt", ""], "prompt is empty"),
        ([], "--prompt"),
        (["--prompt", "a", "--tokens", "0"], "tokens must be at least 1, not 0"),
        (["--prompt", "a", "--tokens", "many"], "invalid int value"),
        (["--prompt", "a", "--temperature", "0.001"], "temperature must be 0"),
        (["--prompt", "a", "--temperature", "nan"], "temperature must be 0"),
        (["--prompt", "a", "--temperature", "inf"], "temperature must be 0"),
        (["--prompt", "a", "--seed", "-1"], "seed must be an integer from 0"),
        (["--prompt", "a<|endoftext|>b"], "tokenizer does not know: special tokens"),
        (["--prompt", b"\xff\xfe"], "not valid UTF-8"),
        (["--prompt", "a", "--device", "http://x"], "must be sim://BOARD"),
        (["--prompt", "a", "--bogus"], "unrecognized arguments"),
        (["--prompt", "a", "--prompt", ""], "prompt is empty"),
        (["--prompt", "a", "--prompts", "x"], "--prompts is instead of --prompt"),
        (["--prompt", "a", "--prompt", "b", "--profile"], "--profile is for one --prompt"),
        (["--prompts", "/dev/nonsense/x"], "/dev/nonsense/x: cannot be read (No such file"),
        (["--prompts", "-"], "standard input: no prompts; write one a line"),
    ],
)
def test_wrong_usage(model, arguments, message):
    line = [arg.encode() if isinstance(arg, str) else arg for arg in command("--model", model)]
    line += [arg if isinstance(arg, bytes) else arg.encode() for arg in arguments]
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 2
    assert message in one_line(done.stderr)
    assert done.stdout == ""


def test_failures(model, tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(model.read_bytes()[:-100])
    other = replace(DEVICE, version=VERSION + 1)
    small = replace(DEVICE, geometry=IDENTITY.geometry)
    for device, file, message in (
        ("/dev/nonsense", model, "/dev/nonsense: there is no such serial port"),
        ("socket://127.0.0.1:1", model, "cannot connect"),
        ("socket://127.0.0.1:1", tmp_path / "missing.safetensors", "missing.safetensors"),
        ("socket://127.0.0.1:1", damaged, "damaged.safetensors"),
        (FakeDevice(other), model, "protocol"),
        (FakeDevice(small), model, "model does not fit the device: it needs 304 sums"),
    ):
        with (
            served(device)
            if isinstance(device, FakeDevice)
            else contextlib.nullcontext(device) as url
        ):
            done = infer("--prompt", "abc", "--device", url, "--model", file)
        assert done.returncode == 1, done.stderr
        assert message in one_line(done.stderr)


def test_interrupt_leaves_the_device_usable(model):
    device = FakeDevice(DEVICE, pace=1, vocabulary=SHAPE.vocabulary)
    with served(device, pause=0.01) as url:
        arguments = ("--device", url, "--model", model, "--prompt", "abc", "--no-stop")
        process = subprocess.Popen(
            command(*arguments, "--tokens", 100_000), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        start = time.monotonic()
        while not device.runs:
            assert process.poll() is None and time.monotonic() < start + 30
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=30)
        assert process.returncode == 130
        assert out.startswith(b"abc") and b"Traceback" not in errors
        assert not device.running  # one between two runs has nothing to stop
        done = infer(*arguments, "--tokens", 5)
        assert done.returncode == 0, done.stderr


def test_reader_that_leaves(model):
    with served(FakeDevice(DEVICE, vocabulary=SHAPE.vocabulary)) as url:
        line = command("--device", url, "--model", model, "--prompt", "abc", "--no-stop")
        process = subprocess.Popen(
            [*line, "--tokens", "20000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        process.stdout.read(10)
        process.stdout.close()
        errors = process.stderr.read()
        process.stderr.close()
        assert process.wait(30) == 1
        assert errors == b""


# Text -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", ["", "abc", "ü"])
@pytest.mark.parametrize("text", ["Zoë said: 人工知能 ✓ 🐉!", "plain words here " * 12, "\ufffd?"])
def test_no_halves_of_characters(context, text):
    tokenizer = small_tokenizer(300)
    before, ids = tokenizer.encode(context).ids, tokenizer.encode(text).ids
    stream = TextStream(tokenizer, before)
    pieces = [stream.feed(token) for token in ids]
    assert "".join(pieces) + stream.finish() == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)
        assert len([piece for piece in pieces if piece]) > 10


def test_broken_characters_come_out_at_the_end():
    tokenizer = small_tokenizer(300)
    stream = TextStream(tokenizer, [])
    ids = tokenizer.encode("a人").ids
    assert [stream.feed(token) for token in ids[:-1]] == ["a", "", ""]
    assert "\ufffd" in stream.finish()


def test_prompt_of_words_that_the_model_does_not_know():
    tokenizer = small_tokenizer(20)
    with pytest.raises(UsageError, match="does not know: 'x'"):
        encode_prompt(tokenizer, "x")
    assert encode_prompt(tokenizer, "w3") == [3]


def test_prompt_with_a_dropped_blank():
    tokenizer = Tokenizer.from_str(small_tokenizer(300).to_str())
    assert encode_prompt(tokenizer, " a b") == tokenizer.encode(" a b").ids
