"""The link between host and device: commands in `hw.arch.frames`, and memory spaces.

This is the only definition; ``hw/links/`` is built from it.

A device drops a frame with a wrong CRC or length without a word, and acts on a frame only after
checking all of it. The host sends one command at a time and repeats it under the same sequence
number until it is answered; every command can be repeated without harm. While a device executes
a command or answers it, bytes that arrive may be lost; a repeat heals that.

Commands
--------
========= ============================================ ==========================================
command   payload                                      payload of the response
========= ============================================ ==========================================
IDENTIFY                                               `Identity`
WRITE     space u8, address u32, half-words
READ      space u8, address u32, count u16             ``count`` half-words
CHECKSUM  space u8, address u32, count u32             u32: CRC-32 of the half-words' bytes
RUN       `RunRequest`
POLL      context u8, start u16                        `PollReply`
STOP      context u8
RESET
CLAIM     session u32
========= ============================================ ==========================================

Addresses and counts are in half-words (16 bits). A refused command is answered by command 0xFF
with the payload reason u8 (`Reason`), command u8.

A device forgets its memories with its power, with a new bitstream or with its reset, and the line
does not tell. So a host CLAIMs it before it loads a model, with a session number of its own that is
not 0; the device keeps it as long as the memories, and has 0 otherwise. Whoever CLAIMs later takes
the device over.

A context is a sequence with a state and a token buffer of its own. A device has
`Geometry.contexts` of them; RUN, POLL and STOP name one, and are refused as BAD_VALUE for one
beyond. Of the spaces TOKENS, STATES, SUMS and REGISTERS each context has its part, which begins at
its number times the size that the geometry states.

RUN starts a run over the prompt in the context's buffer; if its id is that of the last run started
there, it is only acknowledged. While that context runs another one it is refused as BUSY. Runs of
other contexts go on: the new one joins them with their next token, and what each chooses is what it
would choose alone. RUN is refused as LOST unless it names the session, and unless it starts from
the zero state or a state is there: that of a run of the session in this context, or one that was
written to its STATES. POLL tells of one context: it waits until there are more than ``start``
tokens in its buffer or it does not run, at most `POLL_CYCLES`, and answers what there is. Any other
frame that arrives meanwhile ends the waiting without a response. STOP ends the context's run after
its current token. RESET ends all runs at once, whatever they are doing, and forgets the last ones'
ids; after it, as after CLAIM, no state is there until a run resets it or a WRITE to STATES brings
one.

A RUN that is CHAINED reads its prompt a token in each context at a time, so that weights pass once
for all of them, and then goes on as any other. It is of the last context, or refused as BAD_VALUE;
while it or anything else runs the other one is refused as BUSY; and it takes all states but the one
that it leaves there.

While anything runs, CLAIM and WRITE are refused as BUSY, and so are READ and CHECKSUM of every
space except TOKENS and TOTALS. A WRITE to TOKENS is not, if it lies within the buffer of one
context that does not run.

STATES holds the hidden states as each context's last run left them, which are those after all
tokens but the last one chosen. What was read there and is written back later, there or in another
context's part, lets a run go on as if nothing had come between. A WRITE takes whole elements; one
that begins or ends within one is refused as BAD_RANGE.
"""

import enum
import re
import struct
from dataclasses import dataclass

from hw.arch.frames import MAX_PAYLOAD
from hw.arch.geometry import Geometry
from weights.fixed import Scale

VERSION = 7
MAGIC = b"TRIT"
MIN_PAYLOAD = 64
"""Least that a device must take and give, so that its identity's geometry is of use."""
POLL_CYCLES = 1 << 22

RESPONSE = 0x80
ERROR = 0xFF
"""Command of an error response."""

SLOWEST_HZ = 10_000
"""Least clock of a machine; a host need not wait longer than for this one."""
BOARD_BYTES = 32
DIGEST_BYTES = 16


class Command(enum.IntEnum):
    IDENTIFY = 1
    WRITE = 2
    READ = 3
    CHECKSUM = 4
    RUN = 5
    POLL = 6
    STOP = 7
    RESET = 8
    CLAIM = 9


class Reason(enum.IntEnum):
    """Why a command is refused."""

    BAD_COMMAND = 1
    BAD_LENGTH = 2  # the payload is too short, too long, or not whole half-words
    BUSY = 3  # something runs
    BAD_SPACE = 4  # no such memory in this device, or it cannot be written
    BAD_RANGE = 5  # beyond the end of the memory, or of a frame; a part of an element
    BAD_VALUE = 6  # no prompt, nothing to generate, more than the buffer holds; session 0; context;
    # noise where there is none
    LOST = 7  # another session than the run's, or no state to go on from


class MemorySpace(enum.IntEnum):
    """Memories that the host sees, as half-words; ``hw.arch.memories`` has sizes and access."""

    WEIGHTS = 0
    TABLES = 1
    PROGRAM = 2
    TOKENS = 3  # token buffers: prompt, then what is generated
    SUMS = 4  # 2 half-words per element, sign-extended to 32 bits
    REGISTERS = 5  # mantissa, sign-extended exponent of the 16 scale registers
    COUNTERS = 6  # cycles per descriptor since nothing ran, u32
    TOTALS = 7  # `Totals` since nothing ran
    STATES = 8  # 2 half-words per element, sign-extended to 32 bits; the upper 9 count for no write
    EMBEDDING = 9  # where embedding rows have a memory of their own


class Feature(enum.IntFlag):
    """What a device can do beside what the protocol demands of all."""

    STATES = 1  # it has the space STATES, and goes on from what is written there
    COUNTERS = 2  # it has the spaces COUNTERS and TOTALS
    RESULTS = 4  # it has the spaces SUMS and REGISTERS
    SAMPLING = 8  # it chooses with noise, too


NO_FEATURES = Feature(0)
ALL_FEATURES = Feature.STATES | Feature.COUNTERS | Feature.RESULTS | Feature.SAMPLING


class RunFlag(enum.IntFlag):
    RESET = 1  # start from the zero state
    SAMPLED = 2  # add noise to the logits; without it the choice is greedy
    STOP_ENABLE = 4  # end the run after the stop token
    CHAINED = 8  # read the prompt in all contexts


#: name and struct code of each command's fixed fields, in order
ARGUMENTS: dict[Command, tuple[tuple[str, str], ...]] = {
    Command.IDENTIFY: (),
    Command.WRITE: (("space", "B"), ("address", "I")),
    Command.READ: (("space", "B"), ("address", "I"), ("count", "H")),
    Command.CHECKSUM: (("space", "B"), ("address", "I"), ("count", "I")),
    Command.RUN: (
        ("context", "B"),
        ("session", "I"),
        ("run_id", "I"),
        ("flags", "B"),
        ("prompt_length", "H"),
        ("generate", "H"),
        ("stop_token", "H"),
        ("mantissa", "H"),
        ("exponent", "h"),
        ("noise", "I"),
    ),
    Command.POLL: (("context", "B"), ("start", "H")),
    Command.STOP: (("context", "B"),),
    Command.RESET: (),
    Command.CLAIM: (("session", "I"),),
}


def argument_struct(command: Command) -> struct.Struct:
    """Format of the fixed fields of a command's payload."""
    return struct.Struct("<" + "".join(code for _, code in ARGUMENTS[command]))


def argument_offset(command: Command, name: str) -> tuple[int, int]:
    """``(offset, size)`` in bytes of a field in the command's payload."""
    offset = 0
    for field, code in ARGUMENTS[command]:
        size = struct.calcsize("<" + code)
        if field == name:
            return offset, size
        offset += size
    raise KeyError(name)


WRITE_HALFWORDS = (MAX_PAYLOAD - argument_struct(Command.WRITE).size) // 2
"""Half-words that one WRITE carries at most."""

READ_HALFWORDS = MAX_PAYLOAD // 2
"""Half-words that one READ returns at most."""


# ---------------------------------------------------------------------------------------------
# Payloads


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a device says of itself.

    Layout: magic 4 bytes, version u16, max_payload u16, clock_hz u32, features u32, digest 16
    bytes, board name 32 bytes of UTF-8 filled up with zeros, `Geometry.to_bytes`. Magic and version
    stay where they are in every version of the protocol.

    ``features`` are those of `Feature`; a host ignores bits that it does not know.
    """

    board: str
    geometry: Geometry
    clock_hz: int
    digest: bytes
    features: int = 0
    max_payload: int = MAX_PAYLOAD
    version: int = VERSION

    def __post_init__(self):
        if not _BOARD.fullmatch(self.board):
            raise ValueError(
                f"board must be a name of 1 to {BOARD_BYTES} letters, digits, _ and -, "
                f"not {self.board!r}"
            )
        if len(self.digest) != DIGEST_BYTES:
            raise ValueError(f"digest must be {DIGEST_BYTES} bytes, not {self.digest!r}")
        for name, low, high in (
            ("clock_hz", SLOWEST_HZ, (1 << 32) - 1),
            ("features", 0, (1 << 32) - 1),
            ("version", 1, (1 << 16) - 1),
            ("max_payload", MIN_PAYLOAD, MAX_PAYLOAD),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(
                    f"{name} must be from {low} to {high}, not {getattr(self, name)!r}"
                )

    def to_bytes(self) -> bytes:
        head = _IDENTITY.pack(
            MAGIC,
            self.version,
            self.max_payload,
            self.clock_hz,
            self.features,
            self.digest,
            self.board.encode(),
        )
        return head + self.geometry.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Identity":
        """Raises ValueError, whose message says what is wrong with the bytes."""
        if data[: len(MAGIC)] != MAGIC or len(data) < len(MAGIC) + 2:
            raise ValueError("it is not a Tritstream device")
        (version,) = struct.unpack_from("<H", data, len(MAGIC))
        if version != VERSION:
            raise ValueError(f"it speaks version {version} of the protocol, not {VERSION}")
        try:
            _, _, max_payload, clock_hz, features, digest, board = _IDENTITY.unpack_from(data)
            return cls(
                board=board.rstrip(b"\0").decode(),
                geometry=Geometry.from_bytes(data[_IDENTITY.size :]),
                clock_hz=clock_hz,
                digest=digest,
                features=features,
                max_payload=max_payload,
            )
        except (struct.error, ValueError) as error:
            raise ValueError(f"its identity is broken ({error})") from error


_BOARD = re.compile(rf"[A-Za-z0-9_-]{{1,{BOARD_BYTES}}}")  # also names a folder of the host's
_IDENTITY = struct.Struct(f"<4sHHII{DIGEST_BYTES}s{BOARD_BYTES}s")


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """Payload of RUN.

    Parameters
    ----------
    context : int
        Sequence that the run goes on with.
    session : int
        Of the host that loaded the model.
    run_id : int
        Number of the run, another one than the run before.
    prompt_length, generate : int
        Tokens in the buffer from index 0, and how many to choose after them; each at least 1,
        together no more than the token buffer holds.
    reset : bool
        Start from the zero state instead of that which the last run left.
    sampled : bool
        Choose with noise instead of greedily.
    stop_token : int or None
        The run ends after this token.
    chained : bool
        Read the prompt in all contexts.
    inverse_temperature : Scale
        1 / T.
    noise : int
        Noise state for the first token.
    """

    context: int
    session: int
    run_id: int
    prompt_length: int
    generate: int
    reset: bool
    sampled: bool
    inverse_temperature: Scale
    noise: int
    stop_token: int | None = None
    chained: bool = False

    def __post_init__(self):
        for name, low, high in (
            ("context", 0, (1 << 8) - 1),
            ("session", 1, (1 << 32) - 1),
            ("run_id", 0, (1 << 32) - 1),
            ("prompt_length", 1, (1 << 16) - 1),
            ("generate", 1, (1 << 16) - 1),
            ("noise", 1, (1 << 32) - 1),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(
                    f"{name} must be from {low} to {high}, not {getattr(self, name)!r}"
                )
        if self.stop_token is not None and not 0 <= self.stop_token < 1 << 16:
            raise ValueError(f"stop_token must fit 16 bits, not {self.stop_token!r}")

    def to_bytes(self) -> bytes:
        flags = (
            RunFlag.RESET * self.reset
            | RunFlag.SAMPLED * self.sampled
            | RunFlag.STOP_ENABLE * (self.stop_token is not None)
            | RunFlag.CHAINED * self.chained
        )
        return argument_struct(Command.RUN).pack(
            self.context,
            self.session,
            self.run_id,
            flags,
            self.prompt_length,
            self.generate,
            self.stop_token or 0,
            self.inverse_temperature.mantissa,
            self.inverse_temperature.exponent,
            self.noise,
        )


@dataclass(frozen=True, kw_only=True)
class PollReply:
    """Payload of POLL's response, all of one context: id of the last run started u32 (0 before the
    first), running u8, produced u16 (tokens in the buffer, prompt included), then the tokens from
    ``start`` on, u16 each, as many as there are and fit the frame."""

    run_id: int
    running: bool
    produced: int
    tokens: tuple[int, ...] = ()

    LAYOUT = struct.Struct("<IBH")

    @classmethod
    def most(cls, max_payload: int) -> int:
        """Tokens of a reply at most."""
        return (max_payload - cls.LAYOUT.size) // 2

    def to_bytes(self) -> bytes:
        head = self.LAYOUT.pack(self.run_id, self.running, self.produced)
        return head + struct.pack(f"<{len(self.tokens)}H", *self.tokens)

    @classmethod
    def from_bytes(cls, data: bytes) -> "PollReply":
        """Raises ValueError for bytes that are no such payload."""
        size = cls.LAYOUT.size
        if len(data) < size or (len(data) - size) % 2:
            raise ValueError(f"a poll reply cannot have {len(data)} bytes")
        run_id, running, produced = cls.LAYOUT.unpack_from(data)
        tokens = struct.unpack(f"<{(len(data) - size) // 2}H", data[size:])
        return cls(run_id=run_id, running=bool(running), produced=produced, tokens=tokens)


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Contents of `MemorySpace.TOTALS`, since nothing ran: cycles u64, cycles u64 in which the
    engine worked, tokens u32 of all contexts that went through the model (those of prompts, too,
    but not the last one that a run chose). While anything runs the numbers change between the
    half-words."""

    cycles: int = 0
    engine_cycles: int = 0
    tokens: int = 0

    LAYOUT = struct.Struct("<QQI")

    def __add__(self, other: "Totals") -> "Totals":
        """Of both."""
        return Totals(
            cycles=self.cycles + other.cycles,
            engine_cycles=self.engine_cycles + other.engine_cycles,
            tokens=self.tokens + other.tokens,
        )

    def __sub__(self, other: "Totals") -> "Totals":
        """What has come since there were others."""
        return Totals(
            cycles=self.cycles - other.cycles,
            engine_cycles=self.engine_cycles - other.engine_cycles,
            tokens=self.tokens - other.tokens,
        )

    def to_bytes(self) -> bytes:
        return self.LAYOUT.pack(self.cycles, self.engine_cycles, self.tokens)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Totals":
        cycles, engine_cycles, tokens = cls.LAYOUT.unpack(data)
        return cls(cycles=cycles, engine_cycles=engine_cycles, tokens=tokens)
