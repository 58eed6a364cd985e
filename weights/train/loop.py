"""The training run: from a configuration and a directory of text to a checkpoint.

A run writes into its output directory: ``state.json`` and parts (to go on from), ``config.toml``,
``tokenizer.json``, ``metrics.jsonl``, ``curves.png``, and at its end ``checkpoint/`` in upstream's
format and ``result.json``. Started again with the same configuration and directory it goes on from
the state, and its curve is the one of a run that was never stopped.
"""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ..commandline import console
from ..errors import ModelError
from ..files import read_text, write_file
from ..text import listed, open_tokenizer, token_bytes, tokens_beyond
from .config import Config
from .data import Texts, first_windows, read_texts, token_stream, train_tokenizer
from .export import export
from .model import LanguageModel, settle
from .output import BRING, CHECKPOINT, MANIFEST, RESULT, TOKENIZER, claim, owned
from .report import Metrics, plot
from .schedule import learning_rate
from .state import load_state, random_state, restore_random_state, save_state, take
from .windows import Windows

BETAS = (0.9, 0.95)
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What the optimiser keeps for a parameter."""
WARM_UPS = 3
"""Updates before a CUDA graph is captured; their effect is undone."""
EVALUATION_TOKENS = 1 << 15
"""Tokens that an evaluation takes at once."""
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
"""What PyTorch says, in one of many ways, when there is no memory."""
RESERVE_SECONDS = 10.0
"""Before the deadline: time to save, export and plot."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says beside the configuration.

    Members
    -------
    data : directory of text files, or a hub name
    output : directory to write to
    deadline : seconds after which to stop with a saved state, or None
    state_limit : MiB that a file of the state may have
    config : the file that the configuration was read from, or None
    tokenizer : a tokenizer to use instead of a new one, or None
    compile : `torch.compile` and, with one process, CUDA graphs; None for where CUDA is
    device : ``cpu``, ``cuda``, or None for the best there is
    """

    data: str
    output: Path
    deadline: float | None = None
    state_limit: float = 1024.0
    config: Path | None = None
    tokenizer: Path | None = None
    compile: bool | None = None
    device: str | None = None

    @property
    def inputs(self) -> list[Path]:
        """The user's files."""
        return [path for path in (self.config, self.tokenizer) if path is not None]


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a run ended.

    Members
    -------
    finished : whether all steps were made
    step, tokens : steps made and tokens trained on, interrupted parts included
    validation : loss in nats per token, and in bits per byte; None unless finished
    seconds : of training, evaluations and saves not counted
    device : name of the GPU that made the last step, or ``CPU``
    processes : that shared the batch
    peak_memory_mib : of the GPU's allocator
    parameters : of the model
    """

    finished: bool
    step: int
    tokens: int
    validation: float | None
    bits_per_byte: float | None
    seconds: float
    tokens_per_second: float
    device: str
    processes: int
    peak_memory_mib: float
    parameters: int


def _environment_number(name: str, default: int, least: int, below: float = math.inf) -> int:
    """A number that ``torchrun`` gives its processes."""
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and least <= int(text) < below):
        raise ModelError(f"{name} is {text!r} in the environment; unset it, or start with torchrun")
    return int(text)


class Processes:
    """The processes of ``torchrun``, or this one alone.

    Raises
    ------
    ModelError
        When the environment, where ``torchrun`` puts what it has to say, makes no sense, or there
        is no such device.
    """

    def __init__(self, device: str | None) -> None:
        self.world = _environment_number("WORLD_SIZE", 1, least=1)
        self.rank = _environment_number("RANK", 0, least=0, below=self.world)
        local = _environment_number("LOCAL_RANK", 0, least=0)
        kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.device = torch.device(kind, local) if kind == "cuda" else torch.device(kind)
        if kind == "cuda":
            if local >= torch.cuda.device_count():
                raise ModelError(
                    f"device cuda: PyTorch finds {torch.cuda.device_count()} GPUs; give "
                    "--device cpu, or no more processes than GPUs"
                )
            torch.cuda.set_device(self.device)
        if self.world > 1:
            try:
                distributed.init_process_group("nccl" if kind == "cuda" else "gloo")
            except (ValueError, RuntimeError) as error:  # DistError is one
                raise ModelError(
                    f"the {self.world} processes do not find each other ({error}); unset "
                    "WORLD_SIZE, or start with torchrun"
                ) from error

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def agree(self, wish: bool) -> bool:
        """Whether the first process wishes it."""
        if self.world == 1:
            return wish
        decision = torch.tensor([int(wish)], device=self.device)
        distributed.broadcast(decision, 0)
        return bool(decision.item())

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that all processes leave by an exception when one does."""
        if self.world == 1:
            yield
            return
        failure = None
        try:
            yield
        except Exception as error:
            failure = error
        failed = torch.tensor([int(failure is not None)], device=self.device)
        distributed.all_reduce(failed, distributed.ReduceOp.MAX)
        if failure is not None:
            raise failure
        if failed.item():
            raise ModelError("another process of this run failed; it tells why")

    def share(self, make: Callable[[], str]) -> str:
        """What the first process makes, for all of them."""
        made = [""]
        with self.together():
            if self.first:
                made = [make()]
        if self.world > 1:
            distributed.broadcast_object_list(made, 0)
        return made[0]

    def average(self, value: Tensor) -> Tensor:
        """`value`, which becomes its mean over all processes."""
        if self.world > 1:
            distributed.all_reduce(value)
            value /= self.world
        return value

    @property
    def device_name(self) -> str:
        cuda = self.device.type == "cuda"
        return torch.cuda.get_device_name(self.device) if cuda else "CPU"

    def close(self) -> None:
        if self.world > 1:
            gc.collect()  # the wrapped model, which would keep the group's threads to the very end
            distributed.destroy_process_group()


def prepare_tokenizer(config: Config, options: Options, texts: Texts) -> Tokenizer:
    """The run's tokenizer: that of its directory, which a given one must equal, or a new one."""
    kept, given = options.output / TOKENIZER, options.tokenizer
    source = kept if kept.exists() else given
    if source is None:
        return train_tokenizer(texts.training, config.model.vocabulary)
    tokenizer = _read_tokenizer(source)
    if given is not None and _read_tokenizer(given).to_str() != tokenizer.to_str():
        raise ModelError(f"{given}: not the tokenizer of the run, {kept}; give another --out")
    if beyond := tokens_beyond(tokenizer, config.model.vocabulary):
        raise ModelError(
            f"{source}: the tokens go up to {max(beyond.values())}, but model.vocabulary is "
            f"{config.model.vocabulary}, which leaves out {listed(list(beyond))}; make them agree"
        )
    return tokenizer


def _read_tokenizer(path: Path) -> Tokenizer:
    return open_tokenizer(read_text(path), path, "give another")


@contextmanager
def full_precision() -> Iterator[None]:
    """No TF32: an evaluation is to agree with the float reference."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@torch.no_grad()
def evaluate(model: LanguageModel, windows: np.ndarray, device: torch.device) -> float:
    """Mean loss in nats over the windows' predictions, in float32 as the float reference has it."""
    model.eval()
    total = 0.0
    count = max(1, EVALUATION_TOKENS // windows.shape[1])
    with full_precision():
        for first in range(0, len(windows), count):
            part = torch.from_numpy(windows[first : first + count]).to(device)
            # Around compiled parts: they are made for the shapes of training.
            with torch.compiler.set_stance("force_eager"):
                logits = model(part[:, :-1])
            losses = nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), part[:, 1:].flatten(), reduction="sum"
            )
            total += float(losses)
    model.train()
    return total / windows[:, 1:].size


class Trainer:
    """One process's part of a run: model, optimiser and data, and how a step is made."""

    def __init__(
        self, config: Config, stream: np.ndarray, processes: Processes, compile: bool
    ) -> None:
        self.config, self.processes = config, processes
        training, device = config.training, processes.device
        if training.batch % processes.world:
            raise ModelError(
                f"training.batch must be a multiple of {processes.world} processes, "
                f"not {training.batch}"
            )
        torch.manual_seed(training.seed)
        self.model = LanguageModel(config.model).to(device)
        self.windows = Windows(
            stream,
            length=training.length,
            batch=training.batch,
            seed=training.seed,
            device=device,
            rank=processes.rank,
            world=processes.world,
        )
        # Tensors, so that a captured step sees their changes.
        self.rate = torch.tensor(training.learning_rate, device=device)
        self.latent_rate = self.rate.clone()
        self.fixed_from = training.steps - int(training.fixed * training.steps)
        self.optimizer = self._make_optimizer()
        self.total = torch.zeros((), device=device)
        self.starts = self.windows.starts(0).clone()
        if compile:
            self.model.compile_parts()
        self.wrapped: nn.Module = self.model
        if processes.world > 1:
            self.wrapped = DistributedDataParallel(self.model)
        self._graph: torch.cuda.CUDAGraph | None = None
        if compile and device.type == "cuda" and processes.world == 1:
            self._capture()

    def _make_optimizer(self) -> torch.optim.AdamW:
        latents = self.model.latents()
        others = [p for p in self.model.parameters() if all(p is not latent for latent in latents)]
        decay = self.config.training.weight_decay
        groups: list[dict[str, Any]] = [
            {"params": [p for p in others if p.ndim == 2], "weight_decay": decay},
            {"params": [p for p in others if p.ndim != 2], "weight_decay": 0.0},
            {"params": latents, "weight_decay": decay, "lr": self.latent_rate},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=self.rate,
            betas=BETAS,
            fused=True,
            capturable=self.processes.device.type == "cuda",
        )

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.processes.device.type == "cpu":
            return nullcontext()  # slower than float32 there
        return torch.autocast("cuda", torch.bfloat16, cache_enabled=False)

    def _update(self) -> None:
        """One step from `starts`, all on the device."""
        self.model.zero_grad(set_to_none=True)
        tokens, targets = self.windows.gather(self.starts)
        with self._autocast():
            loss = self.wrapped(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.training.clip, foreach=True)
        self.optimizer.step()
        self.total += loss.detach()

    def _capture(self) -> None:
        """Records a step as a CUDA graph: one launch instead of hundreds."""
        before = {name: tensor.clone() for name, tensor in self.tensors().items()}
        random = random_state()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._update()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        self.model.zero_grad(set_to_none=True)
        with torch.cuda.graph(self._graph):
            self._update()
        self.restore(before)
        restore_random_state(random)

    def step(self, number: int) -> None:
        """Makes step `number`; adds its loss to `total`."""
        training = self.config.training
        rate = learning_rate(number, training.steps, training.learning_rate, training.warmup)
        if number == self.fixed_from:
            self.settle()
        self.rate.fill_(rate)
        self.latent_rate.fill_(rate if number < self.fixed_from else 0.0)
        self.starts.copy_(self.windows.starts(number))
        if self._graph is None:
            self._update()
        else:
            self._graph.replay()

    def take_loss(self, steps: int) -> float:
        """The mean loss of the last `steps` steps, over all processes."""
        loss = float(self.processes.average(self.total)) / steps
        self.total.zero_()
        return loss

    def tensors(self) -> dict[str, Tensor]:
        """All that changes with a step, by name."""
        found = {"total": self.total}
        for name, parameter in self.model.named_parameters():
            found[f"model.{name}"] = parameter.detach()
            for key, value in self.optimizer.state.get(parameter, {}).items():
                found[f"{key}.{name}"] = value
        return found

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts `tensors` into place; moments that are not among them become zero.

        Raises
        ------
        ModelError
            As `take` does.
        """
        self.total.copy_(take(tensors, "total", self.total))
        for name, parameter in self.model.named_parameters():
            parameter.copy_(take(tensors, f"model.{name}", parameter))
            moments = self.optimizer.state[parameter]
            for key in MOMENTS:
                like = self.total if key == "step" else parameter
                moment = f"{key}.{name}"
                value = take(tensors, moment, like) if moment in tensors else None
                if key in moments:  # in place: a captured step knows these tensors
                    moments[key].zero_() if value is None else moments[key].copy_(value)
                elif value is not None:
                    moments[key] = value.to(parameter.device, copy=True)

    def settle(self) -> None:
        """Makes the trits independent of rounding, unless the configuration wants them as is."""
        for latent in self.model.latents() if self.config.training.settle else ():
            settle(latent)


class Stop:
    """Becomes true at the deadline, or when the process is asked to end."""

    def __init__(self, deadline: float | None, begin: float) -> None:
        self.at = math.inf if deadline is None else begin + deadline - RESERVE_SECONDS
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *details: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True

    def __bool__(self) -> bool:
        return self.asked or time.monotonic() >= self.at


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a run begins with.

    Members
    -------
    validation : windows to evaluate on
    bytes_per_token : of their text
    step, seconds : made and taken so far
    """

    trainer: Trainer
    tokenizer: Tokenizer
    validation: np.ndarray
    bytes_per_token: float
    step: int = 0
    seconds: float = 0.0


def train(config: Config, options: Options, begin: float | None = None) -> Result:
    """Runs until the last step, the deadline (counted from monotonic `begin`) or a signal.

    Before the first step a signal ends the process as it does any other.

    Raises
    ------
    ModelError, OSError
        When data, state or output directory cannot be used, or there is not enough memory.
    """
    begin = time.monotonic() if begin is None else begin
    processes = Processes(options.device)
    try:
        with ExitStack() as stack:
            with processes.together():
                if processes.first:
                    stack.enter_context(owned(options.output, config, options.inputs))
            return _run(config, options, processes, begin)
    except (MemoryError, RuntimeError) as error:
        reason = _reason(error, processes)
        if reason is None:
            raise
        raise ModelError(reason) from error
    finally:
        processes.close()


def _reason(error: Exception, processes: Processes) -> str | None:
    """What the user can do about an error of PyTorch, or None for one of this program."""
    text = str(error)
    if isinstance(error, MemoryError) or any(mark in text for mark in OUT_OF_MEMORY):
        return f"out of memory on {processes.device}; lower training.batch, or the model's size"
    if isinstance(error, distributed.DistError) or "gloo" in text:
        return "another process of this run has ended; start all again to go on from the state"
    return None


def _start(config: Config, options: Options, processes: Processes) -> Start:
    """Reads what there is, and makes the directory the run's."""
    training = config.training
    with processes.together():
        state = load_state(options.output)
        texts = read_texts(options.data)
        if state is not None and not (options.output / TOKENIZER).exists():
            raise ModelError(f"{options.output / TOKENIZER}: missing; bring it with the state")
    tokenizer = open_tokenizer(
        processes.share(lambda: prepare_tokenizer(config, options, texts).to_str()),
        options.output / TOKENIZER,
    )
    with processes.together():
        validation = first_windows(
            token_stream(texts.validation, tokenizer), training.validation_windows, training.length
        )
        sizes = token_bytes(tokenizer, config.model.vocabulary)
        bytes_per_token = float(sizes[validation[:, 1:]].mean())
        stream = token_stream(texts.training, tokenizer)
    compile = options.compile if options.compile is not None else processes.device.type == "cuda"
    trainer = Trainer(config, stream, processes, compile)
    start = Start(
        trainer=trainer,
        tokenizer=tokenizer,
        validation=validation,
        bytes_per_token=bytes_per_token,
    )
    with processes.together():
        if state is not None:
            tensors, facts = state
            step, seconds = facts["step"], facts.get("seconds")
            if not (1 <= step <= training.steps and isinstance(seconds, (int, float))):
                raise ModelError(f"{options.output / MANIFEST}: no state of such a run; {BRING}")
            trainer.restore(tensors)
            restore_random_state(tensors)
            start = replace(start, step=step, seconds=seconds)
        if processes.first:
            claim(options.output, config)
            if not (options.output / TOKENIZER).exists():
                write_file(options.output / TOKENIZER, tokenizer.to_str().encode())
    return start


def _run(config: Config, options: Options, processes: Processes, begin: float) -> Result:
    start = _start(config, options, processes)
    with Stop(options.deadline, begin) as stop:
        return _make_steps(config, options, processes, start, stop)


def _make_steps(
    config: Config, options: Options, processes: Processes, start: Start, stop: Stop
) -> Result:
    training, device = config.training, processes.device
    trainer, step, seconds = start.trainer, start.step, start.seconds
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with processes.together():
        metrics = Metrics(options.output, step, training.steps) if processes.first else None

    def record(**values: Any) -> None:
        if metrics is not None:
            metrics.add(step=step, tokens=step * training.batch * training.length, **values)

    def save() -> None:
        processes.average(trainer.total)  # of steps that no line of the metrics tells of yet
        with processes.together():
            if processes.first:
                tensors = trainer.tensors() | random_state()
                facts = {"step": step, "seconds": seconds, "config": config.digest()}
                save_state(options.output, tensors, facts, options.state_limit)

    def finite(loss: float) -> float:
        if not math.isfinite(loss):
            raise ModelError(f"step {step}: the loss is {loss}; lower the learning rate")
        return loss

    def validate() -> dict[str, float]:
        loss = finite(evaluate(trainer.model, start.validation, device))
        return {"validation": loss, "bits_per_byte": loss / math.log(2) / start.bytes_per_token}

    saved = last = time.monotonic()
    before = step
    with _progress(processes.first, training.steps) as show:
        while step < training.steps:
            trainer.step(step)
            step += 1
            stopping = processes.agree(bool(stop))
            reporting = step % training.report == 0 or step == training.steps
            if reporting:
                loss = finite(trainer.take_loss((step - 1) % training.report + 1))
            elif stopping:
                float(trainer.total)  # waits for the device
            else:
                continue
            now = time.monotonic()
            elapsed, last = now - last, now
            seconds += elapsed
            if reporting:
                rate = (step - before) * training.batch * training.length / elapsed
                record(
                    loss=loss,
                    learning_rate=float(trainer.rate),
                    seconds=round(seconds, 3),
                    tokens_per_second=round(rate),
                )
                show(step, loss, rate)
                if training.evaluate and step % training.evaluate == 0 and step < training.steps:
                    record(**validate())
                    last = time.monotonic()
            before = step
            if stopping or step == training.steps:
                break
            if processes.agree(last - saved >= training.save_seconds):
                save()
                saved = last = time.monotonic()
    finished = step == training.steps
    if step > start.step:  # otherwise all is settled and saved already
        if finished:
            trainer.settle()
        save()
    closing: dict[str, float] = {}
    if finished:  # an interrupted run has no time for it, and its curve no place
        closing = validate()
        record(**closing)
    tokens = step * training.batch * training.length
    result = Result(
        finished=finished,
        step=step,
        tokens=tokens,
        validation=closing.get("validation"),
        bits_per_byte=closing.get("bits_per_byte"),
        seconds=round(seconds, 3),
        tokens_per_second=round(tokens / seconds) if seconds else 0,
        device=processes.device_name,
        processes=processes.world,
        peak_memory_mib=_peak_memory(device),
        parameters=sum(p.numel() for p in trainer.model.parameters()),
    )
    with processes.together():
        if processes.first:
            text = json.dumps(asdict(result) | {"config": asdict(config)}, indent=1) + "\n"
            write_file(options.output / RESULT, text.encode())
            if config.model.architecture == "matmul-free" and config.model.ternary:
                export(trainer.model, start.tokenizer, options.output / CHECKPOINT)
            plot(options.output)
    return result


def _peak_memory(device: torch.device) -> float:
    if device.type != "cuda":
        return 0.0
    return round(torch.cuda.max_memory_reserved() / (1 << 20), 1)


@contextmanager
def _progress(shown: bool, steps: int) -> Iterator[Callable[[int, float, float], None]]:
    """A bar on standard error with loss and speed; where that is no terminal, one line per call."""
    errors = console(stderr=True)
    if not shown or not errors.is_terminal:

        def write(step: int, loss: float, rate: float) -> None:
            if shown:
                errors.print(f"step {step}/{steps}  loss {loss:.4f}  {rate:,.0f} tokens/s")

        yield write
        return
    text = TextColumn("step {task.completed}/{task.total}  {task.fields[text]}")
    with Progress(text, BarColumn(), TimeRemainingColumn(), console=errors) as bar:
        task = bar.add_task("", total=steps, text="")

        def update(step: int, loss: float, rate: float) -> None:
            bar.update(task, completed=step, text=f"loss {loss:.4f}  {rate:,.0f} tokens/s")

        yield update
