"""What is well and what is not with a device: ``python -m host.doctor --device URL``.

A line or more for each check, with its verdict, to read or to paste into a report of a fault. The
exit status is 0, 1 if a check failed, 2 for wrong usage.
"""

from weights import early as early  # isort: split

import sys
from collections.abc import Sequence
from functools import partial

from host.arguments import DEFAULT_DEVICE
from host.checkup import Verdict, checkup
from host.urls import open_device
from weights.commandline import FAILED, OneLineParser, program


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Run with these arguments; the exit status."""
    parser = OneLineParser(prog="python -m host.doctor", description="Checks a device.")
    parser.add_argument(
        "--device", default=DEFAULT_DEVICE, metavar="URL", help="as of host/infer.py"
    )
    parser.add_argument(
        "--keep-model",
        action="store_true",
        help="only checks that leave the device with the model that it has",
    )
    options = parser.parse_args(arguments)
    failed = 0
    for finding in checkup(partial(open_device, options.device), keep_model=options.keep_model):
        print(finding, flush=True)
        failed += finding.verdict == Verdict.FAILED
    print(f"{options.device}: {f'checks that failed: {failed}' if failed else 'no fault found'}")
    return FAILED if failed else 0


if __name__ == "__main__":
    sys.exit(main())
