"""What machines may take of their parts: ``python -m hw.build.budget [BOARD ...]`` fails where one
takes more.

``budget.json`` holds what the machine of each board took when the file was written. A machine that
takes 3 % more is too large; one that takes 3 % less has earned a lower budget, which ``--update``
writes. Unless boards are named, those of `USUAL` are synthesised.
"""

from weights import early as early  # isort: split

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from hw.build import BuildError
from hw.build.steps import synthesise, synthesised_board
from weights.commandline import OneLineParser, program
from weights.files import user_path, write_file

BUDGET = Path(__file__).with_name("budget.json")
TOLERANCE = 0.03
USUAL = ("sim_tiny", "ulx3s_45f", "icesugar", "tang_primer_20k")
"""One of each kind: the least, of trees; cascades and contexts; a compact one; another family."""


def compare(budget: dict[str, int], taken: dict[str, int]) -> tuple[list[str], list[str]]:
    """Resources of which too much is taken, and those whose budget can be lowered, a line each."""
    over, under = [], []
    for resource, allowed in budget.items():
        used = taken[resource]
        line = f"{resource} {used:,} of {allowed:,} ({used / allowed - 1:+.1%})"
        if used > (1 + TOLERANCE) * allowed:
            over.append(line)
        elif used < (1 - TOLERANCE) * allowed:
            under.append(line)
    return over, under


def _text(budgets: dict[str, dict[str, int]]) -> str:
    """JSON with a line for each board."""
    lines = (f"  {json.dumps(name)}: {json.dumps(budgets[name])}" for name in sorted(budgets))
    return "{\n" + ",\n".join(lines) + "\n}\n"


@program
def main(arguments: Sequence[str] | None = None) -> int:
    parser = OneLineParser(
        prog="python -m hw.build.budget", description="Compare machines with their budgets."
    )
    parser.add_argument("boards", nargs="*", metavar="BOARD", help=f"default: {', '.join(USUAL)}")
    parser.add_argument("--all", action="store_true", help="all that have one")
    parser.add_argument("--update", action="store_true", help="write what they take now")
    parser.add_argument("--output", type=user_path, default=Path("build"), help="default: build")
    options = parser.parse_args(arguments)
    budgets = json.loads(BUDGET.read_text())
    say = functools.partial(print, flush=True)
    failed = False
    for name in [*budgets] if options.all else options.boards or USUAL:
        target = synthesised_board(name)
        if name not in budgets and not options.update:
            raise BuildError(f"{name} has no budget in {BUDGET.name}; --update writes one")
        taken = synthesise(target, output=options.output, say=say)
        print(f"{name}: {', '.join(f'{resource} {used:,}' for resource, used in taken.items())}")
        over, under = compare(budgets.get(name, {}), taken)
        for line in over:
            print(f"{name} takes more than its budget: {line}")
        for line in under:
            print(f"{name} takes less than its budget, which should be lowered: {line}")
        failed |= bool(over)
        budgets[name] = taken
    if options.update:
        write_file(BUDGET, _text(budgets).encode())
        return 0
    if failed:
        print("make it smaller, or accept it: python -m hw.build.budget --update", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
