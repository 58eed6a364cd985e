"""Components with Verilog around them, compiled, behind the methods of Amaranth's testbenches."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from amaranth.hdl import Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Flow

from hw.verilog import verilog_of
from sim.cores import library
from sim.device import SimulatedPort

CLOCK = re.compile(r"(?<!\.)\bclk\b")
"""Not where it is a module's port of that name."""


class Stepped:
    """A component in a Verilog module, whose clock is stepped from here.

    Parameters
    ----------
    component : Component
    surroundings : str
        Verilog of the module: wires have the names of the component's ports, and ``clk`` is theirs.
    inside : str
        What ports between the component and its surroundings begin with; all others are those of
        the testbench.
    extra : dict of str to int
        Other wires that the testbench can get, by their names, and their bits.
    modules : str
        Verilog of the modules that the surroundings use.
    cache : Path or None
        Of `sim.cores.library`.
    """

    def __init__(
        self,
        component: wiring.Component,
        *,
        surroundings: str,
        inside: str,
        extra: dict[str, int],
        modules: str,
        cache: Path | None = None,
    ):
        ports = [
            ("__".join(map(str, path)), member.flow, Value.cast(value))
            for path, member, value in component.signature.flatten(component)
        ]
        ports = [port for port in ports if len(port[2])]
        seen = [port for port in ports if not port[0].startswith(inside)]
        self._inputs = [(id(v), name, len(v)) for name, flow, v in seen if flow == Flow.In]
        outputs = [(id(v), name, len(v)) for name, flow, v in seen if flow == Flow.Out]
        self._outputs = [*outputs, *((name, name, bits) for name, bits in extra.items())]
        self._values = {key: 0 for key, _, _ in self._inputs}
        self._bytes_in = -(-(1 + sum(bits for *_, bits in self._inputs)) // 8)
        self._bytes_out = -(-sum(bits for *_, bits in self._outputs) // 8)
        wires = [(name, len(v)) for name, _, v in ports] + list(extra.items())
        self.path = library(
            "\n".join(
                [modules, verilog_of(component, "dut"), self._bench(ports, wires, surroundings)]
            ),
            name="a bench",
            cache=cache,
        )
        self._port: SimulatedPort | None = None

    def _bench(self, ports, wires, surroundings: str) -> str:
        declared = "\n".join(f"    wire [{bits - 1}:0] {name};" for name, bits in wires)
        connected = ", ".join(f".{name}({name})" for name, *_ in ports)
        at, driven = 1, []
        for _, name, bits in self._inputs:
            driven.append(f"    assign {name} = pins[{at} +: {bits}];")
            at += bits
        out = ", ".join(name for _, name, _ in reversed(self._outputs))
        sent, received = self._bytes_in, self._bytes_out
        return f"""
module core (
    input clk, rst, input rx__valid, input [7:0] rx__payload, output rx__ready,
    output tx__valid, output [7:0] tx__payload, input tx__ready
);
{declared}
    reg [{8 * sent - 1}:0] pins = 0;
    wire [{8 * received - 1}:0] out = {{{out}}};
    reg [15:0] count = 0;
    wire step = count == {sent} && pins[0];
    assign rx__ready = count < {sent}, tx__valid = count > {sent};
    assign tx__payload = out[8 * (count - {sent + 1}) +: 8];
    always @(posedge clk)
        if (rst || count == {sent + received} && tx__ready) count <= 0;
        else if (rx__ready && rx__valid || count == {sent} || tx__ready && tx__valid) begin
            count <= count + 16'd1;
            if (rx__ready) pins <= {{rx__payload, pins[{8 * sent - 1}:8]}};
        end
{chr(10).join(driven)}
    dut dut (.clk(step), .rst(1'b0), {connected});
{CLOCK.sub("step", surroundings)}
endmodule
"""

    def run(self, bench: Callable[[Stepped], Coroutine]) -> Any:
        """Run a testbench from power-up on; returns what it returns."""
        self._values = dict.fromkeys(self._values, 0)
        self.cycles = 0
        with SimulatedPort(self.path) as self._port:
            self._exchange(0)
            try:
                bench(self).send(None)
            except StopIteration as end:
                return end.value
        raise AssertionError("a testbench here waits for ticks alone")

    def set(self, signal, value: int) -> None:
        signal = Value.cast(signal)
        value = int(value) & ((1 << len(signal)) - 1)
        if self._values[id(signal)] != value:
            self._values[id(signal)] = value
            self._found = None

    def get(self, signal) -> int:
        if self._found is None:
            self._exchange(0)
        return self._found[signal if isinstance(signal, str) else id(Value.cast(signal))]

    def tick(self) -> Tick:
        return Tick(self)

    def advance(self, cycles: int) -> None:
        self.cycles += cycles
        for _ in range(cycles):
            self._exchange(1)

    def _exchange(self, step: int) -> None:
        pins, at = step, 1
        for key, _, bits in self._inputs:
            pins |= self._values[key] << at
            at += bits
        self._port.write(pins.to_bytes(self._bytes_in, "little"))
        out = int.from_bytes(self._port.read(self._bytes_out), "little")
        self._found = {}
        for key, _, bits in self._outputs:
            self._found[key] = out & ((1 << bits) - 1)
            out >>= bits


class Tick:
    """Cycles to be waited for."""

    def __init__(self, stepped: Stepped, cycles: int = 1):
        self._stepped, self._cycles = stepped, cycles

    def repeat(self, cycles: int) -> Tick:
        return Tick(self._stepped, cycles)

    def __await__(self):
        self._stepped.advance(self._cycles)
        return iter(())
