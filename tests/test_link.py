"""The device's end of the link, against the device in Python."""

import gc
import random
import struct
import zlib
from collections import Counter, deque
from dataclasses import replace

import pytest
from amaranth.back import rtlil
from amaranth.sim import Simulator

from hw.arch.frames import FLAG, Deframer, Frame, encode_frame
from hw.arch.memories import spaces
from hw.arch.protocol import (
    ERROR,
    NO_FEATURES,
    READ_HALFWORDS,
    RESPONSE,
    WRITE_HALFWORDS,
    Command,
    MemorySpace,
    PollReply,
    Reason,
    RunFlag,
    RunRequest,
    argument_offset,
    argument_struct,
)
from hw.links.commands import CommandProcessor
from hw.links.link import Link
from tests.fake_device import GEOMETRY, IDENTITY, SEVERAL, FakeDevice
from weights.fixed import ONE

POLL_CYCLES = 300
SESSION = 0x89ABCDEF
BUS_LATENCY = 3


class Bench:
    """A `Link` with a core of lists behind it and a host of queues before it.

    ``core`` is a `FakeDevice` of which only memories and run state are used; the core's side of
    the bus answers ``BUS_LATENCY`` cycles after a read. ``stall`` is the probability that ``tx``
    is not ready, ``gap`` that ``rx`` has nothing, ``wait`` that the bus is not ready after it was
    used.
    """

    def __init__(self, seed=0, stall=0.0, gap=0.0, wait=0.0, identity=IDENTITY):
        self.link = Link(identity, poll_cycles=POLL_CYCLES)
        self.random = random.Random(seed)
        self.stall, self.gap, self.wait = stall, gap, wait
        self.core = FakeDevice(identity)
        self.first = self.core.contexts[0]
        for space, memory in self.core.memory.items():
            for address in range(len(memory)):
                self.core.put(space, address, self.random.randrange(1 << 16))
            assert len(memory) == spaces(identity.geometry)[space].size
        self.outbox = deque()
        self.deframer = Deframer()
        self.responses = deque()
        self.received = bytearray()
        self.requests, self.stops, self.resets, self.accesses = [], [], 0, []
        self.sequence = 0

    def run(self, testbench):
        sim = Simulator(self.link)
        sim.add_clock(1e-6)

        async def bench(ctx):
            await testbench(ctx, self)

        sim.add_testbench(self._surroundings, background=True)
        sim.add_testbench(bench)
        sim.run()

    async def _surroundings(self, ctx):
        link, core = self.link, self.core
        bus, control = link.bus, link.control
        pipeline = deque([None] * (BUS_LATENCY - 1))
        offered = waiting = None
        ctx.set(control.run.ready, 1)
        ctx.set(bus.ready, 1)
        bus_ready = True
        following, ended = None, True  # the next address since the last start
        ticks = ctx.tick().sample(
            link.rx.ready, link.tx.valid, link.tx.payload, bus.read, bus.write, bus.space,
            bus.address, bus.write_data, control.run.valid, control.run.payload, control.stop,
            control.reset, control.context, bus.start, bus.last,
        )  # fmt: skip
        tx_ready, run_ready = False, True
        async for (
            _, _, rx_ready, tx_valid, tx_byte, read, write, space, address, data, run_valid,
            run, stop, reset, context, start, last,
        ) in ticks:  # fmt: skip
            if offered is not None and rx_ready:
                offered = None
            if offered is None and self.outbox and self.random.random() >= self.gap:
                offered = self.outbox.popleft()
                ctx.set(link.rx.payload, offered)
            ctx.set(link.rx.valid, offered is not None)

            if waiting is not None:  # a payload once offered stays
                assert tx_valid and tx_byte == waiting
            waiting = tx_byte if tx_valid and not tx_ready else None
            if tx_valid and tx_ready:
                self.received.append(tx_byte)
                self.responses.extend(self.deframer.feed(bytes((tx_byte,))))
            tx_ready = self.random.random() >= self.stall
            ctx.set(link.tx.ready, tx_ready)

            assert read + write + start <= bus_ready
            if start:
                assert ended
                following, ended = (space, address), False
            if read or write:
                if space != MemorySpace.TOKENS or not ended:
                    assert (space, address) == following and not ended
                    following, ended = (space, address + 1), bool(last)
            if read or write or start or not bus_ready:
                bus_ready = self.random.random() >= self.wait
                ctx.set(bus.ready, bus_ready)
            if read or write:
                memory = core.memory[MemorySpace(space)]
                assert address < len(memory)
                self.accesses.append((read, space, address))
            if write:
                core.put(MemorySpace(space), address, data)
            pipeline.append(memory[address] if read else None)
            result = pipeline.popleft()
            ctx.set(bus.read_valid, result is not None)
            ctx.set(bus.read_data, result if result is not None else 0xDEAD)

            if run_valid:
                named = core.contexts[run.context]
                assert not named.running
                if run_ready:
                    self.requests.append(
                        {name: int(run[name]) for name in ("context", "prompt_length", "generate",
                         "stop_token", "mantissa", "exponent", "noise", "reset", "sampled",
                         "stop_enable")}
                    )  # fmt: skip
                    named.running, named.produced = True, run.prompt_length
            if stop:
                self.stops.append(stop)
            self.resets += reset
            for each in core.contexts if reset else ():
                each.running = False
            run_ready = self.random.random() >= self.wait
            ctx.set(control.run.ready, run_ready)
            running = sum(each.running << at for at, each in enumerate(core.contexts))
            ctx.set(control.running, running)
            ctx.set(control.produced, core.contexts[context].produced)

    def send(self, command, payload=b"", sequence=None) -> Frame:
        self.sequence = (self.sequence + 1) % 256 if sequence is None else sequence
        frame = Frame(command=command, sequence=self.sequence, payload=payload)
        self.outbox.extend(encode_frame(frame))
        return frame

    async def response(self, ctx, limit=20_000) -> Frame:
        for _ in range(limit):
            if self.responses:
                return self.responses.popleft()
            await ctx.tick()
        raise AssertionError("no response")

    async def silence(self, ctx, cycles):
        for _ in range(cycles):
            assert not self.responses
            await ctx.tick()

    async def ask(self, ctx, command, payload=b"") -> Frame:
        """Send a command; its response, checked to be a response to it."""
        sent = self.send(command, payload)
        response = await self.response(ctx)
        assert response.sequence == sent.sequence
        assert response.command in (command | RESPONSE, ERROR)
        if response.command == ERROR:
            assert response.payload[1] == command
        return response


def arguments(command, *values, data=b""):
    return argument_struct(command).pack(*values) + data


def halfwords(values):
    return struct.pack(f"<{len(values)}H", *values)


def refusal(response: Frame) -> Reason:
    assert response.command == ERROR and len(response.payload) == 2
    return Reason(response.payload[0])


OTHERS = (1, 0x80, 0xFF)
"""Contexts that a device does not have."""


def run_payload(run_id, **fields):
    defaults = dict(
        context=0, session=SESSION, prompt_length=3, generate=5, reset=True, sampled=False,
        inverse_temperature=ONE, noise=1,
    )  # fmt: skip
    return RunRequest(run_id=run_id, **(defaults | fields)).to_bytes()


@pytest.mark.parametrize(
    "stall, gap, wait", [(0.0, 0.0, 0.0), (0.5, 0.3, 0.5), (0.8, 0.0, 0.9), (0.0, 0.0, 0.3)]
)
def test_identify_and_memories(stall, gap, wait):
    bench = Bench(seed=3, stall=stall, gap=gap, wait=wait)
    core = bench.core

    async def testbench(ctx, bench):
        response = await bench.ask(ctx, Command.IDENTIFY)
        assert response.payload == IDENTITY.to_bytes()
        data = bytes(bench.random.choice((FLAG, 0x7D, 1, 2)) for _ in range(60))
        for space in (MemorySpace.WEIGHTS, MemorySpace.PROGRAM, MemorySpace.TOKENS):
            size = len(core.memory[space])
            before = list(core.memory[space])
            response = await bench.ask(
                ctx, Command.WRITE, arguments(Command.WRITE, space, size - 10, data=data[:20])
            )
            assert response.payload == b"" and response.command != ERROR
            assert core.memory[space] == before[:-10] + list(struct.unpack("<10H", data[:20]))
        for space in MemorySpace:
            size = len(core.memory[space])
            count = min(size, 12)
            response = await bench.ask(
                ctx, Command.READ, arguments(Command.READ, space, size - count, count)
            )
            assert response.payload == halfwords(core.memory[space][-count:])
            response = await bench.ask(
                ctx, Command.CHECKSUM, arguments(Command.CHECKSUM, space, 1, size - 1)
            )
            expected = zlib.crc32(halfwords(core.memory[space][1:]))
            assert response.payload == expected.to_bytes(4, "little")

    bench.run(testbench)
    assert bench.deframer.dropped == 0


def test_a_device_that_shows_less():
    """Memories that it does not show are none, its frames are small, and it is asked who it is."""
    identity = replace(IDENTITY, features=0, max_payload=128)
    shown = spaces(GEOMETRY, NO_FEATURES)
    bench = Bench(seed=9, identity=identity)
    most = (identity.max_payload - 5) // 2

    async def testbench(ctx, bench):
        for _ in range(2):
            data = halfwords([bench.random.randrange(1 << 16) for _ in range(most)])
            await bench.ask(ctx, Command.WRITE, arguments(Command.WRITE, 0, 0, data=data))
            assert halfwords(bench.core.memory[MemorySpace.WEIGHTS][:most]) == data
            response = await bench.ask(ctx, Command.IDENTIFY)
            assert response.payload == identity.to_bytes()
        for space in MemorySpace:
            payload = arguments(Command.READ, space, 0, 1)
            response = await bench.ask(ctx, Command.READ, payload)
            expected = halfwords(bench.core.memory[space][:1])
            bad = bytes((Reason.BAD_SPACE, Command.READ))
            assert response.payload == (expected if space in shown else bad)
        sampled = bytearray(run_payload(1))
        offset, _ = argument_offset(Command.RUN, "flags")
        sampled[offset] |= RunFlag.SAMPLED
        response = await bench.ask(ctx, Command.RUN, bytes(sampled))
        assert response.payload == bytes((Reason.BAD_VALUE, Command.RUN))
        payload = arguments(Command.READ, 0, 0, identity.max_payload // 2 + 1)
        response = await bench.ask(ctx, Command.READ, payload)
        assert response.payload == bytes((Reason.BAD_RANGE, Command.READ))
        bench.send(Command.WRITE, arguments(Command.WRITE, 0, 0, data=bytes(2 * most + 2)))
        await bench.silence(ctx, 500)

    bench.run(testbench)
    assert {MemorySpace.WEIGHTS, MemorySpace.TOKENS} <= set(shown) < set(spaces(GEOMETRY))


def test_largest_and_empty_frames():
    bench = Bench()
    memory = bench.core.memory[MemorySpace.WEIGHTS]

    async def testbench(ctx, bench):
        data = halfwords([bench.random.randrange(1 << 16) for _ in range(WRITE_HALFWORDS)])
        await bench.ask(ctx, Command.WRITE, arguments(Command.WRITE, 0, 0, data=data))
        assert halfwords(memory[:WRITE_HALFWORDS]) == data
        response = await bench.ask(ctx, Command.READ, arguments(Command.READ, 0, 5, READ_HALFWORDS))
        assert response.payload == halfwords(memory[5 : 5 + READ_HALFWORDS])
        before = len(bench.accesses)
        size = len(memory)
        for command, values in (
            (Command.WRITE, (0, size)),
            (Command.READ, (0, size, 0)),
            (Command.CHECKSUM, (0, size, 0)),
        ):
            response = await bench.ask(ctx, command, arguments(command, *values))
            assert response.command == command | RESPONSE
            assert response.payload in (b"", bytes(4))
        assert len(bench.accesses) == before

    bench.run(testbench)


def test_refusals_touch_nothing():
    bench = Bench()
    size = len(bench.core.memory[MemorySpace.WEIGHTS])
    write, read, checksum = Command.WRITE, Command.READ, Command.CHECKSUM
    cases = [
        (0, b"", Reason.BAD_COMMAND),
        (len(Command) + 1, b"abc", Reason.BAD_COMMAND),
        (0xFE, b"", Reason.BAD_COMMAND),
        (Command.IDENTIFY, b"x", Reason.BAD_LENGTH),
        (Command.STOP, b"", Reason.BAD_LENGTH),
        (write, b"", Reason.BAD_LENGTH),
        (write, b"123", Reason.BAD_LENGTH),
        (write, arguments(write, 0, 0, data=b"x"), Reason.BAD_LENGTH),
        (read, arguments(read, 0, 0, 1) + b"x", Reason.BAD_LENGTH),
        (checksum, arguments(checksum, 0, 0, 1)[:-1], Reason.BAD_LENGTH),
        (Command.RUN, run_payload(1)[:-1], Reason.BAD_LENGTH),
        (Command.POLL, b"", Reason.BAD_LENGTH),
        (write, arguments(write, len(MemorySpace), 0, data=b"xy"), Reason.BAD_SPACE),
        (write, arguments(write, MemorySpace.SUMS, 0, data=b"xy"), Reason.BAD_SPACE),
        (read, arguments(read, 0x80, 0, 1), Reason.BAD_SPACE),
        (write, arguments(write, 0, size, data=b"xy"), Reason.BAD_RANGE),
        (write, arguments(write, 0, 0xFFFFFFFF, data=b"xy"), Reason.BAD_RANGE),
        (write, arguments(write, MemorySpace.STATES, 1, data=b"xyxy"), Reason.BAD_RANGE),
        (write, arguments(write, MemorySpace.STATES, 1, data=b"xy"), Reason.BAD_RANGE),
        (write, arguments(write, MemorySpace.STATES, 0, data=b"xy"), Reason.BAD_RANGE),
        (write, arguments(write, MemorySpace.STATES, 62, data=b"xyxyxyxy"), Reason.BAD_RANGE),
        (read, arguments(read, 0, size - 1, 2), Reason.BAD_RANGE),
        (read, arguments(read, 0, 0, READ_HALFWORDS + 1), Reason.BAD_RANGE),
        (checksum, arguments(checksum, 0, 1, size), Reason.BAD_RANGE),
        (checksum, arguments(checksum, 0, 1, 0xFFFFFFFF), Reason.BAD_RANGE),
        (checksum, arguments(checksum, 0, 0x80000000, 0x80000000), Reason.BAD_RANGE),
        (Command.RUN, run_payload(1, generate=GEOMETRY.tokens - 2), Reason.BAD_VALUE),
        (Command.RUN, run_payload(1, generate=0xFFFF, prompt_length=0xFFFF), Reason.BAD_VALUE),
        (Command.RUN, struct.pack("<xIIBHH10x", 1, 1, 0, 0, 3), Reason.BAD_VALUE),
        (Command.RUN, struct.pack("<xIIBHH10x", 1, 1, 0, 3, 0), Reason.BAD_VALUE),
        *((Command.RUN, run_payload(1, context=context), Reason.BAD_VALUE) for context in OTHERS),
        *((Command.POLL, poll(0, context), Reason.BAD_VALUE) for context in OTHERS),
        *((Command.STOP, bytes((context,)), Reason.BAD_VALUE) for context in OTHERS),
        (Command.CLAIM, bytes(4), Reason.BAD_VALUE),
        # Nobody has claimed the device, not even with the session that it has then.
        (Command.RUN, run_payload(1), Reason.LOST),
        (Command.RUN, struct.pack("<xIIBHH10x", 0, 1, 1, 3, 5), Reason.LOST),
    ]

    async def testbench(ctx, bench):
        for command, payload, reason in cases:
            assert refusal(await bench.ask(ctx, command, payload)) == reason, (command, payload)
        response = await bench.ask(ctx, Command.IDENTIFY)
        assert response.payload == IDENTITY.to_bytes()

    bench.run(testbench)
    assert bench.accesses == [] and bench.requests == []


def test_runs():
    bench = Bench(seed=1)
    core = bench.core

    async def testbench(ctx, bench):
        await bench.ask(ctx, Command.CLAIM, claim())
        payload = run_payload(
            7, sampled=True, stop_token=9, noise=0xDEADBEEF, prompt_length=4, generate=20
        )
        for _ in range(3):  # the same run id starts once
            response = await bench.ask(ctx, Command.RUN, payload)
            assert response.command == Command.RUN | RESPONSE
        assert bench.requests == [
            dict(
                context=0, prompt_length=4, generate=20, stop_token=9, mantissa=ONE.mantissa,
                exponent=ONE.exponent, noise=0xDEADBEEF, reset=1, sampled=1, stop_enable=1,
            )
        ]  # fmt: skip
        assert refusal(await bench.ask(ctx, Command.RUN, run_payload(8))) == Reason.BUSY
        assert refusal(await bench.ask(ctx, Command.CLAIM, claim())) == Reason.BUSY
        for space in MemorySpace:
            free = space in (MemorySpace.TOKENS, MemorySpace.TOTALS)
            for command in (Command.READ, Command.CHECKSUM):
                response = await bench.ask(ctx, command, arguments(command, space, 2, 2))
                assert (response.command == ERROR) != free
        response = await bench.ask(
            ctx, Command.WRITE, arguments(Command.WRITE, MemorySpace.TOKENS, 0, data=b"xy")
        )
        assert refusal(response) == Reason.BUSY
        await bench.ask(ctx, Command.STOP, bytes(1))
        assert bench.stops == [1] and core.running
        bench.first.running = False
        await ctx.tick().repeat(2)
        # Ended, and repeated after its end: still only acknowledged.
        assert (await bench.ask(ctx, Command.RUN, payload)).command != ERROR
        assert len(bench.requests) == 1
        await bench.ask(ctx, Command.RUN, run_payload(8, reset=False))
        assert bench.requests[1]["reset"] == bench.requests[1]["stop_enable"] == 0
        await bench.ask(ctx, Command.RESET)
        assert bench.resets == 1 and not core.running
        await bench.ask(ctx, Command.RUN, run_payload(8))
        assert len(bench.requests) == 3

    bench.run(testbench)


def test_sessions():
    """A run starts only in the session of the model, and only from a state that is there."""
    bench = Bench(seed=4)

    async def testbench(ctx, bench):
        async def run(number, **fields):
            response = await bench.ask(ctx, Command.RUN, run_payload(number, **fields))
            bench.first.running = False
            await ctx.tick().repeat(2)
            return refusal(response) if response.command == ERROR else None

        assert await run(1) == Reason.LOST
        await bench.ask(ctx, Command.CLAIM, claim())
        assert await run(2, session=SESSION ^ 1) == Reason.LOST
        assert await run(3, session=SESSION ^ 1 << 31) == Reason.LOST
        assert await run(4, reset=False) == Reason.LOST
        assert await run(5) is None
        assert await run(6, reset=False) is None
        await bench.ask(ctx, Command.RESET)
        assert await run(7, reset=False) == Reason.LOST
        assert await run(8) is None  # the session outlives a reset of the run
        await bench.ask(ctx, Command.CLAIM, claim(5))
        assert await run(9) == Reason.LOST
        assert await run(10, session=5, reset=False) == Reason.LOST
        assert await run(11, session=5) is None
        assert len(bench.requests) == 4

    bench.run(testbench)


def test_a_state_that_is_written():
    """It is a state to go on from until a reset or another claim; what is refused is none."""
    bench = Bench(seed=8)
    core = bench.core
    states = core.memory[MemorySpace.STATES]

    async def testbench(ctx, bench):
        async def write(values, address=0, space=MemorySpace.STATES):
            payload = arguments(Command.WRITE, space, address, data=halfwords(values))
            response = await bench.ask(ctx, Command.WRITE, payload)
            return refusal(response) if response.command == ERROR else None

        async def goes_on(number, session=SESSION):
            payload = run_payload(number, session=session, reset=False)
            response = await bench.ask(ctx, Command.RUN, payload)
            bench.first.running = False
            await ctx.tick().repeat(2)
            assert response.command != ERROR or refusal(response) == Reason.LOST
            return response.command != ERROR

        assert await write([1, 2]) is None
        assert not await goes_on(1)  # in nobody's session
        await bench.ask(ctx, Command.CLAIM, claim())
        assert not await goes_on(2)
        for values, address in (([7], 0), ([7, 7], 1), ([7] * 3, 2), ([7] * 4, len(states) - 2)):
            assert await write(values, address) == Reason.BAD_RANGE
        assert await write([]) is None
        assert await write([9, 9], space=MemorySpace.TABLES) is None
        assert not await goes_on(3)
        assert await write([0x1234, 0xFFC0], len(states) - 2) is None
        assert states[:2] == [1, 2] and states[-2:] == [0x1234, 0xFFC0]
        assert await goes_on(4)
        # It has not made up a run: its id is one to start.
        await bench.ask(ctx, Command.RESET)
        assert not await goes_on(5)
        assert await write([3, 4]) is None
        assert await goes_on(0)
        assert len(bench.requests) == 2 and not any(run["reset"] for run in bench.requests)
        await bench.ask(ctx, Command.CLAIM, claim(6))
        assert not await goes_on(7, session=6)
        assert await write([5, 6]) is None
        assert not await goes_on(8)
        assert await goes_on(8, session=6)
        await bench.ask(ctx, Command.RUN, run_payload(9, session=6))
        assert core.running
        assert await write([7, 8]) == Reason.BUSY
        assert states[:2] == [5, 6]

    bench.run(testbench)


def claim(session=SESSION):
    return arguments(Command.CLAIM, session)


def poll(start, context=0):
    return arguments(Command.POLL, context, start)


def test_long_poll():
    bench = Bench(seed=2, stall=0.2)
    core = bench.core
    tokens = core.memory[MemorySpace.TOKENS]

    async def testbench(ctx, bench):
        await bench.ask(ctx, Command.CLAIM, claim())
        reply = PollReply.from_bytes((await bench.ask(ctx, Command.POLL, poll(0))).payload)
        assert reply == PollReply(run_id=0, running=False, produced=0)
        await bench.ask(ctx, Command.RUN, run_payload(0x01020304))
        # Nothing new: the answer waits for a token.
        sent = bench.send(Command.POLL, poll(3))
        await bench.silence(ctx, POLL_CYCLES // 2)
        bench.first.produced = 5
        response = await bench.response(ctx)
        assert response.sequence == sent.sequence
        reply = PollReply.from_bytes(response.payload)
        assert reply == PollReply(
            run_id=0x01020304, running=True, produced=5, tokens=tuple(tokens[3:5])
        )
        # No token in time: an empty answer.
        bench.send(Command.POLL, poll(5))
        await bench.silence(ctx, POLL_CYCLES)
        reply = PollReply.from_bytes((await bench.response(ctx)).payload)
        assert (reply.running, reply.produced, reply.tokens) == (True, 5, ())
        # The end of the run is an answer, too; a start beyond the tokens is harmless.
        bench.send(Command.POLL, poll(0xFFFF))
        await bench.silence(ctx, 100)
        bench.first.running = False
        reply = PollReply.from_bytes((await bench.response(ctx)).payload)
        assert (reply.running, reply.produced, reply.tokens) == (False, 5, ())
        reply = PollReply.from_bytes((await bench.ask(ctx, Command.POLL, poll(0))).payload)
        assert reply.tokens == tuple(tokens[:5])

    bench.run(testbench)


def test_a_context_of_several():
    """Runs of contexts begin, are told of and end each for itself."""
    bench = Bench(seed=7, wait=0.3, identity=SEVERAL)
    core = bench.core
    tokens = core.memory[MemorySpace.TOKENS]

    async def testbench(ctx, bench):
        async def told(start, context):
            response = await bench.ask(ctx, Command.POLL, poll(start, context))
            return PollReply.from_bytes(response.payload)

        await bench.ask(ctx, Command.CLAIM, claim())
        for context, run_id in ((2, 77), (0, 55), (3, 77)):
            payload = run_payload(run_id, context=context, prompt_length=context + 1)
            assert (await bench.ask(ctx, Command.RUN, payload)).command != ERROR
        assert [run["context"] for run in bench.requests] == [2, 0, 3]
        core.contexts[2].produced, core.contexts[3].produced = 16, 6
        reply = PollReply(run_id=77, running=True, produced=16, tokens=tuple(tokens[32:48]))
        assert await told(0, 2) == reply
        assert (await told(5, 3)).tokens == (tokens[53],)
        assert await told(0, 1) == PollReply(run_id=0, running=False, produced=0)
        assert await told(15, 2) == replace(reply, tokens=(tokens[47],))
        # One context's tokens and end are none of another one's.
        bench.send(Command.POLL, poll(1, 0))
        core.contexts[2].running = False
        await bench.silence(ctx, POLL_CYCLES // 2)
        core.contexts[0].produced = 2
        reply = PollReply.from_bytes((await bench.response(ctx)).payload)
        assert reply == PollReply(run_id=55, running=True, produced=2, tokens=(tokens[1],))
        assert not (await told(16, 2)).running
        # A stop ends one, a reset all.
        await bench.ask(ctx, Command.STOP, bytes((3,)))
        assert bench.stops == [1 << 3]
        assert refusal(await bench.ask(ctx, Command.CLAIM, claim())) == Reason.BUSY
        await bench.ask(ctx, Command.RESET)
        assert not core.running
        assert await told(16, 3) == PollReply(run_id=0, running=False, produced=6)

    bench.run(testbench)


def test_a_frame_supersedes_a_waiting_poll():
    bench = Bench()

    async def testbench(ctx, bench):
        await bench.ask(ctx, Command.CLAIM, claim())
        await bench.ask(ctx, Command.RUN, run_payload(1))
        bench.send(Command.POLL, poll(3))
        await bench.silence(ctx, 60)
        response = await bench.ask(ctx, Command.STOP, bytes(1))
        assert response.command == Command.STOP | RESPONSE
        bench.first.produced = 4
        await bench.silence(ctx, 2 * POLL_CYCLES)  # the poll is forgotten
        # A repeat, after half the wait, has its own sequence number and answer.
        first = bench.send(Command.POLL, poll(4))
        await bench.silence(ctx, POLL_CYCLES // 2)
        second = bench.send(Command.POLL, poll(4), sequence=first.sequence)
        await bench.silence(ctx, 60)
        bench.first.produced = 5
        answer = await bench.response(ctx)
        assert answer.sequence == second.sequence
        await bench.silence(ctx, 2 * POLL_CYCLES)
        # Garbage does not supersede it, and half a frame only puts it off.
        bench.send(Command.POLL, poll(5))
        await bench.silence(ctx, 60)
        bench.outbox.extend(b"\x7egarbage\x7e\x7dmore")
        await bench.silence(ctx, 2 * POLL_CYCLES)
        bench.outbox.append(FLAG)
        assert (await bench.response(ctx)).command == Command.POLL | RESPONSE

    bench.run(testbench)


@pytest.mark.parametrize("seed", range(4))
def test_same_as_the_device_in_python(seed):
    """Random commands on the right side and the wrong side of every bound."""
    bench = Bench(seed=seed, stall=0.1 * seed)
    twin = FakeDevice()
    for space in MemorySpace:
        twin.memory[space][:] = bench.core.memory[space]
    rng = random.Random(seed)

    def command():
        kind = rng.choice((Command.WRITE, Command.READ, Command.CHECKSUM, rng.randrange(256)))
        if kind in (Command.RUN, Command.POLL):
            kind = Command.IDENTIFY
        space = rng.randrange(len(MemorySpace) + 1)
        size = len(twin.memory[space]) if space < len(MemorySpace) else 10
        address = rng.choice((0, rng.randrange(size), size - 3, size, 1 << rng.randrange(32)))
        count = rng.choice((0, 1, 3, rng.randrange(40), size - address))
        match kind:
            case Command.WRITE:
                payload = arguments(kind, space, address) + rng.randbytes(rng.randrange(30))
            case Command.READ:
                payload = arguments(kind, space, address, count & 0xFFFF)
            case Command.CHECKSUM:
                payload = arguments(kind, space, address, count & 0xFFFFFFFF)
            case _:
                payload = rng.choice((b"", b"?"))
        return kind, payload

    async def testbench(ctx, bench):
        for _ in range(60):
            kind, payload = command()
            sent = bench.send(kind, payload)
            assert await bench.response(ctx) == twin.respond(sent), sent
        assert bench.core.memory == twin.memory

    bench.run(testbench)


@pytest.mark.parametrize("seed", range(4))
def test_several_contexts_same_as_in_python(seed):
    """Random commands of all contexts while their runs come and go."""
    bench = Bench(seed=seed, wait=0.2 * seed, identity=SEVERAL)
    twin = FakeDevice(SEVERAL, pace=0)
    for space in MemorySpace:
        twin.memory[space][:] = bench.core.memory[space]
    rng = random.Random(seed)
    answers = Counter()

    def command():
        kinds = (Command.RUN, Command.POLL, Command.WRITE, Command.READ, Command.CHECKSUM)
        kind = rng.choices((*kinds, Command.RESET, Command.CLAIM), (9, 3, 12, 2, 2, 1, 1))[0]
        space = rng.choice((MemorySpace.TOKENS, MemorySpace.TOKENS, MemorySpace.STATES))
        size = len(twin.memory[space]) // 4
        address = rng.randrange(5) * size + rng.choice((0, 0, 2, size - 4, size - 1))
        count = rng.choice((0, 2, 4, size - 2, size, size + 2, 4 * size))
        match kind:
            case Command.RUN:
                run_id, session = rng.randrange(3), rng.choice((SESSION, SESSION, 5))
                return kind, run_payload(
                    run_id, context=rng.randrange(5), session=session, reset=rng.random() < 0.5,
                    prompt_length=rng.randrange(1, 4), generate=rng.randrange(1, 16),
                )  # fmt: skip
            case Command.POLL:
                return kind, poll(rng.randrange(5), rng.randrange(5))
            case Command.WRITE:
                return kind, arguments(kind, space, address, data=rng.randbytes(2 * count))
            case Command.CLAIM:
                return kind, claim(rng.choice((SESSION, SESSION, 0)))
            case Command.RESET:
                return kind, b""
        return kind, arguments(kind, space, address, count)

    async def testbench(ctx, bench):
        await bench.ask(ctx, Command.CLAIM, claim())
        twin.session = SESSION
        for _ in range(120):
            kind, payload = command()
            sent = bench.send(kind, payload)
            response = await bench.response(ctx)
            assert response == twin.respond(sent), (kind, payload)
            answers[kind, refusal(response) if response.command == ERROR else None] += 1
            assert bench.core.running == twin.running
            context = rng.randrange(4)
            if rng.random() < 0.3:
                twin.contexts[context].running = bench.core.contexts[context].running = False
                await ctx.tick().repeat(2)
        for space in (MemorySpace.TOKENS, MemorySpace.STATES):
            assert bench.core.memory[space] == twin.memory[space]
        assert answers[Command.WRITE, None] and answers[Command.WRITE, Reason.BUSY]
        assert answers[Command.RUN, None] and answers[Command.RUN, Reason.BUSY]

    bench.run(testbench)


@pytest.mark.parametrize("damage", ["flip", "drop", "repeat"])
def test_damaged_bytes(damage):
    """Whatever happens to a frame, it is executed whole or not at all, and the next one is."""
    bench = Bench(seed=5)
    rng = random.Random(damage)
    memory = bench.core.memory[MemorySpace.TABLES]

    async def testbench(ctx, bench):
        for number in range(40):
            before = list(memory)
            data = rng.randbytes(12)
            payload = arguments(Command.WRITE, MemorySpace.TABLES, 20, data=data)
            wire = bytearray(
                encode_frame(Frame(command=Command.WRITE, sequence=number, payload=payload))
            )
            at = rng.randrange(len(wire))
            match damage:
                case "flip":
                    wire[at] ^= 1 << rng.randrange(8)
                case "drop":
                    del wire[at]
                case "repeat":
                    wire.insert(at, wire[at])
            bench.outbox.extend(wire)
            await ctx.tick().repeat(len(wire) + 80)
            after = [*before[:20], *struct.unpack("<6H", data), *before[26:]]
            executed = bool(bench.responses)
            # Without its first or last flag a frame ends with the next one's first.
            assert memory == (after if executed else before)
            bench.responses.clear()
            bench.send(Command.IDENTIFY)
            response = await bench.response(ctx)
            if response.command == Command.WRITE | RESPONSE:
                response = await bench.response(ctx)
            assert response.payload == IDENTITY.to_bytes()

    bench.run(testbench)


def test_garbage_and_bytes_during_execution():
    bench = Bench(seed=6, stall=0.3, gap=0.1)
    rng = random.Random(6)

    async def testbench(ctx, bench):
        for _ in range(12):
            bench.outbox.extend(rng.choices((FLAG, 0x7D, 1, 2, 3, 4, 5, 6, 7, 8, 0xFF), k=60))
            bench.outbox.append(FLAG)
            await bench.silence(ctx, 150)
            # Two commands at once: the second waits on the line.
            first = bench.send(
                Command.CHECKSUM, arguments(Command.CHECKSUM, MemorySpace.TABLES, 0, 100)
            )
            second = bench.send(Command.IDENTIFY)
            assert (await bench.response(ctx)).sequence == first.sequence
            response = await bench.response(ctx)
            assert response.sequence == second.sequence
            assert response.payload == IDENTITY.to_bytes()

    bench.run(testbench)


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_parameters_are_checked():
    with pytest.raises(ValueError, match="poll_cycles must be a positive integer, not 0"):
        CommandProcessor(IDENTITY, poll_cycles=0)
    gc.collect()  # while the filter holds


def test_synthesises():
    assert "module" in rtlil.convert(Bench().link)
