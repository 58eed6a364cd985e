"""How far estimates are from what was routed: ``python -m hw.build.compare [REPORT.json...]``

Of the reports that are kept in ``docs/boards`` unless some are named. An estimate is that of now.
LUT4 and block RAM must be within 5 %, and cycles predicted to the last one, or within 0.1 % where
weights come late, out of an SDRAM. A routed clock must be as fast as required, and within 15 % of
the one to expect: what is slowest is in the control that all machines share, so that neither lanes
nor memories tell more. Where there is no router, figures are those of the netlist, in cells that
are not packed.
"""

from weights import early as early  # isort: split

import sys
from collections.abc import Iterator, Sequence

from hw.boards import known
from hw.build import BuildError
from hw.build.estimate import estimate, expected_mhz
from hw.build.reports import is_present, kept_reports, read_report
from hw.build.schema import Report
from hw.families import of
from weights.commandline import OneLineParser, program
from weights.files import user_path

TOLERANCE, LATE, CLOCK = 0.05, 0.001, 0.15
RESOURCES = {"lut4": "LUT4", "bram": "block RAM"}
"""What must be within the tolerance."""


def compare(report: Report) -> Iterator[tuple[str, str, bool]]:
    """What is compared of a report, the figures, and whether they are near enough.

    Raises BuildError for a report of another machine than the board has.
    """
    board = known(report.board)
    if board is None or not is_present(report):
        raise BuildError(
            f"{report.board}: the report is of an older machine; build the board again"
        )
    guess, names = estimate(board), {**RESOURCES, **of(report.device).called}
    made = "synthesised" if report.clock_mhz is None else "routed"
    for resource in RESOURCES:
        used = report.resources[resource].used
        error = guess[resource] / used - 1
        figures = f"{guess[resource]:,} estimated, {used:,} {made}, {error:+.1%}"
        yield names[resource], figures, abs(error) <= TOLERANCE
    late = board.machine.weights.row_cycles > 0
    for streams in report.streams:
        predicted, counted = streams.cycles_predicted, streams.cycles_simulated
        if counted is not None:
            figures = f"{predicted:,} predicted, {counted:,} simulated"
            yield "cycles", figures, abs(predicted / counted - 1) <= (LATE if late else 0)
    required, clock = report.clock_required_mhz, report.clock_mhz
    expected = expected_mhz(board)
    if clock is not None and expected is not None:
        error = expected / clock - 1
        figures = f"{expected:g} MHz expected, {clock:.1f} MHz routed, {error:+.1%}"
        yield "clock", figures, abs(error) <= CLOCK
        yield "timing", f"{required:g} MHz required, {clock:.1f} MHz routed", bool(report.passed)


@program
def main(arguments: Sequence[str] | None = None) -> int:
    parser = OneLineParser(
        prog="python -m hw.build.compare", description="Compare estimates with routed boards."
    )
    parser.add_argument(
        "reports", nargs="*", type=user_path, metavar="REPORT", help="default: those that are kept"
    )
    options = parser.parse_args(arguments)
    failed = False
    reports = [read_report(path) for path in options.reports] or kept_reports().values()
    for report in reports:
        if not options.reports and not is_present(report):
            print(f"{report.board:16} left out: an older machine")
            continue
        for called, figures, near in compare(report):
            failed |= not near
            print(f"{report.board:16} {called:10} {figures}{'' if near else ': too far'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
