"""Devices behind URLs: load a model, generate tokens, read logits and counters.

============================ ====================================================================
``sim://BOARD``              the board's own core, compiled to native code (package ``sim``)
``golden://``                the integer model in NumPy (package ``sim``)
``/dev/ttyUSB0?baud=1000000`` a serial port, or anything else that pyserial opens by a path
``socket://HOST:PORT``       the same protocol over TCP
============================ ====================================================================

All but ``golden://`` are byte streams, and `LinkDevice` is the one code path for them.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import random
import struct
import time
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import numpy as np

from host.errors import DeviceError, FitError, HostError, UsageError
from host.image import Image, compile_image
from host.request import Request, Stop, Turns, check_tokens
from host.sampling import next_noise
from hw.arch.frames import FLAG, Deframer, Frame, encode_frame
from hw.arch.protocol import (
    ERROR,
    POLL_CYCLES,
    RESPONSE,
    SLOWEST_HZ,
    Command,
    Identity,
    MemorySpace,
    PollReply,
    Reason,
    RunRequest,
    Totals,
    argument_struct,
    space_size,
    write_granule,
)
from weights.fixed import ONE, Scale
from weights.model import IntegerModel

DEFAULT_BAUD = 1_000_000
READ_TIMEOUT = 0.05
"""Seconds that one read of a port waits."""

VERIFY_HALFWORDS = 1 << 14
"""Half-words under one checksum."""

SIMULATED_HZ = SLOWEST_HZ
"""Least clock rate that is expected of a simulated device."""

STALLED_SECONDS = 60.0
"""Time without a token after which a device that answers late is given up, beside that for the
token itself at `SLOWEST_HZ`."""

CLEAR_CACHE = "remove the folder tritstream/sim in the user's cache"

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and the bytes in all."""


class Port(Protocol):
    """Bytes to and from a device; one whose ``read`` waits for all it wants has ``in_waiting``."""

    def write(self, data: bytes, /) -> Any:
        """Send all of ``data``, or keep it to be sent."""

    def read(self, size: int, /) -> bytes:
        """What has come, ``size`` bytes at most; nothing when the port's timeout has passed."""

    def close(self) -> None: ...


class Device(Protocol):
    """What runs a model. `HostError` is all that its methods raise for faults of the outside."""

    def identify(self) -> Identity | None:
        """What the device says of itself; None for one that is no machine."""

    def load(self, model: IntegerModel, progress: Progress | None = None) -> None:
        """Put a model into the device. Raises FitError for one that is too large."""

    def generate(
        self,
        prompt_ids: Sequence[int],
        tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        stop: Stop = None,
    ) -> Iterator[int]:
        """The tokens that follow a prompt, as they come, from the zero state.

        Ends after ``tokens`` tokens or with a token of ``stop``. Temperature 0 is greedy. Closing
        the iterator, or an exception such as KeyboardInterrupt within it, ends the run and
        leaves the device usable. A device has one state: whatever is started on it ends an answer
        that is under way, whose iterator then raises DeviceError.
        """

    def logits(self, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        """After each token of a sequence, from the zero state, the float64 logits of the next."""

    def counters(self) -> list[tuple[str, int]]:
        """Name and cycles of each program step, over all of the last generate or logits."""

    def totals(self) -> Totals:
        """Cycles and tokens over all of the last generate or logits."""

    def stop(self) -> None:
        """End what is running after its current token, and wait for that."""

    def reset(self) -> None:
        """End what is running at once; the model stays loaded."""

    def close(self) -> None: ...


class LinkDevice:
    """A device that speaks ``hw.arch.protocol`` over a port.

    Parameters
    ----------
    port : Port
        Closed by `close`.
    name : str
        What messages call the device.
    patience : float
        Seconds to wait for an answer, beside what the device needs to work it out.
    attempts : int
        How often a command is sent before the device counts as silent.
    clock_hz : float or None
        Cycles per second that a device reaches at least; what it reports unless given.
    """

    def __init__(
        self,
        port: Port,
        *,
        name: str = "device",
        patience: float = 0.5,
        attempts: int = 6,
        clock_hz: float | None = None,
    ):
        self.name = name
        self.image: Image | None = None
        self._port = port
        self._patience = patience
        self._attempts = attempts
        self._clock_hz = clock_hz
        self._deframer = Deframer()
        self._sequence = random.randrange(256)
        self._session = 0
        self._run_id = random.randrange(1, 1 << 32)
        self._heard = 0  # bytes since the command was first sent
        self._answered = False  # it has answered anything ever
        self._identity: Identity | None = None
        self._running = False
        self._turns = Turns(name)
        self._totals = Totals()
        self._counters: list[int] = []

    # Frames ------------------------------------------------------------------------------------

    def _port_call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (OSError, ValueError) as error:  # pyserial's exceptions are OSErrors
            advice = "connect it again"
            if not self._answered and self.name.startswith("socket://"):
                advice = "another program may be using it, close that one"
                if self._heard:
                    advice = "what answers there is no Tritstream device; check host and port"
            raise DeviceError(f"{self.name}: connection lost ({error}); {advice}") from None

    def _waiting(self) -> int:
        """Bytes to ask the port for: what has come, or as many as may come in its timeout."""
        waiting: int | None = getattr(self._port, "in_waiting", None)
        return 4096 if waiting is None else max(1, waiting)

    def _seconds(self, cycles: int) -> float:
        if self._clock_hz is not None:
            return self._patience + cycles / self._clock_hz
        clock_hz = self._identity.clock_hz if self._identity else 1_000_000
        return self._patience + cycles / clock_hz

    def _receive(self, command: int, sequence: int, deadline: float) -> Frame | None:
        while True:
            data = self._port_call(self._port.read, self._port_call(self._waiting))
            self._heard += len(data)
            answer = None
            for frame in self._deframer.feed(data):
                if frame.sequence == sequence and (
                    frame.command == command | RESPONSE
                    or (frame.command == ERROR and frame.payload[1:] == bytes((command,)))
                ):
                    answer = frame
            if answer is not None:
                self._answered = True
                return answer
            if time.monotonic() >= deadline:
                return None

    def _try(
        self, command: Command, payload: bytes, cycles: int = 0, attempts: int | None = None
    ) -> bytes | None:
        """Send a command until it is answered, ``attempts`` times at most; None is silence.

        ``cycles`` is what it takes the device. A device that is busy with a run is given time to
        end it.
        """
        self._sequence = (self._sequence + 1) & 0xFF
        self._heard = 0
        wire = encode_frame(Frame(command=command, sequence=self._sequence, payload=payload))
        attempts = self._attempts if attempts is None else attempts
        left = attempts
        busy_until = time.monotonic() + self._attempts * self._seconds(POLL_CYCLES)
        while left:
            self._port_call(self._port.write, wire)
            deadline = time.monotonic() + self._seconds(cycles)
            response = self._receive(command, self._sequence, deadline)
            if response is None:
                left -= 1
            elif response.command != ERROR:
                return response.payload
            elif response.payload[:1] == bytes((Reason.LOST,)):
                raise self._lost("model")
            elif response.payload[:1] != bytes((Reason.BUSY,)):
                raise DeviceError(
                    f"{self.name}: it refuses {command.name} ({_reason(response.payload)}); "
                    "use host and bitstream of the same version"
                )
            elif time.monotonic() < busy_until:
                left = attempts
                time.sleep(0.01)
            else:
                raise DeviceError(f"{self.name}: still busy with a run; reset the board")
        return None

    def _exchange(self, command: Command, payload: bytes = b"", cycles: int = 0) -> bytes:
        """Response to a command. Raises DeviceError if there is none."""
        answer = self._try(command, payload, cycles)
        if answer is not None:
            return answer
        if self._answered:
            advice = "though it answered before; check the cable, and that the board still runs"
        elif self._heard:
            advice = f"only {self._heard} bytes of noise; check baud rate and cable"
        else:
            advice = "check that the board has power, cable and its bitstream"
        raise DeviceError(
            f"{self.name}: no answer to {command.name} after {self._attempts} tries, {advice}"
        )

    def _lost(self, what: str) -> DeviceError:
        """The device does not hold what this host put there: the model is not to be trusted."""
        self.image = None
        return DeviceError(
            f"{self.name}: it no longer holds the {what}: it lost power, was reset, or is used by "
            "another program; load the model again"
        )

    def _nonsense(self, command: Command) -> DeviceError:
        return DeviceError(
            f"{self.name}: its answer to {command.name} makes no sense; "
            "use host and bitstream of the same version"
        )

    # Memories ----------------------------------------------------------------------------------

    def _write(
        self,
        space: MemorySpace,
        address: int,
        content: bytes,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        identity = self.identify()
        layout = argument_struct(Command.WRITE)
        most = (identity.max_payload - layout.size) // 2
        granule = write_granule(identity.geometry, space)
        size = 2 * (most // granule * granule or most)
        for at in range(0, len(content), size):
            piece = content[at : at + size]
            head = layout.pack(space, address + at // 2)
            self._exchange(Command.WRITE, head + piece, cycles=8 * len(piece))
            if progress:
                progress(len(piece))

    def _read(self, space: MemorySpace, address: int, count: int) -> bytes:
        most = self.identify().max_payload // 2
        layout = argument_struct(Command.READ)
        pieces = []
        while count:
            part = min(count, most)
            piece = self._exchange(
                Command.READ, layout.pack(space, address, part), cycles=32 * part
            )
            if len(piece) != 2 * part:
                raise self._nonsense(Command.READ)
            pieces.append(piece)
            address, count = address + part, count - part
        return b"".join(pieces)

    def _holds(self, space: MemorySpace, address: int, content: bytes) -> bool:
        count = len(content) // 2
        payload = argument_struct(Command.CHECKSUM).pack(space, address, count)
        answer = self._exchange(Command.CHECKSUM, payload, cycles=4 * count)
        if len(answer) != 4:
            raise self._nonsense(Command.CHECKSUM)
        return answer == zlib.crc32(content).to_bytes(4, "little")

    # Device ------------------------------------------------------------------------------------

    def identify(self) -> Identity:
        """What the device reported when it was first asked."""
        if self._identity is None:
            payload = self._exchange(Command.IDENTIFY)
            try:
                self._identity = Identity.from_bytes(payload)
            except ValueError as error:
                raise DeviceError(
                    f"{self.name}: {error}; use host and bitstream of the same version"
                ) from None
        return self._identity

    def load(self, model: IntegerModel, progress: Progress | None = None) -> None:
        """Put a model into the device and check it there by checksums.

        What the device already holds, from the last time, is not sent again.

        Raises
        ------
        FitError
            The model is too large.
        DeviceError
            Among others, the memory does not keep what was written.
        """
        geometry = self.identify().geometry
        self.image = None
        self._begin()
        image = compile_image(model, geometry)
        for space, content in image.sections.items():
            if len(content) > 2 * space_size(geometry, space):
                raise FitError(
                    f"model does not fit {self.name}: {space.name.lower()} need "
                    f"{len(content) // 2} half-words, it has {space_size(geometry, space)}; "
                    "use a smaller model or a larger device"
                )
        total = sum(map(len, image.sections.values()))
        done = 0

        def step(size: int) -> None:
            nonlocal done
            done += size
            if progress:
                progress(done, total)

        step(0)
        self._session = random.randrange(1, 1 << 32)
        self._exchange(Command.CLAIM, argument_struct(Command.CLAIM).pack(self._session))
        for space, content in image.sections.items():
            kept = True
            for at in range(0, len(content), 2 * VERIFY_HALFWORDS):
                block = content[at : at + 2 * VERIFY_HALFWORDS]
                kept = kept and self._holds(space, at // 2, block)
                if kept:
                    step(len(block))
                    continue
                self._write(space, at // 2, block, step)
                if not self._holds(space, at // 2, block):
                    raise DeviceError(
                        f"{self.name}: {space.name.lower()} do not keep what is written to "
                        f"half-words {at // 2} to {(at + len(block)) // 2 - 1}; "
                        "reset the board, check its clock and power"
                    )
        self.image = image

    def generate(
        self,
        prompt_ids: Sequence[int],
        tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        stop: Stop = None,
    ) -> Iterator[int]:
        """The tokens that follow a prompt, as they come; see `Device.generate`.

        Prompt and tokens may be longer than the device's token buffer: runs of that length follow
        each other, with the state left where it is.

        Raises
        ------
        UsageError
            At once, for an argument that cannot be used.
        DeviceError
            From the iterator; among others, the device has lost the model or its state, or
            something else was started on it.
        """
        image = self._loaded()
        request = Request.of(
            prompt_ids, tokens, temperature, seed, stop, vocabulary=image.vocabulary
        )
        return self._generate(image, request)

    def _generate(self, image: Image, request: Request) -> Iterator[int]:
        capacity = image.geometry.tokens
        turn = self._begin(image)
        prompt, left, noise, reset = list(request.prompt), request.tokens, request.noise, True
        while len(prompt) >= capacity:  # a part that is only read; its one choice is dropped
            part, prompt = prompt[: capacity - 1], prompt[capacity - 1 :]
            for _ in self._run(turn, part, 1, reset=reset):
                pass
            reset = False
        while left:
            last = None
            run = self._run(
                turn,
                prompt,
                min(left, capacity - len(prompt)),
                reset=reset,
                sampled=request.sampled,
                scale=request.inverse_temperature,
                noise=noise,
                stop=request.stop,
            )
            with contextlib.closing(run):
                for token in run:
                    last = token
                    left -= 1
                    if request.sampled:
                        noise = next_noise(noise)
                    yield token
            if last is None or last in request.stop:
                return
            prompt, reset = [last], False

    def _begin(self, image: Image | None = None) -> int:
        """A turn of its own on the device, on which nothing runs then."""
        if self.image is not image:
            raise DeviceError(
                f"{self.name}: another model was loaded before this answer began; start it again"
            )
        turn = self._turns.begin()
        if self._running:
            self.stop()
        self._totals = Totals()
        self._counters = [0] * len(image.steps if image else ())
        return turn

    def _run(
        self,
        turn: int,
        prompt: list[int],
        generate: int,
        *,
        reset: bool,
        sampled: bool = False,
        scale: Scale = ONE,
        noise: int = 1,
        stop: tuple[int, ...] = (),
    ) -> Generator[int, None, None]:
        """One run; the tokens that it chooses, the last one being of ``stop`` if one is."""
        self._turns.check(turn)
        self._write(MemorySpace.TOKENS, 0, struct.pack(f"<{len(prompt)}H", *prompt))
        self._run_id = self._run_id % 0xFFFFFFFF + 1
        request = RunRequest(
            session=self._session,
            run_id=self._run_id,
            prompt_length=len(prompt),
            generate=generate,
            reset=reset,
            sampled=sampled,
            inverse_temperature=scale,
            noise=noise,
            stop_token=stop[0] if stop else None,
        )
        self._running = True
        try:
            self._exchange(Command.RUN, request.to_bytes())
            at, end, ahead, token = len(prompt), len(prompt) + generate, len(prompt), -1
            while self._running:
                reply = self._next_tokens(at, ahead)
                if not self._sensible(reply, at, end):
                    raise self._nonsense(Command.POLL)
                for token in reply.tokens:
                    at, ahead = at + 1, 1
                    yield token
                    self._turns.check(turn)
                    if token in stop[1:]:  # the device does not know that it ends the answer
                        self.stop()
                        break
                else:
                    self._running = reply.running or at < reply.produced
            if at < end and token not in stop:
                raise DeviceError(f"{self.name}: the run ended too early; start it again")
        except HostError:
            if self._turns.has(turn):
                self._running = False  # nothing to be stopped, or nobody listens
            raise
        finally:
            if self._running and self._turns.has(turn):
                self.stop()
        self._account()

    def _next_tokens(self, start: int, ahead: int) -> PollReply:
        """What the run under way has chosen from the buffer's entry ``start`` on, or its end.

        ``ahead`` is how many tokens the device may have to take before it chooses one.
        """
        most = 2 * ahead * self._loaded().token_cycles + 2 * POLL_CYCLES
        reply = self._poll(start, most)
        if reply is None:
            self._exchange(Command.RESET)
            raise DeviceError(
                f"{self.name}: it runs, but chose no token in {most:,} cycles, more than its "
                "program can take; load the model again, or reset the board"
            )
        return self._of_this_run(reply)

    def _sensible(self, reply: PollReply, start: int, end: int) -> bool:
        """Whether a reply on the buffer from ``start`` on fits a run that fills it up to ``end``.

        One that did not could make an answer without end.
        """
        chosen, vocabulary = reply.tokens, self._loaded().vocabulary
        return (
            reply.produced <= end
            and len(chosen) <= max(0, reply.produced - start)
            and bool(chosen) == (reply.produced > start)
            and all(token < vocabulary for token in chosen)
        )

    def _of_this_run(self, reply: PollReply) -> PollReply:
        """The reply. Raises DeviceError if the device's last run is not this host's last one."""
        if reply.run_id != self._run_id:
            raise self._lost("run")
        return reply

    def _poll(self, start: int, most: int) -> PollReply | None:
        """What there is from the buffer's entry ``start`` on, once that is something or nothing
        runs; None if that takes more than ``most`` cycles.

        Polls that the device answers with nothing count its cycles. One that it does not answer in
        time does not: a device slower than it says is well as long as it answers the rest, until
        it were too slow even at `SLOWEST_HZ`.
        """
        payload = argument_struct(Command.POLL).pack(start)
        deadline = time.monotonic() + STALLED_SECONDS + most / SLOWEST_HZ
        while most > 0 and time.monotonic() < deadline:
            answer = self._try(Command.POLL, payload, POLL_CYCLES, attempts=1)
            if answer is None:
                self._exchange(Command.IDENTIFY)
                continue
            try:
                reply = PollReply.from_bytes(answer)
            except ValueError:
                raise self._nonsense(Command.POLL) from None
            if reply.tokens or not reply.running or reply.run_id != self._run_id:
                return reply
            most -= POLL_CYCLES
        return None

    def logits(self, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        """Logits after each token; see `Device.logits`."""
        image = self._loaded()
        return self._logits(image, check_tokens(tokens, image.vocabulary, "sequence"))

    def _logits(self, image: Image, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        turn = self._begin(image)
        for position, token in enumerate(tokens):
            for _ in self._run(turn, [token], 1, reset=position == 0):
                pass
            sums = np.frombuffer(self._read(MemorySpace.SUMS, 0, 2 * image.vocabulary), "<i4")
            register = self._read_of_run(MemorySpace.REGISTERS, 2 * image.head_scale_register, 2)
            mantissa, exponent = struct.unpack("<Hh", register)
            yield sums.astype(np.float64) * math.ldexp(mantissa, exponent)

    def _read_of_run(self, space: MemorySpace, address: int, count: int) -> bytes:
        """`_read` of what the last run left; it and what was read before are proven to be that."""
        data = self._read(space, address, count)
        self._next_tokens(0xFFFF, 1)
        return data

    def _account(self) -> None:
        """Add the numbers of the run that has ended; the next one clears them on the device."""
        steps = len(self._counters)
        counts = struct.unpack(f"<{steps}I", self._read(MemorySpace.COUNTERS, 0, 2 * steps))
        data = self._read_of_run(MemorySpace.TOTALS, 0, Totals.LAYOUT.size // 2)
        run, sums = Totals.from_bytes(data), self._totals
        self._totals = Totals(
            cycles=sums.cycles + run.cycles,
            engine_cycles=sums.engine_cycles + run.engine_cycles,
            tokens=sums.tokens + run.tokens,
        )
        self._counters = [a + b for a, b in zip(self._counters, counts, strict=True)]

    def counters(self) -> list[tuple[str, int]]:
        return list(zip(self._loaded().steps, self._counters, strict=False))

    def totals(self) -> Totals:
        return self._totals

    def stop(self) -> None:
        self._exchange(Command.STOP)
        if self._poll(0xFFFF, self._attempts * POLL_CYCLES) is None:
            self._exchange(Command.RESET)
        self._running = False

    def reset(self) -> None:
        self._turns.begin()
        self._exchange(Command.RESET)
        self._running = False

    def close(self) -> None:
        """Stop what is running, if the device still listens, and close the port."""
        try:
            if self._running:
                self.reset()
        except HostError:
            pass
        finally:
            self._port.close()

    def __enter__(self) -> LinkDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _loaded(self) -> Image:
        if self.image is None:
            raise UsageError(f"{self.name}: no model is loaded; load one first")
        return self.image


def _reason(payload: bytes) -> str:
    try:
        return Reason(payload[0]).name.lower().replace("_", " ")
    except (IndexError, ValueError):
        return f"reason {payload.hex()}"


# URLs -----------------------------------------------------------------------------------------


def open_device(url: str) -> Device:
    """The device behind a URL, identified and idle.

    Raises
    ------
    UsageError
        The URL is of no kind that there is.
    DeviceError
        There is no such device, another program uses it, or it does not answer.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    match scheme:
        case "golden":
            if rest:
                raise UsageError(f"device {url!r}: golden:// is a whole one; leave out {rest!r}")
            return simulation("sim.golden_device").GoldenDevice()
        case "sim":
            if not rest:
                raise UsageError("sim:// needs the name of a board, such as sim://ulx3s_85f")
            device = LinkDevice(
                _simulated_port(url, rest), name=url, patience=20, attempts=3, clock_hz=SIMULATED_HZ
            )
        case "" | "socket":
            device = LinkDevice(_serial_port(url), name=url)
        case _:
            raise UsageError(
                f"device {url!r}: must be sim://BOARD, golden://, a serial port's path "
                "or socket://HOST:PORT"
            )
    try:
        identity = device.identify()
        if scheme == "sim" and identity.board != rest:
            raise DeviceError(f"{url}: what is compiled for it is {identity.board}; {CLEAR_CACHE}")
        device.reset()
    except BaseException:
        device.close()
        raise
    return device


def simulation(name: str) -> Any:
    """A module that not every installation has, and that host does not import otherwise."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DeviceError(
            f"simulated devices and profiles need all of the project ({error}); "
            "run from a checkout with its dependencies installed"
        ) from None


def _simulated_port(url: str, board: str) -> Port:
    simulated = simulation("sim.device").SimulatedPort
    try:
        return simulated(board, timeout=READ_TIMEOUT)
    except simulation("sim.verilator").SimulationError as error:
        raise DeviceError(f"{url}: {error}") from None
    except (KeyError, LookupError, ValueError, NotImplementedError) as error:
        raise UsageError(f"{url}: {error.args[0] if error.args else error}") from None


def _serial_port(url: str) -> Port:
    import serial

    if url.startswith("socket://"):
        _check_address(url)
        try:
            return serial.serial_for_url(url, timeout=READ_TIMEOUT)
        except (OSError, ValueError) as error:
            raise DeviceError(f"{url}: cannot connect ({error}); is the server running?") from None
    path, _, query = url.partition("?")
    options = parse_qs(query, keep_blank_values=True)
    unknown = options.keys() - {"baud"}
    baud = options.get("baud", [str(DEFAULT_BAUD)])[-1]
    if not path or unknown or not baud.isdecimal() or not int(baud):
        raise UsageError(f"device {url!r}: must be a path, as in /dev/ttyUSB0?baud={DEFAULT_BAUD}")
    try:
        port = serial.Serial(
            path, int(baud), timeout=READ_TIMEOUT, write_timeout=10, exclusive=True
        )
    except (OSError, ValueError, OverflowError) as error:
        text = str(error)
        if "lock" in text:
            raise DeviceError(f"{path}: another program uses this port; close that one") from None
        if isinstance(error, OSError) and error.errno == 2:
            raise DeviceError(
                f"{path}: there is no such serial port; connect the board, check its path"
            ) from None
        if isinstance(error, OSError) and error.errno == 13:
            raise DeviceError(
                f"{path}: no permission for this serial port; "
                "join the group that owns it (often dialout)"
            ) from None
        raise DeviceError(f"{path}: cannot open this serial port ({text})") from None
    try:
        port.write(bytes((FLAG,)))  # ends what a program before us left half sent
    except OSError as error:
        port.close()
        raise DeviceError(f"{path}: connection lost ({error}); connect it again") from None
    return port


def _check_address(url: str) -> None:
    """Raises UsageError unless a URL names a host and a port."""
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname and parts.port) and not parts.query and parts.path in ("", "/")
    except ValueError:  # a port that is none
        good = False
    if not good:
        raise UsageError(f"device {url!r}: must be socket://HOST:PORT with a port of 1 to 65535")
