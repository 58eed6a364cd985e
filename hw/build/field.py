"""What others have published of ternary language models on FPGAs, to put a build beside.

Work is products of a ternary weight and an activation in a second, for each LUT of the whole
design. No two of these are alike: a token is not the same work everywhere, and LUTs of six inputs
on 16 nm do more, and faster, than LUTs of four on 40 nm.
"""

from dataclasses import dataclass

from hw.build.schema import CALLED, Report, Streams
from hw.families import of


@dataclass(frozen=True, kw_only=True)
class Published:
    """A design and its speed.

    Parameters
    ----------
    name, device, model : str
    streams : int
        Texts at once.
    tokens_per_s : float
        Of all of them.
    work : float or None
        Products per second and LUT; None where LUTs or products were not told.
    note : str
        What a token is there, and how its figures came about.
    """

    name: str
    device: str
    model: str
    streams: int
    tokens_per_s: float
    work: float | None
    note: str


FIELD = (
    Published(
        name="bitnet-kv260",
        device="Kria KV260, 16 nm, LUT6",
        model="BitNet 2B",
        streams=1,
        tokens_per_s=16.78,
        work=0.83e6,
        note="whole token, measured; 1.4 M/s for each LUT reading a prompt",
    ),
    Published(
        name="TeLLMe v2",
        device="Kria KV260, 16 nm, LUT6",
        model="BitNet 0.73B",
        streams=1,
        tokens_per_s=25,
        work=0.19e6,
        note="head on the processor beside it, measured",
    ),
    Published(
        name="Ternip",
        device="Alveo U250, 16 nm, LUT6",
        model="MatMul-free 370M",
        streams=48,
        tokens_per_s=3712,
        work=None,
        note="without embedding and head, measured; one stream about 77",
    ),
)
"""As their authors published them."""


def work(report: Report, streams: Streams) -> float | None:
    """Products per second and LUT of a build at its bitstream's clock."""
    if report.trits_per_token is None:
        return None
    per_second = report.trits_per_token * streams.tokens_per_s_as_built
    return per_second / report.resources["lut4"].used


def of_report(report: Report) -> list[Published]:
    """A build in the same form, for one stream and for all."""
    luts = of(report.device).called.get("lut4", CALLED["lut4"])
    clock = "clock asked for, nothing routed" if report.clock_mhz is None else "routed clock"
    return [
        Published(
            name=f"Tritstream, {report.board}",
            device=f"{report.device}, {luts}",
            model=str(report.model),
            streams=streams.contexts,
            tokens_per_s=streams.tokens_per_s_as_built,
            work=work(report, streams),
            note=f"whole token; {clock}, {streams.kind} cycles, not measured on a board",
        )
        for streams in report.streams
    ]
