"""Frames and payloads of the link."""

import random
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw.arch.frames import ESCAPE, FLAG, MAX_PAYLOAD, Deframer, Frame, encode_frame
from hw.arch.geometry import LARGEST
from hw.arch.protocol import (
    ARGUMENTS,
    VERSION,
    Command,
    Feature,
    Identity,
    PollReply,
    RunRequest,
    Totals,
    argument_offset,
    argument_struct,
)
from tests.fake_device import GEOMETRY, IDENTITY
from weights.fixed import Scale

frames = st.builds(
    Frame,
    command=st.integers(0, 255),
    sequence=st.integers(0, 255),
    payload=st.one_of(
        st.binary(max_size=40),
        st.lists(st.sampled_from([FLAG, ESCAPE, 0, FLAG ^ 0x20]), max_size=MAX_PAYLOAD).map(bytes),
    ),
)


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def test_published_example():
    # The CRC's check value is over "123456789"; here it is over a frame known by hand.
    assert zlib.crc32(b"123456789") == 0xCBF43926
    body = bytes((1, 0x7E, 0, 0))
    crc = zlib.crc32(body).to_bytes(4, "little")
    escaped = body.replace(b"\x7e", b"\x7d\x5e") + crc
    assert encode_frame(Frame(command=1, sequence=0x7E)) == b"\x7e" + escaped + b"\x7e"


@given(st.lists(frames, max_size=4), st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_frames_come_back(sent, size):
    deframer = Deframer()
    data = b"".join(map(encode_frame, sent))
    assert [f for piece in pieces(data, size) for f in deframer.feed(piece)] == sent
    assert deframer.dropped == 0


@given(st.binary(max_size=300), frames)
@settings(max_examples=100, deadline=None)
def test_in_step_again_after_garbage(garbage, frame):
    deframer = Deframer()
    list(deframer.feed(garbage))
    assert list(deframer.feed(encode_frame(frame)))[-1:] == [frame]


@given(frames, st.data())
@settings(max_examples=100, deadline=None)
def test_damage_is_noticed(frame, data):
    wire = bytearray(encode_frame(frame))
    at = data.draw(st.integers(1, len(wire) - 2))
    wire[at] ^= 1 << data.draw(st.integers(0, 7))
    assert list(Deframer().feed(wire)) in ([], [frame])
    del wire[at]
    assert list(Deframer().feed(wire)) == []


@pytest.mark.parametrize("length", [MAX_PAYLOAD + 1, MAX_PAYLOAD + 2, 5000])
def test_too_long_a_frame_is_dropped(length):
    body = bytes((1, 2)) + length.to_bytes(2, "little") + bytes(length)
    wire = bytes((FLAG,)) + body + zlib.crc32(body).to_bytes(4, "little") + bytes((FLAG,))
    deframer = Deframer()
    assert list(deframer.feed(wire)) == []
    assert deframer.dropped == 1


def test_frames_are_checked():
    with pytest.raises(ValueError, match="command must fit 8 bits, not 256"):
        Frame(command=256, sequence=0)
    with pytest.raises(ValueError, match="payload must be at most 1024 bytes, not 1025"):
        Frame(command=1, sequence=0, payload=bytes(1025))


def test_identity():
    data = IDENTITY.to_bytes()
    assert Identity.from_bytes(data) == IDENTITY
    assert Identity.from_bytes(data + bytes(0)).geometry == GEOMETRY
    with pytest.raises(ValueError, match="not a Tritstream device"):
        Identity.from_bytes(b"HELLO" + data)
    with pytest.raises(ValueError, match=f"version {VERSION + 1} of the protocol, not {VERSION}"):
        Identity.from_bytes(data[:4] + bytes((VERSION + 1, 0)) + b"whatever")
    with pytest.raises(ValueError, match="identity is broken"):
        Identity.from_bytes(data[:-1])


def test_bytes_of_an_identity():
    """As a device of this version has them: those of a host's own are read with the same code."""
    identity = Identity(
        board="a-board_1",
        geometry=GEOMETRY,
        clock_hz=25_000_000,
        digest=bytes(range(16)),
        features=0x80000001,
    )
    sizes = (8, 8, 4, 96, 100, 12, 32, 32, 32, 32, 32, 24, 20, 4, 1)
    assert identity.to_bytes() == bytes.fromhex(
        "54524954 0700 0004 40787d01 01000080 000102030405060708090a0b0c0d0e0f"
        "612d626f6172645f31 0000000000000000000000000000000000000000000000"
    ) + b"".join(size.to_bytes(4, "little") for size in sizes)


def test_features_that_a_host_does_not_know_are_no_fault():
    data = replace(IDENTITY, features=0xFFFFFFFF).to_bytes()
    assert Identity.from_bytes(data) == replace(IDENTITY, features=0xFFFFFFFF)
    assert [each.value for each in Feature] == [1, 2, 4, 8]


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("board", "x" * 33, "board must be a name of 1 to 32 letters, digits, _ and -"),
        ("board", "", "board must be a name"),
        ("board", "../../etc", "board must be a name"),
        ("board", "\x1b[2J", "board must be a name"),
        ("digest", b"", "digest must be 16 bytes"),
        ("clock_hz", 0, "clock_hz must be from 10000 to 4294967295, not 0"),
        ("clock_hz", 1 << 32, "clock_hz must be from"),
        ("features", 1 << 32, "features must be from 0 to 4294967295, not 4294967296"),
        ("max_payload", 0, "max_payload must be from 64 to 1024, not 0"),
        ("max_payload", 3, "max_payload must be from"),
        ("max_payload", 2000, "max_payload must be from"),
    ],
)
def test_identities_that_no_device_has(field, value, message):
    good = dict(board="x", geometry=GEOMETRY, clock_hz=1_000_000, digest=bytes(16))
    with pytest.raises(ValueError, match=message):
        Identity(**(good | {field: value}))


@pytest.mark.parametrize("seed", range(4))
def test_damaged_identities(seed):
    """Any bytes are an identity whose every field is within its bounds, or a ValueError."""
    random_bytes = random.Random(seed)
    good = Identity(board="x", geometry=GEOMETRY, clock_hz=1_000_000, digest=bytes(16)).to_bytes()
    refused = 0
    for _ in range(500):
        data = bytearray(good)
        for _ in range(random_bytes.randrange(1, 4)):
            data[random_bytes.randrange(6, len(data))] = random_bytes.randrange(256)
        try:
            identity = Identity.from_bytes(bytes(data))
        except ValueError as error:
            assert "its identity is broken" in str(error)
            refused += 1
        else:
            assert all(
                (name != "embedding_words") <= getattr(identity.geometry, name) <= most
                for name, most in LARGEST.items()
            )
    assert 50 < refused < 500


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("rows", 1 << 13, "rows must be at most 4096, not 8192"),
        ("elements", 16, "elements must be at most 8, not 16"),
        ("weight_rows", 1 << 32, "weight_rows must be at most 536870911"),
        ("sums", 1 << 31, "sums must be at most 4194304"),
        ("tokens", 1 << 16, "tokens must be at most 65535, not 65536"),
        ("tokens", 1, "tokens must be at least 2"),
        ("states", 0, "states must be a positive integer, not 0"),
        ("trits_per_byte", 3, "trits_per_byte must be 4 or 5, not 3"),
        ("trits_per_byte", 6, "trits_per_byte must be at most 5, not 6"),
        ("trits_per_byte", 5, "lanes must be a multiple of 10, not 64"),
    ],
)
def test_geometries_that_no_machine_has(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(GEOMETRY, **{field: value})


def test_run_request():
    request = RunRequest(
        context=2,
        session=0x89ABCDEF,
        run_id=0xFFFFFFFF,
        prompt_length=3,
        generate=9,
        reset=True,
        sampled=False,
        stop_token=5,
        inverse_temperature=Scale(0x5B6E, -14),
        noise=77,
    )
    assert request.to_bytes() == bytes.fromhex(
        "02 efcdab89 ffffffff 05 0300 0900 0500 6e5b f2ff 4d000000"
    )
    assert argument_struct(Command.POLL).pack(2, 0x1234) == bytes.fromhex("02 3412")
    with pytest.raises(ValueError, match="noise must be from 1 to 4294967295, not 0"):
        RunRequest(
            context=0, session=1, run_id=0, prompt_length=1, generate=1, reset=True, sampled=True,
            inverse_temperature=Scale(0, 0), noise=0,
        )  # fmt: skip


MOST = PollReply.most(MAX_PAYLOAD)


@given(st.integers(0, 1 << 32), st.lists(st.integers(0, 0xFFFF), max_size=MOST))
@settings(max_examples=20, deadline=None)
def test_poll_reply(run_id, tokens):
    reply = PollReply(
        run_id=run_id & 0xFFFFFFFF, running=True, produced=len(tokens), tokens=tuple(tokens)
    )
    data = reply.to_bytes()
    assert len(data) <= MAX_PAYLOAD
    assert PollReply.from_bytes(data) == reply
    with pytest.raises(ValueError, match="cannot have"):
        PollReply.from_bytes(data + b"x")


def test_totals():
    totals = Totals(cycles=1 << 40, engine_cycles=3, tokens=7)
    assert Totals.from_bytes(totals.to_bytes()) == totals


def test_arguments_lie_where_the_struct_has_them():
    for command, fields in ARGUMENTS.items():
        layout = argument_struct(command)
        for i, (name, _) in enumerate(fields):
            offset, size = argument_offset(command, name)
            data = bytearray(layout.size)
            data[offset : offset + size] = b"\x01" * size
            values = layout.unpack(data)
            assert [bool(v) for v in values] == [j == i for j in range(len(fields))]
