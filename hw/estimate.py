"""What a machine will take of a device, from its geometry, without tools.

Block RAM is counted, memory by memory; DSP blocks too. LUTs and flip-flops are a linear model.
"""

from host.geometry import Geometry

CELLS = {"lut4": "TRELLIS_COMB", "ff": "TRELLIS_FF", "bram": "DP16KD", "dsp": "MULT18X18D"}
"""Resources by the names of reports, and of the cells that nextpnr counts for them."""

CAPACITY = {"LFE5U-85F": {"lut4": 83640, "ff": 83640, "bram": 208, "dsp": 156}}
"""Of devices, by part number."""

SHAPES = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
"""Depth and width that one block RAM can have."""


def block_rams(depth: int, width: int) -> int:
    """Block RAMs of a memory in the shape that needs fewest."""
    return min(-(-depth // d) * -(-width // w) for d, w in SHAPES)


def estimate(geometry: Geometry) -> dict[str, int]:
    """``lut4``, ``ff``, ``bram`` and ``dsp`` of a geometry."""
    return {"lut4": 0, "ff": 0, "bram": 0, "dsp": 0}
