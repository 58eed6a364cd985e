"""The netlist against the golden model, and the models of cells against arithmetic of their own."""

import random
import re
from collections import Counter
from dataclasses import replace

import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from host.device import LinkDevice
from host.request import Request
from host.urls import SIMULATED
from hw.boards import board
from hw.build import BuildError
from sim.checkpoints import RandomCheckpoint
from sim.cores import library
from sim.device import SimulatedPort
from sim.golden_device import GoldenDevice
from sim.netlist import HERE as NETLIST
from sim.netlist import (
    NetlistError,
    check_cells,
    direct_pins,
    models,
    netlist_port,
    netlist_verilog,
    with_fast_line,
)
from sim.timing import predict
from weights.checkpoint import Checkpoint, ModelShape
from weights.quantise import convert

# Cells, each alone ---------------------------------------------------------------------------

PINS = 88
"""Bits that a step gives to each cell: data, addresses and enables of both ports of a memory."""

MEMORIES = [
    *({"DATA_WIDTH_A": width, "DATA_WIDTH_B": width} for width in (1, 2, 4, 9, 18, 36)),
    {"DATA_WIDTH_A": 36, "DATA_WIDTH_B": 9},
    {"DATA_WIDTH_A": 18, "DATA_WIDTH_B": 4, "REGMODE_B": "OUTREG"},
    {"DATA_WIDTH_A": 36, "DATA_WIDTH_B": 36, "REGMODE_A": "OUTREG", "REGMODE_B": "OUTREG"},
]


def initial_rows() -> list[int]:
    """18-bit words that the memories hold at first."""
    rng = random.Random(18)
    return [rng.getrandbits(18) for _ in range(1024)]


def initvals() -> str:
    words = initial_rows()
    lines = []
    for n in range(64):
        value = sum(word << 20 * i for i, word in enumerate(words[16 * n : 16 * n + 16]))
        lines.append(f".INITVAL_{n:02X}(320'h{value:x})")
    return ", ".join(lines)


def bench() -> str:
    """A core that takes ``PINS`` bits a step and answers with the outputs of all cells."""
    cells = []
    for index, parameters in enumerate(MEMORIES):
        settings = ", ".join(
            f'.{name}("{value}")' if isinstance(value, str) else f".{name}({value})"
            for name, value in parameters.items()
        )
        pins = [f".DI{p}{n}(pins[{18 * (p == 'B') + n}])" for p in "AB" for n in range(18)]
        pins += [f".AD{p}{n}(pins[{36 + 14 * (p == 'B') + n}])" for p in "AB" for n in range(14)]
        pins += [
            f".DO{p}{n}(out[{36 * index + 18 * (p == 'B') + n}])" for p in "AB" for n in range(18)
        ]
        pins += [".CLKA(step), .CLKB(step), .CEA(pins[64]), .WEA(pins[65]), .CEB(pins[66])"]
        pins += [".OCEB(pins[67])"]
        cells.append(f"DP16KD #({settings}, {initvals()}) memory_{index} ({', '.join(pins)});")
    at = 36 * len(MEMORIES)
    pins = [f".{p}{n}(pins[{18 * (p == 'B') + n}])" for p in "AB" for n in range(18)]
    pins += [f".P{n}(out[{at + n}])" for n in range(36)]
    cells.append(f"MULT18X18D product (.SIGNEDA(pins[68]), .SIGNEDB(pins[69]), {', '.join(pins)});")
    return core_of(cells, PINS, at + 36)


def core_of(cells: list[str], pins: int, outputs: int) -> str:
    """A core that takes so many ``pins`` a step and answers with the ``out`` of all cells."""
    sent, received = pins // 8, -(-outputs // 8)
    return f"""
module core (
    input clk, rst, input rx__valid, input [7:0] rx__payload, output rx__ready,
    output tx__valid, output [7:0] tx__payload, input tx__ready
);
    reg [{pins - 1}:0] pins = 0;
    wire [{8 * received - 1}:0] out;
    {f"assign out[{8 * received - 1}:{outputs}] = 0;" if outputs % 8 else ""}
    reg [7:0] count = 0;
    wire step = count == {sent};
    assign rx__ready = count < {sent}, tx__valid = count > {sent};
    assign tx__payload = out[8 * (count - {sent + 1}) +: 8];
    always @(posedge clk)
        if (rst || count == {sent + received} && tx__ready) count <= 0;
        else if (rx__ready && rx__valid || step || tx__ready && tx__valid) begin
            count <= count + 8'd1;
            if (rx__ready) pins <= {{rx__payload, pins[{pins - 1}:8]}};
        end
    {chr(10).join(cells)}
endmodule
"""


class Memory:
    """What the data sheet says of a memory whose port A writes and whose port B reads."""

    def __init__(self, parameters: dict):
        self.a, self.b = parameters["DATA_WIDTH_A"], parameters["DATA_WIDTH_B"]
        self.registered = parameters.get("REGMODE_B") == "OUTREG"
        self.bits = [word >> n & 1 for word in initial_rows() for n in range(18)]
        self.latch = self.register = 0

    @staticmethod
    def places(width: int, address: int) -> list[int]:
        """Which bits an access of a width means."""
        if width >= 9:
            byte = (address >> 3) // (width // 9) * (width // 9)
            return [9 * byte + n for n in range(width)]
        low = address & 7 & ~(width - 1)
        return [9 * (address >> 3) + low + n for n in range(width)]

    def step(self, data, write_address, read_address, enable, write, read, registered) -> int:
        """One clock; returns the 36 bits at the pins of DOA and DOB, DOA's below."""
        written = {}
        if enable and write:
            for n, place in enumerate(self.places(self.a, write_address)):
                if self.a < 18 or write_address >> n // 9 & 1:
                    written[place] = data >> n & 1
        if registered:
            self.register = self.latch
        if read:
            places = self.places(self.b, read_address)
            bits = [self.bits[place] ^ (place in written) for place in places]
            self.latch = sum(bit << n for n, bit in enumerate(bits))
        for place, bit in written.items():
            self.bits[place] = bit
        value = self.register if self.registered else self.latch
        return value if self.b == 36 else value << 18


@pytest.mark.whole
def test_cells_do_what_the_data_sheet_says(tmp_path):
    rng = random.Random(1)
    memories = [Memory(parameters) for parameters in MEMORIES]
    size = -(-36 * (len(MEMORIES) + 1) // 8)
    hot = [rng.getrandbits(14) for _ in range(24)]
    with SimulatedPort(
        library(models("ecp5") + bench(), name="cells", cache=tmp_path), timeout=30
    ) as port:
        for _ in range(4000):
            data = rng.choice([rng.getrandbits(36), 0, (1 << 36) - 1])
            addresses = [rng.choice(hot) ^ rng.choice([0, rng.getrandbits(5)]) for _ in "AB"]
            enables = [rng.random() < 0.8 for _ in range(4)]
            signs = [rng.getrandbits(1) for _ in "AB"]
            pins = data | addresses[0] << 36 | addresses[1] << 50
            for n, bit in enumerate([*enables, *signs]):
                pins |= bit << 64 + n
            port.write(pins.to_bytes(PINS // 8, "little"))
            out = int.from_bytes(port.read(size), "little")
            for index, memory in enumerate(memories):
                ours = out >> 36 * index & (1 << 36) - 1
                if memory.b < 36:
                    ours = ours >> 18 << 18  # port A, which does not read
                assert ours == memory.step(data, *addresses, *enables), MEMORIES[index]
            a, b = data & (1 << 18) - 1, data >> 18
            a -= (signs[0] & a >> 17) << 18
            b -= (signs[1] & b >> 17) << 18
            assert out >> 36 * len(MEMORIES) == a * b % (1 << 36)


BLOCK_RAMS = [
    *(("RAMB18E1", "TDP", width, width) for width in (1, 2, 4, 9, 18)),
    *(("RAMB36E1", "TDP", width, width) for width in (1, 9, 36)),
    *(("RAMB18E1", "TDP", 18, 4), ("RAMB36E1", "TDP", 9, 36)),
    *(("RAMB18E1", "SDP", 36, 36), ("RAMB36E1", "SDP", 72, 72), ("RAMB36E1", "SDP", 72, 18)),
]
"""Cells, their mode, and widths that are written and read."""
WORD, BLOCK_RAM_PINS = 72, 112
INITIAL = [random.Random(7 + n).getrandbits(256) for n in range(2)]
PORTS = {
    "A": ("ADDRARDADDR", "CLKARDCLK", "ENARDEN", "WEA"),
    "B": ("ADDRBWRADDR", "CLKBWRCLK", "ENBWREN", "WEBWE"),
}


def block_ram(index: int) -> str:
    """One of them, of which one port writes and the other one reads."""
    kind, mode, write, read = BLOCK_RAMS[index]
    writer, reader = "AB" if mode == "TDP" else "BA"
    half, at = 2 if kind == "RAMB18E1" else 4, WORD * index

    def joined(wires: str, base: int, low: int, width: str) -> str:
        bytes_ = range(low + half - 1, low - 1, -1)
        return f"{{{', '.join(f'{wires}[{base + 9 * n} {width}]' for n in bytes_)}}}"

    pins = []
    for port, low in (("A", 0), ("B", half if mode == "SDP" else 0)):
        pins.append(f".DI{port}DI({joined('pins', 0, low, '+: 8')})")
        pins.append(f".DIP{port}DIP({joined('pins', 8, low, '+: 1')})")
        if mode == "SDP" or port == reader:
            pins.append(f".DO{port}DO({joined('out', at, low, '+: 8')})")
            pins.append(f".DOP{port}DOP({joined('out', at + 8, low, '+: 1')})")
    for port, bit, enable, bytes_ in ((writer, 72, 110, "pins[102 +: 8]"), (reader, 87, 111, "0")):
        values = f"{{1'b1, pins[{bit} +: 15]}}", "step", f"pins[{enable}]", bytes_
        pins += [f".{pin}({value})" for pin, value in zip(PORTS[port], values, strict=True)]
    settings = f'.RAM_MODE("{mode}"), .WRITE_WIDTH_{writer}({write}), .READ_WIDTH_{reader}({read})'
    settings += f", .INIT_05(256'h{INITIAL[0]:x}), .INITP_02(256'h{INITIAL[1]:x})"
    unused = [f"assign out[{at + 9 * n} +: 9] = 0;" for n in range(half * (1 + (mode == "SDP")), 8)]
    return f"{kind} #({settings}) ram_{index} ({', '.join(pins)}); {' '.join(unused)}"


class BlockRam:
    """What UG473 says of one: what is read is what was there before."""

    def __init__(self, kind: str, write: int, read: int):
        size = 2048 if kind == "RAMB18E1" else 4096
        self.write, self.read, self.size, self.word = write, read, size, 0
        self.bits = [0] * 9 * size
        for n in range(256):
            at = 5 * 256 + n
            self.bits[9 * (at // 8) + at % 8] = INITIAL[0] >> n & 1
            self.bits[9 * (2 * 256 + n) + 8] = INITIAL[1] >> n & 1

    def step(self, data, write_address, read_address, bytes_, write, read) -> int:
        if read:
            places = Memory.places(self.read, read_address % (8 * self.size))
            self.word = sum(self.bits[place] << n for n, place in enumerate(places))
        if write:
            places = Memory.places(self.write, write_address % (8 * self.size))
            for n, place in enumerate(places):
                if bytes_ >> n // 9 & 1:
                    self.bits[place] = data >> n & 1
        return self.word


@pytest.mark.whole
def test_block_rams_of_xilinx_do_what_the_user_guide_says(tmp_path):
    rng = random.Random(2)
    rams = [BlockRam(kind, write, read) for kind, _, write, read in BLOCK_RAMS]
    text = core_of(list(map(block_ram, range(len(rams)))), BLOCK_RAM_PINS, WORD * len(rams))
    hot = [5 * 256 + 13, 512 * 8, *(rng.getrandbits(15) for _ in range(10))]
    with SimulatedPort(
        library((NETLIST / "xilinx.v").read_text() + text, name="block RAMs", cache=tmp_path),
        timeout=30,
    ) as port:
        for _ in range(2000):
            data = rng.getrandbits(72)
            addresses = [rng.choice(hot) ^ rng.choice([0, rng.getrandbits(6)]) for _ in "AB"]
            bytes_ = rng.choice([0xFF, rng.getrandbits(8)])
            enables = [rng.random() < 0.8 for _ in range(2)]
            pins = data | addresses[0] << 72 | addresses[1] << 87 | bytes_ << 102
            pins |= enables[0] << 110 | enables[1] << 111
            port.write(pins.to_bytes(BLOCK_RAM_PINS // 8, "little"))
            out = int.from_bytes(port.read(WORD // 8 * len(rams)), "little")
            for index, ram in enumerate(rams):
                ours = out >> WORD * index & (1 << WORD) - 1
                assert ours == ram.step(data, *addresses, bytes_, *enables), BLOCK_RAMS[index]


REGISTERED = {"REGMODE_A": "OUTREG", "REGMODE_B": "OUTREG"}


def cell(kind: str, pins=(), **parameters) -> dict:
    connections, settings = {}, {}
    if kind == "DP16KD":
        connections = {"CLKA": [2], "CLKB": [2], "CEA": ["1"], "OCEA": ["1"], "OCEB": ["1"]}
        settings = {"DATA_WIDTH_A": "100100", "DATA_WIDTH_B": "100100"}
    return {
        "type": kind,
        "parameters": {**settings, **parameters},
        "connections": {**connections, **dict(pins)},
        "port_directions": {},
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (cell("DP16KD", WRITEMODE_A="NOWHERE"), "no model of WRITEMODE_A = 'NOWHERE'"),
        (cell("DP16KD", DATA_WIDTH_A="11"), "no model of DATA_WIDTH_A = 3"),
        (cell("DP16KD", INIT_DATA="DYNAMIC"), "no model of INIT_DATA"),
        (cell("DP16KD", {"WEB": [7]}), "whose WEB is not 0"),
        (cell("DP16KD", {"RSTB": ["1"]}), "whose RSTB is not 0"),
        (cell("DP16KD", {"CLKB": [9]}), "two clocks"),
        (cell("DP16KD", {"DOA3": [3]}, DATA_WIDTH_B="1001"), "port A reads"),
        (cell("DP16KD", REGMODE_B="OUTREG"), "half an output register"),
        (cell("DP16KD", {"OCEA": ["0"]}, **REGISTERED), "half an output register"),
        (cell("MULT18X18D", REG_OUTPUT_CLK="CLK0"), "no model of REG_OUTPUT_CLK = 'CLK0'"),
        (cell("MULT18X18D", {"SOURCEA": [4]}), "whose SOURCEA is not 0"),
        (cell("RAMB18E1", WRITE_MODE_A="NO_CHANGE"), "no model of WRITE_MODE_A = 'NO_CHANGE'"),
        (cell("RAMB18E1", READ_WIDTH_A="1001000"), "no model of READ_WIDTH_A = 72"),
        (cell("RAMB36E1", DOA_REG="1"), "no model of DOA_REG = 1"),
        (cell("RAMB36E1", {"RSTRAMB": [4]}), "whose RSTRAMB is not 0"),
        (cell("BUFGCTRL", {"S1": ["1"]}), "whose S1 is not 0"),
    ],
)
def test_cells_without_a_model_are_refused(wrong, message):
    right = {
        "ram": cell("DP16KD", {"DOA3": [3]}, INITVAL_00="0" * 320, **REGISTERED),
        "product": cell("MULT18X18D", {"SOURCEA": ["0"]}),
        "lut": {"type": "LUT4", "parameters": {}, "connections": {"A": [3]}},
    }
    check_cells(right)
    with pytest.raises(NetlistError, match=message):
        check_cells({**right, "wrong": wrong})


def test_boards_that_cannot_be_driven_are_refused(tmp_path):
    for function in (with_fast_line, netlist_verilog):
        with pytest.raises(NetlistError, match=r"orangecrab_85f: only .* with a UART"):
            function(board("orangecrab_85f"))
    with pytest.raises(BuildError, match="sim_tiny is a simulated board"):
        netlist_verilog(board("sim_tiny"))
    with pytest.raises(NetlistError, match="of the cells of ecp5, ice40, xilinx, not gowin"):
        netlist_verilog(board("tang_primer_20k"), output=tmp_path)


# Whole boards --------------------------------------------------------------------------------


class Gray(wiring.Component):
    """Sends back the Gray code of every byte."""

    rx: In(stream.Signature(8))
    tx: Out(stream.Signature(8))

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [
            self.tx.payload.eq(self.rx.payload ^ self.rx.payload >> 1),
            self.tx.valid.eq(self.rx.valid),
            self.rx.ready.eq(self.tx.ready),
        ]
        return m


@pytest.mark.whole
@pytest.mark.parametrize("name", ["upduino_v3", "arty_a7_100"])
def test_pins_and_start_of_other_families(tmp_path, name):
    """The serial line works, and the clock: an iCE40's board has its own, or one that begins at a
    PLL's pad; a Xilinx's goes through gates."""
    small = with_fast_line(board(name))
    verilog = netlist_verilog(small, core=lambda digest: Gray(), output=tmp_path)
    data = bytes(range(256))
    with netlist_port(verilog, name="a Gray coder", timeout=2, cache=tmp_path) as port:
        port.write(data)
        assert port.read(len(data)) == bytes(byte ^ byte >> 1 for byte in data)


def test_pins_of_an_ice40_without_a_model_are_refused():
    def design(kind: str, **pins: str | int) -> dict:
        cell = {"type": "SB_IO", "parameters": {"PIN_TYPE": kind}, "port_directions": {}}
        cell["connections"] = {"PACKAGE_PIN": [2], **{name: [bit] for name, bit in pins.items()}}
        cell["port_directions"] = dict.fromkeys(cell["connections"], "inout")
        ports = {"pin": {"direction": "inout", "bits": [2]}}
        return {"modules": {"top": {"cells": {"a": cell}, "ports": ports}}}

    top = direct_pins(design("101001", D_OUT_0=3, OUTPUT_ENABLE="1"))["modules"]["top"]
    assert top["ports"]["pin"]["direction"] == "output"
    assert top["cells"]["a"]["type"] == "SB_IO_output"
    assert set(top["cells"]["a"]["connections"]) == {"PACKAGE_PIN", "D_OUT_0"}
    top = direct_pins(design("000001", D_IN_0=3))["modules"]["top"]
    assert top["ports"]["pin"]["direction"] == "input"
    for wrong in (design("000000", D_IN_0=3), design("101001", D_OUT_0=3, OUTPUT_ENABLE=4)):
        with pytest.raises(NetlistError, match="SB_IO a: no model of one of type"):
            direct_pins(wrong)


@pytest.mark.whole
def test_a_wrong_lut_is_seen(tmp_path):
    """Serial line and start of the clock work; a LUT with another table changes what comes."""
    small = with_fast_line(board("ulx3s_85f"))
    verilog = netlist_verilog(small, core=lambda digest: Gray(), output=tmp_path)
    data = bytes(range(256))

    def answers(text: str) -> bytes:
        with netlist_port(text, name="a Gray coder", timeout=2, cache=tmp_path) as port:
            port.write(data)
            return port.read(len(data))

    right = bytes(byte ^ byte >> 1 for byte in data)
    assert answers(verilog) == right
    models, top = verilog.split("module top(")
    # Every bit of the code but the highest is made alike.
    tables = Counter(re.findall(r"\.INIT\(16'h\w+\)", top))
    (table,) = (table for table, count in tables.items() if count == 7)
    wrong = top.replace(table, ".INIT(16'h0000)", 1)
    assert answers(f"{models}module top({wrong}") != right


@pytest.mark.whole
@pytest.mark.parametrize(
    ("name", "embedding_words"),
    [("ulx3s_85f", 4096), pytest.param("arty_a7_100", 0, marks=pytest.mark.slow)],
)
def test_netlist_generates_what_the_golden_model_does(tmp_path, name, embedding_words):
    target = board(name)
    geometry = replace(board("sim_tiny").geometry, embedding_words=embedding_words)
    # Whose embedding lies in the SDRAM, if there is one, and whose rows are cascades.
    tiny = replace(target.machine, geometry=geometry, chain=geometry.columns, queued=0)
    target = with_fast_line(replace(target, machine=tiny))
    RandomCheckpoint(
        shape=ModelShape(hidden=13, layers=2, intermediate=22, vocabulary=57), dtype="fp32", seed=3
    ).write(tmp_path / "model")
    model = convert(Checkpoint(tmp_path / "model"))
    golden = GoldenDevice()
    golden.load(model)
    port = netlist_port(netlist_verilog(target, output=tmp_path), name="sim_tiny", timeout=0.05)
    with LinkDevice(port, name="netlist", **SIMULATED) as device:
        device.load(model)
        timing = predict(device.image, tiny)
        states = []
        for temperature in (0.0, 1.0):
            arguments = {"temperature": temperature, "seed": 5, "stop": None}
            tokens = list(device.generate([1, 2, 3], 6, **arguments))
            assert tokens == list(golden.generate([1, 2, 3], 6, **arguments))
            assert device.totals() == timing.totals(chosen=6, read=2)
            counted = [cycles for _, cycles in device.counters()]
            assert counted == timing.counters(chosen=6, read=2)
            states.append(golden.state())
            assert (device.state() == states[-1]).all()
        assert (states[0] != states[1]).any()
        resumed = replace(Request.of([3], 2, 0.0, 0, None, vocabulary=57), resume=True)
        for one in (device, golden):
            one.restore(states[0])
        assert list(device.answer(resumed)) == list(golden.answer(resumed))
        assert (device.state() == golden.state()).all()


@pytest.mark.slow
@pytest.mark.whole
def test_netlist_of_the_smallest_board(stories_nano, tmp_path):
    target = with_fast_line(board("icebreaker"))
    golden = GoldenDevice()
    golden.load(stories_nano)
    port = netlist_port(netlist_verilog(target, output=tmp_path), name="icebreaker", timeout=0.05)
    with LinkDevice(port, name="netlist", **SIMULATED) as device:
        device.load(stories_nano)
        tokens = list(device.generate([1, 2, 3], 3, stop=None))
    assert tokens == list(golden.generate([1, 2, 3], 3, stop=None))
