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


class FakeDevice:
    """One device. Every POLL finds ``pace`` tokens more chosen, all of them if it is None."""

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
        self.model = self.toy(self.vocabulary)
        self.session = 0
        self.run_id = 0
        self.started = False
        self.stated = False
        self.running = False
        self.produced = 0
        self.runs: list[tuple[int, ...]] = []
        self.writes = 0
        self.stops = 0

    def advance(self, tokens: int | None):
        """Take the run on by so many tokens, to its end for None."""
        buffer = self.memory[MemorySpace.TOKENS]
        while self.running and tokens != 0:
            token = self.model.choose(self.noise if self.flags & RunFlag.SAMPLED else None)
            if self.flags & RunFlag.SAMPLED:
                self.noise = next_noise(self.noise)
            buffer[self.produced] = token
            self.produced += 1
            stopped = self.flags & RunFlag.STOP_ENABLE and token == self.stop_token
            if self.produced == self.end or stopped or self.stopping:
                self.finish()
            else:
                self.model.step(token)
            tokens = tokens if tokens is None else tokens - 1

    def finish(self):
        self.running = False
        count = self.vocabulary
        sums = struct.pack(f"<{count}i", *self.model.sums())
        self.memory[MemorySpace.STATES][:2] = self.model.state, 0
        self.memory[MemorySpace.SUMS][: 2 * count] = struct.unpack(f"<{2 * count}H", sums)
        scales = [0x4000, -16 & 0xFFFF] * REGISTERS  # 2^-2
        self.memory[MemorySpace.REGISTERS][:] = scales
        tokens = self.produced - 1
        totals = Totals(cycles=100 * tokens, engine_cycles=60 * tokens, tokens=tokens)
        self.memory[MemorySpace.TOTALS][:] = struct.unpack("<10H", totals.to_bytes())
        steps = self.identity.geometry.descriptors
        counters = struct.pack(f"<{steps}I", *(i * tokens for i in range(steps)))
        self.memory[MemorySpace.COUNTERS][:] = struct.unpack(f"<{2 * steps}H", counters)

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
                context, start = arguments
                if context:
                    return Reason.BAD_VALUE, b""
                self.advance(self.pace)
                tokens = self.memory[MemorySpace.TOKENS][start : self.produced]
                reply = PollReply(
                    run_id=self.run_id,
                    running=self.running,
                    produced=self.produced,
                    tokens=tuple(tokens[: PollReply.most(self.identity.max_payload)]),
                )
                return None, reply.to_bytes()
            case Command.STOP:
                self.stops += 1
                self.stopping = True
                self.advance(1)
            case Command.RESET:
                self.running = self.started = self.stated = False
                self.run_id = 0
            case Command.CLAIM:
                return self._claim(*arguments), b""
        return None, b""

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
        if self.running and not (command != Command.WRITE and HostAccess.ALWAYS in access):
            return Reason.BUSY, b""
        if address + count > len(memory):
            return Reason.BAD_RANGE, b""
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
            self.stated = True
            if address % 2:
                value = (value & 0xFF ^ 0x80) - 0x80 & 0xFFFF
        self.memory[space][address] = value

    def _claim(self, session: int) -> Reason | None:
        if self.running:
            return Reason.BUSY
        if session == 0:
            return Reason.BAD_VALUE
        self.session, self.started, self.stated, self.run_id = session, False, False, 0
        return None

    def lose_power(self):
        """Forget everything, as a board does in a brown-out; the line stays."""
        self.__init__(self.identity, self.pace, self.vocabulary, self.toy)

    def _run(self, arguments) -> Reason | None:
        context, session, run_id, flags, prompt_length, generate, stop_token, *_, noise = arguments
        if context:
            return Reason.BAD_VALUE
        if self.started and run_id == self.run_id:
            return None
        if self.running:
            return Reason.BUSY
        if not prompt_length or not generate:
            return Reason.BAD_VALUE
        if prompt_length + generate > self.identity.geometry.tokens:
            return Reason.BAD_VALUE
        resets = bool(flags & RunFlag.RESET)
        if session != self.session or session == 0 or not (resets or self.stated):
            return Reason.LOST
        self.runs.append(arguments)
        self.run_id, self.flags, self.stop_token, self.noise = run_id, flags, stop_token, noise
        self.started = self.stated = self.running = True
        self.stopping = False
        self.produced, self.end = prompt_length, prompt_length + generate
        self.model = self.toy(self.vocabulary)
        if not resets:
            self.model.state = self.memory[MemorySpace.STATES][0]
        for token in self.memory[MemorySpace.TOKENS][:prompt_length]:
            self.model.step(token)
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
