"""A device in Python: answers frames as ``hw.arch.protocol`` says, over memories that are lists.

Its model is a toy: a state stirred by every token, from which the next token follows.
"""

import contextlib
import os
import pty
import random
import struct
import threading
import tty
import zlib
from dataclasses import dataclass, replace

from host.sampling import next_noise
from hw.arch.frames import Deframer, Frame, encode_frame
from hw.arch.geometry import Geometry
from hw.arch.memories import HostAccess, spaces
from hw.arch.program import REGISTERS
from hw.arch.protocol import (
    ALL_FEATURES,
    ERROR,
    RESPONSE,
    Command,
    Feature,
    Identity,
    MemorySpace,
    PollReply,
    Reason,
    RunFlag,
    Totals,
    argument_struct,
)

GEOMETRY = Geometry(
    rows=8,
    columns=8,
    elements=4,
    weight_rows=96,
    table_words=100,
    descriptors=12,
    embedding_words=20,
    sums=32,
    multiplicands=32,
    vectors=32,
    states=32,
    activations=32,
    tokens=24,
)
IDENTITY = Identity(
    board="fake",
    geometry=GEOMETRY,
    clock_hz=25_000_000,
    digest=bytes(range(0x70, 0x80)),
    features=ALL_FEATURES,
)
SEVERAL = replace(IDENTITY, geometry=replace(GEOMETRY, tokens=16, contexts=4))
"""A device of four contexts."""
VOCABULARY = 31


def error_frame(sequence: int, command: int, reason: Reason) -> Frame:
    """The response that refuses a command."""
    return Frame(command=ERROR, sequence=sequence, payload=bytes((reason, command)))


class ToyModel:
    """What the device computes, for the tests to compare with."""

    def __init__(self, vocabulary: int = VOCABULARY):
        self.vocabulary = vocabulary
        self.state = 0

    def step(self, token: int):
        self.state = (self.state * 31 + token * 7 + 1) & 0xFFFF

    def choose(self, noise: int | None) -> int:
        return (self.state ^ (0 if noise is None else noise >> 7)) % self.vocabulary

    def sums(self) -> list[int]:
        return [((self.state * (j + 3)) & 0xFFFF) - 0x8000 for j in range(self.vocabulary)]


@dataclass
class FakeContext:
    """A sequence: its model, and its last run.

    Members
    -------
    buffer : slice of TOKENS that is its own
    """

    model: ToyModel
    buffer: slice
    run_id: int = 0
    started: bool = False
    stated: bool = False
    running: bool = False
    stopping: bool = False
    produced: int = 0
    end: int = 0
    flags: int = 0
    stop_token: int = 0
    noise: int = 0

    def forget(self):
        self.run_id, self.started, self.stated = 0, False, False


class FakeDevice:
    """One device. Every POLL finds ``pace`` tokens more chosen by each run, all of them if it is
    None."""

    def __init__(
        self,
        identity: Identity = IDENTITY,
        pace: int | None = None,
        vocabulary: int = VOCABULARY,
        toy: type[ToyModel] = ToyModel,
    ):
        self.toy = toy
        self.identity = identity
        self.vocabulary = vocabulary
        self.pace = pace
        self.spaces = spaces(identity.geometry, Feature(identity.features))
        self.memory = {s: [0] * memory.size for s, memory in spaces(identity.geometry).items()}
        self.chained = False  # the last run has all contexts
        self.contexts = [
            FakeContext(model=self.toy(self.vocabulary), buffer=self.part(MemorySpace.TOKENS, at))
            for at in range(identity.geometry.contexts)
        ]
        self.session = 0
        self.taken = 0  # tokens since nothing ran
        self.runs: list[tuple[int, ...]] = []
        self.writes = 0
        self.stops = 0

    @property
    def running(self) -> bool:
        """Whether anything runs."""
        return any(context.running for context in self.contexts)

    def part(self, space: MemorySpace, context: int) -> slice:
        """Half-words of a memory that a context has for itself."""
        memory = spaces(self.identity.geometry)[space]
        size = memory.own * memory.half_words
        return slice(context * size, (context + 1) * size)

    def advance(self, number: int, tokens: int | None):
        """Take the run of a context on by so many tokens, to its end for None."""
        context, buffer = self.contexts[number], self.memory[MemorySpace.TOKENS]
        while context.running and tokens != 0:
            sampled = context.flags & RunFlag.SAMPLED
            token = context.model.choose(context.noise if sampled else None)
            if sampled:
                context.noise = next_noise(context.noise)
            buffer[context.buffer.start + context.produced] = token
            context.produced += 1
            stopped = context.flags & RunFlag.STOP_ENABLE and token == context.stop_token
            if context.produced == context.end or stopped or context.stopping:
                self.finish(number)
            else:
                context.model.step(token)
            tokens = tokens if tokens is None else tokens - 1

    def finish(self, number: int):
        context = self.contexts[number]
        context.running = False
        self.count(self.taken + context.produced - 1)
        self.show(MemorySpace.STATES, number, struct.pack("<i", context.model.state))
        sums = context.model.sums()
        self.show(MemorySpace.SUMS, number, struct.pack(f"<{len(sums)}i", *sums))
        self.show(MemorySpace.REGISTERS, number, REGISTERS * struct.pack("<Hh", 0x4000, -16))

    def count(self, taken: int):
        """So many tokens were taken since nothing ran."""
        self.taken = taken
        totals = Totals(cycles=100 * taken, engine_cycles=60 * taken, tokens=taken)
        self.show(MemorySpace.TOTALS, 0, totals.to_bytes())
        steps = self.identity.geometry.descriptors
        counters = struct.pack(f"<{steps}I", *(i * taken for i in range(steps)))
        self.show(MemorySpace.COUNTERS, 0, counters)

    def show(self, space: MemorySpace, context: int, content: bytes):
        """What the host finds at the beginning of a context's part from now on."""
        start, count = self.part(space, context).start, len(content) // 2
        self.memory[space][start : start + count] = struct.unpack(f"<{count}H", content)

    def respond(self, frame: Frame) -> Frame:
        """The answer to a frame, given at once."""
        reason, payload = self._execute(frame.command, frame.payload)
        if reason is not None:
            return error_frame(frame.sequence, frame.command, reason)
        return Frame(command=frame.command | RESPONSE, sequence=frame.sequence, payload=payload)

    def _execute(self, command: int, payload: bytes) -> tuple[Reason | None, bytes]:
        if command not in list(Command):
            return Reason.BAD_COMMAND, b""
        layout = argument_struct(Command(command))
        if command == Command.WRITE:
            if len(payload) < layout.size or (len(payload) - layout.size) % 2:
                return Reason.BAD_LENGTH, b""
        elif len(payload) != layout.size:
            return Reason.BAD_LENGTH, b""
        arguments = layout.unpack_from(payload)
        match command:
            case Command.IDENTIFY:
                return None, self.identity.to_bytes()
            case Command.WRITE | Command.READ | Command.CHECKSUM:
                return self._access(command, arguments, payload[layout.size :])
            case Command.RUN:
                return self._run(arguments), b""
            case Command.POLL:
                return self._poll(*arguments)
            case Command.STOP:
                (number,) = arguments
                if number >= len(self.contexts):
                    return Reason.BAD_VALUE, b""
                self.stops += 1
                self.contexts[number].stopping = True
                self.advance(number, 1)
            case Command.RESET:
                for context in self.contexts:
                    context.running = False
                    context.forget()
            case Command.CLAIM:
                return self._claim(*arguments), b""
        return None, b""

    def _poll(self, number: int, start: int) -> tuple[Reason | None, bytes]:
        if number >= len(self.contexts):
            return Reason.BAD_VALUE, b""
        for each in range(len(self.contexts)):
            self.advance(each, self.pace)
        context = self.contexts[number]
        tokens = self.memory[MemorySpace.TOKENS][context.buffer][start : context.produced]
        reply = PollReply(
            run_id=context.run_id,
            running=context.running,
            produced=context.produced,
            tokens=tuple(tokens[: PollReply.most(self.identity.max_payload)]),
        )
        return None, reply.to_bytes()

    def _access(self, command: int, arguments, data: bytes) -> tuple[Reason | None, bytes]:
        space, address, *rest = arguments
        count = rest[0] if rest else len(data) // 2
        if space not in self.spaces:
            return Reason.BAD_SPACE, b""
        access = self.spaces[space].access
        if command == Command.WRITE and HostAccess.WRITE not in access:
            return Reason.BAD_SPACE, b""
        memory = self.memory[MemorySpace(space)]
        odd = (address | count) % self.spaces[space].granule
        # The hardware looks at the numbers' high bits before it looks whether it is busy.
        beyond = max(address, count).bit_length() > max(map(len, self.memory.values())).bit_length()
        if beyond or (command == Command.READ and count > self.identity.max_payload // 2):
            return Reason.BAD_RANGE, b""
        if command == Command.WRITE and odd:
            return Reason.BAD_RANGE, b""
        if address + count > len(memory):
            return Reason.BAD_RANGE, b""
        owners = [c for c in self.contexts if address in range(c.buffer.start, c.buffer.stop)]
        at_rest = space == MemorySpace.TOKENS and any(
            address + count <= c.buffer.stop and not c.running for c in owners
        )
        if self.running and not (
            at_rest if command == Command.WRITE else HostAccess.ALWAYS in access
        ):
            return Reason.BUSY, b""
        if command == Command.WRITE:
            self.writes += 1
            for at, value in enumerate(struct.unpack(f"<{count}H", data), address):
                self.put(MemorySpace(space), at, value)
            return None, b""
        content = struct.pack(f"<{count}H", *memory[address : address + count])
        if command == Command.CHECKSUM:
            content = zlib.crc32(content).to_bytes(4, "little")
        return None, content

    def put(self, space: MemorySpace, address: int, value: int):
        """A half-word into a memory, which keeps as much of it as it has bits."""
        if space == MemorySpace.STATES:
            context = address * len(self.contexts) // len(self.memory[space])
            self.contexts[context].stated = True
            if address % 2:
                value = (value & 0xFF ^ 0x80) - 0x80 & 0xFFFF
        self.memory[space][address] = value

    def _claim(self, session: int) -> Reason | None:
        if self.running:
            return Reason.BUSY
        if session == 0:
            return Reason.BAD_VALUE
        self.session = session
        for context in self.contexts:
            context.forget()
        return None

    def lose_power(self):
        """Forget everything, as a board does in a brown-out; the line stays."""
        self.__init__(self.identity, self.pace, self.vocabulary, self.toy)

    def _run(self, arguments) -> Reason | None:
        number, session, run_id, flags, prompt_length, generate, stop_token, *_, noise = arguments
        if number >= len(self.contexts):
            return Reason.BAD_VALUE
        context = self.contexts[number]
        if context.started and run_id == context.run_id:
            return None
        chained = bool(flags & RunFlag.CHAINED)
        if context.running or (self.running and (chained or self.chained)):
            return Reason.BUSY
        if not prompt_length or not generate or (chained and context is not self.contexts[-1]):
            return Reason.BAD_VALUE
        if prompt_length + generate > self.identity.geometry.tokens:
            return Reason.BAD_VALUE
        resets = bool(flags & RunFlag.RESET)
        if session != self.session or session == 0 or not (resets or context.stated):
            return Reason.LOST
        self.runs.append(arguments)
        self.chained = chained
        for at, other in enumerate(self.contexts[:-1] if chained else ()):
            other.stated = False
            self.show(MemorySpace.STATES, at, struct.pack("<i", prompt_length))  # nobody's
        if not self.running:
            self.count(0)
        context.run_id, context.flags = run_id, flags
        context.stop_token, context.noise = stop_token, noise
        context.started = context.stated = context.running = True
        context.stopping = False
        context.produced, context.end = prompt_length, prompt_length + generate
        context.model = self.toy(self.vocabulary)
        if not resets:
            states = self.part(MemorySpace.STATES, number)
            context.model.state = self.memory[MemorySpace.STATES][states.start]
        for token in self.memory[MemorySpace.TOKENS][context.buffer][:prompt_length]:
            context.model.step(token)
        return None


class FakePort:
    """A line to a `FakeDevice` that loses, doubles and flips bytes with given probabilities.

    ``intercept`` is called with each frame that arrives; a frame that it returns is sent in the
    response's stead.
    """

    def __init__(self, device, *, seed=0, drop=0.0, repeat=0.0, flip=0.0, silent=False):
        self.device = device
        self.random = random.Random(seed)
        self.drop, self.repeat, self.flip, self.silent = drop, repeat, flip, silent
        self.deframer = Deframer()
        self.output = bytearray()
        self.frames: list[Frame] = []
        self.closed = False
        self.intercept = None

    def _noisy(self, data: bytes) -> bytes:
        result = bytearray()
        for byte in data:
            if self.random.random() < self.flip:
                byte ^= 1 << self.random.randrange(8)
            if self.random.random() >= self.drop:
                result.append(byte)
            if self.random.random() < self.repeat:
                result.append(byte)
        return bytes(result)

    def write(self, data: bytes):
        for frame in self.deframer.feed(self._noisy(data)):
            self.frames.append(frame)
            response = self.intercept(frame) if self.intercept else None
            if response is None:
                response = self.device.respond(frame)
            if not self.silent:
                self.output += self._noisy(encode_frame(response))

    def read(self, size: int = 1) -> bytes:
        data = bytes(self.output[:size])
        del self.output[:size]
        return data

    def close(self):
        self.closed = True


@contextlib.contextmanager
def terminal(device):
    """A `FakeDevice` at the other end of a pseudo-terminal; its path."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    deframer = Deframer()

    def serve():
        with contextlib.suppress(OSError):
            while data := os.read(master, 4096):
                for frame in deframer.feed(data):
                    os.write(master, encode_frame(device.respond(frame)))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield os.ttyname(slave)
    finally:
        os.close(slave)
        thread.join(1)  # the last slave closed: reading fails
        os.close(master)
