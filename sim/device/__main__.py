"""Compile a board's simulated device and time it idle: ``python -m sim.device BOARD``."""

from weights import early as early  # isort: split

import math
import sys
import time
from collections.abc import Sequence

from sim.device import STEP_CYCLES, SimulatedPort
from weights.commandline import OneLineParser, program


@program
def main(arguments: Sequence[str] | None = None) -> int:
    parser = OneLineParser(
        prog="python -m sim.device", description="Compile a simulated board and time it idle."
    )
    parser.add_argument("board")
    parser.add_argument("--seconds", type=float, default=5.0, help="time to run (default 5)")
    options = parser.parse_args(arguments)
    if not (options.seconds >= 0 and math.isfinite(options.seconds)):
        parser.error(f"--seconds must be a number of at least 0, not {options.seconds:g}")
    start = time.monotonic()
    with SimulatedPort(options.board) as port:
        print(f"ready after {time.monotonic() - start:.1f} s", flush=True)
        start = time.monotonic()
        while (elapsed := time.monotonic() - start) < options.seconds:
            port.run(STEP_CYCLES)
        speed = port.cycles / elapsed if elapsed else 0
        print(f"idle: {speed:,.0f} cycles/s over {port.cycles:,} cycles")
    return 0


if __name__ == "__main__":
    sys.exit(main())
