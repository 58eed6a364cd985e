"""``python -m weights.card``: makes a shipped model and its card from a training run.

``weights/zoo/NAME.safetensors`` is the integer model of the run's checkpoint, and ``NAME.md`` tells
what it is: all figures are read from the run or measured here.
"""

from __future__ import annotations

from weights import early as early  # isort: split

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer

from sim.golden_device import GoldenDevice
from sim.losses import Report, evaluate

from .architectures.mmfree import matrices
from .checkpoint import Checkpoint
from .commandline import OneLineParser, program
from .errors import ModelError
from .files import ZOO, read_json, read_text, user_path, write_file
from .model import IntegerModel, check_target
from .packing import count_nonzero
from .quantise import convert
from .text import decode, encode_prompt, open_tokenizer
from .train.config import read_config
from .train.data import read_texts, text_files, token_stream

DATA_SET = "TinyStories (arXiv 2305.07759), licence CDLA-Sharing-1.0"
WINDOWS, LENGTH = 512, 256
PROMPTS = ("Once upon a time", "The little dog", "Lily was")
TEMPERATURE = 0.7
SAMPLE_TOKENS = 200
RESULTS = {
    "finished",
    "tokens",
    "seconds",
    "tokens_per_second",
    "peak_memory_mib",
    "validation",
}
"""What is told of a run, in its ``result.json``."""

Rows = Iterator[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where a model comes from.

    Members
    -------
    checkpoint : in upstream's format
    config : text of the configuration, and `result`, what the run says of itself; None for a
        checkpoint that no run of this trainer made
    """

    checkpoint: Path
    config: str | None = None
    result: dict[str, Any] | None = None

    @classmethod
    def find(cls, directory: Path) -> Run:
        """The run in an output directory of the trainer, or a bare checkpoint.

        Raises
        ------
        ModelError, OSError
            When it is neither, or a run that has not finished.
        """
        if (directory / "config.json").is_file():
            return cls(checkpoint=directory)
        path = directory / "result.json"
        if not path.exists():
            raise ModelError(f"{path}: missing; give a finished run or a checkpoint")
        result = read_json(path, "end the run again")
        if missing := sorted(RESULTS - result.keys()):
            raise ModelError(f"{path}: damaged, {missing[0]} is missing; end the run again")
        if not result["finished"]:
            raise ModelError(f"{directory}: the run has not finished; go on with it first")
        config = directory / "config.toml"
        read_config(config)  # only what can be trained again is told
        return cls(
            checkpoint=directory / "checkpoint",
            config=read_text(config),
            result=result,
        )


def model_rows(model: IntegerModel, path: Path) -> Rows:
    """Shape and sizes of a model file."""
    shape = model.shape
    packed = [model[f"{name}.trits"] for name in matrices(shape)]
    ternary = sum(trits.nbytes for trits in packed)
    embedding = model["embedding.codes"].nbytes + model["embedding.scale"].nbytes
    tokenizer = model["tokenizer"].nbytes
    tables = sum(tensor.nbytes for tensor in model.tensors.values())
    tables -= ternary + embedding + tokenizer
    nonzero = sum(map(count_nonzero, packed)) / shape.ternary_weights
    yield "hidden", f"{shape.hidden}"
    yield "layers", f"{shape.layers}"
    yield "intermediate", f"{shape.intermediate}"
    yield "vocabulary", f"{shape.vocabulary}"
    yield "ternary weights", f"{shape.ternary_weights:,}, {nonzero:.1%} of them not zero"
    yield "ternary part", f"{ternary:,} bytes, 2 bits a weight"
    yield "embedding", f"{embedding:,} bytes, int8 and a scale for each row"
    yield "norms, gains and scales", f"{tables:,} bytes"
    yield "tokenizer", f"{tokenizer:,} bytes"
    yield "file", f"{path.stat().st_size:,} bytes"
    yield "content (SHA-256)", f"`{model.digest()}`"
    yield "made from (SHA-256)", f"`{model.source}`"


def file_row(path: Path, use: str) -> tuple[str, str]:
    """Name, size and digest of a file of text."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return use, f"`{path.name}`, {len(content):,} bytes, SHA-256 `{digest}`"


def training_rows(run: Run, data: Path, tokenizer: Tokenizer, device: str | None) -> Rows:
    """What a run trained on, for how long and on what."""
    result = run.result
    assert result is not None
    texts = read_texts(str(data))
    stream = token_stream(texts.training, tokenizer)
    yield "data", f"{DATA_SET}; the validation text was never trained on"
    for path in text_files(data)[0]:
        yield file_row(path, "training text")
    yield "its stories, tokens", f"{len(texts.training):,}, {stream.size:,}"
    passes = result["tokens"] / stream.size
    yield "trained on", f"{result['tokens']:,} tokens, {passes:.1f} times the text"
    name = result.get("device", device)
    if name is None:
        raise ModelError("result.json does not tell what the run was made on; give --device")
    count = result.get("processes", 1)
    place = name if count == 1 else f"{count} x {name}"
    yield "training time", f"{result['seconds']:.1f} s on {place}"
    yield "training speed", f"{result['tokens_per_second']:,} tokens/s"
    if result["peak_memory_mib"]:
        yield "GPU memory", f"{result['peak_memory_mib']:,.0f} MiB"
    yield "trainer's own loss", f"{result['validation']:.4f} nats/token"


def loss_rows(losses: dict[str, Report]) -> Rows:
    """One row for each way of computing the loss."""
    for name, report in losses.items():
        yield name, f"{report.nll:.4f} nats/token, {report.bits_per_byte:.4f} bits per byte"


def measure_losses(checkpoint: Path, model: Path, text: Path) -> dict[str, Report]:
    """Losses over the windows of `sim.losses`, by what they are called in a card."""
    runs: dict[str, dict[str, Any]] = {
        "float loss": {"checkpoint": checkpoint, "backend": "float"},
        "float loss of this file": {"model": model, "backend": "float"},
        "golden loss": {"model": model, "backend": "golden"},
    }
    common: dict[str, Any] = {"text": text, "windows": WINDOWS, "length": LENGTH}
    return {name: evaluate(**run, **common) for name, run in runs.items()}


def sample(model: IntegerModel, prompt: str, seed: int) -> str:
    """What the golden device goes on with, the prompt before it."""
    tokenizer = open_tokenizer(model.tokenizer_json, "model")
    tokens = [model.start_token, *encode_prompt(tokenizer, prompt, model.shape.vocabulary)]
    device = GoldenDevice()
    device.load(model)
    settings: dict[str, Any] = {"temperature": TEMPERATURE, "seed": seed, "stop": model.end_tokens}
    tokens.extend(device.generate(tokens, SAMPLE_TOKENS, **settings))
    return decode(tokenizer, tokens).strip()


def table(rows: Rows) -> str:
    """A Markdown table of names and values."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def card(run: Run, name: str, model_path: Path, data: Path, device: str | None) -> str:
    """The text of a model's card.

    Raises
    ------
    ModelError, OSError
        When run, model or data cannot be used.
    """
    validation = text_files(data)[1]
    if len(validation) != 1:
        raise ModelError(f"{data}: {len(validation)} validation files; give a folder with one")
    (text,) = validation
    model = IntegerModel.load(model_path)
    tokenizer = open_tokenizer(model.tokenizer_json, model_path)
    losses = measure_losses(run.checkpoint, model_path, text)
    evaluation = f"python -m sim.evaluate --model weights/zoo/{name}.safetensors"
    evaluation += f" --text {text.name} --windows {WINDOWS} --length {LENGTH} --backend"
    parts = [f"# {name}", "## Model", table(model_rows(model, model_path))]
    if run.config is not None:
        parts += ["## Training", table(training_rows(run, data, tokenizer, device))]
        parts += [f"```toml\n{run.config.strip()}\n```"]
    parts += [
        "## Loss",
        table(iter([file_row(text, "validation text"), *loss_rows(losses)])),
        f"Over the first {WINDOWS} windows of {LENGTH} tokens. The float loss is that of the "
        "training checkpoint's float32 latents, which is not shipped; this file's has the same "
        "trits, with embedding, norms and scales as they are rounded here. The last two again:",
        f"```\n{evaluation} float\n{evaluation} golden\n```",
        "## Samples",
        f"From the golden device, which every board equals, at temperature {TEMPERATURE}, up to "
        f"{SAMPLE_TOKENS} tokens.",
    ]
    for seed, prompt in enumerate(PROMPTS, start=1):
        command = f'python host/infer.py --device golden:// --model {name} --prompt "{prompt}"'
        command += f" --temperature {TEMPERATURE} --seed {seed} --tokens {SAMPLE_TOKENS}"
        quoted = sample(model, prompt, seed).replace("\n", "\n> ")
        parts += [f"```\n{command}\n```", f"> {quoted}"]
    return "\n\n".join(parts) + "\n"


def check_card(path: Path, name: str) -> Path:
    """`path`, unless what is there is not a card of `name`: then `ModelError`."""
    beginning = [f"# {name}", "", "## Model"]
    is_card = path.is_file() and read_text(path).splitlines()[:3] == beginning
    if os.path.lexists(path) and not is_card:
        raise ModelError(f"{path}: not a card of {name}, so it is not replaced; give another name")
    return path


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m weights.card", description="Ships the model of a training run, with a card."
    )
    parser.add_argument("run", type=user_path, metavar="RUN_DIR", help="the trainer's --out")
    parser.add_argument("name", metavar="NAME", help="of the model in weights/zoo")
    parser.add_argument(
        "--data", type=user_path, required=True, metavar="DIR", help="the folder it was trained on"
    )
    parser.add_argument(
        "--device", metavar="NAME", help="what it was trained on, where result.json does not tell"
    )
    parser.add_argument(
        "--zoo", type=user_path, default=ZOO, help="folder to write to (weights/zoo)"
    )
    return parser


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns the exit status; `SystemExit` on wrong usage."""
    options = _parser().parse_args(arguments)
    path = check_target(options.zoo / f"{options.name}.safetensors")
    card_path = check_card(options.zoo / f"{options.name}.md", options.name)
    run = Run.find(options.run)
    model = convert(Checkpoint(run.checkpoint))
    with TemporaryDirectory() as folder:  # what is shipped stays until all is known
        new = Path(folder) / path.name
        model.save(new)
        text = card(run, options.name, new, options.data, options.device)
    model.save(path)
    write_file(card_path, text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
