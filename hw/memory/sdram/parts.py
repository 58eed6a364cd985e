"""Parts of SDR SDRAM: their sizes and their times, as data sheets give them, and both in cycles."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

RATIOS = (1, 2)
"""How many times faster than the machine's a part's clock may be."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Least cycles between commands, but for the refresh interval, which is the most.

    Parameters
    ----------
    cas_latency : int
        From a read to the edge at which its data are valid, in cycles of the part.
    turn : int
        From a read to a write, which needs the data pins: a cycle in which nobody drives them.
    rcd, rp, ras, rc, rrd, rfc, wr, mrd : int
        As of `Part`.
    refi : int
        From one refresh to the next, on average.
    power_up : int
        Before the first command.
    ratio : int
        Cycles of the part in one of these, of `RATIOS`.
    """

    cas_latency: int
    turn: int
    rcd: int
    rp: int
    ras: int
    rc: int
    rrd: int
    rfc: int
    wr: int
    mrd: int
    refi: int
    power_up: int
    ratio: int = 1


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part, or what several have in common; times in nanoseconds.

    Parameters
    ----------
    name : str
    width : int
        Data pins; a multiple of 16.
    row_bits, column_bits : int
        Of addresses.
    banks : int
        A power of two.
    rcd : float
        tRCD, from an activate to a read or write.
    rp : float
        tRP, from a precharge to an activate.
    ras : float
        tRAS, from an activate to a precharge.
    rc : float
        tRC, from an activate to the next one of its bank.
    rrd : float
        tRRD, from an activate to one of another bank; at least two cycles of the part.
    rfc : float
        tRFC, from a refresh to any other command.
    wr : float
        tWR or tDPL, from the last data written to a precharge; at least two cycles of the part.
    mrd : float
        tMRD, from a mode register set to any other command; at least two cycles.
    refi : float
        tREFI, from one refresh to the next.
    least_clock : float
        tCK, the least with a CAS latency of 3.
    masked : bool
        Whether there are pins by which single bytes are not written.
    fast_clock : float
        tCK below which the CAS latency is 3 instead of 2.
    power_up : float
        From power to the first command.
    """

    name: str
    width: int
    row_bits: int
    column_bits: int
    rcd: float
    rp: float
    ras: float
    rc: float
    rrd: float
    rfc: float
    wr: float
    mrd: float
    refi: float
    least_clock: float
    banks: int = 4
    masked: bool = True
    fast_clock: float = 10.0
    power_up: float = 200_000.0

    @property
    def words(self) -> int:
        """Words of ``width`` bits."""
        return self.banks << (self.row_bits + self.column_bits)

    def timing(self, clock_hz: int, ratio: int = 1) -> Timing:
        """Its times in cycles of a clock: least ones rounded up, the refresh interval down.

        The part's own clock is ``ratio`` times as fast. All commands come with the first of its
        cycles, and the last data that a write has with the last.

        Raises ValueError for a ratio or a clock that the part cannot have.
        """
        if ratio not in RATIOS:
            raise ValueError(f"ratio must be one of {RATIOS}, not {ratio!r}")
        period = Fraction(10**9, clock_hz)
        if period < ratio * Fraction(self.least_clock):
            most = math.floor(10**9 / (ratio * Fraction(self.least_clock)))
            raise ValueError(
                f"clock_hz must be at most {most} with {self.name} at {ratio} times that, "
                f"not {clock_hz!r}"
            )

        def cycles(nanoseconds: float) -> Fraction:
            return Fraction(nanoseconds) / period

        times = ("rcd", "rp", "ras", "rc", "rrd", "rfc", "wr", "mrd", "power_up")
        least = {name: math.ceil(cycles(getattr(self, name))) for name in times}
        least["mrd"] = max(2, least["mrd"])
        # Some data sheets give these in cycles of the part, and then it is two.
        two = Fraction(2, ratio)
        least["rrd"] = math.ceil(max(cycles(self.rrd), two))
        least["wr"] = math.ceil(max(cycles(self.wr), two) + Fraction(ratio - 1, ratio))
        cas_latency = 2 if ratio * Fraction(self.fast_clock) <= period else 3
        turn = -(-(cas_latency + ratio + 1) // ratio)
        refi = math.floor(cycles(self.refi))
        return Timing(cas_latency=cas_latency, turn=turn, refi=refi, ratio=ratio, **least)


ULX3S = Part(
    # IS42S16160G-7, MT48LC16M16A2-75 or AS4C32M16SB-7, by batch: the slowest of each time, and of
    # the last one, whose rows are longer, half.
    name="ulx3s",
    width=16,
    row_bits=13,
    column_bits=9,
    rcd=21,
    rp=21,
    ras=44,
    rc=66,
    rrd=15,
    rfc=70,
    wr=15,
    mrd=15,
    refi=7812.5,
    least_clock=7.5,
)

X16 = replace(ULX3S, name="x16", ras=45, rc=67.5)
"""W9825G6KH-6 or IS42S16160B-7, of several small boards, or any of those."""

EM638325 = Part(
    # Of several boards, and inside the package of a GW2AR-18; its slow grade.
    name="em638325",
    width=32,
    row_bits=11,
    column_bits=8,
    rcd=21,
    rp=21,
    ras=49,
    rc=70,
    rrd=14,
    rfc=70,
    wr=20,
    mrd=15,
    refi=15625,
    least_clock=7,
)

COLORLIGHT_5A = Part(
    # Two of 16 data pins side by side, M12L16161A-7, W9816G6IH-7 or EM636165-7, by batch: the
    # slowest of each time. Their masks are tied low.
    name="colorlight_5a",
    width=32,
    row_bits=11,
    column_bits=8,
    banks=2,
    rcd=21,
    rp=21,
    ras=45,
    rc=68,
    rrd=14,
    rfc=70,
    wr=14,
    mrd=14,
    refi=15625,
    least_clock=7,
    masked=False,
)

COLORLIGHT = replace(EM638325, name="colorlight", masked=False)
"""The same where nothing drives its masks: they are tied low."""
