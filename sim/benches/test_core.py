"""Whole machines under the host's own driver: tokens and logits equal those of the golden model."""

import tempfile
from pathlib import Path

import cocotb
import pytest
from cocotb.task import bridge, resume
from cocotb.triggers import FallingEdge

from host.device import LinkDevice
from hw.arch.geometry import Geometry
from hw.core import Core
from hw.machine import Machine
from sim.benches.runner import Sink, Source, arguments, run, start
from sim.checkpoints import RandomCheckpoint
from sim.golden_device import GoldenDevice
from weights.checkpoint import Checkpoint, ModelShape
from weights.model import IntegerModel
from weights.quantise import convert

MACHINES = {
    "smallest": Geometry(
        rows=2, columns=4, elements=1, weight_rows=700, table_words=1500, descriptors=80,
        sums=36, multiplicands=18, vectors=60, states=12, activations=24, tokens=16,
    ),
    "odd": Geometry(
        rows=6, columns=4, elements=2, weight_rows=300, table_words=800, descriptors=80,
        sums=48, multiplicands=24, vectors=64, states=16, activations=24, tokens=16,
    ),
    "dense": Geometry(
        rows=10, columns=4, elements=2, weight_rows=200, table_words=800, descriptors=80,
        sums=60, multiplicands=30, vectors=64, states=16, activations=24, tokens=16,
        trits_per_byte=5,
    ),
}  # fmt: skip
SHAPE = ModelShape(hidden=10, layers=1, intermediate=17, vocabulary=29)
PROMPT = [3, 28, 0, 11]


@pytest.mark.parametrize("machine", MACHINES)
def test_core(machine):
    identity = {"board_name": machine, "clock_hz": 1_000_000, "digest": bytes(range(16))}
    core = Core(machine=Machine(geometry=MACHINES[machine]), **identity)
    run(core, __name__, machine=machine)


def _model() -> IntegerModel:
    with tempfile.TemporaryDirectory() as folder:
        RandomCheckpoint(shape=SHAPE, dtype="fp32", seed=7).write(Path(folder))
        return convert(Checkpoint(Path(folder)))


class Port:
    """The core's byte streams as a serial port, for code in a thread of its own."""

    def __init__(self, dut):
        self._dut = dut
        self._sink = Sink(dut, "tx", 8, stall=0.2)
        self._given = 0
        self._source = Source(dut, "rx", 8, stall=0.1)

    @resume
    async def write(self, data: bytes) -> None:
        await FallingEdge(self._dut.clk)
        await self._source.send(*data)

    @resume
    async def read(self, size: int) -> bytes:
        for _ in range(200):
            if len(self._sink.received) > self._given:
                break
            await FallingEdge(self._dut.clk)
        data = bytes(self._sink.received[self._given :][:size])
        self._given += len(data)
        return data

    def close(self) -> None:
        pass


def _exercise(device) -> dict:
    """What a device answers; runs in a thread beside the simulator."""
    device.load(_model())
    return {
        "greedy": list(device.generate(PROMPT, 6)),
        "sampled": list(device.generate(PROMPT[:1], 5, temperature=0.7, seed=3)),
        "logits": [logits.tolist() for logits in device.logits(PROMPT[:2])],
    }


@cocotb.test()
async def tokens_equal_golden(dut):
    await start(dut)
    port = Port(dut)
    # Patience is wall-clock: a simulator may take its time.
    device = LinkDevice(port, patience=600, attempts=1)
    identity = await bridge(device.identify)()
    assert identity.board == arguments()["machine"]
    assert identity.geometry == MACHINES[arguments()["machine"]]
    assert await bridge(_exercise)(device) == _exercise(GoldenDevice())
