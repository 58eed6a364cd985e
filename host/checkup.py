"""Checks of a device, one after the other, each with a verdict."""

from __future__ import annotations

import enum
import importlib.metadata
import platform
import statistics
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from host.arguments import DEFAULT_MODEL
from host.device import Device, LinkDevice
from host.errors import DeviceError, FitError
from host.link import Link
from host.listing import described, serial_ports
from host.memory_test import REMEDY, find_fault
from host.ports import simulation
from host.request import Request
from host.side_by_side import side_by_side
from hw.arch.memories import HostAccess, spaces
from hw.arch.protocol import ALL_FEATURES, Command, Feature, Identity, MemorySpace, Totals
from weights.checkpoint import ModelShape
from weights.commandline import WIDTH, one_line
from weights.errors import ReportedError
from weights.files import ZOO
from weights.model import IntegerModel
from weights.text import TextStream, encode_prompt, open_tokenizer

PACKAGES = ("tritstream", "numpy", "amaranth", "pyserial")
ECHOES = 100
BULK_BYTES = 1 << 14
"""Read and written back to see how fast the line is."""

SHAPE = ModelShape(hidden=24, layers=2, intermediate=40, vocabulary=64)
"""Of the models that every machine has room for; no length is a multiple of another's lanes."""
EXTREMES = (0, 1, 2, 3, 9, 10)
"""Seeds of `sim.models.model_at_the_bounds`: of either residual fraction, and kind of scales."""
PROBE = (0, 3, 63, 17, 17, 1)
"""Tokens of which the logits are compared."""
WAYS = ((0.0, 0), (1.0, 1), (0.3, 2))
"""Temperatures and seeds by which tokens are chosen."""
CHOICES = 8

PROMPT = "Once upon a time"
STORY_TOKENS = 24
TOLERANCE = 0.02
"""Of the cycles of a machine that waits for a memory beside its chip, whose refresh they meet."""


class Verdict(enum.Enum):
    OK = "ok"
    FAILED = "FAILED"
    SKIPPED = "skipped"


class NotApplicableError(ReportedError):
    """A check says nothing of such a device; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found.

    Parameters
    ----------
    name : str
    verdict : Verdict
    text : str
    """

    name: str
    verdict: Verdict
    text: str

    def __str__(self) -> str:
        """Lines of at most `weights.commandline.WIDTH` columns."""
        head = f"{self.name:12}{self.verdict.value:9}"
        lines = textwrap.wrap(
            one_line(self.text), WIDTH, initial_indent=head, subsequent_indent=" " * len(head)
        )
        return "\n".join(lines or [head.rstrip()])


def found(name: str, check: Callable[[], str]) -> Finding:
    """The finding of a check, which returns what is well, and raises what is not."""
    try:
        return Finding(name=name, verdict=Verdict.OK, text=check())
    except NotApplicableError as error:
        return Finding(name=name, verdict=Verdict.SKIPPED, text=str(error))
    except ReportedError as error:
        return Finding(name=name, verdict=Verdict.FAILED, text=str(error))


def checkup(open_it: Callable[[], Device], *, keep_model: bool = False) -> Iterator[Finding]:
    """The findings on a device, as they come; it is closed at the end.

    Parameters
    ----------
    open_it : function
        Opens the device.
    keep_model : bool
        Leave out what loads models; the rest gives memories back what they held.
    """
    yield found("versions", versions)
    yield found("ports", ports)
    opened: list[Device] = []

    def identity() -> str:
        opened.append(open_it())
        return identified(opened[0])

    yield found("device", identity)
    if not opened:
        return
    device = opened[0]
    try:
        yield found("link", lambda: check_link(linked(device).link))
        yield found("memories", lambda: check_memories(linked(device).link))
        if keep_model:
            return
        yield found("arithmetic", lambda: check_arithmetic(device))
        yield found("extremes", lambda: check_extremes(device))
        story = Story(device)
        yield found("story", story.tell)
        yield found("cycles", story.count)
    finally:
        device.close()


# This machine, and who is there -------------------------------------------------------------------


def versions() -> str:
    """Of the project, what it stands on, and the system."""
    packages = []
    for name in PACKAGES:
        try:
            packages.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            packages.append(f"{name} not installed")
    return f"{', '.join(packages)}; Python {platform.python_version()} on {platform.platform()}"


def ports() -> str:
    """Serial ports of this machine; none is opened."""
    return "; ".join(f"{port.path}: {port.about}" for port in serial_ports()) or "no serial port"


def identified(device: Device) -> str:
    """What a device says of itself."""
    identity = device.identify()
    if identity is None:
        return "no machine: this processor computes the model"
    features = ", ".join(f.name for f in Feature if f in Feature(identity.features) and f.name)
    sizes = asdict(identity.geometry).items()
    return (
        f"{described(identity)}; protocol {identity.version}, features {features or 'none'}; "
        + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sizes)
    )


def linked(device: Device) -> LinkDevice:
    """A device that is behind a line; NotApplicableError for one that is not."""
    if not isinstance(device, LinkDevice):
        raise NotApplicableError("there is no line to it")
    return device


# The line and the memories ------------------------------------------------------------------------


def check_link(link: Link) -> str:
    """Echoes, and a piece of the largest memory read and written back.

    Raises
    ------
    DeviceError
        Anything had to be sent twice, or came back as something else.
    """
    first = link.exchange(Command.IDENTIFY)
    silent, damaged = link.unanswered, link.damaged
    trips = []
    for _ in range(ECHOES):
        start = time.perf_counter()
        if link.exchange(Command.IDENTIFY) != first:
            raise DeviceError("it says something else of itself every time; reset the board")
        trips.append(1000 * (time.perf_counter() - start))
    memory = max(_writable(link).items(), key=lambda item: item[1])
    space, half_words = memory[0], min(memory[1], BULK_BYTES // 2)
    start = time.perf_counter()
    content = link.read(space, 0, half_words)
    middle = time.perf_counter()
    link.write(space, 0, content)
    end = time.perf_counter()
    if not link.holds(space, 0, content):
        raise DeviceError(
            f"{space.name.lower()} do not keep what was read of them and written back; "
            "check the board's clock and power"
        )
    silent, damaged = link.unanswered - silent, link.damaged - damaged
    if silent or damaged:
        sent = ECHOES + 2 * len(content) // link.identify().max_payload
        raise DeviceError(
            f"commands that were not answered: {silent}, answers that were damaged: {damaged}, of "
            f"{sent} or so; what is lost is sent again, which takes time: "
            "check cable, baud rate, and what else uses the USB hub"
        )
    down, up = (len(content) / 1000 / max(t, 1e-9) for t in (middle - start, end - middle))
    return (
        f"{ECHOES} echoes without a fault, {statistics.median(trips):.2f} ms each "
        f"({min(trips):.2f} to {max(trips):.2f}); {down:,.0f} KB/s down, {up:,.0f} KB/s up"
    )


def _writable(link: Link) -> dict[MemorySpace, int]:
    """Half-words of each memory that keeps all that is written to it."""
    return {
        space: memory.size
        for space, memory in spaces(link.identify().geometry).items()
        if HostAccess.WRITE in memory.access and space != MemorySpace.STATES
    }


def check_memories(link: Link) -> str:
    """`find_fault` of all memories that can be written; they hold the same afterwards.

    Raises DeviceError, with the fault's name.
    """
    memories = []
    for space, size in _writable(link).items():
        memory = link.memory(space, bytes(2 * size))
        content = np.zeros(size, "<u2")
        content[memory.places] = memory.found()
        memories.append(replace(memory, content=content.tobytes()))
    if fault := find_fault(memories):
        raise DeviceError(f"{fault}; {REMEDY}")
    for memory in memories:
        before = np.frombuffer(memory.content, "<u2")[memory.places]
        if (memory.found() != before).any():
            raise DeviceError(f"{memory.name}: it does not hold what it held before")
    return f"{', '.join(memory.name for memory in memories)}: every data and address line"


# Arithmetic ---------------------------------------------------------------------------------------


def compare(device: Device, model: IntegerModel) -> int:
    """Run a model on a device, and see that all it says is what the golden model says.

    That are logits, which are sums by scales, tokens by every way of choosing them, and states.
    Returns the number of tokens that were compared.

    Raises
    ------
    NotApplicableError
        It has no room for the model.
    DeviceError
        There is a difference, or the device fails.
    """
    golden = simulation("sim.golden_device").GoldenDevice()
    golden.load(model)
    try:
        device.load(model)
    except FitError as error:
        raise NotApplicableError(str(error)) from None
    identity = device.identify()
    features = ALL_FEATURES if identity is None else Feature(identity.features)
    compared = 0
    if Feature.RESULTS in features:
        pairs = zip(device.logits(PROBE), golden.logits(PROBE), strict=True)
        for number, (ours, theirs) in enumerate(pairs):
            _same(f"logits after token {number}", ours, theirs)
        compared += len(PROBE)
    ways = [way for way in WAYS if not way[0] or Feature.SAMPLING in features]
    for temperature, seed in ways:
        chosen, wanted = (
            list(it.generate(PROBE[:3], CHOICES, temperature=temperature, seed=seed, stop=()))
            for it in (device, golden)
        )
        _same(f"tokens at temperature {temperature:g}", chosen, wanted)
        if Feature.STATES in features:
            _same(f"states at temperature {temperature:g}", device.state(), golden.state())
    return compared + CHOICES * len(ways) + _compare_contexts(device, golden, model, ways)


def _compare_contexts(
    device: Device, golden: Device, model: IntegerModel, ways: list[tuple[float, int]]
) -> int:
    """`compare` of answers in all contexts at once, if there are several."""
    contexts = len(device.slots)
    if contexts == 1:
        return 0
    requests = [
        Request.of(
            PROBE[: 1 + number % len(PROBE)],
            CHOICES,
            *ways[number % len(ways)],
            None,
            vocabulary=model.shape.vocabulary,
        )
        for number in range(contexts)
    ]
    chosen: list[list[int]] = [[] for _ in requests]
    for number, token in side_by_side(device, requests):
        chosen[number] += [] if token is None else [token]
    for number, request in enumerate(requests):
        _same(f"tokens of context {number}", chosen[number], list(golden.answer(request)))
    return CHOICES * contexts


def _same(what: str, ours: np.ndarray | Sequence, theirs: np.ndarray | Sequence) -> None:
    given, wanted = np.ravel(ours), np.ravel(theirs)
    if given.size != wanted.size:
        raise DeviceError(f"{what}: {given.size} came instead of {wanted.size}")
    wrong = np.flatnonzero(given != wanted)
    if wrong.size:
        at = int(wrong[0])
        raise DeviceError(
            f"{what}: number {at} is {given[at]:g}, and {wanted[at]:g} by the golden model; "
            f"{wrong.size} of {given.size} differ: the machine does not compute what it should; "
            "check clock and power, and build its bitstream with more margin"
        )


def random_model() -> IntegerModel:
    """A small model of random numbers."""
    with tempfile.TemporaryDirectory() as folder:
        model: IntegerModel = simulation("sim.models").random_model(Path(folder), SHAPE, seed=1)
    return model


def check_arithmetic(device: Device) -> str:
    """A small model of random numbers, whose program has every operation."""
    return f"{compare(device, random_model())} tokens of a small model, to the bit"


def check_extremes(device: Device) -> str:
    """The same with numbers at either end of what a model may hold."""
    model = random_model()
    tokens = 0
    for seed in EXTREMES:
        tokens += compare(device, simulation("sim.models").model_at_the_bounds(model, seed))
    return f"{tokens} tokens of {len(EXTREMES)} models of extreme numbers, to the bit"


# A story ------------------------------------------------------------------------------------------


class Story:
    """A short story of the shipped model that fits a device."""

    def __init__(self, device: Device):
        self._device = device
        self._model: IntegerModel | None = None
        self._ids: list[int] = []
        self._tokens = 0

    def tell(self) -> str:
        """The story, which is the golden model's, token for token.

        Raises
        ------
        NotApplicableError
            No shipped model fits.
        DeviceError
            It is another one.
        """
        name, model = self._load()
        tokenizer = open_tokenizer(model.tokenizer_json, Path(name), "")
        self._ids = [model.start_token, *encode_prompt(tokenizer, PROMPT, model.shape.vocabulary)]
        golden = simulation("sim.golden_device").GoldenDevice()
        golden.load(model)
        start = time.perf_counter()
        ours = list(self._device.generate(self._ids, STORY_TOKENS, stop=()))
        rate = len(ours) / max(time.perf_counter() - start, 1e-9)
        _same("tokens of the story", ours, list(golden.generate(self._ids, STORY_TOKENS, stop=())))
        self._model, self._tokens = model, len(ours)
        stream = TextStream(tokenizer, tuple(self._ids))
        text = "".join(map(stream.feed, ours)) + stream.finish()
        return f"{name}, {rate:,.0f} tokens/s here: {PROMPT}{text}"

    def _load(self) -> tuple[str, IntegerModel]:
        """The default model, or the largest of the smaller ones that fits."""
        most = (ZOO / f"{DEFAULT_MODEL}.safetensors").stat().st_size
        paths = sorted(ZOO.glob("*.safetensors"), key=lambda path: -path.stat().st_size)
        for path in paths:
            if path.stat().st_size <= most:
                model = IntegerModel.load(path)
                try:
                    self._device.load(model)
                except FitError:
                    continue
                return path.stem, model
        raise NotApplicableError("no shipped model fits it")

    def count(self) -> str:
        """The cycles of the story, which are those of the timetable."""
        identity = self._device.identify()
        if identity is None:
            raise NotApplicableError("it has no cycles")
        if not identity.features & Feature.COUNTERS:
            raise NotApplicableError("it counts no cycles")
        if self._model is None:
            raise NotApplicableError("there is no story")
        expected, exact = self._expected(identity)
        counted = self._device.totals()
        off = counted.cycles / expected.cycles - 1
        if counted.tokens != expected.tokens or abs(off) > (0 if exact else TOLERANCE):
            raise DeviceError(
                f"{counted.cycles:,} cycles of {counted.tokens} tokens, and {expected.cycles:,} of "
                f"{expected.tokens} by the timetable; use host and bitstream of the same version"
            )
        per_token = counted.cycles / counted.tokens
        return (
            f"{counted.cycles:,} of {counted.tokens} tokens, "
            f"{f'{off:+.3%} from what' if off else 'as'} the timetable says; about "
            f"{identity.clock_hz / per_token:,.0f} tokens/s at {identity.clock_hz / 1e6:g} MHz"
        )

    def _expected(self, identity: Identity) -> tuple[Totals, bool]:
        """Totals by the timetable, and whether these are exact."""
        profile, timing = simulation("sim.profile"), simulation("sim.timing")
        machine = profile.hardware_of(identity.board, identity.geometry)
        assert isinstance(self._device, LinkDevice) and self._device.image is not None
        totals: Totals = timing.predict(self._device.image, machine).totals(
            chosen=self._tokens, read=len(self._ids) - 1
        )
        return totals, not machine.weights.row_cycles and machine.stores.embedding is None
