"""What the benches share: Verilog of a component, a simulator for it, and stream agents.

A bench is a module with one pytest function for each set of parameters, which calls ``run``, and
one cocotb test, which runs inside the simulator and finds the parameters in ``arguments()``. The
agents drive inputs at the falling edge of the clock and look at outputs right after that, when all
agents have driven: no simulator can tell another order, and what they see is what the rising edge
takes.
"""

import json
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import cocotb
from amaranth.hdl import Shape
from amaranth.lib import data
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly, Timer
from cocotb_tools.runner import get_runner

from hw.verilog import verilog_of
from sim.compiler import SimulationError
from sim.verilator import Verilator

FOLDER = Path(__file__).parents[2] / "build" / "benches"
PERIOD = 10  # ns
BUILD_ARGUMENTS = {
    # By SystemVerilog's rules initial values come before the first event, and what yosys writes
    # for combinational logic waits for that event.
    "icarus": ("-g2005",),
    "verilator": ("-Wno-lint", "-Wno-fatal", "-O3", "--x-assign", "fast", "--x-initial", "fast"),
}


# Outside the simulator ------------------------------------------------------------------------


def simulator() -> str:
    """``$SIM``, or Icarus where there is one, or Verilator."""
    name = os.environ.get("SIM") or ("icarus" if shutil.which("iverilog") else "verilator")
    if name not in BUILD_ARGUMENTS:
        raise SimulationError(f"SIM must be one of {', '.join(BUILD_ARGUMENTS)}, not {name!r}")
    return name


def run(component, module: str, **parameters) -> None:
    """Simulate ``component`` under the cocotb tests of ``module``; fail as they fail.

    ``parameters`` must be JSON; they also name the folder below ``build/benches``, in which the
    Verilog, the component's metadata and the results lie.
    """
    unit = module.rsplit(".", 1)[-1].removeprefix("test_")
    words = [f"{name}-{value}" for name, value in parameters.items()]
    folder = FOLDER / simulator() / "_".join([unit, *words])
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "top.v"
    source.write_text(verilog_of(component), encoding="utf-8")
    (folder / "metadata.json").write_text(json.dumps(component.metadata.as_json(), indent=1))

    options = list(BUILD_ARGUMENTS[simulator()])
    if simulator() == "verilator":
        options += _use_verilator(folder)
    runner = get_runner(simulator())
    runner.build(
        sources=[source],
        hdl_toplevel="top",
        build_dir=folder,
        build_args=options,
        always=True,
        timescale=("1ns", "1ps"),
        log_file=folder / "build.log",
    )
    try:
        _test(runner, module, folder, parameters)
    except SystemExit:
        raise AssertionError(f"the bench failed: see {folder / 'test.log'}") from None


def _test(runner, module: str, folder: Path, parameters: dict) -> None:
    runner.test(
        hdl_toplevel="top",
        test_module=module,
        build_dir=folder,
        test_dir=folder,
        extra_env={"BENCH_ARGUMENTS": json.dumps(parameters)},
        timescale=("1ns", "1ps"),
        log_file=folder / "test.log",
        results_xml=str(folder / "results.xml"),
        seed=1,
    )


def _use_verilator(folder: Path) -> tuple[str, ...]:
    """Put the Verilator that the simulated device uses where cocotb looks for one.

    Returns options for it. Raises ``SimulationError`` if GNU Make cannot build in ``folder``.
    """
    found = Verilator.find()
    for path in (folder, found.root, Path(cocotb.__file__).parent):
        if odd := re.search(r"[^\w./+@,=~-]", str(path)):
            raise SimulationError(
                f"{path}: with Verilator, GNU Make builds the benches, which takes no blanks or "
                f"special characters in paths, such as {odd[0]!r}: move the checkout, or use Icarus"
            )
    program = found.program.with_name("verilator")  # the script: cocotb starts it with perl
    if not program.is_file():
        raise SimulationError(f"{found.program} must lie beside verilator")
    os.environ["VERILATOR_ROOT"] = str(found.root)
    os.environ["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    # The makefiles of the wheel leave the compiler's option for precompiled headers empty. Benches
    # are short: most of their time is the compiler's.
    options = ["CFG_CXXFLAGS_PCH_I=-include", "OPT_FAST=-O1", "OPT_SLOW=-O0", "OPT_GLOBAL=-O0"]
    os.environ["MAKEFLAGS"] = " ".join(options)
    return found.options


# Inside the simulator -------------------------------------------------------------------------


def arguments() -> dict[str, Any]:
    return json.loads(os.environ["BENCH_ARGUMENTS"])


def pack(shape, value) -> int:
    """Bits of ``value``, an integer or what the layout's ``const`` takes."""
    if isinstance(shape, data.Layout):
        return shape.const(value).as_bits()
    return value & ((1 << Shape.cast(shape).width) - 1)


def unpack(shape, bits: int):
    """The inverse of ``pack``; fields of a layout by attribute or subscript."""
    if isinstance(shape, data.Layout):
        return shape.from_bits(bits)
    cast = Shape.cast(shape)
    return bits - (1 << cast.width) if cast.signed and bits >> (cast.width - 1) else bits


async def start(dut, **inputs: int) -> None:
    """Start the clock, set every input to the given value or 0, and reset the component."""
    metadata = json.loads(Path("metadata.json").read_text())
    for name in _inputs(metadata["interface"]["members"]):
        getattr(dut, name).value = inputs.get(name, 0)
    dut.rst.value = 1
    Clock(dut.clk, PERIOD, unit="ns").start()
    for _ in range(3):
        await FallingEdge(dut.clk)
    dut.rst.value = 0


def _inputs(members: dict, prefix: str = ""):
    """Names of the Verilog's inputs; the metadata's directions are the component's own."""
    for name, member in members.items():
        if member["type"] == "interface":
            yield from _inputs(member["members"], f"{prefix}{name}__")
        elif member["dir"] == "in" and member["width"]:
            yield prefix + name


class Source:
    """Offers payloads on an input stream; stalls with probability ``stall`` before each."""

    def __init__(self, dut, name: str, shape, *, stall: float = 0.0, seed: int = 0):
        self._clock = dut.clk
        self._valid = getattr(dut, f"{name}__valid")
        self._ready = getattr(dut, f"{name}__ready")
        self._payload = getattr(dut, f"{name}__payload")
        self._shape = shape
        self._stall = stall
        self._random = random.Random(f"{seed} {name} source")

    async def send(self, *payloads) -> None:
        for payload in payloads:
            while self._random.random() < self._stall:
                await FallingEdge(self._clock)
            self._payload.value = pack(self._shape, payload)
            self._valid.value = 1
            await ReadOnly()
            while not self._ready.value:
                await FallingEdge(self._clock)
                await ReadOnly()
            await FallingEdge(self._clock)
            self._valid.value = 0


class Sink:
    """Takes payloads from an output stream into ``received``; is not ready with ``stall``.

    Fails when a payload changes, or is withdrawn, while it is on offer.
    """

    def __init__(self, dut, name: str, shape, *, stall: float = 0.0, seed: int = 0):
        self.received: list = []
        self._clock = dut.clk
        self._valid = getattr(dut, f"{name}__valid")
        self._ready = getattr(dut, f"{name}__ready")
        self._payload = getattr(dut, f"{name}__payload")
        self._shape = shape
        self._stall = stall
        self._random = random.Random(f"{seed} {name} sink")
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        offered = None
        while True:
            ready = self._random.random() >= self._stall
            self._ready.value = int(ready)
            await ReadOnly()
            valid = bool(self._valid.value)
            if offered is not None:
                assert valid, "an offer must not be withdrawn"
                assert self._payload.value.to_unsigned() == offered, "an offer must not change"
            offered = self._payload.value.to_unsigned() if valid else None
            if valid and ready:
                self.received.append(unpack(self._shape, offered))
                offered = None
            await FallingEdge(self._clock)

    async def take(self, count: int, limit: int = 1_000_000) -> list:
        """Wait until ``count`` payloads have come in all; fail after ``limit`` cycles."""
        for _ in range(limit):
            if len(self.received) >= count:
                return self.received[:count]
            await FallingEdge(self._clock)
        raise AssertionError(f"{len(self.received)} of {count} payloads in {limit} cycles")


async def quiet(cycles: int = 20) -> None:
    """Let a few cycles pass, in which nothing more must come."""
    await Timer(cycles * PERIOD, unit="ns")
